"""What comes before the first layer: learning rates, initial parameters, prepared pixels.

rates      the formulas of experiment.schedule, in float64
initial    each backend's start is the float64 draw rounded once to its format
draws      uniform ones inside +-c; mean and variance of n draws within SIGMAS standard errors
pixels     (pixel - mean) scale; mean = sum / n and scale = 1 / sqrt(variance) in float64, rounded once
"""

from __future__ import annotations

import math

import numpy as np

from experiment.spec import Schedule
from parity.bounded import Bounded, either, stack
from parity.rounding import POWER_ULPS, ROUNDINGS, Array, Rounding
from parity.truth import Inputs, Settings

SIGMAS = 6.2
"""A normal deviate is farther out with probability 6e-10: one false alarm in a billion comparisons. The
draws are seeded, so that what passes once passes always."""


def learning_rates(inputs: Inputs, settings: Settings, r: Rounding) -> dict[str, Bounded]:
    """Settings schedule, learning_rate and steps to one rate for each step."""
    schedule: Schedule = settings["schedule"]
    peak, steps = Bounded.constant(settings["learning_rate"], r), settings["steps"]
    return {"rates": stack([_rate(schedule, peak, s, steps) for s in range(steps)])}


def _rate(schedule: Schedule, peak: Bounded, s: int, steps: int) -> Bounded:
    r, warmup = peak.r, schedule.warmup_steps
    if s < warmup:
        return peak * (s + 1) / warmup
    if schedule.schedule == "constant":
        return peak
    if schedule.schedule == "step":
        power = r.truth(schedule.decay_factor) ** ((s - warmup) // schedule.decay_every)
        return peak * peak.rounded(power, power * 0, POWER_ULPS)
    final = Bounded.constant(schedule.final_learning_rate, r)
    pi = Bounded.constant(4 * np.arctan(r.truth(1)), r)
    cosine = (pi * (Bounded.exact(s - warmup, r) / max(steps - warmup, 1))).cos()
    return final + either((peak - final) * (1.0 + cosine) / 2.0, (peak - final) * ((1.0 + cosine) * 0.5))


def start(inputs: Inputs, settings: Settings, r: Rounding) -> dict[str, Bounded]:
    """float64 parameters, as drawn, to each as a backend holds it: the nearest number, and no other."""
    return {
        name: Bounded(r.wide.nearest(draw).astype(r.truth), np.zeros(draw.shape), r)
        for name, draw in inputs.items()
    }


def draws(inputs: Inputs, settings: Settings, r: Rounding) -> dict[str, Bounded]:
    """Settings standard_deviation, bound (or None) and count to `mean`, `variance` and `beyond` (1,).

    Of n draws with standard deviation s and kurtosis k the mean has standard error s / sqrt(n) and the mean
    square s^2 sqrt((k - 1) / n).
    """
    deviation, n = settings["standard_deviation"], settings["count"]
    uniform = settings["bound"] is not None
    kurtosis = 1.8 if uniform else 3.0

    def around(value: float, error: float) -> Bounded:
        return Bounded(np.array([value], r.truth), np.array([error]), r)

    return {
        "mean": around(0.0, SIGMAS * deviation / math.sqrt(n)),
        "variance": around(deviation**2, SIGMAS * deviation**2 * math.sqrt((kurtosis - 1) / n)),
        "beyond": around(0.0, 0.0),
    }


def pixels(inputs: Inputs, settings: Settings, r: Rounding) -> dict[str, Bounded]:
    """images uint8 (N, 3, 32, 32) to x, the prepared images; test_images, as many, have no say."""
    host, wide, images = ROUNDINGS["float64"], r.wide, inputs["images"]
    n = len(images)
    total = images.sum(axis=0, dtype=np.int64)
    if settings["preprocess"] == "mean-image":
        mean = (Bounded.exact(total, host) / n).to(wide)
        return {"x": Bounded.exact(images, wide) - mean}
    count = n * images[0, 0].size
    channel = total.sum(axis=(1, 2)).reshape(-1, 1, 1)
    mean = (Bounded.exact(channel, host) / count).to(wide)
    scale = (1 / (_variance(images, channel, count, host)).sqrt()).to(wide)
    return {"x": (Bounded.exact(images, wide) - mean) * scale}


def _variance(images: Array, channel: Array, count: int, host: Rounding) -> Bounded:
    """(n sum x^2 - (sum x)^2) / n^2 from exact integers, divided once."""
    squares = np.square(images, dtype=np.int64).sum(axis=(0, 2, 3)).reshape(-1, 1, 1)
    assert count * int(squares.max()) < 2**62, "the integers of so many images do not fit"
    return Bounded.exact(count * squares - channel**2, host) / float(count**2)
