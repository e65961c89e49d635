"""A user's own model on the command line: its names, its forward pass, and maps to its names."""

from __future__ import annotations

import copy
import importlib
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from parity.convert import api
from parity.convert.source import Source
from parity.convert.units import Array, Arrays, Convention, Shape
from parity.verification.place import Place
from triptych.errors import UserError
from triptych.store.sealed import read_json


def read_map(entries: tuple[str, ...]) -> dict[str, str]:
    """THEIRS=OURS entries and JSON files of such pairs, as one dict; raises UserError for anything else."""
    found: dict[str, str] = {}
    for entry in entries:
        theirs, equals, ours = entry.partition("=")
        if equals and theirs and ours:
            found[theirs] = ours
        elif entry.endswith(".json"):
            pairs = read_json(Path(entry))
            if not isinstance(pairs, dict) or not all(isinstance(name, str) for name in pairs.values()):
                raise UserError(f"map: expected an object of their names to ours in {entry}")
            found |= pairs
        else:
            raise UserError(f"map: expected THEIR.NAME=OUR.NAME or a .json file, got {entry!r}; change --map")
    return found


def load(name: str, convention: Convention) -> Any:
    """The module that `package.module:callable` makes; imports and runs the caller's own code.

    Raises UserError where it cannot be had, or is no module of that framework.
    """
    where, colon, attribute = name.partition(":")
    if not colon or convention not in ("torch", "flax-nnx"):
        raise UserError(
            f"model: expected package.module:callable of a torch or flax-nnx model, got {name!r} for "
            f"{convention}; for linen, write its variables to a file and name that with --like"
        )
    if "" not in sys.path:
        sys.path.insert(0, "")  # the folder that the command runs in
    try:
        make = getattr(importlib.import_module(where), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"model: cannot import {name} ({error}); change --model") from None
    try:
        made = make()
    except TypeError as error:
        raise UserError(f"model: {name}() cannot be called without arguments ({error})") from None
    _, kind = _framework(convention)
    if not isinstance(made, kind):
        raise UserError(f"model: expected {name}() to be a {convention} Module, got {type(made).__name__}")
    return made


def _framework(convention: Convention) -> tuple[Any, type]:
    if convention == "torch":
        torch = importlib.import_module("torch")
        return torch, torch.nn.Module
    nnx = importlib.import_module("flax.nnx")
    return nnx, nnx.Module


def shapes(module: Any, convention: Convention) -> dict[str, Shape]:
    """Flat names and own shapes of a module."""
    if convention == "torch":
        return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    return {name: tuple(array.shape) for name, array in api.flax_arrays(module)[1].items()}


def in_its_order(found: Source, module: Any) -> Source:
    """The source with its arrays in the order of its model; raises UserError where the names differ."""
    names = shapes(module, found.convention)
    if set(names) != set(found.arrays):
        apart = ", ".join(sorted(set(names) ^ set(found.arrays)))
        raise UserError(f"model: not the source's, only one of the two has {apart}; change --model")
    arrays = {name: found.arrays[name] for name in names}
    return replace(found, arrays=arrays, ordered=found.convention == "torch")


def runner(module: Any, convention: Convention, arrays: Arrays) -> Callable[[Array], Array]:
    """Its logits with these weights, in evaluation on the CPU and, unless it insists on another dtype, in
    float64: prepared images (B, 3, 32, 32) in, whatever the framework's own layout.
    """
    wide = {
        name: array if array.dtype.kind == "i" else array.astype(np.float64) for name, array in arrays.items()
    }
    run = (_torch_runner if convention == "torch" else _nnx_runner)(module, wide)

    def guarded(x: Array) -> Array:
        try:
            return run(x)
        except (RuntimeError, TypeError, ValueError) as error:
            layout = "(B, 3, 32, 32)" if convention == "torch" else "(B, 32, 32, 3)"
            raise UserError(
                f"model: expected one that takes images {layout} and nothing else, got {error}; change "
                "--model, or leave it out and name a file of its weights with --like"
            ) from None

    return guarded


def _torch_runner(module: Any, arrays: Arrays) -> Callable[[Array], Array]:
    torch = importlib.import_module("torch")
    to_tensor = importlib.import_module("parity.convert.tensors").to_tensor
    model = copy.deepcopy(module).to("cpu", torch.float64).eval()
    model.load_state_dict({name: to_tensor(array) for name, array in arrays.items()}, strict=True)

    def run(x: Array) -> Array:
        with torch.no_grad():
            return np.array(model(to_tensor(x)).numpy())

    return run


def _nnx_runner(module: Any, arrays: Arrays) -> Callable[[Array], Array]:
    nnx = importlib.import_module("flax.nnx")
    jnp = importlib.import_module("jax.numpy")
    side = importlib.import_module("parity.convert.flax_side")
    precision = importlib.import_module("parity.verification.adapters.jax").precision

    def run(x: Array) -> Array:
        with precision(Place(x.dtype.name)):
            model = copy.deepcopy(module)
            state = nnx.state(model, nnx.Any(nnx.Param, nnx.BatchStat))
            nnx.replace_by_pure_dict(state, side.nested(side.on_device(arrays)))
            nnx.update(model, state)
            model.eval()
            return np.array(model(jnp.asarray(x.transpose(0, 2, 3, 1))))

    return run
