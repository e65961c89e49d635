"""The command line: what it offers, where a setting comes from, what it prints and leaves behind."""

import csv
import dataclasses
import errno
import json
import os
import re
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest

from tests.helpers import tiny
from triptych.describe.catalogue import CATALOGUE
from triptych.describe.spec import Experiment
from triptych.store.run_dir import RunDirectory
from triptych.train import command as train
from triptych.train.options import RunOptions

pytestmark = pytest.mark.usefixtures("machine")
TRAIN = str(tiny.ROOT / "train.py")


def test_list_shows_every_run_of_the_study_with_its_reported_accuracy(capsys):
    assert tiny.call("list") == 0
    table, _, notes = capsys.readouterr().out.partition("\n\n")
    short = table.splitlines()
    assert [line.split()[0] for line in short if line.startswith("table1")] == ["table1-..."]
    assert "0.3138-0.5448" in short[-1]
    assert "40 runs" in short[-1]
    (size7,) = [line for line in short if line.startswith("size7")]
    assert size7.endswith(" [1]")
    assert notes.splitlines()[0] == f"[1] {CATALOGUE['size7'].note}"
    assert len(notes.splitlines()) == 3
    assert tiny.call("list", "--all") == 0
    table, _, _ = capsys.readouterr().out.partition("\n\n")
    lines = {line.split()[0]: line.split()[1:3] for line in table.splitlines()}
    known = {
        "fig1": ["0.4600", "1500"],
        "fig2": ["0.4400", "1500"],
        "fig3": ["0.5500", "4000"],
        "table1-size7-lr1e-2-wd1e-4": ["0.5243", "2500"],
        "table1-size11-lr1e-4-wd5e-4": ["0.5448", "2500"],
        "table1-size11-lr1.25e-3-wd5e-5": ["0.5372", "2500"],
    }
    assert {name: lines.get(name) for name in known} == known
    assert set(lines) == {"experiment", *CATALOGUE}
    assert sum(name.startswith("table1-") for name in lines) == 40


def fields() -> list[tuple[str, str, Any, Any]]:
    """Every setting: its group in the experiment, name, type and default."""
    return [
        (group, field.name, get_type_hints(kind)[field.name], field.default)
        for group, kind in get_type_hints(Experiment).items()
        for field in dataclasses.fields(kind)
    ]


def option(name: str) -> str:
    return "--" + name.replace("_", "-")


