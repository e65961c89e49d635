"""Users' mistakes: each ends with exit code 2 and one clear message, and leaves every folder as it was."""

import dataclasses
import os
import shutil
import sys
from pathlib import Path

import pytest

from tests.helpers import tiny
from triptych import cifar10
from triptych.cifar10 import Dataset, generated, sources
from triptych.cifar10.official import CIFAR10

pytestmark = pytest.mark.usefixtures("machine")

MISTAKES: dict[str, tuple[str, str]] = {
    "unknown option": ("--hiden 6", "--hiden"),
    "stray word": ("fig2", "fig2"),
    "unknown experiment": ("--experiment fig9", "no 'fig9' in the catalogue; expected one of fig1, fig2"),
    "bad choice": ("--optimizer sdg", "sdg"),
    "bad backend": ("--backend tensorflow", "tensorflow"),
    "bad type": ("--steps many", "many"),
    "no value": ("--seed", "--seed"),
    "steps -5": ("--steps -5", "steps: expected a whole number of at least 1, got -5"),
    "seed -1": ("--seed -1", "seed: expected a whole number of at least 0, got -1"),
    "seed 2^63": ("--seed 9223372036854775808", "seed: expected a whole number below 2^63"),
    "batch 0": ("--batch-size 0", "batch_size: expected a whole number of at least 1, got 0"),
    "batch too large": ("--batch-size 401", "batch_size: expected at most the 400 training images, got 401"),
    "validation too large": ("--validation 400", "expected fewer than the 400 training images, got 400"),
    "batch beyond what validation leaves": ("--validation 390", "at most the 10 training images"),
    "hidden 10^20": (f"--hidden {10**20}", "hidden: expected sizes of at most 1,000,000,000"),
    "channels 10^5000": (f"--channels {'9' * 5000}", "channels: expected numbers of channels"),
    "hidden 0": ("--hidden 6 0", "hidden: expected positive sizes such as 600 500 275, got (6, 0)"),
    "dropout 1": ("--dropout 1", "dropout: expected a finite number >= 0 and < 1, got 1.0"),
    "rate nan": ("--learning-rate nan", "learning_rate: expected a finite number >= 0, got nan"),
    "rate too large": ("--learning-rate 1e999", "learning_rate: expected a finite number >= 0, got inf"),
    "momentum with adam": ("--optimizer adam --momentum 0.9", "belong to sgd, but the optimizer is adam"),
    "amsgrad of sgd": ("--amsgrad", "amsgrad belongs to adam and adamw; use --optimizer adam"),
    "nesterov alone": ("--nesterov", "nesterov needs a momentum above 0"),
    "smoothed hinge": ("--loss hinge --label-smoothing 0.1", "use --loss cross_entropy"),
    "batch norm of one image": ("--batch-norm manual --batch-size 1", "batch norm needs two images or more"),
    "long warm-up": ("--steps 5 --warmup-steps 6", "expected at most the number of steps (5), got 6"),
    "no checkpoint kept": ("--keep-checkpoints 0", "keep_checkpoints: expected at least 1, got 0"),
    "bfloat16 on numpy": ("--dtype bfloat16", "NumPy has no bfloat16 products"),
    "gpu on numpy": ("--device gpu", "the numpy backend computes on the cpu, got gpu"),
    "tpu on numpy": ("--device tpu", "the numpy backend computes on the cpu, got tpu"),
    "gpu on jax": ("--backend jax --device gpu", "JAX finds no gpu here, only cpu"),
    "tpu on jax": ("--backend jax --device tpu", "JAX finds no tpu here, only cpu"),
    "gpu on torch": ("--backend torch --device gpu", "torch finds no gpu here"),
    "tpu on torch": ("--backend torch --device tpu", "use --backend jax for a TPU"),
    "run folder a file": ("--run-dir file", "expected a folder, found a file"),
    "run folder below a file": ("--run-dir file/run", "file"),
    "run folder of something else": ("--run-dir other", "not empty and no run folder"),
    "run of another command": ("--run-dir run --seed 3", "seed: 0 there, 3 here"),
    "resume nothing": ("--resume nowhere", "expected a run's folder, found nothing at nowhere"),
    "resume a file": ("--resume file", "expected a run's folder"),
    "resume something else": ("--resume other", "other/config.json: no such file"),
    "resume a broken config": ("--resume broken", "error: broken/config.json: not valid JSON"),
    "resume without checkpoints": (
        "--resume bare --steps 20",
        "no checkpoint that can be read in bare/check",
    ),
    "resume damaged ones": (
        "--resume damaged --steps 20",
        "no checkpoint that can be read in damaged",
    ),
    "resume beyond the end": ("--resume run", "it is at step 12 already, of 12 asked for; give more"),
    "resume with other sizes": ("--resume run --steps 20 --hidden 7", "linear1.weight (6, 3072)"),
    "resume for an unknown experiment": ("--resume run --steps 20 --experiment fig9", "fig9"),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, one without checkpoints, one with damaged ones, a file, a folder of other things."""
    place = tmp_path_factory.mktemp("folders")
    tiny.finished(place / "run", tiny.settings())
    shutil.copytree(place / "run", place / "bare", ignore=shutil.ignore_patterns("checkpoints"))
    shutil.copytree(place / "run", place / "damaged")
    for path in (place / "damaged" / "checkpoints").iterdir():
        tiny.flip(path)
    (place / "file").write_text("mine")
    for name in ("other", "broken"):
        (place / name).mkdir()
    (place / "broken" / "config.json").write_text('{"name": "fig1", "backend"')
    (place / "other" / "thesis.tex").write_text("mine")
    return place


@pytest.mark.parametrize(("words", "message"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_ends_with_2_and_one_message(capsys, monkeypatch, folders, words, message):
    monkeypatch.chdir(folders)
    before = tiny.contents(folders)
    if "torch --device gpu" in words:
        monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    if "jax --device" in words and os.environ["JAX_PLATFORMS"] != "cpu":
        pytest.skip("JAX was told to use something other than the CPU")
    base = [] if "--resume" in words else tiny.arguments()
    assert tiny.call("--backend", "numpy", *base, *words.split()) == 2
    text = capsys.readouterr().err
    assert message in text
    if text.startswith("error: "):
        assert text.count("\n") == 1
    else:
        assert "train.py --help" in text, "the parser's own message, in its box"
    assert tiny.contents(folders) == before


def test_a_framework_that_is_not_installed_is_said_before_data_is_fetched(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delitem(sys.modules, "torch_models.backend")
    monkeypatch.setattr(cifar10, "load", lambda *_: pytest.fail("data was asked for"))
    assert tiny.call("--backend", "torch", *tiny.arguments()) == 2
    assert capsys.readouterr().err.startswith("error: backend torch: the package 'torch' is not installed")


def test_missing_data_is_a_mistake(capsys, monkeypatch):
    """cifar10 asked for, none there, and no way to download it."""
    official = dataclasses.replace(CIFAR10, url="file:///nowhere/cifar-10-python.tar.gz")
    monkeypatch.setattr("triptych.cifar10.sources.CIFAR10", official)
    monkeypatch.setattr(cifar10, "load", sources.load)
    assert tiny.call("--backend", "numpy", "--dataset", "cifar10", "--data-dir", "empty") == 2
    text = capsys.readouterr().err
    there = "cifar-10-batches-py or cifar-10-python.tar.gz"
    assert f"error: empty: expected CIFAR-10 there ({there}), found none" in text
    assert "--dataset generated" in text
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize("resumed", [False, True])
def test_other_data_than_the_checkpoint_s_are_refused(capsys, monkeypatch, folders, resumed):
    """And the folder is left as it was, so that the same command with the right data goes on."""
    run = tiny.rewind(folders / "run", Path("run").absolute(), 8)
    other = Dataset.of(generated.generate(seed=1, train=tiny.TRAIN, test=tiny.TEST), "generated")
    place = ("--resume", "run", "--steps", "20", "--run-dir", "new") if resumed else ("--run-dir", "run")
    words = ("--backend", "numpy", *(() if resumed else tiny.arguments()), *place)
    with monkeypatch.context() as patch:
        patch.setattr(cifar10, "load", lambda *_, **__: other)
        before = tiny.contents(Path())
        assert tiny.call(*words) == 2
    assert "give the same data with --data-dir or --dataset" in capsys.readouterr().err
    assert tiny.contents(Path()) == before
    assert tiny.call(*words) == 0
    assert tiny.summary(Path("new") if resumed else run)["steps"] == (20 if resumed else 12)
