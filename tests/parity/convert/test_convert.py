"""Weights in memory between canonical, torch and Flax: the same bits, the same function, or a refusal."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from flax import nnx
from torch import nn

from parity.convert import (
    canonical_shapes,
    from_flax,
    from_torch,
    plain_flax,
    plan,
    to_flax,
    to_torch,
    verify,
)
from parity.convert.plan import Side
from parity.convert.units import Array, Convention, shapes_of
from tests.helpers.small import same_bits
from triptych.describe.network import Model
from triptych.describe.spec import Data, Experiment
from triptych.errors import UserError

FOREIGN: tuple[Convention, ...] = ("torch", "flax-nnx", "flax-linen")
DOCS = Path(__file__).resolve().parents[3] / "docs" / "convert.md"
# Square wherever it can be, so that a wrong layout fits: 4 to 4 channels, 16 to 16 units; 16x16 places.
SQUARE = Experiment(
    model=Model(hidden=(16, 16), channels=("4", "M", "4"), batch_norm="autodiff", head_norm=True, slope=0.1),
    data=Data(preprocess="standardize"),
)
MLP = Experiment(model=Model(hidden=(8, 8), slope=0.1))


@functools.cache
def weights(experiment: Experiment, dtype: str = "float32") -> dict[str, Array]:
    """Random arrays, variances positive; nothing at its starting value, where mistakes hide."""
    rng = np.random.default_rng(3)
    drawn = {}
    for name, shape in canonical_shapes(experiment).items():
        array = rng.normal(size=shape) / math.sqrt(math.prod(shape[1:]))
        drawn[name] = (0.5 + array**2 if name.endswith("_var") else array + 0.01).astype(ml_dtypes.bfloat16)
    kind: Any = ml_dtypes.bfloat16 if dtype == "bfloat16" else np.dtype(dtype)
    return {name: array.astype(kind) for name, array in drawn.items()}


def converted(
    experiment: Experiment, canonical: dict[str, Array], convention: Convention, **options: Any
) -> Side:
    """Into the plain model's own names."""
    made = plan.into_plain(shapes_of(canonical), convention, experiment=experiment, **options)
    return Side(made, made.to_theirs(canonical))


# --- bits ---


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
@pytest.mark.parametrize("convention", FOREIGN)
@pytest.mark.parametrize("flatten", ["channels-first", "channels-last"])
def test_there_and_back_is_the_same_bit_for_bit(convention: Convention, flatten: Any, dtype: str) -> None:
    canonical = {name: array.copy() for name, array in weights(SQUARE, dtype).items()}
    first = canonical["linear1.weight"]
    first.flat[:4] = [np.nan, -0.0, np.inf, np.finfo(np.float16).smallest_subnormal]
    side = converted(SQUARE, canonical, convention, flatten=flatten)
    assert same_bits(side.plan.to_ours(side.arrays), canonical)


def test_every_axis_lands_where_the_framework_has_it() -> None:
    """Element by element, by loops over the definition; 4 channels at 16x16 places before linear1."""
    canonical = weights(SQUARE)
    found = converted(SQUARE, canonical, "flax-linen").arrays
    W, kernel = canonical["conv2.weight"], found["params/Conv_1/kernel"]
    for o, c, k, l in np.ndindex(W.shape):
        assert kernel[k, l, c, o] == W[o, c, k, l]
    W, kernel = canonical["linear2.weight"], found["params/Dense_1/kernel"]
    for o, i in np.ndindex(W.shape):
        assert kernel[i, o] == W[o, i]
    W, kernel = canonical["linear1.weight"], found["params/Dense_0/kernel"]
    mean, moved = canonical["head_norm.running_mean"], found["batch_stats/BatchNorm_2/mean"]
    for c, h, w in np.ndindex(4, 16, 16):
        ours, theirs = (c * 16 + h) * 16 + w, (h * 16 + w) * 4 + c
        assert moved[theirs] == mean[ours]
        assert np.array_equal(kernel[theirs], W[:, ours])


