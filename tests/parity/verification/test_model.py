"""`parity.verify_model`: a right port holds, a wrong one is caught at the first layer that is wrong."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch import nn

from parity import Report, verify_model
from parity.errors import UsageError
from parity.verification.casts import Cut

LAYERS = {"0": "conv", "1": "norm"}


def original() -> nn.Sequential:
    """Its ReLU writes over the batch norm's output, which must have been kept before."""
    torch.manual_seed(0)
    conv = nn.Conv2d(2, 3, 3, stride=2, padding=1)
    return nn.Sequential(
        conv, nn.BatchNorm2d(3), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(12, 4)
    ).eval()


def convert(p: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    norm = {
        "mean": p["1.running_mean"],
        "variance": p["1.running_var"],
        "gamma": p["1.weight"],
        "beta": p["1.bias"],
    }
    return {
        "kernel": p["0.weight"].transpose(2, 3, 1, 0),
        "b": p["0.bias"],
        **norm,
        "W": p["4.weight"],
        "c": p["4.bias"],
    }


def port(p: Any, x: jax.Array, padding: Any = ((1, 1), (1, 1)), eps: float = 1e-5) -> dict[str, jax.Array]:
    """Channels-last inside, as JAX code is."""
    order = ("NHWC", "HWIO", "NHWC")
    y = jax.lax.conv_general_dilated(
        x.transpose(0, 2, 3, 1), p["kernel"], (2, 2), padding, dimension_numbers=order
    )
    conv = y + p["b"]
    norm = (conv - p["mean"]) / jnp.sqrt(p["variance"] + eps) * p["gamma"] + p["beta"]
    flat = jax.nn.relu(norm).transpose(0, 3, 1, 2).reshape(len(x), -1)
    first = {"conv": conv.transpose(0, 3, 1, 2), "norm": norm.transpose(0, 3, 1, 2)}
    return {**first, "output": flat @ p["W"].T + p["c"]}


def held(
    port: Any, convert: Any = convert, layers: Any = LAYERS, reference: Any = None, dtypes: Any = ("float64",)
) -> Report:
    return verify_model(
        "net",
        inputs={"x": (2, 2, 4, 4)},
        reference=original() if reference is None else reference,
        port=port,
        layers=layers,
        convert=convert,
        dtypes=dtypes,
    )


def test_a_right_port_holds() -> None:
    report = held(port, dtypes=("float64", "float32"))
    report.assert_passed()
    parameters = [f"d{part}.{kind}" for part in "014" for kind in ("weight", "bias")]
    compared = ["0", "1", "output", "dx", *parameters]
    assert [(r.case, r.quantity) for r in report.results if r.dtype == "float64"] == [
        (case, quantity) for case in ("as given", "parameters moved") for quantity in compared
    ]
    assert report.verdict() == "net: passed, all 10 quantities"
    assert "ESTIMATED" in str(report)


def test_the_first_wrong_layer_is_named() -> None:
    for wrong, first, why in (
        (lambda p, x: port(p, x, "SAME"), "0", "wrong in float64: not rounding, another formula"),
        (lambda p, x: port(p, x, eps=1e-3), "1", "wrong in float64, by less than 1%"),
    ):
        report = held(wrong)
        assert report.first == first
        assert f"The first layer that differs: {first}" in report.explain()
        (line,) = (line for line in report.explain().splitlines() if line.startswith("port "))
        assert line.startswith(f"port {first}: {why}")


def test_two_modules_with_and_without_a_mapping() -> None:
    names = {"0": "0", "4": "4"}
    held(original(), None, names).assert_passed()

    def without_bias(p: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {**p, "4.bias": 0 * p["4.bias"]}

    assert held(original(), without_bias, names).first == "4"


class Narrow(nn.Module):
    """float32 inside, whatever comes in."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.float().to(x.dtype)


def test_a_hidden_cast_of_a_model_is_found() -> None:
    cut = original()
    cut[3] = nn.Sequential(Narrow(), nn.Flatten())
    report = held(cut, None, {"0": "0"})
    assert {r.quantity for r in report.failures if r.note == Cut("float32").told()} >= {"output", "dx"}
    assert not any(r.quantity == "0" for r in report.failures)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"layers": {"7": "conv"}}, "layers: reference: 7 is never called"),
        ({"port": lambda p, x: x}, "expected a dictionary with"),
        ({"port": 3}, "port: expected a torch module, a Flax NNX module, "),
        ({"reference": 3, "port": port}, "reference: expected a torch module"),
        ({"reference": nn.Sequential(nn.Dropout(0.5)), "port": port, "layers": {}}, "in training mode"),
        ({"port": original(), "layers": {"0": "0"}, "convert": lambda p: {}}, "expected"),
        ({"port": port, "convert": lambda p: {}}, "the function raised KeyError"),
    ],
)
def test_mistakes_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        held(**{"port": port, **arguments})


def by_moments(p: Any, x: jax.Array, cast: Any = None) -> dict[str, jax.Array]:
    """A layer norm whose variance is E[x^2] - E[x]^2; and, in float32, a root that is cut to `cast`."""
    mean = x.mean(-1, keepdims=True)
    root = jnp.sqrt((x * x).mean(-1, keepdims=True) - mean**2 + 1e-5)
    if cast is not None and x.dtype == jnp.float32:
        root = root.astype(cast).astype(x.dtype)
    return {"output": (x - mean) / root * p["0.weight"] + p["0.bias"]}


@pytest.mark.parametrize(
    ("mean", "cast", "passes"),
    [
        (0, None, True),
        (5, None, True),
        (100, None, False),
        (0, jnp.bfloat16, False),
        (0, jnp.float16, False),
    ],
)
def test_an_equal_form_may_round_a_little_more(mean: float, cast: Any, passes: bool) -> None:
    x = mean + np.random.default_rng(0).normal(size=(8, 64))
    report = verify_model(
        "norm",
        inputs={"x": x},
        reference=nn.Sequential(nn.LayerNorm(64)),
        port=lambda p, x: by_moments(p, x, cast),
    )
    assert report.passed == passes, str(report)
    told = any("the port rounds more coarsely" in note.lower() for note in report.notes)
    assert told == (mean == 5)
