"""A torch module's activations by forward hooks, and its input gradients."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from parity.bounds.rounding import Array
from parity.errors import UsageError
from parity.verification.adapters import Implementation, called, one_array
from parity.verification.adapters.torch import moved, put, refuse_dropout, to_numpy
from parity.verification.place import Inputs, Outputs, Place


def is_module(model: Any) -> bool:
    """Whether it is torch's."""
    return isinstance(model, nn.Module)


def state_of(name: str, model: Any) -> dict[str, Array]:
    """Parameters and buffers as float64 (integers as they are)."""
    if not is_module(model):
        raise UsageError(f"{name}: expected a torch module, got {type(model).__name__}")
    found = {key: tensor.detach().cpu() for key, tensor in model.state_dict().items()}
    return {key: (t.double() if t.is_floating_point() else t).numpy().copy() for key, t in found.items()}


def implementation(
    name: str, model: nn.Module, inputs: tuple[str, ...], layers: Mapping[str, str], convert: Any
) -> Implementation:
    """Quantities carry the reference's names: those of `layers` (to the model's own), `output`, d<input>."""
    refuse_dropout(name, model)
    unknown = set(layers.values()) - {key for key, _ in model.named_modules()}
    if unknown:
        raise UsageError(
            f"layers: {name} has no {sorted(unknown)}; it has {[k for k, _ in model.named_modules() if k]}"
        )
    own = name != "reference" and convert is None

    def state(arrays: Inputs, place: Place) -> dict[str, Tensor]:
        given = {key: array for key, array in arrays.items() if key not in inputs}
        if own:
            return {}
        found = given if convert is None else called(f"{name}: convert", convert, given)
        _check_state(name, found, model)
        return {key: put(np.array(array), place) for key, array in found.items()}

    def run(arrays: Inputs, place: Place) -> tuple[Outputs, list[Tensor], Tensor]:
        copy = moved(model, place)
        seen: dict[str, Array] = {}
        handles = []
        for ours, theirs in layers.items():
            keep = _keeper(name, ours, seen)
            handles.append(copy.get_submodule(theirs).register_forward_hook(keep))
        tensors = [put(arrays[key], place) for key in inputs]
        leaves = [t.requires_grad_() for t in tensors if t.is_floating_point()]
        call = lambda *given: torch.func.functional_call(copy, state(arrays, place), given)  # noqa: E731
        y: Tensor = one_array(name, called(name, call, *tensors), Tensor)
        return {**seen, "output": to_numpy(y)}, leaves, y

    def shape(arrays: Inputs, place: Place) -> tuple[int, ...]:
        return run(arrays, place)[0]["output"].shape

    def pull(arrays: Inputs, dy: Array, place: Place) -> Outputs:
        outputs, leaves, y = run(arrays, place)
        floating = [key for key in inputs if arrays[key].dtype.kind == "f"]
        found = (
            torch.autograd.grad(y, leaves, put(dy, place).to(y.dtype), allow_unused=True) if leaves else ()
        )
        for key, leaf, gradient in zip(floating, leaves, found, strict=True):
            outputs[f"d{key}"] = to_numpy(torch.zeros_like(leaf) if gradient is None else gradient)
        return outputs

    return Implementation(name, shape, pull)


def _keeper(name: str, layer: str, seen: dict[str, Array]) -> Any:
    def keep(module: nn.Module, inputs: Any, output: Any) -> None:
        if layer in seen:
            raise UsageError(
                f"{name}: {layer} is called more than once in a pass; compare its parts, or its user"
            )
        seen[layer] = to_numpy(one_array(f"{name} {layer}", output, Tensor))

    return keep


def _check_state(name: str, found: Mapping[str, Any], model: nn.Module) -> None:
    wanted = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
    got = {key: np.shape(array) for key, array in found.items()}
    for key in sorted({*wanted, *got}):
        if wanted.get(key) != got.get(key):
            raise UsageError(f"{name}: convert gave {key} as {got.get(key)}, expected {wanted.get(key)}")
