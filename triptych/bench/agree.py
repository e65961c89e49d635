"""Whether two variants train the same steps: a fast wrong step is no result.

Every process first trains the same few steps from the same initial parameters on the same batches and hands
in their losses; one of them, the reference, also the losses of these batches without any training. Two limits
follow from the precision, the coarser of the two sides':

1. the first loss, which no update has touched, may differ by FIRST[precision] of itself: hundreds of
   float32's roundings, for the long sums, a few of the coarser ones, whose products are summed in float32;
2. every later one by SHARE[precision] of what training has changed by then, the largest distance so far
   between the reference's loss and that of the untrained network, and the first limit besides. Rounding
   differences grow from step to step (Adam's first steps have full size whatever the gradient's), and this
   yardstick grows with them; a step that trains nothing, or at half the rate, is farther off than its tenth.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

STEPS = 10
"""Steps compared."""

UNIT = {"float32": 2.0**-24, "tf32": 2.0**-11, "bfloat16": 2.0**-8}
"""Half a spacing of the numbers that products are taken of, relative."""
FIRST = {"float32": 512 * UNIT["float32"], "tf32": 8 * UNIT["tf32"], "bfloat16": 8 * UNIT["bfloat16"]}
SHARE = {"float32": 0.1, "tf32": 0.1, "bfloat16": 0.25}


def disagreement(
    losses: Sequence[float] | np.ndarray,
    reference: Sequence[float] | np.ndarray,
    untrained: Sequence[float] | np.ndarray,
    precision: str,
    reference_precision: str,
) -> str | None:
    """What is wrong with `losses`, in a sentence, or None. All three have one loss a step."""
    mine, theirs, frozen = (np.asarray(values, np.float64) for values in (losses, reference, untrained))
    if not len(mine) == len(theirs) == len(frozen):
        return f"{len(mine)} losses, the reference has {len(theirs)}"
    limits = allowed(theirs, frozen, max((precision, reference_precision), key=UNIT.__getitem__))
    for step, (a, b, limit) in enumerate(zip(mine, theirs, limits, strict=True), start=1):
        if not abs(a - b) <= limit:  # NaN too
            return f"loss {a:.6g} at step {step}, the reference has {b:.6g} (limit {limit:.1e})"
    return None


def allowed(reference: np.ndarray, untrained: np.ndarray, precision: str) -> np.ndarray:
    """The limit of each step's difference."""
    trained = np.maximum.accumulate(np.abs(reference - untrained))
    return FIRST[precision] * np.abs(reference) + SHARE[precision] * trained
