"""What is computed once, in NumPy float64, and handed to every backend."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from parity.suite.norm import RUNNING
from parity.verification.place import Inputs, Outputs, Place, Settings
from triptych.cifar10 import Dataset, preprocess
from triptych.cifar10.batches import BatchOrder
from triptych.describe import init, schedule
from triptych.describe.layers import BatchNorm, initial_statistics, is_weight
from triptych.describe.network import Model
from triptych.describe.protocol import plan_steps
from triptych.describe.spec import Data, Device, Experiment, Initialization, Optimization, Training


def devices() -> list[Device]:
    """The host."""
    return ["cpu"]


def learning_rate(inputs: Inputs, settings: Settings, place: Place) -> Outputs:
    """One rate for each step, asked for in two calls, as after a resume."""
    steps = settings["steps"]
    spec = Experiment(
        optimization=Optimization(learning_rate=settings["learning_rate"]),
        schedule=settings["schedule"],
        training=Training(steps=steps),
    )
    cut = steps // 3
    parts = schedule.learning_rates(spec, 0, cut), schedule.learning_rates(spec, cut, steps - cut)
    return {"rates": np.concatenate(parts)}


def initial_draws(inputs: Inputs, settings: Settings, place: Place) -> Outputs:
    """Mean and mean square of the drawn weights (or biases) and how many lie beyond the bound."""
    spec = Experiment(model=Model(hidden=settings["hidden"], slope=settings["slope"]))
    spec = replace(spec, initialization=Initialization(settings["init"], settings["init_std"]))
    found = {
        name: draw
        for name, draw in init.initial_parameters(spec).items()
        if is_weight(name) == (settings["of"] == "weights") and name.startswith(settings["layer"])
    }
    (draw,) = found.values()
    bound = settings["bound"]
    beyond = 0 if bound is None else np.count_nonzero(np.abs(draw) > bound)
    return {
        "mean": np.array([draw.mean()]),
        "variance": np.array([np.square(draw).mean()]),
        "beyond": np.array([float(beyond)]),
    }


def initial_constants(inputs: Inputs, settings: Settings, place: Place) -> Outputs:
    """Of the batch norm behind a first hidden layer."""
    model = Model(hidden=(settings["channels"],), batch_norm="manual")
    spec = Experiment(model=model)
    (layer,) = (layer for layer in spec.layers() if isinstance(layer, BatchNorm))
    held = init.initial_parameters(spec) | initial_statistics(spec.layers())
    return {name: np.asarray(held[f"{layer.name}.{name}"]) for name in ("gamma", "beta", *RUNNING)}


def batch_order(inputs: Inputs, settings: Settings, place: Place) -> Outputs:
    """Asked for in two calls, as after a resume."""
    order = BatchOrder(settings["size"], settings["batch_size"], settings["seed"])
    cut = settings["steps"] // 2
    parts = order.table(0, cut), order.table(cut, settings["steps"] - cut)
    return {"indices": np.concatenate(parts).astype(np.float64)}


def validation_split(inputs: Inputs, settings: Settings, place: Place) -> Outputs:
    """As a run splits its data."""
    train, test = (inputs["images"], inputs["labels"]), (inputs["test_images"], inputs["test_labels"])
    data = preprocess.prepare(Dataset(*train, *test, "parity", ""), "mean-image", settings["validation"])
    images = {name: array.astype(np.float64) for name, array in data.images.items()}
    labels = {f"{name} labels": array.astype(np.float64) for name, array in data.labels.items()}
    return images | labels | {"mean": data.mean}


def augmentation_draws(inputs: Inputs, settings: Settings, place: Place) -> Outputs:
    """Mean and mean square about the middle of the shifts or flips of many steps, and how many lie beyond."""
    batch, places = 100, settings["places"]
    data = Data(batch_size=batch, random_crop=settings["border"], random_flip=True)
    steps = plan_steps(Experiment(data=data), np.zeros((settings["count"] // batch, batch), np.int32), 0)
    drawn = {"flips": steps.flips}
    if steps.shifts is not None:
        drawn |= {"rows": steps.shifts[..., 0], "columns": steps.shifts[..., 1]}
    found = np.asarray(drawn[settings["of"]]).astype(np.int64)
    around = found - (places - 1) / 2
    return {
        "mean": np.array([around.mean()]),
        "variance": np.array([np.square(around).mean()]),
        "beyond": np.array([float(np.count_nonzero((found < 0) | (found >= places)))]),
    }
