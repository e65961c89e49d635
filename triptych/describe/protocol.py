"""What the loop asks of a backend, and how it finds one.

A backend holds its own state on its own device. Everything crosses this border as NumPy arrays in
canonical form. The training step is a pure function of (state, batch); everything random or scheduled
arrives in `Steps`.
"""

from __future__ import annotations

import importlib
import importlib.util
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal, Protocol

import numpy as np

from triptych.describe import streams
from triptych.describe.layers import Conv2d
from triptych.describe.schedule import learning_rates
from triptych.describe.spec import BackendName, Device, Experiment
from triptych.describe.state import State
from triptych.errors import UserError, missing


@dataclass(frozen=True)
class TrainingData:
    """Images as stored, and the affine map that prepares them: (pixel - mean) * scale."""

    images: dict[str, np.ndarray]
    """Split ("train", "test", perhaps "validation") to uint8 (N, 3, 32, 32)."""
    labels: dict[str, np.ndarray]
    """Split to uint8 (N,), values 0..9."""
    mean: np.ndarray
    """float64 (3, 32, 32), from the training split."""
    scale: np.ndarray | None
    """float64 (3, 1, 1), or None for no scaling."""


@dataclass(frozen=True)
class Steps:
    """The inputs of n consecutive steps."""

    first: int
    """Steps taken before the first of these."""
    indices: np.ndarray
    """int32 (n, B): rows of the training split."""
    learning_rates: np.ndarray
    """float64 (n,)."""
    masks: dict[str, np.ndarray] = field(default_factory=dict)
    """Dropout layer's name to bool (n, B, features): True is kept."""
    shifts: np.ndarray | None = None
    """int32 (n, B, 2), or None for no random crop: row and column at which each image is cut from itself
    surrounded by `random_crop` black pixels."""
    flips: np.ndarray | None = None
    """bool (n, B), or None for no random flip: True is mirrored left to right, after the crop."""

    def __len__(self) -> int:
        return len(self.indices)


@dataclass(frozen=True)
class StepResults:
    """What n steps reported, before each step's update."""

    losses: np.ndarray
    """float64 (n,): the objective on the batch, L2 regularization included."""
    accuracies: np.ndarray
    """float64 (n,): share of the batch predicted right."""


@dataclass(frozen=True)
class Evaluation:
    """One pass over a split, nothing dropped out, no regularization in the loss."""

    loss: float
    accuracy: float
    predictions: np.ndarray
    """uint8 (N,)."""


Statistics = Literal["running", "batch"]
"""What batch norm normalises by in evaluation."""


def evaluation_batch(experiment: Experiment) -> int:
    """Images evaluated at once; with batch statistics the result depends on it. The report's 2,000 for an
    MLP; 200 where convolutions keep 50 times as many values an image.
    """
    return 200 if any(isinstance(layer, Conv2d) for layer in experiment.layers()) else 2000


def evaluation_slices(size: int, batch: int) -> list[slice]:
    """Rows evaluated together: `batch` at a time; a single one left over joins the last."""
    starts = list(range(0, size, batch))
    if len(starts) > 1 and size - starts[-1] == 1:
        starts.pop()
    return [slice(a, b) for a, b in pairwise([*starts, size])]


class Backend(Protocol):
    """One framework's interpretation of an experiment."""

    name: str
    device: str

    def start(self, parameters: Mapping[str, np.ndarray]) -> None:
        """Take canonical parameters and a fresh optimizer state."""

    def compile(self, capacity: int) -> None:
        """Get ready for calls of up to `capacity` steps; the time goes into compile_seconds."""

    def train(self, steps: Steps) -> StepResults:
        """Take len(steps) steps."""

    def evaluate(self, split: str, statistics: Statistics | None = None) -> Evaluation:
        """Loss, accuracy and predictions on a whole split; None takes the experiment's statistics."""

    def logits(self, split: str, statistics: Statistics | None = None) -> np.ndarray:
        """Logits (N, 10) of a whole split, as `evaluate` computes them, in float32 or float64."""

    def trace(self, steps: Steps) -> dict[str, np.ndarray]:
        """One step's values without taking it; needs len(steps) == 1.

        Keys: `input`, `activation/<layer>` (its output), `loss`, `gradient/<layer>` (of the objective
        with respect to that output), `gradient/<layer>.<parameter>`.
        """

    def export_state(self) -> State:
        """Copies of parameters and optimizer state, canonical."""

    def import_state(self, state: State) -> None:
        """The reverse of `export_state`; an optimizer whose slots are not all there starts fresh."""

    def versions(self) -> dict[str, str]:
        """Package name to version, of what computes here."""


