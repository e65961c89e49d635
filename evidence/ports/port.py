"""One model: torch's, the port, and how the port may go wrong."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx
from torch import nn

from parity import Report, verify_model


class Mistake(NamedTuple):
    """In a port; by its name the port's code knows what to do wrong."""

    name: str
    layer: str
    """That the report must name first."""
    training: bool = False


@dataclass(frozen=True)
class Ported:
    """A model with a right port, and its mistakes."""

    name: str
    inputs: Mapping[str, Any]
    reference: Callable[[], nn.Module]
    port: Callable[[nn.Module, str], nnx.Module]
    mistakes: Sequence[Mistake]
    modes: Sequence[bool] = (False,)
    """In which the right port is judged: training or not."""

    def pair(self, mistake: Mistake) -> tuple[nn.Module, nnx.Module]:
        """The reference, and a port of it with this mistake."""
        torch.manual_seed(0)
        reference = self.reference().train(mistake.training)
        return reference, self.port(reference, mistake.name)

    def judged(
        self,
        mistake: Mistake,
        dtypes: Sequence[str] = ("float64",),
        pair: tuple[nn.Module, nnx.Module] | None = None,
    ) -> Report:
        """No layer is named by hand, and nothing said of how parameters belong together."""
        reference, port = pair or self.pair(mistake)
        training = None if mistake.name == "left in training mode" else mistake.training
        return verify_model(
            self.name,
            inputs=self.inputs,
            reference=reference,
            port=port,
            training=training,
            dtypes=dtypes,
        )


class Row(NamedTuple):
    """What came of one port."""

    model: str
    mistake: str
    passed: bool
    layer: str
    wanted: str
    said: str
    seconds: float

    @property
    def right(self) -> bool:
        return self.passed if not self.mistake else not self.passed and self.layer == self.wanted


def row(ported: Ported, mistake: Mistake, dtypes: Sequence[str] = ("float64",)) -> Row:
    start = time.perf_counter()
    report = ported.judged(mistake, dtypes)
    said = report.own[0] if report.own else report.explain().splitlines()[0]
    name = mistake.name or ("training" if mistake.training else "")
    seconds = round(time.perf_counter() - start, 1)
    return Row(
        ported.name, name if mistake.name else "", report.passed, report.first, mistake.layer, said, seconds
    )


def rows(ported: Ported, mistakes: Sequence[Mistake] | None = None) -> list[Row]:
    """The right port in both formats, then each mistake in float64."""
    right = [row(ported, Mistake("", "", mode), ("float64", "float32")) for mode in ported.modes]
    return right + [row(ported, one) for one in (ported.mistakes if mistakes is None else mistakes)]


def arrays(reference: nn.Module) -> dict[str, Any]:
    return {key: tensor.detach().numpy() for key, tensor in reference.state_dict().items()}


def filled(model: nnx.Module, values: Mapping[str, Any]) -> nnx.Module:
    """The port with these values, by dotted paths; raises KeyError for a path that is not there."""
    variables = {".".join(map(str, path)): one for path, one in nnx.to_flat_state(nnx.state(model))}
    for key, array in values.items():
        if variables[key].get_value().shape != np.shape(array):
            raise ValueError(f"{key}: expected {variables[key].get_value().shape}, got {np.shape(array)}")
        variables[key].set_value(jnp.asarray(np.ascontiguousarray(array)))
    nnx.update(
        model, nnx.from_flat_state([(tuple(_part(p) for p in k.split(".")), v) for k, v in variables.items()])
    )
    return model


def _part(text: str) -> Any:
    return int(text) if text.isdigit() else text


def dense(p: Mapping[str, Any], theirs: str, own: str) -> dict[str, Any]:
    """A linear layer's arrays."""
    found = {f"{own}.kernel": p[f"{theirs}.weight"].T}
    return found | ({f"{own}.bias": p[f"{theirs}.bias"]} if f"{theirs}.bias" in p else {})


def norm(p: Mapping[str, Any], theirs: str, own: str) -> dict[str, Any]:
    """A layer norm's, or a batch norm's with its statistics."""
    found = {f"{own}.scale": p[f"{theirs}.weight"], f"{own}.bias": p[f"{theirs}.bias"]}
    if f"{theirs}.running_mean" in p:
        found |= {f"{own}.mean": p[f"{theirs}.running_mean"], f"{own}.var": p[f"{theirs}.running_var"]}
    return found
