"""A run's folder: whose it is, its config, and metrics that survive a crash."""

import json
import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import tiny
from triptych.describe.catalogue import CATALOGUE, changes
from triptych.describe.plain import from_dict, to_dict
from triptych.errors import UserError
from triptych.store.run_dir import RunDirectory, default_path
from triptych.store.run_lock import RunLocks
from triptych.store.sealed import sealed
from triptych.train.resume import settings_of

Config = dict[str, Any]


def config(backend: str = "numpy", **changes: Any) -> Config:
    experiment = to_dict(tiny.settings(**changes))
    return {"name": "fig1", "backend": backend, "experiment": experiment, "resumed_from": None}


def take(path: Path, content: Config, overwrite: bool = False) -> RunDirectory:
    folder = RunDirectory(path)
    folder.check(content, overwrite)
    with RunLocks() as locks:
        locks.take(path)
        folder.create(content, locks, overwrite)
    return folder


def test_a_new_folder_gets_the_config_and_opens_again(tmp_path):
    folder = take(tmp_path / "runs" / "deep" / "one", config())
    assert json.loads(folder.config.read_bytes()) == sealed(config())
    take(folder.path, config())
    assert folder.read_config() == config()
    assert settings_of(folder.path) == ("fig1", tiny.settings())


def test_a_seal_whose_name_is_damaged_is_no_missing_seal(tmp_path):
    folder = take(tmp_path, config())
    whole = folder.config.read_bytes()
    for bit in range(8 * len(b"sha256")):
        damaged = bytearray(whole)
        damaged[whole.rindex(b'"sha256"') + 1 + bit // 8] ^= 1 << bit % 8
        folder.config.write_bytes(damaged)
        with pytest.raises(UserError):
            folder.read_config()
    folder.config.write_text(json.dumps(config()))
    assert folder.read_config() == config()


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (config(batch_size=40), "batch_size: 20 there, 40 here"),
        (config(hidden=(6, 6)), r"hidden: \[6\] there, \[6, 6\] here"),
        (config(optimizer="adam"), "optimizer: 'sgd' there, 'adam' here"),
        (config("torch"), "backend: 'numpy' there, 'torch' here"),
        (config() | {"name": "fig2"}, "name: 'fig1' there, 'fig2' here"),
        (config() | {"resumed_from": {"step": 3}}, "step: None there, 3 here"),
    ],
)
def test_a_run_with_other_settings_is_refused(tmp_path, other, message):
    take(tmp_path, config())
    with pytest.raises(UserError, match=message) as caught:
        RunDirectory(tmp_path).check(other)
    assert str(tmp_path) in str(caught.value)
    assert json.loads((tmp_path / "config.json").read_bytes()) == sealed(config())


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_that_holds_something_else_is_refused(tmp_path, overwrite):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match="not empty and no run folder"):
        RunDirectory(tmp_path).check(config(), overwrite)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_file_is_refused(tmp_path):
    (path := tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="expected a folder, found a file"):
        RunDirectory(path).check(config(), overwrite=True)
    assert path.read_text() == "mine"


@pytest.mark.parametrize("overwrite", [False, True])
def test_checking_changes_nothing(tmp_path, overwrite):
    folder = RunDirectory(tmp_path / "run")
    folder.check(config(), overwrite)
    assert list(tmp_path.iterdir()) == []
    take(folder.path, config())
    folder.append_metrics(RECORDS)
    folder.check(config(), overwrite)
    assert folder.read_metrics(9) == RECORDS


def test_overwriting_removes_what_a_run_wrote_and_nothing_else(tmp_path):
    folder = take(tmp_path, config())
    for path in (folder.metrics, folder.summary, folder.curves, folder.predictions):
        path.write_text("old")
    for inner in (folder.checkpoints, folder.tensorboard):
        inner.mkdir()
        (inner / "old").write_text("old")
    mine = tmp_path / "notes" / "mine.txt"
    mine.parent.mkdir()
    mine.write_text("keep")
    take(tmp_path, config(steps=24), overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "lock", "notes"]
    assert folder.read_config() == config(steps=24)
    assert mine.read_text() == "keep"


@pytest.mark.parametrize("left", [None, '{"name": "fi'])
def test_an_empty_folder_or_a_crash_while_the_config_was_first_written_is_no_obstacle(tmp_path, left):
    """What a kill leaves behind then is a temporary file alone; repeating the command must work."""
    if left:
        (tmp_path / "config.json.tmp").write_text(left)
    assert take(tmp_path, config()).read_config() == config()


