"""Part of a run, trained again: does it end where the run says it did?

On the machine that made it, it ends there bit for bit. Elsewhere every step may round another way, and what
that grows to no theorem bounds tightly. So it is tried out: the part is trained again with every number of
the state moved, after every step, by a random share of all that one step's rounding may do to it. What the
run recorded must lie no farther from the undisturbed repetition than these do.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np

from parity.bounds.rounding import Array
from parity.runs.locate.audit import LOSS_KEY, one_step_limits, quantity_of
from parity.runs.locate.files import differences
from parity.runs.locate.findings import Divergence
from parity.runs.locate.side import CALL, Side
from triptych.describe.state import Key, State

REPETITIONS = 2


@dataclass(frozen=True, eq=False)
class Segment:
    """Steps first + 1 .. last of a run from its state after `first`."""

    side: Side
    state: State
    first: int
    last: int
    losses: Array
    """Recorded, of steps 1, 2, ..."""
    every: int


def differs_beyond_rounding(segment: Segment, wanted: State) -> tuple[Divergence | None, bool]:
    """What of the recorded end, if anything, no rounding explains; and whether all is the same bits."""
    losses, end = _again(segment)
    recorded = segment.losses[segment.first : segment.last]
    lossless = len(recorded) == len(losses) and np.array_equal(recorded, losses)
    found = differences(end, wanted, segment.last)
    if not found and lossless:
        return None, True
    if any(divergence.quantity == "updates" for divergence in found):
        return _explained(found[0], segment, losses, recorded, np.zeros(len(losses))), False
    spread, arrays = _disturbed(segment, losses, end)
    for divergence in found:
        key = _key(divergence, wanted)
        gap = float(np.abs(end.arrays()[key].astype(np.float64) - wanted.arrays()[key]).max())
        if not gap <= arrays.get(key, 0.0):
            return _explained(divergence, segment, losses, recorded, spread), False
    apart = _first_apart(losses, recorded, spread)
    if apart is not None:
        step = segment.first + apart + 1
        numbers = float(recorded[apart]), float(losses[apart]), float(spread[apart])
        note = "the recorded loss is not the run's own"
        return Divergence(step, "record", "", "loss", "left", float("inf"), (), *numbers, note=note), False
    return None, False


def _explained(
    found: Divergence, segment: Segment, losses: Array, recorded: Array, spread: Array
) -> Divergence:
    apart = _first_apart(losses, recorded, spread)
    if apart is None:
        note = "every recorded loss is right: it changed after the last of these steps"
        return Divergence(**{**vars(found), "note": f"{found.note}; {note}"})
    step = segment.first + apart + 1
    note = f"losses part in step {step}: the cause lies there or in the update before"
    return Divergence(**{**vars(found), "step": step, "note": f"{found.note}; {note}"})


def _first_apart(losses: Array, recorded: Array, spread: Array) -> int | None:
    count = min(len(losses), len(recorded))
    beyond = ~(np.abs(losses[:count] - recorded[:count]) <= spread[:count])
    return int(np.argmax(beyond)) if beyond.any() else None


def _key(divergence: Divergence, state: State) -> Key:
    wanted = divergence.layer, divergence.quantity
    return next(key for key in state.arrays() if (key.layer, quantity_of(key)) == wanted)


def _again(segment: Segment) -> tuple[Array, State]:
    side, losses = segment.side, []
    side.put(segment.state)
    for first in range(segment.first, segment.last, CALL):
        losses.append(side.backend.train(side.plan(first, min(CALL, segment.last - first))).losses)
    return np.concatenate(losses), side.backend.export_state()


def _disturbed(segment: Segment, losses: Array, end: State) -> tuple[Array, dict[Key, float]]:
    """How far disturbed repetitions get from the undisturbed: the loss so far, and each array at the end."""
    spread, arrays = np.zeros(len(losses)), dict.fromkeys(end.arrays(), 0.0)
    for seed in range(REPETITIONS):
        rng = np.random.Generator(np.random.PCG64(seed))
        state, limits, largest = segment.state, dict[Key, Array](), 0.0
        for step in range(segment.first, segment.last):
            if (step - segment.first) % segment.every == 0:
                limits = {key: b.error for key, b in one_step_limits(segment.side, state, step).items()}
            segment.side.put(state)
            outcome = segment.side.step(segment.side.plan(step))
            at = step - segment.first
            largest = max(largest, abs(outcome.loss - losses[at]))
            spread[at] = max(spread[at], largest + float(limits[LOSS_KEY]))
            state = outcome.state.map(partial(_moved, limits, rng))
        for key, array in state.arrays().items():
            arrays[key] = max(arrays[key], float(np.abs(array.astype(np.float64) - end.arrays()[key]).max()))
    return spread, arrays


def _moved(limits: dict[Key, Array], rng: np.random.Generator, key: Key, array: Array) -> Array:
    """An array moved at random within one step's limits (not where there is none)."""
    if key not in limits:
        return array
    by = np.where(np.isfinite(limits[key]), limits[key], 0.0) * rng.uniform(-1, 1, array.shape)
    moved = (array + by).astype(array.dtype)
    return np.maximum(moved, 0) if key.group == "second_moment" or key.last == "running_var" else moved
