"""Each item as the usual checks take it: as a function with gradients, on its ordinary inputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from parity.bounds.rounding import Array, rounding
from parity.suite.backends import Computation
from parity.verification.case import Case
from parity.verification.place import Outputs, Place


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
    "model": View("", "L", {}, ""),  # its arguments are the parameters: see `usual_model`
}
ARRAYS_ONLY = {
    "batch_norm_evaluate": ("ordinary", "evaluation has no backward pass"),
    "optimizer": ("adam", "an update is no function's gradient"),
    "learning_rate": ("cosine", "a learning rate has no gradient"),
    "preprocessing": ("mean-image", "pixels have no gradient"),
}
"""Items that only arrays can be compared of: their case, and why no gradient is checked."""
NO_REFERENCE = {"initial_draws": "draws of two implementations differ, and have no gradient"}


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
