"""`python -m tests.real_bugs`: judge both ports of every bug, and write docs/real_bugs.md."""

from __future__ import annotations

import os
import sys
import time

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import torch

from tests.real_bugs import page
from tests.real_bugs.bug import judged


def main() -> int:
    """1 where a verdict is not the one that the table expects."""
    torch.set_num_threads(1)  # the arrays are small
    verdicts, surprises, start = {}, 0, time.perf_counter()
    for bug in page.BUGS:
        right, wrong = verdicts[bug.name] = judged(bug, bug.right), judged(bug, bug.wrong)
        surprise = (right.word == "passed") == bool(bug.alarm) or (wrong.word == "failed") == bool(bug.missed)
        surprises += surprise
        print(f"{'!!' if surprise else '  '} {bug.name:34} {right.word:8} {wrong.word:8} {wrong.line}")
        if right.word != "passed":
            print(f"   {'':34} the right port: {right.line}")
    page.write(verdicts)
    print(f"{page.counts(verdicts)} {time.perf_counter() - start:.0f} s; {page.PAGE.name} is written.")
    return min(surprises, 1)


if __name__ == "__main__":
    sys.exit(main())
