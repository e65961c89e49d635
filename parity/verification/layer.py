"""`verify`: your own layer under the checks that ours pass, in one call.

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

With a formula one implementation is enough, and its limits are proved. Without one it takes two, which are
compared with one another, and the limits are estimated (`estimate`). docs/add_your_own.md goes through it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from typing import Any

import numpy as np

from parity.bounds.bounded import Bounded
from parity.bounds.rounding import Array, rounding
from parity.errors import UsageError
from parity.verification import estimate
from parity.verification.adapters import CallFailed, Implementation, Jax, Numpy, Signature, Torch, built
from parity.verification.case import FAR, OFFSET, Case, Given, generated
from parity.verification.casts import Cuts, U, beyond, cut_quantities
from parity.verification.compare import check_repeats, compare, left_out, naming, shape_of, with_upstream
from parity.verification.judge import Item, Truth
from parity.verification.judge import truth as true_values
from parity.verification.place import Device, Place
from parity.verification.report import FOLLOWS, Report, report_of
from parity.verification.written import Formula, truth_of

__all__ = ["Jax", "Numpy", "Report", "Torch", "verify"]

FORMATS = ("float64", "float32", "bfloat16")
ESTIMATED = (
    "No formula was given: limits are ESTIMATED from {n} perturbed evaluations "
    "(parity/verification/estimate.py), not proved; the true values are those of {reference} in a wider "
    "format. What is wrong in all is not seen."
)


def verify(
    name: str,
    *,
    inputs: Given,
    parameters: Given | None = None,
    truth: Formula | Sequence[Formula] | None = None,
    gradient: Formula | None = None,
    numpy: Numpy | tuple[Callable[..., Any], Callable[..., Any]] | None = None,
    jax: Jax | Callable[..., Any] | None = None,
    torch: Torch | Callable[..., Any] | None = None,
    also: Mapping[str, Numpy | Jax | Torch] | None = None,
    cases: Mapping[str, Mapping[str, Array]] | None = None,
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
    given = {"numpy": numpy, "jax": jax, "torch": torch, **(also or {})}
    table = generated(name, _named(inputs), _named(parameters or {}), cases or {}, without)
    signature = _signature(inputs, parameters or {}, table[0])
    found = [built(key, _wrapped(key, value), signature) for key, value in given.items() if value is not None]
    formulas = (truth,) if callable(truth) else tuple(truth or ())
    _require_enough(name, len(found), 1 if formulas else 2)
    place = Place(_formats(dtypes)[0], device)
    item = Item(name, _summed_anyhow(truth_of(formulas, gradient, signature)), tuple(dtypes), elementwise)
    table, notes = _with_upstream(item, found, table, place, by_formula=bool(formulas))
    for one in found:
        with naming(table[0]):
            check_repeats(one, table[0], place)
        notes += one.told(table[0].arrays(rounding(place.dtype)), place)
    cuts = cache(lambda one: cut_quantities(one, table[0], [*inputs], device))
    if formulas:
        compared = compare(item, found, table, partial(_proved, item, device), device, cuts)
        return report_of(item, compared, notes=notes)
    return _by_one_another(item, found, table, device, cuts, notes)


def _require_enough(name: str, count: int, least: int) -> None:
    if count < least:
        raise UsageError(
            f"{name}: expected one implementation and a truth, or two implementations, got {count}; "
            "give numpy=, jax=, torch= or also="
        )


def _summed_anyhow(truth: Truth) -> Truth:
    """Frameworks sum bfloat16 numbers in float32 in some of their reductions, and not in others."""
    return lambda inputs, settings, r: truth(inputs, settings, replace(r, accumulate_u=r.u))


def _proved(item: Item, device: Device, one: Implementation, case: Case, dtype: str) -> dict[str, Bounded]:
    """In a narrow format at numbers like 1e15 any finite result will do: another form of the same formula
    underflows there, such as rsqrt(x)^3 in a gradient.
    """
    found = true_values(item, case, dtype, device)
    if case.name not in FAR or dtype == "float64":
        return found
    free = {key: np.where(np.isfinite(b.error), b.r.largest, np.inf) for key, b in found.items()}
    return {key: Bounded(b.value, free[key], b.r) for key, b in found.items()}


def _with_upstream(
    item: Item, found: Sequence[Implementation], table: Sequence[Case], place: Place, by_formula: bool
) -> tuple[list[Case], list[str]]:
    """The table with a dy for each case, of the shape that the formula has, or most implementations."""
    ready, notes = [], []
    for case in table:
        try:
            if by_formula:
                shape = true_values(item, case, place.dtype, place.device)["y"].shape
            else:
                shapes = [shape_of(one, case, place) for one in found]
                shape = max(shapes, key=shapes.count)
        except CallFailed as error:
            if not case.optional:
                raise error.where(case.name) from None
            notes.append(left_out(case, error))
        else:
            ready.append(with_upstream(case, shape))
    return ready, notes


def _by_one_another(
    item: Item,
    found: list[Implementation],
    table: list[Case],
    device: Device,
    cuts: Callable[[Implementation], Cuts],
    notes: list[str],
) -> Report:
    """Each against the values of one, `estimate.chosen`, its limit set by the noise of all but itself."""
    noise, first = cache(estimate.noise), item.dtypes[0]
    fitting = [one for one in found if _fits(one, table[0], Place(first, device))]
    near = [case for case in table if case.name not in FAR]
    reference = estimate.chosen(fitting, near, first, noise, cuts)
    cut = cuts(reference)

    def expected(
        one: Implementation, case: Case, dtype: str, coarser: bool = False
    ) -> dict[str, Bounded] | None:
        r = rounding(dtype, device)
        if dtype != "float64" and (case.name in FAR or (case.name, dtype) == (OFFSET, "bfloat16")):
            return None
        if case.name in FAR and any(one.noise for one in cut.values()):
            return None  # float16 ends at 65,504
        others = [
            noise(other, case, estimate.measured_in(dtype))
            for other in fitting
            if other is not one and other.formats([dtype]) and not broken(other, case, dtype)
            if not any(one.noise for one in beyond(cuts(other), cut).values())  # by float32
        ]
        wider = dtype != "float64" or estimate.reference_values(reference, case.arrays(r), r)[1]
        if not others or (one is reference and not wider):
            return None  # it would be compared with itself
        by_format = noise(reference, case, estimate.measured_in(dtype)).by_format
        if by_format:
            notes.append(FOLLOWS.format(", ".join(sorted(by_format))))
        own = noise(one, case, estimate.measured_in(dtype)) if coarser and one in fitting else None
        units = estimate.together(others, own, dtype)
        far = case.name in FAR
        return estimate.limits(
            reference, case.arrays(r), units, r, cut, far, by_format, eager=far and coarser
        )

    @cache
    def broken(one: Implementation, case: Case, dtype: str) -> bool:
        """Whether it has results that are not finite where the reference's are: nothing to measure by."""
        return one is not reference and estimate.breaks(one, reference, case, dtype)

    def beyond_reference(one: Implementation) -> Cuts:
        return beyond(cuts(one), cut) if one is not reference else {}

    coarser = partial(expected, coarser=True)
    compared = compare(item, found, table, expected, device, beyond_reference, coarser)
    if cut:
        notes = [
            f"The reference, {reference.name}, cuts {', '.join(keys)} to {to} on the way: judged by "
            f"{to}'s limits"
            for to in U
            if (keys := [key for key in sorted(cut) if cut[key].to == to])
        ] + notes
    notes = list(dict.fromkeys(notes))
    limits = ESTIMATED.format(n=estimate.SAMPLES, reference=reference.name)
    return report_of(item, compared, limits, notes, reference.name)


