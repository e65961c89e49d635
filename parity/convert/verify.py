"""Does the converted model compute the same? Its layers and its logits against the true values.

A plain model of the experiment, in the foreign framework, gets the foreign arrays and a few images:
docs/convert.md says what is held to what. bfloat16 and float16 weights are widened to
float32, which is exact. float64 is judged against a truth in float64 as well: limits twice as wide, at the
speed of BLAS.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from parity.bounds.bounded import Bounded
from parity.bounds.rounding import ROUNDINGS, Rounding
from parity.convert import plain
from parity.convert.plan import Side
from parity.convert.units import Array, Arrays, Convention, Layers, Order
from parity.suite.evaluation import leads
from parity.suite.network import evaluated, own
from parity.verification.case import Case, generator
from parity.verification.judge import Item, Label, Result, judge
from parity.verification.place import Place
from parity.verification.table import explain
from triptych.describe.network import IMAGE_SHAPE
from triptych.describe.spec import Experiment

ITEM = Item("convert", lambda inputs, settings, r: {})
"""Its truth is each layer's own."""
IMAGES = 8


@dataclass(frozen=True)
class Proof:
    """What a check found."""

    results: tuple[Result, ...]
    agreeing: int
    """Images, of all, on which model and truth predict the same class."""
    images: int
    room: float
    """The largest limit of a logit, over the spread of the true logits: 1e-6 means that a logit wrong by a
    millionth of the spread is caught."""

    @property
    def passed(self) -> bool:
        return all(result.passed for result in self.results)

    def worst(self) -> Result:
        """Of the failures, or else of all."""
        return max(self.results, key=lambda result: (not result.passed, result.share))

    def line(self, name: str) -> str:
        """What was found of the model called `name`."""
        if not self.passed:
            failed = [f"\n  {explain(result)}" for result in self.results if not result.passed]
            return f"check, {name}: FAILED{''.join(failed[:5])}"
        worst = self.worst()
        return (
            f"check, {name}: holds; {len(self.results)} comparisons, the worst ({worst.quantity}) at "
            f"{worst.share:.3f} of its limit; predictions equal on {self.agreeing} of {self.images} "
            f"images; a logit's limit is {self.room:.1e} of the logits' spread"
        )


def images_for(experiment: Experiment) -> Array:
    """Random images, prepared about as the experiment's are: float64 (IMAGES, 3, 32, 32)."""
    pixels = generator("convert").integers(0, 256, (IMAGES, *IMAGE_SHAPE)).astype(np.float64) - 127.5
    return pixels / 64 if experiment.data.preprocess == "standardize" else pixels


def check(experiment: Experiment, canonical: Arrays, side: Side, flatten: Order | None = None) -> Proof:
    """A plain model with the side's weights, held to what `canonical` says it must compute.

    `flatten` is the order in which that model flattens images, by default the side's own.
    """
    layers, convention, flatten = experiment.layers(), side.plan.convention, flatten or side.plan.flatten
    weights, x = side.plain_weights(layers), images_for(experiment)
    run = plain.framework(convention).outputs

    def outputs(dtype: Any) -> list[Array]:
        typed = plain.widened(weights, dtype)
        found: list[Array] = run(convention, layers, typed, x.astype(dtype), flatten)
        return found

    wide = any(array.dtype == np.float64 for array in canonical.values())
    label = _label(convention, "float64" if wide else "float32")
    r = fast(label.place.dtype)
    results, before = [], x.astype(r.stored)
    with np.errstate(all="ignore"):
        for layer, y in zip(layers, outputs(r.stored), strict=True):
            truth = evaluated(layer, own(layer, canonical), Bounded.exact(before, r))
            results += judge({layer.name: truth}, {layer.name: y}, label)
            before = y
    return _with_logits(results, experiment, canonical, outputs(np.float64)[-1], convention)


def check_model(
    experiment: Experiment, canonical: Arrays, model: Callable[[Array], Array], convention: Convention
) -> Proof:
    """A model of the caller's own, held to what `canonical` says, by its logits alone.

    `model` maps prepared images (B, 3, 32, 32), float64, to logits (B, 10); in float64 the check sees more.
    `convention` says whose it is, for the report.
    """
    logits = np.asarray(model(images_for(experiment)))
    return _with_logits([], experiment, canonical, logits, convention)


def _with_logits(
    results: list[Result], experiment: Experiment, canonical: Arrays, logits: Array, convention: Convention
) -> Proof:
    label = _label(convention, "float64" if logits.dtype == np.float64 else "float32")
    r = fast(label.place.dtype)
    x = Bounded.exact(images_for(experiment).astype(r.stored), r)
    truth = true_logits(experiment.layers(), canonical, x)
    results += judge({"logits": truth}, {"logits": logits}, label)
    agree = 0
    if logits.shape == truth.shape:
        equal, sure = logits.argmax(axis=1) == truth.value.argmax(axis=1), leads(truth) > 0
        agree, wrong = int(equal.sum()), int((sure & ~equal).sum())
        note = f"{wrong} of {sure.sum()} predictions that are sure are wrong"
        results.append(
            label.failure("predictions", note) if wrong else label.result("predictions", True, 0.0)
        )
    spread = float(np.ptp(truth.value))
    room = float(truth.error.max()) / spread if spread else float("inf")
    return Proof(tuple(results), agree, len(x), room)


def true_logits(layers: Layers, canonical: Arrays, x: Bounded) -> Bounded:
    """Logits (B, 10) of prepared images, errors carried through every layer."""
    with np.errstate(all="ignore"):
        for layer in layers:
            x = evaluated(layer, own(layer, canonical), x)
    return x


def fast(dtype: str) -> Rounding:
    """The format's arithmetic with a truth in float64."""
    return replace(ROUNDINGS[dtype], truth=np.float64)


def _label(convention: Convention, dtype: str) -> Label:
    return Label(ITEM, Case("convert", "converted weights", {}), convention, Place(dtype))
