"""Layers, wrappers and tensors of every kind: converted with a note, or refused in a line."""

from __future__ import annotations

import collections
import copy
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.torch
import torch
from flax import linen, nnx
from torch import nn
from torch.nn.utils import parametrizations, prune

from parity.__main__ import main
from parity.convert import files, from_flax, from_torch, to_flax, to_torch
from tests.helpers.small import same_bits
from triptych.describe.network import Model
from triptych.describe.spec import Experiment
from triptych.errors import UserError

Capture = pytest.CaptureFixture[str]


class Scaled(nn.Linear):
    """Computes something else with a Linear's parameters."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(x)


class Renamed(nn.Linear):
    """The same under another name."""


class Own(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.zeros(10, 3072)), nn.Parameter(torch.zeros(10))


def mlp() -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), nn.Linear(3072, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 10))


def after(layer: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(3072, 4), layer, nn.Linear(4, 10))


def between(layer: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), layer, nn.Flatten(), nn.Linear(4, 10))


# --- torch's classes ---

REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "conv transpose": (lambda: between(nn.ConvTranspose2d(4, 4, 3)), r"2 \(.*a ConvTranspose2d"),
    "conv 1d": (lambda: nn.Sequential(nn.Conv1d(3, 4, 3)), "a Conv1d"),
    "conv 3d": (lambda: nn.Sequential(nn.Conv3d(3, 4, 3)), "a Conv3d"),
    "depthwise": (lambda: between(nn.Conv2d(4, 4, 3, groups=4)), "a Conv2d with groups=4"),
    "dilated": (lambda: between(nn.Conv2d(4, 4, 3, dilation=2)), r"a Conv2d with dilation=\(2, 2\)"),
    "reflected": (lambda: between(nn.Conv2d(4, 4, 3, padding_mode="reflect")), "padding_mode=reflect"),
    "norm without weights": (lambda: between(nn.InstanceNorm2d(4)), "2: an InstanceNorm2d without weights"),
    "untracked": (lambda: between(nn.BatchNorm2d(4, track_running_stats=False)), "track_running_stats=False"),
    "layer norm": (lambda: after(nn.LayerNorm(4)), r"2 \(.*a LayerNorm"),
    "rms norm": (lambda: after(nn.RMSNorm(4)), "an RMSNorm"),
    "group norm": (lambda: between(nn.GroupNorm(2, 4)), "a GroupNorm"),
    "instance norm": (lambda: between(nn.InstanceNorm2d(4, affine=True)), "an? InstanceNorm2d"),
    "tracking": (lambda: between(nn.InstanceNorm2d(4, 1e-5, 0.1, True, True)), "an? InstanceNorm2d"),
    "prelu": (lambda: after(nn.PReLU(4)), "a PReLU"),
    "embedding": (lambda: nn.Sequential(nn.Embedding(10, 10)), "an? Embedding"),
    "embedding bag": (lambda: nn.Sequential(nn.EmbeddingBag(10, 10)), "an? EmbeddingBag"),
    "lstm": (lambda: after(nn.LSTM(4, 4)), "an? LSTM"),
    "gru cell": (lambda: after(nn.GRUCell(4, 4)), "a GRUCell"),
    "attention": (lambda: after(nn.MultiheadAttention(4, 2)), "a MultiheadAttention"),
    "transformer": (lambda: after(nn.TransformerEncoderLayer(4, 2, 8)), "a MultiheadAttention.*a LayerNorm"),
    "bilinear": (lambda: nn.Sequential(nn.Bilinear(4, 4, 4)), "a Bilinear"),
    "weight norm": (
        lambda: after(parametrizations.weight_norm(nn.Linear(4, 4))), "remove_parametrizations"
    ),
    "spectral norm": (
        lambda: after(parametrizations.spectral_norm(nn.Linear(4, 4))), "remove_parametrizations"
    ),
    "old spectral norm": (lambda: after(nn.utils.spectral_norm(nn.Linear(4, 4))), "remove_spectral_norm"),
    "pruned": (lambda: after(prune.random_unstructured(nn.Linear(4, 4), "weight", 0.5)), "prune.remove"),
    "lazy": (lambda: nn.Sequential(nn.Flatten(), nn.LazyLinear(10)), "lazy; run the model once"),
    "subclass": (lambda: after(Scaled(4, 4)), rf"an? {__name__}.Scaled"),
    "own parameters": (Own, r"\(top\) \(.*an? Own"),
    "tied": (lambda: nn.Sequential(*[nn.Linear(4, 4)] * 2), "0.weight and 1.weight are one tensor"),
    "meta": (lambda: mlp().to("meta"), "1.weight is on the meta device"),
    "float8": (lambda: after(nn.Linear(4, 4).to(torch.float8_e4m3fn)), "2.weight is float8_e4m3fn"),
    "complex": (lambda: after(nn.Linear(4, 4, dtype=torch.complex64)), "2.weight is complex64"),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_another_kind_of_layer_is_refused_by_its_class(kind: str) -> None:
    make, message = REFUSED[kind]
    with pytest.raises(UserError, match=message) as caught:
        from_torch(make())
    assert "\n" not in str(caught.value)


AMBIGUOUS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "conv transpose": (lambda: nn.Sequential(nn.ConvTranspose2d(3, 4, 3)), "ConvTranspose2d"),
    "without a bias": (
        lambda: nn.Sequential(nn.ConvTranspose2d(3, 4, 3, bias=False), nn.BatchNorm2d(4)), "not the network's"
    ),
    "layer norm": (lambda: after(nn.LayerNorm(4)), "LayerNorm, RMSNorm, GroupNorm or PReLU"),
    "embedding": (lambda: nn.Sequential(nn.Embedding(10, 10)), "0 may also be an Embedding"),
    "lstm": (lambda: after(nn.LSTM(4, 4)), "an LSTM, GRU or RNN"),
    "attention": (lambda: after(nn.MultiheadAttention(4, 2)), "attention"),
    "bilinear": (lambda: nn.Sequential(nn.Bilinear(4, 4, 4)), "Bilinear"),
    "weight norm": (lambda: after(parametrizations.weight_norm(nn.Linear(4, 4))), "remove_parametrizations"),
}  # fmt: skip


@pytest.mark.parametrize("kind", AMBIGUOUS)
def test_names_and_shapes_alone_are_refused_where_they_leave_a_choice(kind: str) -> None:
    make, message = AMBIGUOUS[kind]
    with pytest.raises(UserError, match=message):
        from_torch(make().state_dict())


def test_a_square_convolution_is_read_with_a_word_of_what_else_it_may_be(
    tmp_path: Path, capsys: Capture
) -> None:
    torch.save(between(nn.Conv2d(4, 4, 3)).state_dict(), tmp_path / "in.pt")
    words = ["convert", f"{tmp_path}/in.pt", f"{tmp_path}/out.safetensors", "--to", "canonical"]
    assert main(words) == 0
    assert "by names and shapes alone 2 may be a ConvTranspose2d; --model" in capsys.readouterr().out
    assert "conv2.weight" in files.read(tmp_path / "out.safetensors").arrays


def test_a_class_that_computes_the_same_is_read() -> None:
    model = after(Renamed(4, 4))
    assert np.array_equal(
        from_torch(model)["linear2.weight"], model.get_parameter("2.weight").detach().numpy()
    )
    square = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.SyncBatchNorm(4), nn.Flatten(), nn.Linear(4, 10)
    )
    assert set(from_torch(square)) >= {"conv2.weight", "conv2_norm.running_var", "linear1.bias"}


class Buffers(nn.Module):
    """Integer and boolean buffers, and an averaged model's count."""

    def __init__(self) -> None:
        super().__init__()
        self.net = mlp()
        self.register_buffer("places", torch.arange(7))
        self.register_buffer("mask", torch.tensor([True, False]))


