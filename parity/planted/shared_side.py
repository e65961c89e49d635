"""How each bug is made in what is computed once for all backends."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np

from parity.planted import Patch, Plantings
from triptych.cifar10 import preprocess
from triptych.describe import init, schedule
from triptych.describe.spec import Experiment

Array = np.ndarray[Any, Any]
RATES, DRAW = schedule.learning_rates, init._draw
FIT, PREPARE = preprocess.fit, preprocess.prepare


def _warm_up_from_zero(experiment: Experiment, first: int, count: int) -> Array:
    rates, warmup = RATES(experiment, first, count), experiment.schedule.warmup_steps
    steps = np.arange(first, first + count)
    return np.where(steps < warmup, rates * steps / (steps + 1), rates)


def _fan_out(experiment: Experiment, name: str, shape: tuple[int, ...], fan_in: int) -> Array:
    fan_out = shape[0] * math.prod(shape[2:])
    return DRAW(experiment, name, shape, fan_out if experiment.initialization.init == "framework" else fan_in)


def _gaussian(experiment: Experiment, name: str, shape: tuple[int, ...], fan_in: int) -> Array:
    draw = DRAW(experiment, name, shape, fan_in)
    if experiment.initialization.init not in ("framework", "glorot") or not draw.any():
        return draw
    return np.random.default_rng(draw.size).normal(0.0, draw.std(), shape)


def _without_slope(experiment: Experiment, name: str, shape: tuple[int, ...], fan_in: int) -> Array:
    return DRAW(replace(experiment, model=replace(experiment.model, slope=0.0)), name, shape, fan_in)


def _channel_mean(images: Array, kind: str) -> tuple[Array, Array | None]:
    mean, scale = FIT(images, kind)
    return np.broadcast_to(mean.mean(axis=(1, 2), keepdims=True), mean.shape).copy(), scale


def _prepare_by_test(dataset: Any, kind: str, validation: int = 0) -> Any:
    """The statistics of the wrong split."""
    prepared = PREPARE(dataset, kind, validation)
    mean, scale = FIT(dataset.test_images, kind)
    return replace(prepared, mean=mean, scale=scale)


PIXELS: Plantings = {
    "pixels-channel-mean": [Patch(preprocess, "fit", _channel_mean)],
    "pixels-mean-of-test": [Patch(preprocess, "prepare", _prepare_by_test)],
}
"""Every backend gets these pixels."""

PLANTINGS: Plantings = {
    "schedule-off-by-one": [
        Patch(
            schedule, "learning_rates", lambda experiment, first, count: RATES(experiment, first + 1, count)
        )
    ],
    "schedule-warm-up-from-zero": [Patch(schedule, "learning_rates", _warm_up_from_zero)],
    "init-fan-out": [Patch(init, "_draw", _fan_out)],
    "init-gaussian": [Patch(init, "_draw", _gaussian)],
    "init-he-without-slope": [Patch(init, "_draw", _without_slope)],
}
