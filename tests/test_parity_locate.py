"""`python -m parity locate` on planted divergences: the right step, layer and kind, and nothing where nothing is."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import numpy_ref.model
from experiment.backend import State, Steps
from experiment.errors import UserError
from experiment.layers import Flatten
from experiment.network import Model
from experiment.spec import Data, Experiment, Objective, Optimization, Schedule, Training
from numpy_ref import conv, dense, loss, norm, optim
from tests import planted, test_parity_wrong
from tests.planted import STEP, Wrong

LEAKY, LINEAR, LINEAR_BACK = dense.leaky_relu_forward, dense.linear_forward, dense.linear_backward
NORM_BACK, UPDATE, FORWARD = norm.batch_norm_backward, optim.update, numpy_ref.model.Network._layer_forward
PLAIN = planted.spec(model=Model(hidden=(5, 4), slope=0.1), optimization=Optimization(learning_rate=1e-3))
SINGLE = planted.spec("float32", model=Model(hidden=(5, 4), slope=0.1))
CNN = planted.spec(model=Model(hidden=(), channels=("2", "M"), slope=0.0), data=Data(batch_size=3))


def without_xhat(dy: np.ndarray, cache: Any) -> Any:
    return (test_parity_wrong.without_xhat if dy.shape[1] == 4 else NORM_BACK)(dy, cache)


def scaled_bias(dy: np.ndarray, x: np.ndarray, W: np.ndarray, need_dx: bool = True) -> Any:
    dx, dW, db = LINEAR_BACK(dy, x, W, need_dx)
    return dx, dW, db * (1.5 if W.shape == (4, 5) else 1)


def rounded_product(how: Any) -> Any:
    def forward(x: np.ndarray, W: np.ndarray, b: np.ndarray) -> Any:
        if W.shape != (4, 5):
            return LINEAR(x, W, b)
        return (how(x) @ how(W).T).astype(x.dtype) + b, x

    return forward


def clipped(theta: Any, g: np.ndarray, slots: Any, o: Any, eta: float, t: int) -> None:
    UPDATE(theta, np.clip(g, -1e-3, 1e-3), slots, o, eta, t)


def other_order(self: Any, layer: Any, x: np.ndarray, masks: Any, cache: Any) -> np.ndarray:
    if isinstance(layer, Flatten):
        cache[layer.name] = x.shape
        return x.transpose(0, 2, 3, 1).reshape(len(x), -1)
    return FORWARD(self, layer, x, masks, cache)


def not_averaged(s: np.ndarray, t: np.ndarray) -> np.ndarray:
    return loss.softmax_forward(s) - t


def kept(*keys: str) -> Any:
    """These arrays of the state stay what they were."""
    return lambda before, after: after | {key: before[key] for key in keys}


def swapped(steps: Steps) -> Steps:
    indices = steps.indices.copy()
    indices[:, [1, 6]] = indices[:, [6, 1]]
    return replace(steps, indices=indices)


def masks(change: Any) -> Any:
    return lambda steps: replace(steps, masks={name: change(mask) for name, mask in steps.masks.items()})


def without_moments(state: State) -> State:
    return {key: a for key, a in state.items() if not key.startswith("optimizer/") or key.endswith("updates")}


BN = planted.spec()
WRONG: dict[str, tuple[Experiment, Wrong, tuple[str, str, str], str]] = {
    "xhat term missing": (
        BN, Wrong(((norm, "batch_norm_backward", without_xhat),)), ("backward", "norm2", "dx"), ""
    ),
    "slope": (
        PLAIN, Wrong(((dense, "leaky_relu_forward", lambda x, slope: LEAKY(x, 0.11)),)),
        ("forward", "leaky_relu1", "y"), "",
    ),
    "bias gradient scaled": (
        PLAIN, Wrong(((dense, "linear_backward", scaled_bias),)),
        ("backward", "linear2", "db"), "1.5 times what it should be",
    ),
    "Adam's t off by one": (
        BN, Wrong(((optim, "update", test_parity_wrong.without_bias_correction),)),
        ("parameters", "linear1", "weight"), "",
    ),
    "moment not updated": (
        BN, Wrong(outcome=kept("optimizer/second_moment/linear2.weight")),
        ("optimizer state", "linear2", "second_moment of weight"), "unchanged by the step",
    ),
    "layer frozen": (
        BN, Wrong(outcome=kept("parameters/linear2.weight", "parameters/linear2.bias")),
        ("parameters", "linear2", "weight"), "unchanged by the step",
    ),
    "running momentum swapped": (
        BN, Wrong(((norm, "running_update", lambda running, now, m: m * running + (1 - m) * now),)),
        ("running statistics", "norm1", "running_mean"), "",
    ),
    "running variance biased": (
        BN, Wrong(((norm, "unbiased", test_parity_wrong.biased),)),
        ("running statistics", "norm1", "running_var"), "",
    ),
    "running variance stale": (
        BN, Wrong(outcome=kept("statistics/norm2.running_var")),
        ("running statistics", "norm2", "running_var"), "unchanged by the step",
    ),
    "two images swapped": (PLAIN, Wrong(plan=swapped), ("data", "", "input"), "row 1 holds row 6's image"),
    "mask inverted": (
        BN, Wrong(plan=masks(lambda mask: ~mask)), ("forward", "dropout1", "y"), "another mask",
    ),
    "mask of one sample for all": (
        BN, Wrong(plan=masks(lambda mask: np.repeat(mask[:, :1], 8, axis=1))),
        ("forward", "dropout1", "y"), "another mask",
    ),
    "learning rate of another step": (
        PLAIN, Wrong(plan=lambda steps: replace(steps, learning_rates=0.5 * steps.learning_rates)),
        ("parameters", "linear1", "weight"), "the step is 0.5 times what it should be",
    ),
    "TF32 in one layer": (
        SINGLE, Wrong(((dense, "linear_forward", rounded_product(test_parity_wrong.tf32)),)),
        ("forward", "linear2", "y"), "",
    ),
    "float32 inside float64": (
        PLAIN, Wrong(((dense, "linear_forward", rounded_product(np.float32)),)), ("forward", "linear2", "y"), "",
    ),
    "pooling ties split": (
        CNN,
        Wrong((
            (conv, "max_pool2d_forward", test_parity_wrong.remembering_pool),
            (conv, "max_pool2d_backward", test_parity_wrong.tie_splitting),
        )),
        ("backward", "pool1", "dx"), "",
    ),
    "flatten order": (
        PLAIN, Wrong(((numpy_ref.model.Network, "_layer_forward", other_order),)), ("forward", "flatten", "y"), "",
    ),
    "gradient clipped": (
        BN, Wrong(((optim, "update", clipped),)), ("optimizer state", "linear1", "first_moment of weight"), "",
    ),
    "gradients of the batch not averaged": (
        PLAIN, Wrong(((loss, "softmax_cross_entropy_backward", not_averaged),)),
        ("loss", "", "ds"), "8 times what it should be",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_step_layer_and_kind_are_named(name: str) -> None:
    spec, wrong, place, note = WRONG[name]
    report = planted.search(planted.side("numpy", spec), planted.side("numpy", spec, wrong=wrong))
    found = report.divergence
    assert found is not None
    assert (found.step, found.kind, found.layer, found.quantity) == (STEP + 1, *place)
    assert found.side == "right"
    assert found.share > 10
    assert note in found.note
    assert found.inherited == 0, "both ran the same code until then"
    assert found.local > 0
