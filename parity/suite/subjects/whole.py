"""Items that only a whole backend computes: its start from canonical parameters, and prepared images."""

from __future__ import annotations

import numpy as np

from parity.suite.subjects import Subject, started
from parity.verification.place import Inputs, Outputs, Place, Settings
from triptych.cifar10 import Dataset, preprocess
from triptych.describe.protocol import Steps, TrainingData
from triptych.describe.spec import BackendName


def initial_parameters(name: BackendName) -> Subject:
    """Parameters handed to a backend, as it exports them again."""

    def subject(inputs: Inputs, settings: Settings, place: Place) -> Outputs:
        nothing = {"train": np.zeros((1, 3, 32, 32), np.uint8), "test": np.zeros((1, 3, 32, 32), np.uint8)}
        labels = {split: np.zeros(1, np.uint8) for split in nothing}
        data = TrainingData(nothing, labels, np.zeros((3, 32, 32)), None)
        parameters = started(name, place, data, inputs).export_state().parameters
        return {key: parameters[key] for key in inputs}

    return subject


def preprocessing(name: BackendName) -> Subject:
    """A batch as the first layer sees it, from the images of both splits on."""

    def subject(inputs: Inputs, settings: Settings, place: Place) -> Outputs:
        images, labels = inputs["images"], np.zeros(len(inputs["images"]), np.uint8)
        dataset = Dataset(
            images, labels, inputs.get("test_images", images), labels, source="parity", fingerprint=""
        )
        data = preprocess.prepare(dataset, settings["preprocess"])
        rows = np.arange(len(images), dtype=np.int32)[None]
        shifts, flips = (None if key not in inputs else inputs[key][None] for key in ("shifts", "flips"))
        steps = Steps(0, rows, np.ones(1), {}, shifts, flips)
        return {"x": started(name, place, data, border=settings.get("border", 0)).trace(steps)["input"]}

    return subject
