"""How each bug is made in NumPy, by hand."""

from __future__ import annotations

from parity.planted import Plantings
from parity.planted.numpy_side import conv, dense, loss, norm, optim, whole

PLANTINGS: Plantings = {
    name: patches
    for family in (dense, conv, norm, loss, optim, whole)
    for name, patches in family.PLANTINGS.items()
}