# --- the same function ---


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
@pytest.mark.parametrize("convention", FOREIGN)
def test_a_right_conversion_holds(convention: Convention, dtype: str) -> None:
    canonical = weights(SQUARE, dtype)
    side = converted(SQUARE, canonical, convention)
    proof = verify.check(SQUARE, canonical, side)
    assert proof.passed, proof.worst()
    assert proof.agreeing == proof.images
    assert len(proof.results) == len(SQUARE.layers()) + 2
    assert 0 < proof.room < 1e-8


def swapped(a: str, b: str) -> Callable[[dict[str, Array]], None]:
    def swap(arrays: dict[str, Array]) -> None:
        arrays[a], arrays[b] = arrays[b], arrays[a]

    return swap


def moved(name: str, *axes: int) -> Callable[[dict[str, Array]], None]:
    def move(arrays: dict[str, Array]) -> None:
        assert arrays[name].transpose(axes).shape == arrays[name].shape
        arrays[name] = arrays[name].transpose(axes)

    return move


WRONG = {
    "linear transposed": moved("linear2.weight", 1, 0),
    "channels in and out": moved("conv2.weight", 1, 0, 2, 3),
    "kernel's rows and columns": moved("conv1.weight", 0, 1, 3, 2),
    "kernel turned round": lambda arrays: arrays.update(
        {"conv1.weight": arrays["conv1.weight"][..., ::-1, ::-1]}
    ),
    "gamma and beta": swapped("norm1.gamma", "norm1.beta"),
    "mean and variance": swapped("conv1_norm.running_mean", "conv1_norm.running_var"),
    "two layers": swapped("norm1.gamma", "norm2.gamma"),
    "a shift that was dropped": lambda arrays: arrays.update({"norm2.beta": 0 * arrays["norm2.beta"]}),
}


@pytest.mark.parametrize("convention", FOREIGN)
@pytest.mark.parametrize("mistake", WRONG)
def test_a_wrong_conversion_that_fits_every_shape_fails(convention: Convention, mistake: str) -> None:
    canonical = weights(SQUARE)
    planted = dict(canonical)
    WRONG[mistake](planted)
    side = converted(SQUARE, planted, convention)
    proof = verify.check(SQUARE, canonical, side)
    shares = {r.quantity: r.share for r in proof.results if not r.passed}
    assert "logits" in shares
    assert max(shares.values()) > 100
    layers = [quantity for quantity in shares if quantity not in ("logits", "predictions")]
    assert 1 <= len(layers) <= 2, "only the layers that were touched are at fault"


@pytest.mark.parametrize("convention", FOREIGN)
@pytest.mark.parametrize("experiment", [SQUARE, MLP])
def test_the_wrong_flatten_order_fails(convention: Convention, experiment: Experiment) -> None:
    """The features stay as they are where the model flattens the other way."""
    canonical = weights(experiment)
    side = converted(experiment, canonical, convention)
    other: Any = "channels-first" if side.plan.flatten == "channels-last" else "channels-last"
    proof = verify.check(experiment, canonical, side, other)
    failed = [r.quantity for r in proof.results if not r.passed and r.share > 100]
    assert failed[0] == ("head_norm" if experiment is SQUARE else "linear1")
    right = converted(experiment, canonical, convention, flatten=other)
    assert verify.check(experiment, canonical, right).passed


def test_the_check_needs_no_run_only_what_the_layer_was_given() -> None:
    """A fault in the first layer is not held against the layers behind it."""
    canonical = weights(SQUARE)
    planted = dict(canonical, **{"conv1.weight": canonical["conv1.weight"] * np.float32(1.001)})
    side = converted(SQUARE, planted, "torch")
    proof = verify.check(SQUARE, canonical, side)
    assert [r.quantity for r in proof.results if not r.passed] == ["conv1", "logits"]


# --- models of one's own ---


class Mine(nn.Module):
    """Names, and an order of registration, that are not ours."""

    def __init__(self, *order: str) -> None:
        super().__init__()
        layers = {"stem": nn.Linear(3072, 8), "middle": nn.Linear(8, 8), "head": nn.Linear(8, 10)}
        for name in order or layers:
            self.add_module(name, layers[name])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = nn.functional.leaky_relu(self.get_submodule("stem")(x.flatten(1)), 0.1)
        return self.get_submodule("head")(nn.functional.leaky_relu(self.get_submodule("middle")(x), 0.1))


