"""Each item as the usual checks take it: a function with gradients, on its ordinary inputs.

A whole network is its loss as a function of its parameters, and all that it leaves.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from parity.bounds.rounding import Array, rounding
from parity.suite import model
from parity.suite.backends import Computation
from parity.verification.case import Case
from parity.verification.place import Inputs, Outputs, Place, Settings
from triptych.describe.protocol import Backend, create


@dataclass(frozen=True)
class View:
    """An item as a function of `arguments` (input to the name of its gradient) to `output`."""

    case: str
    output: str
    arguments: Mapping[str, str]
    upstream: str = "dy"
    """The input that holds dL/d(output); "" where the gradients are those of the output's mean."""


_X = {"x": "dx"}
_NORM = View("ordinary", "y", {"x": "dx", "gamma": "dgamma", "beta": "dbeta"})
_LOSS = View("ordinary", "L", {"s": "ds"}, "")
VIEWS = {
    "linear": View("nothing divides", "y", {"x": "dx", "W": "dW", "b": "db"}),
    "leaky_relu": View("ordinary", "y", _X),
    "dropout": View("ordinary", "y", _X),
    "flatten": View("image", "y", _X),
    "conv2d": View("with a bias", "y", {"x": "dx", "W": "dW", "b": "db"}),
    "max_pool2d": View("random", "y", _X),
    "batch_norm_manual": _NORM,
    "batch_norm_autodiff": _NORM,
    "cross_entropy": _LOSS,
    "squared_error": _LOSS,
    "hinge": _LOSS,
    "l2": View("ordinary", "penalty", {"W": "dW"}, ""),
    "model": View("", "L", {}, ""),  # its arguments are the parameters
}
ARRAYS_ONLY = {
    "conv2d_winograd": ("tiles", "2,448 weights: a finite difference for each takes minutes"),
    "batch_norm_evaluate": ("ordinary", "evaluation has no backward pass"),
    "optimizer": ("adam", "an update is no function's gradient"),
    "learning_rate": ("cosine", "a learning rate has no gradient"),
    "initial_constants": ("batch norm", "where a number starts has no gradient"),
    "batch_order": ("a batch over two epochs", "an order has no gradient"),
    "validation_split": ("2 kept back", "pixels have no gradient"),
    "preprocessing": ("mean-image", "pixels have no gradient"),
    "augmentation": ("flips alone", "pixels have no gradient"),
}
"""Items that only arrays are compared of: their case, and why no gradient is checked."""
ALIKE = {"batch_norm_autodiff": "batch_norm_manual", "conv2d_winograd": "conv2d"}
"""Items that one backend alone may have, and what gives the same numbers elsewhere."""
PATHS = {"by Winograd"}
"""Quantities that say which way was taken: no other implementation has them."""
NO_REFERENCE = dict.fromkeys(
    ("initial_draws", "augmentation_draws"), "draws of two implementations differ, and have no gradient"
)


@dataclass(frozen=True)
class Pair:
    """A forward and a backward pass on NumPy arrays, in one format."""

    subject: Computation
    view: View
    case: Case
    dtype: str

    def _outputs(self, arrays: tuple[Array, ...], dy: Array | None) -> Outputs:
        inputs = self.case.arrays(rounding(self.dtype))
        inputs |= {name: array.copy() for name, array in zip(self.view.arguments, arrays, strict=True)}
        if dy is not None and self.view.upstream:
            inputs[self.view.upstream] = dy.copy()
        with np.errstate(all="ignore"):
            return self.subject(inputs, self.case.settings, Place(self.dtype, eager=True))

    def arguments(self) -> tuple[Array, ...]:
        """Where the gradients are taken."""
        inputs = self.case.arrays(rounding(self.dtype))
        return tuple(inputs[name] for name in self.view.arguments)

    def forward(self, *arrays: Array) -> Array:
        """The output; its mean where there is no upstream gradient."""
        y = self._outputs(arrays, None)[self.view.output]
        return y if self.view.upstream else np.asarray(y.mean(dtype=y.dtype))

    def backward(self, dy: Array, *arrays: Array) -> tuple[Array, ...]:
        """The gradients by all arguments."""
        outputs = self._outputs(arrays, dy)
        found = tuple(outputs[name] for name in self.view.arguments.values())
        return found if self.view.upstream else tuple(gradient * dy for gradient in found)


NAME = "MLP, batch norm, dropout"
SMALL = 1000
"""Finite differences take two steps for each number: larger parameters stay as they are."""


class ModelSubject:
    """Parameters to loss, activations, gradients, the state after one step, and predictions.

    A backend is made for each format and kept: what JAX compiles, it compiles once. Make a new one once a bug
    is planted: in it nothing was compiled before.
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