@pytest.mark.parametrize("width", [60, 80])
def test_help_is_within_the_width_and_shows_the_defaults_that_count(capsys, monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    for words, rate in (("--help",), "0.002"), (("--experiment", "fig3", "--help-all"), "0.0001"):
        assert tiny.call(*words) == 0
        text = capsys.readouterr().out
        assert max(map(len, text.splitlines())) <= width
        assert f"Default: {rate}." in " ".join(text.split())
    assert tiny.call("--help") == 0
    assert sum(line.startswith("  --") for line in capsys.readouterr().out.splitlines()) <= 24


def test_help_names_every_option(capsys):
    assert tiny.call("--help-all") == 0
    text = capsys.readouterr().out
    words = set(text.replace(",", " ").split())
    options = [field.name for field in dataclasses.fields(RunOptions)] + [name for _, name, _, _ in fields()]
    assert {option(name) for name in options} <= words
    for sentence in ("Share of hidden activations", "numpy: gradients by hand", "Exit codes"):
        assert sentence in text


def another(kind: Any, default: Any) -> tuple[list[str], Any]:
    """Words for a value other than the default, and the value."""
    if get_origin(kind) is Literal:
        choice = next(choice for choice in get_args(kind) if choice != default)
        return [choice], choice
    if kind is bool:
        return [], True
    if kind is int:
        return [str(default + 3)], default + 3
    if kind is float:
        return [str(default / 2 + 0.125)], default / 2 + 0.125
    if kind == tuple[str, ...]:
        return ["64", "M", "128", "M"], ("64", "M", "128", "M")
    assert kind == tuple[int, ...]
    return ["600", "500", "275"], (600, 500, 275)


NEEDS: dict[str, dict[str, Any]] = {
    "nesterov": {"momentum": 0.9},
    "amsgrad": {"optimizer": "adam"},
    "head_norm": {"channels": ("64",), "batch_norm": "manual"},
}
"""What a setting cannot stand without."""


def as_words(value: Any) -> list[str]:
    return [str(item) for item in value] if isinstance(value, tuple) else [str(value)]


@pytest.mark.parametrize(("group", "name", "kind", "default"), fields(), ids=lambda value: str(value)[:30])
def test_every_setting_has_its_plain_name(group, name, kind, default):
    """And it alone changes, but for what it needs beside it."""
    words, value = another(kind, default)
    assert value != default
    needs = NEEDS.get(name, {})
    beside = [word for key, other in needs.items() for word in (option(key), *as_words(other))]
    beside += ["--init", "normal"] if name in ("hidden", "channels", "head_norm") else []
    settings = train.parse([option(name), *words, *beside]).settings
    expected = dataclasses.replace(getattr(Experiment(), group), **{name: value}, **needs)
    assert settings == dataclasses.replace(Experiment(), **{group: expected})


@pytest.mark.parametrize(
    ("words", "name", "value"),
    [
        (["--backend", "torch"], "backend", "torch"),
        (["--experiment", "fig3"], "experiment", "fig3"),
        (["--data-dir", "a/b"], "data_dir", Path("a/b")),
        (["--run-dir", "r"], "run_dir", Path("r")),
        (["--device", "cpu"], "device", "cpu"),
        (["--checkpoint-every", "7"], "checkpoint_every", 7),
        (["--keep-checkpoints", "5"], "keep_checkpoints", 5),
        (["--tensorboard"], "tensorboard", True),
        (["--overwrite"], "overwrite", True),
        (["--dry-run"], "dry_run", True),
    ],
)
def test_every_run_option_has_its_plain_name(words, name, value):
    assert train.parse(words).run == dataclasses.replace(RunOptions(), **{name: value})


@pytest.mark.parametrize("words", [["--experiment", "fig3"], ["--experiment=fig3"]])
def test_an_experiment_gives_the_settings_and_options_override_them(words):
    assert train.parse(words).settings == CATALOGUE["fig3"].experiment
    settings = train.parse([*words, "--steps", "7", "--hidden"]).settings
    assert (settings.training.steps, settings.model.hidden) == (7, ())
    assert settings.optimization == CATALOGUE["fig3"].experiment.optimization


def test_epochs_stand_for_steps(capsys):
    for words, steps in (("--epochs", "2"), 500), (("--epochs=0.5", "--batch-size", "64"), 391):
        assert train.parse(list(words)).settings.training.steps == steps
    assert train.parse(["--epochs", "1", "--validation", "10000"]).settings.training.steps == 200
    Path("run.toml").write_text("epochs = 2\nchannels = [4, 'M']\n")
    for more, steps in ((), 500), (("--epochs", "1"), 250), (("--steps", "7"), 7):
        assert train.parse(["--config", "run.toml", *more]).settings.training.steps == steps
    for line, said in (
        ("1 --steps 3", "got both"),
        ("nan", "finite number > 0"),
        ("0", "> 0"),
        ("x", "invalid float value"),
    ):
        assert tiny.call("--epochs", *line.split()) == 2
        assert said in capsys.readouterr().err


def test_run_toml_repeats_a_run_and_what_is_typed_overrides_it(capsys):
    words = tiny.arguments(channels=("4", "M"), random_flip=True, epsilon=1e-5, init="normal")
    assert tiny.call("--backend", "numpy", *words, "--run-dir", "run") == 0
    assert tiny.call("--config", "run/run.toml", "--run-dir", "again") == 0
    assert tiny.results(Path("run")) == tiny.results(Path("again"))
    configs = [RunDirectory(Path(name)).read_config() for name in ("run", "again")]
    assert configs[0] == configs[1]
    assert Path("run/run.toml").read_bytes() == Path("again/run.toml").read_bytes()
    changed = train.parse(["--config", "run/run.toml", "--steps", "5", "--no-random-flip", "--channels"])
    assert changed.settings.training.steps == 5
    assert changed.settings.model.channels == ()
    assert not changed.settings.data.random_flip
    assert changed.settings.optimization.epsilon == 1e-5


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("learning_rat = 1", "unknown name 'learning_rat'; did you mean learning_rate?"),
        ("xyzzy = 1", "unknown name 'xyzzy'; train.py --help-all lists all"),
        ("[model]\nhidden = [6]", "expected lines `name = value`, got a table: take [model] out"),
        ("steps = 'many'", 'steps: expected a whole number, got "many"'),
        ("steps = 3.5", "steps: expected a whole number, got 3.5"),
        ("steps = 2024-01-01", 'steps: expected a whole number, got "2024-01-01"'),
        ("learning_rate = true", "learning_rate: expected a number, got true"),
        ("tf32 = 1", "tf32: expected true or false, got 1"),
        ("hidden = 600", "hidden: expected a list of whole numbers, got 600"),
        ("hidden = [600, '--steps', 3]", 'hidden: expected a list of whole numbers, got [600, "--steps", 3]'),
        ("channels = [[32], 'M']", "channels: expected a list of words, got"),
        ("optimizer = 'sdg'", 'optimizer: expected one of sgd, adam, adamw, got "sdg"'),
        ("data_dir = ['a', 'b']", 'data_dir: expected a path in quotes, got ["a", "b"]'),
        ("epochs = 1\nsteps = 3", "expected epochs or steps, got both"),
        ("steps = ", "expected a TOML file"),
        ("steps = 0", "steps: expected a whole number of at least 1"),
    ],
)
def test_a_mistake_in_a_config_file_is_one_line(capsys, content, said):
    Path("run.toml").write_text(content)
    assert tiny.call("--config", "run.toml") == 2
    text = capsys.readouterr().err
    assert said in text
    assert text.count("\n") == 1


