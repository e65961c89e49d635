"""What the machine can do at best: a large matrix product and a large copy, timed in the same run."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from triptych.bench.cases import VARIANTS

SIZES = {"cpu": (2048, 2**27), "gpu": (8192, 2**30)}
"""Device to the side of the matrices and the bytes copied: large enough for full speed, 0.1 s at most."""
QUICK = (512, 2**23)


def measure(
    framework: str, device: str, precisions: Sequence[str], quick: bool = False
) -> dict[str, dict[str, float]]:
    """By precision: FLOP/s of a product of two square matrices and bytes/s, read and written, of a copy, as
    this framework reaches them. Every row is held against the highest of all frameworks.
    """
    size, copied = QUICK if quick else SIZES[device]
    found = {}
    for precision in precisions:
        seconds = {"numpy": _numpy, "jax": _jax, "torch": _torch}[framework](device, precision, size, copied)
        found[precision] = {
            "flops_per_s": 2.0 * size**3 / seconds[0],
            "bytes_per_s": 2.0 * copied / seconds[1],
        }
    return found


def frameworks(variants: tuple[str, ...]) -> tuple[str, ...]:
    """The frameworks behind these variants, each once."""
    return tuple(dict.fromkeys(VARIANTS[name].framework for name in variants))


def _best(work: Callable[[], Any], wait: Callable[[], None] = lambda: None, times: int = 8) -> float:
    """Least seconds of `times` runs after one to warm up."""
    seconds = []
    for _ in range(times + 1):
        wait()
        start = time.perf_counter()
        work()
        wait()
        seconds.append(time.perf_counter() - start)
    return min(seconds[1:])


def _numpy(device: str, precision: str, size: int, copied: int) -> tuple[float, float]:
    rng = np.random.default_rng(0)
    a, b = (rng.random((size, size), np.float32) for _ in range(2))
    out, source = np.empty_like(a), np.ones(copied // 4, np.float32)
    target = np.empty_like(source)
    return _best(lambda: np.matmul(a, b, out=out)), _best(lambda: np.copyto(target, source))


def _jax(device: Any, precision: str, size: int, copied: int) -> tuple[float, float]:
    import jax
    import jax.numpy as jnp

    from jax_models.backend import find_devices

    dtype = jnp.bfloat16 if precision == "bfloat16" else jnp.float32
    name = "tensorfloat32" if precision == "tf32" else "highest"
    with jax.default_device(find_devices(device)[0]), jax.default_matmul_precision(name):
        a, b = (jax.random.uniform(jax.random.key(i), (size, size)).astype(dtype) for i in range(2))
        multiply = jax.jit(jnp.matmul)
        product = _best(lambda: multiply(a, b).block_until_ready())
        source = jnp.ones(copied // 4, jnp.float32)
        # Negating reads and writes each byte once; a plain copy could be left out by the compiler.
        negate = jax.jit(jnp.negative)
        return product, _best(lambda: negate(source).block_until_ready())


def _torch(device: str, precision: str, size: int, copied: int) -> tuple[float, float]:
    import torch

    from torch_models.precision import pinned
    from triptych.bench.torch_side import find_device

    on = find_device(device)
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    a, b = (torch.rand(size, size, device=on).to(dtype) for _ in range(2))
    source = torch.ones(copied // 4, device=on)
    target = torch.empty_like(source)

    def wait() -> None:
        if on.type == "cuda":
            torch.cuda.synchronize()

    with pinned(precision == "tf32"):
        out = torch.empty_like(a)
        product = _best(lambda: torch.mm(a, b, out=out), wait)
    return product, _best(lambda: target.copy_(source), wait)
