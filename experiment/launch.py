"""From options to a finished run: data, backend, folder, resume, and the lines around the loop."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cifar10
from cifar10.batches import BatchOrder
from cifar10.preprocess import prepare
from experiment import checkpoint, cost, run_dir
from experiment.backend import Backend, TrainingData, create, plan_steps
from experiment.catalogue import CATALOGUE
from experiment.errors import UserError
from experiment.init import initial_parameters
from experiment.loop import LoopOptions, Outcome, Run, Source, Start
from experiment.plain import from_dict, to_dict
from experiment.run_dir import RunDirectory
from experiment.spec import BackendName, Device, Experiment


@dataclass(frozen=True)
class RunOptions:
    """Where and how to run; none of these changes what is learned."""

    backend: BackendName = "jax"
    """numpy: gradients by hand. jax: compiled, CPU, GPU and TPU. torch: eager PyTorch."""
    experiment: str = "fig1"
    """A run of the study to start from; `list` shows them all with their reported accuracy."""
    data_dir: Path | None = None
    """Folder with CIFAR-10 (python or binary files, or the official archive), or the archive itself;
    downloads go there too. Default: $TRIPTYCH_DATA_DIR, else ./data."""
    run_dir: Path | None = None
    """The run's folder. Default: a folder in ./runs named after experiment, backend and settings."""
    resume: Path | None = None
    """Go on from the last checkpoint of this run folder, whatever backend wrote it, in a new folder
    and with its settings except those given here. (A run that was interrupted needs no --resume:
    repeat its command.)"""
    device: Device = "auto"
    """auto takes the accelerator where the backend finds one."""
    checkpoint_every: int = 0
    """Steps between checkpoints besides those at every evaluation; 0 for none."""
    keep_checkpoints: int = 2
    """Newest checkpoints to keep; the one with the best test accuracy is kept as well."""
    tensorboard: bool = False
    """Write TensorBoard event files into the run's folder too."""
    overwrite: bool = False
    """Start anew in a folder that holds a run, and drop what it holds."""
    dry_run: bool = False
    """Print model, parameters, FLOPs and memory, take two steps, write nothing."""

    def __post_init__(self) -> None:
        for name, low in (("checkpoint_every", 0), ("keep_checkpoints", 1)):
            if getattr(self, name) < low:
                option = "--" + name.replace("_", "-")
                raise UserError(
                    f"{name}: expected at least {low}, got {getattr(self, name)}; change {option}"
                )


def settings_of(folder: Path) -> tuple[str, Experiment]:
    """Name and experiment of the run in `folder`, as `--resume` starts from."""
    if not folder.is_dir():
        raise UserError(f"resume: expected a run's folder, found nothing at {folder}; see ./runs")
    config = RunDirectory(folder).read_config()
    if not isinstance(config["name"], str) or config["name"] not in CATALOGUE:
        raise UserError(f"{folder / 'config.json'}: unknown experiment {config['name']!r}")
    return config["name"], from_dict(config["experiment"], str(folder / "config.json"))


def launch(options: RunOptions, experiment: Experiment) -> int:
    """Run or resume; returns the exit code: 0, or 128 + the signal that stopped it.

    Raises UserError for what the user can mend, NonFiniteError when training broke down.
    """
    inherited = _inherit(options.resume, experiment) if options.resume else None
    config = {
        "name": options.experiment,
        "backend": options.backend,
        "experiment": to_dict(experiment),
        "resumed_from": inherited[1] if inherited else None,
    }
    folder = RunDirectory(options.run_dir or run_dir.default_path(config))
    if not options.dry_run:
        folder.check(config, options.overwrite)
        if folder.summary.exists() and not options.overwrite:
            _report(run_dir.read_json(folder.summary), folder)
            print("already finished, nothing to do; --overwrite starts it anew")
            return 0
    dataset = cifar10.load(experiment.data.dataset, options.data_dir)
    data = prepare(dataset, experiment.data.preprocess, experiment.data.validation)
    source = Source(dataset.source, dataset.fingerprint)
    backend = create(options.backend, experiment, data, options.device)
    if options.dry_run:
        _dry_run(experiment, backend, data, source)
        return 0
    run = Run(experiment, backend, len(data.labels["train"]), source, folder, _loop_options(options))
    config["data"] = {"source": source.source, "fingerprint": source.fingerprint}
    own = None if options.overwrite else _own_checkpoint(folder)
    start = own or (inherited[0] if inherited else None)
    if start is not None:
        _check_data(start, source, folder)
    folder.create(config, options.overwrite)
    _announce(options, experiment, backend, source, folder, start)
    return _conclude(run.train(start), folder, dataset)


def _loop_options(options: RunOptions) -> LoopOptions:
    return LoopOptions(
        name=options.experiment,
        checkpoint_every=options.checkpoint_every,
        keep_checkpoints=options.keep_checkpoints,
        tensorboard=options.tensorboard,
    )


