"""How each bug is made in NumPy, by hand."""

from __future__ import annotations

from parity.mutations import Plantings
from parity.mutations.numpy_side import conv, dense, loss, norm, optim, whole

PLANTINGS: Plantings = {
    name: patches
    for family in (dense, conv, norm, loss, optim, whole)
    for name, patches in family.PLANTINGS.items()
}
