"""Your own layer under the checks of `python -m parity`, in one call.

    from parity import verify
    from parity.formula import erf, sqrt

    report = verify(
        "gelu", inputs={"x": (32, 64)},
        truth=lambda x: x / 2 * (1 + erf(x / sqrt(2))),
        jax=lambda x: jax.nn.gelu(x, approximate=False),
        torch=torch.nn.GELU(),
    )
    print(report)
    report.assert_passed()

With a formula one implementation is enough, and its limits are proved. Without one, two are needed; they
are held to each other, and limits are estimated (`estimate`). docs/add_your_own.md goes through it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np

from parity.bounds.rounding import rounding
from parity.errors import UsageError
from parity.verification import cases as own_cases
from parity.verification import estimate
from parity.verification.adapters import Implementation, Jax, Numpy, Signature, Torch, built
from parity.verification.case import Case, generator
from parity.verification.judge import Item, Label
from parity.verification.judge import truth as true_values
from parity.verification.judging import Unjudged, check_repeats, hidden_cast, judged
from parity.verification.place import Device, Place
from parity.verification.report import PROVED, Report
from parity.verification.written import truth_of

__all__ = ["Jax", "Numpy", "Report", "Torch", "verify"]

ESTIMATED = (
    "No formula was given: limits are ESTIMATED from {n} perturbed evaluations "
    "(parity/verification/estimate.py), not proved; the true values are those of {reference} in a wider "
    "format. What is wrong in all is not seen."
)


def verify(
    name: str,
    *,
    inputs: Mapping[str, Any],
    parameters: Mapping[str, Any] | None = None,
    truth: Callable[..., Any] | Sequence[Callable[..., Any]] | None = None,
    gradient: Callable[..., Any] | None = None,
    numpy: Any = None,
    jax: Any = None,
    torch: Any = None,
    also: Mapping[str, Any] | None = None,
    cases: Mapping[str, Mapping[str, Any]] | None = None,
    without: Sequence[str] = (),
    dtypes: Sequence[str] = ("float64", "float32"),
    elementwise: bool = False,
    device: Device = "cpu",
) -> Report:
    """Judge the output and every gradient of a layer's implementations, on cases made from shapes.

    Args:
        name: Of the layer, for the report.
        inputs: Name to shape, or to a NumPy array, in the order of the call. Their first axis is the batch.
        parameters: The same; they follow the inputs in the call.
        truth: The formula, of parity.formula's Numbers; or several that are equal in exact arithmetic, each
            of which an implementation may compute. Its gradient is derived.
        gradient: Another admitted form of the gradient, `gradient(dy, *arrays)`, in the same arithmetic.
        numpy: `(forward, backward)`; see `Numpy`.
        jax: A function; see `Jax`.
        torch: A function or module; see `Torch`.
        also: More of them, by a name of your choice: `{"my port": Torch(module)}`.
        cases: More cases: name to arrays by name; what one leaves out is drawn.
        without: Names of generated cases to leave out, such as one sample for batch norm.
        dtypes: Of float64, float32, bfloat16 (not in NumPy).
        elementwise: Also tell errors in ULPs.
        device: cpu, or gpu.

    Raises:
        UsageError: A mistake in the call: no implementation, shapes or outputs that do not fit, a function
            that is random or gives no gradient, forms of the truth that are not equal.
    """
    parameters = parameters or {}
    table = own_cases.generated(
        name, _named(inputs, "inputs"), _named(parameters, "parameters"), cases or {}, without
    )
    some = table[0].inputs
    order = (*inputs, *parameters)
    signature = Signature(
        tuple(inputs), tuple(parameters), tuple(k for k in order if some[k].dtype.kind == "f")
    )
    given = _implementations({"numpy": numpy, "jax": jax, "torch": torch, **(also or {})})
    found = [built(key, value, signature) for key, value in given.items()]
    if not found or (truth is None and len(found) < 2):
        raise UsageError(
            f"{name}: expected one implementation and a truth, or two implementations, got {len(found)}; "
            "give numpy=, jax=, torch= or also="
        )
    place = Place(_formats(dtypes)[0], device)
    table = [_with_upstream(case, found[0], place) for case in table]
    for one in found:
        check_repeats(one, table[0], place)
    if truth is None:
        return _by_one_another(name, found, table, dtypes, device, elementwise)
    formulas = (truth,) if callable(truth) else tuple(truth)
    item = Item(name, truth_of(formulas, gradient, signature), tuple(dtypes), elementwise)
    results, notes = [], Unjudged()
    for one in found:
        for dtype in _usable(one, dtypes):
            for case in table:
                expected = true_values(item, case, dtype, device)
                results += judged(
                    one, case, expected, Label(item, case, one.name, Place(dtype, device)), notes
                )
            results += hidden_cast(one, table[0], Label(item, table[0], one.name, Place(dtype, device)))
    return Report(name, tuple(results), PROVED, notes.lines())


def _by_one_another(
    name: str,
    found: list[Implementation],
    table: list[Case],
    dtypes: Sequence[str],
    device: Device,
    elementwise: bool,
) -> Report:
    """Each against the first's values, its limit set by the noise of all but itself."""
    measure = cache(estimate.noise)  # float64's is float32's
    reference, item = found[0], Item(name, lambda i, s, r: {}, tuple(dtypes), elementwise)
    results, notes = [], Unjudged()
    table = [case for case in table if case.name not in estimate.FAR]
    for dtype in dtypes:
        able = [one for one in found if dtype in _usable(one, dtypes)]
        for case in table if len(able) > 1 else ():
            r = rounding(dtype, device)
            narrow = "float32" if dtype == "float64" else dtype
            measured = {one.name: measure(one, case, narrow) for one in able}
            wider = estimate.reference_values(reference, case.arrays(r), r)[1]
            for one in able:
                if one is reference and not wider:
                    continue  # it would be compared with itself
                others = [noise for key, noise in measured.items() if key != one.name]
                expected = estimate.limits(reference, others, case, r)
                results += judged(
                    one, case, expected, Label(item, case, one.name, Place(dtype, device)), notes
                )
        for one in able:
            results += hidden_cast(one, table[0], Label(item, table[0], one.name, Place(dtype, device)))
    limits = ESTIMATED.format(n=estimate.SAMPLES, reference=reference.name)
    return Report(name, tuple(results), limits, notes.lines(), reference.name)


