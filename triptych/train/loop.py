"""One run, for all backends alike: batches, evaluation, logging, checkpoints, resume."""

from __future__ import annotations

import io
import os
import platform
import time
from dataclasses import dataclass
from typing import Any, NoReturn, Protocol, get_args

import numpy as np

from triptych.cifar10.batches import BatchOrder
from triptych.describe.catalogue import changes, title
from triptych.describe.cost import step_flops, steps_per_call
from triptych.describe.init import initial_parameters
from triptych.describe.layers import initial_statistics
from triptych.describe.plain import to_dict
from triptych.describe.protocol import Backend, Evaluation, Statistics, StepResults, Steps, plan_steps
from triptych.describe.spec import Experiment
from triptych.errors import UserError
from triptych.show import plots
from triptych.show.progress import Logged, Reporter, Silent, Stopwatch
from triptych.show.reporting import SHARED_SECONDS, train_records
from triptych.show.tensorboard import BoardWriter
from triptych.store import checkpoint
from triptych.store.records import Record, csv_of
from triptych.store.run_dir import RunDirectory, flat
from triptych.train import diagnose, memory
from triptych.train.options import RunOptions

LONGEST_CALL = 2.5
"""Seconds that a call of the backend is to take at most, as far as single steps allow it."""


THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
"""Variables that limit them."""


def threads() -> str:
    """How many threads products may take, on which the order of their sums depends."""
    affinity = getattr(os, "sched_getaffinity", None)
    cpus = len(affinity(0)) if affinity else os.cpu_count()
    return " ".join(
        [f"{cpus} CPUs", *(f"{name}={os.environ[name]}" for name in THREADS if name in os.environ)]
    )


@dataclass(frozen=True)
class Source:
    """What the data was: kind, SHA-256 fingerprint, and what its reading had to remark."""

    source: str
    fingerprint: str
    notices: tuple[str, ...] = ()

    def record(self) -> dict[str, Any]:
        """For config.json."""
        return {"source": self.source, "fingerprint": self.fingerprint, "notices": list(self.notices)}


@dataclass(frozen=True)
class Start:
    """Where a run begins: a checkpoint (its own, or another run's) and the records up to it."""

    checkpoint: checkpoint.Checkpoint
    records: list[Record]


class Progress(Protocol):
    """The part of a reporter that one run needs."""

    def advance(self, steps: int, loss: float, accuracy: float) -> None: ...

    def evaluated(self, record: Record) -> None: ...


