"""What `python -m parity convert` prints: the mapping, what to know about it, and what the checks found."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from parity.convert import predictions, verify
from parity.convert.plan import Plan
from parity.convert.sides import Side
from parity.convert.source import Source
from parity.convert.units import Arrays, is_flax, own_shape
from parity.verification.table import explain
from triptych import cifar10
from triptych.cifar10.preprocess import prepare
from triptych.describe.layers import BatchNorm
from triptych.describe.spec import Experiment
from triptych.errors import UserError
from triptych.store.run_dir import RunDirectory


def conversion(canonical: Arrays, came: Side | None, made: Side | None, notes: list[str]) -> list[str]:
    """Every array's names and shapes on each side, then the notes."""
    lines = []
    for title, side in (("from", came), ("to", made)):
        if side is not None:
            lines += [f"{title} {side.plan.convention}:", *_table(side.plan)]
            lines += [f"  {line}" for line in _advice(side.plan)]
    dtypes = sorted({array.dtype.name for array in canonical.values()})
    lines.append(f"dtype: {', '.join(dtypes)}, kept")
    return [*lines, *(f"note: {note}" for note in dict.fromkeys(notes))]


def _table(plan: Plan) -> list[str]:
    rows = []
    for pair in plan.pairs:
        for role, theirs in pair.theirs.names.items():
            shape = own_shape(pair.theirs.shapes[role], pair.theirs.kind, role, plan.convention)
            ours = pair.ours.names.get(role, "left out")
            how = "transposed" if role == "weight" and is_flax(plan.convention) else ""
            if pair.ours.path in plan.channels and role != "bias":
                channels = plan.channels[pair.ours.path]
                how = ", ".join(filter(None, (how, f"features of {channels} channels reordered")))
            rows.append((theirs, "x".join(map(str, shape)) or "scalar", ours, how))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    return [
        f"  {a:<{widths[0]}}  {b:<{widths[1]}}  {c:<{widths[2]}}  {how}".rstrip() for a, b, c, how in rows
    ]


def _advice(plan: Plan) -> list[str]:
    layout = "(B, 32, 32, 3)" if is_flax(plan.convention) else "(B, 3, 32, 32)"
    lines = [f"images {layout}, (pixel - mean) * scale as in training; flattened {plan.flatten}"]
    if any(pair.ours.kind == "norm" for pair in plan.pairs):
        lines.append(
            "batch norm: eps 1e-5; momentum 0.1 in torch is 0.9 in Flax; running variances carry over, but "
            "torch (and this project) goes on with the unbiased variance and Flax with the biased one"
        )
    return lines


def checks(proofs: list[tuple[str, verify.Proof]] | str) -> bool:
    """Print what was found; whether everything holds."""
    if isinstance(proofs, str):
        print(proofs)
        return True
    for name, proof in proofs:
        worst = proof.worst()
        if proof.passed:
            print(
                f"check, {name}: holds; {len(proof.results)} comparisons, the worst ({worst.quantity}) at "
                f"{worst.share:.3f} of its limit; predictions equal on {proof.agreeing} of {proof.images} "
                f"images; a logit's limit is {proof.room:.1e} of the logits' spread"
            )
        else:
            print(f"check, {name}: FAILED")
            for result in [result for result in proof.results if not result.passed][:5]:
                print(f"  {explain(result)}")
    return all(proof.passed for _, proof in proofs)


def test_set(
    found: Source, spec: Experiment | None, canonical: Arrays, side: Side | None, data_dir: Path | None
) -> bool:
    """Predict the run's test images with the plain model; whether what differs is within rounding."""
    if found.run is None or spec is None or side is None:
        raise UserError("test_set: expected a run folder as the source and a target that is not canonical")
    norms = any(isinstance(layer, BatchNorm) for layer in spec.layers())
    if norms and spec.model.norm_statistics == "batch":
        raise UserError(
            "test_set: the run's predictions are by the statistics of the test images, a converted model's "
            "by running ones; leave --test-set out"
        )
    folder = RunDirectory(found.run)
    summary = folder.read_summary()
    if found.step != summary["steps"]:
        raise UserError(f"{found.run}: no checkpoint of its last step {summary['steps']}; repeat its command")
    dataset = cifar10.load(spec.data.dataset, data_dir)
    if dataset.fingerprint != summary["data"]["fingerprint"]:
        raise UserError(
            f"test_set: the run's data is {summary['data']['fingerprint'][:23]}..., found "
            f"{dataset.fingerprint[:23]}... ({dataset.source}); name the run's --data-dir"
        )
    data = prepare(dataset, spec.data.preprocess, spec.data.validation)
    outcome = predictions.compare(
        spec,
        canonical,
        side.plain_weights(spec),
        side.plan.convention,
        side.plan.flatten,
        data,
        np.load(folder.predictions, allow_pickle=False),
    )
    print(outcome.line(summary["test_accuracy"]))
    return outcome.passed