def changed(change: Callable[[Config], object]) -> str:
    content = config()
    change(content)
    return json.dumps(content)


def field(group: str, name: str, value: Any) -> str:
    return changed(lambda content: content["experiment"][group].update({name: value}))


def rate(value: Any) -> str:
    return field("optimization", "learning_rate", value)


BROKEN: dict[str, tuple[str | bytes, str]] = {
    "empty": ("", "not valid JSON"),
    "cut": (json.dumps(config())[:-20], "not valid JSON"),
    "not utf-8": (b'{"name": "\xff"}', "not valid JSON"),
    "deep": ("[" * 100_000, "not valid JSON"),
    "60 deep": ("[" * 60 + "]" * 60, "nested more than 50 deep"),
    "a key twice": ('{"a": 1, "a": 2}', "a key twice"),
    "a number of 5000 digits": ('{"name": ' + "1" * 5000 + "}", "not valid JSON"),
    "a list": ("[]", "expected a run's config"),
    "null": ("null", "expected a run's config"),
    "empty object": ("{}", "expected a run's config"),
    "unknown name": (changed(lambda c: c.update(name="fig9")), "unknown experiment 'fig9'"),
    "name no text": (changed(lambda c: c.update(name=["fig1"])), "unknown experiment"),
    "experiment no object": (changed(lambda c: c.update(experiment=3)), "expected a JSON object, got int"),
    "group no object": (changed(lambda c: c["experiment"].update(model=[6])), "model: expected a JSON obj"),
    "unknown group": (changed(lambda c: c["experiment"].update(modle={})), "unknown field 'modle'"),
    "unknown field": (field("model", "hiden", [6]), "model: unknown field 'hiden'"),
    "hidden no list": (field("model", "hidden", 6), r"model\.hidden: expected .*, got 6"),
    "hidden no ints": (field("model", "hidden", [6.0]), r"model\.hidden: expected .*, got \[6\.0\]"),
    "hidden 0": (field("model", "hidden", [0]), "hidden: expected positive sizes"),
    "steps a float": (field("training", "steps", 12.0), r"training\.steps: expected int, got 12\.0"),
    "steps a bool": (field("training", "steps", True), r"training\.steps: expected int, got True"),
    "tf32 an int": (field("training", "tf32", 1), r"training\.tf32: expected bool, got 1"),
    "no such choice": (field("objective", "loss", "mse"), r"objective\.loss: expected .*, got 'mse'"),
    "choice no text": (field("objective", "loss", {}), r"objective\.loss: expected .*, got \{\}"),
    "rate no number": (rate("fast"), r"learning_rate: expected float, got 'fast'"),
    "rate nan": (rate(float("nan")), "NaN is no JSON number"),
    "rate beyond float": (rate(10**400), "learning_rate: expected"),
    "out of range": (field("model", "dropout", 1), "dropout: expected a finite number >= 0 and < 1"),
}


@pytest.mark.parametrize(("content", "message"), BROKEN.values(), ids=BROKEN)
def test_a_broken_config_is_a_user_error_that_names_file_and_fault(tmp_path, content, message):
    path = tmp_path / "config.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=message) as caught:
        settings_of(tmp_path)
    assert str(path) in str(caught.value)


def test_an_enormous_file_is_not_read(tmp_path):
    (tmp_path / "config.json").touch()
    os.truncate(tmp_path / "config.json", 2**34)  # sparse: takes no space
    with pytest.raises(UserError, match="expected at most 67108864 bytes"):
        settings_of(tmp_path)


def test_fields_that_are_missing_take_their_defaults():
    groups = to_dict(tiny.settings(hidden=(7,)))
    del groups["optimization"], groups["training"]["tf32"]
    assert from_dict(groups, "here") == tiny.settings(hidden=(7,), learning_rate=2e-3)


RECORDS = [
    {"kind": "train", "step": 1, "loss": 2.302585092994046, "accuracy": 0.1, "learning_rate": 1e-5},
    {"kind": "train", "step": 2, "loss": 1e-320, "accuracy": 0.3, "learning_rate": 1e-5},
    {"kind": "eval", "step": 2, "test_accuracy": 1 / 3},
    {"kind": "train", "step": 3, "loss": 0.1 + 0.2, "accuracy": 0.2, "learning_rate": 1e-5},
]