@pytest.mark.parametrize("order", [(), ("head", "middle", "stem")])
def test_into_a_torch_module_of_ones_own(order: tuple[str, ...]) -> None:
    canonical, model = weights(MLP, "float64"), Mine(*order).double()
    model.load_state_dict(to_torch(canonical, model))

    def logits(x: Array) -> Array:
        with torch.no_grad():
            return np.array(model(torch.from_numpy(x)).numpy())

    proof = verify.check_model(MLP, canonical, logits, "torch")
    assert proof.passed, proof.worst()
    assert same_bits(from_torch(model, experiment=MLP), canonical)
    square = model.get_parameter("middle.weight").data
    square.copy_(square.t().clone())
    assert not verify.check_model(MLP, canonical, logits, "torch").passed


TWICE = Experiment(model=Model(hidden=(8, 8, 8), slope=0.1))


def twice(*names: str) -> nn.ModuleDict:
    sizes = dict(zip(("in", *names, "out"), ((3072, 8), (8, 8), (8, 8), (8, 10)), strict=True))
    return nn.ModuleDict({name: nn.Linear(*size) for name, size in sizes.items()})


def test_two_layers_that_could_be_exchanged_go_by_order_number_or_map_and_never_by_luck() -> None:
    canonical = weights(TWICE)
    second = canonical["linear2.weight"]
    in_order = twice("one", "two")
    assert np.array_equal(to_torch(canonical, in_order)["one.weight"], second)
    backwards = nn.ModuleDict(dict(reversed(list(in_order.items()))))
    with pytest.raises(UserError, match="several layers fit each other") as caught:
        to_torch(canonical, backwards)
    for line in (r"\* one: linear, weight 8x8, bias 8", r"\* two: linear", "ours:", "theirs:", "--map"):
        assert re.search(line, str(caught.value))
    settled = to_torch(canonical, backwards, explicit={"two": "linear2"})
    assert np.array_equal(settled["two.weight"], second)
    half = {"two.weight": "linear2.weight", "two.bias": "linear2.bias"}
    assert np.array_equal(to_torch(canonical, backwards, explicit=half)["two.weight"], second)
    numbered = nn.ModuleDict(dict(reversed(list(twice("fc2", "fc10").items()))))
    assert np.array_equal(to_torch(canonical, numbered)["fc2.weight"], second)


def test_names_that_nothing_tells_are_taken_from_the_map() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w, self.b = nn.Parameter(torch.zeros(10, 3072)), nn.Parameter(torch.zeros(10))

    spec = replace(MLP, model=Model(hidden=()))
    canonical, odd = weights(spec), Odd()
    with pytest.raises(UserError, match=r"an? .*Odd; .*--map"):
        to_torch(canonical, odd)
    state = to_torch(canonical, odd, explicit={"w": "linear1.weight", "b": "linear1.bias"})
    assert np.array_equal(state["w"], canonical["linear1.weight"])


