"""From options to a finished run: data, backend, folder, resume, and the lines around the loop."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from triptych import cifar10
from triptych.cifar10.preprocess import prepare
from triptych.describe import cost
from triptych.describe.catalogue import CATALOGUE
from triptych.describe.plain import to_dict
from triptych.describe.protocol import Backend, Statistics, create, importing, make_deterministic
from triptych.describe.spec import BackendName, Device, Experiment
from triptych.errors import UserError
from triptych.store import run_dir
from triptych.store.run_dir import RunDirectory
from triptych.store.run_lock import RunLocks
from triptych.train import memory
from triptych.train.loop import LoopOptions, Outcome, Run, Source, Start
from triptych.train.resume import check_data, other_start, own_start


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
    """Newest checkpoints to keep, at least 1; the one with the best test accuracy is kept as well. More
    of them guard against a disk that spoils the newest: the run goes back to the last that is whole."""
    deterministic: bool = False
    """On a GPU take only algorithms that give the same bits each time, which are slower; a CPU always does.
    docs/reliability.md says what it covers."""
    tensorboard: bool = False
    """Write TensorBoard event files into the run's folder too."""
    overwrite: bool = False
    """Start anew in a folder that holds a run, and drop what it holds."""
    sweep: tuple[str, ...] = ()
    """Train every combination of these values, such as learning_rate=1e-2,1e-3 weight_decay=0,1e-4 seed=0,1
    (only these three settings), each in a folder of its own in the run's folder; jax trains them together, as
    one program."""
    dry_run: bool = False
    """Print model, parameters, FLOPs and memory, take two steps, write nothing."""

    def __post_init__(self) -> None:
        for name, low in (("checkpoint_every", 0), ("keep_checkpoints", 1)):
            if getattr(self, name) < low:
                option = "--" + name.replace("_", "-")
                raise UserError(
                    f"{name}: expected at least {low}, got {getattr(self, name)}; change {option}"
                )


def launch(options: RunOptions, experiment: Experiment, load: cifar10.Load | None = None) -> int:
    """Run or resume; returns the exit code: 0, or 128 + the signal that stopped it.

    `load` takes the place of `cifar10.load` where a process makes many runs of one data set.
    Raises UserError for what the user can mend, NonFiniteError when training broke down.
    """
    with RunLocks() as locks, memory.explained(experiment, options.backend):
        return _launch(options, experiment, locks, load)


def _launch(options: RunOptions, experiment: Experiment, locks: RunLocks, load: cifar10.Load | None) -> int:
    inherited, origin = other_start(options.resume, experiment) if options.resume else (None, None)
    config = config_of(options, experiment, origin)
    folder = RunDirectory(options.run_dir or run_dir.default_path(config))
    if not options.dry_run:
        folder.check(config, options.overwrite)
        if folder.summary.exists() and not options.overwrite:
            _report(folder.read_summary(), folder)
            print("already finished, nothing to do; --overwrite starts it anew")
            return 0
        locks.take(folder.path)
    with importing(options.backend):
        dataset = (load or cifar10.load)(experiment.data.dataset, options.data_dir)
        data = prepare(dataset, experiment.data.preprocess, experiment.data.validation)
    source = Source(dataset.source, dataset.fingerprint, tuple(dataset.notices))
    if options.deterministic:
        make_deterministic(options.backend)
    backend = create(options.backend, experiment, data, options.device)
    run = Run(experiment, backend, len(data.labels["train"]), source, folder, _loop_options(options))
    own = None if options.overwrite or options.dry_run else own_start(folder, experiment)
    start = own or inherited
    if start is not None:
        check_data(start, source.fingerprint)
    if options.dry_run:
        _dry_run(run, start)
        return 0
    config["data"] = source.record()
    folder.create(config, locks, options.overwrite)
    _announce(options, experiment, backend, source, folder, start)
    code = _conclude(run.train(start), folder, dataset)
    if run.training.first_stop is not None:
        print(f"first steps done {run.training.first_stop:.1f} s after the program's start")
    return code


def config_of(
    options: RunOptions, experiment: Experiment, origin: dict[str, Any] | None = None
) -> dict[str, Any]:
    """What config.json says of a run before its data is known; `origin` as `other_start` has it."""
    return {
        "name": options.experiment,
        "backend": options.backend,
        "experiment": to_dict(experiment),
        "resumed_from": origin,
    }


def _loop_options(options: RunOptions) -> LoopOptions:
    return LoopOptions(
        name=options.experiment,
        checkpoint_every=options.checkpoint_every,
        keep_checkpoints=options.keep_checkpoints,
        tensorboard=options.tensorboard,
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
        f"hidden {hidden} | {_optimizer(experiment)} "
        f"learning rate {experiment.optimization.learning_rate:g} | batch {experiment.data.batch_size}"
    )
    print(f"data: {source.source}, {source.fingerprint[:23]}...")
    if experiment.training.early_stopping and not experiment.data.validation:
        print("notice: early stopping watches the test set; --validation 5000 holds out images for it")
    if start is not None:
        print(f"resuming at step {start.checkpoint.step}, saved by {start.checkpoint.info['backend']}")
    print(f"run folder: {folder.path}", flush=True)


def _optimizer(experiment: Experiment) -> str:
    """Its name, as people say it."""
    return experiment.optimization.optimizer + (" (AMSGrad)" if experiment.optimization.amsgrad else "")


def _conclude(outcome: Outcome, folder: RunDirectory, dataset: cifar10.Dataset) -> int:
    if outcome.signal is not None:
        print(f"repeat the same command, without --overwrite, to resume in {folder.path}")
        return 128 + outcome.signal
    _report(outcome.summary, folder)
    if dataset.source == "generated":
        print("\n".join(dataset.notices))
    return 0


def _report(summary: dict[str, Any], folder: RunDirectory) -> None:
    generated = summary["data"]["source"] == "generated"
    entry = None if generated else CATALOGUE.get(summary["experiment"])
    reported = f" (the report's {summary['experiment']}: {entry.reported:g})" if entry else ""
    if summary["changed_settings"]:
        changed = ", ".join(summary["changed_settings"])
        reported = f" ({summary['experiment']} with another {changed})"
    print(
        f"test accuracy {summary['test_accuracy']:.4f}{reported}, test loss {summary['test_loss']:.4f}, best "
        f"{summary['best_test_accuracy']:.4f} at step {summary['best_step']}"
    )
    for kind in get_args(Statistics):
        if f"test_accuracy_{kind}_statistics" in summary:
            print(f"test accuracy by {kind} statistics: {summary[f'test_accuracy_{kind}_statistics']:.4f}")
    print(
        f"{summary['steps']} steps in {summary['train_seconds']:.1f} s ({summary['steps_per_second']:.0f} "
        f"steps/s), compiling {summary['compile_seconds']:.1f} s, on {summary['device']}; data: "
        f"{summary['data']['source']}"
    )
    print(f"curves, metrics, summary and checkpoints: {folder.path}")


def _dry_run(run: Run, start: Start | None) -> None:
    print(cost.describe(run.experiment))
    print(f"data: {run.source.source}, {run.source.fingerprint[:23]}..., {run.order.size} training images")
    run.place(start)
    results = run.backend.train(run.plan(run.step, 2))
    for number, (loss, accuracy) in enumerate(zip(results.losses, results.accuracies, strict=True), start=1):
        print(f"step {run.step + number}: loss {loss:.6f}, accuracy {accuracy:.4f}")
    print(f"dry run on {run.backend.name}, {run.backend.device}: nothing was written")