def test_metrics_come_back_up_to_a_step(tmp_path):
    folder = RunDirectory(tmp_path)
    assert folder.read_metrics(9) == []
    folder.append_metrics(RECORDS[:2])
    folder.append_metrics(RECORDS[2:])
    assert folder.read_metrics(9) == RECORDS
    assert folder.read_metrics(2) == RECORDS[:3]
    assert folder.read_metrics(0) == []


def test_a_half_written_last_line_is_passed_over(tmp_path):
    """Cut anywhere: only a line that lacks nothing but its end counts as whole."""
    folder = RunDirectory(tmp_path)
    folder.append_metrics(RECORDS)
    content = folder.metrics.read_bytes()
    for cut in range(1, len(content) + 1):
        folder.metrics.write_bytes(content[:cut])
        whole = content[: cut + 1].count(b"\n")
        assert folder.read_metrics(9) == RECORDS[:whole], f"cut at byte {cut}"


def test_garbage_after_the_last_line_is_passed_over(tmp_path):
    """Some file systems leave zeros or foreign bytes after a power failure."""
    folder = RunDirectory(tmp_path)
    for garbage in (b"\0" * 50, b"\xff\xfe", b"[1, 2]\n", b"17\n", b'{"step": "three"}\n'):
        folder.restart_metrics(RECORDS)
        with folder.metrics.open("ab") as file:
            file.write(garbage)
        assert folder.read_metrics(9) == RECORDS, garbage


def test_restarting_drops_the_lines_past_a_checkpoint(tmp_path):
    folder = RunDirectory(tmp_path)
    folder.append_metrics(RECORDS)
    with folder.metrics.open("a") as file:
        file.write('{"kind": "tr')
    folder.restart_metrics(folder.read_metrics(2))
    folder.append_metrics(RECORDS[3:])
    assert [json.loads(line) for line in folder.metrics.read_text().splitlines()] == RECORDS


def test_metrics_hold_no_nan(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        RunDirectory(tmp_path).append_metrics([{"kind": "train", "step": 1, "loss": float("nan")}])


def test_the_same_settings_have_the_same_folder():
    path = default_path(config(), "fig1")
    assert re.fullmatch(r"fig1-numpy-[0-9a-f]{8}", path.name)
    assert path.parent == Path("runs")
    assert default_path(json.loads(json.dumps(config())), "fig1") == path
    reordered = {key: config()[key] for key in reversed(config())}
    assert default_path(reordered, "fig1") == path


def test_a_run_keeps_the_folder_that_an_earlier_version_named_otherwise(tmp_path):
    before = default_path(config(), "fig1", tmp_path)
    assert default_path(config(), "mlp-6-sgd", tmp_path).name == before.name.replace("fig1", "mlp-6-sgd")
    before.mkdir()
    assert default_path(config(), "mlp-6-sgd", tmp_path) == before
    assert default_path(config(seed=1), "mlp-6-sgd", tmp_path).name.startswith("mlp-6-sgd-numpy-")


def test_a_setting_that_came_later_changes_no_run_without_it(tmp_path):
    """A run of before AMSGrad is the run of today's same command: the same config, and so the same folder."""
    plain = config()
    assert "amsgrad" not in plain["experiment"]["optimization"]
    assert from_dict(plain["experiment"], "there").optimization.amsgrad is False
    modern = config(optimizer="adam", amsgrad=True)
    folder = take(tmp_path / "run", config(optimizer="adam"))
    assert folder.differences(modern) == ["amsgrad: False there, True here"]
    assert modern["experiment"]["optimization"]["amsgrad"] is True
    assert from_dict(modern["experiment"], "there").optimization.amsgrad is True
    assert default_path(modern, "fig1") != default_path(config(optimizer="adam"), "fig1")
    assert changes("adam", replace(CATALOGUE["adam"].experiment, optimization=replace(
        CATALOGUE["adam"].experiment.optimization, amsgrad=True))) == ["amsgrad"]  # fmt: skip


def test_other_settings_have_another_folder():
    others = [
        config(),
        config("torch"),
        config(seed=1),
        config(learning_rate=2e-5),
        config(hidden=(6, 6)),
        config() | {"name": "fig2"},
        config() | {"resumed_from": {"backend": "jax", "step": 4, "parameters_sha256": "0"}},
    ]
    assert len({default_path(other, "fig1") for other in others}) == len(others)
