"""What the bench asks of JAX beside the backend: the device's ceilings, and its peak memory."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from triptych.bench.ceilings import best
from triptych.errors import UserError


def find_device(name: str) -> jax.Device:
    """The first device of that platform; raises UserError where JAX has none."""
    try:
        return jax.devices(name)[0]
    except RuntimeError:
        raise UserError(
            f"device: JAX finds no {name} here; use --device cpu, or install JAX's CUDA build"
        ) from None


def ceilings(device: str, precision: str, size: int, copied: int) -> tuple[float, float]:
    """Best FLOP/s of a product of two (size, size) matrices, and best bytes/s, read and written, of a copy
    of `copied` bytes.
    """
    on = find_device(device)
    dtype = jnp.bfloat16 if precision == "bfloat16" else jnp.float32
    name = "tensorfloat32" if precision == "tf32" else "highest"
    with jax.default_device(on), jax.default_matmul_precision(name):
        a, b = (jax.random.uniform(jax.random.key(i), (size, size)).astype(dtype) for i in range(2))
        multiply = jax.jit(jnp.matmul)
        product = best(lambda: multiply(a, b).block_until_ready(), lambda: None)
        source = jnp.ones(copied // 4, jnp.float32)
        # Negating reads and writes each byte once; a plain copy could be left out by the compiler.
        negate = jax.jit(jnp.negative)
        copy = best(lambda: negate(source).block_until_ready(), lambda: None)
    return 2.0 * size**3 / product, 2.0 * copied / copy


def peak_bytes(device: str) -> int | None:
    """The most device memory in use so far; None where the platform does not say (a CPU)."""
    statistics = find_device(device).memory_stats()
    return None if statistics is None else int(statistics["peak_bytes_in_use"])
