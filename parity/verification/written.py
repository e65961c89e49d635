"""The truth of a written formula: `Truth` from one function of Numbers, or several equal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from parity.bounds.bounded import Bounded, either
from parity.bounds.reverse import Number, gradients
from parity.bounds.rounding import Rounding
from parity.errors import UsageError
from parity.verification.adapters import Signature, by_name, called
from parity.verification.judge import Truth
from parity.verification.place import Inputs, Settings

Formula = Callable[..., Any]


def truth_of(formulas: Sequence[Formula], gradient: Formula | None, signature: Signature) -> Truth:
    """y, and where `dy` is among the inputs a gradient for every differentiated name. The limit admits each
    formula, and the gradient as it is derived or as it is written, `gradient(dy, *arrays)`. Raises UsageError
    where these are not equal.
    """

    def truth(inputs: Inputs, settings: Settings, r: Rounding) -> dict[str, Bounded]:
        found = [_derived(formula, inputs, signature, r) for formula in formulas]
        if gradient is not None and "dy" in inputs:
            found.append(_written(gradient, inputs, signature, r))
        for other in found[1:]:
            _check_equal(found[0], other)
        return {key: _all(key, found) for key in found[0]}

    return truth


def _derived(formula: Formula, inputs: Inputs, signature: Signature, r: Rounding) -> dict[str, Bounded]:
    numbers = _numbers(inputs, signature, r)
    y = _number("truth", called("truth", formula, *(numbers[key] for key in signature.order)))
    if "dy" not in inputs:
        return {"y": y.bounded}
    wanted = [numbers[key] for key in signature.differentiated]
    found = gradients(y, Bounded.exact(inputs["dy"], r), wanted)
    named = {f"d{key}": g for key, g in zip(signature.differentiated, found, strict=True)}
    return {"y": y.bounded, **named}


def _written(gradient: Formula, inputs: Inputs, signature: Signature, r: Rounding) -> dict[str, Bounded]:
    numbers = _numbers(inputs, signature, r)
    dy = Number(Bounded.exact(inputs["dy"], r))
    found = by_name(
        "gradient",
        called("gradient", gradient, dy, *(numbers[key] for key in signature.order)),
        signature.differentiated,
    )
    return {key: _number("gradient", g).bounded for key, g in found.items()}


def _numbers(inputs: Inputs, signature: Signature, r: Rounding) -> dict[str, Any]:
    """Floating arrays as Numbers, others (labels) as they are."""
    return {
        key: Number(Bounded.exact(inputs[key], r), followed=True)
        if key in signature.differentiated
        else inputs[key]
        for key in signature.order
    }


def _number(who: str, found: Any) -> Number:
    if not isinstance(found, Number):
        raise UsageError(
            f"{who}: expected what the functions of parity.formula make of its arguments, got "
            f"{type(found).__name__}; numpy, jax and torch functions do not carry limits"
        )
    return found


def _check_equal(first: dict[str, Bounded], other: dict[str, Bounded]) -> None:
    """Each value lies within its own limit of the exact one: farther apart, they are not the same formula."""
    for key, b in other.items():
        a = first[key]
        if a.shape != b.shape:
            raise UsageError(f"truth: two forms of {key} have shapes {a.shape} and {b.shape}")
        with np.errstate(invalid="ignore"):
            apart = np.abs(a.value - b.value).astype(np.float64)
            limit = a.error + b.error
            wrong = np.isfinite(limit) & (apart > limit)
        if wrong.any():
            index = tuple(int(i) for i in np.argwhere(wrong)[0])
            raise UsageError(
                f"truth: two forms of {key} that should be equal are not: {float(a.value[index]):.9g} and "
                f"{float(b.value[index]):.9g} at {list(index)}; one of them has a mistake"
            )


def _all(key: str, found: list[dict[str, Bounded]]) -> Bounded:
    first, *others = [forms[key] for forms in found if key in forms]
    return either(first, *others) if others else first
