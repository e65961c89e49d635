"""torch functions and modules, their gradients by autograd, activations by forward hooks."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from parity.bounds.rounding import Array
from parity.errors import UsageError
from parity.verification.adapters import Implementation, Model, Signature, Torch, called, one_array
from parity.verification.place import Inputs, Outputs, Place

Tensors = dict[str, Tensor]
Run = Callable[[Inputs, Tensors, Place], tuple[Outputs, Tensor]]
"""Arrays, the same as tensors, and where: activations on the way, and the output."""
SMALL = 10_000
"""Numbers that go in: below this one thread is faster."""
WHY = "autograd follows (.detach(), .data, .item() and torch.no_grad() cut it)"


@contextmanager
def precision(place: Place) -> Iterator[None]:
    """On a GPU, TF32 only where it is judged and bfloat16 products summed in float32 throughout; or all as
    torch ships it.
    """
    products, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn
    before = products.allow_tf32, convolutions.allow_tf32, products.allow_bf16_reduced_precision_reduction
    try:
        if not place.shipped:
            products.allow_tf32 = convolutions.allow_tf32 = place.tf32
            products.allow_bf16_reduced_precision_reduction = False
        yield
    finally:
        products.allow_tf32, convolutions.allow_tf32, products.allow_bf16_reduced_precision_reduction = before


def implementation(name: str, given: Torch | Model, signature: Signature) -> Implementation:
    """A layer's output is `y`; a model's activations go by the names of its `layers`, and `output`. A module
    is copied for each call, so that no call changes it.
    """
    if isinstance(given, Model):
        main, run, called_with = "output", _of_model(name, given, signature), signature.inputs
    else:
        main, run, called_with = "y", _of_layer(name, given, signature), signature.order

    def tensors_of(inputs: Inputs, place: Place) -> Tensors:
        return {key: _put(inputs[key], place) for key in called_with}

    def shape(inputs: Inputs, place: Place) -> tuple[int, ...]:
        with _recording(inputs), precision(place):
            return tuple(run(inputs, tensors_of(inputs, place), place)[1].shape)

    def pull(inputs: Inputs, dy: Array, place: Place) -> Outputs:
        with _recording(inputs), precision(place):
            tensors = tensors_of(inputs, place)
            leaves = {key: tensors[key].requires_grad_() for key in signature.differentiated}
            seen, y = run(inputs, tensors, place)
            outputs = {**seen, main: _to_numpy(y)}
            if y.shape != dy.shape:
                return outputs
            if leaves and not y.requires_grad:
                raise UsageError(
                    f"{name}: no gradient: the output does not depend on the inputs by operations that {WHY}"
                )
            upstream = _put(dy, place).to(y.dtype)
            found = torch.autograd.grad(y, [*leaves.values()], upstream, allow_unused=True) if leaves else ()
        for (key, leaf), gradient in zip(leaves.items(), found, strict=True):
            if gradient is None and not isinstance(given, Model):
                raise UsageError(
                    f"{name}: no gradient d{key}: {key} does not reach the output by operations that {WHY}"
                )
            outputs[f"d{key}"] = _to_numpy(torch.zeros_like(leaf) if gradient is None else gradient)
        return outputs

    return Implementation(name, given.framework, shape, pull, main)


def state_of(module: nn.Module) -> dict[str, Array]:
    """Parameters and buffers as float64 (integers as they are)."""
    found = {key: tensor.detach().cpu() for key, tensor in module.state_dict().items()}
    return {key: (t.double() if t.is_floating_point() else t).numpy().copy() for key, t in found.items()}


def _of_layer(name: str, given: Torch, signature: Signature) -> Run:
    function = given.function
    if isinstance(function, nn.Module):
        _check_layer(name, function, given.names, signature)

    def run(inputs: Inputs, tensors: Tensors, place: Place) -> tuple[Outputs, Tensor]:
        if not isinstance(function, nn.Module):
            found = called(name, function, *(tensors[key] for key in signature.order))
        else:
            parameters = {given.names.get(key, key): tensors[key] for key in signature.parameters}
            found = _applied(name, _moved(function, place), parameters, signature, tensors)
        return {}, one_array(name, found, Tensor)

    return run


def _of_model(name: str, given: Model, signature: Signature) -> Run:
    model: Any = given.function
    _refuse_dropout(name, model)
    parts = {key for key, _ in model.named_modules()}
    if unknown := set(given.layers.values()) - parts:
        raise UsageError(f"layers: {name} has no {sorted(unknown)}; it has {sorted(parts - {''})}")

    def state(inputs: Inputs, place: Place) -> Tensors:
        if given.convert is None:
            return {}
        parameters = {key: inputs[key] for key in signature.parameters}
        found = called(f"{name}: convert", given.convert, parameters)
        _check_state(name, found, model)
        return {key: _put(np.array(array), place) for key, array in found.items()}

    def run(inputs: Inputs, tensors: Tensors, place: Place) -> tuple[Outputs, Tensor]:
        module, seen = _moved(model, place), dict[str, Array]()
        for key, own in given.layers.items():
            module.get_submodule(own).register_forward_hook(_keeper(name, key, seen))
        found = _applied(name, module, state(inputs, place), signature, tensors)
        return seen, one_array(name, found, Tensor)

    return run


def _applied(name: str, module: nn.Module, state: Tensors, signature: Signature, tensors: Tensors) -> Any:
    """The module's output with this state."""

    def call(*inputs: Tensor) -> Any:
        return torch.func.functional_call(module, state, inputs)

    return called(name, call, *(tensors[key] for key in signature.inputs))


