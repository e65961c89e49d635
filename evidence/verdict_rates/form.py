"""A layer of the table."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from parity import Jax


@dataclass(frozen=True)
class Layer:
    """A torch function; forms and mistakes by a few words, torch functions or `Jax`."""

    name: str
    inputs: Mapping[str, Any]
    first: Callable[..., Any]
    right: Mapping[str, Any]
    wrong: Mapping[str, Any]
    parameters: Mapping[str, Any] = field(default_factory=dict)


def j(function: Callable[..., Any]) -> Jax:
    """Compiled, as most people run it."""
    return Jax(function)


X = {"x": (4, 6)}
IMAGE = {"x": (2, 4, 5, 5)}


def column(a):
    """(C,) beside images (B, C, H, W)."""
    return a[None, :, None, None]
