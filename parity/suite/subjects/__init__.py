"""How each backend computes each item: canonical NumPy arrays in, canonical NumPy arrays out.

A subject takes inputs (floating ones already rounded to the judged format), settings and a `Place`, and
returns one array for each quantity of the item's truth. It calls the backend's functions through their
modules, each time anew and with nothing cached, so that a function replaced in its module is what runs.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np

from parity.bounds.rounding import SHIPPED
from parity.verification import adapters
from parity.verification.place import Inputs, Outputs, Place, Settings
from triptych.describe.init import initial_parameters
from triptych.describe.network import Model
from triptych.describe.protocol import Backend, TrainingData, create
from triptych.describe.spec import BackendName, Data, Device, Experiment, Training
from triptych.errors import UserError

Array = np.ndarray[Any, Any]
Subject = Callable[[Inputs, Settings, Place], Outputs]

BACKENDS: tuple[BackendName, ...] = ("numpy", "jax", "torch")
SHARED = "shared"
"""Computed once, in NumPy, for all three backends."""


def subjects(name: str) -> dict[str, Subject]:
    """Item to subject of one backend (or SHARED); raises UserError where its framework is not installed."""
    try:
        module = importlib.import_module(f"parity.suite.subjects.{name}_side")
    except ModuleNotFoundError as error:
        raise UserError(
            f"backend {name}: the package {error.name!r} is not installed; install it "
            "(pip install -r requirements.txt) or choose another --backend"
        ) from None
    found: dict[str, Subject] = module.SUBJECTS
    return found


def installed(name: str) -> bool:
    """Whether the backend's framework is there; any other missing package is an error of `subjects`."""
    return adapters.installed("numpy" if name == SHARED else name)


def devices(name: str) -> list[Device]:
    """What the backend computes on here."""
    module = importlib.import_module(f"parity.suite.subjects.{name}_side")
    found: list[Device] = module.devices()
    return found


def shipped(name: str, item: str, device: Device) -> str | None:
    """The format that an item's products have by the framework's documented default, without anything pinned;
    None for a backend without such modes.
    """
    module = importlib.import_module(f"parity.suite.subjects.{name}_side")
    found: Callable[[str, Device], str] | None = getattr(module, "default_products", None)
    return None if found is None else f"{SHIPPED}-{found(item, device)}"


def unfused(name: str) -> AbstractContextManager[Any]:
    """Inside, the backend computes operation by operation."""
    module = importlib.import_module(f"parity.suite.subjects.{name}_side")
    context: AbstractContextManager[Any] = getattr(module, "unfused", nullcontext)()
    return context


def carried(images: Array) -> Array:
    """uint8 as float32, which holds every one of them; anything else as it is, to be found out."""
    return images.astype(np.float32) if images.dtype == np.uint8 else images


def forget(name: str) -> None:
    """Let go of programs that the backend compiled: one for each operation and shape takes gigabytes."""
    module = importlib.import_module(f"parity.suite.subjects.{name}_side")
    getattr(module, "forget", lambda: None)()


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
    backend.start(initial_parameters(spec) if parameters is None else parameters)
    return backend