def _fits(one: Implementation, case: Case, place: Place) -> bool:
    return shape_of(one, case, place) == case.inputs["dy"].shape


def _signature(inputs: Given, parameters: Given, case: Case) -> Signature:
    floating = (key for key in (*inputs, *parameters) if case.inputs[key].dtype.kind == "f")
    return Signature(tuple(inputs), tuple(parameters), tuple(floating))


def _formats(dtypes: Sequence[str]) -> Sequence[str]:
    if isinstance(dtypes, str) or not dtypes or not set(dtypes) <= set(FORMATS):
        raise UsageError(
            f"dtypes: expected a list of some of {', '.join(FORMATS)}, got {dtypes!r}; other formats are not "
            "supported: judge the formula in float32"
        )
    return dtypes


def _named(arrays: Given) -> Given:
    for key in arrays:
        if key in ("y", "dy") or not isinstance(key, str):
            raise UsageError(f"{key!r} is taken by the output and its gradient; choose another name")
    return arrays


def _wrapped(key: str, value: Any) -> Any:
    """An implementation as the argument of its framework's name takes it."""
    if isinstance(value, Numpy | Jax | Torch):
        return value
    if key == "numpy":
        if not isinstance(value, tuple) or len(value) != 2 or not all(callable(f) for f in value):
            raise UsageError(
                "numpy: expected (forward, backward), two functions; gradients are by hand there"
            )
        return Numpy(*value)
    wrapper = {"jax": Jax, "torch": Torch}.get(key)
    return wrapper(value) if wrapper and callable(value) else value
