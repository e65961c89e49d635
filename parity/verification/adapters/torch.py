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
from parity.verification.adapters import (
    Implementation,
    Model,
    Signature,
    Torch,
    called,
    one_array,
    picked,
    with_aliases,
)
from parity.verification.place import Inputs, Outputs, Place

Tensors = dict[str, Tensor]
Run = Callable[[Inputs, Tensors, Tensors, Place], tuple[Outputs, Tensor]]
"""Arrays, inputs and state as tensors, and where: activations on the way, and the output."""
SMALL = 10_000
"""Numbers that go in: below this one thread is faster."""
WHY = "autograd follows (.detach(), .data, .item() and torch.no_grad() cut it)"


@contextmanager
def precision(place: Place) -> Iterator[None]:
    """On a GPU, TF32 only where it is judged and bfloat16 products summed in float32 throughout; or all as
    torch ships it.
    """
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
    reduced = products.allow_bf16_reduced_precision_reduction
    try:
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
        products.allow_bf16_reduced_precision_reduction = reduced


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

    def state_for(inputs: Inputs, place: Place) -> Tensors:
        return _state(name, given, signature, inputs, place) if isinstance(given, Model) else {}

    def shape(inputs: Inputs, place: Place) -> tuple[int, ...]:
        with _recording(inputs), precision(place):
            state = state_for(inputs, place)
            return tuple(run(inputs, tensors_of(inputs, place), state, place)[1].shape)

    def pull(inputs: Inputs, dy: Array, place: Place) -> Outputs:
        with _recording(inputs), precision(place):
            tensors = tensors_of(inputs, place)
            leaves = {key: tensors[key].requires_grad_() for key in signature.differentiated}
            state = state_for(inputs, place)
            weights = _weights(given, state) if isinstance(given, Model) and given.back else []
            seen, y = run(inputs, tensors, state, place)
            outputs = {**seen, main: _to_numpy(y)}
            if y.shape != dy.shape:
                return outputs
            wanted = [*leaves.values(), *weights]
            if leaves and not weights and not y.requires_grad:
                raise UsageError(
                    f"{name}: no gradient: the output does not depend on the inputs by operations that {WHY}"
                )
            upstream = _put(dy, place).to(y.dtype)
            some = wanted and y.requires_grad
            found: tuple[Tensor | None, ...] = (None,) * len(wanted)
            if some:
                found = torch.autograd.grad(y, wanted, upstream, allow_unused=True)
        for (key, leaf), gradient in zip(leaves.items(), found, strict=False):
            if gradient is None and not isinstance(given, Model):
                raise UsageError(
                    f"{name}: no gradient d{key}: {key} does not reach the output by operations that {WHY}"
                )
            outputs[f"d{key}"] = _gradient(leaf, gradient)
        if isinstance(given, Model) and given.back:
            gradients = zip(weights, found[len(leaves) :], strict=True)
            outputs |= given.back((_gradient(w, g) for w, g in gradients), place)
        return outputs

    return Implementation(name, given.framework, shape, pull, main)


def state_of(module: nn.Module) -> dict[str, Array]:
    """Parameters and buffers as float64 (integers as they are), tied ones under their first name."""
    again = tied(module)
    found = {
        key: tensor.detach().cpu()
        for key, tensor in module.state_dict().items()
        if isinstance(tensor, Tensor) and key not in again
    }
    return {key: (t.double() if t.is_floating_point() else t).numpy().copy() for key, t in found.items()}


def parameters_of(module: nn.Module) -> tuple[str, ...]:
    """Their first names; floating ones."""
    return tuple(key for key, p in module.named_parameters() if p.is_floating_point())


def rows_kept(module: nn.Module) -> dict[str, int]:
    """The rows of embeddings that stay 0."""
    return {
        f"{key}.weight".lstrip("."): int(part.padding_idx)
        for key, part in module.named_modules()
        if isinstance(part, nn.Embedding) and part.padding_idx is not None
    }


