"""Initial parameters, drawn in NumPy float64 for all backends alike.

fan_in and fan_out count the products that one output and one input takes part in: a weight's second and
first axis, each times the size of a convolution's kernel. Sources: torch.nn.Linear.reset_parameters
(framework), He et al. 2015 eq. 15 (he), Glorot & Bengio 2010 eq. 16 (glorot).
"""

from __future__ import annotations

import math

import numpy as np

from triptych.describe import streams
from triptych.describe.layers import is_weight
from triptych.describe.spec import Experiment


def initial_parameters(experiment: Experiment) -> dict[str, np.ndarray]:
    """Canonical name to float64 array; backends cast to their dtype.

    Each parameter has a stream of its own, so adding a layer leaves the others' values alone.
    """
    fixed = {"ones": np.ones, "zeros": np.zeros}
    found: dict[str, np.ndarray] = {}
    for layer in experiment.layers():
        for short, parameter in layer.traits.parameters.items():
            name, shape = f"{layer.name}.{short}", parameter.shape
            if parameter.start in fixed:
                found[name] = fixed[parameter.start](shape)
            else:
                found[name] = _draw(experiment, name, shape, layer.traits.products)
    return found


def _draw(experiment: Experiment, name: str, shape: tuple[int, ...], fan_in: int) -> np.ndarray:
    kind = experiment.initialization.init
    random = np.random.Generator(streams.bit_generator(experiment.training.seed, f"init/{name}"))
    if kind == "framework":
        bound = 1.0 / math.sqrt(fan_in)
        return random.uniform(-bound, bound, shape)
    if not is_weight(name):
        return np.zeros(shape)
    if kind == "normal":
        return random.standard_normal(shape) * experiment.initialization.init_std
    if kind == "he":
        gain = math.sqrt(2.0 / (1.0 + experiment.model.slope**2))
        return random.standard_normal(shape) * (gain / math.sqrt(fan_in))
    bound = math.sqrt(6.0 / (fan_in + shape[0] * math.prod(shape[2:])))
    return random.uniform(-bound, bound, shape)
