"""One verdict for each form, name and order; and what they come to."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch

from evidence.verdict_rates.form import Given, Layer
from evidence.verdict_rates.table import LAYERS
from parity import Jax, Numpy, Torch, verify
from parity.errors import UsageError
from triptych.show.tables import markdown

Row = dict[str, Any]
BOTH = 2


def tasks(names: int, quick: bool) -> list[tuple[str, int, bool]]:
    """Layers by name, every eighth if quick; several names for a layer's right forms."""
    return [(layer.name, 1 if quick else names, quick) for layer in LAYERS[:: 8 if quick else 1]]


def judged(task: tuple[str, int, bool]) -> list[Row]:
    """All verdicts of one layer. Right forms take its shapes in turns, a name each, and stand in either order
    under the first BOTH names, and in turns under the others; mistakes in either order in every shape.
    """
    torch.set_num_threads(1)
    name, names, quick = task
    (layer,) = [one for one in LAYERS if one.name == name]
    rows = []
    for form, other in layer.right.items():
        rows.append(row := _row(layer, form, other, True))
        for at in range(names):
            both = at < BOTH * len(layer.shapes) and not quick
            _judge(row, layer, other, at, (0, 1) if both else (at % 2,))
    for form, other in list(layer.wrong.items())[: 1 if quick else None]:
        rows.append(row := _row(layer, form, other, False))
        for at in range(1 if quick else len(layer.shapes)):
            _judge(row, layer, other, at, (0,) if quick else (0, 1))
    return rows


def _row(layer: Layer, form: str, other: Any, right: bool) -> Row:
    framework = "numpy" if isinstance(other, Numpy) else "jax" if isinstance(other, Jax) else "torch"
    return {
        "layer": layer.name,
        "form": form,
        "framework": framework,
        "right": right,
        "judged": 0,
        "faults": [],
    }


def _judge(row: Row, layer: Layer, other: Any, at: int, ways: Sequence[int]) -> None:
    """In some orders, under name number `at`."""
    first, second = Torch(layer.first), Torch(other) if row["framework"] == "torch" else other
    orders = [({"first": first, "other": second}, {"other": second, "first": first})[way] for way in ways]
    name, wanted = f"{layer.name} {at}", "passed" if row["right"] else "failed"
    said = [_verdict(layer, name, at, order) for order in orders]
    row["judged"] += len(said)
    for verdict in said:
        told = not row["right"] and verdict.startswith("refused: other")  # an error that names the wrong side
        if verdict != wanted and not told:
            row["faults"].append(f"{name}: expected {wanted}, got {verdict}")
    if len(set(said)) > 1:
        row["faults"].append(f"{name}: depends on the order")


def _verdict(layer: Layer, name: str, at: int, order: dict[str, Any]) -> str:
    inputs, parameters = layer.shapes[at % len(layer.shapes)]
    try:
        report = verify(name, inputs=inputs, parameters=parameters, also=order)
    except UsageError as error:
        return f"refused: {error}"
    return "passed" if report.passed else "failed"


def counts(results: dict[str, Any]) -> Counter[str]:
    """Judgements of right forms and of mistakes, the faults of each kind, and the forms of each framework."""
    found: Counter[str] = Counter()
    for row in results["rows"]:
        kind = "right" if row["right"] else "wrong"
        found[kind] += row["judged"]
        found[f"{kind} forms"] += 1
        found[f"{kind} {row['framework']}"] += 1
        order = sum(fault.endswith("the order") for fault in row["faults"])
        found["order"] += order
        found[f"{kind} faults"] += len(row["faults"]) - order
    return found


def summary(results: dict[str, Any]) -> str:
    """One sentence of figures."""
    n = counts(results)
    forms = ", ".join(f"{n[f'right {framework}']} in {framework}" for framework in ("torch", "jax", "numpy"))
    return (
        f"{n['right faults']} false alarms in {n['right']:,} judgements of {n['right forms']} right forms "
        f"({forms}); {n['wrong faults']} misses in {n['wrong']:,} judgements of {n['wrong forms']} mistakes; "
        f"{n['order']} verdicts depend on the order."
    )


def _shape(inputs: Given) -> str:
    """Of the first input."""
    first = next(iter(inputs.values()))
    return "x".join(map(str, getattr(first, "shape", first)))


def page(results: dict[str, Any]) -> str:
    """docs/verdict_rates.md."""
    rows = []
    for layer in LAYERS:
        mine = [row for row in results["rows"] if row["layer"] == layer.name]
        faults = [f"{row['form']}: {fault}" for row in mine for fault in row["faults"]]
        cells = [layer.name, " ".join(_shape(inputs) for inputs, _ in layer.shapes)]
        for right in (True, False):
            kind = [row for row in mine if row["right"] == right]
            cells += [", ".join(row["form"] for row in kind), str(sum(row["judged"] for row in kind))]
        rows.append([*cells, "; ".join(faults) or "none"])
    versions = ", ".join(f"{name} {number}" for name, number in results["versions"].items())
    command = f"python -m evidence.verdict_rates --names {results['names']} --json docs/verdict_rates.json"
    command += " --page docs/verdict_rates.md"
    again = results.get("again")
    again = f" Judged again, after a wrong verdict was mended: {', '.join(again)}." if again else ""
    header = ["layer", "shapes", "right forms", "judged", "mistakes", "judged", "wrong verdicts"]
    return f"""# How often is `verify` wrong?

**{summary(results)}**

Each layer below has a first form in torch. Every right form, in torch, JAX or NumPy, is judged beside it
under {results["names"]} names, since a name draws the inputs, and the layer's shapes take turns: in both
orders of the two under the first {BOTH} names of a shape, in turns under the others. It must pass. Every
mistake is judged beside it in every shape and in both orders; it must fail, or be refused by an error that
names it. No formula is given, so limits are estimated. Formats: float64 and float32.

    {command}

wrote this page in {results["seconds"]} s ({versions}).{again}

{markdown(header, rows)}
"""