def test_a_run_leaves_a_log_and_its_metrics_as_csv():
    assert tiny.call("--backend", "numpy", *tiny.arguments(), "--run-dir", "run") == 0
    rows = list(csv.DictReader(Path("run/metrics.csv").read_text().splitlines()))
    records = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    assert [{key: value for key, value in row.items() if value} for row in rows] == [
        {key: str(value) for key, value in record.items()} for record in records
    ]
    log = Path("run/log.txt").read_text()
    assert "step      4  train loss" in log
    assert f"test accuracy {tiny.summary(Path('run'))['test_accuracy']:.4f}" in log


@pytest.mark.parametrize(
    ("words", "init"),
    [
        (["--hidden", "600", "500"], "framework"),
        (["--channels=64"], "framework"),
        (["--experiment", "fig1", "--hidden", "9"], "framework"),
        (["--hidden", "600", "500", "--init", "normal"], "normal"),
        (["--hidden", "600", "500", "--init-std=1e-2"], "normal"),
        (["--steps", "5"], "normal"),
    ],
)
def test_a_network_of_one_s_own_starts_where_it_can_learn(words, init):
    assert train.parse(words).settings.initialization.init == init


def test_a_network_of_three_hidden_layers_leaves_ln_10_behind(monkeypatch):
    """Its start decides: from `normal` the loss is ln 10 for ever."""
    words = ["--backend", "numpy", "--dataset", "generated", "--hidden", "60", "50", "40", "--steps", "40"]
    words += ["--batch-size", "20", "--run-dir"]
    for name, more in (("own", []), ("normal", ["--init", "normal"])):
        assert tiny.call(*words, name, *more) == 0
    losses = [tiny.metrics(Path(name), "train")[-1]["loss"] for name in ("own", "normal")]
    assert losses[0] < 2.2 < losses[1]


def test_a_resume_that_changes_what_is_easily_overlooked_says_so(finished, capsys):
    cosine = tiny.arguments(schedule="cosine", steps=4, learning_rate=1e-3)
    assert tiny.call("--backend", "numpy", *cosine, "--run-dir", "cosine") == 0
    capsys.readouterr()
    more = ("--backend", "numpy", "--resume")
    assert tiny.call(*more, "cosine", "--steps", "8", "--run-dir", "on") == 0
    rates = [record["learning_rate"] for record in tiny.metrics(Path("on"), "train")]
    said = capsys.readouterr().out
    assert f"learning rate was {rates[3]:.3g} at step 4 and is {rates[4]:.3g} at step 5" in said
    assert rates[3] < rates[4] / 3
    assert tiny.call(*more, str(finished), "--steps", "14", "--batch-size", "10", "--run-dir", "b") == 0
    said = capsys.readouterr().out
    assert "batch size 20 -> 10" in said
    assert "step 13 begins at image 120, 240 were seen" in said
    assert "learning rate was" not in said
    assert tiny.call(*more, str(finished), "--steps", "14", "--run-dir", "c") == 0
    assert "notice" not in capsys.readouterr().out


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.finished(tmp_path_factory.mktemp("folders") / "run", tiny.settings())


