"""A torch function or module, its gradients by autograd."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from parity.bounds.rounding import Array
from parity.errors import UsageError
from parity.verification.adapters import Implementation, Signature, Torch, called, one_array
from parity.verification.place import Inputs, Outputs, Place


def implementation(name: str, given: Torch, signature: Signature) -> Implementation:
    """Of `given`; a module is copied for each call, so that nothing stays behind in it."""
    function, names = given.function, given.names
    if isinstance(function, nn.Module):
        _check_module(name, function, names, signature)

    def run(tensors: Mapping[str, Tensor], place: Place) -> Tensor:
        call: Callable[..., Any] = function
        arguments = [tensors[key] for key in signature.order]
        if isinstance(function, nn.Module):
            module = moved(function, place)
            parameters = {names.get(key, key): tensors[key] for key in signature.parameters}
            arguments = [tensors[key] for key in signature.inputs]

            def call(*inputs: Tensor) -> Any:
                return torch.func.functional_call(module, parameters, inputs)

        y: Tensor = one_array(name, called(name, call, *arguments), Tensor)
        return y

    def shape(inputs: Inputs, place: Place) -> tuple[int, ...]:
        with torch.no_grad():
            return tuple(run({key: put(array, place) for key, array in inputs.items()}, place).shape)

    def pull(inputs: Inputs, dy: Array, place: Place) -> Outputs:
        tensors = {key: put(array, place) for key, array in inputs.items()}
        leaves = [tensors[key].requires_grad_() for key in signature.differentiated]
        y = run(tensors, place)
        if not y.requires_grad:
            raise UsageError(
                f"{name}: no gradient: the output does not depend on the inputs by operations that {WHY}"
            )
        found = torch.autograd.grad(y, leaves, put(dy, place).to(y.dtype), allow_unused=True)
        outputs = {"y": to_numpy(y)}
        for key, gradient in zip(signature.differentiated, found, strict=True):
            if gradient is None:
                raise UsageError(
                    f"{name}: no gradient d{key}: {key} does not reach the output by operations that {WHY}"
                )
            outputs[f"d{key}"] = to_numpy(gradient)
        return outputs

    return Implementation(name, shape, pull)


WHY = "autograd follows (.detach(), .data, .item() and torch.no_grad() cut it)"


def _check_module(name: str, module: nn.Module, names: Mapping[str, str], signature: Signature) -> None:
    refuse_dropout(name, module)
    given = {names.get(key, key) for key in signature.parameters}
    own = {key for key, _ in module.named_parameters()}
    if given != own:
        raise UsageError(
            f"{name}: expected parameters {sorted(own)} of the module, got {sorted(given)}; give each one's "
            'shape in parameters={...}, and other names by Torch(module, {"ours": "its"})'
        )


def refuse_dropout(name: str, module: nn.Module) -> None:
    """Raise UsageError for a module that drops out at random."""
    for key, part in module.named_modules():
        if isinstance(part, nn.modules.dropout._DropoutNd) and part.training and part.p:
            raise UsageError(
                f"{name}: {key or 'the module'} is {part} in training mode, whose output is random; "
                "call .eval() first, or set p to 0"
            )


def moved(module: nn.Module, place: Place) -> nn.Module:
    """A copy in the judged dtype, on the device."""
    return copy.deepcopy(module).to(device=_device(place), dtype=getattr(torch, place.number))


def put(array: Array, place: Place) -> Tensor:
    """The tensor of an array, with its memory where that is possible."""
    tensor = torch.from_numpy(array).to(_device(place))
    return tensor.to(getattr(torch, place.number)) if tensor.is_floating_point() else tensor


def to_numpy(tensor: Tensor) -> Array:
    """A copy, bfloat16 as float32."""
    tensor = tensor.detach()
    found: Array = (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).cpu().numpy().copy()
    return found


def _device(place: Place) -> str:
    return "cuda" if place.device == "gpu" else "cpu"
