"""A stranger's implementation of a layer or model, in whichever framework, as the checks call it.

`built` makes an `Implementation` from functions and modules. The adapters (`numpy`, `jax`, `torch`) have one
function each, `implementation(name, given, signature)`, and import their framework; nothing else here does.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np

from parity.bounds.rounding import Array
from parity.errors import UsageError
from parity.verification.place import Inputs, Outputs, Place

Framework = Literal["numpy", "jax", "torch"]


Pick = int | str | Callable[[Any], Any] | None
"""Which of several outputs: by number, by name, or by a function of them."""


@dataclass(frozen=True)
class Numpy:
    """`forward(*arrays) -> (y, cache)` and `backward(dy, cache) -> gradients`, one for each floating input
    and parameter: an array, a tuple in their order, or a dictionary by name.
    """

    forward: Callable[..., Any]
    backward: Callable[..., Any]
    framework: ClassVar[Framework] = "numpy"


@dataclass(frozen=True)
class Jax:
    """`function(*arrays) -> y`; compiled unless `jit` is False. Or a Flax NNX module, which is called with
    the inputs alone, as in `Torch`: its parameters are found by name, and keep its own shapes.
    """

    function: Callable[..., Any]
    jit: bool = True
    output: Pick = None
    names: Mapping[str, str] = field(default_factory=dict)
    framework: ClassVar[Framework] = "jax"


@dataclass(frozen=True)
class Torch:
    """A function of all tensors; or a module, which is called with the inputs alone. Its parameters are found
    by name; `names` maps ours to the module's where these differ.
    """

    function: Callable[..., Any]
    names: Mapping[str, str] = field(default_factory=dict)
    output: Pick = None
    framework: ClassVar[Framework] = "torch"


@dataclass(frozen=True)
class Signature:
    """What goes in, in the order of the call: inputs, then parameters."""

    inputs: tuple[str, ...]
    parameters: tuple[str, ...]
    differentiated: tuple[str, ...]
    """Each gets a gradient d<name>."""

    @property
    def order(self) -> tuple[str, ...]:
        return (*self.inputs, *self.parameters)


@dataclass(frozen=True, eq=False)
class Implementation:
    """Arrays by name in, arrays by name out."""

    name: str
    framework: Framework
    shape: Callable[[Inputs, Place], tuple[int, ...]]
    """The output's."""
    pull: Callable[[Inputs, Array, Place], Outputs]
    """The output `y` (of a model: its activations and `output`) and each d<name>, from dy."""

    main: str = "y"
    """The name of the output among the results."""
    told: Callable[[Inputs, Place], list[str]] = lambda inputs, place: []
    """What the framework does in silence with these inputs."""

    def whole(self, outputs: Outputs, expected: Mapping[str, Any]) -> bool:
        """Whether the output has the expected shape: of another one no gradient is taken."""
        main = outputs.get(self.main)
        return main is None or self.main not in expected or main.shape == expected[self.main].shape

    def formats(self, asked: Sequence[str]) -> list[str]:
        """Those that it has: NumPy has no bfloat16."""
        return [dtype for dtype in asked if (self.framework, dtype) != ("numpy", "bfloat16")]


def installed(package: str) -> bool:
    """Whether a framework can be imported; looks for the framework alone, and does not import it."""
    return importlib.util.find_spec(package) is not None


def is_framework(given: Any, module: str, kind: str) -> bool:
    """Whether it is an instance of a framework's class; does not import the framework."""
    found = sys.modules.get(module)
    return found is not None and isinstance(given, getattr(found, kind))


def built(name: str, given: Any, signature: Signature) -> Implementation:
    """Raises UsageError for what is none of the kinds above, or where a package is missing."""
    if not isinstance(given, Numpy | Jax | Torch):
        raise UsageError(f"{name}: expected Numpy(...), Jax(...) or Torch(...), got {type(given).__name__}")
    try:
        adapter = importlib.import_module(f"parity.verification.adapters.{given.framework}")
    except ModuleNotFoundError as error:
        raise UsageError(
            f"{name}: the package {error.name!r} is not installed; install it, or leave {name} out"
        ) from None
    found: Implementation = adapter.implementation(name, given, signature)
    return found


class CallFailed(UsageError):
    """A stranger's function raised something; `what` says which and what, in one line."""

    def __init__(self, what: str) -> None:
        super().__init__(f"{what}; fix it, or leave the case out by name: without=(...)")
        self.what = what

    def where(self, case: str) -> CallFailed:
        """The same, with the case's name."""
        return self if "in case" in self.what else CallFailed(f"{self.what} in case {case!r}")


def called(name: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a stranger's function; raises CallFailed, which names it, from what it raises."""
    try:
        return function(*arguments)
    except UsageError:
        raise
    except Exception as error:
        shapes = [getattr(a, "shape", None) for a in arguments]
        known = ", ".join(str(tuple(shape)) for shape in shapes if shape is not None)
        why = (str(error).strip() or "no message").splitlines()[0]
        if isinstance(error, IndexError):
            why += "; JAX does not raise but takes the nearest element, in silence"
        told = f"{name}: the function raised {type(error).__name__}: {why} (called with shapes {known})"
        raise CallFailed(told) from error


def one_array(name: str, found: Any, kind: type) -> Any:
    """The output, which must be a single array of the framework."""
    if isinstance(found, tuple | list | dict):
        raise UsageError(
            f"{name}: expected one array as output, got a {type(found).__name__} of {len(found)}; "
            "choose one by output=0 or in a lambda, and check the others by a second call"
        )
    if not isinstance(found, kind):
        raise UsageError(f"{name}: expected a {kind.__name__} as output, got {type(found).__name__}")
    if "complex" in str(getattr(found, "dtype", "")):
        raise UsageError(
            f"{name}: complex outputs are not supported; compare the real and the imaginary part, each by "
            "itself"
        )
    return found


def check_names(name: str, own: set[str], names: Mapping[str, str], signature: Signature) -> None:
    """Raises UsageError unless the parameters that are given are those of a module."""
    given = {names.get(key, key) for key in signature.parameters}
    if given != own:
        raise UsageError(
            f"{name}: expected parameters {sorted(own)} of the module, got {sorted(given)}; give each one's "
            'shape in parameters={...}, and other names by names={"ours": "its"} in Torch(...) or Jax(...); '
            "where layouts differ, use verify_model"
        )


def picked(name: str, found: Any, pick: Pick) -> Any:
    """One of several outputs."""
    if pick is None:
        return found
    try:
        return pick(found) if callable(pick) else found[pick]
    except Exception as error:
        raise UsageError(
            f"{name}: output={pick!r} cannot be had of a {type(found).__name__}: "
            f"{type(error).__name__} {error}"
        ) from None


def with_aliases(arrays: Mapping[str, Any], aliases: Mapping[str, str]) -> dict[str, Any]:
    """Tied parameters under all of their names."""
    return {**arrays, **{other: arrays[name] for other, name in aliases.items()}}


THIN = 4096


def thinned(key: str, gradient: Array) -> Array:
    """Of a parameter's gradient at most THIN elements, the same in every call."""
    if gradient.size <= THIN:
        return gradient
    chosen = np.random.default_rng(zlib.crc32(key.encode())).choice(gradient.size, THIN, replace=False)
    return gradient.reshape(-1)[np.sort(chosen)]


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
