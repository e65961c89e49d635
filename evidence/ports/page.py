"""The results as Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evidence.ports.port import Row

HEAD = """# Whole models, ported from torch to Flax NNX

Made by `python -m evidence.ports --json docs/ports.json --page docs/ports.md`. Each port is judged by
`parity.verify_model(name, inputs=..., reference=torch_module, port=nnx_module)`: no layer is named by hand,
and nothing says which parameter belongs to which. The right ports pass in float64 and float32. Each mistake
is planted in the port's code or in how its parameters are loaded; the report fails, and names first the layer
given here.

| model | mistake | named first | what the report says |
|---|---|---|---|
"""


def page(results: Mapping[str, Any]) -> str:
    found = [Row(**one) for one in results["rows"]]
    lines = [
        f"| {one.model} | {one.mistake or '(none: the right port)'} | {one.layer and f'`{one.layer}`'} "
        f"| {one.said.partition(': ')[2]} |"
        for one in found
    ]
    mistakes = [one for one in found if one.mistake]
    caught = sum(not one.passed for one in mistakes)
    named = sum(one.right for one in mistakes)
    right = [one for one in found if not one.mistake]
    told = (
        f"\n{caught} of {len(mistakes)} mistakes fail, and {named} name the right layer first; "
        f"{sum(one.passed for one in right)} of {len(right)} right ports pass.\n"
    )
    if whole := results.get("whole"):
        told += (
            "\nResNet-18 at its size (11 million parameters, 4 images of 32 x 32, both formats): "
            f"{whole['comparisons']} comparisons in {whole['seconds']} s, at most {whole['peak_mb']} MB, of "
            f"which {whole['before_mb']} MB are the frameworks and the two models, on 2 CPU cores. "
            f"Its verdict: {whole['verdict']}. {whole['meaning']}\n"
        )
    return HEAD + "\n".join(lines) + "\n" + told
