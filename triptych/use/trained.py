"""A run as a model that can be used: its network, a checkpoint, its preprocessing and its classes."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from triptych import cifar10
from triptych.cifar10.preprocess import prepare
from triptych.describe.layers import initial_statistics, parameter_shapes
from triptych.describe.network import CLASSES
from triptych.describe.plain import from_dict
from triptych.describe.protocol import Statistics, TrainingData, create
from triptych.describe.spec import BackendName, Device, Experiment
from triptych.errors import UserError
from triptych.store import checkpoint, preprocessing
from triptych.store.preprocessing import Preprocessing
from triptych.store.run_dir import RunDirectory

SPLIT = "given"
"""What a backend is told that the images to classify are called."""


@dataclass(frozen=True, eq=False)
class Trained:
    """A run's model."""

    folder: RunDirectory
    config: dict[str, Any]
    experiment: Experiment
    checkpoint: checkpoint.Checkpoint
    preprocessing: Preprocessing

    @property
    def name(self) -> str:
        """Its folder's."""
        return self.folder.path.resolve().name

    @property
    def classes(self) -> tuple[str, ...]:
        return self.preprocessing.classes

    @property
    def normalizes(self) -> bool:
        """Whether it has batch norm, so that its outputs depend on the statistics taken."""
        return bool(initial_statistics(self.experiment.layers()))

    def describe(self) -> str:
        """One line: whose the model is."""
        step, steps = self.checkpoint.step, self.experiment.training.steps
        state = "finished" if self.folder.summary.exists() else "not finished"
        where = self.folder.path if self.folder.path.name else self.name
        return f"{where}: {self.config['backend']}, step {step} of {steps}, {state}"

    def logits(
        self,
        images: np.ndarray,
        backend: BackendName | None = None,
        device: Device = "auto",
        statistics: Statistics = "running",
    ) -> np.ndarray:
        """Logits (N, 10) of uint8 images (N, 3, 32, 32), by `backend` or the run's own; float32, or float64
        of a run in float64. Batch norm takes running statistics, so that no image depends on another.

        Raises UserError where the backend is not installed or lacks the run's dtype.
        """
        labels = np.zeros(len(images), np.uint8)
        data = TrainingData(
            {SPLIT: images}, {SPLIT: labels}, self.preprocessing.mean, self.preprocessing.scale
        )
        model = create(backend or self.config["backend"], self.experiment, data, device)
        model.import_state(self.checkpoint.state)
        return model.logits(SPLIT, statistics)


def open_run(path: Path, best: bool = False, data_dir: Path | None = None) -> Trained:
    """The model in a run's folder: of its last checkpoint, or of that with the best test accuracy.

    `data_dir` is needed for a run that was made before runs kept their mean image: it is worked out again
    from the run's data, and kept. Raises UserError where the folder holds no such run.
    """
    folder = folder_of(path)
    config = folder.read_config()
    experiment = from_dict(config["experiment"], str(folder.config))
    found = _best(folder) if best else _last(folder)
    _check(folder, experiment, found)
    if not folder.preprocessing.exists():
        _make_preprocessing(folder, config, experiment, found, data_dir)
    way_in = preprocessing.load(folder.preprocessing)
    if len(way_in.classes) != CLASSES:
        raise UserError(
            f"{folder.preprocessing}: expected the names of the network's {CLASSES} classes, found "
            f"{len(way_in.classes)}; put the file back"
        )
    return Trained(folder, config, experiment, found, way_in)


def folder_of(path: Path) -> RunDirectory:
    """The run folder at `path`; raises UserError where there is none."""
    folder = RunDirectory(path)
    if not folder.config.is_file():
        if inside := sorted(path.glob("*/config.json")):
            raise UserError(
                f"run: expected one run's folder, found one of runs; name one, such as {inside[0].parent}"
            )
        found = "a folder without config.json" if path.is_dir() else "a file" if path.exists() else "nothing"
        raise UserError(f"run: expected a run's folder, found {found} at {path}; see ./runs")
    return folder


