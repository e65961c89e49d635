"""`python -m parity check`."""

from __future__ import annotations

import time
from pathlib import Path

from parity.report.progress import show
from parity.report.results import write_json
from parity.suite import check as suite
from parity.suite import drawn as drawn_inputs
from parity.suite.backends import BACKENDS, installed
from parity.verification.table import render
from triptych.errors import UserError


def check(
    backend: tuple[str, ...] = (),
    dtype: tuple[str, ...] = (),
    item: tuple[str, ...] = (),
    quick: bool = False,
    drawn: int | None = None,
    seed: int = 0,
    json: Path | None = None,
) -> int:
    """Judge every layer, loss, optimizer and preparation step of every backend against rounding theory.

    Each number is compared with a truth in higher precision; docs/parity.md derives how far it may lie
    from it. Exit code 0: all within their limits, 1: some are not.

    Args:
        backend: Only these: numpy, jax, torch, shared (what is computed once for all three).
        dtype: Only these: float64, float32, bfloat16, on a GPU tf32, and shipped: float32 in the precision
            that the framework takes products in by default (on accelerators, and on a CPU if asked for).
        item: Only these, such as linear or batch_norm_manual.
        quick: The few most telling cases of each item.
        drawn: Inputs that hypothesis draws for each item, backend and format, beside the table's; by
            default 20, with --quick none.
        seed: Of the drawn inputs.
        json: Also write every result to this file.
    """
    count = drawn_inputs.chosen(drawn, quick)
    began = time.perf_counter()
    results = suite.run(item, backend, dtype, quick, progress=show, drawn=count, seed=seed)
    show("")
    if not results:
        raise UserError("check: nothing to compare; this choice of --backend, --dtype and --item is empty")
    print(render(results))
    print(f"{len(results)} comparisons took {time.perf_counter() - began:.0f} s.")
    if drawn is None and not quick and not count:
        print("No inputs were drawn: hypothesis is not installed.")
    for name in BACKENDS:
        if not backend and not installed(name):
            print(f"{name} is not installed and was left out.")
    if json is not None:
        write_json(results, json)
    return 0 if all(result.passed for result in results) else 1
