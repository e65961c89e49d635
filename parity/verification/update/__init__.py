"""`verify_update`: an optimizer held to another, step by step; or a whole step of training.

    verify_update("adamw", reference=lambda p: torch.optim.AdamW(p.values(), 1e-3), port=optax.adamw(1e-3))

Both start from the same parameters and get the same gradients for N steps. Parameters, slots, step counts and
learning rates after every step are compared; limits are estimated as in `verify_model`, from the reference's
own rounding. Where they differ, `fit` finds out which rule each side follows, and `words` names the term.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from parity.bounds.rounding import Array
from parity.errors import UsageError
from parity.verification.case import Case, Given, drawn, generator, planted
from parity.verification.compare import naming
from parity.verification.joined import Convert, joined
from parity.verification.judge import Item
from parity.verification.measured import Point
from parity.verification.place import Device, Place
from parity.verification.report import Report
from parity.verification.side import Side
from parity.verification.side import built as side_of
from parity.verification.update.session import Session
from parity.verification.update.subject import Subject, built, drawn_shapes

PARAMETERS: Given = {"scale": (), "bias": (7,), "weight": (5, 7), "table": (257, 256)}
"""A scalar, a vector, a matrix, and more than 65,536 values."""
CASES: dict[str, Callable[[int, tuple[int, ...], np.random.Generator], Array | float]] = {
    "ordinary": lambda n, shape, rng: 1.0,
    "tiny, 1e-10": lambda n, shape, rng: 1e-10,
    "huge, 1e10": lambda n, shape, rng: 1e10,
    "mixed sizes, falling": lambda n, shape, rng: (
        10 ** np.add.outer(np.linspace(0, -2, n), rng.uniform(-10, 3, shape))
    ),
}
"""What gradients are multiplied by. A quarter is exactly 0 in every case."""


def verify_update(
    name: str,
    *,
    reference: Any = None,
    port: Any = None,
    parameters: Given | None = None,
    model: tuple[Any, Any] | None = None,
    inputs: Given | None = None,
    convert: Convert | None = None,
    steps: int = 10,
    dtypes: Sequence[str] = ("float64", "float32"),
    device: Device = "cpu",
) -> Report:
    """Judge an optimizer by another over `steps` steps: parameters, slots, step counts, learning rates.

    Args:
        name: Of the optimizer, for the report.
        reference: An optax transformation, or (transformation, extra arguments); an nnx.Optimizer; a function
            of the parameters by name that makes a torch optimizer, (optimizer, schedulers...) or (optimizer,
            step), step() being a whole step with its clipping; a function `(parameters, gradients, state,
            step) -> (parameters, state)` of NumPy arrays by name, or `(init, update)` of such;
            `Jax(function)` or `Torch(function)` of their arrays. Steps count from 1; without init the state
            starts as {}.
        port: The same.
        parameters: Name to shape (normal numbers are drawn), or to an array. None: `PARAMETERS`.
        model: (the reference's, the port's), as `verify_model` takes them: gradients come from them, in
            training mode, and their buffers are compared, too. Without optimizers the buffers alone change.
        inputs: Of the models: name to shape; drawn anew for each step.
        convert: As in `verify_model`.
        steps: How many.
        dtypes: Of float64 and float32.
        device: cpu, or gpu.

    Raises:
        UsageError: What is no optimizer, or does not fit; a function that raises, with side, step and shapes.
    """
    if steps < 2:
        raise UsageError(f"steps: expected at least 2, got {steps}")
    if not dtypes or isinstance(dtypes, str) or set(dtypes) - {"float64", "float32"}:
        raise UsageError(f"dtypes: expected some of float64 and float32, got {dtypes!r}")
    if (reference is None) != (port is None) or (reference is None and model is None):
        raise UsageError("expected reference= and port=, two optimizers; or model= and inputs=")
    item = Item(name, lambda i, s, r: {}, tuple(dtypes))
    updaters = [
        None if one is None else built(key, one) for key, one in (("reference", reference), ("port", port))
    ]
    if model is not None:
        if inputs is None or parameters is not None:
            raise UsageError("model: expected inputs=, name to shape, and no parameters=")
        return _trained(item, updaters, model, inputs, convert, steps, device).report()
    shapes = drawn_shapes(parameters or PARAMETERS)
    state = {key: drawn(name, "start", key, given) for key, given in (parameters or PARAMETERS).items()}
    points = {case: Point(state, _gradients(name, case, shapes, steps), np.zeros(0)) for case in CASES}
    sides = [Subject(steps, one) for one in updaters]
    return Session(item, sides[0], sides[1], points, (shapes, shapes), device).report()


def _gradients(name: str, case: str, shapes: Mapping[str, tuple[int, ...]], steps: int) -> dict[str, Array]:
    found = {}
    for key, shape in shapes.items():
        rng = generator(name, case, key)
        g = planted(rng.normal(size=(steps, *shape)), rng, 0.0)
        found[f"d{key}"] = g * CASES[case](steps, shape, rng)
    return found


def _trained(
    item: Item,
    updaters: Sequence[Any],
    model: tuple[Any, Any],
    inputs: Given,
    convert: Convert | None,
    steps: int,
    device: Device,
) -> Session:
    if not isinstance(model, tuple) or len(model) != 2:
        raise UsageError(f"model: expected (the reference's, the port's), got {type(model).__name__}")
    original, ported = (
        side_of(key, one, None, (), True) for key, one in zip(("reference", "port"), model, strict=True)
    )
    rows = [{key: drawn(item.name, f"step {t}", key, g) for key, g in inputs.items()} for t in range(steps)]
    start = original.state()
    with naming(Case(item.name, "the first step", {})):
        first = original.run(start, rows[0], None, Place("float32"))
        pair = joined(original, ported, convert, rows[0], list(first.activations), None)
    stacked = {key: np.stack([row[key] for row in rows]) for key in inputs}
    dy = generator(item.name, "dy").normal(size=(steps, *first.output.shape))
    theirs = Subject(
        steps, updaters[1], ported, pair.state, pair.inputs,
        lambda arrays: dict(pair.map.back(arrays, pair.shapes, mean=True)),
        lambda arrays: dict(pair.map.back(arrays, pair.shapes)),
    )  # fmt: skip
    points = {"training": Point(start, stacked, dy)}
    return Session(
        item, Subject(steps, updaters[0], original), theirs, points, _shapes(original, ported, pair), device
    )


def _shapes(
    original: Side, ported: Side, pair: Any
) -> tuple[dict[str, tuple[int, ...]], dict[str, tuple[int, ...]]]:
    """Of the parameters, the port's in the order of the reference's."""
    ours = {key: pair.shapes[key] for key in original.parameters}
    own = {key: array.shape for key, array in ported.state().items() if key in ported.parameters}
    order = list(ours)
    rank = {
        key: min((order.index(s) for s in pair.map.sources(key) if s in ours), default=len(ours))
        for key in own
    }
    return ours, {key: own[key] for key in sorted(own, key=rank.__getitem__)}
