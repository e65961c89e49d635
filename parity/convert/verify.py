"""Does the converted model compute the same? Its layers and its logits against the true values.

A plain model of the experiment, in the target's framework, gets the converted weights and a few images.

layers   In the weights' own precision every layer's output is held to the canonical weights' truth on the
         input that the model itself gave to that layer (teacher forcing), within parity's limits. A kernel
         that lies the wrong way, features in another order or a scale that went for a shift are off by
         thousands of limits, however deep the network is.
logits   In float64, where the limits stay small through the whole network, errors carried from the pixels
         on. The prediction must be the true one wherever a logit leads by more than its limits.

bfloat16 and float16 weights are widened to float32, which is exact. float64 is judged against a truth in
float64 as well: limits twice as wide, at the speed of BLAS.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from parity.bounds.bounded import Bounded
from parity.bounds.rounding import ROUNDINGS, Rounding
from parity.convert import plain
from parity.convert.plan import Side
from parity.convert.units import Array, Arrays, Convention, Order
from parity.suite.evaluation import leads
from parity.suite.network import evaluated
from parity.verification.case import Case, generator
from parity.verification.judge import Item, Label, Result, judge
from parity.verification.place import Place
from triptych.describe.layers import Layer
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
    """Images on which model and truth predict the same class..."""
    images: int
    """...of so many."""
    room: float
    """The largest limit of a logit, over the spread of the true logits: 1e-6 means that a logit wrong by a
    millionth of the spread is caught."""

    @property
    def passed(self) -> bool:
        """Whether everything is within its limit."""
        return all(result.passed for result in self.results)

    def worst(self) -> Result:
        """Of the failures, or else of all."""
        return max(self.results, key=lambda result: (not result.passed, result.share))


def images_for(experiment: Experiment) -> Array:
    """Random images, prepared about as the experiment's are: float64 (IMAGES, 3, 32, 32)."""
    pixels = generator("convert").integers(0, 256, (IMAGES, *IMAGE_SHAPE)).astype(np.float64) - 127.5
    return pixels / 64 if experiment.data.preprocess == "standardize" else pixels


def finite(canonical: Arrays) -> bool:
    """Whether there is anything to compute with: no NaN and no infinity."""
    return all(bool(np.isfinite(array.astype(np.float64)).all()) for array in canonical.values())


def check(experiment: Experiment, canonical: Arrays, side: Side, flatten: Order | None = None) -> Proof:
    """A plain model with the side's weights, held to what `canonical` says it must compute.

    `flatten` is the order in which that model flattens images, by default the side's own.
    """
    layers, convention, flatten = experiment.layers(), side.plan.convention, flatten or side.plan.flatten
    weights, x = side.plain_weights(layers), images_for(experiment)
    wide = any(array.dtype == np.float64 for array in canonical.values())
    label = _label(convention, "float64" if wide else "float32")
    r = fast(label.place.dtype)
    results, before = [], x.astype(r.stored)
    found = plain.outputs(convention, layers, plain.widened(weights, r.stored), before, flatten)
    with np.errstate(all="ignore"):
        for layer, y in zip(layers, found, strict=True):
            truth = evaluated(layer, _own(layer, canonical, r), Bounded.exact(before, r))
            results += judge({layer.name: truth}, {layer.name: y}, label)
            before = y
    last = plain.outputs(convention, layers, plain.widened(weights, np.float64), x, flatten)[-1]
    return _with_logits(results, experiment, canonical, x, last, _label(convention, "float64"))


def check_model(
    experiment: Experiment, canonical: Arrays, model: Callable[[Array], Array], convention: Convention
) -> Proof:
    """A model of the caller's own, held to what `canonical` says, by its logits alone.

    `model` maps prepared images (B, 3, 32, 32), float64, to logits (B, 10); in float64 the check sees more.
    `convention` says whose it is, for the report.
    """
    x = images_for(experiment)
    logits = np.asarray(model(x))
    label = _label(convention, "float64" if logits.dtype == np.float64 else "float32")
    return _with_logits([], experiment, canonical, x, logits, label)


def _with_logits(
    results: list[Result], experiment: Experiment, canonical: Arrays, x: Array, logits: Array, label: Label
) -> Proof:
    r = fast(label.place.dtype)
    truth = true_logits(experiment.layers(), canonical, Bounded.exact(x.astype(r.stored), r))
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


def true_logits(layers: tuple[Layer, ...], canonical: Arrays, x: Bounded) -> Bounded:
    """Logits (B, 10) of prepared images, errors carried through every layer."""
    with np.errstate(all="ignore"):
        for layer in layers:
            x = evaluated(layer, _own(layer, canonical, x.r), x)
    return x


def fast(dtype: str) -> Rounding:
    """The format's arithmetic with a truth in float64."""
    return replace(ROUNDINGS[dtype], truth=np.float64)


def _label(convention: Convention, dtype: str) -> Label:
    return Label(ITEM, Case("convert", "converted weights", {}), convention, Place(dtype))


def _own(layer: Layer, canonical: Arrays, r: Rounding) -> dict[str, Array]:
    names = {key: key.rpartition(".") for key in canonical}
    return {last: r.nearest(canonical[key]) for key, (above, _, last) in names.items() if above == layer.name}
