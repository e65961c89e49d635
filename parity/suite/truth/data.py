"""What comes before the first layer: learning rates, initial parameters, prepared pixels.

rates      the formulas of triptych.describe.schedule, in float64
initial    each backend's start is the float64 draw rounded once to its format
draws      uniform ones inside +-c; mean and variance of n draws within SIGMAS standard errors
pixels     (pixel - mean) scale; mean = sum / n and scale = 1 / sqrt(variance) in float64, rounded once;
           cropped and flipped, if at all, before that (parity.suite.truth.augment)
"""

from __future__ import annotations

import math

import numpy as np

from parity.bounds.bounded import Bounded, either, stack
from parity.bounds.rounding import POWER_ULPS, ROUNDINGS, Array, Rounding
from parity.suite.truth.augment import moved
from parity.verification.place import Inputs, Settings
from triptych.describe.spec import Schedule

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
    kurtosis = 1.8 if settings["bound"] is not None else 3.0
    return _moments(settings["standard_deviation"], kurtosis, settings["count"], r)


def augmentation_draws(inputs: Inputs, settings: Settings, r: Rounding) -> dict[str, Bounded]:
    """Setting places, the number of equally likely whole numbers 0..places-1 (two: flips), and count, to
    `mean` and `variance` about the middle and `beyond` (1,).

    Their variance is (m^2 - 1) / 12 and their kurtosis 3/5 (3 m^2 - 7) / (m^2 - 1) of m places.
    """
    square = settings["places"] ** 2
    kurtosis = 0.6 * (3 * square - 7) / (square - 1)
    return _moments(math.sqrt((square - 1) / 12), kurtosis, settings["count"], r)


def _moments(deviation: float, kurtosis: float, n: int, r: Rounding) -> dict[str, Bounded]:
    def around(value: float, error: float) -> Bounded:
        return Bounded(np.array([value], r.truth), np.array([error]), r)

    return {
        "mean": around(0.0, SIGMAS * deviation / math.sqrt(n)),
        "variance": around(deviation**2, SIGMAS * deviation**2 * math.sqrt((kurtosis - 1) / n)),
        "beyond": around(0.0, 0.0),
    }


def pixels(inputs: Inputs, settings: Settings, r: Rounding) -> dict[str, Bounded]:
    """images uint8 (N, 3, 32, 32), perhaps shifts (N, 2) and flips (N,), to x, the prepared images;
    test_images have no say.
    """
    mean, scale = fitted(inputs["images"], settings["preprocess"])
    seen = moved(inputs["images"], inputs.get("shifts"), inputs.get("flips"), settings.get("border", 0))
    return {"x": prepared(seen, mean, scale, r)}


def fitted(images: Array, preprocess: str) -> tuple[Bounded, Bounded | None]:
    """The map that training images uint8 (N, 3, 32, 32) call for: mean and scale, as on the host."""
    host, n = ROUNDINGS["float64"], len(images)
    total = images.sum(axis=0, dtype=np.int64)
    if preprocess == "mean-image":
        return Bounded.exact(total, host) / n, None
    count = n * images[0, 0].size
    channel = total.sum(axis=(1, 2)).reshape(-1, 1, 1)
    return Bounded.exact(channel, host) / count, 1 / (_variance(images, channel, count, host)).sqrt()


def prepared(images: Array, mean: Bounded, scale: Bounded | None, r: Rounding) -> Bounded:
    """(pixel - mean) scale of uint8 images (N, 3, 32, 32)."""
    x = Bounded.exact(images, r.wide) - mean.to(r.wide)
    return x if scale is None else x * scale.to(r.wide)


def _variance(images: Array, channel: Array, count: int, host: Rounding) -> Bounded:
    """(n sum x^2 - (sum x)^2) / n^2 from exact integers, divided once."""
    squares = np.zeros((images.shape[1], 1, 1), np.int64)
    for part in np.array_split(images, max(1, len(images) // 2000)):
        squares += np.square(part, dtype=np.int64).sum(axis=(0, 2, 3)).reshape(-1, 1, 1)
    limit = count * int(squares.max())
    exact = [count * int(q) - int(s) ** 2 for q, s in zip(squares.ravel(), channel.ravel(), strict=True)]
    if limit < 2**62:
        return Bounded.exact(np.array(exact).reshape(-1, 1, 1), host) / float(count**2)
    # Integers beyond NumPy's: the nearest numbers of the truth's format, one rounding each.
    value = np.array([host.truth(e // 2**40) * 2**40 + host.truth(e % 2**40) for e in exact])
    rounded = Bounded.exact(0.0, host).rounded(
        value.reshape(-1, 1, 1), 0 * value.reshape(-1, 1, 1).astype(float)
    )
    return rounded / Bounded.exact(0.0, host).rounded(host.truth(count) ** 2, 0.0)
