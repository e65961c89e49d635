"""What a search finds: single judgements in the order of computation, and the first divergence."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from parity.bounds.rounding import Array
from parity.verification.judge import Result

Kind = Literal[
    "start",
    "state",
    "data",
    "schedule",
    "forward",
    "loss",
    "backward",
    "optimizer state",
    "parameters",
    "running statistics",
    "record",
]
"""start: initial parameters. state: what was put in does not come out again. data: the batch as the first
layer sees it. schedule: learning rates. record: what a run wrote down is not what its backend computes."""


@dataclass(frozen=True, eq=False)
class Finding:
    """One quantity of one step of one side, judged."""

    order: tuple[int, ...]
    """Findings sort by it as they are computed: data, forward, loss, backward, update, statistics."""
    kind: Kind
    layer: str
    quantity: str
    result: Result
    actual: Array
    expected: Array
    compiled: bool = False
    """Of the step as one compiled program, where the other findings are of single operations."""


@dataclass(frozen=True)
class Divergence:
    """The first place where two sides differ by more than rounding."""

    step: int
    """Counted from 1; 0 is the start."""
    kind: Kind
    layer: str
    """Empty where it belongs to no layer."""
    quantity: str
    """y, dx, dW, first_moment, ... as docs/locate.md lists them."""
    side: Literal["left", "right", "both"]
    """Who departs from the truth by LEFT's settings."""
    share: float
    """Error over limit."""
    index: tuple[int, ...] = ()
    """The worst element; then what it is, what it should be, and how far it may be from that."""
    actual: float = float("nan")
    truth: float = float("nan")
    limit: float = float("nan")
    local: float = float("nan")
    """The sides' relative difference in this quantity, both computing from LEFT's state."""
    inherited: float = float("nan")
    """The largest relative difference of an array before this step, each side running freely."""
    inherited_in: str = ""
    note: str = ""
    also: tuple[str, ...] = ()
    """What else lies beyond its limit in the same step: consequences, or further faults."""


@dataclass(frozen=True)
class Report:
    """What a search says."""

    left: str
    right: str
    first: int
    last: int
    """Steps searched: first + 1 .. last, counted from 1."""
    divergence: Divergence | None
    settings: tuple[str, ...] = ()
    """Settings in which the two differ."""
    judged: int = 0
    """Steps judged layer by layer; the others by their outcome."""
    share: float = 0.0
    """The largest share of a limit that was used where nothing diverged, and where."""
    share_at: str = ""
    inherited: float = float("nan")
    """The free runs' largest relative difference at the end, and in which array."""
    inherited_in: str = ""
    notes: tuple[str, ...] = field(default=())