class Run:
    """One run: its backend, its folder, and how far it is."""

    def __init__(
        self,
        experiment: Experiment,
        backend: Backend,
        train_size: int,
        source: Source,
        folder: RunDirectory,
        options: RunOptions,
    ) -> None:
        self.experiment, self.backend, self.source = experiment, backend, source
        self.folder, self.options = folder, options
        self.order = BatchOrder(train_size, experiment.data.batch_size, experiment.training.seed)
        self.capacity = steps_per_call(experiment, backend.device)
        self.limit = max(1, round(1e11 / step_flops(experiment)))  # until a first call shows the pace
        self.step = 0
        self.records: list[Record] = []
        self.training, self.compiling = Stopwatch(), Stopwatch()
        self.timed_from = 0
        """Steps before the first that `training` timed."""
        self.together = 1
        """How many runs shared the seconds: in a sweep each counts an equal part of them."""
        self.summary: dict[str, Any] = {}
        """Of a run that has finished."""
        self._board: BoardWriter | None = None

    @property
    def log(self) -> Reporter:
        """Its log.txt, and nothing on the terminal."""
        return Logged(Silent(), self.folder.log)

    def pace(self, steps: int, seconds: float) -> None:
        """How many steps the next call may take: progress and signals wait for its end."""
        self.limit = max(1, int(LONGEST_CALL * steps / max(seconds, 1e-9)))

    @property
    def done(self) -> bool:
        """Whether it has taken all its steps, or stops early."""
        return self.step >= self.experiment.training.steps or self._stale()

    # --- beginning and end ---

    def place(self, start: Start | None) -> None:
        """Put the backend where the run begins: initial parameters, or a checkpoint."""
        if start is None:
            self.backend.start(initial_parameters(self.experiment))
            return
        self.step, self.records = start.checkpoint.step, list(start.records)
        info = start.checkpoint.info
        if info["backend"] == self.backend.name:
            self.timed_from = info["timed_from"]
            self.training.seconds, self.compiling.seconds = info["train_seconds"], info["compile_seconds"]
            self.together = max(self.together, info.get("together", 1))
        else:  # another backend's seconds would say nothing of this one's speed
            self.timed_from = self.step
        self.backend.import_state(start.checkpoint.state)

    def begin(self, start: Start | None) -> None:
        """Place the backend and bring the folder to the same step; `close` when the run ends."""
        self.place(start)
        self.folder.restart_metrics(self.records)
        checkpoint.drop_after(self.folder.checkpoints, self.step)
        if not diagnose.finite(self.backend.export_state()):
            dtype = self.experiment.training.dtype
            raise UserError(
                f"init: the initial parameters are beyond {dtype}; lower --init-std"
                if start is None
                else f"resume: the checkpoint of step {self.step} is not finite in {dtype}; take another"
            )
        if not checkpoint.listing(self.folder.checkpoints):
            self.save()
        board = self.folder.tensorboard if self.options.tensorboard else None
        settings = {"backend": self.backend.name} | flat(to_dict(self.experiment))
        self._board = BoardWriter(board, self.records, settings)

    def close(self) -> None:
        """Close what `begin` opened."""
        if self._board is not None:
            self._board.close(finished=self.done)

    def finish(self) -> None:
        """Write predictions, curves and summary of a run that is done."""
        evaluations = self._evaluations()
        if not evaluations or evaluations[-1]["step"] != self.step:
            raise AssertionError("the last step is always evaluated")
        final, best = evaluations[-1], max(evaluations, key=lambda record: record["test_accuracy"])
        evaluation = self._evaluated("test")
        buffer = io.BytesIO()
        np.save(buffer, evaluation.predictions)
        self.folder.write(self.folder.predictions, buffer.getvalue())
        self.draw()
        self.summary = self._summary(final, best)
        self.folder.write_summary(self.summary)

    def draw(self) -> None:
        """Write curves and metrics.csv as far as the run came."""
        what = title(self.options.experiment, self.experiment)
        evaluations = self._evaluations()
        reached = (
            f"test accuracy {evaluations[-1]['test_accuracy']:.4f}" if evaluations else "not evaluated yet"
        )
        above = f"{what}, {self.backend.name}, step {self.step}: {reached}"
        self.folder.write(self.folder.curves, plots.curves(self.records, above))
        self.folder.write(self.folder.metrics_csv, csv_of(self.records).encode())

    def _summary(self, final: Record, best: Record) -> dict[str, Any]:
        training = self.experiment.training
        summary = {
            "backend": self.backend.name,
            "experiment": self.options.experiment,
            "changed_settings": changes(self.options.experiment, self.experiment),
            "dtype": training.dtype,
            "seed": training.seed,
            "device": self.backend.device,
            "steps": self.step,
            "stopped_early": self.step < training.steps,
            **{key: final[key] for key in ("train_loss", "train_accuracy", "test_accuracy", "test_loss")},
            "best_test_accuracy": best["test_accuracy"],
            "best_step": best["step"],
            "train_seconds": self.training.seconds,
            "compile_seconds": self.compiling.seconds,
            "steps_per_second": self._steps_per_second(),
            "data": {"source": self.source.source, "fingerprint": self.source.fingerprint},
            "versions": {"python": platform.python_version(), **self.backend.versions()},
            "parameters_sha256": checkpoint.parameters_sha256(self.backend.export_state()),
        }
        if self.together > 1:
            summary["sweep"] = {"runs": self.together, "seconds": SHARED_SECONDS}
        if initial_statistics(self.experiment.layers()):
            for kind in get_args(Statistics):
                accuracy = self._evaluated("test", kind).accuracy
                summary[f"test_accuracy_{kind}_statistics"] = accuracy
        if "validation_accuracy" in final:
            summary["validation_accuracy"] = final["validation_accuracy"]
        return summary

    def _steps_per_second(self) -> float:
        timed = self.step - self.timed_from
        return timed / self.training.seconds if timed else 0.0

    # --- one backend call, and what may be due after it ---

    def plan(self, first: int, count: int) -> Steps:
        """The inputs of `count` steps after the first `first`."""
        return plan_steps(self.experiment, self.order.table(first, count), first)

    def take(self, steps: Steps, results: StepResults, progress: Progress) -> None:
        """Note what the backend's call returned, and do what is due: evaluate, save."""
        finite = np.isfinite(results.losses)
        count = len(steps) if finite.all() else int(np.argmin(finite))
        records = train_records(steps, results)[:count]
        if count < len(steps):
            self.folder.append_metrics(records)
            self._stop_non_finite(self.step + count + 1)
        self.step += len(steps)
        progress.advance(len(steps), records[-1]["loss"], records[-1]["accuracy"])
        self._note(records)
        if self._due(self.experiment.training.eval_every):
            records = [self._evaluate()]
            progress.evaluated(records[-1])
            self._note(records)
        if records[-1]["kind"] == "eval" or self._due(self.options.checkpoint_every):
            self.save()

    def _note(self, records: list[Record]) -> None:
        self.records += records
        self.folder.append_metrics(records)
        if self._board is not None:
            self._board.write(records)

    @property
    def next_event(self) -> int:
        """The last step of the next backend call."""
        training = self.experiment.training
        ends = [self.step + min(self.capacity, self.limit), training.steps]
        for every in (training.eval_every, self.options.checkpoint_every):
            if every:
                ends.append((self.step // every + 1) * every)
        return min(ends)

    def _due(self, every: int) -> bool:
        return bool(every) and (self.step % every == 0 or self.step == self.experiment.training.steps)

    def _evaluated(self, split: str, statistics: Statistics | None = None) -> Evaluation:
        with memory.stage("evaluation"):
            return self.backend.evaluate(split, statistics)

    def _evaluate(self) -> Record:
        since = next((r["step"] for r in reversed(self.records) if r["kind"] == "eval"), 0)
        interval = [r for r in self.records if r["kind"] == "train" and r["step"] > since]
        test = self._evaluated("test")
        record: Record = {
            "kind": "eval",
            "step": self.step,
            "train_loss": float(np.mean([r["loss"] for r in interval])),
            "train_accuracy": float(np.mean([r["accuracy"] for r in interval])),
            "test_loss": test.loss,
            "test_accuracy": test.accuracy,
        }
        if self.experiment.data.validation:
            validation = self._evaluated("validation")
            record |= {"validation_loss": validation.loss, "validation_accuracy": validation.accuracy}
        if not all(np.isfinite(value) for value in record.values() if isinstance(value, float)):
            self._stop_non_finite(self.step, evaluation=True)
        return record | {"train_seconds": round(self.training.seconds, 6), "time": round(time.time(), 3)}

    def _stale(self) -> bool:
        """Whether early stopping applies: no better accuracy in so many evaluations in a row."""
        patience = self.experiment.training.early_stopping
        if not patience:
            return False
        key = "validation_accuracy" if self.experiment.data.validation else "test_accuracy"
        evaluations = [record for record in self._evaluations() if key in record]
        if not evaluations or evaluations[-1]["step"] != self.step:
            return False  # a resumed run decides at its next evaluation
        return len(evaluations) - 1 - int(np.argmax([record[key] for record in evaluations])) >= patience

    def _evaluations(self) -> list[Record]:
        return [record for record in self.records if record["kind"] == "eval"]

    # --- checkpoints and failure ---

    def save(self) -> None:
        """Write a checkpoint; raises NonFiniteError rather than save what is not finite."""
        state = self.backend.export_state()
        if not diagnose.finite(state):
            self._stop_non_finite(self.step)
        info = {
            "backend": self.backend.name,
            "fingerprint": self.source.fingerprint,
            "metrics_sha256": self.folder.metrics_sha256(),
            "config_sha256": self.folder.config_sha256(),
            "threads": threads(),
            "timed_from": self.timed_from,
            "train_seconds": self.training.seconds,
            "compile_seconds": self.compiling.seconds,
        } | ({"together": self.together} if self.together > 1 else {})
        self.folder.save(checkpoint.Checkpoint(self.step, state, info))
        best = max(self._evaluations(), key=lambda record: record["test_accuracy"], default=None)
        keep = {best["step"]} if best else set()
        checkpoint.prune(self.folder.checkpoints, self.options.keep_checkpoints, keep)

    def _stop_non_finite(self, bad_step: int, evaluation: bool = False) -> NoReturn:
        good, _ = checkpoint.load_latest(self.folder.checkpoints)
        if good is None:
            raise AssertionError("a run saves a checkpoint before its first step")
        last = f"the last good checkpoint is step {good.step} in {self.folder.checkpoints}"
        advice = "lower --learning-rate, add --warmup-steps, or choose another --init"
        if evaluation and diagnose.finite(self.backend.export_state()):
            raise diagnose.NonFiniteError(
                f"evaluation after step {bad_step}: the held-out loss is not finite; {last}; {advice}"
            )
        with memory.stage("training"):
            where = diagnose.find(self.backend, self.experiment, self.plan, good.state, good.step, bad_step)
        raise diagnose.NonFiniteError(f"training stopped being finite at {where}; {last}; {advice}")
