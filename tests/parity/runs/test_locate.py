"""The search between two backends: a planted divergence is named, and nothing where nothing is."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from numpy_ref import conv, dense, fast, loss, norm, optim
from parity.planted.catalogue import BUGS
from parity.planted.edits import edit
from parity.runs.locate import Side, begin
from tests.helpers import planted
from tests.helpers.planted import STEP, Wrong
from triptych.describe.network import Model
from triptych.describe.protocol import Steps, TrainingData
from triptych.describe.spec import Data, Experiment, Objective, Optimization, Schedule
from triptych.describe.state import State
from triptych.errors import UserError

LEAKY, LINEAR, LINEAR_BACK = fast.leaky_relu, dense.linear, dense.linear_backward
UPDATE = optim.update
PLAIN = planted.spec(model=Model(hidden=(5, 4), slope=0.1), optimization=Optimization(learning_rate=1e-3))
SINGLE = planted.spec("float32", model=Model(hidden=(5, 4), slope=0.1))
CNN = planted.spec(model=Model(hidden=(), channels=("2", "M"), slope=0.0), data=Data(batch_size=3))

WITHOUT_XHAT = edit("numpy_ref.norm", "xhat * dgamma)", "xhat * dgamma * (dy.shape[1] != 4))")


def tf32(array: np.ndarray) -> np.ndarray:
    return 8193 * array - (8193 * array - array)


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


def other_order(x: np.ndarray) -> np.ndarray:
    return x.transpose(0, 2, 3, 1).reshape(len(x), -1)


def not_averaged(s: np.ndarray, t: np.ndarray) -> np.ndarray:
    return loss.softmax(s) - t


def kept(*keys: str) -> Any:
    """These arrays of the state stay what they were."""
    return lambda before, after: after.map(lambda key, a: before.arrays()[key] if str(key) in keys else a)


def swapped(steps: Steps) -> Steps:
    indices = steps.indices.copy()
    indices[:, [1, 6]] = indices[:, [6, 1]]
    return replace(steps, indices=indices)


def masks(change: Any) -> Any:
    return lambda steps: replace(steps, masks={name: change(mask) for name, mask in steps.masks.items()})


def without_moments(state: State) -> State:
    return replace(state, slots={})


BN = planted.spec()
WRONG: dict[str, tuple[Experiment, Wrong, tuple[str, str, str], str]] = {
    "xhat term missing": (
        BN, Wrong(edits=WITHOUT_XHAT), ("backward", "norm2", "dx"), ""
    ),
    "slope": (
        PLAIN, Wrong(((fast, "leaky_relu", lambda x, slope: LEAKY(x, 0.11)),)),
        ("forward", "leaky_relu1", "y"), "",
    ),
    "bias gradient scaled": (
        PLAIN, Wrong(((dense, "linear_backward", scaled_bias),)),
        ("backward", "linear2", "db"), "1.5 times what it should be",
    ),
    "Adam's t off by one": (
        BN, Wrong(edits=BUGS["adam-counts-from-2"].numpy),
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
        BN, Wrong(edits=BUGS["norm-biased-running-variance"].numpy),
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
        SINGLE, Wrong(((dense, "linear", rounded_product(tf32)),)),
        ("forward", "linear2", "y"), "",
    ),
    "float32 inside float64": (
        PLAIN, Wrong(((dense, "linear", rounded_product(np.float32)),)),
        ("forward", "linear2", "y"), "",
    ),
    "pooling ties split": (
        CNN,
        Wrong(edits=BUGS["pool-splits-ties"].numpy),
        ("backward", "pool1", "dx"), "",
    ),
    "flatten order": (
        PLAIN, Wrong(((conv, "flatten", other_order),)),
        ("forward", "flatten", "y"), "",
    ),
    "gradient clipped": (
        BN, Wrong(((optim, "update", clipped),)),
        ("optimizer state", "linear1", "first_moment of weight"), "",
    ),
    "gradients of the batch not averaged": (
        PLAIN, Wrong(((loss, "softmax_cross_entropy_backward", not_averaged),)),
        ("loss", "", "ds"), "8 times what it should be",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_step_layer_and_kind_are_named(name: str) -> None:
    spec, wrong, place, note = WRONG[name]
    left, right = planted.side("numpy", spec), planted.side("numpy", spec, wrong=wrong)
    found = planted.search(left, right, 2, start=after(left, STEP - 1), first=STEP - 1).divergence
    assert found is not None
    assert (found.step, found.kind, found.layer, found.quantity) == (STEP + 1, *place)
    assert found.side == "right"
    assert found.share > 10
    assert note in found.note
    assert found.inherited == 0, "both ran the same code until then"
    assert found.local > 0


def changed(training: TrainingData, row: int, what: str) -> TrainingData:
    """The data with one label raised, one image mirrored, or another mean."""
    images, labels = dict(training.images), dict(training.labels)
    if what == "label":
        labels["train"] = labels["train"].copy()
        labels["train"][row] = (labels["train"][row] + 1) % 10
    if what == "image":
        images["train"] = images["train"].copy()
        images["train"][row] = images["train"][row][:, :, ::-1]
    mean = training.mean + 0.25 if what == "mean" else training.mean
    return replace(training, images=images, labels=labels, mean=mean)


@pytest.mark.parametrize(
    ("what", "step", "place", "note"),
    [
        ("label", STEP + 1, ("loss", "", "loss"), "sample 3 is labelled"),
        ("image", STEP + 1, ("data", "", "input"), "row 3 is mirrored"),
        ("mean", 1, ("data", "", "input"), "another mean image"),
    ],
)
def test_wrong_data_is_named(what: str, step: int, place: tuple[str, str, str], note: str) -> None:
    left = planted.side("numpy", PLAIN)
    row = int(left.plan(STEP).indices[0, 3])
    wrong = changed(left.data, row, what)
    found = planted.search(left, planted.side("torch", PLAIN, wrong)).divergence
    assert found is not None
    assert (found.step, found.kind, found.layer, found.quantity, found.side) == (step, *place, "right")
    assert note in found.note
    assert found.inherited < 1e-12


@pytest.mark.parametrize(
    ("change", "step", "place", "setting"),
    [
        ({"training": replace(BN.training, seed=1)}, 0, ("start", "linear1", "weight"), "seed"),
        (
            {"schedule": Schedule("step", decay_every=2), "optimization": BN.optimization},
            3, ("schedule", "", "learning rate"), "schedule",
        ),
        (
            {"optimization": Optimization("adamw", 1e-3, weight_decay=0.1)},
            1, ("parameters", "linear1", "weight"), "weight_decay",
        ),
        (
            {"optimization": Optimization("adam", 1e-3, weight_decay=0.1)},
            1, ("optimizer state", "linear1", "first_moment of weight"), "weight_decay",
        ),
        (
            {"optimization": replace(BN.optimization, amsgrad=True)},
            2, ("state", "linear1", "optimizer/first_moment/linear1.weight"), "amsgrad",
        ),
        ({"data": Data(batch_size=8, random_flip=True)}, 1, ("data", "", "flip"), "random_flip"),
        ({"objective": Objective(label_smoothing=0.1)}, 1, ("loss", "", "loss"), "label_smoothing"),
        ({"model": replace(BN.model, slope=0.2)}, 1, ("forward", "leaky_relu1", "y"), "slope"),
        ({"model": replace(BN.model, dropout=0.0)}, 1, ("forward", "dropout1", "y"), "dropout"),
    ],
)  # fmt: skip
def test_other_settings_show_where_they_first_matter(
    change: dict[str, Any], step: int, place: tuple[str, str, str], setting: str
) -> None:
    left, right = planted.side("numpy", BN), planted.side("numpy", replace(BN, **change))
    report = planted.search(left, right)
    found = report.divergence
    assert found is not None
    assert (found.step, found.kind, found.layer, found.quantity, found.side) == (step, *place, "right")
    assert any(line.startswith(f"{setting}: ") for line in report.settings)


def test_a_left_side_that_is_wrong_is_said_to_be() -> None:
    wrong = Wrong(((dense, "linear_backward", scaled_bias),))
    found = planted.search(planted.side("numpy", PLAIN, wrong=wrong), planted.side("torch", PLAIN)).divergence
    assert found is not None
    assert (found.step, found.layer, found.quantity, found.side) == (3, "linear2", "db", "left")


def test_lost_moments_show_at_the_state() -> None:
    right = planted.side("numpy", BN, wrong=Wrong(given=without_moments))
    left = planted.side("numpy", BN)
    found = planted.search(left, right, 1, start=after(left, 2), first=2).divergence
    assert found is not None
    assert (found.step, found.kind, found.layer) == (3, "state", "linear1")
    assert found.quantity == "optimizer/first_moment/linear1.weight"


def after(side: Side, steps: int) -> State:
    begin(side)
    side.backend.train(side.plan(0, steps))
    return side.backend.export_state()


# --- nothing is found where nothing is ---

CLEAN = {
    "batch norm, dropout, Adam": BN,
    "float32": planted.spec("float32"),
    "momentum, l2, smoothing, crop, flip": planted.spec(
        model=Model(hidden=(5,)),
        optimization=Optimization(learning_rate=1e-4, momentum=0.9, nesterov=True, weight_decay=0.01),
        objective=Objective(l2=0.01, label_smoothing=0.1),
        data=Data(batch_size=8, preprocess="standardize", random_crop=4, random_flip=True),
        schedule=Schedule("cosine", warmup_steps=2),
    ),
    "hinge": planted.spec(model=Model(hidden=(5,)), objective=Objective("hinge")),
    "squared error, AdamW": planted.spec(
        model=Model(hidden=(5,)),
        objective=Objective("squared_error"),
        optimization=Optimization("adamw", 1e-3, weight_decay=0.1),
    ),
    "AMSGrad": planted.spec(
        model=Model(hidden=(5,)),
        optimization=Optimization("adam", 1e-3, weight_decay=0.1, beta2=0.9, amsgrad=True),
    ),
    "convolutions": replace(CNN, model=replace(CNN.model, channels=("2", "M", "2"), batch_norm="autodiff")),
}


@pytest.mark.parametrize("name", CLEAN)
def test_numpy_and_torch_do_not_diverge(name: str) -> None:
    left, right = (planted.side(backend, CLEAN[name]) for backend in ("numpy", "torch"))
    report = planted.search(left, right, 4, every=2)
    assert report.divergence is None
    assert 0 < report.share <= 1
    assert report.judged == 3, "the first, the third, and the last"
    assert report.inherited < 1e-2


def test_jax_is_right_until_it_is_made_wrong() -> None:
    """Judged operation by operation, and as one program."""
    what = planted.spec(model=Model(hidden=()), optimization=Optimization(learning_rate=1e-4))
    wrong = Wrong(outcome=kept("parameters/linear1.bias"), step=1)
    left, right = planted.side("numpy", what), planted.side("jax", what, wrong=wrong)
    found = planted.search(left, right, 2).divergence
    assert found is not None
    assert (found.step, found.kind, found.layer, found.quantity) == (2, "parameters", "linear1", "bias")


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_jax_does_not_diverge(dtype: str) -> None:
    what = planted.spec(dtype)
    report = planted.search(planted.side("jax", what), planted.side("torch", what), 12, every=6)
    assert report.divergence is None
    assert report.judged == 3


# --- steps that are not judged layer by layer ---


def test_the_screen_sends_to_the_right_step() -> None:
    """Judged every 50 steps: the outcome alone gives the fourth away."""
    wrong = Wrong(edits=WITHOUT_XHAT, step=3)
    left, right = planted.side("numpy", BN), planted.side("numpy", BN, wrong=wrong)
    report = planted.search(left, right, 6, every=50)
    assert report.divergence is not None
    assert (report.divergence.step, report.divergence.layer) == (4, "norm2")
    assert report.judged == 4, "the first, the fourth, and then those between"


def test_what_the_screen_overlooks_is_searched_for_backwards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("parity.runs.locate.search.Search._apart", lambda *_: False)
    wrong = Wrong(edits=WITHOUT_XHAT, step=2)
    left, right = planted.side("numpy", BN), planted.side("numpy", BN, wrong=wrong)
    report = planted.search(left, right, 8, every=4)
    assert report.divergence is not None
    assert report.divergence.step == 3


def test_other_networks_are_refused() -> None:
    other = replace(BN, model=replace(BN.model, hidden=(6, 4)))
    with pytest.raises(UserError, match=r"linear1.weight is \(5, 3072\).*give two runs of one network"):
        planted.search(planted.side("numpy", BN), planted.side("numpy", other))
