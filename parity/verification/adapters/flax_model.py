"""Flax NNX and linen modules as a side of a port; every call of a submodule is recorded."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen, nnx
from flax.nnx import tracers

from parity.errors import UsageError
from parity.verification.adapters import Pick, called
from parity.verification.adapters.jax_model import Each, Tensors, picked_array, side_of, wide
from parity.verification.place import Inputs, Place
from parity.verification.side import Arrays, Recorder, Side

CALL = "__call__"


def side(name: str, given: Any, output: Pick, keywords: tuple[str, ...], training: bool | None) -> Side:
    """`nnx.Module`, or (`linen.Module`, variables) or (`linen.Module`, variables, keywords of the call)."""
    if isinstance(given, nnx.Module):
        return _nnx(name, given, output, keywords, training)
    if not isinstance(given, tuple) or len(given) not in (2, 3):
        raise UsageError(f"{name}: expected (linen module, variables), got the module alone")
    return _linen(name, given, output, keywords)


def _nnx(name: str, given: nnx.Module, output: Pick, keywords: tuple[str, ...], mode: bool | None) -> Side:
    graph, everything = nnx.split(given)
    flat = nnx.to_flat_state(everything)
    variables = {_dotted(path): (path, one) for path, one in flat}
    own = {key: pair for key, pair in variables.items() if not isinstance(pair[1], nnx.RngState)}
    parameters = tuple(key for key, (_, one) in own.items() if isinstance(one, nnx.Param))

    def apply(state: Tensors, inputs: Tensors, each: Each, place: Place) -> Any:
        model = nnx.merge(
            graph,
            nnx.from_flat_state(
                [
                    (path, one.replace(state[key] if key in state else one.get_value()))
                    for key, (path, one) in variables.items()
                ]
            ),
        )
        if mode is not None:
            model.train() if mode else model.eval()
        for _, part in nnx.iter_modules(model):
            if getattr(part, "param_dtype", None) is not None:
                vars(part)["param_dtype"] = jnp.dtype(place.number)  # in which carries start
            if isinstance(part, nnx.Embed):  # takes its dtype from the table that it is made with
                vars(part)["dtype"] = jnp.dtype(place.number)
        named = {key: inputs[key] for key in keywords}
        order = [array for key, array in inputs.items() if key not in keywords]
        with _recorded(model, each):
            found = called(name, lambda *arrays: model(*arrays, **named), *order)
        after = {_dotted(path): one for path, one in nnx.to_flat_state(nnx.state(model))}
        buffers = {
            key: after[key].get_value()
            for key in own
            if key not in parameters and jnp.issubdtype(own[key][1].get_value().dtype, jnp.floating)
        }
        return picked_array(name, found, output), buffers, {}

    def state() -> Inputs:
        return wide({key: one.get_value() for key, (_, one) in own.items()})

    def flatten(found: Any) -> Arrays:
        pairs = nnx.to_flat_state(found) if isinstance(found, nnx.State) else _nested(found)
        arrays = {_dotted(path): np.asarray(jax.tree.leaves(one)[0]) for path, one in pairs}
        return _checked(name, arrays, {key: one.shape for key, (_, one) in own.items()}, state)

    told = f"{graph} {mode}"
    return side_of(name, "flax", state, parameters, apply, flatten, channels_last=True, told=told)


@contextmanager
def _recorded(model: nnx.Module, each: Each) -> Iterator[None]:
    """Every submodule's call goes through a recorder; not what happens inside a scan or another transform,
    whose numbers do not exist outside it.
    """
    paths: dict[int, str] = {}
    for path, part in nnx.iter_modules(model):
        paths.setdefault(id(part), _dotted(path))
    recorder, outside, active = Recorder(), tracers.TraceState(), set[int]()
    kinds = {type(part) for _, part in nnx.iter_modules(model)}
    before = {kind: vars(kind).get("__call__") for kind in kinds if hasattr(kind, CALL)}

    def wrapped(original: Callable[..., Any]) -> Any:
        @functools.wraps(original)
        def call(self: Any, *arguments: Any, **named: Any) -> Any:
            path = paths.get(id(self), "")
            if not path or id(self) in active or not outside.is_valid():
                return original(self, *arguments, **named)
            recorder.enter(path, [a for a in jax.tree.leaves(arguments) if isinstance(a, jax.Array)], each)
            active.add(id(self))
            try:
                found = original(self, *arguments, **named)
            finally:
                active.discard(id(self))
            return _taken(recorder, path, found, each)

        return call

    try:
        for kind in before:
            setattr(kind, CALL, wrapped(getattr(kind, CALL)))
        yield
    finally:
        for kind, original in before.items():
            if original is None:
                delattr(kind, CALL)
            else:
                setattr(kind, CALL, original)


def _taken(recorder: Recorder, path: str, found: Any, each: Each) -> Any:
    leaves, tree = jax.tree.flatten(found)
    taken = iter(recorder.take(path, [leaf for leaf in leaves if isinstance(leaf, jax.Array)], each))
    return jax.tree.unflatten(tree, [next(taken) if isinstance(leaf, jax.Array) else leaf for leaf in leaves])


def _linen(name: str, given: tuple[Any, ...], output: Pick, keywords: tuple[str, ...]) -> Side:
    module, variables, settings = (*given, {})[:3]
    own, kept = _named(variables)
    parameters = tuple(key for key, path in own.items() if path[0] == "params")
    others = [key for key in kept if key != "params"]

    def apply(state: Tensors, inputs: Tensors, each: Each, place: Place) -> Any:
        recorder, outside = Recorder(), tracers.TraceState()

        def intercept(function: Any, arguments: Any, named: Any, context: Any) -> Any:
            path = _dotted(context.module.path)
            if context.method_name != "__call__" or not path or not outside.is_valid():
                return function(*arguments, **named)
            recorder.enter(path, [a for a in jax.tree.leaves(arguments) if isinstance(a, jax.Array)], each)
            found = function(*arguments, **named)
            return _taken(recorder, path, found, each)

        nested: dict[str, Any] = {}
        for key, path in own.items():
            _set(nested, path, state[key])
        named = {**settings, **{key: inputs[key] for key in keywords}}
        order = [array for key, array in inputs.items() if key not in keywords]
        with linen.intercept_methods(intercept):
            found = called(name, lambda *a: module.apply(nested, *a, **named, mutable=others), *order)
        y, after = found
        buffers = {key: _get(after, path) for key, path in own.items() if path[0] in after}
        return picked_array(name, y, output), buffers, {}

    def state() -> Inputs:
        return wide({key: _get(variables, path) for key, path in own.items()})

    def flatten(found: Any) -> Arrays:
        found = found if "params" in found else {"params": found}
        names, _ = _named(found)
        arrays = {key: np.asarray(_get(found, path)) for key, path in names.items()}
        return _checked(name, arrays, {k: _get(variables, path).shape for k, path in own.items()}, state)

    told = f"{module} {settings}"
    return side_of(name, "flax", state, parameters, apply, flatten, channels_last=True, told=told)


def _named(variables: Mapping[str, Any]) -> tuple[dict[str, tuple[str, ...]], list[str]]:
    """Names without the collection where that leaves them apart, to their paths; and the collections."""
    paths = [path for path, _ in _nested(variables)]
    short = [_dotted(path[1:]) for path in paths]
    return {
        key if short.count(key) == 1 else _dotted(path): path for key, path in zip(short, paths, strict=True)
    }, list(variables)


def _nested(found: Any, above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    if isinstance(found, Mapping):
        for key, below in found.items():
            path = (
                (*above, *key) if isinstance(key, tuple) else (*above, *str(key).replace("/", ".").split("."))
            )
            yield from _nested(below, path)
    else:
        yield above, found


def _get(nested: Any, path: tuple[str, ...]) -> Any:
    return functools.reduce(lambda below, key: below[key], path, nested)


def _set(nested: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    for key in path[:-1]:
        nested = nested.setdefault(key, {})
    nested[path[-1]] = value


def _dotted(path: Any) -> str:
    return ".".join(map(str, path))


def _checked(name: str, found: Arrays, wanted: Mapping[str, Any], state: Callable[[], Inputs]) -> Arrays:
    """What `convert` gave; variables that it leaves out keep their values."""
    unknown = sorted(set(found) - set(wanted))
    if unknown:
        raise UsageError(f"{name}: convert gave {unknown}; expected names among {sorted(wanted)}")
    for key, array in found.items():
        if array.shape != tuple(wanted[key]):
            raise UsageError(f"{name}: convert gave {key} as {array.shape}, expected {tuple(wanted[key])}")
    left = set(wanted) - set(found)
    own = state() if left else {}
    return {key: found[key] if key in found else own[key] for key in wanted}
