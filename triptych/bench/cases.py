"""What can be measured: models, variants, precisions, and which of them go together."""

from __future__ import annotations

import os
import shutil
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from typing import Any

from triptych.cifar10.batches import BatchOrder
from triptych.describe.catalogue import find
from triptych.describe.spec import Device, Dtype, Experiment
from triptych.errors import UserError

MODELS = {"fig1": "fig1", "size7": "size7", "size11": "size11", "size11-bn": "fig5", "cnn": "fig7"}
"""The bench's name for a network and its training to the catalogue's."""

PRECISIONS = ("float32", "tf32", "bfloat16")
"""float32: full precision on both sides. tf32: float32 with TF32 products, a GPU's. bfloat16: bfloat16
products over float32 master weights."""

DEVICES = ("cpu", "gpu")


@dataclass(frozen=True)
class Variant:
    """One way to run a training step."""

    framework: str
    about: str
    devices: tuple[str, ...] = DEVICES
    compiles: bool = False
    """Whether it needs a C compiler (torch.compile does)."""


VARIANTS = {
    "numpy": Variant("numpy", "our NumPy backend, gradients by hand", ("cpu",)),
    "jax": Variant("jax", "our JAX backend, many steps in one compiled call"),
    "jax-step": Variant("jax", "the same, one call a step, its loss read each time"),
    "torch": Variant("torch", "our torch backend: eager, channels-last, fused optimizer"),
    "torch-usual": Variant("torch", "torch's modules as tutorials write them: eager, default optimizer"),
    "torch-best": Variant("torch", "the same modules, channels-last, fused optimizer"),
    "torch-compile": Variant("torch", "torch-best with model and loss under torch.compile", compiles=True),
    "torch-graphs": Variant("torch", "torch-best, the whole step one CUDA graph", ("gpu",)),
    "torch-compile-graphs": Variant("torch", "torch-compile in a CUDA graph", ("gpu",), compiles=True),
}

REFERENCES = ("numpy", "jax", "torch")
"""Variants whose losses the others are held to: the first of these that is measured."""


@dataclass(frozen=True)
class Case:
    """One row of the table."""

    model: str
    variant: str
    batch: int
    precision: str
    device: Device

    @property
    def group(self) -> tuple[str, int, str, str]:
        """What all variants of a comparison share."""
        return self.model, self.batch, self.precision, self.device

    @property
    def family(self) -> tuple[str, int, str]:
        """The same in any precision: these train the same steps."""
        return self.model, self.batch, self.device

    def label(self) -> str:
        """For messages and progress."""
        return f"{self.model} {self.variant} batch {self.batch} {self.precision} {self.device}"

    def experiment(self) -> Experiment:
        """What it trains."""
        described = find(MODELS[self.model]).experiment
        dtype: Dtype = "bfloat16" if self.precision == "bfloat16" else "float32"
        return replace(
            described,
            data=replace(described.data, batch_size=self.batch),
            training=replace(described.training, dtype=dtype, tf32=self.precision == "tf32"),
        )

    def order(self, count: int) -> BatchOrder:
        """The batches over `count` images, the same for every variant."""
        experiment = self.experiment()
        return BatchOrder(count, experiment.data.batch_size, experiment.training.seed)

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def case_of(row: dict[str, Any]) -> Case:
    """The case of a row from JSON."""
    return Case(row["model"], row["variant"], row["batch"], row["precision"], row["device"])


def choose(what: str, names: tuple[str, ...], known: tuple[str, ...]) -> tuple[str, ...]:
    """The names, checked; raises UserError that lists the known ones."""
    for name in names:
        if name not in known:
            option = "--" + what
            raise UserError(f"{what}: expected some of {', '.join(known)}, got {name!r}; change {option}")
    if not names:
        raise UserError(f"{what}: expected some of {', '.join(known)}, got none")
    return names


def at_least(least: int, **options: int) -> None:
    """Raises UserError for an option below `least`."""
    for name, value in options.items():
        if value < least:
            raise UserError(f"{name}: expected at least {least}, got {value}; change --{name}")


def obstacle(variant: str, precision: str, device: str) -> str | None:
    """Why this combination cannot be measured here, or None. Whether the device exists is for the framework
    to say, in a process of its own.
    """
    described = VARIANTS[variant]
    if find_spec(described.framework) is None:
        return f"{described.framework} is not installed"
    if device not in described.devices:
        return f"{variant} runs on {', '.join(described.devices)} only"
    if variant == "numpy" and precision != "float32":
        return f"NumPy has no {precision} products"
    if precision == "tf32" and device != "gpu":
        return "TF32 is a GPU's; use float32"
    if described.compiles and c_compiler() is None:
        return "torch.compile needs a C++ compiler (g++ or clang++ on the PATH, or $CXX)"
    return None


def c_compiler() -> str | None:
    """The compiler that torch.compile will find, or None."""
    named = os.environ.get("CXX")
    names = (named,) if named else ("g++", "clang++", "c++")
    return next((path for name in names if (path := shutil.which(name))), None)
