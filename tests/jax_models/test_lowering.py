"""What XLA gets for a GPU and a TPU, with neither here: training and evaluation of every model are lowered
for both, and their programs are read.
"""

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import pytest

from jax_models.backend import CHUNK, JaxBackend
from tests.helpers import small
from triptych.describe import catalogue
from triptych.describe.spec import Experiment

BATCH_NORM = {"figure 4": catalogue.FIG4, "figure 5": catalogue.FIG5}
MODELS = {
    "figure 1": catalogue.FIG1,
    "figure 3": catalogue.FIG3,
    **BATCH_NORM,
    "figure 7": catalogue.FIG7,
    "figure 8": catalogue.FIG8,
    "figure 7, manual": replace(catalogue.FIG7, model=replace(catalogue.VGG, batch_norm="manual")),
    "dropout": replace(catalogue.FIG1, model=replace(catalogue.FIG1.model, dropout=0.2)),
}
PRECISIONS: dict[str, dict[str, Any]] = {
    "float32": {},
    "TF32": {"tf32": True},
    "bfloat16": {"dtype": "bfloat16"},
}
PRODUCTS = {"float32": "[HIGHEST, HIGHEST]", "TF32": "[HIGH, HIGH]", "bfloat16": "[HIGHEST, HIGHEST]"}
HALF = ("figure 1", "figure 5", "figure 7")
CASES = [(name, "float32") for name in MODELS] + [(name, p) for name in HALF for p in ("TF32", "bfloat16")]


def backend(spec: Experiment) -> JaxBackend:
    """As on an accelerator: most steps in loops of a known length."""
    made = small.started("jax", replace(spec, data=replace(spec.data, batch_size=16)), small.data())
    assert isinstance(made, JaxBackend)
    made._chunked = True
    return made


def training(made: JaxBackend) -> Callable[[str], str]:
    steps = small.steps(made.experiment, small.data(), 0, 2 * CHUNK)
    table = made._table(steps, 2 * CHUNK)
    traced = made._run.trace(made.state, made.data["train"], table, len(steps))
    return lambda platform: traced.lower(lowering_platforms=(platform,)).as_text()


def evaluation(made: JaxBackend) -> Callable[[str], str]:
    traced = made._evaluate.trace(made.state.parameters, made.state.statistics, made.data["test"], False)
    return lambda platform: traced.lower(lowering_platforms=(platform,)).as_text()


def shortened(spec: Experiment) -> Experiment:
    """With fewer layers, of every kind that it has."""
    model = spec.model
    trunk = ("4", "M", "6", "6", "M") if model.channels else ()
    return replace(spec, model=replace(model, hidden=model.hidden[:2], channels=trunk))


@pytest.mark.parametrize(
    ("name", "precision", "whole"),
    [
        *((name, precision, False) for name, precision in CASES if name in HALF),
        *(pytest.param(*case, True, marks=pytest.mark.slow) for case in CASES),
    ],
)
def test_every_program_is_what_an_accelerator_needs(name: str, precision: str, whole: bool) -> None:
    """No float64, no call back to Python, the vendor's convolution in the precision asked for, the whole
    state updated in place, and a loop whose length the compiler knows.
    """
    spec = MODELS[name] if whole else shortened(MODELS[name])
    made = backend(replace(spec, training=replace(spec.training, **PRECISIONS[precision])))
    with made.context():
        trained, evaluated = training(made), evaluation(made)
        for platform in ("cuda", "tpu"):
            text = trained(platform)
            assert text.count("tf.aliasing_output") == len(jax.tree.leaves(made.state))
            assert f"dense<{CHUNK}>" in text
            for program in (text, evaluated(platform)):
                assert "f64" not in program
                assert not re.search("callback|py_client", program)
                assert ("stablehlo.convolution" in program) == bool(spec.model.channels)
                assert set(re.findall(r"precision = (\[.*?\])", program)) == {PRODUCTS[precision]}
                assert ("bf16" in program) == (precision == "bfloat16")
