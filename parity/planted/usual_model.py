"""A whole network as the usual checks see it: its loss as a function of its parameters, and all it leaves."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from parity.bounds.rounding import Array, rounding
from parity.suite import model
from parity.verification.place import Inputs, Outputs, Place, Settings
from triptych.describe.protocol import Backend, create

NAME = "MLP, batch norm, dropout"
SMALL = 1000
"""Finite differences take two steps for each number: larger parameters stay as they are."""


class ModelSubject:
    """Parameters to loss, activations, gradients, the state after one step, and predictions.

    A backend is made for each format and kept: what JAX compiles, it compiles once.
    """

    def __init__(self, backend: str) -> None:
        self.backend = backend
        self.made: dict[str, Backend] = {}

    def small_parameters(self) -> dict[str, Array]:
        """Those that are worth a finite difference each."""
        spec = model.described(model.CASES[NAME], Place("float64"))
        _, parameters, _ = model.first_step(spec)
        return {name: array for name, array in parameters.items() if array.size <= SMALL}

    def __call__(self, inputs: Inputs, settings: Settings, place: Place) -> Outputs:
        """`inputs` replace parameters; without any, the state after the step and predictions come too."""
        spec = model.described(model.CASES[NAME], replace(place, eager=False))
        data, parameters, steps = model.first_step(spec)
        if place.dtype not in self.made:
            self.made[place.dtype] = create(self.backend, spec, data, "cpu")  # type: ignore[arg-type]
        running = self.made[place.dtype]
        running.start({**parameters, **inputs})
        trace = running.trace(steps)
        stored = rounding(place.dtype).stored
        found = {name: np.asarray(array, stored) for name, array in trace.items()}
        if inputs:
            return found
        running.train(steps)
        found |= {str(key): array for key, array in running.export_state().arrays().items()}
        return found | {"predictions": running.evaluate("test").predictions}


def model_subject(backend: str) -> ModelSubject:
    """A new one: nothing in it was compiled before."""
    return ModelSubject(backend)
