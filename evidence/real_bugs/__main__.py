"""`python -m evidence.real_bugs`: judge both ports of every bug, and write docs/real_bugs.md."""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor

os.environ.setdefault("JAX_PLATFORMS", "cpu")

from evidence.real_bugs import page

PROCESSES = 2


def main() -> int:
    """1 where a verdict is not the one that the table expects."""
    start, surprises = time.perf_counter(), 0
    with ProcessPoolExecutor(PROCESSES, multiprocessing.get_context("spawn")) as pool:
        names = [bug.name for bug in page.BUGS]
        verdicts = dict(zip(names, pool.map(page.both, names), strict=True))
    for bug in page.BUGS:
        right, wrong = verdicts[bug.name]
        surprise = (right.word, wrong.word) != ("passed", "failed")
        surprises += surprise
        print(f"{'!!' if surprise else '  '} {bug.name:38} {right.word:8} {wrong.word:8} {wrong.line}")
        if right.word != "passed":
            print(f"   {'':38} the right port: {right.line}")
    page.write(verdicts)
    print(f"{page.counts(verdicts)} {time.perf_counter() - start:.0f} s; {page.PAGE.name} is written.")
    return min(surprises, 1)


if __name__ == "__main__":
    sys.exit(main())
