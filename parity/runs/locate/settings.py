"""What two sides' settings say before anything is computed: whether their networks, batches, masks and
learning rates are the same, and from which step on they are not.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from parity.bounds.rounding import Array
from parity.runs.locate.findings import Divergence
from parity.runs.locate.side import Side
from triptych.describe.layers import parameter_shapes
from triptych.describe.plain import LATER, to_dict
from triptych.errors import UserError
from triptych.store.run_dir import flat

CALL = 50
"""Steps planned, or taken, at once."""


def require_alike(left: Side, right: Side) -> None:
    """Raises UserError where the networks' parameters do not have the same shapes."""
    shapes = [parameter_shapes(side.experiment.layers()) for side in (left, right)]
    if shapes[0] != shapes[1]:
        names = [name for name in shapes[0] | shapes[1] if shapes[0].get(name) != shapes[1].get(name)]
        name = names[0]
        raise UserError(
            f"locate: the networks differ: {name} is {shapes[0].get(name, 'missing')} in {left.name} and "
            f"{shapes[1].get(name, 'missing')} in {right.name}; give two runs of one network"
        )


def other_layers(left: Side, right: Side, first: int) -> Divergence | None:
    """The first layer that only one of the networks has."""
    ours, theirs = ([layer.name for layer in side.experiment.layers()] for side in (left, right))
    if ours == theirs:
        return None
    odd = next(name for name in (*ours, *theirs) if (name in ours) != (name in theirs))
    who = left if odd in ours else right
    return Divergence(
        first + 1, "forward", odd, "y", "right", float("inf"), note=f"only {who.name} has this layer"
    )


def planned_difference(left: Side, right: Side, first: int, last: int) -> Divergence | None:
    """The first step whose batch, augmentation, masks or learning rate the settings make another."""
    alike = len(left.data.labels["train"]) == len(right.data.labels["train"])
    if left.experiment == right.experiment and alike:
        return None
    for start in range(first, last, CALL):
        plans = [side.plan(start, min(CALL, last - start)) for side in (left, right)]
        columns: list[tuple[str, Array | None, Array | None]] = [
            ("batch order", plans[0].indices, plans[1].indices),
            ("crop", plans[0].shifts, plans[1].shifts),
            ("flip", plans[0].flips, plans[1].flips),
            *((f"mask {name}", mask, plans[1].masks.get(name)) for name, mask in plans[0].masks.items()),
            ("learning rate", plans[0].learning_rates, plans[1].learning_rates),
        ]
        rows = [(_first_row(a, b), name, a, b) for name, a, b in columns]
        row, name, a, b = min(rows, key=lambda item: item[0])
        if row < CALL:
            return _planned(start + row, name, None if a is None else a[row], None if b is None else b[row])
    return None


def _first_row(a: Array | None, b: Array | None) -> int:
    """The first row in which two columns differ, or CALL."""
    if a is None or b is None or a.shape != b.shape:
        return CALL if a is None and b is None else 0
    rows = (a != b).reshape(len(a), -1).any(axis=1)
    return int(np.argmax(rows)) if rows.any() else CALL


def _planned(step: int, name: str, a: Array | None, b: Array | None) -> Divergence:
    index: tuple[int, ...] = ()
    actual = truth = float("nan")
    if a is not None and b is not None and a.shape == b.shape:
        index = tuple(int(i) for i in np.argwhere(np.asarray(a != b))[0])
        actual, truth = float(b[index]), float(a[index])
    layer = name.removeprefix("mask ") if name.startswith("mask ") else ""
    kind: Literal["schedule", "data"] = "schedule" if name == "learning rate" else "data"
    quantity = "mask" if layer else name
    return Divergence(
        step + 1, kind, layer, quantity, "right", float("inf"), index, actual, truth, 0.0,
        note="by the settings; every step before is right",
    )  # fmt: skip


def differing_settings(left: Side, right: Side) -> list[str]:
    """`group.setting: LEFT's, RIGHT's` for each in which they differ."""
    a, b = (flat(LATER) | flat(to_dict(side.experiment)) for side in (left, right))
    return [f"{key}: {a[key]!r}, {b[key]!r}" for key in a if a[key] != b[key]]
