"""Does an exported model compute what the run does? Its logits beside the run's, and what rounding explains.

Rounding is measured: r is the largest difference, on a few images, between the network's logits by NumPy in
float32 and in float64. An export with the run's formula gives, in float64, logits within r of NumPy's in
float64: what differs by less no float32 program shows. The export as it is written may sum in another order
than NumPy, and the rounding errors of a sum of K terms grow like a random walk, as sqrt(K), in the worst
order: its logits lie within r sqrt(K) of those in float64, K being the network's longest sum.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from triptych.describe.spec import Dtype
from triptych.use.trained import Trained

FEW = 16
Run = Callable[[np.ndarray], np.ndarray]
"""uint8 images (N, 3, 32, 32) to logits (N, 10)."""


@dataclass(frozen=True)
class Agreement:
    """What a check found; each number is the largest over logits."""

    rounding: float
    """r: float32 against float64, by NumPy."""
    formula: float
    """The export in float64 against NumPy in float64."""
    written: float
    """The export as it is written against NumPy in float64."""
    allowed: float
    """r sqrt(K)."""
    difference: float
    """The export as it is written against the run, on all images."""
    same: int
    """Images, of all, for which export and run name the same class."""
    images: int

    @property
    def passed(self) -> bool:
        """NaN fails."""
        return self.formula <= self.rounding and self.written <= self.allowed

    @property
    def fault(self) -> str:
        """What a check that did not pass says."""
        if not self.formula <= self.rounding:
            return "its formula differs by more than float32 rounds"
        return f"it is {self.written:.1e} from float64, where rounding allows {self.allowed:.1e}"

    def lines(self, beside: str) -> list[str]:
        """For a terminal; `beside` is the backend and the kind of images."""
        return [
            f"beside {beside}: largest difference of a logit {self.difference:.1e}, the same class for "
            f"{self.same} of {self.images}",
            f"its formula, in float64: {self.formula:.1e} from the run's at most; float32 rounds by "
            f"{self.rounding:.1e} here",
        ]


def compare(model: Trained, images: np.ndarray, ours: np.ndarray, written: Run, in_float64: Run) -> Agreement:
    """Hold an export to the run: `ours` are the run's logits (N, 10) of all the uint8 images; `written` runs
    the export, `in_float64` the same export with everything in float64.
    """
    few, theirs = images[:FEW], written(images).astype(np.float64)
    exact, rounded = (_by_numpy(model, few, dtype).astype(np.float64) for dtype in ("float64", "float32"))
    one_ulp = float(
        np.finfo(np.float32).eps * np.abs(exact).max()
    )  # all of float32's error may be in storing
    rounding = max(_gap(rounded, exact), one_ulp)
    longest = max(layer.traits.products for layer in model.experiment.layers())
    return Agreement(
        rounding,
        _gap(in_float64(few), exact),
        _gap(theirs[:FEW], exact),
        rounding * math.sqrt(longest),
        _gap(theirs, ours.astype(np.float64)),
        int((theirs.argmax(axis=1) == ours.argmax(axis=1)).sum()),
        len(images),
    )


def _by_numpy(model: Trained, images: np.ndarray, dtype: Dtype) -> np.ndarray:
    spec = model.experiment
    typed = replace(model, experiment=replace(spec, training=replace(spec.training, dtype=dtype)))
    return typed.logits(images, "numpy")


def _gap(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a - b).max())
