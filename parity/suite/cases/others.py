"""Cases of losses, optimizers, schedules, initial parameters and preprocessing."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from parity.bounds.rounding import Array
from parity.verification.case import Case, Layout, generator, planted
from triptych.describe.spec import Optimization, Schedule


def cases() -> Iterator[Case]:
    """All of them."""
    yield from _losses()
    yield from _penalty()
    yield from _optimizers()
    yield from _schedules()
    yield from _draws()
    yield from _starts()
    yield from _preprocessing()


def _losses() -> Iterator[Case]:
    rng = generator("loss")
    whole = rng.integers(-2, 3, (6, 10)).astype(float)
    logits: dict[str, Array] = {
        "ordinary": 3 * rng.normal(size=(7, 10)),
        "whole numbers: margins of exactly 0, equal logits": whole,
        "one sample": rng.normal(size=(1, 10)),
        "one class": rng.normal(size=(4, 1)),
        "all equal": np.full((3, 10), 0.3),
        "near 1000": 1000 + rng.normal(size=(5, 10)),
        "huge": 1e4 * rng.normal(size=(5, 10)),
        "tiny": 1e-30 * rng.normal(size=(5, 10)),
        "the study's batch": rng.normal(size=(200, 10)),
        "far apart, yet above underflow": rng.uniform(-70, 0, (60, 10)),
        "not contiguous": rng.normal(size=(6, 7)),
    }
    quick = {"cross_entropy": "near 1000", "squared_error": "ordinary", "hinge": "whole numbers"}
    for name, s in logits.items():
        labels = generator("labels", name).integers(0, s.shape[1], len(s))
        layout: Layout = "strided" if name == "not contiguous" else "plain"
        for kind in ("cross_entropy", "squared_error", "hinge"):
            settings: dict[str, Any] = {} if kind == "hinge" else {"smoothing": 0.0}
            fast = name.startswith(quick[kind])
            yield Case(kind, name, {"s": s, "labels": labels}, settings, layout, fast)
            if kind != "hinge" and name in ("ordinary", "near 1000", "one class"):
                smooth = {"smoothing": 0.1}
                fast = (kind, name) == ("cross_entropy", "ordinary")
                yield Case(kind, f"{name}, smoothed", {"s": s, "labels": labels}, smooth, layout, fast)
        dp = generator("dp", name).normal(size=(len(s), s.shape[1]))
        yield Case("softmax", name, {"s": s, "dp": dp}, {}, layout, name == "ordinary")


def _penalty() -> Iterator[Case]:
    for name, shape, scale in (
        ("ordinary", (7, 5), 1.0),
        ("kernel", (3, 2, 3, 3), 1.0),
        ("tiny", (4, 4), 1e-25),
    ):
        W = planted(scale * generator("l2", name).normal(size=shape), generator("l2"), 0.0)
        yield Case("l2", name, {"W": W}, {"l2": 3e-3}, quick=name == "ordinary")


def _optimizers() -> Iterator[Case]:
    decay = 1e-2
    rows = {
        "sgd": Optimization("sgd", 0.1),
        "sgd, weight decay": Optimization("sgd", 0.1, weight_decay=decay),
        "sgd, momentum": Optimization("sgd", 0.1, momentum=0.9, weight_decay=decay),
        "sgd, Nesterov": Optimization("sgd", 0.1, momentum=0.9, nesterov=True),
        "adam": Optimization("adam", 1e-3),
        "adam, weight decay": Optimization("adam", 1e-3, weight_decay=decay),
        "adamw": Optimization("adamw", 1e-3, weight_decay=decay),
        "amsgrad, weight decay": Optimization("adam", 1e-3, weight_decay=decay, amsgrad=True),
        "amsgrad of adamw": Optimization("adamw", 1e-2, weight_decay=decay, beta2=0.9, amsgrad=True),
        "adam, other constants": Optimization("adam", 1e-2, beta1=0.5, beta2=0.9, epsilon=1e-3),
    }
    quick = {"sgd, momentum", "sgd, Nesterov", "adam, weight decay", "adamw", "amsgrad, weight decay"}
    for name, optimization in rows.items():
        for scale, kind in ((1.0, ""), (1e12, ", huge gradients"), (1e-25, ", gradients that underflow")):
            if kind and name not in ("sgd, momentum", "adam", "adamw"):
                continue
            inputs = _gradients(name + kind, scale)
            settings = {"optimization": optimization, "learning_rates": (0.1, 0.05, 0.02, 0.01)}
            yield Case("optimizer", name + kind, inputs, settings, quick=not kind and name in quick)
    settings = {"optimization": rows["adam"], "learning_rates": tuple(np.full(25, 1e-3))}
    yield Case("optimizer", "adam, 25 steps", _gradients("long", 1.0, 25), settings)


def _gradients(name: str, scale: float, steps: int = 4) -> dict[str, Array]:
    rng = generator("optimizer", name)
    theta, g = rng.normal(size=12), scale * rng.normal(size=(steps, 12))
    theta[0], g[:, 1], g[0, 2] = 0.0, 0.0, 0.0  # no gradient ever, and none at first
    return {"theta": theta, "g": g}


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
    rows: dict[str, tuple[str, float, float | None]] = {
        "normal": ("normal", 1e-2, None),
        "framework": ("framework", 1 / math.sqrt(3 * fan_in), 1 / math.sqrt(fan_in)),
        "he": ("he", math.sqrt(2 / ((1 + slope**2) * fan_in)), None),
        "glorot": ("glorot", math.sqrt(2 / (fan_in + fan_out)), math.sqrt(6 / (fan_in + fan_out))),
    }
    for name, (init, deviation, bound) in rows.items():
        settings = {
            "init": init, "init_std": 1e-2, "hidden": (100,), "slope": slope, "layer": "linear1",
            "of": "weights", "standard_deviation": deviation, "bound": bound, "count": fan_in * fan_out,
        }  # fmt: skip
        yield Case("initial_draws", f"{name}, weights", {}, settings, quick=True)
        biases = {"of": "biases", "count": fan_out}
        if init != "framework":
            biases |= {"standard_deviation": 0.0, "bound": 0.0}
        yield Case("initial_draws", f"{name}, biases", {}, settings | biases, quick=True)


def _starts() -> Iterator[Case]:
    rng = generator("start")
    halfway = 1 + 2.0**-24 * (2 * np.arange(30720) + 1)  # between two float32 numbers
    weight = np.where(rng.random(30720) > 0.5, rng.normal(size=30720), halfway).reshape(10, 3072)
    parameters = {"linear1.weight": weight, "linear1.bias": rng.normal(size=10)}
    yield Case("initial_parameters", "rounded once", parameters)


def _preprocessing() -> Iterator[Case]:
    rng = generator("images")
    names = ("images", "test_images")
    inputs = {name: rng.integers(0, 256, (12, 3, 32, 32), dtype=np.uint8) for name in names}
    for kind in ("mean-image", "standardize"):
        yield Case("preprocessing", kind, inputs, {"preprocess": kind})
