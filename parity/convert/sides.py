"""One foreign side of a conversion, and its arrays as a plain model of its framework takes them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from parity.convert import plain
from parity.convert.plan import NEUTRAL, Plan
from parity.convert.units import TRACKED, Array, full_name
from triptych.describe.spec import Experiment


@dataclass(frozen=True)
class Side:
    """How it belongs to ours, and its arrays by its own flat names."""

    plan: Plan
    arrays: dict[str, Array]

    def plain_weights(self, experiment: Experiment) -> dict[str, Array]:
        """The same arrays, not touched, under the names of the plain model.

        What only our side has is neutral, and the plain model is given it; what only theirs has is left out.
        """
        convention = self.plan.convention
        names = plain.names(experiment.layers(), convention)
        weights = {}
        for pair in self.plan.pairs:
            path = names[pair.ours.path]
            for role, shape in pair.ours.shapes.items():
                theirs = pair.theirs.names.get(role)
                array = np.full(shape, NEUTRAL[role]) if theirs is None else self.arrays[theirs]
                weights[full_name(path, role, convention)] = array
            if convention == "torch" and pair.ours.kind == "norm":
                weights[f"{path}.{TRACKED}"] = np.array(0)
        return weights
