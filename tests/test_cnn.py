"""Small networks with convolutions in all three backends: traces, training, state, mistakes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from tests.helpers import small
from triptych.describe import cost
from triptych.describe.catalogue import find
from triptych.describe.init import initial_parameters
from triptych.describe.network import Model
from triptych.describe.plain import from_dict, to_dict
from triptych.describe.protocol import Backend, Steps, TrainingData, create, plan_steps
from triptych.describe.spec import BackendName, Data, Experiment, Initialization, Optimization
from triptych.errors import UserError

TRUNK = ("4", "M", "6", "M", "M", "M", "3", "M")
"""Convolutions of 32x32, 16x16 and 2x2, pooled down to 1x1; every size's own test is `test_jax_conv`."""
CNN = Model(hidden=(), channels=TRUNK, slope=0.0, batch_norm="autodiff")
ADAM = Optimization("adam", 1e-3)

MODELS: dict[str, Model] = {
    "figure 8": replace(CNN, head_norm=True),
    "by hand": replace(CNN, batch_norm="manual", head_norm=True),
    "biases": replace(CNN, batch_norm="none", slope=0.1),
    "small": replace(CNN, channels=("M", "4", "M", "3"), head_norm=True),
    "all options": replace(CNN, channels=("M", "4", "M", "3"), head_norm=True, dropout=0.3, hidden=(7,)),
}


def spec_of(name: str, dtype: str = "float64", **parts: Any) -> Experiment:
    return small.experiment(dtype, model=MODELS[name], **parts)


def planted() -> TrainingData:
    """Images of one colour, and of a few values only: ties in the pools, constant patches."""
    data = small.data()
    data.images["train"][:20] = 128
    data.images["train"][20:30] //= 128
    return data


def started(name: BackendName, spec: Experiment) -> Backend:
    backend = create(name, spec, planted(), "cpu")
    backend.start(initial_parameters(spec))
    return backend


def rounding(spec: Experiment, steps: Steps) -> float:
    """How far two right computations may part: 1e-12, and 30 times what a change of every parameter by one
    unit in the last place does to NumPy's own trace. In figure 8 the last convolution's gamma stands before
    ReLU and a second batch norm, which undo it: its gradient is 0 but for eps, and noise relative to that.
    """
    backend, parameters = started("numpy", spec), initial_parameters(spec)
    reference, moved = backend.trace(steps), 0.0
    for seed in range(4):
        signs = np.random.default_rng(seed)
        ulps = {key: signs.choice([-1.0, 1.0], value.shape) for key, value in parameters.items()}
        backend.start({key: value * (1 + 2.0**-52 * ulps[key]) for key, value in parameters.items()})
        moved = max(moved, *small.differences(reference, backend.trace(steps)).values())
    return 1e-12 + 30 * moved


@pytest.mark.parametrize("other", ["jax", "torch"])
@pytest.mark.parametrize("name", ["by hand", "biases", "all options"])
def test_every_activation_and_gradient(name: str, other: BackendName) -> None:
    spec = spec_of(name)
    one = small.steps(spec, planted(), 3, 1)
    left, right = (started(backend, spec).trace(one) for backend in ("numpy", other))
    first = 4 if MODELS[name].channels == TRUNK else 3
    assert left["activation/pool1"].shape[1:] == (first, 16, 16)
    assert all(array.dtype == np.float64 for array in right.values())
    small.assert_same(left, right, rounding(spec, one))


@pytest.mark.parametrize("other", ["jax", "torch"])
def test_training_and_running_statistics(other: BackendName) -> None:
    spec = spec_of("figure 8", optimization=Optimization(learning_rate=1e-2, momentum=0.9))
    reference, compared = started("numpy", spec), started(other, spec)
    compared.compile(6)
    for first, count in ((0, 1), (1, 6)):
        plan = small.steps(spec, planted(), first, count)
        left, right = reference.train(plan), compared.train(plan)
        np.testing.assert_allclose(left.losses, right.losses, rtol=1e-11)
        ours, theirs = (each.export_state() for each in (reference, compared))
        small.assert_same(ours, theirs, 1e-10)
    for kind in ("running", "batch"):
        a, b = reference.evaluate("test", kind), compared.evaluate("test", kind)
        assert a.loss == pytest.approx(b.loss, rel=1e-10)
        np.testing.assert_array_equal(a.predictions, b.predictions)


@pytest.mark.parametrize("backend", small.BACKENDS)
def test_state_is_canonical_and_resumes_exactly(backend: BackendName) -> None:
    """Weights (out, in, kh, kw) in C order; 3 + 3 steps are 6 steps, bit for bit."""
    data = Data(batch_size=16, random_crop=2, random_flip=True)
    spec = spec_of("all options", "float32", optimization=ADAM, data=data)
    whole = started(backend, spec)
    whole.compile(6)
    whole.train(small.steps(spec, planted(), 0, 6))
    left, loss = whole.export_state(), whole.evaluate("test").loss
    whole.start(initial_parameters(spec))
    whole.train(small.steps(spec, planted(), 0, 3))
    state = whole.export_state()
    for arrays in (state.parameters, state.slots["first_moment"]):
        assert arrays["conv2.weight"].shape == (3, 4, 3, 3)
        assert arrays["conv2.weight"].flags.c_contiguous
    whole.start(initial_parameters(spec))
    whole.import_state(state)
    whole.train(small.steps(spec, planted(), 3, 3))
    small.assert_same(left, whole.export_state(), 0.0)
    assert loss == whole.evaluate("test").loss


