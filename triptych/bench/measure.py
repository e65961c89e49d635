"""One measurement, in a process of its own: `python -m triptych.bench.measure REQUEST`, both ways JSON.

A request is either a case, and the answer its times, losses and memory; or a framework, device and precision,
and the answer their ceilings. Exit code 2 and one line on standard error say what the user can mend.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from typing import Any

from triptych.errors import UserError


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """What a request asks for; see `triptych.bench.collect` for its fields."""
    if "framework" in request:
        from triptych.bench.ceilings import measure

        return measure(request["framework"], request["device"], request["precision"], request["quick"])
    return measure_case(request)


def measure_case(request: dict[str, Any]) -> dict[str, Any]:
    """Train the compared steps, then time calls of `size` steps, each waiting for the device at its end.

    Seconds: `first_step_s` from the process's start (`spawned`, by the clock) to the end of the first step,
    compiling included; `compile_s` of compiling alone; `seconds` of a step in each timed call. A call's
    inputs (the table of batches) are drawn beforehand and sent to the device within it; the images lie there.
    """
    from triptych.bench import agree
    from triptych.bench.cases import case_of
    from triptych.bench.runners import create_runner

    case, size, calls = case_of(request), request["size"], request["calls"]
    runner = create_runner(case, request["images"])
    runner.start()
    start = time.perf_counter()
    runner.compile(size)
    compile_s = time.perf_counter() - start
    losses = list(runner.train(runner.plan(0, 1)))
    first_step_s = time.time() - request["spawned"]
    for step in range(1, agree.STEPS):
        losses += list(runner.train(runner.plan(step, 1)))
    untrained = list(runner.untrained(agree.STEPS)) if request["reference"] else None
    seconds = []
    for call in range(calls + 1):
        plan = runner.plan(agree.STEPS + call * size, size)
        start = time.perf_counter()
        runner.train(plan)
        seconds.append((time.perf_counter() - start) / size)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {
        "seconds": seconds[1:],
        "compile_s": compile_s,
        "first_step_s": first_step_s,
        "losses": losses,
        "untrained": untrained,
        "host_bytes": peak,
        "device_bytes": _device_bytes(case.variant, case.device),
        "device_name": runner.device(),
        "versions": runner.versions(),
    }


def _device_bytes(variant: str, device: str) -> int | None:
    """The most memory in use on a GPU so far."""
    if device != "gpu":
        return None
    if variant.startswith("jax"):
        import jax

        statistics = jax.devices(device)[0].memory_stats()
        return None if statistics is None else int(statistics["peak_bytes_in_use"])
    import torch

    return int(torch.cuda.max_memory_allocated())


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