def _with_upstream(case: Case, one: Implementation, place: Place) -> Case:
    """dy drawn in y's shape."""
    with np.errstate(all="ignore"):
        shape = one.shape(case.arrays(rounding(place.dtype)), place)
    dy = np.asarray(generator(case.item, case.name, "dy").normal(size=shape))
    return replace(case, inputs={**case.inputs, "dy": dy})


def _usable(one: Implementation, dtypes: Sequence[str]) -> list[str]:
    """The formats that it has."""
    return [d for d in dtypes if not (d == "bfloat16" and one.framework == "numpy")]


def _formats(dtypes: Sequence[str]) -> Sequence[str]:
    for dtype in dtypes:
        rounding(dtype)
    if isinstance(dtypes, str) or not dtypes:
        raise UsageError(f"dtypes: expected a list of formats, got {dtypes!r}")
    return dtypes


def _named(arrays: Mapping[str, Any], what: str) -> Mapping[str, Any]:
    for key in arrays:
        if key in ("y", "dy") or not isinstance(key, str):
            raise UsageError(f"{what}: {key!r} is taken by the output and its gradient; choose another name")
    if what == "inputs" and not arrays:
        raise UsageError('inputs: expected at least one, such as {"x": (32, 64)}')
    return arrays


def _implementations(given: Mapping[str, Any]) -> dict[str, Any]:
    """What was given, each in its wrapper."""
    found: dict[str, Any] = {}
    for key, value in given.items():
        if value is None:
            continue
        if key == "numpy" and not isinstance(value, Numpy):
            if not isinstance(value, tuple) or len(value) != 2 or not all(callable(f) for f in value):
                raise UsageError(
                    "numpy: expected (forward, backward), two functions; gradients are by hand there"
                )
            value = Numpy(*value)
        elif key == "jax" and callable(value) and not isinstance(value, Jax):
            value = Jax(value)
        elif key == "torch" and callable(value) and not isinstance(value, Torch):
            value = Torch(value)
        found[key] = value
    return found
