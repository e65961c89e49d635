"""The training loop: one run, or several that one program trains, each with the folder of a run alone.

The run furthest behind takes its steps first, and with it those that the device trains at the same time and
that are level with it. So runs that an interruption left at different steps go on together, and a run that
stopped early or failed just rests.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from triptych.describe.catalogue import called
from triptych.describe.protocol import Backend, StepResults, Steps, Together
from triptych.describe.schedule import learning_rates
from triptych.show.progress import Reporter
from triptych.show.reporting import evaluation_line, named_line
from triptych.show.signals import StopRequest
from triptych.store.records import Record
from triptych.train import memory
from triptych.train.diagnose import NonFiniteError
from triptych.train.loop import Run, Start

LEAST_STEPS, LONGER = 10, 2
"""A call for several runs at a time may take so many times as long as a run's alone, since it is the larger
for a device that has room for them; and longer still where that left fewer than so many steps of each."""
_Result = TypeVar("_Result")


@dataclass
class Ended:
    """How training ended."""

    failures: dict[int, str] = field(default_factory=dict)
    """Place of each run that stopped being finite, to step and layer."""
    signal: int | None = None
    """The signal that stopped them all, each with a checkpoint."""


class Alone:
    """One backend as a program of one run. Implements `triptych.describe.protocol.Together`."""

    width = 1

    def __init__(self, backend: Backend) -> None:
        self.members: Sequence[Backend] = [backend]

    def compile(self, capacity: int) -> None:
        self.members[0].compile(capacity)

    def train(self, steps: Mapping[int, Steps]) -> dict[int, StepResults]:
        return {0: self.members[0].train(steps[0])}


@dataclass
class _Evaluations:
    """One run's lines, of several under its own name; the bar counts the steps of all."""

    reporter: Reporter
    run: Run
    several: bool

    def advance(self, steps: int, loss: float, accuracy: float) -> None:
        self.reporter.advance(steps, loss, accuracy)

    def evaluated(self, record: Record) -> None:
        line = evaluation_line(record)
        if self.several:
            self.run.log.line(line)
            line = named_line(record, self.run.folder.path.name)
        self.reporter.line(line)


def train(
    runs: Sequence[Run], starts: Sequence[Start | None], together: Together, reporter: Reporter
) -> Ended:
    """Train all to the end, early stops or a signal. `runs` and `together.members` have one order.

    A run that stops being finite leaves the others alone.
    """
    ended, several = Ended(), len(runs) > 1
    capacity = call_length(runs[0].capacity, min(together.width, len(runs)))
    for run, start in zip(runs, starts, strict=True):
        if several:  # no call of one alone sets the pace
            run.capacity = run.limit = capacity
            run.together = len(runs)
        run.begin(start)
    total = sum(run.experiment.training.steps for run in runs)
    one = called(runs[0].options.experiment, runs[0].experiment)
    title = f"{len(runs)} runs" if several else f"{one} {runs[0].backend.name}"
    reporter.begin(total, sum(run.step for run in runs), title)
    live, resting = dict(enumerate(runs)), dict[int, Run]()
    drawn: dict[int, Steps] = {}
    try:
        with StopRequest() as stop:
            with memory.stage("compiling"):
                _timed(lambda: together.compile(capacity), runs, "compiling")
            while True:
                resting = {place: run for place, run in live.items() if run.done}
                live = {place: run for place, run in live.items() if place not in resting}
                if not live:
                    break
                _finish(resting)
                if stop.signal is not None:
                    ended.failures |= _save(live)
                    ended.signal = int(stop.signal)
                    reporter.line(_stopped(stop.signal.name, runs))
                    for run in live.values() if several else ():
                        run.log.line(_stopped(stop.signal.name, [run]))
                    break
                for place, message in _advance(live, together, reporter, drawn).items():
                    run = live.pop(place)
                    ended.failures[place] = message
                    run.draw()
                    run.log.line(message)
                    if several:
                        reporter.line(f"{run.folder.path.name}: {message}")
    finally:
        reporter.end()
        for run in runs:
            run.close()
    if ended.signal is None:
        _finish(resting)  # the last ones, where a signal acts at once
    return ended


def call_length(alone: int, width: int) -> int:
    """Steps in one call for `width` runs at a time, from those in a call for one."""
    return min(alone, max(LEAST_STEPS, LONGER * alone // width))


def _finish(done: dict[int, Run]) -> None:
    for run in done.values():
        run.finish()


def _stopped(name: str, runs: Sequence[Run]) -> str:
    if len(runs) > 1:
        return f"stopped by {name}; checkpoints saved"
    return f"stopped by {name} at step {runs[0].step}; checkpoint saved"


def _save(live: dict[int, Run]) -> dict[int, str]:
    """A checkpoint of every run; those with nothing finite to save."""
    failures = {}
    for place, run in live.items():
        try:
            run.save()
            run.draw()
        except NonFiniteError as error:
            failures[place] = str(error)
    return failures


def _advance(
    live: dict[int, Run], together: Together, reporter: Reporter, drawn: dict[int, Steps]
) -> dict[int, str]:
    """One call for the run furthest behind and its neighbours; the failures among them."""
    last = min(live, key=lambda place: live[place].step)
    first, group = live[last].step, last // together.width
    near = {place: run for place, run in live.items() if place // together.width == group}
    behind = {place: run for place, run in near.items() if run.step == first}
    ends = [run.next_event for run in behind.values()]
    ends += [run.step for run in near.values() if run.step > first]
    plans = _plans(behind, first, min(ends) - first, drawn)
    began = time.perf_counter()
    with memory.stage("training"):
        results = _timed(lambda: together.train(plans), list(behind.values()), "training")
    seconds, failures = time.perf_counter() - began, {}
    for place, run in behind.items():
        if isinstance(together, Alone):
            run.pace(len(plans[place]), seconds)
        try:
            run.take(
                plans[place], results[place], _Evaluations(reporter, run, not isinstance(together, Alone))
            )
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
            plans[place] = drawn[seed] = run.plan(first, count)
        else:
            rates = learning_rates(run.experiment, first, count)
            plans[place] = replace(drawn[seed], learning_rates=rates)
    return plans


def _timed(call: Callable[[], _Result], runs: Sequence[Run], watch: str) -> _Result:
    """The call's result; each run is charged an equal part of its seconds."""
    start = time.perf_counter()
    result = call()
    share = (time.perf_counter() - start) / len(runs)
    for run in runs:
        getattr(run, watch).add(share)
    return result
