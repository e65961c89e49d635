"""Timing whole commands: which commands, what their table says, and what is refused."""

import json
import sys

import pytest

from triptych.bench import __main__ as command
from triptych.bench import whole
from triptych.bench.whole import Measured, Options


def test_one_command_for_a_sweep_and_one_a_run_otherwise_with_the_same_settings(tmp_path):
    options = Options(size="11", runs=3, steps=7, data_dir=tmp_path)
    ((*sweep,),) = whole.commands(options, "jax-sweep", tmp_path / "runs")
    assert sweep[-2:] == ["learning_rate=0.001,0.0005,0.000333333", "weight_decay=1e-4"]
    single = whole.commands(options, "torch", tmp_path / "runs")
    rates = [one[one.index("--learning-rate") + 1] for one in single]
    assert rates == ["0.001", "0.0005", "0.000333333"]
    for one in [sweep, *single]:
        words = " ".join(one)
        assert "--experiment size11 --steps 7 --device cpu --dataset cifar10 --data-dir" in words
    assert {one[one.index("--backend") + 1] for one in single} == {"torch"}


@pytest.mark.parametrize("images", ["tiny", pytest.param("all", marks=pytest.mark.slow)])
def test_whole_commands_train_and_are_timed(tmp_path, monkeypatch, capsys, images):
    if images == "tiny":  # the same command on tests.helpers.tiny's images
        monkeypatch.setattr(whole, "TRAIN", (sys.executable, "-m", "tests.helpers.tiny", "never"))
    path = tmp_path / "whole.json"
    words = ["--runs", "1", "--steps", "2", "--repeats", "1", "--variants", "jax-sweep", "jax"]
    assert command.main(["whole", *words, "--json", str(path)]) == 0
    written = json.loads(path.read_text())
    (sweep,), (alone,) = written["rounds"]["jax-sweep"], written["rounds"]["jax"]
    assert sweep["accuracies"] == alone["accuracies"]  # the same run, bit for bit
    assert min(sweep["seconds"], alone["seconds"]) > 0
    assert "jax-sweep" in capsys.readouterr().out


def test_table_gives_medians_ratios_within_a_round_and_the_largest_distance():
    options = Options(runs=2, repeats=3, variants=("jax-sweep", "jax"))
    found = {
        "jax-sweep": [Measured(seconds, [0.25, 0.5]) for seconds in (10.0, 20.0, 12.0)],
        "jax": [Measured(20.0, [0.25, 0.5]), Measured(22.0, [0.25, 0.375]), Measured(18.0, [0.25, 0.5])],
    }
    _, _, sweep, alone = whole.table(options, found).splitlines()
    assert sweep.split() == ["jax-sweep", "6.00", "5.00", "10.00", "1.00x", "0.0000"]
    assert alone.split() == ["jax", "10.00", "9.00", "11.00", "1.50x", "0.1250"]


def test_a_failing_command_is_shown(tmp_path, capsys):
    words = ["--data-dir", str(tmp_path), "--repeats", "1", "--runs", "1", "--variants", "jax"]
    assert command.main(["whole", *words]) == 1
    shown = capsys.readouterr().err
    assert "exit code 2 of" in shown
    assert str(tmp_path) in shown
