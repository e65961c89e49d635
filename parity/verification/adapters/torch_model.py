"""torch modules as a side of a port: layers by forward hooks, their gradients by tensor hooks."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from parity.bounds.rounding import Array
from parity.errors import UsageError
from parity.verification.adapters import Pick, called, one_array, picked
from parity.verification.adapters.torch import (
    WHY,
    moved,
    precision,
    put,
    recording,
    refuse_dropout,
    size,
    to_numpy,
)
from parity.verification.place import Inputs, Lazy, Place
from parity.verification.side import Arrays, Forced, Recorder, Side, Trace

Tensors = dict[str, Tensor]
BLUR = 2.0**-24


def side(name: str, given: nn.Module, output: Pick, keywords: tuple[str, ...], training: bool | None) -> Side:
    """A module is copied for each pass, so that no pass changes it."""
    model = given if training is None else copy.deepcopy(given).train(training)
    refuse_dropout(name, model)
    again = tied(model)
    parameters = tuple(key for key, p in model.named_parameters() if p.is_floating_point())
    weight = sum(tensor.numel() for tensor in model.parameters())

    def run(
        state: Inputs, inputs: Inputs, dy: Array | None, place: Place, forced: Forced | None = None
    ) -> Trace:
        with recording(size(inputs) + weight), precision(place):
            return _pass(name, model, output, keywords, state, inputs, dy, place, forced)

    def flatten(found: Any) -> Arrays:
        return _checked(name, found, model, again)

    def blurred() -> Side | None:
        return (
            side(name, with_tables_moved(model, BLUR), output, keywords, None) if tables_of(model) else None
        )

    rows = {
        f"{key}.weight".lstrip("."): int(part.padding_idx)
        for key, part in model.named_modules()
        if isinstance(part, nn.Embedding) and part.padding_idx is not None
    }
    told = f"{model} {[part.training for part in model.modules()]}"
    return Side(
        name, "torch", lambda: _state(model, again), parameters, run, flatten,
        aliases=again, rows_kept=rows, blurred=blurred, told=told,
    )  # fmt: skip


def _pass(
    name: str,
    model: nn.Module,
    output: Pick,
    keywords: tuple[str, ...],
    state: Inputs,
    inputs: Inputs,
    dy: Array | None,
    place: Place,
    forced: Forced | None,
) -> Trace:
    parameters = {key for key, p in model.named_parameters() if p.is_floating_point()}
    tensors = {key: put(array, place) for key, array in inputs.items()}
    leaves = {key: t.requires_grad_() for key, t in tensors.items() if t.is_floating_point()}
    held = {key: put(a, place) if key in parameters else put(np.array(a), place) for key, a in state.items()}
    weights = {key: held[key].requires_grad_() for key in held if key in parameters}
    module, hooks = moved(model, place, held), _Hooks(forced, place)
    for path, part in module.named_modules():
        if path:
            part.register_forward_hook(hooks.of(path))
            if forced is not None:
                part.register_forward_pre_hook(hooks.entering(path))
    order = [key for key in inputs if key not in keywords]

    def call(*given: Tensor) -> Any:
        named = dict(zip(keywords, given[len(order) :], strict=True))
        return torch.func.functional_call(module, held, given[: len(order)], named)

    found = called(name, call, *(tensors[key] for key in (*order, *keywords)))
    y = one_array(name, picked(name, found, output), Tensor)
    buffers = {key: to_numpy(t) for key, t in held.items() if key not in parameters and t.is_floating_point()}
    trace = Trace(to_numpy(y), hooks.seen, buffers=buffers)
    trace.entries = {
        f"{path}[{k}]": a for path, arrays in hooks.entries.items() for k, a in enumerate(arrays)
    }
    trace.whole = dy is not None and y.shape == dy.shape
    if dy is not None and trace.whole:
        _gradients(trace, y, put(np.array(dy), place).to(y.dtype), hooks, leaves, weights)
    return trace


class _Hooks:
    """Records and, where a pass is forced, replaces what layers give."""

    def __init__(self, forced: Forced | None, place: Place) -> None:
        self.forced, self.place = forced, place
        self.seen: Arrays = {}
        self.gradients: Arrays = {}
        self.entries: dict[str, list[Array]] = {}
        self.own: Tensors = {}
        self.leaves: Tensors = {}
        self.recorder = Recorder()
        self.given: tuple[Any, ...] = ()

    def of(self, path: str) -> Any:
        def hook(module: nn.Module, inputs: Any, found: Any) -> Any:
            leaves, tree = pytree.tree_flatten(found)
            where = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]
            tensors = [leaves[i] for i in where]
            self.given = inputs
            taken = iter(self.recorder.take(path, tensors, self._each))
            self.given = ()  # the graph holds these hooks: what they held would never be freed
            return pytree.tree_unflatten(
                [next(taken) if one in where else leaf for one, leaf in enumerate(leaves)], tree
            )

        return hook

    def entering(self, path: str) -> Any:
        def hook(module: nn.Module, inputs: Any) -> None:
            first = [one for one in inputs if isinstance(one, Tensor) and one.is_floating_point()][:1]
            self.entries.setdefault(path, []).append(to_numpy(first[0]) if first else np.zeros(0))

        return hook

    def _each(self, name: str, found: Tensor) -> Tensor:
        if not found.is_floating_point():
            return found
        self.seen[name] = to_numpy(found)  # now: it may be overwritten
        if self.forced and name not in self.forced:
            return found
        if self.forced:
            self.own[name] = found
            leaf = put(np.array(self.forced[name][0]), self.place).to(found.dtype).requires_grad_()
            self.leaves[name] = leaf
            return leaf.clone()  # which the next layer may write over
        if any(found is one for one in self.given):  # handed through: the gradient along this path alone
            found = found.view_as(found)
        if found.requires_grad:
            self.gradients[name] = np.zeros(found.shape, self.seen[name].dtype)
            gradients = self.gradients
            found.register_hook(lambda g: gradients.__setitem__(name, to_numpy(g)))
        return found


def _gradients(
    trace: Trace, y: Tensor, upstream: Tensor, hooks: _Hooks, leaves: Tensors, weights: Tensors
) -> None:
    outputs = {"": y, **hooks.own}
    upstreams = {"": upstream}
    for key, tensor in hooks.own.items():
        assert hooks.forced is not None
        upstreams[key] = put(np.array(hooks.forced[key][1]), hooks.place).to(tensor.dtype)
    outputs = {key: tensor for key, tensor in outputs.items() if tensor.requires_grad}
    wanted = [*leaves.values(), *weights.values(), *hooks.leaves.values()]
    found: tuple[Tensor | None, ...] = (None,) * len(wanted)
    if wanted and outputs:
        found = torch.autograd.grad(
            [*outputs.values()], wanted, [upstreams[key] for key in outputs], allow_unused=True
        )
    named = [
        to_numpy(torch.zeros_like(t) if g is None else g, copy=False)
        for t, g in zip(wanted, found, strict=True)
    ]
    a, b = len(leaves), len(leaves) + len(weights)
    trace.inputs = dict(zip(leaves, named[:a], strict=True))
    trace.parameters = dict(zip(weights, named[a:b], strict=True))
    trace.gradients = dict(zip(hooks.leaves, named[b:], strict=True)) if hooks.leaves else hooks.gradients
    if not outputs and leaves and not weights:
        raise UsageError(f"no gradient: the output does not depend on the inputs by operations that {WHY}")


def _state(module: nn.Module, again: Mapping[str, str]) -> Inputs:
    """Parameters and buffers as float64 (integers as they are), tied ones under their first name."""
    found = {
        key: tensor.detach().cpu()
        for key, tensor in module.state_dict().items()
        if isinstance(tensor, Tensor) and key not in again
    }
    return Lazy(found, lambda _, t: (t.double() if t.is_floating_point() else t).numpy().copy())


def tied(module: nn.Module) -> dict[str, str]:
    """Further names of parameters and buffers that are the same tensor, to their first name."""
    first: dict[int, str] = {}
    again: dict[str, str] = {}
    for named in (module.named_parameters, module.named_buffers):
        for key, tensor in named(remove_duplicate=False):
            if first.setdefault(id(tensor), key) != key:
                again[key] = first[id(tensor)]
    return again


def _checked(name: str, found: Any, model: nn.Module, again: Mapping[str, str]) -> Arrays:
    """A state dictionary from `convert`; of tied parameters the first."""
    if not isinstance(found, Mapping):
        raise UsageError(f"{name}: convert gave a {type(found).__name__}, expected a state dictionary")
    wanted = {key: tuple(t.shape) for key, t in model.state_dict().items() if isinstance(t, Tensor)}
    got = {key: np.shape(array) for key, array in found.items()}
    counters = {key for key in wanted if key.endswith("num_batches_tracked")}
    for key in sorted({*wanted, *got}):
        if key in counters | set(again) and key not in got:
            continue
        if wanted.get(key) != got.get(key):
            raise UsageError(f"{name}: convert gave {key} as {got.get(key)}, expected {wanted.get(key)}")
    for other, first in again.items():
        if other in found and not np.array_equal(found[other], found[first], equal_nan=True):
            raise UsageError(f"{name}: convert gave different values for {first} and {other}, which are tied")
    return {key: np.asarray(array) for key, array in found.items() if key not in again}


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
    changed = copy.deepcopy(module)
    for (part_name, key), table in tables_of(module).items():
        signs = np.random.default_rng(0).choice([-1.0, 1.0], size=tuple(table.shape))
        setattr(
            changed.get_submodule(part_name),
            key,
            table.double() * (1 + by * torch.from_numpy(np.asarray(signs))),
        )
    return changed
