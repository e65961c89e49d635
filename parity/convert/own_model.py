"""A user's own model on the command line: its names, its forward pass, and maps to its names."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from parity.convert import plain
from parity.convert.api import flax_arrays
from parity.convert.source import Source
from parity.convert.units import Array, Arrays, Convention, Names, shapes_of
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
    if not isinstance(made, plain.framework(convention).Module):
        raise UserError(f"model: expected {name}() to be a {convention} Module, got {type(made).__name__}")
    return made


def names(module: Any, convention: Convention) -> Names:
    torch = convention == "torch"
    return Names(convention, shapes_of(module.state_dict() if torch else flax_arrays(module)[1]), torch)


def in_its_order(found: Source, module: Any) -> Source:
    """The source with its arrays in the order of its model; raises UserError where the names differ."""
    own = names(module, found.convention)
    if set(own.shapes) != set(found.arrays):
        apart = ", ".join(sorted(set(own.shapes) ^ set(found.arrays)))
        raise UserError(f"model: not the source's, only one of the two has {apart}; change --model")
    return replace(found, arrays={name: found.arrays[name] for name in own.shapes}, ordered=own.ordered)


def runner(module: Any, convention: Convention, arrays: Arrays) -> Callable[[Array], Array]:
    """Its logits with these weights, in evaluation on the CPU and, unless it insists on another dtype, in
    float64: prepared images (B, 3, 32, 32) in, whatever the framework's own layout.
    """
    wide = plain.widened(arrays, np.float64)

    def run(x: Array) -> Array:
        try:
            logits: Array = plain.framework(convention).logits(module, wide, x)
            return logits
        except (RuntimeError, TypeError, ValueError) as error:
            layout = "(B, 3, 32, 32)" if convention == "torch" else "(B, 32, 32, 3)"
            raise UserError(
                f"model: expected one that takes images {layout} and nothing else, got {error}; change "
                "--model, or leave it out and name a file of its weights with --like"
            ) from None

    return run
