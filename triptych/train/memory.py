"""Out of memory, in whichever words a framework has for it, as one message that says what to reduce. And a
computation that --deterministic rules out, likewise.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from triptych.describe.protocol import evaluation_batch
from triptych.describe.spec import BackendName, Experiment
from triptych.errors import UserError

_PHRASES = (
    "RESOURCE_EXHAUSTED",  # XLA, host and device
    "out of memory",  # torch on CUDA and HIP, cuBLAS, XLA's allocator
    "can't allocate memory",  # torch on the CPU
    "not enough memory",  # torch on the CPU, Windows
    "std::bad_alloc",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
)


class _OutOfMemory(Exception):
    """Memory ran out in a stage."""

    def __init__(self, stage: str, error: BaseException) -> None:
        super().__init__(str(error))
        self.stage, self.error = stage, error


def is_exhausted(error: BaseException) -> bool:
    """Whether an exception says that memory ran out: Python's and NumPy's own kind, or a framework's text."""
    if isinstance(error, MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(
        phrase.lower() in str(error).lower() for phrase in _PHRASES
    )


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Within its context memory that runs out does so in this stage, for the message of `explained`."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_exhausted(error):
            raise
        raise _OutOfMemory(name, error) from error


@contextmanager
def explained(experiment: Experiment, backend: BackendName) -> Iterator[None]:
    """Turn running out of memory within the context into a UserError that names the settings to lower."""
    try:
        yield
    except _OutOfMemory as found:
        raise UserError(_message(found.error, found.stage, experiment, backend)) from None
    except (MemoryError, RuntimeError) as error:
        if "does not have a deterministic implementation" in str(error):
            raise UserError(
                f"deterministic: {str(error).split(',')[0]}; leave out --deterministic, or take --device "
                "cpu, where every run repeats bit for bit"
            ) from None
        if not is_exhausted(error):
            raise
        raise UserError(_message(error, "setting up the run", experiment, backend)) from None


def _message(error: BaseException, where: str, experiment: Experiment, backend: BackendName) -> str:
    first = " ".join(str(error).split())[:160] or type(error).__name__
    batch = experiment.data.batch_size
    wider = "--channels or --hidden" if experiment.model.channels else "--hidden"
    reduce = {
        "training": f"lower --batch-size (now {batch}) or {wider}",
        "compiling": f"lower --batch-size (now {batch}) or {wider}",
        "evaluation": f"it takes {evaluation_batch(experiment)} images at once: lower {wider}",
        "the data": "it takes about 1 GB: close other programs",
    }
    advice = reduce.get(where, f"lower {wider} or --batch-size (now {batch})")
    return (
        f"memory: the {backend} backend ran out of it in {where} ({first}); {advice}, or choose a device or "
        "machine with more; --dry-run shows what a run needs"
    )
