"""Training that stops being finite: the run names the step and the layer, and keeps what was good."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from numpy_ref.backend import NumpyBackend
from tests.helpers import tiny
from triptych.cifar10.preprocess import prepare
from triptych.describe.schedule import learning_rates
from triptych.errors import UserError
from triptych.train import diagnose
from triptych.train.diagnose import NonFiniteError

MOMENTUM = {"momentum": 0.9, "nesterov": True, "dropout": 0.3}
pytestmark = pytest.mark.usefixtures("machine")


def broken_down(folder: Path, what: Any, backend: str = "numpy", **options: Any) -> str:
    """The message of a run that stops being finite; checks what it leaves behind."""
    with pytest.raises(NonFiniteError) as caught:
        tiny.launch(folder, what, backend, **options)
    last = tiny.newest(folder)
    assert diagnose.finite(last.state)
    assert f"the last good checkpoint is step {last.step} in {folder / 'checkpoints'}" in str(caught.value)
    assert not (folder / "summary.json").exists()
    assert (folder / "curves.png").exists()
    assert str(caught.value) in (folder / "log.txt").read_text()
    return str(caught.value)


@pytest.mark.parametrize("eval_every", [1, 4])
@pytest.mark.parametrize("backend", tiny.BACKENDS)
def test_an_enormous_learning_rate_is_diagnosed(tmp_path, backend, eval_every):
    """Step 1's loss is finite still; its update makes the parameters huge, and then products overflow."""
    what = tiny.settings(learning_rate=1e30, eval_every=eval_every)
    message = broken_down(tmp_path, what, backend)
    assert "step 2: first non-finite value in the output of layer linear2" in message or (
        eval_every == 1 and "evaluation after step 1: the held-out loss is not finite" in message
    )
    assert [record["step"] for record in tiny.metrics(tmp_path)] == [1]


@pytest.mark.parametrize("backend", tiny.BACKENDS)
def test_a_rate_beyond_float32_is_diagnosed(tmp_path, backend):
    message = broken_down(tmp_path, tiny.settings(learning_rate=1e300), backend)
    assert "step 1: first non-finite value in parameters linear" in message


@pytest.mark.parametrize("backend", tiny.BACKENDS)
def test_a_cause_steps_before_the_first_bad_loss_is_found(tmp_path, monkeypatch, backend):
    """A huge rate at step 6, in the middle of a call: the loss is bad from step 7 on. Once it is mended,
    repeating the command ends as a run that was well all the time.
    """
    what = tiny.settings(**MOMENTUM)
    tiny.install(monkeypatch.setattr, capacity=7)
    monkeypatch.setattr("triptych.describe.protocol.learning_rates", tiny.huge_rate)
    message = broken_down(tmp_path / "ill", what, backend)
    assert "step 6: first non-finite value in parameters linear" in message
    assert "checkpoint is step 4" in message
    assert [record["step"] for record in tiny.metrics(tmp_path / "ill")] == [1, 2, 3, 4, 4, 5, 6]
    monkeypatch.setattr("triptych.describe.protocol.learning_rates", learning_rates)
    tiny.launch(tmp_path / "ill", what, backend)
    tiny.launch(tmp_path / "well", what, backend)
    assert tiny.results(tmp_path / "ill") == tiny.results(tmp_path / "well")


@pytest.mark.parametrize("backend", tiny.BACKENDS)
def test_an_infinite_input_is_found(tmp_path, monkeypatch, backend):
    def planted(*args: Any) -> Any:
        data = prepare(*args)
        data.mean[0, 0, 0] = np.inf
        return data

    monkeypatch.setattr("triptych.train.launch.prepare", planted)
    message = broken_down(tmp_path, tiny.settings(seed=77), backend)
    assert "step 1: first non-finite value in the input: 20 of 61440 values, such as -inf" in message


def test_a_run_resumed_from_another_breaks_down_in_its_first_call(tmp_path):
    tiny.launch(tmp_path / "first", tiny.settings())
    what = tiny.settings(steps=20, learning_rate=1e30)
    message = broken_down(tmp_path / "second", what, resume=tmp_path / "first")
    assert "checkpoint is step 12" in message


@pytest.mark.parametrize("backend", tiny.BACKENDS)
def test_initial_parameters_beyond_float32_are_named(tmp_path, backend):
    with pytest.raises((UserError, NonFiniteError), match=r"init"):
        tiny.launch(tmp_path, tiny.settings(init="normal", init_std=1e300), backend)


def test_an_evaluation_that_is_not_finite_is_named(tmp_path, monkeypatch):
    evaluate = NumpyBackend.evaluate

    def planted(self: NumpyBackend, split: str, statistics: Any = None) -> Any:
        return dataclasses.replace(evaluate(self, split), loss=float("inf"))

    monkeypatch.setattr(NumpyBackend, "evaluate", planted)
    message = broken_down(tmp_path, tiny.settings())
    assert "evaluation after step 4: the held-out loss is not finite" in message
    assert [record["step"] for record in tiny.metrics(tmp_path, "train")] == [1, 2, 3, 4]


def test_the_command_ends_with_3_and_one_message(tmp_path, capsys):
    words = tiny.arguments(learning_rate=1e30)
    assert tiny.call("--backend", "numpy", "--run-dir", str(tmp_path), *words) == 3
    text = capsys.readouterr().err
    assert text.startswith(
        "error: training stopped being finite at step 2: first non-finite value in the output"
    )
    assert text.count("\n") == 1


def test_a_schedule_that_overflows_is_no_traceback(tmp_path):
    """A factor above 1 takes the rate beyond every number at step 32."""
    rate = {"schedule": "step", "decay_every": 1, "decay_factor": 1e10, "learning_rate": 1e-308}
    with pytest.raises((UserError, NonFiniteError)):
        tiny.launch(tmp_path, tiny.settings(**rate, steps=40))
