"""What a family says of itself: its items (`Operator`), and its layers as parts of networks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from parity.bounds.bounded import Bounded
from parity.bounds.rounding import Array, Rounding
from parity.suite.draws import Draws
from parity.verification.adapters import Signature
from parity.verification.case import Case
from parity.verification.judge import Item, Truth
from parity.verification.place import Inputs, Settings
from parity.verification.written import Formula, truth_of

NETWORK = ("float64", "float32", "bfloat16")
"""What layers compute in."""
HOST = ("float64",)
"""What is computed once, on the host."""


@dataclass(frozen=True, eq=False)
class Operator:
    """One thing that the backends compute."""

    item: Item
    """Its name, expected values and limits, and formats."""
    cases: Callable[[], Iterable[Case]]
    """Its hand-picked inputs. Those of other items may be among them: several share one stream of numbers."""
    draw: Callable[[Draws], Case] | None = None
    """One case as hypothesis draws it."""


def by_formula(names: tuple[str, ...], forms: Callable[[Settings], Sequence[Formula]]) -> Truth:
    """y and its gradients as parity.formula proves them, of each of the `forms` that the settings give."""

    def expected(inputs: Inputs, settings: Settings, r: Rounding) -> dict[str, Bounded]:
        kinds = {name: getattr(inputs[name], "value", inputs[name]).dtype.kind for name in names}
        signature = Signature(names, (), tuple(name for name in names if kinds[name] == "f"))
        return truth_of(forms(settings), None, signature)(inputs, settings, r)

    return expected


@dataclass(frozen=True, eq=False)
class Held:
    """What one layer of a network holds, by the last part of its names."""

    arrays: Mapping[str, Array]
    """Parameters, running statistics, and a dropout layer's mask as `keep`."""
    r: Rounding
    winograd: bool = False
    """Whether Winograd's convolution is admitted where JAX has it on a CPU."""

    def wide(self, name: str) -> Array:
        """As batch norm sees it: a bfloat16 network holds float32 parameters."""
        return self.r.wide.nearest(self.arrays[name])

    def weight(self) -> Array:
        """As products see it."""
        return self.r.nearest(self.wide("weight"))

    def bias(self) -> Bounded:
        """In bfloat16 it is rounded, or added as the float32 number that it is."""
        held = Bounded.exact(self.wide("bias"), self.r)
        apart = np.abs(self.r.nearest(self.wide("bias")) - held.value).astype(np.float64)
        return Bounded(held.value, held.error + apart, self.r)


@dataclass(frozen=True, eq=False)
class InNetwork:
    """A kind of layer as a part of a network. Its expected values must take inputs that carry errors, and
    give the forward results alone where `dy` is not among the inputs, and no dx where the setting `need_dx`
    is False.
    """

    kind: type[Any]
    """Of triptych.describe.layers."""
    train: Callable[[Any, Held], tuple[Mapping[str, Any], Mapping[str, Any], Truth]]
    """To inputs but for x and dy, settings, and the expected values of a training step."""
    gradients: Mapping[str, str] = field(default_factory=dict)
    """The last part of a parameter's name to its gradient's."""
    statistics: tuple[str, ...] = ()
    """Quantities of a training step that are running statistics."""
    evaluate: Callable[[Any, Held, Bounded, bool], Bounded] | None = None
    """y of x in evaluation, where it is not that of training; the last argument asks for the batch's own
    statistics."""
