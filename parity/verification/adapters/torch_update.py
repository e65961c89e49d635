"""torch optimizers with their parameter groups and schedulers; and own update functions of tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from parity.bounds.rounding import Array
from parity.errors import UsageError
from parity.verification.adapters import Torch
from parity.verification.adapters.torch import precision, put, recording, to_numpy
from parity.verification.place import Place
from parity.verification.side import Arrays
from parity.verification.update.history import (
    EXPECTED,
    Snapshot,
    Stepper,
    Updater,
    as_kept,
    checked,
    during,
    own_parts,
)


def updater(name: str, given: Any) -> Updater:
    """`Torch(function)` of tensors; otherwise a function of the parameters that makes an optimizer."""
    start = _own(name, given.function) if isinstance(given, Torch) else _optimizer(name, given)
    return Updater(name, "torch", start, to_array)


@contextmanager
def _within(place: Place) -> Iterator[None]:
    with recording(0), precision(place):  # one thread: elementwise steps gain nothing by a second
        yield


def _optimizer(name: str, make: Callable[..., Any]) -> Callable[[Arrays, Place], Stepper]:
    def start(parameters: Arrays, place: Place) -> Stepper:
        shapes = {key: array.shape for key, array in parameters.items()}
        held = {key: nn.Parameter(put(array.copy(), place)) for key, array in parameters.items()}
        with _within(place), during(name, 0, shapes):
            optimizer, advance = _parts(name, make(dict(held)), held)

        def step(number: int, gradients: Arrays) -> Snapshot:
            for key, leaf in held.items():
                leaf.grad = put(gradients[key].copy(), place).to(leaf.dtype)
            rates = _rates(optimizer)
            with _within(place), during(name, number, shapes):
                advance()
            state: dict[Any, Any] = {
                (slot, key): value
                for key, leaf in held.items()
                for slot, value in optimizer.state.get(leaf, {}).items()
            }
            return Snapshot(held, state, rates)

        return step

    return start


def _parts(
    name: str, found: Any, held: Mapping[str, nn.Parameter]
) -> tuple[torch.optim.Optimizer, Callable[[], Any]]:
    """The optimizer, and what a step of training calls."""
    optimizer, *after = found if isinstance(found, tuple) else (found,)
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise UsageError(f"{name}: {EXPECTED}; the function gave a {type(optimizer).__name__}")
    its = {id(leaf) for group in optimizer.param_groups for leaf in group["params"]}
    if not its & {id(leaf) for leaf in held.values()}:
        raise UsageError(f"{name}: the optimizer holds none of the parameters that the function was given")
    if len(after) == 1 and not hasattr(after[0], "step") and callable(after[0]):
        return optimizer, after[0]
    if not all(callable(getattr(one, "step", None)) for one in after):
        raise UsageError(f"{name}: {EXPECTED}; got {[type(one).__name__ for one in after]} after it")

    def advance() -> None:
        optimizer.step()
        for one in after:
            one.step()

    return optimizer, advance


def _rates(optimizer: torch.optim.Optimizer) -> dict[str, float]:
    """Of the coming step: one where all groups have the same."""
    rates = [float(group["lr"]) for group in optimizer.param_groups if "lr" in group]
    if len(set(rates)) <= 1:
        return {"lr": rates[0]} if rates else {}
    return {f"lr of group {i}": rate for i, rate in enumerate(rates)}


def _own(name: str, given: Any) -> Callable[[Arrays, Place], Stepper]:
    init, update = own_parts(name, given)

    def start(parameters: Arrays, place: Place) -> Stepper:
        shapes = {key: array.shape for key, array in parameters.items()}
        held: Any = {key: put(array.copy(), place) for key, array in parameters.items()}
        with _within(place), during(name, 0, shapes):
            state: Any = {} if init is None else init(dict(held))

        def step(number: int, gradients: Arrays) -> Snapshot:
            nonlocal held, state
            given = {key: put(gradient.copy(), place) for key, gradient in gradients.items()}
            with _within(place), during(name, number, shapes), torch.no_grad():
                held, state = checked(name, number, update(dict(held), given, state, number), shapes)
            return Snapshot(held, state)

        return step

    return start


def to_array(leaf: Any) -> Array | None:
    if isinstance(leaf, Tensor):
        found = to_numpy(leaf.float() if leaf.dtype == torch.float16 else leaf)
        low = leaf.dtype in (torch.bfloat16, torch.float16)
        return as_kept(found, str(leaf.dtype).removeprefix("torch.")) if low else found
    if isinstance(leaf, bool | str) or not isinstance(leaf, np.ndarray | np.generic | int | float):
        return None
    return np.asarray(leaf)
