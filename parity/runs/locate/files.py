"""Two checkpoint files held beside each other, array by array."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from parity.bounds.rounding import ROUNDINGS, Array
from parity.runs.difference import relative
from parity.runs.locate.findings import Divergence, Kind, Report
from parity.runs.locate.hints import bits
from triptych.describe.layers import parameter_shapes
from triptych.describe.plain import from_dict
from triptych.errors import UserError
from triptych.store import checkpoint
from triptych.store.run_dir import RunDirectory, flat

GROUPS: dict[str, Kind] = {
    "optimizer": "optimizer state",
    "parameters": "parameters",
    "statistics": "running statistics",
}


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
            order = order or list(parameter_shapes(spec.layers()))
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


def differences(
    left: Mapping[str, Array], right: Mapping[str, Array], step: int, order: list[str] | None = None
) -> list[Divergence]:
    """Every array that differs by more than a cast's rounding, in order; raises UserError where shapes do."""
    found = []
    for key in ordered({**left, **right}, order or []):
        divergence = _one(key, left.get(key), right.get(key), step)
        if divergence is not None:
            found.append(divergence)
    return found


def table(left: Mapping[str, Array], right: Mapping[str, Array], order: list[str]) -> list[str]:
    """One line for each array that differs: how much, and where most."""
    lines = []
    for key in ordered({**left, **right}, order):
        if key in left and key in right and left[key].shape == right[key].shape:
            pair = left[key].astype(np.float64), right[key].astype(np.float64)
            gap = np.abs(pair[0] - pair[1])
            if gap.any():
                index = [int(i) for i in np.unravel_index(int(np.argmax(gap)), gap.shape)]
                count = int(np.count_nonzero(gap))
                lines.append(
                    f"{key}: {relative(*pair):.1e} relative, {count} of {gap.size} elements, most at {index}"
                )
    return lines


def ordered(state: Mapping[str, Array], order: list[str]) -> list[str]:
    """Keys by kind (optimizer, parameters, statistics), then by layer, the count of updates first."""
    groups = list(GROUPS)
    layers = [name.rpartition(".")[0] for name in order]

    def place(key: str) -> tuple[int, bool, int, str]:
        layer = key.rpartition("/")[2].rpartition(".")[0]
        where = layers.index(layer) if layer in layers else len(layers)
        return groups.index(key.partition("/")[0]), key != "optimizer/updates", where, key

    return sorted(state, key=place)


def _one(key: str, left: Array | None, right: Array | None, step: int) -> Divergence | None:
    group, _, rest = key.partition("/")
    slot, _, name = rest.rpartition("/")
    layer, _, parameter = name.rpartition(".")
    what = f"{slot} of {parameter}" if slot else parameter
    kind = GROUPS[group]
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
