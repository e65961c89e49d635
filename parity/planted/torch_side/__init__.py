"""How each bug is made in PyTorch: modules under autograd, and hand-derived gradients."""

from __future__ import annotations

from parity.planted import Plantings
from parity.planted.torch_side import conv, dense, loss, norm, optim, whole

PLANTINGS: Plantings = {
    name: patches
    for family in (dense, conv, norm, loss, optim, whole)
    for name, patches in family.PLANTINGS.items()
}
