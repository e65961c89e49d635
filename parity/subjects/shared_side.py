"""What is computed once, in NumPy float64, and handed to every backend."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from experiment import init, schedule
from experiment.layers import is_weight
from experiment.network import Model
from experiment.spec import Device, Experiment, Initialization, Optimization, Training
from parity.subjects import Inputs, Outputs, Place, Settings, Subject


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


SUBJECTS: dict[str, Subject] = {"learning_rate": learning_rate, "initial_draws": initial_draws}
