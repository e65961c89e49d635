"""Where a run begins when it does not begin anew: its own last checkpoint, or another run's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from triptych.describe.catalogue import CATALOGUE
from triptych.describe.layers import initial_statistics, parameter_shapes
from triptych.describe.plain import from_dict
from triptych.describe.schedule import learning_rates
from triptych.describe.spec import Experiment
from triptych.errors import UserError
from triptych.show.progress import Reporter
from triptych.store import checkpoint, records
from triptych.store.run_dir import RunDirectory
from triptych.train.loop import Start, threads


def settings_of(path: Path) -> tuple[str, Experiment]:
    """Name and experiment of the run in the folder `path`, as `--resume` starts from."""
    if not path.is_dir():
        raise UserError(f"resume: expected a run's folder, found nothing at {path}; see ./runs")
    config = RunDirectory(path).read_config()
    if not isinstance(config["name"], str) or config["name"] not in CATALOGUE:
        raise UserError(f"{path / 'config.json'}: unknown experiment {config['name']!r}")
    return config["name"], from_dict(config["experiment"], str(path / "config.json"))


def own_start(folder: RunDirectory, experiment: Experiment, reporter: Reporter) -> Start | None:
    """A run's own last good checkpoint, or None where it has none yet. Raises UserError where it has some,
    and none is sound or this run's.
    """
    found = _read(folder, experiment, reporter)
    if found is None and checkpoint.listing(folder.checkpoints):
        raise UserError(
            f"run_dir {folder.path}: none of its checkpoints is whole; put one back, or start anew with "
            "--overwrite"
        )
    saved_for = found.checkpoint.info.get("config_sha256") if found else None
    if saved_for is not None and saved_for != folder.config_sha256():
        raise UserError(
            f"run_dir {folder.path}: its checkpoint was saved by a run of other settings; put its own "
            "back, or "
            "start anew with --overwrite"
        )
    before = found.checkpoint.info.get("threads") if found else None
    if before is not None and before != threads():
        reporter.notice(
            f"notice: the checkpoint was made with {before} threads, and this process has {threads()}: "
            "sums may "
            "round otherwise, so the run may differ in its last digits from one that was never interrupted"
        )
    return found


def other_start(path: Path, experiment: Experiment, reporter: Reporter) -> tuple[Start, dict[str, Any]]:
    """Another run's last good checkpoint, and what config.json says of it.

    Raises UserError when there is none, or it has gone as far as is asked for.
    """
    folder = RunDirectory(path)
    start = _read(folder, experiment, reporter)
    if start is None:
        raise UserError(f"resume {path}: no checkpoint that can be read in {folder.checkpoints}")
    found, steps = start.checkpoint, experiment.training.steps
    if found.step >= steps:
        raise UserError(
            f"resume {path}: it is at step {found.step} already, of {steps} asked for; "
            f"give more, for example --steps {found.step + experiment.training.eval_every}"
        )
    if found.state.slots_of(experiment.optimization) is None:
        reporter.notice(
            f"notice: the checkpoint holds no state of {experiment.optimization.optimizer}; it starts fresh"
        )
    before = from_dict(folder.read_config()["experiment"], str(folder.config))
    for line in _departures(before, experiment, found.step):
        reporter.notice(f"notice: {line}")
    digest = checkpoint.parameters_sha256(found.state)
    return start, {"backend": found.info["backend"], "step": found.step, "parameters_sha256": digest}


def _departures(before: Experiment, after: Experiment, step: int) -> list[str]:
    """What goes on otherwise than it was, where that is easily overlooked."""
    lines = []
    old, new = (float(learning_rates(one, step - 1, 1)[0]) for one in (before, after)) if step else (0.0, 0.0)
    if old != new:
        first = float(learning_rates(after, step, 1)[0])
        lines.append(
            f"the learning rate was {old:.3g} at step {step} and is {first:.3g} at step {step + 1}: "
            f"the new settings give the schedule of all {after.training.steps} steps"
        )
    changed = [
        f"{name} {a} -> {b}"
        for name, a, b in (
            ("batch size", before.data.batch_size, after.data.batch_size),
            ("validation", before.data.validation, after.data.validation),
            ("seed", before.training.seed, after.training.seed),
        )
        if a != b
    ]
    if changed and step:
        lines.append(
            f"{', '.join(changed)}: the order of images is that of a run with these settings from its start, "
            f"so this epoch may show some again and leave others out (step {step + 1} begins at image "
            f"{step * after.data.batch_size}, {step * before.data.batch_size} were seen)"
        )
    return lines


def check_data(start: Start, fingerprint: str) -> None:
    """Raises UserError when the checkpoint was trained on other data."""
    before = start.checkpoint.info["fingerprint"]
    if before != fingerprint:
        raise UserError(
            f"the checkpoint was trained on data {before[:19]}..., this is {fingerprint[:19]}...; give the "
            "same data with --data-dir or --dataset, or start anew (--overwrite, or another --run-dir)"
        )


def _read(folder: RunDirectory, experiment: Experiment, reporter: Reporter) -> Start | None:
    found, damaged = checkpoint.load_latest(folder.checkpoints)
    for line in damaged:
        reporter.notice(f"notice: checkpoint {line}; an older one serves, if there is one")
    if found is None:
        return None
    _check_state(found, folder, experiment)
    past = folder.read_metrics(found.step)
    steps = [record["step"] for record in past if record["kind"] == "train"]
    whole = len(steps) == found.step and steps == list(range(1, found.step + 1))
    if not whole or not all(map(records.is_complete, past)):
        raise UserError(
            f"resume {folder.path}: expected the {found.step} steps before its checkpoint in metrics.jsonl, "
            f"found {len(steps)}; put the file back, or start anew with --overwrite"
        )
    if found.info.get("metrics_sha256", records.sha256(past)) != records.sha256(past):
        raise UserError(
            f"resume {folder.path}: metrics.jsonl is not what the checkpoint of step {found.step} was saved "
            "with; put the file back, or start anew with --overwrite"
        )
    return Start(found, past)


def _check_state(found: checkpoint.Checkpoint, folder: RunDirectory, experiment: Experiment) -> None:
    """Raises UserError unless the checkpoint is one of this network: anybody can write a sound file."""
    wanted = parameter_shapes(experiment.layers())
    present = {name: array.shape for name, array in found.state.parameters.items()}
    if wanted != present:
        raise UserError(
            f"resume {folder.path}: its parameters {_shapes(present)} do not fit this network's "
            f"{_shapes(wanted)}; leave out --hidden"
        )
    statistics = initial_statistics(experiment.layers())
    wanted |= {name: array.shape for name, array in statistics.items()}
    for key, array in found.state.arrays().items():
        if array.dtype.kind != "f" or array.shape != wanted.get(key.name, array.shape):
            raise UserError(
                f"resume {folder.path}: {key} is {array.dtype} {array.shape} in its checkpoint, which no "
                "run of this network writes; take another run's folder"
            )
    _check_info(found, folder)


def _check_info(found: checkpoint.Checkpoint, folder: RunDirectory) -> None:
    texts, numbers = ("backend", "fingerprint"), ("timed_from", "train_seconds", "compile_seconds")
    info = found.info
    wrong = [name for name in texts if not isinstance(info.get(name), str)]
    wrong += [name for name in numbers if not records.is_number(info.get(name))]
    if wrong:
        raise UserError(
            f"resume {folder.path}: the checkpoint of step {found.step} does not say "
            f"{', '.join(wrong)} as a run's does; take another run's folder"
        )


def _shapes(shapes: dict[str, tuple[int, ...]]) -> str:
    return ", ".join(f"{name} {shape}" for name, shape in shapes.items())
