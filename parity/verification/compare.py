"""Runs implementations of a layer or model on a table of cases, and judges each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import numpy as np

from parity.bounds.bounded import Bounded
from parity.bounds.rounding import Array, rounding
from parity.errors import UsageError
from parity.verification.adapters import CallFailed, Implementation
from parity.verification.case import FAR, Case, generator
from parity.verification.casts import Cuts
from parity.verification.estimate import COARSER, measured_in
from parity.verification.judge import Item, Label, Result, judge
from parity.verification.place import Device, Outputs, Place

Expected = Callable[[Implementation, Case, str], Mapping[str, Bounded] | None]
"""Of an implementation, a case and a format: true values with their limits, or None: not to be compared. An
element whose limit is not finite is not judged."""
CutsOf = Callable[[Implementation], Cuts]


@dataclass
class Comparison:
    """Results; and what was left out of them."""

    results: list[Result] = field(default_factory=list)
    quantities: dict[str, bool] = field(default_factory=dict)
    """Each quantity, and whether at least one finite number of it was judged."""
    counts: dict[tuple[str, str], dict[tuple[str, str], tuple[int, int]]] = field(default_factory=dict)
    """By (what, quantity) and (case, format): elements, of how many."""
    notes: list[str] = field(default_factory=list)

    def count(self, what: str, quantity: str, label: Label, mask: Array) -> None:
        if mask.any():
            found = self.counts.setdefault((what, quantity), {})
            found[label.case.name, label.place.dtype] = int(mask.sum()), mask.size

    def told(self) -> tuple[str, ...]:
        """The notes, counts last."""
        lines = []
        for (what, quantity), found in self.counts.items():
            cases = list(dict.fromkeys(case for case, _ in found))
            formats = " and ".join(sorted({dtype for _, dtype in found}, reverse=True))
            count, size = (max(pair[i] for pair in found.values()) for i in range(2))
            where = f"case {cases[0]!r}" + (f" and {len(cases) - 1} more cases" if cases[1:] else "")
            up_to = "up to " if len(set(found.values())) > 1 else ""
            lines.append(what.format(f"{up_to}{count} of {size} elements of {quantity}, {formats}, {where}"))
        return (*dict.fromkeys(self.notes), *lines)


NO_LIMIT = "Not judged: {}: no finite limit (a step overflows, or a divisor may be 0)"
ALIKE = "Not finite in both alike: {}; the other elements are judged"


COARSE = (
    "{} rounds more coarsely than the others in {} ({}, case {!r}): an equal form that is less accurate, "
    "let pass"
)
FUSED = (
    "{}: {} ({}, case {!r}) fits operation by operation, and not as JAX compiles it, whose fused steps "
    "overflow there: let pass"
)


def slight(results: Sequence[Result], dtype: str) -> list[str]:
    """The quantities that are off, where all that is off is off by at most COARSER limits, or beyond limits
    that hold no noise, only the last rounding.
    """
    failed, r = [result for result in results if not result.passed], rounding(dtype)
    least = rounding(measured_in(dtype)).tiny
    few = all(
        not one.note and (one.share <= COARSER[dtype] or one.limit <= 2 * (r.u * abs(one.truth) + least))
        for one in failed
    )
    return [result.quantity for result in failed] if few else []


def compare(
    item: Item,
    found: Sequence[Implementation],
    table: Sequence[Case],
    expected: Expected,
    device: Device = "cpu",
    cuts: CutsOf | None = None,
    coarser: Expected | None = None,
) -> Comparison:
    """The results of each implementation in each of the item's formats. A case that was made from the shapes
    and that a function does not take is left out, and told. What is off by at most COARSER limits is judged
    again by the limits that `coarser` gives.
    """
    made = Comparison()
    for one in found:
        for dtype in one.formats(item.dtypes):
            for case in table:
                label = Label(item, case, one.name, Place(dtype, device))
                try:
                    if (wanted := expected(one, case, dtype)) is not None:
                        results = _judged(one, wanted, label, made)
                        if coarser is not None:
                            results = _again(results, one, coarser, label, made)
                        made.results += results
                except CallFailed as error:
                    if not case.optional:
                        raise error.where(case.name) from None
                    made.notes.append(left_out(case, error))
            failed = {r.quantity for r in made.results if r.backend == one.name and not r.passed}
            if dtype == "float64" and cuts is not None and failed:
                made.results += cut_results(cuts(one), Label(item, table[0], one.name, Place(dtype, device)))
    return made


def _again(
    results: list[Result], one: Implementation, coarser: Expected, label: Label, made: Comparison
) -> list[Result]:
    """By the wider limits, where that may help; far out operation by operation."""
    dtype, case, far = label.place.dtype, label.case, label.case.name in FAR
    off = [result.quantity for result in results if not result.passed] if far else slight(results, dtype)
    wider = coarser(one, case, dtype) if off else None
    if wider is None:
        return results
    again = _judged(one, wider, replace(label, place=replace(label.place, eager=far)), made)
    if not all(result.passed for result in again):
        return results
    made.notes.append((FUSED if far else COARSE).format(one.name, ", ".join(off), dtype, case.name))
    return again


def cut_results(cuts: Cuts, label: Label) -> list[Result]:
    """A failure for each quantity that is cut."""
    return [label.failure(key, cut.told()) for key, cut in sorted(cuts.items())]


@contextmanager
def naming(case: Case) -> Iterator[None]:
    """A function that raises something in this block does so in this case."""
    try:
        yield
    except CallFailed as error:
        raise error.where(case.name) from None


def left_out(case: Case, error: CallFailed) -> str:
    """One line."""
    return f"Case {case.name!r} is left out: {error.what}"


def _judged(
    one: Implementation, expected: Mapping[str, Bounded], label: Label, made: Comparison
) -> list[Result]:
    """Elements without a limit are skipped and counted; a quantity without any limit gives no result."""
    r = rounding(label.place.dtype, label.place.device)
    inputs = label.case.arrays(r)
    before = {key: array.copy() for key, array in inputs.items()}
    outputs = run(one, inputs, label.place)
    changed = [key for key, array in before.items() if not np.array_equal(array, inputs[key], True)]
    results = weighed(expected, outputs, one.whole(outputs, expected), label, made)
    return results + [label.failure(key, "the input was changed in place") for key in changed]


def weighed(
    expected: Mapping[str, Bounded], outputs: Outputs, whole: bool, label: Label, made: Comparison
) -> list[Result]:
    """Results of finished outputs; `whole` where the output has the expected shape, and gradients exist."""
    r = rounding(label.place.dtype, label.place.device)
    outputs, wanted = dict(outputs), dict[str, Bounded]()
    for key, bound in expected.items():
        made.quantities.setdefault(key, False)
        if key not in outputs and not whole:
            continue  # no gradient of an output of another shape
        free, alike = ~np.isfinite(bound.error), ~np.isfinite(bound.value)
        made.count(NO_LIMIT, key, label, free)
        made.count(ALIKE, key, label, alike & ~free)
        if free.all() and free.size:
            outputs.pop(key, None)
            continue
        made.quantities[key] |= bool((~free & ~alike).any() or not free.size)
        wanted[key] = Bounded(np.where(free, 0, bound.value), np.where(free, 0, bound.error), r)
        if key in outputs and outputs[key].shape == free.shape:
            outputs[key] = np.where(free, outputs[key].dtype.type(0), outputs[key])
    return judge(wanted, outputs, label)


def run(one: Implementation, inputs: Mapping[str, Array], place: Place) -> Outputs:
    """Its results from these arrays, which it may write into."""
    with np.errstate(all="ignore"):
        return one.pull({key: array for key, array in inputs.items() if key != "dy"}, inputs["dy"], place)


def check_repeats(one: Implementation, case: Case, place: Place) -> None:
    """Raise UsageError for a function that gives other numbers when it is called again."""
    first, second = (run(one, case.arrays(rounding(place.dtype)), place) for _ in range(2))
    differing = [key for key in first if not np.array_equal(first[key], second[key], equal_nan=True)]
    if differing:
        raise UsageError(
            f"{one.name}: {', '.join(differing)} came out otherwise when called again with the same inputs; "
            "fix its random numbers (dropout: .eval(), or pass the mask as an input), or what it keeps"
        )


def with_upstream(case: Case, shape: tuple[int, ...]) -> Case:
    """The case with a random dy of the output's shape."""
    dy = np.asarray(generator(case.item, case.name, "dy").normal(size=shape))
    return replace(case, inputs={**case.inputs, "dy": dy})


def shape_of(one: Implementation, case: Case, place: Place) -> tuple[int, ...]:
    """Of its output."""
    with np.errstate(all="ignore"):
        return one.shape(case.arrays(rounding(place.dtype)), place)
