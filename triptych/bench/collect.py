"""All measurements of one bench: processes in turn, repeat by repeat, and what their answers come to."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from triptych.bench import agree
from triptych.bench.cases import REFERENCES, VARIANTS, Case
from triptych.bench.ceilings import frameworks
from triptych.bench.runners import steps_of
from triptych.describe.cost import step_bytes, step_flops
from triptych.errors import UserError

Answer = dict[str, Any]
Ask = Callable[[dict[str, Any]], Answer]
"""A request to its answer: `processes`, or a test's own."""
FORMAT = 1


class ProcessFailed(Exception):
    """A measuring process ended with an error of its own; the message is its last line."""


@dataclass(frozen=True)
class Settings:
    """How to measure; two files measured with different ones cannot be compared."""

    calls: int
    images: int
    quick: bool


@dataclass
class Collected:
    """What has been measured so far."""

    answers: dict[Case, list[Answer]] = field(default_factory=dict)
    ceilings: dict[tuple[str, str], dict[str, list[Answer]]] = field(default_factory=dict)
    """(device, precision) to framework to answers."""
    failed: dict[Case, str] = field(default_factory=dict)


@contextmanager
def processes() -> Iterator[Ask]:
    """Asks a new process each time. Programs compiled by one process are there for the next, in a folder that
    starts empty: the first start of a case is a cold one, the others are not.
    """
    with tempfile.TemporaryDirectory(prefix="triptych-bench-") as cache:
        environment = {
            **os.environ,
            "TRIPTYCH_CACHE_DIR": str(Path(cache) / "xla"),
            "TORCHINDUCTOR_CACHE_DIR": str(Path(cache) / "inductor"),
        }
        yield lambda request: _ask(request, environment)


