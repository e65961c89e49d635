"""`python -m evidence.ports [--quick] [--json FILE] [--page FILE]`: judge every port, write the results."""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")

from evidence.ports import MODELS, WHOLE
from evidence.ports.page import page
from evidence.ports.port import Mistake, rows


def main() -> int:
    """1 where a verdict is not the one that the table expects."""
    parser = argparse.ArgumentParser(prog="python -m evidence.ports", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="the right ports and one mistake of each")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results")
    parser.add_argument("--page", type=Path, metavar="FILE", help="write them as Markdown")
    parser.add_argument("--whole", action="store_true", help="measure the right port of ResNet-18 alone")
    options = parser.parse_args()
    if options.whole:
        print(json.dumps(whole()))
        return 0
    found = []
    for model in MODELS:
        for one in rows(model, model.mistakes[:1] if options.quick else None):
            found.append(one)
            mark = "  " if one.right else "!!"
            print(
                f"{mark} {one.model:8} {one.mistake or 'right':38} {one.layer or 'passed':24} {one.said}",
                flush=True,
            )
    results: dict[str, Any] = {"rows": [one._asdict() for one in found]}
    if not options.quick:
        command = [sys.executable, "-m", "evidence.ports", "--whole"]
        results["whole"] = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n")
    if options.page:
        options.page.write_text(page(results))
    wrong = sum(not one.right for one in found)
    print(f"{len(found) - wrong} of {len(found)} verdicts are right.")
    return min(wrong, 1)


def whole() -> dict[str, Any]:
    """ResNet-18 at its size, images of 32 x 32: seconds and peak memory. Frameworks are imported and both
    models stand before.
    """
    right = Mistake("", "")
    pair = WHOLE.pair(right)
    start, before = time.perf_counter(), _peak_mb()
    report = WHOLE.judged(right, ("float64", "float32"), pair)
    return {
        "verdict": report.verdict(),
        "meaning": "" if report.passed else report.explain().splitlines()[1].partition(": ")[2],
        "comparisons": len(report.results),
        "seconds": round(time.perf_counter() - start, 1),
        "peak_mb": _peak_mb(),
        "before_mb": before,
    }


def _peak_mb() -> int:
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000)


if __name__ == "__main__":
    sys.exit(main())
