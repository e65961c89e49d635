"""What an arithmetic may do to a number: unit roundoff, underflow, and the accuracy of library functions.

u is the unit roundoff, half the distance from 1 to the next number: a correctly rounded operation returns
fl(z) = z (1 + d) with |d| <= u as long as nothing underflows (Higham, Accuracy and Stability of Numerical
Algorithms, 2nd ed., eq. 2.4). gamma_n = n u / (1 - n u) bounds n such factors in a row (lemma 3.1). Below
the smallest normal number an operation may lose all of its result: XLA, torch and GPUs may flush
subnormal numbers to zero, on the way in and on the way out.

docs/parity.md says where each constant comes from.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from parity.errors import UsageError

Array = np.ndarray[Any, Any]

EXP_ULPS = 3.0
"""In float32: NumPy's at most 2.52 ULP; XLA's 1.5, on a GPU 2.0; CUDA's 2; torch's on a CPU 1.0 (SLEEF)."""
EXP64_ULPS = 4.0
"""In float64: NumPy's 4 where it is SVML's (AVX-512); XLA's 2.0; torch's 1.0."""
LOG_ULPS = 4.0
"""NumPy's float32 at most 3.83 ULP, its float64 4 (SVML); XLA's 1.5, CUDA's 1, SLEEF's 1.0."""
RSQRT_ULPS = 2.0
"""CUDA's and XLA's rsqrt: 2 ULP; 1 / sqrt(x) rounds twice, less than that."""
GPU_DIVISION_ULPS = 1.0
"""XLA's float32 reciprocal and square root on a GPU; on a CPU they are correctly rounded (0.5)."""
POWER_ULPS = 4.0
"""NumPy's float64 power with AVX-512 (SVML): 4 ULP; glibc's 1."""
COS_ULPS = 4.0
"""NumPy's float64 cosine with AVX-512 (SVML): 4 ULP; glibc's 1."""
TANH_ULPS = 7.0
"""XLA: 5.0 CPU and 5.5 GPU in float32, 7.0 CPU in float64; NumPy (SVML) below 4, SLEEF (torch) 1.0."""
ERF_ULPS = 7.0
"""XLA: 7.0 CPU and 6.5 GPU in float32, 2.5 in float64; SLEEF and CUDA at most 2. torch's vectorised
float32 kernels: see parity.bounds.special."""
SIGMOID_ULPS = 4.5
"""XLA's logistic: 2.5 CPU and 4.0 GPU in float32, 3.5 and 4.5 in float64."""

TF32_U = 2.0**-11
"""TF32 keeps ten of float32's 23 fraction bits of each factor."""


@dataclass(frozen=True)
class Rounding:
    """One arithmetic to be judged, and the one that computes the truth beside it."""

    name: str
    u: float
    tiny: float
    """The smallest normal number."""
    largest: float
    stored: type[np.floating[Any]]
    """The NumPy type that carries its numbers (float32 for bfloat16)."""
    truth: type[np.floating[Any]]
    accumulate_u: float
    """Of the sums inside products and reductions, where narrower numbers are summed in wider ones."""
    operand_u: float = 0.0
    """What products do to each factor first: 0, or TF32's unit roundoff."""
    division_ulps: float = 0.5
    """Of divisions and square roots."""
    exp_ulps: float = EXP_ULPS

    @property
    def u_truth(self) -> float:
        """Unit roundoff of the arithmetic that computes the truth."""
        return float(np.finfo(self.truth).eps) / 2

    @property
    def wide(self) -> Rounding:
        """What batch norm, losses and updates compute in: at least float32."""
        if self.name != "bfloat16":
            return self
        return replace(ROUNDINGS["float32"], division_ulps=self.division_ulps)

    def nearest(self, array: Array) -> Array:
        """The representable number nearest to each element (ties to even), as a `stored` array."""
        with np.errstate(over="ignore"):
            stored = np.asarray(array).astype(self.stored)
        return _to_bfloat16(stored) if self.name == "bfloat16" else stored

    def represents(self, array: Array) -> Array:
        """Where an element is a number of this format."""
        with np.errstate(invalid="ignore"):
            return self.nearest(array).astype(self.truth) == np.asarray(array).astype(self.truth)

    def ulp(self, array: Array) -> Array:
        """The distance between neighbours at each element, float64; below `tiny` that of `tiny`."""
        magnitude = np.clip(np.abs(np.asarray(array, np.float64)), self.tiny, self.largest)
        return np.exp2(np.floor(np.log2(magnitude))) * 2 * self.u

    def gamma(self, n: int, truth: bool = False) -> float:
        """gamma_n of the sums inside products and reductions (or of the truth's); infinite past its range."""
        nu = n * (self.u_truth if truth else self.accumulate_u)
        return nu / (1 - nu) if nu < 1 else float("inf")


