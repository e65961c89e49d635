"""`python -m evidence.verdict_rates [--names N] [--json FILE] [--page FILE] ...`: measure and write."""

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Most names of a form compile the same program. By XLA's own key: what differs is compiled anew.
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR", str(Path(tempfile.gettempdir()) / "verdict-rates-programs")
)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "0")

from evidence.verdict_rates.judge import judged, page, summary, tasks
from evidence.verdict_rates.table import LAYERS
from triptych.store.files import write_atomically


def main() -> int:
    """1 where a verdict is wrong or depends on the order."""
    parser = argparse.ArgumentParser(prog="python -m evidence.verdict_rates", description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="every eighth layer, one name, one order, one mistake"
    )
    parser.add_argument(
        "--names", type=int, default=50, help="names of each right form; a name draws the inputs"
    )
    parser.add_argument(
        "--layers", nargs="+", metavar="NAME", help="judge these again; --json keeps the other layers' rows"
    )
    parser.add_argument("--workers", type=int, default=2, help="processes")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results")
    parser.add_argument("--page", type=Path, metavar="FILE", help="write them as Markdown")
    options = parser.parse_args()
    if options.names < 1 or options.workers < 1:
        parser.error("--names and --workers: expected 1 or more")
    every = tasks(options.names, options.quick)
    chosen = [task for task in every if options.layers is None or task[0] in options.layers]
    if len(chosen) < len(options.layers or ()):
        parser.error(f"--layers: expected names among {', '.join(layer.name for layer in LAYERS)}")
    before = json.loads(options.json.read_text()) if options.layers and options.json else None
    start = time.monotonic()
    with ProcessPoolExecutor(options.workers, mp_context=get_context("spawn")) as pool:
        rows = []
        for found in pool.map(judged, chosen):
            rows += found
            for row in found:
                for fault in row["faults"]:
                    print(f"!! {row['form']}: {fault}", flush=True)
    results = {
        "versions": {
            "python": platform.python_version(),
            **{k: version(k) for k in ("numpy", "jax", "torch")},
        },
        "seconds": round(time.monotonic() - start),
        "names": options.names,
        "rows": rows,
    }
    if before is not None:
        kept = [row for row in before["rows"] if row["layer"] not in options.layers]
        again = sorted({*before.get("again", ()), *options.layers})
        results |= {"seconds": before["seconds"], "rows": kept + rows, "again": again}
    if options.json:
        write_atomically(options.json, (json.dumps(results, indent=1) + "\n").encode())
    if options.page:
        write_atomically(options.page, page(results).encode())
    print(summary(results))
    return min(1, sum(len(row["faults"]) for row in rows))


if __name__ == "__main__":
    sys.exit(main())
