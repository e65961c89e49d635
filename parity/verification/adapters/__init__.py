"""A reader's implementation of a layer, in whichever framework: what every one of them offers to the checks.

`numpy`, `jax` and `torch` build one from functions and modules; each framework is imported
only when it is asked for.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from parity.bounds.rounding import Array
from parity.errors import UsageError
from parity.verification.place import Inputs, Outputs, Place


@dataclass(frozen=True)
class Numpy:
    """`forward(*arrays) -> (y, cache)` and `backward(dy, cache) -> gradients`, one for each floating input
    and parameter: an array, a tuple in their order, or a dictionary by name.
    """

    forward: Callable[..., Any]
    backward: Callable[..., Any]


@dataclass(frozen=True)
class Jax:
    """`function(*arrays) -> y`; compiled unless `jit` is False."""

    function: Callable[..., Any]
    jit: bool = True


@dataclass(frozen=True)
class Torch:
    """A function of all tensors, or a module, called with the inputs alone: its parameters are found by name,
    those of `names` (ours to the module's) under another.
    """

    function: Callable[..., Any]
    names: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Signature:
    """What goes in, in the order of the call."""

    inputs: tuple[str, ...]
    parameters: tuple[str, ...]
    differentiated: tuple[str, ...]
    """The floating ones: each gets a gradient d<name>."""

    @property
    def order(self) -> tuple[str, ...]:
        """Inputs, then parameters."""
        return (*self.inputs, *self.parameters)


@dataclass(frozen=True, eq=False)
class Implementation:
    """Arrays by name in, arrays by name out."""

    name: str
    shape: Callable[[Inputs, Place], tuple[int, ...]]
    """y's."""
    pull: Callable[[Inputs, Array, Place], Outputs]
    """y and d<name>, from dy."""


def built(name: str, given: Any, signature: Signature) -> Implementation:
    """From one of the three kinds; raises UsageError for anything else, or a missing framework."""
    for kind, module in ((Numpy, "numpy"), (Jax, "jax"), (Torch, "torch")):
        if isinstance(given, kind):
            try:
                side = importlib.import_module(f"parity.verification.adapters.{module}")
            except ModuleNotFoundError as error:
                raise UsageError(
                    f"{name}: the package {error.name!r} is not installed; install it, or leave {name} out"
                ) from None
            found: Implementation = side.implementation(name, given, signature)
            return found
    raise UsageError(f"{name}: expected Numpy(...), Jax(...) or Torch(...), got {type(given).__name__}")


def called(name: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """A reader's function; what it raises is told with its name, the cause attached."""
    try:
        return function(*arguments)
    except UsageError:
        raise
    except Exception as error:
        shapes = [getattr(a, "shape", None) for a in arguments]
        known = ", ".join(str(tuple(shape)) for shape in shapes if shape is not None)
        raise UsageError(
            f"{name}: the function raised {type(error).__name__}: {error} (called with shapes {known}); "
            "mend it, or leave the case out by its name: without=(...)"
        ) from error


def one_array(name: str, found: Any, kind: type) -> Any:
    """The output, which must be a single array of the framework."""
    if isinstance(found, tuple | list | dict):
        raise UsageError(
            f"{name}: expected one array as output, got a {type(found).__name__} of {len(found)}; "
            "choose one in a lambda, and check the others by a second call"
        )
    if not isinstance(found, kind):
        raise UsageError(f"{name}: expected a {kind.__name__} as output, got {type(found).__name__}")
    return found


def by_name(name: str, found: Any, wanted: Sequence[str]) -> dict[str, Any]:
    """Gradients as a dictionary d<input>, from an array, a tuple in order or a dictionary."""
    if isinstance(found, Mapping):
        named = {
            key if key.startswith("d") and key[1:] in wanted else f"d{key}": g for key, g in found.items()
        }
    else:
        parts = found if isinstance(found, tuple | list) else (found,)
        if len(parts) != len(wanted):
            raise UsageError(
                f"{name}: expected {len(wanted)} gradients ({', '.join('d' + key for key in wanted)}), "
                f"got {len(parts)}; return one for each floating input and parameter, in this order"
            )
        named = {f"d{key}": g for key, g in zip(wanted, parts, strict=True)}
    missing = [f"d{key}" for key in wanted if named.get(f"d{key}") is None]
    if missing:
        raise UsageError(f"{name}: no gradient {', '.join(missing)} came back")
    return {f"d{key}": named[f"d{key}"] for key in wanted}


def as_float(array: Any) -> Array:
    """A result as NumPy holds it, bfloat16 as float32."""
    found = np.asarray(array)
    return found.astype(np.float32) if found.dtype.name == "bfloat16" else found
