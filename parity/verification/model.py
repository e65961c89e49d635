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
the layers that fail the first one tells where to look. A second case moves every parameter, since a scale of
1 or a shift of 0 hides what ignores it (`fresh`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

import numpy as np

from parity.bounds.bounded import Bounded
from parity.bounds.rounding import Array, rounding
from parity.errors import UsageError
from parity.verification import estimate, fresh
from parity.verification.adapters import (
    Implementation,
    Model,
    Pick,
    Signature,
    built,
    is_torch_module,
    thinned,
)
from parity.verification.case import Case, Given, drawn
from parity.verification.casts import cut_quantities
from parity.verification.compare import check_repeats, compare, naming, run, shape_of, with_upstream
from parity.verification.judge import Item
from parity.verification.place import Place
from parity.verification.rearrangement import Rearrangement, traced
from parity.verification.report import FOLLOWS, Report, report_of

Convert = Callable[[dict[str, Array]], Any]
LIMITS = (
    "Limits are ESTIMATED from {n} perturbed evaluations of the reference "
    "(parity/verification/estimate.py), not proved."
)
AS_GIVEN, MOVED = "as given", "parameters moved"
BLUR = 2.0**-24
TABLES = (
    "The reference keeps a float32 table outside its state: what follows from it is judged by float32's "
    "limits"
)
LARGE, FEW = 1_000_000, 4
"""With so many parameters the noise is an average over very many numbers, and fewer samples do."""


def verify_model(
    name: str,
    *,
    inputs: Given,
    reference: Any,
    port: Any,
    layers: Mapping[str, str] | None = None,
    convert: Convert | None = None,
    output: Pick = None,
    keywords: Sequence[str] = (),
    dtypes: Sequence[str] = ("float64", "float32"),
) -> Report:
    """Judge a port's activations, output and gradients by the model that it was ported from.

    Args:
        name: Of the model.
        inputs: Name to shape (normal numbers are drawn), or to a NumPy array, in the order of the call.
        reference: A torch module.
        port: A torch module; or a JAX function of (parameters, *inputs) that gives a dictionary of
            activations, one of them `output`.
        layers: Names of the reference's submodules to compare, to the port's names for them. `relu[1]` is
            the second call of one that is called again.
        convert: The reference's parameters and buffers, as NumPy arrays by name, to the port's: a state
            dictionary for a module, anything for a function. For a module None keeps what it has.
        output: Which of a module's several outputs: a number, a name, or a function of them.
        keywords: Names of inputs that are passed by name.
        dtypes: Of float64, float32, bfloat16.

    Raises:
        UsageError: Names that are not there, outputs that are not arrays, a model that is random.
    """
    if not is_torch_module(reference):
        raise UsageError(f"reference: expected a torch module, got {type(reference).__name__}")
    if not callable(port):
        raise UsageError(f"port: expected a torch module or a JAX function, got {type(port).__name__}")
    if unknown := set(keywords) - set(inputs):
        raise UsageError(f"keywords: expected names among the inputs {sorted(inputs)}, got {sorted(unknown)}")
    pair = _pair(inputs, reference, port, dict(layers or {}), convert, output, tuple(keywords))
    case = _case(name, inputs, pair.state)
    signature = _signature(inputs, pair.state, case)
    original = built("reference", pair.reference, signature)
    ported = built("port", pair.port, signature)
    place = Place(dtypes[0])
    with naming(case):
        case = with_upstream(case, shape_of(original, case, place))
        for one in (original, ported):
            check_repeats(one, case, place)
    table = [case]
    if pair.moves:
        moved = fresh.moved(pair.state, pair.parameters, pair.rows_kept)
        table.append(replace(case, name=MOVED, inputs={**case.inputs, **moved}))
    item = Item(name, lambda i, s, r: {}, tuple(dtypes))
    blurred = _blurred(reference, pair.reference, signature)
    return _compared(item, original, ported, table, pair, signature, blurred)


def _blurred(reference: Any, model: Model, signature: Signature) -> Implementation | None:
    """The reference with the last digits of its float32 tables changed, if it keeps any outside its state."""
    from parity.verification.adapters import torch as adapter

    if not adapter.tables_of(reference):
        return None
    return built("reference", replace(model, function=adapter.with_tables_moved(reference, BLUR)), signature)


def _wider(bound: Bounded, other: Array) -> Bounded:
    """A limit that admits tables with other last digits."""
    with np.errstate(invalid="ignore"):
        apart = np.abs(other - bound.value).astype(np.float64)
    spread = float(np.sqrt(np.mean(np.square(apart[np.isfinite(apart)])))) if apart.size else 0.0
    return Bounded(bound.value, bound.error + estimate.STUDENT * spread, bound.r)


@dataclass(frozen=True)
class Pair:
    """A reference and a port, and what is known of how their parameters belong together."""

    reference: Model
    port: Model
    state: dict[str, Array]
    parameters: tuple[str, ...]
    """Those whose gradients are compared."""
    untold: int
    """Of how many parameters the gradients are not compared."""
    moves: bool
    """Whether the port takes the reference's parameters, so that they can be moved."""
    rows_kept: dict[str, int]


def _pair(
    inputs: Given,
    reference: Any,
    port: Any,
    layers: dict[str, str],
    convert: Convert | None,
    output: Pick,
    keywords: tuple[str, ...],
) -> Pair:
    from parity.verification.adapters import torch as adapter

    state, aliases = adapter.state_of(reference), adapter.tied(reference)
    if taken := sorted(set(inputs) & set(state)):
        raise UsageError(f"inputs: {taken} are names of parameters too; choose others")
    parameters = adapter.parameters_of(reference)
    is_module = is_torch_module(port)
    if convert is None and is_module:
        convert = _matching(state, adapter.state_of(port), adapter.parameters_of(port))
    moves = convert is not None or not is_module
    original = Model(reference, {key: key for key in layers}, dict, aliases, output=output, keywords=keywords)
    pick = output if is_module else None
    ported = Model(port, layers, convert, aliases, output=pick, keywords=keywords)
    if not moves:
        return Pair(original, ported, state, (), len(parameters), False, {})
    flatten = partial(adapter.arrays_of, port) if is_module else _jax_arrays()
    trace = partial(traced, state=state, aliases=aliases, parameters=parameters)
    theirs = trace(convert or dict, flatten=flatten)
    ours = trace(dict, flatten=partial(adapter.arrays_of, reference))
    rows = adapter.rows_kept(reference)
    if theirs is None or ours is None:
        return Pair(original, ported, state, (), len(parameters), True, rows)
    original, ported = replace(original, back=_named(ours)), replace(ported, back=_named(theirs))
    return Pair(original, ported, state, parameters, 0, True, rows)


def _named(trace: Rearrangement) -> Callable[[Iterable[Array], Place], dict[str, Array]]:
    def back(gradients: Iterable[Array], place: Place) -> dict[str, Array]:
        found = trace.back(gradients, rounding(place.dtype).stored, thinned)
        return {f"d{key}": gradient for key, gradient in found.items()}

    return back


def _jax_arrays() -> Callable[[Any], list[Array]]:
    from parity.verification.adapters import jax as adapter

    return adapter.arrays_of


def _matching(
    theirs: Mapping[str, Array], own: Mapping[str, Array], parameters: Sequence[str]
) -> Convert | None:
    """For a module whose parameters already have the reference's values, by name or else in their order; what
    is the module's alone stays.
    """
    by_name = {key: key for key in own if key in theirs}
    in_order = dict(zip(own, theirs, strict=True)) if len(own) == len(theirs) else {}
    for names in (by_name, in_order):
        same = all(np.array_equal(own[key], theirs[name], True) for key, name in names.items())
        if same and set(parameters) <= set(names):
            return lambda p, names=names: {  # type: ignore[misc]
                key: p[names[key]] if key in names else array for key, array in own.items()
            }
    return None


def _compared(
    item: Item,
    original: Implementation,
    ported: Implementation,
    table: list[Case],
    pair: Pair,
    signature: Signature,
    blurred: Implementation | None,
) -> Report:
    cuts = cache(lambda one: cut_quantities(one, table[0]))
    cut = cuts(original) if "float64" in item.dtypes else frozenset()
    samples = FEW if sum(a.size for a in pair.state.values()) > LARGE else estimate.SAMPLES
    noise = cache(partial(estimate.noise, original, samples=samples))

    notes: list[str] = []

    def expected(one: Implementation, case: Case, dtype: str) -> dict[str, Bounded]:
        r = rounding(dtype)
        measured = noise(case, estimate.measured_in(dtype))
        if measured.by_format:
            notes.append(FOLLOWS.format(", ".join(sorted(measured.by_format))))
        found = estimate.limits(original, case.arrays(r), [measured], r, cut, False, measured.by_format)
        if blurred is None:
            return found
        notes.append(TABLES)
        other = estimate.reference_values(blurred, case.arrays(r), r)[0]
        return {key: _wider(bound, other[key]) for key, bound in found.items()}

    compared = compare(item, [ported], table, expected, cuts=lambda one: cuts(one) - cut)
    gradients = {f"d{key}" for key in (*signature.differentiated, *pair.parameters)}
    failed = [result.quantity for result in compared.results if not result.passed]
    first = next((key for key in compared.quantities if key in failed and key not in gradients), "")
    missing = []
    if cut:
        notes.append(
            f"The reference is cut to float32 at {next(k for k in compared.quantities if k in cut)}: "
            "judged by float32's limits from there on"
        )
    if not pair.moves:
        notes.append(
            "The port's parameters were not moved off their values; give convert= (for a module, to a state "
            "dictionary) to compare with others, too"
        )
    if pair.untold:
        missing.append(f"gradients of {pair.untold} parameters not compared")
    if not gradients:
        missing.append("no gradient was compared")
    notes += _unused(original, ported, table[-1], pair, item.dtypes[0])
    report = report_of(item, compared, LIMITS.format(n=samples), notes, "reference", missing)
    return replace(report, first=first)


def _unused(
    original: Implementation, ported: Implementation, case: Case, pair: Pair, dtype: str
) -> list[str]:
    """Which parameters have no effect on the output: those of the reference, and those of the port alone."""
    if not pair.parameters:
        return []
    theirs, own = (run(one, case.arrays(rounding(dtype)), Place(dtype)) for one in (original, ported))
    idle = [key for key in pair.parameters if f"d{key}" in theirs and not theirs[f"d{key}"].any()]
    ignored = [
        key for key in pair.parameters if key not in idle and f"d{key}" in own and not own[f"d{key}"].any()
    ]
    notes = []
    if idle:
        notes.append(f"In the reference these have no effect on the output: {', '.join(idle)}; not compared")
    if ignored:
        notes.append(f"The port does not use {', '.join(ignored)}; the reference does")
    return notes


def _case(name: str, inputs: Given, state: Mapping[str, Array]) -> Case:
    arrays = {key: drawn(name, AS_GIVEN, key, given) for key, given in inputs.items()}
    return Case(name, AS_GIVEN, arrays | dict(state))


def _signature(inputs: Given, state: Mapping[str, Array], case: Case) -> Signature:
    floating = tuple(key for key in inputs if case.inputs[key].dtype.kind == "f")
    return Signature(tuple(inputs), tuple(state), floating)
