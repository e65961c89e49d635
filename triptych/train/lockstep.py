"""Several runs trained together by one program, each with the folder and records of a run alone.

The run furthest behind takes its steps first, and with it those that the device trains at the same time and
that are level with it. So runs that an interruption left at different steps go on together, and a run that
stopped early or failed just rests.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from triptych.describe.protocol import StepResults, Steps, Together
from triptych.describe.schedule import learning_rates
from triptych.show.progress import Progress
from triptych.show.signals import StopRequest
from triptych.train.diagnose import NonFiniteError
from triptych.train.loop import Run, Start

LEAST_STEPS, LONGER = 10, 2
"""A call for several runs at a time may take so many times as long as a run's alone, since it is the larger
for a device that has room for them; and longer still where that left fewer than so many steps of each."""
_Result = TypeVar("_Result")


@dataclass
class Lockstep:
    """How runs trained together ended."""

    failures: dict[int, str] = field(default_factory=dict)
    """Place of each run that stopped being finite, to step and layer."""
    signal: int | None = None
    """The signal that stopped them all, each with a checkpoint."""


@dataclass
class _Reporter:
    """One run's lines under its own name; the bar counts the steps of all."""

    progress: Progress
    name: str

    def advance(self, steps: int, loss: float, accuracy: float) -> None:
        self.progress.advance(steps, loss, accuracy)

    def line(self, text: str) -> None:
        self.progress.line(f"{self.name}: {text}")


def train_together(
    runs: Sequence[Run], starts: Sequence[Start | None], names: Sequence[str], together: Together
) -> Lockstep:
    """Train all to the end, early stops or a signal; `names` stand before their lines.

    A run that stops being finite leaves the others alone. `runs` and `together.members` have one order.
    """
    ended = Lockstep()
    capacity = call_length(runs[0].capacity, min(together.width, len(runs)))
    for run, start in zip(runs, starts, strict=True):
        run.capacity = run.limit = capacity  # of all runs together: no call of one alone sets the pace
        run.together = len(runs)
        run.begin(start)
    total = sum(run.experiment.training.steps for run in runs)
    progress = Progress(total, sum(run.step for run in runs), f"{len(runs)} runs")
    live = dict(enumerate(runs))
    drawn: dict[int, Steps] = {}
    try:
        with StopRequest() as stop:
            _timed(lambda: together.compile(capacity), runs, "compiling")
            while live := _unfinished(live):
                if stop.signal is not None:
                    ended.failures |= _save(live)
                    progress.line(f"stopped by {stop.signal.name}; checkpoints saved")
                    ended.signal = int(stop.signal)
                    break
                for place, message in _advance(live, names, together, progress, drawn).items():
                    ended.failures[place] = message
                    progress.line(f"{names[place]}: {message}")
                    del live[place]
    finally:
        progress.close()
        for run in runs:
            run.close()
    return ended


def call_length(alone: int, width: int) -> int:
    """Steps in one call for `width` runs at a time, from those in a call for one."""
    return min(alone, max(LEAST_STEPS, LONGER * alone // width))


def _unfinished(live: dict[int, Run]) -> dict[int, Run]:
    """The runs that go on; those that are done write what a finished run leaves."""
    for run in live.values():
        if run.done:
            run.finish()
    return {place: run for place, run in live.items() if not run.done}


def _save(live: dict[int, Run]) -> dict[int, str]:
    """A checkpoint of every run; those with nothing finite to save."""
    failures = {}
    for place, run in live.items():
        try:
            run.save()
        except NonFiniteError as error:
            failures[place] = str(error)
    return failures


def _advance(
    live: dict[int, Run],
    names: Sequence[str],
    together: Together,
    progress: Progress,
    drawn: dict[int, Steps],
) -> dict[int, str]:
    """One call for the run furthest behind and its neighbours; the failures among them."""
    last = min(live, key=lambda place: live[place].step)
    first, group = live[last].step, last // together.width
    near = {place: run for place, run in live.items() if place // together.width == group}
    behind = {place: run for place, run in near.items() if run.step == first}
    ends = [run.next_event for run in behind.values()]
    ends += [run.step for run in near.values() if run.step > first]
    plans = _plans(behind, first, min(ends) - first, drawn)

    def train() -> dict[int, StepResults]:
        return together.train(plans)

    results = _timed(train, list(behind.values()), "training")
    failures = {}
    for place, run in behind.items():
        try:
            run.take(plans[place], results[place], _Reporter(progress, names[place]))
        except NonFiniteError as error:
            failures[place] = str(error)
    return failures


def _plans(runs: dict[int, Run], first: int, count: int, drawn: dict[int, Steps]) -> dict[int, Steps]:
    """The steps of each run. What a seed decides is drawn once for all runs of that seed, also for those that
    take the same steps in the calls that follow: `drawn` holds the last of each seed.
    """
    plans = {}
    for place, run in runs.items():
        seed = run.experiment.training.seed
        if seed not in drawn or (drawn[seed].first, len(drawn[seed])) != (first, count):
            drawn[seed] = run.plan(first, count)
        rates = learning_rates(run.experiment, first, count)
        plans[place] = replace(drawn[seed], learning_rates=rates)
    return plans


def _timed(call: Callable[[], _Result], runs: Sequence[Run], watch: str) -> _Result:
    """The call's result; each run is charged an equal part of its seconds."""
    start = time.perf_counter()
    result = call()
    share = (time.perf_counter() - start) / len(runs)
    for run in runs:
        getattr(run, watch).seconds += share
    return result
