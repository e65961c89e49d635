"""What an exercise is: its formula, the wrong answers that are known, and the file that a student gets."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Array = np.ndarray
Arrays = dict[str, Any]
"""Inputs or quantities by name."""
Functions = Mapping[str, Callable[..., Any]]
"""The student's, by name."""


class BadShape(Exception):
    """What a student's function returned has not the form that was asked for; says what was expected."""


@dataclass(frozen=True)
class Exercise:
    """A layer: `forward(*inputs)` to (y, cache) and `backward(dy, cache)` to the gradients."""

    name: str
    session: int
    title: str
    equations: str
    stub: str
    inputs: Mapping[str, Any]
    """Name to shape or array, as `parity.verify` takes them; sizes differ, so that a factor has one name."""
    truth: Callable[..., Any]
    right: Callable[[Arrays, Array], Arrays]
    """Inputs and dy to every quantity: `y`, `dx`, ..."""
    wrong: Mapping[str, Callable[[Arrays, Array], Arrays]]
    """A cause to the quantities that it changes."""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    probes: Mapping[str, Callable[[Arrays], Arrays]] = field(default_factory=dict)
    """Further inputs on which causes are looked for, made from the ordinary ones: ties, large numbers."""
    large: str = ""
    """What it means that only the probe `large` differs."""
    without: Sequence[str] = ()
    """Cases of `parity.verify` that make no sense here."""
    factors: Mapping[str, float] = field(default_factory=dict)
    """Names of factors that a wrong answer may be off by."""

    functions: tuple[str, ...] = ("forward", "backward")
    """What the student's file must define."""
    only_output: bool = False
    """Whether nothing but the output is asked for."""

    @property
    def order(self) -> tuple[str, ...]:
        """The arguments of the call."""
        return (*self.inputs, *self.parameters)

    @property
    def gradients(self) -> tuple[str, ...]:
        """What backward returns, in order."""
        every = {**self.inputs, **self.parameters}
        whole = {key for key, given in every.items() if getattr(given, "dtype", np.dtype(float)).kind != "f"}
        return tuple(f"d{key}" for key in self.order if key not in whole)

    def answer(self, functions: Functions, arrays: Arrays, dy: Array | None) -> Arrays:
        """The student's quantities; raises BadShape. Without a dy the output alone."""
        found = functions["forward"](*(arrays[key] for key in self.order))
        if not isinstance(found, tuple) or len(found) != 2:
            raise BadShape(f"forward: expected it to return (y, cache), got {_kind(found)}")
        if dy is None:
            return {"y": found[0]}
        gradients = functions["backward"](dy, found[1])
        gradients = gradients if isinstance(gradients, tuple) else (gradients,)
        if len(gradients) != len(self.gradients) or any(g is None for g in gradients):
            wanted, got = ", ".join(self.gradients), ", ".join(_kind(g) for g in gradients)
            raise BadShape(f"backward: expected it to return {wanted}, got {got}")
        return {"y": found[0], **dict(zip(self.gradients, gradients, strict=True))}

    def for_verify(self, functions: Functions) -> tuple[Callable[..., Any], Callable[..., Any]]:
        """(forward, backward) as `parity.verify` takes them."""
        return functions["forward"], functions["backward"]


@dataclass(frozen=True)
class OutputOnly(Exercise):
    """A function whose value alone is asked for: no gradient is judged."""

    only_output: bool = True
    split: Callable[[Any], Arrays] = lambda y: {"y": y}
    """The value as quantities with names; raises BadShape."""
    joined: Callable[[Any], Array] = np.asarray
    """The value as one array."""

    def answer(self, functions: Functions, arrays: Arrays, dy: Array | None) -> Arrays:
        """The student's quantities."""
        found = functions[self.functions[0]](*(arrays[key] for key in self.order))
        if found is None:
            raise BadShape(f"{self.functions[0]}: it returns nothing")
        return self.split(found)

    def for_verify(self, functions: Functions) -> tuple[Callable[..., Any], Callable[..., Any]]:
        """The value, and zeros for gradients that nobody judges."""

        def forward(*arrays: Array) -> tuple[Array, tuple[Array, ...]]:
            return self.joined(functions[self.functions[0]](*arrays)), arrays

        def backward(dy: Array, cache: tuple[Array, ...]) -> tuple[Array, ...]:
            return tuple(np.zeros_like(array) for array in cache)

        return forward, backward


def _kind(found: Any) -> str:
    if found is None:
        return "nothing (is `return` missing?)"
    return f"{len(found)} values" if isinstance(found, tuple) else f"one {type(found).__name__}"