def _inherit(path: Path, experiment: Experiment) -> tuple[Start, dict[str, Any]]:
    """Another run's last good checkpoint and records, and what the config says of it."""
    folder = RunDirectory(path)
    found, damaged = checkpoint.load_latest(folder.checkpoints)
    for line in damaged:
        print(f"notice: {line}")
    if found is None:
        raise UserError(f"resume {path}: no checkpoint that can be read in {folder.checkpoints}")
    if found.step >= experiment.training.steps:
        raise UserError(
            f"resume {path}: it is at step {found.step} already, of {experiment.training.steps} asked for; "
            f"give more, for example --steps {found.step + experiment.training.eval_every}"
        )
    wanted = {f"parameters/{name}": array.shape for name, array in initial_parameters(experiment).items()}
    present = {name: array.shape for name, array in found.state.items() if name.startswith("parameters/")}
    if wanted != present:
        raise UserError(
            f"resume {path}: its parameters {_shapes(present)} do not fit this network's {_shapes(wanted)}; "
            "leave out --hidden"
        )
    origin = {
        "backend": found.info["backend"],
        "step": found.step,
        "parameters_sha256": checkpoint.parameters_sha256(found.state),
    }
    return Start(found, folder.read_metrics(found.step)), origin


def _shapes(shapes: dict[str, tuple[int, ...]]) -> str:
    return ", ".join(f"{name.removeprefix('parameters/')} {shape}" for name, shape in shapes.items())


def _own_checkpoint(folder: RunDirectory) -> Start | None:
    found, damaged = checkpoint.load_latest(folder.checkpoints)
    for line in damaged:
        print(f"notice: {line}; going back to an older one")
    return None if found is None else Start(found, folder.read_metrics(found.step))


def _check_data(start: Start, source: Source, folder: RunDirectory) -> None:
    before = start.checkpoint.info["fingerprint"]
    if before != source.fingerprint:
        raise UserError(
            f"the checkpoint was trained on data {before[:19]}..., this is {source.source} "
            f"{source.fingerprint[:19]}...; give the same data with --data-dir or --dataset, or start anew "
            f"(--overwrite, or another --run-dir than {folder.path})"
        )


def _announce(
    options: RunOptions,
    experiment: Experiment,
    backend: Backend,
    source: Source,
    folder: RunDirectory,
    start: Start | None,
) -> None:
    hidden = " ".join(map(str, experiment.model.hidden)) or "none"
    print(
        f"{options.experiment} | backend {backend.name} on {backend.device} | {experiment.training.dtype} | "
        f"hidden {hidden} | {experiment.optimization.optimizer} "
        f"learning rate {experiment.optimization.learning_rate:g} | batch {experiment.data.batch_size}"
    )
    print(f"data: {source.source}, {source.fingerprint[:23]}...")
    if experiment.training.early_stopping and not experiment.data.validation:
        print("notice: early stopping watches the test set; --validation 5000 holds out images for it")
    if start is not None:
        print(f"resuming at step {start.checkpoint.step}, saved by {start.checkpoint.info['backend']}")
    print(f"run folder: {folder.path}", flush=True)


def _conclude(outcome: Outcome, folder: RunDirectory, dataset: cifar10.Dataset) -> int:
    if outcome.signal is not None:
        print(f"repeat the same command to resume from {folder.path}")
        return 128 + outcome.signal
    _report(outcome.summary, folder)
    if dataset.source == "generated":
        for notice in dataset.notices:
            print(f"notice: {notice}")
    return 0


def _report(summary: dict[str, Any], folder: RunDirectory) -> None:
    entry = CATALOGUE.get(summary["experiment"])
    reported = f" (the report's {summary['experiment']}: {entry.reported:g})" if entry else ""
    print(
        f"test accuracy {summary['test_accuracy']:.4f}{reported}, test loss {summary['test_loss']:.4f}, best "
        f"{summary['best_test_accuracy']:.4f} at step {summary['best_step']}"
    )
    print(
        f"{summary['steps']} steps in {summary['train_seconds']:.1f} s ({summary['steps_per_second']:.0f} "
        f"steps/s), compiling {summary['compile_seconds']:.1f} s, on {summary['device']}; data: "
        f"{summary['data']['source']}"
    )
    print(f"curves, metrics, summary and checkpoints: {folder.path}")


def _dry_run(experiment: Experiment, backend: Backend, data: TrainingData, source: Source) -> None:
    print(cost.describe(experiment))
    print(f"data: {source.source}, {source.fingerprint[:23]}..., {len(data.labels['train'])} training images")
    backend.start(initial_parameters(experiment))
    order = BatchOrder(len(data.labels["train"]), experiment.data.batch_size, experiment.training.seed)
    results = backend.train(plan_steps(experiment, order.table(0, 2), 0))
    for number, (loss, accuracy) in enumerate(zip(results.losses, results.accuracies, strict=True), start=1):
        print(f"step {number}: loss {loss:.6f}, accuracy {accuracy:.4f}")
    print(f"dry run on {backend.name}, {backend.device}: nothing was written")
