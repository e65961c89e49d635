"""Your own model: a port held to its original, activation by activation.

    report = verify_model(
        "net", inputs={"x": (4, 8)},
        reference=original,                                  # a torch module, in evaluation mode
        port=lambda p, x: {"fc1": ..., "output": ...},       # JAX: parameters and inputs to named activations
        layers={"fc1": "fc1"},                               # the original's names to the port's
        convert=lambda p: {"kernel": p["fc1.weight"].T},     # the original's parameters to the port's
    )

The reference in a wider format stands for the true values, and its own rounding sets the limits (see
`estimate`: estimated, not proved). Each layer's error contains those of the layers before it, so of
the layers that fail the first one tells where to look.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

from parity.bounds.bounded import Bounded
from parity.bounds.rounding import Array, rounding
from parity.errors import UsageError
from parity.verification import estimate
from parity.verification.adapters import Implementation, Model, Signature, built, is_torch_module
from parity.verification.case import Case, Given, drawn
from parity.verification.casts import cut_quantities
from parity.verification.compare import check_repeats, compare, shape_of, with_upstream
from parity.verification.judge import Item
from parity.verification.place import Place
from parity.verification.report import Report, report_of

Convert = Callable[[dict[str, Array]], Any]
LIMITS = (
    "Limits are ESTIMATED from {n} perturbed evaluations of the reference "
    "(parity/verification/estimate.py), not proved."
)


def verify_model(
    name: str,
    *,
    inputs: Given,
    reference: Any,
    port: Any,
    layers: Mapping[str, str] | None = None,
    convert: Convert | None = None,
    dtypes: Sequence[str] = ("float64", "float32"),
) -> Report:
    """Judge a port's activations, output and input gradients by the model that it was ported from.

    Args:
        name: Of the model.
        inputs: Name to shape (normal numbers are drawn), or to a NumPy array, in the order of the call.
        reference: A torch module.
        port: A torch module; or a JAX function of (parameters, *inputs) that gives a dictionary of
            activations, one of them `output`.
        layers: Names of the reference's submodules to compare, to the port's names for them.
        convert: The reference's parameters and buffers, as NumPy arrays by name, to the port's: a state
            dictionary for a module, anything for a function. For a module None keeps what it has.
        dtypes: Of float64, float32, bfloat16.

    Raises:
        UsageError: Names that are not there, outputs that are not arrays, a model that is random.
    """
    if not is_torch_module(reference):
        raise UsageError(f"reference: expected a torch module, got {type(reference).__name__}")
    if not callable(port):
        raise UsageError(f"port: expected a torch module or a JAX function, got {type(port).__name__}")
    state = _state_of(reference)
    case = _case(name, inputs, state)
    floating = tuple(key for key in inputs if case.inputs[key].dtype.kind == "f")
    signature = Signature(tuple(inputs), tuple(state), floating)
    layers = dict(layers or {})
    original = built("reference", Model(reference, {key: key for key in layers}, dict), signature)
    ported = built("port", Model(port, layers, convert), signature)
    place = Place(dtypes[0])
    case = with_upstream(case, shape_of(original, case, place))
    for one in (original, ported):
        check_repeats(one, case, place)
    return _compared(Item(name, lambda i, s, r: {}, tuple(dtypes)), original, ported, case)


def _compared(item: Item, original: Implementation, ported: Implementation, case: Case) -> Report:
    cuts = cache(lambda one: cut_quantities(one, case))
    cut = cuts(original)

    def expected(one: Implementation, case: Case, dtype: str) -> dict[str, Bounded]:
        r = rounding(dtype)
        return estimate.limits(original, case.arrays(r), [estimate.noise(original, case, dtype)], r, cut)

    compared = compare(item, [ported], [case], expected, cuts=lambda one: cuts(one) - cut)
    first = next((result.quantity for result in compared.results if not result.passed), "")
    notes = []
    if cut:
        notes.append(
            f"The reference is cut to float32 at {next(k for k in compared.quantities if k in cut)}: "
            "judged by float32's limits from there on"
        )
    report = report_of(item, compared, LIMITS.format(n=estimate.SAMPLES), notes, "reference")
    return replace(report, first=first)


def _case(name: str, inputs: Given, state: Mapping[str, Array]) -> Case:
    arrays = {key: drawn(name, "as given", key, given) for key, given in inputs.items()}
    if taken := sorted(set(arrays) & set(state)):
        raise UsageError(f"inputs: {taken} are names of parameters too; choose others")
    return Case(name, "as given", arrays | dict(state))


def _state_of(module: Any) -> dict[str, Array]:
    from parity.verification.adapters.torch import state_of

    return state_of(module)
