"""What is computed once, in NumPy float64, and handed to every backend."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from parity.verification.place import Inputs, Outputs, Place, Settings
from triptych.describe import init, schedule
from triptych.describe.layers import is_weight
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
