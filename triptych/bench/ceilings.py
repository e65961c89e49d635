"""What the machine can do at best: a large matrix product and a large copy, timed in the same run."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from triptych.bench.cases import VARIANTS

SIZES = {"cpu": (2048, 2**27), "gpu": (8192, 2**30)}
"""Device to the side of the matrices and the bytes copied: large enough for full speed, 0.1 s at most."""
QUICK = (512, 2**23)


def measure(framework: str, device: str, precision: str, quick: bool = False) -> dict[str, float]:
    """FLOP/s of a product and bytes/s of a copy, as this framework reaches them. The highest of all
    frameworks' is the ceiling that every row is held against.
    """
    size, copied = QUICK if quick else SIZES[device]
    if framework == "jax":
        from triptych.bench import jax_side

        product, copy = jax_side.ceilings(device, precision, size, copied)
    elif framework == "torch":
        from triptych.bench import torch_side

        product, copy = torch_side.ceilings(device, precision, size, copied)
    else:
        product, copy = _numpy(size, copied)
    return {"flops_per_s": product, "bytes_per_s": copy}


def frameworks(variants: tuple[str, ...]) -> tuple[str, ...]:
    """The frameworks behind these variants, each once."""
    return tuple(dict.fromkeys(VARIANTS[name].framework for name in variants))


def best(work: Callable[[], Any], wait: Callable[[], None], times: int = 8) -> float:
    """Least seconds of `times` runs after one to warm up."""
    seconds = []
    for _ in range(times + 1):
        wait()
        start = time.perf_counter()
        work()
        wait()
        seconds.append(time.perf_counter() - start)
    return min(seconds[1:])


def _numpy(size: int, copied: int) -> tuple[float, float]:
    rng = np.random.default_rng(0)
    a, b = (rng.random((size, size), np.float32) for _ in range(2))
    out, source = np.empty_like(a), np.ones(copied // 4, np.float32)
    target = np.empty_like(source)
    product = best(lambda: np.matmul(a, b, out=out), lambda: None)
    return 2.0 * size**3 / product, 2.0 * copied / best(lambda: np.copyto(target, source), lambda: None)