@pytest.mark.parametrize("wrap", [Buffers, lambda: torch.optim.swa_utils.AveragedModel(mlp())])
def test_buffers_that_are_no_weights_stay_as_they_are(wrap: Callable[[], nn.Module]) -> None:
    original = mlp().double()
    model, source = wrap().double(), from_torch(original)
    before = copy.deepcopy(model.state_dict())
    model.load_state_dict(to_torch(source, model))  # strict
    assert same_bits(from_torch(model), source)
    x = torch.randn(3, 3072, dtype=torch.float64)
    assert torch.equal(next(model.children()).eval()(x), original.eval()(x))
    whole = [
        name for name, tensor in before.items() if not tensor.is_floating_point() and "tracked" not in name
    ]
    assert whole
    assert all(torch.equal(model.state_dict()[name], before[name]) for name in whole)


# --- torch files ---


def state() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return dict(mlp().state_dict())


def prefixed(prefix: str) -> dict[str, torch.Tensor]:
    return {prefix + name: tensor for name, tensor in state().items()}


def each(change: Callable[[Any], torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: change(t) if t.is_floating_point() else t for name, t in state().items()}


def inner() -> dict[str, torch.Tensor]:
    return {re.sub(r"^(\d)", r"layers.\1._orig_mod", name): tensor for name, tensor in state().items()}


CARRIED: dict[str, tuple[Callable[[], Any], str]] = {
    "plain": (state, ""),
    "data parallel": (lambda: prefixed("module."), "left out of the names: module"),
    "compiled within": (inner, "left out of the names: _orig_mod"),
    "both, within": (lambda: prefixed("net.module._orig_mod."), "left out of the names: _orig_mod, module"),
    "averaged": (
        lambda: {"n_averaged": torch.tensor(3), **prefixed("module.")}, "no weights of a layer: n_averaged"
    ),
    "buffers": (lambda: {**state(), "places": torch.arange(7), "seen": torch.tensor(True)}, "places, seen"),
    "net": (lambda: {"net": state(), "epoch": 3}, "under 'net'; left out: epoch"),
    "model": (lambda: {"optimizer": {"state": {}}, "model": state()}, "under 'model'"),
    "weights": (lambda: {"weights": state(), "step": 1}, "under 'weights'"),
    "and its average": (lambda: {"ema": state(), "model": state()}, "left out: ema"),
    "and settings": (lambda: {"encoder": state(), "config": {"a": 1}}, "'encoder'; left out: config"),
    "nested": (lambda: {"checkpoint": {"model_state_dict": state()}}, "under 'checkpoint'"),
    "lightning": (
        lambda: {"epoch": 1, "state_dict": prefixed("model."), "callbacks": {}, "loops": {"a": {}},
                 "hyper_parameters": {"lr": 0.1}, "optimizer_states": [{}]}, "under 'state_dict'",
    ),
    "counters of metrics": (lambda: {**state(), "accuracy.correct": torch.tensor(9)}, "accuracy.correct"),
    "ordered": (lambda: collections.OrderedDict(state()), ""),
    "half": (lambda: each(torch.Tensor.bfloat16), ""),
    "parameters": (lambda: each(nn.Parameter), ""),
}  # fmt: skip


@pytest.mark.parametrize("kind", CARRIED)
@pytest.mark.parametrize("old", [False, True])
def test_a_torch_file_is_read_through_its_wrappings(
    kind: str, old: bool, tmp_path: Path, capsys: Capture
) -> None:
    make, note = CARRIED[kind]
    torch.save(make(), tmp_path / "in.pt", _use_new_zipfile_serialization=not old)
    words = ["convert", f"{tmp_path}/in.pt", f"{tmp_path}/out.safetensors", "--to", "canonical"]
    assert main(words) == 0
    assert note in capsys.readouterr().out
    found = files.read(tmp_path / "out.safetensors").arrays
    expected = {"linear1.weight": "1.weight", "norm1.running_var": "2.running_var", "linear2.bias": "4.bias"}
    for ours, theirs in expected.items():
        array = state()[theirs].numpy()
        assert np.array_equal(found[ours], array.astype(found[ours].dtype))


def quantized() -> Any:
    with warnings.catch_warnings(action="ignore"):
        return torch.quantize_per_tensor(torch.randn(10, 3072), 0.1, 0, torch.qint8)


def compressed_rows() -> Any:
    with warnings.catch_warnings(action="ignore"):
        return torch.eye(10).to_sparse_csr()


UNREADABLE: dict[str, tuple[Callable[[], Any], str]] = {
    "float8": (lambda: {"0.weight": torch.zeros(10, 3072).to(torch.float8_e5m2)}, "0.weight is float8_e5m2"),
    "complex": (lambda: {"0.weight": torch.zeros(10, 3072, dtype=torch.complex64)}, "0.weight is complex64"),
    "quantized": (lambda: {"0.weight": quantized()}, "0.weight is qint8"),
    "int8": (lambda: {"0.weight": torch.zeros(10, 3072, dtype=torch.int8)}, "0.weight is int8"),
    "sparse": (lambda: {"0.weight": torch.zeros(10, 3072).to_sparse()}, "0.weight is sparse"),
    "rows": (lambda: {"0.weight": compressed_rows()}, "0.weight is sparse"),
    "meta": (lambda: {"0.weight": torch.zeros(10, 3072, device="meta")}, "0.weight is on the meta device"),
    "a generator's state": (lambda: {"0.weight": torch.get_rng_state()}, "0.weight is uint8"),
    "two models": (lambda: {"maker": state(), "critic": state()}, "one state_dict, found maker, critic"),
    "text": (lambda: {**state(), "name": "mine"}, r"name \(str\)"),
    "nothing": (dict, "found nothing"),
}  # fmt: skip


@pytest.mark.parametrize("kind", UNREADABLE)
def test_tensors_that_are_not_plain_numbers_are_refused(kind: str, tmp_path: Path, capsys: Capture) -> None:
    make, message = UNREADABLE[kind]
    torch.save(make(), tmp_path / "in.pt")
    assert (
        main(["convert", f"{tmp_path}/in.pt", f"{tmp_path}/out.pt", "--to", "torch", "--experiment", "fig1"])
        == 2
    )
    error = capsys.readouterr().err
    assert re.search(message, error)
    assert "Traceback" not in error
    assert error.count("\n") == 1


def test_safetensors_of_other_kinds_are_read_or_refused(tmp_path: Path, capsys: Capture) -> None:
    path = tmp_path / "in.safetensors"
    safetensors.torch.save_file(
        {**prefixed("module."), "n_averaged": torch.tensor(3), "seen": torch.tensor(True)}, path
    )
    words = ["convert", str(path), f"{tmp_path}/out.safetensors", "--to", "canonical", "--overwrite"]
    assert main(words) == 0
    assert "n_averaged, seen" in capsys.readouterr().out
    for dtype in (torch.float8_e4m3fn, torch.int8, torch.complex64):
        safetensors.torch.save_file({"0.weight": torch.zeros(10, 3072).to(dtype)}, path)
        assert main(words) == 2
        assert "0.weight is " in capsys.readouterr().err


# --- Flax ---

START: dict[str, Any] = {"rngs": nnx.Rngs(0)}


class Net(nnx.Module):
    def __init__(self, *middle: Any) -> None:
        zeros = nnx.initializers.zeros_init()
        self.first = nnx.Linear(3072, 4, kernel_init=zeros, **START)
        self.middle = nnx.List(middle)
        self.drop = nnx.Dropout(0.5, **START)
        self.last = nnx.Linear(4, 10, **START)

    def __call__(self, x: Any) -> Any:
        return self.last(self.drop(self.first(x.reshape(len(x), -1))))


class Widened(nnx.Linear):
    def __call__(self, inputs: Any, out_sharding: Any = None) -> Any:
        return 2 * super().__call__(inputs)


NNX: dict[str, tuple[Callable[[], Any], str]] = {
    "conv transpose": (lambda: nnx.ConvTranspose(4, 4, (3, 3), **START), "a ConvTranspose"),
    "depthwise": (lambda: nnx.Conv(4, 4, (3, 3), feature_group_count=4, **START), "feature_group_count=4"),
    "dilated": (lambda: nnx.Conv(4, 4, (3, 3), kernel_dilation=2, **START), "a Conv with kernel_dilation=2"),
    "circular": (lambda: nnx.Conv(4, 4, (3, 3), padding="CIRCULAR", **START), "a Conv with padding=CIRCULAR"),
    "masked": (lambda: nnx.Conv(4, 4, (3, 3), mask=jnp.ones((3, 3, 4, 4)), **START), "a Conv with a mask"),
    "norm without weights": (
        lambda: nnx.LayerNorm(4, use_bias=False, use_scale=False, **START), "a LayerNorm without weights"
    ),
    "conv 1d": (lambda: nnx.Conv(4, 4, (3,), **START), r"middle/0 \(.*kernel \(3, 4, 4\)"),
    "layer norm": (lambda: nnx.LayerNorm(4, **START), "a LayerNorm"),
    "rms norm": (lambda: nnx.RMSNorm(4, **START), "an RMSNorm"),
    "group norm": (lambda: nnx.GroupNorm(4, num_groups=2, **START), "a GroupNorm"),
    "embedding": (lambda: nnx.Embed(4, 4, **START), "an? Embed"),
    "attention": (lambda: nnx.MultiHeadAttention(2, 4, **START), "a MultiHeadAttention"),
    "lstm": (lambda: nnx.LSTMCell(4, 4, **START), "an? LSTMCell"),
    "prelu": (lambda: nnx.PReLU(), "a PReLU"),
    "subclass": (lambda: Widened(4, 4, **START), rf"an? {__name__}.Widened"),
}  # fmt: skip


@pytest.mark.parametrize("kind", NNX)
def test_another_kind_of_nnx_layer_is_refused(kind: str) -> None:
    make, message = NNX[kind]
    with pytest.raises(UserError, match=message):
        from_flax(Net(make()), explicit={"first": "linear1", "last": "linear2"})


SMALL = Experiment(model=Model(hidden=(4,)))
FIG1 = {"linear1.weight": np.ones((4, 3072)), "linear1.bias": np.ones(4),
        "linear2.weight": np.ones((10, 4)), "linear2.bias": np.ones(10)}  # fmt: skip


def with_value(tree: Any) -> Any:
    return {k: with_value(v) for k, v in tree.items()} if isinstance(tree, dict) else {"value": tree}


def test_leaves_under_value_and_random_streams(tmp_path: Path) -> None:
    net = Net()
    whole = nnx.to_pure_dict(nnx.state(net))  # with a dropout's key, which is no number
    made = to_flax(FIG1, with_value(whole), experiment=SMALL)
    assert made["first"]["kernel"]["value"].shape == (3072, 4)
    assert same_bits(from_flax(made, experiment=SMALL), FIG1)
    nnx.replace_by_pure_dict(state := nnx.state(net), to_flax(FIG1, whole, experiment=SMALL))
    nnx.update(net, state)
    assert np.array_equal(net.first.kernel[...], FIG1["linear1.weight"].T)


LINEN: dict[str, tuple[list[Any], str]] = {
    "read": ([linen.Dense(4), linen.relu, linen.Dense(10)], ""),
    "layer norm": ([linen.Dense(4), linen.LayerNorm(), linen.Dense(10)], "LayerNorm, RMSNorm or GroupNorm"),
    "embedding": ([linen.Embed(5, 4)], "an Embedding"),
    "attention": ([linen.Dense(4), linen.MultiHeadDotProductAttention(2)], "attention"),
}  # fmt: skip


@pytest.mark.parametrize("kind", LINEN)
def test_linens_sequential_is_read_in_its_order_or_refused(kind: str) -> None:
    layers, message = LINEN[kind]
    x = np.zeros((2, 3, 3072), np.int32 if kind == "embedding" else np.float32)
    shapes = jax.eval_shape(linen.Sequential(layers).init, jax.random.key(0), x)
    variables = jax.tree.map(lambda leaf: np.ones(leaf.shape, np.float32), shapes)
    if message:
        with pytest.raises(UserError, match=message):
            from_flax(variables)
    else:
        assert same_bits(from_flax(variables), {name: array.astype("f4") for name, array in FIG1.items()})


def test_a_train_state_and_its_other_collections(tmp_path: Path, capsys: Capture) -> None:
    params = {"layers_0": {"kernel": np.ones((3072, 4)), "bias": np.ones(4)},
              "layers_2": {"kernel": np.ones((4, 10)), "bias": np.ones(10)}}  # fmt: skip
    saved = {"step": np.array(3), "params": {"params": params}, "opt_state": {"0": {"mu": params}}}
    (tmp_path / "in.msgpack").write_bytes(flax.serialization.msgpack_serialize(saved))
    assert (
        main(["convert", f"{tmp_path}/in.msgpack", f"{tmp_path}/out.safetensors", "--to", "canonical"]) == 0
    )
    assert "opt_state" in capsys.readouterr().out
    assert same_bits(files.read(tmp_path / "out.safetensors").arrays, FIG1)


def test_flax_arrays_of_other_kinds() -> None:
    for kernel, message in (
        (jnp.zeros((3072, 10), jnp.float8_e4m3fn), "a/kernel is float8_e4m3fn"),
        (jnp.zeros((3072, 10), jnp.complex64), "a/kernel is complex64"),
        (jax.ShapeDtypeStruct((3072, 10), np.float32), "a/kernel is a shape without values"),
        (jax.random.key(0), "a/kernel is key"),
        ("text", "a/kernel is str"),
    ):
        with pytest.raises(UserError, match=message):
            from_flax({"a": {"kernel": kernel}})
    for source in (None, [1]):
        with pytest.raises(UserError, match="flax: expected a model or its variables"):
            from_flax(source)  # type: ignore[arg-type]
        with pytest.raises(UserError, match="torch: expected a module or its state_dict"):
            from_torch(source)  # type: ignore[arg-type]
    alone = {"a": with_value({"kernel": np.ones((3072, 10)), "bias": np.ones(10)})}
    assert from_flax(alone)["linear1.weight"].shape == (10, 3072)
    with pytest.raises(UserError, match="found none"):
        from_flax({"rngs": {"key": jax.random.key(0)}})


class Branching(linen.Module):
    layer: Any

    @linen.compact
    def __call__(self, x: Any) -> Any:
        x = self.layer(linen.Conv(4, (3, 3))(x))
        return linen.Dense(10)(x.reshape(len(x), -1))


class Training(linen.Module):
    @linen.compact
    def __call__(self, x: Any, train: bool) -> Any:
        return linen.Dense(10)(x) if train else x


def test_a_linen_module_is_known_by_its_classes() -> None:
    plain = {"conv1.weight": np.ones((4, 3, 3, 3)), "conv1.bias": np.ones(4),
             "linear1.weight": np.ones((10, 4096)), "linear1.bias": np.ones(10)}  # fmt: skip
    assert set(to_flax(plain, Branching(linen.relu))["params"]) == {"Conv_0", "Dense_0"}
    for layer, message in (
        (linen.ConvTranspose(4, (3, 3)), "a ConvTranspose"),
        (linen.Conv(4, (3, 3), padding="CIRCULAR"), "a Conv with padding=CIRCULAR"),
        (linen.GroupNorm(2, use_bias=False, use_scale=False), "a GroupNorm without weights"),
        (linen.WeightNorm(linen.Dense(4)), "a WeightNorm"),
    ):
        with pytest.raises(UserError, match=message):
            to_flax(plain, Branching(layer))
    with pytest.raises(UserError, match=r"Training does not take images .* give its variables"):
        to_flax(plain, Training())


def test_order_of_linen_counts_does_not_name_norms() -> None:
    """Dense_0 and BatchNorm_0 are counted apart: which comes first is not known."""
    norm = {"scale": np.ones(4), "bias": np.ones(4)}
    dense = {"Dense_0": {"kernel": np.ones((3072, 4))}, "Dense_1": {"kernel": np.ones((4, 10))}}
    tree = {
        "params": {**dense, "BatchNorm_0": norm},
        "batch_stats": {"BatchNorm_0": {"mean": np.ones(4), "var": np.ones(4)}},
    }
    with pytest.raises(UserError, match="do not tell the order"):
        from_flax(tree)
