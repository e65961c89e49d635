"""Either side in any framework: right ports pass with nothing said of layers, and wrong ones name theirs."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import linen, nnx
from torch import nn

from parity import Report, assert_port, verify_model
from parity.errors import UsageError
from parity.verification.matching import matched

X: dict[str, Any] = {"x": (3, 4)}


def original() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2))


P = {key: array.detach().numpy() for key, array in original().state_dict().items()}


class Linen(linen.Module):
    scale: float = 1.0

    @linen.compact
    def __call__(self, x: Any) -> Any:
        return linen.Dense(2, name="last")(jnp.tanh(self.scale * linen.Dense(6, name="first")(x)))


LINEN = {
    "params": {
        "first": {"kernel": P["0.weight"].T, "bias": P["0.bias"]},
        "last": {"kernel": P["2.weight"].T, "bias": P["2.bias"]},
    }
}


class Nnx(nnx.Module):
    def __init__(self, loaded: bool = True) -> None:
        self.first, self.last = nnx.Linear(4, 6, rngs=nnx.Rngs(0)), nnx.Linear(6, 2, rngs=nnx.Rngs(1))
        for layer, key in ((self.first, "0"), (self.last, "2")) if loaded else ():
            layer.kernel.set_value(jnp.asarray(P[f"{key}.weight"].T))
            assert layer.bias is not None
            layer.bias.set_value(jnp.asarray(P[f"{key}.bias"]))

    def __call__(self, x: Any) -> Any:
        return self.last(jnp.tanh(self.first(x)))


def function(p: Any, x: Any) -> Any:
    return jnp.tanh(x @ p["w"] + p["b"]) @ p["v"] + p["c"]


PARAMETERS = {"w": P["0.weight"].T, "b": P["0.bias"], "v": P["2.weight"].T, "c": P["2.bias"]}


def by_hand(factor: float = 1.0) -> Any:
    def forward(p: Any, x: Any) -> Any:
        h = np.tanh(x @ p["w"] + p["b"])
        return h @ p["v"] + p["c"], (p, x, h)

    def backward(dy: Any, cache: Any) -> Any:
        p, x, h = cache
        dh = (dy @ p["v"].T) * (1 - h * h) * x.dtype.type(factor)
        return {"w": x.T @ dh, "b": dh.sum(0), "v": h.T @ dy, "c": dy.sum(0)}, (dh @ p["w"].T,)

    return SimpleNamespace(parameters=PARAMETERS, forward=forward, backward=backward)


SIDES: dict[str, Any] = {
    "torch": original(),
    "nnx": Nnx(),
    "linen": (Linen(), LINEN),
    "function": (function, PARAMETERS),
    "numpy": by_hand(),
}


def judged(reference: Any, port: Any, dtypes: Any = ("float64",), **rest: Any) -> Report:
    return verify_model("net", inputs=X, reference=reference, port=port, dtypes=dtypes, **rest)


@pytest.mark.parametrize(
    ("reference", "port"),
    [
        ("torch", "nnx"),
        ("torch", "linen"),
        ("torch", "function"),
        ("torch", "numpy"),
        ("nnx", "torch"),
        ("linen", "numpy"),
        ("function", "torch"),
        ("numpy", "nnx"),
    ],
)
def test_a_right_port_passes_whatever_it_is_written_in(reference: str, port: str) -> None:
    report = judged(SIDES[reference], SIDES[port])
    report.assert_passed()
    gradients = [key for key in report.quantities if key.startswith("d")]
    assert len(gradients) >= 5, "of the input and four parameters"
    assert {result.case for result in report.results} == {"as given", "parameters moved"}


def test_layers_and_their_gradients_are_compared_and_told() -> None:
    report = judged(SIDES["torch"], SIDES["linen"])
    assert {"0", "2", "d0", "d2", "d0.weight"} <= set(report.quantities)
    assert "  0 = first (by parameters)" in str(report)
    assert "In the reference alone: 1" in str(report)


@pytest.mark.parametrize(
    ("port", "first", "words"),
    [
        ((Linen(scale=1.01), LINEN), "the model itself", "what goes into 2 differs"),
        (by_hand(1.01), "", "wrong in float64"),
        (
            (function, {**PARAMETERS, "c": PARAMETERS["c"] + 1}),
            "",
            "not have the reference's values in c (2.bias)",
        ),
    ],
)
def test_a_wrong_one_fails(port: Any, first: str, words: str) -> None:
    report = judged(SIDES["torch"], port)
    assert not report.passed
    assert words in report.explain()
    assert not first or report.first == first


def test_a_fresh_port_gets_the_references_parameters_by_its_layers() -> None:
    report = judged(SIDES["torch"], Nnx(loaded=False))
    report.assert_passed()
    assert any("by the order of layers" in note for note in report.notes)


def test_a_later_layer_inherits_and_is_not_blamed() -> None:
    wrong = Nnx()
    assert wrong.first.bias is not None
    wrong.first.bias.set_value(wrong.first.bias.get_value() + 1)
    report = judged(SIDES["torch"], wrong)
    assert {"0", "2", "output"} <= {result.quantity for result in report.failures}
    assert report.own == ("0: differs on the reference's own input",)


class Calls(nn.Module):
    """One layer that is called twice, and one of two outputs."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inner, self.rnn = nn.Linear(4, 4), nn.LSTM(4, 4, batch_first=True)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        _, (h, c) = self.rnn(self.inner(self.inner(x))[:, None])
        return h[0], c[0]