def _to_bfloat16(array: Array) -> Array:
    """float32 rounded to bfloat16's eight bits, to nearest even, still float32."""
    bits = np.ascontiguousarray(array).view(np.uint32).astype(np.uint64)
    rounded = ((bits + 0x7FFF + ((bits >> np.uint64(16)) & np.uint64(1))) >> np.uint64(16)) << np.uint64(16)
    return np.where(np.isfinite(array), rounded.astype(np.uint32).view(np.float32), array)


def _format(name: str, u: float, stored: type, truth: type, exp_ulps: float = EXP_ULPS) -> Rounding:
    own = np.finfo(stored)
    return Rounding(
        name, u, float(own.tiny), float(own.max), stored, truth, accumulate_u=u, exp_ulps=exp_ulps
    )


_SINGLE = _format("float32", 2.0**-24, np.float32, np.float64)
ROUNDINGS = {
    "float64": _format("float64", 2.0**-53, np.float64, np.longdouble, EXP64_ULPS),
    "float32": _SINGLE,
    "bfloat16": replace(
        _SINGLE, name="bfloat16", u=2.0**-8, largest=float(np.uint32(0x7F7F0000).view(np.float32))
    ),
}
ROUNDINGS["tf32"] = replace(_SINGLE, name="tf32", operand_u=TF32_U)

SHIPPED = "shipped"
"""float32 in whatever mode the framework takes products by default: nothing is pinned. What its documentation
says that mode is decides the name, such as shipped-tf32, and the limit."""
ROUNDINGS |= {
    f"{SHIPPED}-{name}": replace(_SINGLE, name=f"{SHIPPED}-{name}", operand_u=u)
    for name, u in (("float32", 0.0), ("tf32", TF32_U), ("bfloat16", ROUNDINGS["bfloat16"].u))
}
FORMATS = ("float64", "float32", "bfloat16", "tf32", SHIPPED)
"""What --dtype takes."""


def rounding(name: str, device: str = "cpu") -> Rounding:
    """The arithmetic of that name on that device; raises UsageError where there is none."""
    if name not in ROUNDINGS:
        raise UsageError(f"dtype: expected one of {', '.join(FORMATS)}, got {name!r}")
    found = ROUNDINGS[name]
    return found if device == "cpu" else replace(found, division_ulps=GPU_DIVISION_ULPS)


def at_blas_speed(r: Rounding) -> Rounding:
    """The same arithmetic judged by a float64 truth, whose own rounding counts: where that is the format
    itself the limits double, and products run hundreds of times as fast as in extended precision.
    """
    return r if r.truth is np.float64 else replace(r, truth=np.float64)


def truth_note() -> str:
    """One line for the report: what float64 is judged against here."""
    bits = np.finfo(np.longdouble).nmant + 1
    note = "float32 and bfloat16 against float64, float64 against "
    if bits <= np.finfo(np.float64).nmant + 1:
        return note + "float64 too (this machine has nothing wider: limits are twice as wide)"
    return note + f"an extended precision of {bits} bits"
