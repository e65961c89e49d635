"""torch functions and modules, their gradients by autograd, activations by forward hooks."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from parity.bounds.rounding import Array
from parity.errors import UsageError
from parity.verification.adapters import (
    Implementation,
    Signature,
    Torch,
    called,
    check_names,
    one_array,
    picked,
)
from parity.verification.place import Inputs, Outputs, Place

Tensors = dict[str, Tensor]
Run = Callable[[Tensors, Place], Tensor]
SMALL = 10_000
"""Numbers that go in: below this one thread is faster."""
WHY = "autograd follows (.detach(), .data, .item() and torch.no_grad() cut it)"


@contextmanager
def precision(place: Place) -> Iterator[None]:
    """On a GPU, TF32 only where it is judged and bfloat16 products summed in float32 throughout; or all as
    torch ships it. Convolutions by algorithms that repeat: others give another gradient in each call.
    """
    if place.device == "gpu" and not torch.cuda.is_available():
        raise UsageError("device='gpu': torch has no CUDA device here; install torch for it, or leave it out")
    # Where the older switches, allow_tf32, and the newer, fp32_precision, disagree, reading the older raises,
    # so both are set. On a CPU the newer, too, may cut float32, to bfloat16.
    backends: Any = torch.backends
    products, cudnn, cpu = backends.cuda.matmul, backends.cudnn, backends.mkldnn
    on_cpu = cpu.matmul, cpu.conv, cpu.rnn
    newer = [(switch, switch.fp32_precision) for switch in (products, cudnn.conv, cudnn.rnn, *on_cpu)]
    try:
        older = products.allow_tf32, cudnn.allow_tf32
    except RuntimeError:
        older = None
    others = products.allow_bf16_reduced_precision_reduction, cudnn.deterministic
    try:
        cudnn.deterministic = True
        if not place.shipped:
            products.allow_tf32 = cudnn.allow_tf32 = place.tf32
            for switch, _ in newer:
                switch.fp32_precision = "tf32" if place.tf32 and switch not in on_cpu else "ieee"
            products.allow_bf16_reduced_precision_reduction = False
        yield
    finally:
        if older is not None:
            products.allow_tf32, cudnn.allow_tf32 = older
        for switch, value in newer:
            switch.fp32_precision = value
        products.allow_bf16_reduced_precision_reduction, cudnn.deterministic = others


def implementation(name: str, given: Torch, signature: Signature) -> Implementation:
    """A module is copied for each call, so that no call changes it."""
    run = _of_layer(name, given, signature)

    def tensors_of(inputs: Inputs, place: Place) -> Tensors:
        return {key: put(inputs[key], place) for key in signature.order}

    def shape(inputs: Inputs, place: Place) -> tuple[int, ...]:
        with recording(size(inputs)), precision(place):
            return tuple(run(tensors_of(inputs, place), place).shape)

    def pull(inputs: Inputs, dy: Array, place: Place) -> Outputs:
        with recording(size(inputs)), precision(place):
            tensors = tensors_of(inputs, place)
            leaves = {key: tensors[key].requires_grad_() for key in signature.differentiated}
            y = run(tensors, place)
            outputs = {"y": to_numpy(y)}
            if y.shape != dy.shape:
                return outputs
            if leaves and not y.requires_grad:
                raise UsageError(
                    f"{name}: no gradient: the output does not depend on the inputs by operations that {WHY}"
                )
            found: tuple[Tensor | None, ...] = ()
            if leaves:
                upstream = put(dy, place).to(y.dtype)
                found = torch.autograd.grad(y, [*leaves.values()], upstream, allow_unused=True)
        for key, gradient in zip(leaves, found, strict=True):
            if gradient is None:
                raise UsageError(
                    f"{name}: no gradient d{key}: {key} does not reach the output by operations that {WHY}"
                )
            outputs[f"d{key}"] = to_numpy(gradient)
        return outputs

    return Implementation(name, given.framework, shape, pull)


def _of_layer(name: str, given: Torch, signature: Signature) -> Run:
    function = given.function
    if isinstance(function, nn.Module):
        refuse_dropout(name, function)
        check_names(name, {key for key, _ in function.named_parameters()}, given.names, signature)

    def run(tensors: Tensors, place: Place) -> Tensor:
        if not isinstance(function, nn.Module):
            found = called(name, function, *(tensors[key] for key in signature.order))
        else:
            parameters = {given.names.get(key, key): tensors[key] for key in signature.parameters}
            found = _applied(name, moved(function, place), parameters, signature, tensors)
        return one_array(name, picked(name, found, given.output), Tensor)

    return run


def _applied(name: str, module: nn.Module, state: Tensors, signature: Signature, tensors: Tensors) -> Any:
    """The module's output with this state."""

    def call(*inputs: Tensor) -> Any:
        return torch.func.functional_call(module, state, inputs)

    return called(name, call, *(tensors[key] for key in signature.inputs))


def refuse_dropout(name: str, module: nn.Module) -> None:
    for key, part in module.named_modules():
        if isinstance(part, nn.modules.dropout._DropoutNd) and part.training and part.p:
            raise UsageError(
                f"{name}: {key or 'the module'} is {part} in training mode, whose output is random; "
                "call .eval() first, or set p to 0"
            )


def moved(module: nn.Module, place: Place, state: Tensors | None = None) -> nn.Module:
    """A copy in the judged dtype, on the device; the parameters of `state` come later and are not copied.
    What a module computed from its parameters and keeps (the old `nn.utils.weight_norm`) has a history and
    cannot be copied; the next call computes it anew.
    """
    kept = (value for part in module.modules() for value in vars(part).values())
    memo: dict[int, Any] = {
        id(t): t.detach().clone() for t in kept if isinstance(t, Tensor) and t.grad_fn is not None
    }
    for key, parameter in module.named_parameters():
        if state and key in state:
            memo[id(parameter)] = nn.Parameter(torch.empty(0))
    return copy.deepcopy(module, memo).to(device=_device(place), dtype=getattr(torch, place.number))


@contextmanager
def recording(numbers: int) -> Iterator[None]:
    """Gradients are recorded, whatever holds around the call. So few numbers need one thread only, and wait
    long for a second on a busy machine.
    """
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1 if numbers < SMALL else threads)
        with torch.inference_mode(False), torch.enable_grad():
            yield
    finally:
        torch.set_num_threads(threads)


def size(arrays: Inputs) -> int:
    """How many numbers these are."""
    return sum(np.size(array) for array in arrays.values())


def put(array: Array, place: Place) -> Tensor:
    """The tensor of an array, with its memory where that is possible."""
    tensor = torch.from_numpy(np.asarray(array)).to(_device(place))
    return tensor.to(getattr(torch, place.number)) if tensor.is_floating_point() else tensor


def to_numpy(tensor: Tensor, copy: bool = True) -> Array:
    """bfloat16 as float32; a copy, where the tensor may be written to later."""
    tensor = tensor.detach().to_dense() if tensor.is_sparse else tensor.detach()
    found: Array = (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).cpu().numpy()
    return found.copy() if copy else found


def _device(place: Place) -> str:
    return "cuda" if place.device == "gpu" else "cpu"
