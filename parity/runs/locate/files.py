"""Two checkpoint files held beside each other, array by array."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from parity.bounds.rounding import ROUNDINGS, Array
from parity.runs.locate.findings import At, Divergence, Report, Where, differs
from parity.runs.locate.side import differing_settings
from triptych.describe.plain import from_dict
from triptych.describe.spec import Experiment
from triptych.describe.state import Key, State
from triptych.errors import UserError
from triptych.store import checkpoint
from triptych.store.run_dir import RunDirectory


def compare_files(left: Path, right: Path) -> Report:
    """The first array, by kind and layer, that differs by more than a cast from one format to the other.

    Raises UserError for a damaged file, or two of different networks.
    """
    ours, theirs = checkpoint.load(left), checkpoint.load(right)
    specs = [spec for path in (left, right) if (spec := _experiment(path)) is not None]
    settings = differing_settings(specs[0], specs[1]) if len(specs) == 2 else ()
    layers = [layer.name for layer in specs[0].layers()] if specs else []
    found = differences(ours.state, theirs.state, theirs.step, layers)
    notes = tuple(
        f"differs: {one.kind} {one.layer} {one.quantity}: {one.local:.1e} relative, {one.note}"
        + f", most at {list(one.index)}" * bool(one.index)
        for one in found
    )
    if ours.step != theirs.step:
        notes = (f"steps differ: {ours.step} on the left, {theirs.step} on the right", *notes)
    first = found[0] if found else None
    return Report(str(left), str(right), theirs.step - 1, theirs.step, first, settings, notes=notes)


def _experiment(file: Path) -> Experiment | None:
    """That of the run in whose folder a checkpoint lies."""
    folder = RunDirectory(file.parent.parent)
    if not folder.config.exists():
        return None
    return from_dict(folder.read_config()["experiment"], str(folder.config))


def differences(
    left: State,
    right: State,
    step: int,
    layers: list[str] | None = None,
    limits: Mapping[Key, Array | float] | None = None,
) -> list[Divergence]:
    """Every array that differs by more than a cast's rounding, or than its limit, in order.

    Raises UserError where shapes differ.
    """
    ours, theirs = left.arrays(), right.arrays()
    found = [differs(step, At("optimizer state", "", "updates"), left.updates, right.updates)]
    for key in sorted(ours | theirs, key=lambda key: At.of(key).order(layers or [])):
        at, a, b = At.of(key), ours.get(key), theirs.get(key)
        if a is None or b is None:
            side: Where = "right" if b is None else "left"
            found.append(Divergence(step, *at[:3], side, note=f"missing on the {side}"))
        elif a.shape != b.shape:
            raise UserError(
                f"locate: {key} is {a.shape} on the left and {b.shape} on the right; give two checkpoints of "
                "one network"
            )
        else:
            limit = _cast(a, b) if limits is None else limits.get(key, 0.0)
            found.append(differs(step, at, a, b, limit))
    return [divergence for divergence in found if divergence is not None]


def _cast(a: Array, b: Array) -> Array | float:
    if a.dtype == b.dtype:
        return 0.0
    u = max(ROUNDINGS[str(array.dtype)].u for array in (a, b))
    return u * np.maximum(np.abs(a.astype(np.float64)), np.abs(b.astype(np.float64)))