@pytest.mark.parametrize(
    ("explicit", "message"),
    [
        ({"nope": "linear2"}, "their side has no 'nope'"),
        ({"one": "linear9"}, "our side has no 'linear9'"),
        ({"one.weight": "linear4.weight", "one.bias": "linear4.bias"}, r"map: one.weight is \(8, 8\)"),
        ({"one.bias": "linear2.bias"}, "expected linear2's weight among the mapped"),
    ],
)
def test_a_map_that_cannot_be(explicit: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        to_torch(weights(TWICE), twice("one", "two"), explicit=explicit)


def test_another_network_is_refused_with_both_sides_listed() -> None:
    with pytest.raises(UserError, match="no layer fits") as caught:
        to_torch(weights(MLP), nn.Sequential(nn.Linear(3072, 8), nn.Linear(8, 9), nn.Linear(9, 10)))
    assert "* linear3: linear, weight 10x8" in str(caught.value)
    assert "* 2: linear, weight 10x9" in str(caught.value)
    assert "  linear1: linear, weight 8x3072" in str(caught.value)


CONV = Experiment(model=Model(hidden=(), channels=("4", "M"), batch_norm="autodiff"))


def test_what_has_no_effect_may_be_missing_on_one_side_and_nothing_else_may() -> None:
    canonical = weights(CONV)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(1024, 10))
    state = to_torch(canonical, model)
    assert torch.equal(state["0.bias"], torch.zeros(4))
    assert same_bits(from_torch(state, experiment=CONV), canonical)
    with pytest.raises(UserError, match=r"0.bias.*subtract it from running_mean"):
        from_torch(state | {"0.bias": torch.ones(4)}, experiment=CONV)
    plainer = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, affine=False), nn.Linear(1024, 10))
    with pytest.raises(UserError, match=r"conv1_norm.gamma.*has no gamma"):
        to_torch(canonical, plainer)
    neutral = {"conv1_norm.gamma": np.ones(4, np.float32), "conv1_norm.beta": np.zeros(4, np.float32)}
    assert "1.weight" not in to_torch(canonical | neutral, plainer)
    statistics = {name: array for name, array in canonical.items() if "running" not in name}
    with pytest.raises(UserError, match=r"1.running_mean: expected in the source"):
        to_torch(statistics, model)


def test_a_network_known_by_its_parameters_alone_is_named_in_its_order_or_not_at_all() -> None:
    canonical = weights(SQUARE)
    state = to_torch(
        canonical, {k: torch.from_numpy(v) for k, v in converted(SQUARE, canonical, "torch").arrays.items()}
    )
    assert same_bits(from_torch(state), canonical)
    renamed = {re.sub(r"^\d+", lambda m: "l" + m[0], name): value for name, value in state.items()}
    assert same_bits(from_torch(renamed), canonical)
    with pytest.raises(UserError, match="is not the network's: "):
        from_torch(dict(sorted(renamed.items())))


class Branch(nnx.Module):
    """NNX keeps attributes by name, not in the network's order; its dropout keeps a random stream."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        start: dict[str, Any] = {
            "kernel_init": nnx.initializers.zeros_init(),
            "rngs": rngs,
        }  # drawing would compile for long
        self.zeroth = nnx.Conv(3, 4, (3, 3), padding=((1, 1), (1, 1)), use_bias=False, **start)
        self.norm = nnx.BatchNorm(4, rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)
        self.answer = nnx.Linear(1024, 10, **start)

    def __call__(self, x: Any) -> Any:
        x = nnx.leaky_relu(self.norm(self.zeroth(x)), 0.02)
        x = nnx.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
        return self.answer(self.drop(x.reshape(len(x), -1)))


def test_an_nnx_model_of_ones_own() -> None:
    """Into it, out of it, and its own forward pass held to the truth."""
    canonical, model = weights(CONV, "float64"), Branch(nnx.Rngs(0))
    made = to_flax(canonical, model, experiment=CONV)
    assert same_bits(from_flax(made, experiment=CONV), canonical)
    with pytest.raises(UserError, match="do not tell the order of its layers"):
        from_flax(made)
    run = functools.partial(plain_flax.logits, model, plain_flax.weights_of(made).arrays)
    proof = verify.check_model(CONV, canonical, run, "flax-nnx")
    assert proof.passed, proof.worst()
    assert proof.room < 1e-8
    wrong = dict(canonical, **{"conv1.weight": canonical["conv1.weight"][:, :, ::-1]})
    assert not verify.check_model(CONV, wrong, run, "flax-nnx").passed


def test_the_documented_code_runs() -> None:
    blocks = re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL)
    assert len(blocks) == 3
    scope: dict[str, Any] = {"__name__": "documented"}
    for block in blocks:
        exec(compile(block, str(DOCS), "exec"), scope)
    images = verify.images_for(scope["experiment"]).astype(np.float32)
    with torch.no_grad():
        expected = scope["model"](torch.from_numpy(images).double()).numpy()
    found = np.asarray(scope["plain"](images.transpose(0, 2, 3, 1)))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * np.ptp(expected))
