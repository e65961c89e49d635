"""How each bug is made in JAX: modules with JAX's gradients, and hand-derived ones."""

from __future__ import annotations

from parity.planted import Plantings
from parity.planted.jax_side import conv, dense, loss, norm, optim, whole

PLANTINGS: Plantings = {
    name: patches
    for family in (dense, conv, norm, loss, optim, whole)
    for name, patches in family.PLANTINGS.items()
}
