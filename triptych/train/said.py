"""What a run says at its beginning and at its end."""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path
from typing import Any, get_args

from triptych.describe.catalogue import CATALOGUE, is_own, title
from triptych.describe.protocol import Statistics
from triptych.describe.spec import Experiment
from triptych.show.progress import Reporter
from triptych.store.run_dir import RunDirectory
from triptych.train.loop import Run, Start


def announce(run: Run, start: Start | None, reporter: Reporter) -> None:
    """What begins, on which data, from where."""
    experiment, backend = run.experiment, run.backend
    model = experiment.model
    parts = (("channels", model.channels), ("hidden", model.hidden))
    sizes = "".join(f"{name} {' '.join(map(str, given))}, " for name, given in parts if given)
    reporter.line(
        f"{title(run.options.experiment, experiment)}: {backend.name} on {backend.device}, "
        f"{experiment.training.dtype}, {sizes}{_optimizer(experiment)}, "
        f"learning rate {experiment.optimization.learning_rate:g}, batch {experiment.data.batch_size}"
    )
    reporter.line(f"data: {run.source.source}, {run.source.fingerprint[:23]}...")
    if experiment.training.early_stopping and not experiment.data.validation:
        reporter.notice(
            "notice: early stopping watches the test set; --validation 5000 holds out images for it"
        )
    if start is not None:
        found = start.checkpoint
        reporter.notice(f"resuming at step {found.step}, saved by {found.info['backend']}")
    reporter.line(f"run folder: {run.folder.path}")


def data(run: Run) -> str:
    """The images it learns from."""
    return f"data: {run.source.source}, {run.source.fingerprint[:23]}..., {run.order.size} training images"


def _optimizer(experiment: Experiment) -> str:
    """Its name, as people say it."""
    return experiment.optimization.optimizer + (" (AMSGrad)" if experiment.optimization.amsgrad else "")


def report(summary: dict[str, Any], folder: RunDirectory, reporter: Reporter) -> None:
    """What a finished run reached, and what to do with it."""
    generated = summary["data"]["source"] == "generated"
    entry = None if generated else CATALOGUE.get(summary["experiment"])
    reported = ""
    if entry:
        whose = "the assignment expects" if entry.by_assignment else f"the report's {summary['experiment']}:"
        reported = f" ({whose} {entry.reported:g})"
    if changed := summary["changed_settings"]:
        other = f" ({summary['experiment']} with other {', '.join(changed)})"
        reported = "" if is_own(changed) else other
    reporter.line(
        f"test accuracy {summary['test_accuracy']:.4f}{reported}, test loss {summary['test_loss']:.4f}, best "
        f"{summary['best_test_accuracy']:.4f} at step {summary['best_step']}"
    )
    for kind in get_args(Statistics):
        if f"test_accuracy_{kind}_statistics" in summary:
            accuracy = summary[f"test_accuracy_{kind}_statistics"]
            reporter.line(f"test accuracy by {kind} statistics: {accuracy:.4f}")
    reporter.line(
        f"{summary['steps']} steps in {summary['train_seconds']:.1f} s ({summary['steps_per_second']:.0f} "
        f"steps/s), compiling {summary['compile_seconds']:.1f} s, on {summary['device']}; data: "
        f"{summary['data']['source']}"
    )
    reporter.line(f"curves, metrics, summary and checkpoints: {folder.path}")
    reporter.line(f"next, a page of its mistakes: {_triptych()} look {shlex.quote(str(folder.path))}")


def _triptych() -> str:
    """What to type for `triptych` here: a clone's environment may not be the one that `python` means."""
    if Path(sys.argv[0]).name == "triptych":
        return "triptych"
    ours, first = Path(sys.executable), shutil.which("python")
    here = ours.relative_to(Path.cwd()) if ours.is_relative_to(Path.cwd()) else ours
    return f"{'python' if first == str(ours) else shlex.quote(str(here))} -m triptych"
