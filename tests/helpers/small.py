"""A small experiment, data with planted special points, and the ways to compare what backends give."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from triptych.cifar10.batches import BatchOrder
from triptych.cifar10.preprocess import fit
from triptych.describe.init import initial_parameters
from triptych.describe.network import Model
from triptych.describe.protocol import Backend, Steps, TrainingData, create, plan_steps
from triptych.describe.spec import BackendName, Data, Experiment, Initialization, Optimization, Training
from triptych.describe.state import State

BACKENDS: tuple[BackendName, ...] = ("numpy", "jax", "torch")


def data(train: int = 60, test: int = 37, preprocess: str = "mean-image") -> TrainingData:
    """Random images; 37 test images, so that no evaluation chunk is full."""
    rng = np.random.default_rng(7)
    images = {
        name: rng.integers(0, 256, (n, 3, 32, 32), dtype=np.uint8)
        for name, n in (("train", train), ("test", test))
    }
    labels = {name: rng.integers(0, 10, n, dtype=np.uint8) for name, n in (("train", train), ("test", test))}
    mean, scale = fit(images["train"], preprocess)
    return TrainingData(images, labels, mean, scale)


def experiment(dtype: str = "float64", **parts: object) -> Experiment:
    """Hidden 12 and 8, batch 16, rates that keep raw pixels stable; `parts` replace whole groups."""
    base = Experiment(
        model=Model(hidden=(12, 8), slope=0.02),
        initialization=Initialization(init="framework"),
        optimization=Optimization(learning_rate=1e-3),
        data=Data(batch_size=16),
        training=Training(steps=40, dtype=dtype),  # type: ignore[arg-type]
    )
    return replace(base, **parts)  # type: ignore[arg-type]


def planted(spec: Experiment) -> dict[str, np.ndarray]:
    """Initial parameters whose first hidden unit is exactly 0 for every image: the kink of LeakyReLU."""
    parameters = initial_parameters(spec)
    if not spec.model.hidden:
        return parameters
    parameters["linear1.weight"][0] = 0.0
    parameters["linear1.bias"][0] = 0.0
    return parameters


def steps(spec: Experiment, training: TrainingData, first: int, count: int) -> Steps:
    order = BatchOrder(len(training.labels["train"]), spec.data.batch_size, spec.training.seed)
    return plan_steps(spec, order.table(first, count), first)


def started(name: BackendName, spec: Experiment, training: TrainingData) -> Backend:
    backend = create(name, spec, training, "cpu")
    backend.start(planted(spec))
    return backend


Arrays = State | Mapping[str, np.ndarray]


def named(arrays: Arrays) -> Mapping[str, np.ndarray]:
    """A state's arrays by their names in a checkpoint, or any others as they are."""
    if not isinstance(arrays, State):
        return arrays
    return {str(key): array for key, array in arrays.arrays().items()}


def differences(left: Arrays, right: Arrays) -> dict[str, float]:
    """Largest difference of each array over the largest magnitude in it (or over 1e-300 if all 0)."""
    left, right = named(left), named(right)
    assert left.keys() == right.keys()
    return {
        key: float(np.abs(left[key] - right[key]).max() / max(np.abs(left[key]).max(), 1e-300))
        for key in left
    }


def assert_same(left: Arrays, right: Arrays, limit: float) -> None:
    if isinstance(left, State) and isinstance(right, State):
        assert left.updates == right.updates
    worst = max(differences(left, right).items(), key=lambda item: item[1])
    assert worst[1] <= limit, f"{worst[0]} differs by {worst[1]:.2e} of its largest value"


def same_bits(left: Mapping[str, np.ndarray], right: Mapping[str, np.ndarray]) -> bool:
    """The same names, and of each the same dtype, shape and bytes."""
    return left.keys() == right.keys() and all(
        (left[name].dtype, left[name].shape, left[name].tobytes())
        == (right[name].dtype, right[name].shape, right[name].tobytes())
        for name in left
    )
