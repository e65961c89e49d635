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
compared with each other, and the limits are estimated (`estimate`). docs/add_your_own.md goes through it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

from parity.bounds.bounded import Bounded
from parity.bounds.rounding import Array, rounding
from parity.errors import UsageError
from parity.verification import estimate
from parity.verification.adapters import Implementation, Jax, Numpy, Signature, Torch, built
from parity.verification.case import Case, Given, generated
from parity.verification.judge import Item, check_repeats, compare, with_upstream
from parity.verification.judge import truth as true_values
from parity.verification.place import Device, Place
from parity.verification.report import PROVED, Report
from parity.verification.written import Formula, truth_of

__all__ = ["Jax", "Numpy", "Report", "Torch", "verify"]

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
    if len(found) < (1 if formulas else 2):
        raise UsageError(
            f"{name}: expected one implementation and a truth, or two implementations, got {len(found)}; "
            "give numpy=, jax=, torch= or also="
        )
    place = Place(_formats(dtypes)[0], device)
    table = [with_upstream(case, found[0], place) for case in table]
    for one in found:
        check_repeats(one, table[0], place)
    item = Item(name, truth_of(formulas, gradient, signature), tuple(dtypes), elementwise)
    return (_by_formula if formulas else _by_one_another)(item, found, table, device)


def _by_formula(item: Item, found: list[Implementation], table: list[Case], device: Device) -> Report:
    def expected(one: Implementation, case: Case, dtype: str) -> dict[str, Bounded]:
        return true_values(item, case, dtype, device)

    results, notes = compare(item, found, table, expected, device)
    return Report(item.name, results, PROVED, notes)


def _by_one_another(item: Item, found: list[Implementation], table: list[Case], device: Device) -> Report:
    """Each against the first's values, its limit set by the noise of all but itself."""
    noise, reference = cache(estimate.noise), found[0]

    def expected(one: Implementation, case: Case, dtype: str) -> dict[str, Bounded] | None:
        r = rounding(dtype, device)
        others = [noise(other, case, dtype) for other in found if other is not one and other.formats([dtype])]
        values, wider = estimate.reference_values(reference, case.arrays(r), r)
        if not others or (one is reference and not wider):
            return None  # it would be compared with itself
        return estimate.limits(values, wider, others, r)

    near = [case for case in table if case.name not in estimate.FAR]
    results, notes = compare(item, found, near, expected, device)
    limits = ESTIMATED.format(n=estimate.SAMPLES, reference=reference.name)
    return Report(item.name, results, limits, notes, reference.name)


def _signature(inputs: Given, parameters: Given, case: Case) -> Signature:
    floating = (key for key in (*inputs, *parameters) if case.inputs[key].dtype.kind == "f")
    return Signature(tuple(inputs), tuple(parameters), tuple(floating))


def _formats(dtypes: Sequence[str]) -> Sequence[str]:
    if isinstance(dtypes, str) or not dtypes:
        raise UsageError(f"dtypes: expected a list of formats, got {dtypes!r}")
    for dtype in dtypes:
        rounding(dtype)
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
