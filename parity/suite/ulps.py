"""`python -m parity ulps`: how far exp, log and the others of each library lie from the truth, on this CPU.

The limits of `rounding` rest on what libraries document of these functions. This measures them: in
float32 at every n-th number of the format, in float64 at drawn numbers, against the next wider precision.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from parity.bounds import rounding
from parity.bounds.rounding import ROUNDINGS, Array
from parity.suite.backends import installed
from parity.verification.case import generator
from parity.verification.place import Place
from triptych.errors import UserError

Function = Callable[[Array], Array]
Library = Literal["numpy", "jax", "torch"]

CHUNK = 2**21
SAMPLES = 2_000_000


@dataclass(frozen=True)
class Swept:
    """One function: its truth, where its results are normal numbers, and the ULPs that limits allow it."""

    truth: Function
    low: float
    high: float
    allowed: float
    allowed64: float


FUNCTIONS = {
    "exp": Swept(np.exp, -87.0, 88.5, rounding.EXP_ULPS, rounding.EXP64_ULPS),
    "log": Swept(np.log, 1.2e-38, 3.4e38, rounding.LOG_ULPS, rounding.LOG_ULPS),
    "rsqrt": Swept(lambda x: 1 / np.sqrt(x), 1.2e-38, 3.4e38, rounding.RSQRT_ULPS, rounding.RSQRT_ULPS),
    "cos": Swept(np.cos, 0.0, float(np.pi), rounding.COS_ULPS, rounding.COS_ULPS),
    "power": Swept(lambda t: np.asarray(t.dtype.type(0.999)) ** t, 1.0, 5e4, 0.0, rounding.POWER_ULPS),
}
HOST = ("cos", "power")
"""Taken in float64, by NumPy, for all backends."""


@dataclass(frozen=True)
class Measured:
    """The worst of many numbers."""

    function: str
    library: str
    dtype: str
    ulps: float
    at: float
    allowed: float
    count: int


def ulps(library: tuple[Library, ...] = (), stride: int = 257) -> int:
    """Measure the library functions that limits rest on, on this CPU: the worst error in ULPs.

    Exit code 1 where one is farther off than parity.bounds.rounding allows.

    Args:
        library: Only these: numpy, jax, torch.
        stride: In float32, every how manyth number is tried; 1 tries all (minutes).
    """
    if stride < 1:
        raise UserError(f"stride: expected 1 or more, got {stride}; change --stride")
    chosen = library or tuple(name for name in ("numpy", "jax", "torch") if installed(name))
    found = [measured for name in chosen for measured in measure(name, stride)]
    print(f"{'function':9} {'library':8} {'format':8} {'worst':>6} {'allowed':>7} {'numbers':>11}  at")
    for m in found:
        row = f"{m.function:9} {m.library:8} {m.dtype:8} {m.ulps:6.3f} {m.allowed:7g} {m.count:11,}  {m.at!r}"
        print(row + ("" if m.ulps <= m.allowed else "  TOO FAR"))
    return 0 if all(m.ulps <= m.allowed for m in found) else 1


def measure(library: str, stride: int) -> Iterator[Measured]:
    """Every function of one library, in float32 and, where long double is wider than a double, in float64."""
    for name, swept in FUNCTIONS.items():
        if name not in HOST:
            function = _function(library, name, "float32")
            yield _worst(name, library, "float32", function, swept, _float32(swept, stride))
        wider = np.finfo(np.longdouble).nmant > np.finfo(np.float64).nmant
        if wider and (name not in HOST or library == "numpy"):
            function = _function(library, name, "float64")
            yield _worst(name, library, "float64", function, swept, iter([_float64(name, swept)]))


def _worst(
    name: str, library: str, dtype: str, function: Function, swept: Swept, chunks: Iterator[Array]
) -> Measured:
    r, worst, at, count = ROUNDINGS[dtype], 0.0, float("nan"), 0
    allowed = swept.allowed if dtype == "float32" else swept.allowed64
    for x in chunks:
        truth = swept.truth(x.astype(r.truth))
        error = np.abs(function(x).astype(r.truth) - truth).astype(np.float64)
        found = error / r.ulp(truth.astype(np.float64))
        place = int(found.argmax())
        if found[place] > worst:
            worst, at = float(found[place]), float(x[place])
        count += x.size
    return Measured(name, library, dtype, worst, at, allowed, count)


def _float32(swept: Swept, stride: int) -> Iterator[Array]:
    """Every `stride`-th float32 number of the domain, negative ones after positive ones."""
    sides = ((1.0, max(swept.low, 0.0), swept.high), (-1.0, max(-swept.high, 0.0), -swept.low))
    for sign, low, high in sides:
        if high <= low:
            continue
        first, last = (int(np.float32(end).view(np.uint32)) for end in (low, high))
        for start in range(first, last, CHUNK * stride):
            bits = np.arange(start, min(last, start + CHUNK * stride), stride, dtype=np.int64)
            yield np.float32(sign) * bits.astype(np.uint32).view(np.float32)


def _float64(name: str, swept: Swept) -> Array:
    """Drawn over the domain; over the exponents where that is all positive numbers."""
    rng = generator("ulps", name)
    if name == "power":
        return np.arange(swept.low, swept.high)
    if swept.low > 0:
        return np.exp2(rng.uniform(np.log2(swept.low), np.log2(swept.high), SAMPLES))
    return rng.uniform(swept.low, swept.high, SAMPLES)


def _function(library: str, name: str, dtype: str) -> Function:
    """As the backends call it, arrays in and out."""
    if library == "numpy":
        return FUNCTIONS[name].truth
    return _jax(name, dtype) if library == "jax" else _torch(name)


def _jax(name: str, dtype: str) -> Function:
    import jax
    import jax.numpy as jnp

    from parity.verification.adapters.jax import precision

    functions: dict[str, Any] = {"exp": jnp.exp, "log": jnp.log, "rsqrt": lambda x: 1 / jnp.sqrt(x)}
    compiled = jax.jit(functions[name])

    def run(x: Array) -> Array:
        with precision(Place(dtype)):
            return np.asarray(compiled(x))

    return run


def _torch(name: str) -> Function:
    import torch

    function: Any = {"exp": torch.exp, "log": torch.log, "rsqrt": torch.rsqrt}[name]
    return lambda x: np.asarray(function(torch.from_numpy(x)).numpy())