def _of_layer(name: str, given: Torch, signature: Signature) -> Run:
    function = given.function
    if isinstance(function, nn.Module):
        _check_layer(name, function, given.names, signature)

    def run(inputs: Inputs, tensors: Tensors, _: Tensors, place: Place) -> tuple[Outputs, Tensor]:
        if not isinstance(function, nn.Module):
            found = called(name, function, *(tensors[key] for key in signature.order))
        else:
            parameters = {given.names.get(key, key): tensors[key] for key in signature.parameters}
            found = _applied(name, _moved(function, place), parameters, signature, tensors)
        return {}, one_array(name, picked(name, found, given.output), Tensor)

    return run


def _of_model(name: str, given: Model, signature: Signature) -> Run:
    model: Any = given.function
    _refuse_dropout(name, model)
    parts = {key for key, _ in model.named_modules(remove_duplicate=False)}
    if unknown := set(_own_layers(given).values()) - parts:
        raise UsageError(f"layers: {name} has no {sorted(unknown)}; it has {sorted(parts - {''})}")

    def run(inputs: Inputs, tensors: Tensors, state: Tensors, place: Place) -> tuple[Outputs, Tensor]:
        module, calls = _moved(model, place, state), dict[str, list[Array]]()
        for own in set(_own_layers(given).values()):
            module.get_submodule(own).register_forward_hook(_keeper(name, own, calls))
        found = _applied(name, module, state, signature, tensors, given.keywords)
        output = one_array(name, picked(name, found, given.output), Tensor)
        return _seen(name, given, calls), output

    return run


def _own_layers(given: Model) -> dict[str, str]:
    """The model's submodules, without the number of the call."""
    return {key: own.split("[")[0] for key, own in given.layers.items()}


def _seen(name: str, given: Model, calls: Mapping[str, list[Array]]) -> Outputs:
    """The activations that are compared: `layer[1]` is what the layer gave when it was called again."""
    seen: Outputs = {}
    for key, own in given.layers.items():
        part, _, number = own.partition("[")
        if part not in calls:
            raise UsageError(
                f"{name}: {part} is never called as a module (its parent uses its weights, or takes another "
                "path); compare its parent instead"
            )
        if not number and len(calls[part]) > 1:
            raise UsageError(
                f"{name}: {part} is called more than once in a pass ({len(calls[part])} times); say which "
                f"call is meant, such as {part}[0] or {part}[1]"
            )
        index = int(number.rstrip("]") or 0) if number else 0
        if index >= len(calls[part]):
            raise UsageError(f"{name}: {own}: {part} is called {len(calls[part])} times only")
        seen[key] = calls[part][index]
    return seen


def _state(name: str, given: Model, signature: Signature, inputs: Inputs, place: Place) -> Tensors:
    """What the parameters that come in are to the model, by its own names; of tied ones the first."""
    if given.convert is None:
        return {}
    model: Any = given.function
    parameters = with_aliases({key: inputs[key] for key in signature.parameters}, given.aliases)
    found = called(f"{name}: convert", given.convert, parameters)
    if not isinstance(found, Mapping):
        raise UsageError(f"{name}: convert gave a {type(found).__name__}, expected a state dictionary")
    _check_state(name, found, model)
    again = tied(model)
    for other, first in again.items():
        if other in found and not np.array_equal(found[other], found[first], equal_nan=True):
            raise UsageError(f"{name}: convert gave different values for {first} and {other}, which are tied")
    return {key: _put(np.asarray(found[key]), place) for key in found if key not in again}


def tied(module: nn.Module) -> dict[str, str]:
    """Further names of parameters and buffers that are the same tensor, to their first name."""
    first: dict[int, str] = {}
    again: dict[str, str] = {}
    for named in (module.named_parameters, module.named_buffers):
        for key, tensor in named(remove_duplicate=False):
            if first.setdefault(id(tensor), key) != key:
                again[key] = first[id(tensor)]
    return again