def test_parts_of_outputs_and_repeated_calls_have_names() -> None:
    def ported(p: Any, x: Any) -> Any:
        a = x @ p["inner.weight"].T + p["inner.bias"]
        b = a @ p["inner.weight"].T + p["inner.bias"]
        z = b @ p["rnn.weight_ih_l0"].T + p["rnn.bias_ih_l0"] + p["rnn.bias_hh_l0"]
        i, _, g, o = jnp.split(z, 4, -1)
        c = jax.nn.sigmoid(i) * jnp.tanh(g)
        return {"called": [a, b], "cell": c[None], "output": jax.nn.sigmoid(o) * jnp.tanh(c)}

    layers = {"inner[0]": "called[0]", "inner[1]": "called[1]", "rnn:2": "cell"}
    report = judged(Calls(), ported, layers=layers, output=0)
    report.assert_passed()
    assert set(layers) <= set(report.quantities)
    swapped = {"inner[0]": "called[1]", "inner[1]": "called[0]"}
    assert {"inner[0]", "inner[1]"} <= {
        r.quantity for r in judged(Calls(), ported, layers=swapped, output=0).failures
    }


def test_a_test_of_a_port_shows_the_report() -> None:
    assert_port("net", inputs=X, reference=SIDES["torch"], port=SIDES["nnx"])
    with pytest.raises(AssertionError, match="net: FAILED in"):
        assert_port("net", inputs=X, reference=SIDES["torch"], port=(Linen(scale=1.01), LINEN))


def test_what_belongs_to_what_is_read_off_the_values() -> None:
    rng = np.random.default_rng(0)
    fused, a, b = rng.normal(size=(12, 4)), rng.normal(size=8), rng.normal(size=8)
    own = {
        "key.kernel": fused[4:8].T,
        "h.bias": (a + b)[4:],
        "turned.kernel": fused.reshape(3, 4, 4).transpose(2, 0, 1),
    }
    found = matched({"qkv.weight": fused, "l.bias_ih": a, "l.bias_hh": b}, own, [], [])
    assert found.by_value == set(own)
    again = found.map.forward({"qkv.weight": 2 * fused, "l.bias_ih": a, "l.bias_hh": 3 * b}, own)
    np.testing.assert_array_equal(again["key.kernel"], 2 * own["key.kernel"])
    np.testing.assert_allclose(again["h.bias"], (a + 3 * b)[4:])
    back = found.map.back({"h.bias": np.ones(4)}, {"l.bias_hh": (8,)})
    np.testing.assert_array_equal(back["l.bias_hh"], [0, 0, 0, 0, 1, 1, 1, 1])


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_the_message_says_so() -> None:
    with pytest.raises(UsageError, match="device='gpu': torch has no CUDA device here"):
        judged(SIDES["torch"], SIDES["torch"], device="gpu")
