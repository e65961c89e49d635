"""One measurement, in a process of its own: `python -m triptych.bench.measure REQUEST`, both ways JSON.

A request is a case of a step, and the answer its times, losses and memory; or a variant of the grid; or a
framework, device and precisions, and the answer their ceilings. Exit code 2 and one line on standard error
say what the user can mend.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from triptych.bench import ceilings, grid, runners
from triptych.errors import UserError


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """What a request asks for; `triptych.bench.collect` and `triptych.bench.sweep` write them."""
    words = {key: value for key, value in request.items() if key not in ("grid", "spawned")}
    if "framework" in request:
        return ceilings.measure(**words)
    if "grid" in request:
        return {"milliseconds": grid.measure(request["grid"], **words)}
    return runners.measure_case(request)


def main(argv: list[str]) -> int:
    """The command; returns its exit code."""
    try:
        print(json.dumps(answer(json.loads(argv[0]))))
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