class Together(Protocol):
    """Several runs that one program trains: those of one `triptych.describe.grid.common`."""

    members: Sequence[Backend]
    """One for each run, in the order asked for. One that trains alone leaves the others as they are."""
    width: int
    """How many the device trains at a time: members 0 up to this, the next as many, and so on."""

    def compile(self, capacity: int) -> None:
        """Get ready for calls of up to `capacity` steps."""

    def train(self, steps: Mapping[int, Steps]) -> dict[int, StepResults]:
        """Take the steps of these members (by place), as many for each; the others stay as they are."""


_MODULES: dict[BackendName, str] = {
    "numpy": "numpy_ref.backend",
    "jax": "jax_models.backend",
    "torch": "torch_models.backend",
}


def create(name: BackendName, experiment: Experiment, data: TrainingData, device: Device = "auto") -> Backend:
    """The backend of that name on that device; only its own framework is imported.

    Raises UserError when its packages are missing, or it lacks the device or dtype.
    """
    if name not in _MODULES:
        raise UserError(f"backend: expected one of {', '.join(_MODULES)}, got {name!r}; change --backend")
    backend: Backend = create_module(name).build(experiment, data, device)
    return backend


def make_deterministic(name: BackendName) -> None:
    """Let this process compute the same bits each time on a GPU, too; called before `create`.

    The framework is told for good: there is no way back, nor one run beside another without it. On a CPU
    every run is bitwise repeatable without.
    """
    if name != "numpy" and name in _MODULES:
        create_module(name).make_deterministic()


def create_module(name: BackendName) -> Any:
    """The backend's module; raises UserError when its packages are missing."""
    return _module(name, _MODULES[name])


def _module(name: BackendName, module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise UserError(f"backend {name}: {missing(error)}, or choose another --backend") from None


def create_together(
    name: BackendName, experiments: Sequence[Experiment], data: TrainingData, device: Device = "auto"
) -> Together | None:
    """The runs in one program, or None where the backend trains one at a time."""
    if name != "jax":
        return None
    build = _module(name, "jax_models.sweep").build
    together: Together = build(experiments, data, device)
    return together


@contextmanager
def importing(name: BackendName) -> Iterator[None]:
    """Import a backend in a thread while the body runs: a framework takes as long as reading the data,
    most of which is hashing and leaves Python's lock free. What goes wrong is left for `create` to report,
    but for a framework that is not installed: nobody should download the data first to be told so.
    """
    if name != "numpy" and importlib.util.find_spec(name) is None:
        create_module(name)

    def quietly() -> None:
        with suppress(Exception):
            importlib.import_module(_MODULES[name])

    thread = threading.Thread(target=quietly)
    thread.start()
    try:
        yield
    finally:
        thread.join()


def plan_steps(experiment: Experiment, indices: np.ndarray, first: int) -> Steps:
    """The `Steps` for a table of batches (n, B): adds learning rates, dropout masks and augmentation."""
    count, batch = indices.shape
    seed, data, steps = experiment.training.seed, experiment.data, range(first, first + count)
    masks = {}
    for layer in experiment.layers():
        if layer.traits.drops:
            shape, rate = layer.traits.drops
            stream = f"mask/{layer.name}"
            drawn = [streams.keep_mask(seed, stream, step, (batch, *shape), rate) for step in steps]
            masks[layer.name] = np.stack(drawn)
    shifts = flips = None
    if data.random_crop:
        places = 2 * data.random_crop + 1
        shifts = np.stack([streams.integers(seed, "crop", step, (batch, 2), places) for step in steps])
    if data.random_flip:
        flips = np.stack([streams.keep_mask(seed, "flip", step, (batch,), 0.5) for step in steps])
    return Steps(first, indices, learning_rates(experiment, first, count), masks, shifts, flips)


def no_steps(experiment: Experiment) -> Steps:
    """`Steps` of length 0, with every array that a real one has."""
    one = plan_steps(experiment, np.zeros((1, experiment.data.batch_size), np.int32), 0)
    shifts, flips = (None if array is None else array[:0] for array in (one.shifts, one.flips))
    masks = {name: mask[:0] for name, mask in one.masks.items()}
    return Steps(0, one.indices[:0], one.learning_rates[:0], masks, shifts, flips)


def installed(name: BackendName) -> bool:
    """Whether the backend's framework is there; without a package beside it (optax) `create` is an error."""
    return importlib.util.find_spec(name) is not None
