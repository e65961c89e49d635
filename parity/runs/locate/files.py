"""Two checkpoint files held beside each other, array by array."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from parity.bounds.rounding import ROUNDINGS, Array
from parity.runs.difference import relative
from parity.runs.locate.audit import kind_of, ordered, quantity_of
from parity.runs.locate.findings import Divergence, Report
from parity.runs.locate.hints import bits
from triptych.describe.plain import from_dict
from triptych.describe.state import Key, State
from triptych.errors import UserError
from triptych.store import checkpoint
from triptych.store.run_dir import RunDirectory, flat


def compare_files(left: Path, right: Path) -> Report:
    """The first array, by kind and layer, that differs by more than a cast from one format to the other.

    Raises UserError for a damaged file, or two of different networks.
    """
    files = [checkpoint.load(path) for path in (left, right)]
    folders = [path.parent.parent / "config.json" for path in (left, right)]
    configs = [RunDirectory(path.parent).read_config() if path.exists() else None for path in folders]
    settings: tuple[str, ...] = ()
    order: list[str] = []
    for config, path in zip(configs, folders, strict=True):
        if config is not None:
            spec = from_dict(config["experiment"], str(path))
            order = order or [layer.name for layer in spec.layers()]
    if configs[0] is not None and configs[1] is not None:
        a, b = flat(configs[0]["experiment"]), flat(configs[1]["experiment"])
        settings = tuple(f"{key}: {a.get(key)!r}, {b.get(key)!r}" for key in a if a.get(key) != b.get(key))
    steps = [file.step for file in files]
    notes: tuple[str, ...] = ()
    if steps[0] != steps[1]:
        notes = (f"steps differ: {steps[0]} on the left, {steps[1]} on the right",)
    found = differences(files[0].state, files[1].state, steps[1], order)
    notes += tuple(f"differs: {line}" for line in table(files[0].state, files[1].state, order))
    first = found[0] if found else None
    return Report(str(left), str(right), steps[1] - 1, steps[1], first, settings, notes=notes)


def differences(left: State, right: State, step: int, order: list[str] | None = None) -> list[Divergence]:
    """Every array that differs by more than a cast's rounding, in order; raises UserError where shapes do."""
    ours, theirs = left.arrays(), right.arrays()
    found = [_updates(left.updates, right.updates, step)]
    for key in ordered(ours | theirs, order or []):
        found.append(_one(key, ours.get(key), theirs.get(key), step))
    return [divergence for divergence in found if divergence is not None]


def _updates(left: int, right: int, step: int) -> Divergence | None:
    if left == right:
        return None
    return Divergence(
        step, "optimizer state", "", "updates", "right", float("inf"), (), float(right), float(left), 0.0,
        relative(np.array(float(left)), np.array(float(right))), note="1 of 1 elements differ",
    )  # fmt: skip


def table(left: State, right: State, order: list[str]) -> list[str]:
    """One line for each array that differs: how much, and where most."""
    ours, theirs = left.arrays(), right.arrays()
    lines = [] if left.updates == right.updates else [f"updates: {left.updates}, {right.updates}"]
    for key in ordered(ours | theirs, order):
        if key in ours and key in theirs and ours[key].shape == theirs[key].shape:
            pair = ours[key].astype(np.float64), theirs[key].astype(np.float64)
            gap = np.abs(pair[0] - pair[1])
            if gap.any():
                index = [int(i) for i in np.unravel_index(int(np.argmax(gap)), gap.shape)]
                count = int(np.count_nonzero(gap))
                lines.append(
                    f"{key}: {relative(*pair):.1e} relative, {count} of {gap.size} elements, most at {index}"
                )
    return lines


def _one(key: Key, left: Array | None, right: Array | None, step: int) -> Divergence | None:
    layer, what, kind = key.layer, quantity_of(key), kind_of(key)
    if left is None or right is None:
        side = "right" if right is None else "left"
        return Divergence(step, kind, layer, what, side, float("inf"), note=f"missing on the {side}")  # type: ignore[arg-type]
    if left.shape != right.shape:
        raise UserError(
            f"locate: {key} is {left.shape} on the left and {right.shape} on the right; give two checkpoints "
            "of one network"
        )
    a, b = left.astype(np.float64), right.astype(np.float64)
    limit = np.zeros(a.shape)
    if left.dtype != right.dtype:
        u = max(ROUNDINGS[str(array.dtype)].u for array in (left, right))
        limit = u * np.maximum(np.abs(a), np.abs(b))
    gap = np.abs(a - b)
    beyond = ~(gap <= limit) & ~(np.isnan(a) & np.isnan(b))
    if not beyond.any():
        return None
    index = tuple(int(i) for i in np.unravel_index(int(np.argmax(np.where(beyond, gap, -1))), gap.shape))
    note = f"{int(beyond.sum())} of {gap.size} elements differ"
    if beyond.sum() == 1:
        note += bits(left[index], right[index])
    with np.errstate(divide="ignore"):
        share = float(np.divide(gap[index], limit[index])) if limit[index] else float("inf")
    return Divergence(
        step, kind, layer, what, "right", share, index, float(b[index]), float(a[index]), float(limit[index]),
        relative(a, b), note=note,
    )  # fmt: skip
