"""What a wrong array looks like: a word on the likely cause, where the numbers show one."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from parity.bounds.rounding import Array
from parity.runs.difference import one_bit
from parity.runs.locate.audit import Finding, Step
from parity.runs.locate.findings import At
from parity.suite import network


def hint(finding: Finding, step: Step, trace: Mapping[str, Array]) -> str:
    """One clause, or nothing."""
    at = finding.at
    if finding.result.note or finding.actual.shape != finding.expected.shape:
        return finding.result.note
    if at.kind == "data":
        return _images(finding, step)
    if at.kind == "loss" and (found := _labels(step, trace)):
        return found
    if at.kind == "forward" and at.layer in step.wanted.masks and (found := _mask(finding, step, trace)):
        return found
    before = [array for key, array in step.state.arrays().items() if At.of(key)[:3] == at[:3]]
    return _array(finding.actual, finding.expected, before[0] if before else None)


def _images(finding: Finding, step: Step) -> str:
    """Which images of the batch are wrong, and whether they are others, or mirrored."""
    right = step.reference.input(step.wanted, step.r)
    mirrored = step.reference.input(step.wanted, step.r, mirrored=True).value
    apart = finding.actual.astype(np.float64) - right.value.astype(np.float64)
    wrong = np.flatnonzero((np.abs(apart) > right.error).any(axis=(1, 2, 3)))
    if len(wrong) == len(apart):
        if np.ptp(apart, axis=0).max() <= 1e-3 * np.abs(apart).max():
            return "every image is off by the same amounts: another mean image"
        return "every image of the batch"
    words = []
    for row in wrong:
        others = [i for i, image in enumerate(right.value) if i != row and _close(finding.actual[row], image)]
        what = f" holds row {others[0]}'s image" if others else ""
        if not others and _close(finding.actual[row], mirrored[row]):
            what = " is mirrored"
        words.append(f"row {row}{what}")
    return _few(words)


def _few(words: list[str], most: int = 4) -> str:
    return ", ".join(words[:most]) + (f" and {len(words) - most} more" if len(words) > most else "")


def _close(a: Array, b: Array) -> bool:
    return bool(np.allclose(a.astype(np.float64), b.astype(np.float64), rtol=1e-5, atol=1e-4))


def _labels(step: Step, trace: Mapping[str, Array]) -> str:
    """Whether other labels explain a wrong gradient of the logits."""
    last, objective = step.reference.layers[-1], step.reference.experiment.objective
    logits, ds = trace[f"activation/{last}"], trace[f"gradient/{last}"].astype(np.float64)
    labels, gaps = step.reference.labels(step.wanted), []
    for label in range(logits.shape[1]):
        with np.errstate(all="ignore"):
            truth = network.loss(objective, logits, np.full_like(labels, label), step.r.wide)["ds"].value
        gaps.append(np.abs(ds - truth.astype(np.float64)).max(axis=1))
    # To each label (10,) and sample (B,) how far its gradient would be from the one found.
    table, close = np.array(gaps), 1e-3 * np.abs(ds).max()
    wrong = np.flatnonzero(~(table[labels, np.arange(len(labels))] <= close))
    if not (table.min(axis=0) <= close).all():
        return ""
    return _few([f"sample {i} is labelled {table[:, i].argmin()}, not {labels[i]}" for i in wrong])


def _mask(finding: Finding, step: Step, trace: Mapping[str, Array]) -> str:
    layers, layer = step.reference.layers, finding.at.layer
    x = trace[f"activation/{layers[layers.index(layer) - 1]}"]
    keep, kept = step.wanted.masks[layer][0], finding.actual != 0
    dropped, added = int((keep & ~kept & (x != 0)).sum()), int((~keep & kept).sum())
    if not dropped and not added:
        return ""
    return f"another mask: {dropped} units dropped that should be kept, {added} kept that should be dropped"


def _array(actual: Array, expected: Array, before: Array | None) -> str:
    """Constant factors, single elements, bits, and what never moved."""
    found, truth = actual.astype(np.float64), expected.astype(np.float64)
    if before is not None and found.size and np.array_equal(found, before):
        return "unchanged by the step"
    if found.size > 1 and not found.any():
        return "zero in every element"
    wrong = ~np.isclose(found, truth, rtol=1e-6, atol=0)
    if wrong.sum() == 1 and found.size > 1:
        return "a single element" + one_bit(actual[wrong][0], expected[wrong][0].astype(actual.dtype))
    scales = [("", found, truth)]
    if before is not None and before.shape == found.shape:
        scales.insert(0, ("the step is ", found - before, truth - before))
    for what, a, b in scales:
        factor = _constant(a, b)
        if factor is not None and abs(factor - 1) > 1e-12:
            return f"{what}{factor:.6g} times what it should be, in every element"
    return ""


def _constant(a: Array, b: Array) -> float | None:
    large = np.abs(b) > 1e-3 * np.abs(b).max(initial=0.0)
    if large.sum() < 2:
        return None
    ratio = a[large] / b[large]
    middle = float(np.median(ratio))
    return middle if np.allclose(ratio, middle, rtol=1e-4, atol=0) else None