def arrays_of(model: Any, found: Mapping[str, Any]) -> list[Array]:
    """The parameters in a state dictionary, as gradients come."""
    own = set(parameters_of(model))
    return [np.asarray(array) for key, array in found.items() if key in own]


def _weights(given: Model, state: Tensors) -> list[Tensor]:
    own = set(parameters_of(given.function))  # type: ignore[arg-type]
    return [tensor.requires_grad_() for key, tensor in state.items() if key in own]


def _applied(
    name: str,
    module: nn.Module,
    state: Tensors,
    signature: Signature,
    tensors: Tensors,
    keywords: tuple[str, ...] = (),
) -> Any:
    """The module's output with this state."""
    order = [key for key in signature.inputs if key not in keywords]

    def call(*inputs: Tensor) -> Any:
        named = dict(zip(keywords, inputs[len(order) :], strict=True))
        return torch.func.functional_call(module, state, inputs[: len(order)], named)

    return called(name, call, *(tensors[key] for key in (*order, *keywords)))


def _keeper(name: str, layer: str, calls: dict[str, list[Array]]) -> Any:
    def keep(module: nn.Module, inputs: Any, output: Any) -> None:
        output = output[0] if isinstance(output, tuple) and isinstance(output[0], Tensor) else output
        found = _to_numpy(one_array(f"{name} {layer}", output, Tensor))  # now: it may be overwritten
        calls.setdefault(layer, []).append(found)

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
    wanted = {key: tuple(t.shape) for key, t in model.state_dict().items() if isinstance(t, Tensor)}
    got = {key: np.shape(array) for key, array in found.items()}
    counters = {key for key in wanted if key.endswith("num_batches_tracked")}
    tie = tied(model)
    for key in sorted({*wanted, *got}):
        if key in counters | set(tie) and key not in got:
            continue
        if wanted.get(key) != got.get(key):
            raise UsageError(f"{name}: convert gave {key} as {got.get(key)}, expected {wanted.get(key)}")


def _refuse_dropout(name: str, module: nn.Module) -> None:
    for key, part in module.named_modules():
        if isinstance(part, nn.modules.dropout._DropoutNd) and part.training and part.p:
            raise UsageError(
                f"{name}: {key or 'the module'} is {part} in training mode, whose output is random; "
                "call .eval() first, or set p to 0"
            )


def tables_of(module: nn.Module) -> dict[tuple[str, str], Tensor]:
    """float32 tensors that a module keeps outside its state: by submodule and name."""
    found = {}
    for part_name, part in module.named_modules():
        kept = {**vars(part), **{key: part._buffers[key] for key in part._non_persistent_buffers_set}}
        for key, value in kept.items():
            if isinstance(value, Tensor) and value.dtype == torch.float32 and value.grad_fn is None:
                sizes = value[torch.isfinite(value)] * 256
                if not torch.equal(sizes, sizes.round()):  # a mask is exact
                    found[part_name, key] = value
    return found


def with_tables_moved(module: nn.Module, by: float) -> nn.Module:
    """A copy whose tables are off by a relative `by`, up or down."""
    moved = copy.deepcopy(module)
    for (part_name, key), table in tables_of(module).items():
        signs = np.random.default_rng(0).choice([-1.0, 1.0], size=tuple(table.shape))
        setattr(
            moved.get_submodule(part_name),
            key,
            table.double() * (1 + by * torch.from_numpy(np.asarray(signs))),
        )
    return moved


def _moved(module: nn.Module, place: Place, state: Tensors | None = None) -> nn.Module:
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


def _gradient(leaf: Tensor, gradient: Tensor | None) -> Array:
    """Zero where the output does not depend on it."""
    return _to_numpy(torch.zeros_like(leaf) if gradient is None else gradient)


def _to_numpy(tensor: Tensor) -> Array:
    """A copy, bfloat16 as float32."""
    tensor = tensor.detach().to_dense() if tensor.is_sparse else tensor.detach()
    found: Array = (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).cpu().numpy().copy()
    return found


def _device(place: Place) -> str:
    return "cuda" if place.device == "gpu" else "cpu"