def test_a_finished_command_says_so_when_it_is_repeated(capsys):
    words = ("--backend", "numpy", *tiny.arguments())
    assert tiny.call(*words) == 0
    (folder,) = Path("runs").iterdir()
    assert re.fullmatch(r"mlp-6-sgd-numpy-[0-9a-f]{8}", folder.name)
    before, accuracy = tiny.contents(folder), tiny.summary(folder)["test_accuracy"]
    capsys.readouterr()
    assert tiny.call(*words) == 0
    text = capsys.readouterr().out
    assert "already finished, nothing to do" in text
    assert f"test accuracy {accuracy:.4f}, test loss" in text
    assert tiny.contents(folder) == before


@pytest.mark.parametrize(
    ("source", "changed", "expected"),
    [
        ("cifar10 archive", [], " (the report's fig1: 0.46)"),
        ("cifar10 archive", ["steps", "seed"], " (fig1 with other steps, seed)"),
        ("cifar10 archive", ["hidden"], ", test loss"),
        ("generated", [], ", test loss"),
    ],
)
def test_only_the_study_s_own_settings_on_cifar10_stand_beside_the_report(capsys, source, changed, expected):
    words = ("--backend", "numpy", "--run-dir", "run", *tiny.arguments())
    assert tiny.call(*words) == 0
    folder = Path("run")
    summary = tiny.summary(folder) | {"data": {"source": source}, "changed_settings": changed}
    RunDirectory(folder).write_summary(summary)
    capsys.readouterr()
    assert tiny.call(*words) == 0
    assert capsys.readouterr().out.startswith(f"test accuracy {summary['test_accuracy']:.4f}{expected}")


def test_overwrite_starts_anew(capsys):
    words = ("--backend", "numpy", "--run-dir", "run")
    assert tiny.call(*words, *tiny.arguments()) == 0
    assert tiny.call(*words, *tiny.arguments(steps=5, seed=1), "--overwrite") == 0
    assert (tiny.summary(Path("run"))["steps"], tiny.summary(Path("run"))["seed"]) == (5, 1)
    assert [record["step"] for record in tiny.metrics(Path("run"), "train")] == [1, 2, 3, 4, 5]


def test_resume_takes_the_run_s_settings_and_options_override_them(finished):
    run = str(finished)
    assert train.parse(["--resume", run]).settings == tiny.settings()
    assert train.parse(["--resume", run, "--steps", "30"]).settings == tiny.settings(steps=30)
    arguments = train.parse(["--resume", run, "--backend", "torch", "--optimizer", "adam"])
    assert arguments.settings == tiny.settings(optimizer="adam")
    assert (arguments.run.backend, arguments.run.resume) == ("torch", Path(run))


def test_a_resumed_run_holds_the_whole_history(finished):
    before = tiny.contents(finished)
    words = ("--backend", "numpy", "--resume", str(finished), "--steps", "20", "--run-dir", "new")
    assert tiny.call(*words) == 0
    assert tiny.call("--backend", "numpy", "--run-dir", "straight", *tiny.arguments(steps=20)) == 0
    assert tiny.results(Path("new")) == tiny.results(Path("straight"))
    assert tiny.contents(finished) == before


