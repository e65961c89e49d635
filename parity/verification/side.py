"""One side of a port, in whichever framework: what goes in, and everything that comes out of one pass.

A `Side` is a model with its parameters as NumPy arrays by name. A pass returns a `Trace`: the output, what
every layer gave, and the gradient of each of these, of the inputs and of the parameters from a random
upstream gradient; and buffers, which a pass in training mode may change.

Layers are named by their path, `path[k]` for call k and `path[k]:i` for part i of several outputs. A pass may
be forced: a layer's output is replaced by a given activation, and a given upstream gradient goes into it. So
each layer is fed what the other model computed, and shows its own mistakes alone.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol

from parity.bounds.rounding import Array
from parity.errors import UsageError
from parity.verification.adapters import Pick, called, is_framework
from parity.verification.place import Inputs, Place

Arrays = dict[str, Array]
Forced = Mapping[str, tuple[Array, Array]]
"""Layer to its output and the upstream gradient of it."""


@dataclass
class Trace:
    """All that one pass computes."""

    output: Array
    activations: Arrays = field(default_factory=dict)
    """In the order in which layers return."""
    gradients: Arrays = field(default_factory=dict)
    """Of activations."""
    inputs: Arrays = field(default_factory=dict)
    """The gradients of floating inputs."""
    parameters: Arrays = field(default_factory=dict)
    """The gradients of parameters, by the side's own names."""
    buffers: Arrays = field(default_factory=dict)
    """After the pass."""
    entries: Arrays = field(default_factory=dict)
    """What goes into each layer, of a forced pass."""
    whole: bool = True
    """Whether gradients were taken: not where the output's shape is not the upstream gradient's."""


class Run(Protocol):
    def __call__(
        self, state: Inputs, inputs: Inputs, dy: Array | None, place: Place, forced: Forced | None = None
    ) -> Trace: ...


@dataclass(eq=False)
class Side:
    """A model. Its state holds parameters and buffers in float64, integers as they are."""

    name: str
    framework: str
    state: Callable[[], Inputs]
    """Made anew by each call, so that a large model's is not kept."""
    parameters: tuple[str, ...]
    run: Run
    flatten: Callable[[Any], Arrays]
    """What `convert` returns, to a state."""
    channels_last: bool = False
    """Whether images come with channels last, by the framework's habit."""
    aliases: Mapping[str, str] = field(default_factory=dict)
    """Further names of tied parameters, to the first."""
    rows_kept: Mapping[str, int] = field(default_factory=dict)
    """Rows of embeddings that stay 0."""
    blurred: Callable[[], Side | None] = lambda: None
    """The same model with the last digits of its float32 tables changed, where its state lacks them."""
    told: str = ""
    """The model's settings in words; two models of one state may differ in them."""
    within: Callable[[], Any] = nullcontext
    """In which `convert` is called: JAX needs its 64-bit types there."""
    order: Callable[[Inputs, Inputs], list[str]] | None = None
    """The calls of a pass without their numbers, where that is cheaper."""
    traced: bool = True
    """Whether layers can be recorded and forced; of a function only what it returns is seen."""

    def calls(self, state: Inputs, inputs: Inputs) -> list[str]:
        """In the order in which they return."""
        if self.order is not None:
            return self.order(state, inputs)
        return list(self.run(state, inputs, None, Place("float32")).activations)


class Recorder:
    """Names what layers give, as they give it."""

    def __init__(self) -> None:
        self.calls, self.entered = dict[str, int](), dict[str, int]()

    def enter(self, path: str, leaves: list[Any], each: Callable[[str, Any], Any]) -> None:
        """Shows the first of a layer's inputs."""
        number = self.entered.get(path, 0)
        self.entered[path] = number + 1
        for leaf in leaves[:1]:
            each(f">{path}[{number}]", leaf)

    def take(self, path: str, leaves: list[Any], each: Callable[[str, Any], Any]) -> list[Any]:
        """What goes on in place of a layer's outputs."""
        number = self.calls.get(path, 0)
        self.calls[path] = number + 1
        return [each(f"{path}[{number}]" + (f":{i}" if i else ""), leaf) for i, leaf in enumerate(leaves)]


def path_of(call: str) -> str:
    """The layer's path."""
    return call.partition("[")[0]


def shown(call: str, calls: Mapping[str, Any]) -> str:
    """A call's name without [0] where there is no other."""
    path, _, rest = call.partition("[")
    return call if f"{path}[1]" in calls else path + rest.partition("]")[2]


def asked(name: str, who: str, calls: Mapping[str, Any]) -> str:
    """The call that a user's name means; raises UsageError where there is none or more than one."""
    if name in calls:
        return name
    path, _, part = name.partition(":")
    call = f"{path}[0]" + (f":{part}" if part else "")
    if "[" not in path and call in calls:
        if f"{path}[1]" in calls:
            count = sum(path_of(other) == path and ":" not in other for other in calls)
            raise UsageError(
                f"{who}: {path} is called more than once in a pass ({count} times); say which call is meant, "
                f"such as {path}[0] or {path}[1]"
            )
        return call
    known = sorted({path_of(other) for other in calls})
    raise UsageError(
        f"layers: {who}: {path_of(path)} is never called as a module (its parent uses its weights, or takes "
        f"another path), or not in this model; expected one of {known}"
    )


def outputs_of(found: Any) -> Iterator[tuple[str, Any]]:
    """The activations that a function returns by name: a list is one entry for each call."""
    for name, value in found.items():
        if name != "output":
            values = value if isinstance(value, list | tuple) else [value]
            yield from ((f"{name}[{k}]", one) for k, one in enumerate(values))


def built(name: str, given: Any, output: Pick, keywords: tuple[str, ...], training: bool | None) -> Side:
    """A side from what a user gives, or a recorded one; raises UsageError for anything else."""
    if isinstance(given, Side):
        return given
    first = given[0] if isinstance(given, tuple) and given else given
    if is_framework(given, "torch.nn", "Module"):
        adapter = "torch_model"
    elif is_framework(given, "flax.nnx", "Module") or is_framework(first, "flax.linen", "Module"):
        adapter = "flax_model"
    elif all(callable(getattr(given, key, None)) for key in ("forward", "backward")):
        adapter = "numpy_model"
    elif callable(first) and not isinstance(first, type):
        adapter = "jax_model"
    else:
        raise UsageError(
            f"{name}: expected a torch module, a Flax NNX module, (linen module, variables), a JAX function "
            "of (parameters, *inputs) or (function, parameters), or an object with forward and backward in "
            f"NumPy, got {type(given).__name__}"
        )
    try:
        module = importlib.import_module(f"parity.verification.adapters.{adapter}")
    except ModuleNotFoundError as error:
        raise UsageError(f"{name}: the package {error.name!r} is not installed; install it") from None
    found: Side = called(name, module.side, name, given, output, keywords, training)
    return found