def _last(folder: RunDirectory) -> checkpoint.Checkpoint:
    found, damaged = checkpoint.load_latest(folder.checkpoints)
    if found is None:
        why = damaged[0] if damaged else f"no checkpoint in {folder.checkpoints}"
        again = "repeat the command that trained it"
        if folder.summary.exists():
            again += ", with --overwrite (and study run with --keep-checkpoints)"
        raise UserError(f"{folder.path}: {why}; {again}")
    return found


def _best(folder: RunDirectory) -> checkpoint.Checkpoint:
    last = _last(folder)
    evaluations = [record for record in folder.read_metrics(last.step) if record["kind"] == "eval"]
    if not evaluations:
        raise UserError(f"{folder.path}: not evaluated yet, so no checkpoint is the best; leave out --best")
    step = max(evaluations, key=lambda record: record["test_accuracy"])["step"]
    paths = dict(checkpoint.listing(folder.checkpoints))
    if step not in paths:
        raise UserError(f"{folder.path}: the checkpoint of its best step, {step}, is gone; leave out --best")
    return checkpoint.load(paths[step])


def _check(folder: RunDirectory, experiment: Experiment, found: checkpoint.Checkpoint) -> None:
    """Raises UserError unless the checkpoint is one of this network: anybody can write a sound file."""
    if not isinstance(found.info.get("fingerprint"), str):
        raise UserError(f"{folder.path}: its checkpoint does not say which data it saw; take another run")
    layers = experiment.layers()
    statistics = initial_statistics(layers)
    wanted = parameter_shapes(layers) | {name: array.shape for name, array in statistics.items()}
    there = {name: a.shape for name, a in (found.state.parameters | found.state.statistics).items()}
    apart = [name for name in wanted | there if wanted.get(name) != there.get(name)]
    if apart:
        name = apart[0]
        raise UserError(
            f"{folder.path}: {name} is {there.get(name, 'missing')} in its checkpoint and "
            f"{wanted.get(name, 'missing')} in the network of its config.json; put the run's own files back"
        )


def dataset_of(
    path: Path, config: dict[str, Any], experiment: Experiment, fingerprint: str, data_dir: Path | None
) -> cifar10.Dataset:
    """The data that a run was trained on, from `data_dir` or where its command found it; raises UserError
    where other data is found.
    """
    data = config.get("data")
    generated = isinstance(data, dict) and data.get("source") == "generated"
    kind = "generated" if generated else experiment.data.dataset
    where = data_dir or RunDirectory(path).data_dir()
    dataset = cifar10.load("cifar10" if kind == "auto" else kind, where, report=_report)
    if dataset.fingerprint != fingerprint:
        raise UserError(
            f"{path} was trained on data {fingerprint[:19]}..., found {dataset.fingerprint[:19]}... "
            f"({dataset.source}); name the run's own with --data-dir"
        )
    return dataset


def _report(message: str) -> None:
    """Downloads are said; what is remarkable about the data was said when the run was made."""
    if not message.startswith("notice: "):
        print(message, file=sys.stderr)


def own_dataset(run: Trained, data_dir: Path | None) -> cifar10.Dataset:
    """`dataset_of` a model's run."""
    fingerprint = run.checkpoint.info["fingerprint"]
    return dataset_of(run.folder.path, run.config, run.experiment, fingerprint, data_dir)


def _make_preprocessing(
    folder: RunDirectory,
    config: dict[str, Any],
    experiment: Experiment,
    found: checkpoint.Checkpoint,
    data_dir: Path | None,
) -> None:
    if data_dir is None and folder.data_dir() is None:
        raise UserError(
            f"{folder.path}: trained before runs kept their mean image, so name the folder of its data once, "
            "with --data-dir: the mean image is worked out again and kept"
        )
    dataset = dataset_of(folder.path, config, experiment, found.info["fingerprint"], data_dir)
    data = prepare(dataset, experiment.data.preprocess, experiment.data.validation)
    preprocessing.save(folder.preprocessing, Preprocessing(data.mean, data.scale, cifar10.CLASS_NAMES))