def _keeper(name: str, layer: str, seen: dict[str, Array]) -> Any:
    def keep(module: nn.Module, inputs: Any, output: Any) -> None:
        if layer in seen:
            raise UsageError(
                f"{name}: {layer} is called more than once in a pass; compare its parts, or its user"
            )
        seen[layer] = _to_numpy(one_array(f"{name} {layer}", output, Tensor))  # now: it may be overwritten

    return keep


def _check_layer(name: str, module: nn.Module, names: Mapping[str, str], signature: Signature) -> None:
    _refuse_dropout(name, module)
    given = {names.get(key, key) for key in signature.parameters}
    own = {key for key, _ in module.named_parameters()}
    if given != own:
        raise UsageError(
            f"{name}: expected parameters {sorted(own)} of the module, got {sorted(given)}; give each one's "
            'shape in parameters={...}, and other names by Torch(module, {"ours": "its"})'
        )


def _check_state(name: str, found: Mapping[str, Any], model: nn.Module) -> None:
    wanted = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
    got = {key: np.shape(array) for key, array in found.items()}
    for key in sorted({*wanted, *got}):
        if wanted.get(key) != got.get(key):
            raise UsageError(f"{name}: convert gave {key} as {got.get(key)}, expected {wanted.get(key)}")


def _refuse_dropout(name: str, module: nn.Module) -> None:
    for key, part in module.named_modules():
        if isinstance(part, nn.modules.dropout._DropoutNd) and part.training and part.p:
            raise UsageError(
                f"{name}: {key or 'the module'} is {part} in training mode, whose output is random; "
                "call .eval() first, or set p to 0"
            )


def _moved(module: nn.Module, place: Place) -> nn.Module:
    """A copy in the judged dtype, on the device. What a module computed from its parameters and keeps (the
    old `nn.utils.weight_norm`) has a history and cannot be copied; the next call computes it anew.
    """
    kept = (value for part in module.modules() for value in vars(part).values())
    memo = {id(t): t.detach().clone() for t in kept if isinstance(t, Tensor) and t.grad_fn is not None}
    return copy.deepcopy(module, memo).to(device=_device(place), dtype=getattr(torch, place.number))


@contextmanager
def _recording(inputs: Inputs) -> Iterator[None]:
    """Gradients are recorded, whatever holds around the call. Small arrays need one thread only, and wait
    long for a second on a busy machine.
    """
    threads = torch.get_num_threads()
    small = sum(np.size(array) for array in inputs.values()) < SMALL
    try:
        torch.set_num_threads(1 if small else threads)
        with torch.inference_mode(False), torch.enable_grad():
            yield
    finally:
        torch.set_num_threads(threads)


def _put(array: Array, place: Place) -> Tensor:
    """The tensor of an array, with its memory where that is possible."""
    tensor = torch.from_numpy(np.asarray(array)).to(_device(place))
    return tensor.to(getattr(torch, place.number)) if tensor.is_floating_point() else tensor


def _to_numpy(tensor: Tensor) -> Array:
    """A copy, bfloat16 as float32."""
    tensor = tensor.detach().to_dense() if tensor.is_sparse else tensor.detach()
    found: Array = (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).cpu().numpy().copy()
    return found


def _device(place: Place) -> str:
    return "cuda" if place.device == "gpu" else "cpu"
