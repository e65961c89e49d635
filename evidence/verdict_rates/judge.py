"""One verdict for each form, name and order; and what they come to."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch

from evidence.verdict_rates.form import Layer
from evidence.verdict_rates.table import LAYERS
from parity import Torch, verify
from parity.errors import UsageError
from triptych.show.tables import markdown

Row = dict[str, Any]
BOTH = 2


def tasks(names: int, quick: bool) -> list[tuple[str, int, bool]]:
    """Layers by name, every eighth if quick; several names for a layer's right forms."""
    return [(layer.name, 1 if quick else names, quick) for layer in LAYERS[:: 8 if quick else 1]]


def judged(task: tuple[str, int, bool]) -> list[Row]:
    """All verdicts of one layer. Right forms stand in either order under the first BOTH names, and in turns
    under the others; mistakes in either order under one name.
    """
    torch.set_num_threads(1)
    name, names, quick = task
    (layer,) = [one for one in LAYERS if one.name == name]
    rows = []
    for form, other in layer.right.items():
        for at in range(names):
            both = at < BOTH and not quick
            rows += _judged(layer, form, other, f"{layer.name} {at}", True, (0, 1) if both else (at % 2,))
    for form, other in list(layer.wrong.items())[: 1 if quick else None]:
        rows += _judged(layer, form, other, f"{layer.name} 0", False, (0,) if quick else (0, 1))
    return rows


def _judged(layer: Layer, form: str, other: Any, name: str, right: bool, ways: Sequence[int]) -> list[Row]:
    first, second = Torch(layer.first), other if not callable(other) else Torch(other)
    orders = [({"first": first, "other": second}, {"other": second, "first": first})[way] for way in ways]
    said = [_verdict(layer, name, order) for order in orders]
    rows = []
    for verdict in said:
        wanted = "passed" if right else "failed"
        told = not right and verdict.startswith("refused: other")  # an error that names the wrong side
        fault = "" if verdict == wanted or told else f"expected {wanted}, got {verdict}"
        if verdict != said[0]:
            fault = (fault + "; " if fault else "") + "depends on the order"
        rows.append({"layer": layer.name, "form": form, "name": name, "right": right, "fault": fault})
    return rows


def _verdict(layer: Layer, name: str, order: dict[str, Any]) -> str:
    try:
        report = verify(name, inputs=layer.inputs, parameters=layer.parameters, also=order)
    except UsageError as error:
        return f"refused: {error}"
    return "passed" if report.passed else "failed"


def counts(results: dict[str, Any]) -> Counter[str]:
    """Judgements of right forms and of mistakes, and the faults of each kind."""
    found: Counter[str] = Counter()
    for row in results["rows"]:
        kind = "right" if row["right"] else "wrong"
        found[kind] += 1
        found[kind + " faults"] += row["fault"].startswith("expected")
        found["order"] += "order" in row["fault"]
    for right in (True, False):
        forms = {(row["layer"], row["form"]) for row in results["rows"] if row["right"] == right}
        found["right forms" if right else "mistakes"] = len(forms)
    return found


def summary(results: dict[str, Any]) -> str:
    """One sentence of figures."""
    n = counts(results)
    return (
        f"{n['right faults']} false alarms in {n['right']:,} judgements of {n['right forms']} right forms; "
        f"{n['wrong faults']} misses in {n['wrong']:,} judgements of {n['mistakes']} mistakes; "
        f"{n['order']} verdicts depend on the order."
    )


def page(results: dict[str, Any]) -> str:
    """docs/verdict_rates.md."""
    rows = []
    for layer in LAYERS:
        mine = [row for row in results["rows"] if row["layer"] == layer.name]
        faults = sorted({f"{row['form']}: {row['fault']}" for row in mine if row["fault"]})
        judgements = [str(sum(row["right"] == right for row in mine)) for right in (True, False)]
        said = "; ".join(faults) or "none"
        rows.append(
            [layer.name, ", ".join(layer.right), judgements[0], ", ".join(layer.wrong), judgements[1], said]
        )
    versions = ", ".join(f"{name} {number}" for name, number in results["versions"].items())
    command = f"python -m evidence.verdict_rates --names {results['names']} --json docs/verdict_rates.json"
    command += " --page docs/verdict_rates.md"
    again = results.get("again")
    again = f" Judged again, after a wrong verdict was mended: {', '.join(again)}." if again else ""
    header = ["layer", "right forms", "judged", "mistakes", "judged", "wrong verdicts"]
    return f"""# How often is `verify` wrong?

**{summary(results)}**

Each layer below has a first form in torch. Every right form, in torch or JAX, is judged beside it under
{results["names"]} names, since a name draws the inputs: in both orders of the two under the first {BOTH}, in
turns under the others. It must pass. Every mistake is judged beside it in both orders; it must fail, or be
refused by an error that names it. No formula is given, so limits are estimated. Formats: float64 and float32.

    {command}

wrote this page in {results["seconds"]} s ({versions}).{again}

{markdown(header, rows)}
"""