@pytest.mark.parametrize("backend", small.BACKENDS)
def test_bfloat16_is_near_the_truth(backend: BackendName) -> None:
    spec = spec_of("small", "bfloat16")
    if backend == "numpy":
        with pytest.raises(UserError, match="NumPy has no bfloat16"):
            started(backend, spec)
        return
    one = small.steps(spec, small.data(), 0, 1)
    truth = started("numpy", spec_of("small")).trace(one)
    found = started(backend, spec).trace(one)
    assert found["gradient/conv1.weight"].dtype == np.float32
    assert float(found["loss"]) == pytest.approx(float(truth["loss"]), rel=0.1)


def test_draws_are_a_function_of_seed_and_step() -> None:
    spec = spec_of("figure 8", data=Data(batch_size=16, random_crop=4, random_flip=True))
    whole, part = (plan_steps(spec, np.zeros((n, 16), np.int32), first) for n, first in ((10, 0), (7, 3)))
    for ours, theirs in ((whole.shifts, part.shifts), (whole.flips, part.flips)):
        assert ours is not None
        assert theirs is not None
        np.testing.assert_array_equal(ours[3:], theirs)


# --- the description ---


def test_study_network_has_its_known_size() -> None:
    """Parameters and FLOPs against torch's own layers and its flop counter."""
    spec = find("fig7").experiment
    layers: list[torch.nn.Module] = []
    width = 3
    for entry in spec.model.channels:
        if entry == "M":
            layers.append(torch.nn.MaxPool2d(3, 2, 1))
            continue
        layers += [torch.nn.Conv2d(width, int(entry), 3, padding=1, bias=False)]
        layers += [torch.nn.BatchNorm2d(int(entry)), torch.nn.ReLU()]
        width = int(entry)
    network = torch.nn.Sequential(*layers, torch.nn.Flatten(), torch.nn.Linear(512, 10))
    costs = cost.layer_costs(spec)
    assert sum(c.parameters for c in costs) == sum(p.numel() for p in network.parameters())
    with FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, 3, 32, 32))
    # torch counts a bias-free convolution and the Linear exactly as we do.
    assert sum(c.flops for c in costs) == counter.get_total_flops()


def test_initial_weights_count_the_kernel_in_fan_in() -> None:
    model = Model(hidden=(), channels=("64", "M", "96"), batch_norm="none")
    draws = initial_parameters(Experiment(model=model, initialization=Initialization("framework")))
    theirs = torch.nn.Conv2d(64, 96, 3)
    assert theirs.bias is not None
    for ours, other in ((draws["conv2.weight"], theirs.weight), (draws["conv2.bias"], theirs.bias)):
        assert ours.shape == tuple(other.shape)
        assert np.abs(ours).max() <= 1 / np.sqrt(64 * 9)
        assert float(other.detach().abs().max()) <= 1 / np.sqrt(64 * 9) + 1e-6
    assert np.abs(draws["conv2.weight"]).max() > 0.99 / np.sqrt(64 * 9)
    he = initial_parameters(Experiment(model=model, initialization=Initialization("he")))
    assert he["conv2.weight"].std() == pytest.approx(np.sqrt(2 / (1 + 0.02**2) / 576), rel=0.01)
    glorot = initial_parameters(Experiment(model=model, initialization=Initialization("glorot")))
    assert np.abs(glorot["conv2.weight"]).max() == pytest.approx(np.sqrt(6 / (9 * 160)), rel=0.01)


def test_a_convolution_before_batch_norm_has_no_bias() -> None:
    names = initial_parameters(spec_of("figure 8"))
    assert [name for name in names if name.endswith(".bias")] == ["linear1.bias"]
    assert "conv1.bias" in initial_parameters(spec_of("biases"))


def test_the_description_survives_json() -> None:
    spec = spec_of("all options", data=Data(random_crop=4, random_flip=True))
    assert from_dict(to_dict(spec), "test") == spec


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"channels": ("64", "P")}, "channels: expected numbers of channels and M for a pool"),
        ({"channels": ("0",)}, "channels: expected"),
        ({"channels": ("M",)}, "channels: expected"),
        ({"head_norm": True}, "head_norm: expected a trunk and batch norm"),
        ({"head_norm": True, "channels": ("8",)}, "head_norm: expected a trunk and batch norm"),
    ],
)
def test_mistakes_in_the_description(model: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Model(**model)


def test_one_value_per_channel_is_refused_before_training() -> None:
    one_value = MODELS["figure 8"]
    small.experiment(model=one_value, data=Data(batch_size=2))
    small.experiment(model=CNN, data=Data(batch_size=1))
    with pytest.raises(UserError, match="batch norm needs two images or more"):
        small.experiment(model=one_value, data=Data(batch_size=1))
    with pytest.raises(UserError, match="random_crop: expected at most the image's 32 pixels, got 33"):
        Data(random_crop=33)