def test_early_stopping_added_at_a_resume_decides_at_the_next_evaluation(tmp_path):
    """From a checkpoint between two evaluations, of a past that looks stale already."""
    words = tiny.arguments(checkpoint_every=5, keep_checkpoints=9)
    assert tiny.call("--backend", "numpy", *words, "--run-dir", "run") == 0
    stopped = tiny.rewind(Path("run"), tmp_path / "stopped", 10)
    records = [json.loads(line) for line in (stopped / "metrics.jsonl").read_text().splitlines()]
    for record in records:
        if record["kind"] == "eval":
            record["test_accuracy"] = 1.0 / record["step"]
    tiny.rewrite_metrics(stopped, records)
    resume = ("--backend", "numpy", "--resume", str(stopped), "--early-stopping", "1", "--steps", "40")
    assert tiny.call(*resume, "--run-dir", "on-test") == 0
    assert tiny.summary(Path("on-test"))["steps"] == 12
    # The past has no validation accuracies: the first one, at step 12, is the best so far.
    assert tiny.call(*resume, "--validation", "40", "--run-dir", "on-validation") == 0
    assert tiny.summary(Path("on-validation"))["steps"] > 12


def test_another_backend_s_seconds_do_not_count(finished):
    """Steps per second of a run that changed backends are those of the backend that ended it."""
    words = ("--resume", str(finished), "--steps", "20")
    assert tiny.call("--backend", "torch", *words, "--run-dir", "other") == 0
    assert tiny.call("--backend", "numpy", *words, "--run-dir", "same") == 0
    for name, timed in (("other", 8), ("same", 20)):
        summary = tiny.summary(Path(name))
        assert summary["steps_per_second"] * summary["train_seconds"] == pytest.approx(timed)
    before = tiny.summary(finished)["train_seconds"]
    assert tiny.summary(Path("same"))["train_seconds"] > before


@pytest.mark.parametrize("backend", tiny.BACKENDS)
def test_a_dry_run_shows_the_cost_and_two_steps_and_writes_nothing(capsys, backend):
    words = tiny.arguments(hidden=(100,), batch_size=200)
    assert tiny.call("--backend", backend, *words, "--dry-run", "--overwrite") == 0
    text = capsys.readouterr().out
    (total,) = [line.split()[1:] for line in text.splitlines() if line.startswith("total")]
    assert total == ["308,310", "0.616"]
    assert "training step at batch 200: 0.247 GFLOP" in text
    assert "memory, parameters: 1.2 MB" in text
    assert "memory, optimizer state: 0.0 MB" in text
    first, second = (line for line in text.splitlines() if line.startswith("step "))
    tiny.call("--backend", backend, *words, "--run-dir", "run")
    taken = tiny.metrics(Path("run"), "train")
    for line, record in zip((first, second), taken[:2], strict=True):
        assert line == f"step {record['step']}: loss {record['loss']:.6f}, accuracy {record['accuracy']:.4f}"
    assert sorted(path.name for path in Path().iterdir()) == ["run"]


def test_a_full_disk_is_no_traceback(capsys, monkeypatch):
    """And once there is room again, the same command ends as one that never lacked any."""
    command = ("--backend", "numpy", "--run-dir", "run", *tiny.arguments())

    def full(_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        tiny.arm(patch.setattr, "SIGUSR1:fsync:12", full)
        assert tiny.call(*command) == 2
    assert capsys.readouterr().err == f"error: cannot read or write a file: {os.strerror(errno.ENOSPC)}\n"
    assert tiny.call(*command) == 0
    assert tiny.call("--backend", "numpy", "--run-dir", "roomy", *tiny.arguments()) == 0
    assert tiny.results(Path("run")) == tiny.results(Path("roomy"))


def test_the_program_itself_ends_with_2_at_a_mistake():
    done = tiny.python(TRAIN, "--backend", "numpy", "--momentum", "1.5")
    expected = "error: momentum: expected a finite number >= 0 and < 1, got 1.5; change --momentum\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", expected)


def test_the_program_itself_trains_on_the_whole_generated_set():
    words = ("--backend", "numpy", "--dataset", "generated", "--steps", "3", "--hidden", "6")
    done = tiny.python(TRAIN, *words, "--run-dir", str(Path("run").absolute()))
    assert (done.returncode, done.stderr) == (0, "")
    summary = tiny.summary(Path("run"))
    assert f"test accuracy {summary['test_accuracy']:.4f}" in done.stdout
    assert (summary["backend"], summary["steps"], summary["best_step"]) == ("numpy", 3, 3)
    assert summary["test_accuracy"] * 10_000 == pytest.approx(round(summary["test_accuracy"] * 10_000))
    assert Path("run/curves.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
