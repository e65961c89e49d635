"""How each backend computes each item: canonical NumPy arrays in, canonical NumPy arrays out.

A module for each backend, and `shared` for what is computed once for all of them. Its public functions bear
the names of the items, and its table DIFFERENTIATED adds those that a framework differentiates by itself.
Each takes inputs (floating ones already rounded to the judged format), settings and a `Place`, and returns
one array for each expected quantity. They call the backend's functions through their modules, each time anew
and with nothing cached, so that a function replaced in its module is what runs.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from parity.bounds.rounding import SHIPPED
from parity.suite.registry import ITEMS
from parity.verification import adapters
from parity.verification.place import Device, Inputs, Outputs, Place, Settings
from triptych.describe.spec import BackendName
from triptych.errors import UserError, missing

Computation = Callable[[Inputs, Settings, Place], Outputs]

BACKENDS: tuple[BackendName, ...] = ("numpy", "jax", "torch")
SHARED = "shared"
"""Computed once, in NumPy, for all three backends."""


def computations(name: str) -> dict[str, Computation]:
    """By item, what one backend (or SHARED) computes; raises UserError where its framework is missing."""
    module = _module(name)
    found: dict[str, Computation] = dict(getattr(module, "DIFFERENTIATED", {}))
    return found | {item: getattr(module, item) for item in ITEMS if hasattr(module, item)}


def installed(name: str) -> bool:
    """Whether the backend's framework is there; any other missing package is an error of `computations`."""
    return adapters.installed("numpy" if name == SHARED else name)


def devices(name: str) -> list[Device]:
    """What the backend computes on here."""
    found: list[Device] = _optional(name, "devices", lambda: ["cpu"])()
    return found


def shipped(name: str, item: str, device: Device) -> str | None:
    """The format that an item's products have by the framework's documented default, without anything pinned;
    None for a backend without such modes.
    """
    found: str | None = _optional(name, "default_products", lambda item, device: None)(item, device)
    return found and f"{SHIPPED}-{found}"


def unfused(name: str) -> AbstractContextManager[Any]:
    """Inside, the backend computes operation by operation, and the same in every call."""
    context: AbstractContextManager[Any] = _optional(name, "unfused", nullcontext)()
    return context


def forget(name: str) -> None:
    """Let go of programs that the backend compiled: one for each operation and shape takes gigabytes."""
    _optional(name, "forget", lambda: None)()


def _module(name: str) -> Any:
    try:
        return importlib.import_module(f"parity.suite.backends.{name}")
    except ModuleNotFoundError as error:
        raise UserError(f"backend {name}: {missing(error)}, or choose another --backend") from None


def _optional(name: str, attribute: str, otherwise: Callable[..., Any]) -> Callable[..., Any]:
    found: Callable[..., Any] = getattr(_module(name), attribute, otherwise)
    return found
