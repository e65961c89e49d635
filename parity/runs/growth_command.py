"""`python -m parity grow`: whole runs of the study in all backends at once, their curves kept and drawn."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from parity.report.progress import show
from parity.runs import growth, growth_plot
from parity.runs.growth import Growth
from parity.suite.backends import BACKENDS, installed
from triptych import cifar10
from triptych.cifar10.preprocess import prepare
from triptych.describe.catalogue import find
from triptych.describe.layers import Conv2d
from triptych.describe.protocol import TrainingData
from triptych.describe.spec import BackendName, Device, Dtype, Experiment
from triptych.errors import UserError
from triptych.store.files import write_atomically

OUT = Path("runs/parity")
CNN_STEPS, CNN_IMAGES = 200, 2000
"""A convolutional run is followed for so many steps, and predicts so many test images, unless asked
otherwise: in float64 a step takes seconds."""


@dataclass(frozen=True)
class Wanted:
    """One run to follow; None: as the experiment has it, or CNN_STEPS and CNN_IMAGES for a CNN."""

    name: str
    dtype: Dtype
    steps: int | None = None
    test_images: int | None = None
    seed: int = 0

    def resolved(self) -> tuple[Experiment, int | None]:
        """The experiment in its format and length, and how many test images are predicted (None: all)."""
        found = find(self.name).experiment
        steps, images = self.steps, self.test_images
        if any(isinstance(layer, Conv2d) for layer in found.layers()):
            steps, images = steps or CNN_STEPS, images or CNN_IMAGES
        steps = steps or found.training.steps
        training = replace(found.training, dtype=self.dtype, steps=steps, seed=self.seed)
        return replace(found, training=training), images


def grow(
    experiment: tuple[str, ...] = ("fig1",),
    dtype: tuple[Dtype, ...] = ("float64",),
    steps: int | None = None,
    backend: tuple[BackendName, ...] = (),
    seed: int = 0,
    dataset: str = "auto",
    data_dir: Path | None = None,
    test_images: int | None = None,
    device: Device = "cpu",
    out: Path = OUT,
) -> int:
    """Train whole runs in all backends from the same start and follow how their differences grow.

    Beside every backend runs the reference's twin, which only rounding drives: what it reaches, times the
    root of the number of steps, is the limit (docs/parity.md). Writes growth-<experiment>-<dtype>.json and
    .png into the folder `out`. Exit code 0: rounding explains every difference, 1: it does not.

    Args:
        experiment: Runs of the study, such as fig1 fig5 fig7.
        dtype: float64, float32.
        steps: How far; default: the whole run, of a CNN 200 steps.
        backend: Which, two or more; the first is the reference. Default: numpy jax torch, as installed.
        seed: Of the start and the order of batches.
        dataset: As for train.py.
        data_dir: As for train.py.
        test_images: Predict only so many; default: all, with a CNN 2,000.
        device: Where jax and torch compute.
        out: Folder for curves and pictures.
    """
    for name, value in (("steps", steps), ("test_images", test_images)):
        if value is not None and value < 1:
            raise UserError(f"{name}: expected at least 1, got {value}; change --{name.replace('_', '-')}")
    names = backend or tuple(name for name in BACKENDS if installed(name))
    wanted = [Wanted(name, number, steps, test_images, seed) for name in experiment for number in dtype]
    for one in wanted:
        one.resolved()  # a wrong name shows before hours of work
    found = follow(wanted, names, dataset, data_dir, device, out)
    print("\n\n".join(growth.table(one) for one in found))
    return 0 if all(one.passed for one in found) else 1


def follow(
    wanted: Sequence[Wanted],
    backends: Sequence[BackendName],
    dataset: str,
    data_dir: Path | None,
    device: Device,
    out: Path,
) -> list[Growth]:
    """Every wanted run; what each gave is on the disk before the next begins."""
    loaded = cifar10.load(dataset, data_dir)
    origin, found = (loaded.source, loaded.fingerprint), []
    for one in wanted:
        spec, count = one.resolved()
        data = prepare(loaded, spec.data.preprocess, spec.data.validation)
        data = _fewer(data, count) if count else data
        predictions = 1 if count else growth.PREDICTED
        found.append(growth.grow(one.name, spec, data, backends, origin, device, predictions))
        save(found[-1], out)
    show("")
    return found


def save(result: Growth, out: Path, prefix: str = "") -> None:
    """<prefix>growth-<experiment>-<dtype>.json and .png; raises UserError where they cannot be written."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        stem = out / f"{prefix}growth-{result.experiment.replace(' ', '-')}-{result.dtype}"
        document = json.dumps(result.document(), allow_nan=False) + "\n"
        write_atomically(stem.with_suffix(".json"), document.encode())
        write_atomically(stem.with_suffix(".png"), growth_plot.png(result))
    except OSError as error:
        raise UserError(f"out: cannot write into {out} ({error.strerror}); choose another --out") from None


def _fewer(data: TrainingData, count: int) -> TrainingData:
    images, labels = ({**split, "test": split["test"][:count]} for split in (data.images, data.labels))
    return replace(data, images=images, labels=labels)
