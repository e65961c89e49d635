"""Items that only a whole backend computes: its start from canonical parameters, and prepared images."""

from __future__ import annotations

import numpy as np

from parity.bounds.rounding import Array
from parity.suite.backends import Computation
from parity.verification.place import Inputs, Outputs, Place, Settings
from triptych.cifar10 import Dataset, preprocess
from triptych.describe.init import initial_parameters as initial
from triptych.describe.network import Model
from triptych.describe.protocol import Backend, Steps, TrainingData, create
from triptych.describe.spec import BackendName, Data, Experiment, Training


def initial_parameters(name: BackendName) -> Computation:
    """Parameters handed to a backend, as it exports them again."""

    def computation(inputs: Inputs, settings: Settings, place: Place) -> Outputs:
        nothing = {"train": np.zeros((1, 3, 32, 32), np.uint8), "test": np.zeros((1, 3, 32, 32), np.uint8)}
        labels = {split: np.zeros(1, np.uint8) for split in nothing}
        data = TrainingData(nothing, labels, np.zeros((3, 32, 32)), None)
        parameters = started(name, place, data, inputs).export_state().parameters
        return {key: parameters[key] for key in inputs}

    return computation


def preprocessing(name: BackendName) -> Computation:
    """A batch as the first layer sees it, from the images of both splits on."""

    def computation(inputs: Inputs, settings: Settings, place: Place) -> Outputs:
        images, labels = inputs["images"], np.zeros(len(inputs["images"]), np.uint8)
        dataset = Dataset(
            images, labels, inputs.get("test_images", images), labels, source="parity", fingerprint=""
        )
        data = preprocess.prepare(dataset, settings["preprocess"])
        rows = np.arange(len(images), dtype=np.int32)[None]
        shifts, flips = (None if key not in inputs else inputs[key][None] for key in ("shifts", "flips"))
        steps = Steps(0, rows, np.ones(1), {}, shifts, flips)
        return {"x": started(name, place, data, border=settings.get("border", 0)).trace(steps)["input"]}

    return computation


def carried(images: Array) -> Array:
    """uint8 as float32, which holds every one of them; anything else as it is, to be found out."""
    return images.astype(np.float32) if images.dtype == np.uint8 else images


def started(
    name: BackendName, place: Place, data: TrainingData, parameters: Inputs | None = None, border: int = 0
) -> Backend:
    """A whole backend with one Linear on the images, at its start; `border` is the random crop's."""
    spec = Experiment(
        model=Model(hidden=()),
        data=Data(batch_size=len(data.labels["train"]), random_crop=border, random_flip=border > 0),
        training=Training(steps=1, dtype=place.number, tf32=place.tf32),
    )
    backend = create(name, spec, data, place.device)
    backend.start(initial(spec) if parameters is None else parameters)
    return backend
