"""One public porting bug, re-created: what was ported, a right port, the wrong one, and their verdicts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import nn

from parity import Jax, Numpy, Report, Torch, verify, verify_model
from parity.errors import UsageError

Port = Numpy | Jax | Torch
GITHUB = "https://github.com/"


@dataclass(frozen=True)
class Bug:
    """Of a layer, judged by `verify`. The wrong port is written here in our own words, after the report's
    description; no line of it is the report's.
    """

    name: str
    link: str
    """On GitHub: owner/repository/issues/number, or .../pull/number."""
    kind: str
    what: str
    """What went wrong, in one sentence."""
    right: Port
    wrong: Port
    inputs: Mapping[str, Any]
    parameters: Mapping[str, Any] = field(default_factory=dict)
    truth: Callable[..., Any] | None = None
    """The formula. Without one, ports are held to `original`."""
    original: Port | None = None
    cases: Mapping[str, Any] = field(default_factory=dict)
    without: Sequence[str] = ()

    def report(self, port: Port) -> Report:
        """`verify`'s, of the original and this port."""
        original = {} if self.original is None else {"original": self.original}
        return verify(
            self.name,
            inputs=self.inputs,
            parameters=self.parameters,
            truth=self.truth,
            also={**original, "port": port},
            cases=self.cases,
            without=self.without,
        )


@dataclass(frozen=True)
class ModelBug:
    """Of a model, judged by `verify_model`."""

    name: str
    link: str
    kind: str
    what: str
    right: Any
    wrong: Any
    inputs: Mapping[str, Any]
    original: nn.Module
    convert: Callable[[Any], Any] | None = None
    layers: Mapping[str, str] = field(default_factory=dict)

    def report(self, port: Any) -> Report:
        """`verify_model`'s."""
        return verify_model(
            self.name,
            inputs=self.inputs,
            reference=self.original,
            port=port,
            layers=self.layers,
            convert=self.convert,
        )


class Verdict(NamedTuple):
    """What the library says about one port."""

    word: str
    """passed or failed; refused or crashed: an error, and no verdict."""
    line: str
    """The first line of its explanation."""


def judged(bug: Bug | ModelBug, port: Any) -> Verdict:
    """Runs the library as anyone would."""
    try:
        report = bug.report(port)
    except Exception as error:
        word = "refused" if isinstance(error, UsageError) else "crashed"
        return Verdict(word, f"{type(error).__name__}: {str(error).splitlines()[0]}")
    return Verdict("passed" if report.passed else "failed", report.explain().splitlines()[0])
