"""Bugs of schedules, initial parameters and data."""

from __future__ import annotations

from functools import partial
from typing import Any

from parity.planted import Bug
from parity.planted.edits import Edits, alike, edit

# fmt: off
GROUP = "schedules, initial parameters and data"
INIT, SCHEDULE, PIXELS = (partial(edit, f"triptych.{name}") for name in
                          ("describe.init", "describe.schedule", "cifar10.preprocess"))
RATES, DRAWS, PREPARED = ("learning_rate",), ("initial_draws",), ("preprocessing",)
FLOAT64, AUGMENTED = ("float64",), ("augmentation",)
SHIFTED = "rows + shifts[:, :1], columns + shifts[:, 1:]"
EXCHANGED = "rows + shifts[:, 1:], columns + shifts[:, :1]"
BOUND, UNIFORM = "bound = 1.0 / math.sqrt(fan_in)", "return random.uniform(-bound, bound, shape)"
GLOROT = "bound = math.sqrt(6.0 / (fan_in + shape[0] * math.prod(shape[2:])))"
GAUSS = "return random.normal(0.0, bound / math.sqrt(3.0), shape)"


def _everywhere(edits: Edits) -> Any:
    """Every backend gets these pixels."""
    return dict.fromkeys(("numpy", "jax", "torch"), edits)


BUGS = (
    Bug("init-gamma-beta-exchanged", "gamma starts at 0 and beta at 1", ("initial_constants",), ("gamma", "beta"),
        dtypes=FLOAT64, shared=INIT('{"ones": np.ones, "zeros": np.zeros}', '{"ones": np.zeros, "zeros": np.ones}')),
    Bug("batches-every-epoch-alike", "every epoch has the order of the first", ("batch_order",), ("indices",),
        dtypes=FLOAT64, shared=edit("triptych.cifar10.batches", '"batches", epoch, self.size', '"batches", 0, self.size')),
    Bug("split-first-images", "the validation images are trained on, too", ("validation_split",), ("train", "mean"),
        dtypes=FLOAT64, shared=PIXELS('"train": dataset.train_images[:kept]', '"train": dataset.train_images')),
    Bug("schedule-off-by-one", "the rate of the next step", RATES, ("rates",), dtypes=FLOAT64,
        shared=SCHEDULE("np.arange(first, first + count,", "np.arange(first + 1, first + count + 1,")),
    Bug("schedule-warm-up-from-zero", "warm-up starts with s/w for (s + 1)/w: the first step does nothing", RATES,
        ("rates",), "constant, warm-up", FLOAT64,
        shared=SCHEDULE("peak * (steps + 1) / schedule", "peak * steps / schedule")),
    Bug("init-fan-out", "uniform within 1/sqrt(fan_out) for fan_in", DRAWS, ("variance", "beyond"), dtypes=FLOAT64,
        shared=INIT(BOUND, "bound = 1.0 / math.sqrt(shape[0] * math.prod(shape[2:]))")),
    Bug("init-gaussian", "a Gaussian of the right deviation for the uniform distribution", DRAWS, ("beyond",),
        dtypes=FLOAT64,
        shared=INIT(f"{BOUND}\n{UNIFORM}", f"{BOUND}\n{GAUSS}", f"{GLOROT}\n{UNIFORM}", f"{GLOROT}\n{GAUSS}")),
    Bug("init-he-without-slope", "He's gain of ReLU for LeakyReLU's", DRAWS, ("variance",), dtypes=FLOAT64,
        shared=INIT("math.sqrt(2.0 / (1.0 + experiment.model.slope**2))", "math.sqrt(2.0)")),
    Bug("pixels-channel-mean", "each channel's mean for the mean image", PREPARED, ("x",),
        **_everywhere(PIXELS("return total / len(images), None", "mean = (total / len(images)).mean(axis=(1, 2), keepdims=True)\n"
                             "return np.broadcast_to(mean, IMAGE_SHAPE).copy(), None"))),
    Bug("pixels-mean-of-test", "the mean image of the test set", PREPARED, ("x",),
        **_everywhere(PIXELS('fit(images["train"], preprocess)', 'fit(images["test"], preprocess)'))),
    Bug("pixels-scaled-twice", "divided by the deviation twice", PREPARED, ("x",), "standardize",
        numpy=edit("numpy_ref.backend", "x *= self.scale", "x *= self.scale * self.scale"),
        jax=edit("jax_models.backend", "else x * data.scale", "else x * data.scale * data.scale"),
        torch=edit("torch_models.backend", "x.mul_(self.scale)", "x.mul_(self.scale * self.scale)")),
    Bug("crop-rows-columns-exchanged", "a crop shifts rows by the columns' draw", AUGMENTED, ("y",), "every shift",
        **alike("augment", SHIFTED, EXCHANGED)),
    Bug("flip-inverted", "images that should stay are mirrored", AUGMENTED, ("y",), "flips alone",
        numpy=edit("numpy_ref.augment", "columns[:, ::-1], columns)", "columns, columns[:, ::-1])"),
        jax=edit("jax_models.augment", "columns[:, ::-1], columns)", "columns, columns[:, ::-1])"),
        torch=edit("torch_models.augment", "columns.flip(1), columns)", "columns, columns.flip(1))")),
    Bug("draws-stop-short", "integers below n - 1 for below n: the last shift is never drawn", ("augmentation_draws",),
        ("mean", "variance"), dtypes=FLOAT64,
        shared=edit("triptych.describe.streams", "np.uint64(below)", "np.uint64(below - 1)")),
)
