"""What a wrong array looks like: a word on the likely cause, where the numbers show one."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from parity.bounds.bounded import Bounded
from parity.bounds.rounding import Array
from parity.runs.locate.audit import Step, kind_of, quantity_of
from parity.runs.locate.findings import Finding
from parity.suite import network
from parity.suite.images import moved, prepared
from triptych.describe.protocol import Steps
from triptych.describe.state import State


def hint(finding: Finding, step: Step, trace: Mapping[str, Array]) -> str:
    """One clause, or nothing."""
    wanted = step.wanted
    if finding.result.note or finding.actual.shape != finding.expected.shape:
        return finding.result.note
    if finding.kind == "data":
        return _images(finding, step, wanted)
    if finding.kind == "loss":
        return _labels(finding, step, trace, wanted) or _array(finding.actual, finding.expected, None)
    if finding.kind == "forward" and finding.layer in wanted.masks:
        return _mask(finding, trace, wanted, step)
    before = _before(finding, step.state)
    return _array(finding.actual, finding.expected, before)


def _before(finding: Finding, state: State) -> Array | None:
    """The array that was found, as it was before the step."""
    wanted = finding.kind, finding.layer, finding.quantity
    found = (a for key, a in state.arrays().items() if (kind_of(key), key.layer, quantity_of(key)) == wanted)
    return next(found, None)


def _images(finding: Finding, step: Step, wanted: Steps) -> str:
    """Which images of the batch are wrong, and whether they are others, or mirrored."""
    r = step.r
    wrong = _rows(finding, step, step.reference.input(wanted, r))
    if len(wrong) == len(finding.actual):
        apart = finding.actual.astype(np.float64) - finding.expected.astype(np.float64)
        if np.ptp(apart, axis=0).max(initial=0.0) <= 1e-3 * np.abs(apart).max():
            return "every image is off by the same amounts: another mean image"
        return "every image of the batch"
    raw = step.reference.data.images["train"][wanted.indices[0]]
    shifts, flips = (None if a is None else a[0] for a in (wanted.shifts, wanted.flips))
    border = step.reference.experiment.data.random_crop
    mirrored = np.ones(len(raw), bool) if flips is None else ~flips
    flipped = moved(raw, shifts, mirrored, border)
    turned = prepared(flipped, *step.reference.map, r)
    words = []
    for row in wrong[:4]:
        others = [i for i in range(len(raw)) if i != row and _close(finding.actual[row], finding.expected[i])]
        if others:
            words.append(f"row {row} holds row {others[0]}'s image")
        elif _close(finding.actual[row], turned.value[row]):
            words.append(f"row {row} is mirrored")
        else:
            words.append(f"row {row}")
    more = f" and {len(wrong) - 4} more" if len(wrong) > 4 else ""
    return ", ".join(words) + more


def _rows(finding: Finding, step: Step, expected: Bounded) -> list[int]:
    apart = np.abs(finding.actual.astype(np.float64) - expected.value.astype(np.float64)) > expected.error
    return np.flatnonzero(apart.reshape(len(apart), -1).any(axis=1)).tolist()


def _labels(finding: Finding, step: Step, trace: Mapping[str, Array], wanted: Steps) -> str:
    """Whether other labels explain a wrong gradient of the logits."""
    names, spec, r = step.reference.names, step.reference.experiment, step.r.wide
    logits, ds = trace[f"activation/{names[-1]}"], trace.get(f"gradient/{names[-1]}")
    if ds is None:
        return ""
    labels = step.reference.labels(wanted)

    def fits(labels: Array) -> Array:
        with np.errstate(all="ignore"):
            truth = network.loss(spec.objective, logits, labels, r)["ds"]
        return np.asarray(
            (np.abs(ds.astype(np.float64) - truth.value.astype(np.float64)) <= truth.error).all(axis=1)
        )

    right = fits(labels)
    if right.all():
        return ""
    used = labels.copy()
    for label in range(logits.shape[1]):
        fit = fits(np.full_like(labels, label))
        used[~right & fit] = label
    changed = np.flatnonzero(used != labels)
    if not fits(used).all():
        return ""
    words = [f"sample {i} is labelled {used[i]}, not {labels[i]}" for i in changed[:3]]
    more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
    return ", ".join(words) + more


def _mask(finding: Finding, trace: Mapping[str, Array], wanted: Steps, step: Step) -> str:
    names = step.reference.names
    x = trace[f"activation/{names[names.index(finding.layer) - 1]}"]
    keep, kept = wanted.masks[finding.layer][0], finding.actual != 0
    dropped, added = int((keep & ~kept & (x != 0)).sum()), int((~keep & kept).sum())
    if not dropped and not added:
        return _array(finding.actual, finding.expected, None)
    return f"another mask: {dropped} units dropped that should be kept, {added} kept that should be dropped"


def _array(actual: Array, expected: Array, before: Array | None) -> str:
    """Constant factors, single elements, bits, and what never moved."""
    found, truth = actual.astype(np.float64), expected.astype(np.float64)
    if before is not None and before.shape == found.shape and found.size and (found == before).all():
        return "unchanged by the step"
    if found.size > 1 and not found.any():
        return "zero in every element"
    wrong = ~np.isclose(found, truth, rtol=1e-6, atol=0)
    if wrong.sum() == 1 and found.size > 1:
        return "a single element" + bits(actual[wrong][0], expected[wrong][0])
    for what, a, b in _scales(found, truth, before):
        factor = _constant(a, b)
        if factor is not None and abs(factor - 1) > 1e-12:
            return f"{what} {factor:.6g} times what it should be, in every element".strip()
    return ""


def _scales(found: Array, truth: Array, before: Array | None) -> list[tuple[str, Array, Array]]:
    if before is None or before.shape != found.shape:
        return [("", found, truth)]
    start = before.astype(np.float64)
    return [("the step is", found - start, truth - start), ("", found, truth)]


def _constant(a: Array, b: Array) -> float | None:
    large = np.abs(b) > 1e-3 * np.abs(b).max(initial=0.0)
    if large.sum() < 2:
        return None
    ratio = a[large] / b[large]
    middle = float(np.median(ratio))
    return middle if np.allclose(ratio, middle, rtol=1e-4, atol=0) else None


def bits(actual: float, expected: float) -> str:
    """Says so where two numbers differ in one bit."""
    for name, kind, whole in (("float64", np.float64, np.uint64), ("float32", np.float32, np.uint32)):
        if np.asarray(actual).dtype == kind:
            a, b = (int(np.asarray(x, kind).view(whole)) for x in (actual, expected))
            changed = a ^ b
            if changed.bit_count() == 1:
                return f", one bit of it ({name} bit {changed.bit_length() - 1})"
    return ""


def _close(a: Array, b: Array) -> bool:
    return bool(np.allclose(a.astype(np.float64), b.astype(np.float64), rtol=1e-5, atol=1e-4))
