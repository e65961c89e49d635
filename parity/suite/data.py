"""What comes before the first layer: learning rates and initial parameters.

rates      the formulas of triptych.describe.schedule, in float64
initial    each backend's start is the float64 draw rounded once to its format
constants  gamma and the running variance start at 1, beta and the running mean at 0
order      each epoch in the order of its own random keys, cut into batches without a gap
split      the last images are the validation set; the rest alone makes the mean
draws      uniform ones inside +-c; mean and variance of n draws within SIGMAS standard errors

By hand: nothing here is a function of an input with a gradient.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator

import numpy as np

from parity.bounds.bounded import Bounded, either, stack
from parity.bounds.rounding import POWER_ULPS, Array, Rounding
from parity.suite.operator import HOST, NETWORK, Operator
from parity.verification.case import Case, generator
from parity.verification.judge import Item
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
    return moments(settings["standard_deviation"], kurtosis, settings["count"], r)


def moments(deviation: float, kurtosis: float, n: int, r: Rounding) -> dict[str, Bounded]:
    """Within SIGMAS standard errors of theirs, of n draws."""

    def around(value: float, error: float) -> Bounded:
        return Bounded(np.array([value], r.truth), np.array([error]), r)

    return {
        "mean": around(0.0, SIGMAS * deviation / math.sqrt(n)),
        "variance": around(deviation**2, SIGMAS * deviation**2 * math.sqrt((kurtosis - 1) / n)),
        "beyond": around(0.0, 0.0),
    }


def constants(inputs: Inputs, settings: Settings, r: Rounding) -> dict[str, Bounded]:
    """Of a batch norm of so many channels, the start of each of its arrays."""
    starts = {"gamma": 1.0, "beta": 0.0, "running_mean": 0.0, "running_var": 1.0}
    return {name: Bounded.exact(np.full(settings["channels"], value), r) for name, value in starts.items()}


def batch_order(inputs: Inputs, settings: Settings, r: Rounding) -> dict[str, Bounded]:
    """Settings seed, size, batch_size and steps to the images of each step, (steps, batch_size)."""
    size, batch, steps = (settings[name] for name in ("size", "batch_size", "steps"))
    epochs = [_shuffled(settings["seed"], epoch, size) for epoch in range(-(-batch * steps // size))]
    indices = np.concatenate(epochs)[: batch * steps].reshape(steps, batch)
    return {"indices": Bounded.exact(indices.astype(np.float64), r)}


def _shuffled(seed: int, epoch: int, size: int) -> Array:
    """0 .. size - 1 by increasing keys: raw words of the generator that (seed, stream, epoch) seeds."""
    source = np.random.PCG64(np.random.SeedSequence([seed, zlib.crc32(b"batches"), epoch]))
    keys = [int(source.random_raw()) for _ in range(size)]
    return np.array(sorted(range(size), key=keys.__getitem__))


def split(inputs: Inputs, settings: Settings, r: Rounding) -> dict[str, Bounded]:
    """images, test_images (N, ...), labels, test_labels and setting validation to each split and the mean."""
    images, labels = inputs["images"], inputs["labels"]
    kept = len(images) - settings["validation"]
    found = {"train": images[:kept], "train labels": labels[:kept], "test": inputs["test_images"]}
    found |= {"test labels": inputs["test_labels"]}
    if settings["validation"]:
        found |= {"validation": images[kept:], "validation labels": labels[kept:]}
    mean = Bounded.exact(images[:kept].sum(axis=0, dtype=np.int64), r) / kept
    exact = {name: Bounded.exact(array.astype(np.float64), r) for name, array in found.items()}
    return exact | {"mean": mean}


# --- cases ---


def _schedules() -> Iterator[Case]:
    rows = {
        "constant": Schedule(),
        "constant, warm-up": Schedule(warmup_steps=7),
        "step": Schedule("step", decay_every=4, decay_factor=0.3),
        "cosine": Schedule("cosine", final_learning_rate=1e-5),
        "cosine, warm-up": Schedule("cosine", warmup_steps=5),
        "nothing but warm-up": Schedule("cosine", warmup_steps=23),
    }
    for name, schedule in rows.items():
        settings = {"schedule": schedule, "learning_rate": 2e-3, "steps": 23}
        yield Case("learning_rate", name, {}, settings, quick=True)


def _draws() -> Iterator[Case]:
    """linear1 is (100, 3072); linear2 (10, 100)."""
    slope, fan_in, fan_out = 0.5, 3072, 100  # a slope that counts among the limits of a sample
    rows: dict[str, tuple[float, float | None]] = {
        "normal": (1e-2, None),
        "framework": (1 / math.sqrt(3 * fan_in), 1 / math.sqrt(fan_in)),
        "he": (math.sqrt(2 / ((1 + slope**2) * fan_in)), None),
        "glorot": (math.sqrt(2 / (fan_in + fan_out)), math.sqrt(6 / (fan_in + fan_out))),
    }
    for init, (deviation, bound) in rows.items():
        settings = {
            "init": init, "init_std": 1e-2, "hidden": (100,), "slope": slope, "layer": "linear1",
            "of": "weights", "standard_deviation": deviation, "bound": bound, "count": fan_in * fan_out,
        }  # fmt: skip
        yield Case("initial_draws", f"{init}, weights", {}, settings, quick=True)
        biases = {"of": "biases", "count": fan_out}
        if init != "framework":
            biases |= {"standard_deviation": 0.0, "bound": 0.0}
        yield Case("initial_draws", f"{init}, biases", {}, settings | biases, quick=True)


def _starts() -> Iterator[Case]:
    rng = generator("start")
    halfway = 1 + 2.0**-24 * (2 * np.arange(30720) + 1)  # between two float32 numbers
    weight = np.where(rng.random(30720) > 0.5, rng.normal(size=30720), halfway).reshape(10, 3072)
    parameters = {"linear1.weight": weight, "linear1.bias": rng.normal(size=10)}
    yield Case("initial_parameters", "rounded once", parameters, quick=True)


def _constants() -> Iterator[Case]:
    yield Case("initial_constants", "batch norm", {}, {"channels": 5}, quick=True)


def _orders() -> Iterator[Case]:
    rows = {"a batch over two epochs": (10, 4, 8), "whole epochs": (6, 3, 6), "one batch an epoch": (5, 5, 4)}
    for name, (size, batch, steps) in rows.items():
        settings = {"seed": 7, "size": size, "batch_size": batch, "steps": steps}
        yield Case("batch_order", name, {}, settings, quick=True)


def _splits() -> Iterator[Case]:
    rng = generator("split")
    inputs: dict[str, Array] = {
        "images": rng.integers(0, 256, (9, 3, 4, 5), dtype=np.uint8),
        "labels": np.arange(9, dtype=np.uint8),
        "test_images": rng.integers(0, 256, (4, 3, 4, 5), dtype=np.uint8),
        "test_labels": np.arange(4, dtype=np.uint8)[::-1].copy(),
    }
    for validation in (0, 2):
        settings = {"validation": validation}
        yield Case("validation_split", f"{validation} kept back", inputs, settings, quick=True)


OPERATORS = (
    Operator(Item("learning_rate", learning_rates, HOST, elementwise=True), _schedules),
    Operator(Item("initial_draws", draws, HOST), _draws),
    Operator(Item("initial_constants", constants, HOST), _constants),
    Operator(Item("batch_order", batch_order, HOST), _orders),
    Operator(Item("validation_split", split, HOST), _splits),
    Operator(Item("initial_parameters", start, NETWORK, elementwise=True), _starts),
)
