"""`triptych`, or `python -m triptych`: train networks, use them, time them, and reproduce the study.

    triptych train --backend jax      the same as python train.py --backend jax
    triptych predict RUN IMAGE...     the classes of images, by a trained run
    triptych look RUN                 a page of its mistakes: confusion, calibration, weights
    triptych compare RUN RUN...       curves, settings and accuracies of several runs
    triptych export RUN --to onnx     the model as ONNX, or as a plain torch or Flax module
    triptych bench                    time a training step of every backend
    triptych study report             the study's runs beside the report's figures
    triptych exercise list            the exercises of the course, which grade themselves

Each command has its own --help.
"""

from __future__ import annotations

import importlib
import sys

from triptych.errors import missing

COMMANDS = {
    "train": "triptych.train.command",
    "predict": "triptych.use.predict",
    "look": "triptych.use.look",
    "compare": "triptych.use.compare",
    "export": "triptych.use.export",
    "bench": "triptych.bench.__main__",
    "study": "triptych.study.__main__",
    "exercise": "triptych.course.__main__",
}
"""Name to the module whose `main(argv)` it runs; imported when asked for."""


def main(argv: list[str] | None = None) -> int:
    """The command; returns its exit code: 2 for an unknown one."""
    words = sys.argv[1:] if argv is None else argv
    if not words or words[0] in ("-h", "--help"):
        print(__doc__.strip())
        return 0 if words else 2
    if words[0] not in COMMANDS:
        print(f"error: expected one of {', '.join(COMMANDS)}, got {words[0]!r}", file=sys.stderr)
        return 2
    try:
        module = importlib.import_module(COMMANDS[words[0]])
    except ModuleNotFoundError as error:
        print(f"error: {missing(error)}", file=sys.stderr)
        return 2
    code: int = module.main(words[1:])
    return code


if __name__ == "__main__":
    sys.exit(main())