def _ask(request: dict[str, Any], environment: dict[str, str]) -> Answer:
    words = json.dumps({**request, "spawned": time.time()})
    command = [sys.executable, "-m", "triptych.bench.measure", words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode == 2:
        raise UserError(done.stderr.strip())
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        raise ProcessFailed(lines[-1] if lines else f"exit code {done.returncode}")
    answer: Answer = json.loads(done.stdout.splitlines()[-1])
    return answer


def references(cases: list[Case]) -> dict[Case, Case]:
    """Each case to the one whose losses it is held to: of the same model, batch and device, in the finest
    precision measured, the first of REFERENCES, else the first at all.
    """
    rank = {name: place for place, name in enumerate(REFERENCES)}
    precisions = list(agree.UNIT)
    found = {}
    for case in cases:
        family = [other for other in cases if other.family == case.family]
        key = {
            other: (precisions.index(other.precision), rank.get(other.variant, len(rank))) for other in family
        }
        found[case] = min(family, key=key.__getitem__)
    return found


def collect(
    cases: list[Case],
    repeats: int,
    settings: Settings,
    ask: Ask,
    note: Callable[[Collected, str], None],
    deadline: float = float("inf"),
) -> Collected:
    """Every case once, then every case again, `repeats` times, each round with its ceilings.

    `note` is called after each process. Past `deadline` (by time.monotonic) no process is started.
    Raises UserError that the first process of a kind raises, such as for an absent device.
    """
    collected = Collected()
    reference = references(cases)
    for _ in range(repeats):
        for device in dict.fromkeys(case.device for case in cases):
            for framework in frameworks(tuple(case.variant for case in cases)):
                if time.monotonic() > deadline:
                    return collected
                precisions = list(dict.fromkeys(case.precision for case in cases if case.device == device))
                if framework == "numpy":
                    precisions = ["float32"] if device == "cpu" and "float32" in precisions else []
                if precisions:
                    _ask_ceilings(framework, device, precisions, settings, ask, collected)
                    note(collected, f"ceilings of {device}, {framework}")
        for case in cases:
            if time.monotonic() > deadline:
                return collected
            if case not in collected.failed:
                _ask_case(case, case == reference[case], settings, ask, collected)
                note(collected, case.label())
    return collected


def _ask_ceilings(
    framework: str, device: str, precisions: list[str], settings: Settings, ask: Ask, collected: Collected
) -> None:
    asked = {"framework": framework, "device": device, "precisions": precisions}
    try:
        answers = ask({**asked, "quick": settings.quick})
    except ProcessFailed as failure:
        raise UserError(
            f"bench: {framework} could not measure what {device} does at best: {failure}; "
            "leave out its variants"
        ) from None
    for precision in precisions:
        rows = collected.ceilings.setdefault((device, precision), {})
        rows.setdefault(framework, []).append(answers[precision])


def _ask_case(case: Case, is_reference: bool, settings: Settings, ask: Ask, collected: Collected) -> None:
    request = {**case.plain(), "size": steps_of(case), "calls": settings.calls, "images": settings.images}
    try:
        answer = ask({**request, "reference": is_reference})
    except ProcessFailed as failure:
        collected.failed[case] = str(failure)
        collected.answers.pop(case, None)
        return
    collected.answers.setdefault(case, []).append(answer)


# --- from answers to rows -------------------------------------------------------------------------


def report(collected: Collected, settings: Settings, skipped: list[tuple[Case, str]]) -> dict[str, Any]:
    """All of it as JSON: rows of cases that train what their reference trains, and, without a speed, those
    that do not.
    """
    reference = references(list(collected.answers))
    rows, refused = [], []
    for case, answers in collected.answers.items():
        problem = _problem(case, reference[case], collected)
        if problem:
            against = reference[case].label()
            refused.append({**case.plain(), "reason": problem, "reference": against})
        else:
            rows.append(_row(case, answers, collected) | {"reference": reference[case].label()})
    return {
        "format": FORMAT,
        "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "machine": _machine(),
        "versions": {
            "python": platform.python_version(),
            **{k: v for answers in collected.answers.values() for k, v in answers[0]["versions"].items()},
        },
        "settings": vars(settings),
        "data_transfer": "in: each call's table of batches; out: the images, which lie on the device",
        "ceilings": [
            {"device": device, "precision": precision, "framework": framework, **_best(answers)}
            for (device, precision), by_framework in collected.ceilings.items()
            for framework, answers in by_framework.items()
        ],
        "rows": rows,
        "refused": refused,
        "failed": [{**case.plain(), "reason": reason} for case, reason in collected.failed.items()],
        "skipped": [{**case.plain(), "reason": reason} for case, reason in skipped],
    }


def _problem(case: Case, against: Case, collected: Collected) -> str | None:
    theirs = collected.answers[against][0]
    if theirs["untrained"] is None:  # the intended reference failed: no losses to hold this one to
        return f"its reference could not be measured, and {against.label()} is none"
    for answer in collected.answers[case]:
        problem = agree.disagreement(
            answer["losses"], theirs["losses"], theirs["untrained"], case.precision, against.precision
        )
        if problem:
            return problem
    return None


def _row(case: Case, answers: list[Answer], collected: Collected) -> dict[str, Any]:
    """Times in ms: the median of each process's median; least and most over the processes, or, of a single
    one, over its calls.
    """
    experiment = case.experiment()
    medians = [1e3 * statistics.median(answer["seconds"]) for answer in answers]
    spread = medians if len(medians) > 1 else [1e3 * second for second in answers[0]["seconds"]]
    step = statistics.median(medians)
    flops, moved = step_flops(experiment), step_bytes(experiment)
    peak = ceiling(collected, case)
    floor = 1e3 * max(flops / peak["flops_per_s"], moved / peak["bytes_per_s"])
    device = [answer["device_bytes"] for answer in answers if answer["device_bytes"] is not None]
    later = [answer["first_step_s"] for answer in answers[1:]]
    return {
        **case.plain(),
        "framework": VARIANTS[case.variant].framework,
        "device_name": answers[0]["device_name"],
        "processes": len(answers),
        "steps_per_call": steps_of(case),
        "step_ms": {"median": step, "min": min(spread), "max": max(spread), "each": medians},
        "compile_s": answers[0]["compile_s"],
        "first_step_s": answers[0]["first_step_s"],
        "later_first_step_s": statistics.median(later) if later else None,
        "images_per_s": 1e3 * case.batch / step,
        "run_s": 1e-3 * step * experiment.training.steps,
        "flops": flops,
        "bytes": moved,
        "flops_per_s": 1e3 * flops / step,
        "share_of_product": 1e3 * flops / step / peak["flops_per_s"],
        "share_of_copy": 1e3 * moved / step / peak["bytes_per_s"],
        "floor_ms": floor,
        "share_of_floor": floor / step,
        "host_bytes": max(answer["host_bytes"] for answer in answers),
        "device_bytes": max(device) if device else None,
        "losses": answers[0]["losses"],
    }


def ceiling(collected: Collected, case: Case) -> dict[str, float]:
    """The highest that any framework reached on this device in this precision."""
    every = [_best(answers) for answers in collected.ceilings[case.device, case.precision].values()]
    return {key: max(each[key] for each in every) for key in ("flops_per_s", "bytes_per_s")}


def _best(answers: list[Answer]) -> dict[str, float]:
    return {key: max(answer[key] for answer in answers) for key in ("flops_per_s", "bytes_per_s")}


def _machine() -> dict[str, Any]:
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        name = lines[0].partition(":")[2].strip() if lines else name
    return {"system": platform.platform(), "processor": name, "cores": os.cpu_count()}
