"""The checks that one would reach for, each with its defaults, on the same code as parity's own.

A backend's forward and backward pass (a parity subject, `Pair`) is wrapped as a `torch.autograd.Function`
for torch's checks and as a `jax.custom_vjp` for JAX's and chex's. Inputs are those of the item's ordinary
case, random and without planted zeros or ties. gradcheck gets float64, which it asks for; check_grads and
chex get float32, JAX's default, and reverse mode alone, since a hand-written backward has no forward mode.
The two that compare arrays get every quantity of the item beside another backend's correct one.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from importlib.util import find_spec
from typing import Any

import numpy as np

from parity.bounds.rounding import rounding
from parity.planted import Bug
from parity.planted.usual_views import (
    ALIKE,
    ARRAYS_ONLY,
    NO_REFERENCE,
    PATHS,
    VIEWS,
    ModelSubject,
    Pair,
    View,
)
from parity.suite.backends import SHARED, Computation, computations, installed
from parity.suite.registry import cases_of
from parity.verification.case import Case
from parity.verification.place import Outputs, Place

MODEL = Case("model", "one step", {})
OF_MODEL = {"loss ds", "y", "dx", "dW", "db", "dgamma", "dbeta"}
"""What a gradient of a model's loss is made of."""
CAUGHT, MISSED, NOT_APPLICABLE, FALSE_ALARM = "caught", "missed", "not applicable", "false alarm"


# --- the checks: each raises where it sees a difference -------------------------------------------


def _gradcheck(pair: Callable[[str], Pair], **options: Any) -> None:
    import torch
    from torch.autograd.gradcheck import GradcheckError

    chosen = pair("float64")

    class Function(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *tensors: torch.Tensor) -> torch.Tensor:
            ctx.save_for_backward(*tensors)
            with torch.enable_grad():  # a subject may use autograd itself
                y = chosen.forward(*(tensor.detach().numpy() for tensor in tensors))
            return torch.from_numpy(np.array(y))

        @staticmethod
        def backward(ctx: Any, *dy: Any) -> Any:
            arrays = [tensor.detach().numpy() for tensor in ctx.saved_tensors]
            with torch.enable_grad():
                found = chosen.backward(dy[0].numpy(), *arrays)
            return tuple(torch.from_numpy(np.array(gradient)) for gradient in found)

    arguments = [torch.from_numpy(array.copy()).requires_grad_() for array in chosen.arguments()]
    try:
        torch.autograd.gradcheck(Function.apply, arguments, **options)
    except GradcheckError as error:
        raise AssertionError(str(error)) from None


def _jax_function(pair: Pair) -> Callable[..., Any]:
    import jax
    import jax.numpy as jnp

    def forward(*arrays: Any) -> Any:
        return jnp.asarray(pair.forward(*map(np.asarray, arrays)))

    def keep(*arrays: Any) -> Any:
        return forward(*arrays), arrays

    def pull(arrays: Any, dy: Any) -> Any:
        return tuple(map(jnp.asarray, pair.backward(np.asarray(dy), *map(np.asarray, arrays))))

    function = jax.custom_vjp(forward)
    function.defvjp(keep, pull)
    found: Callable[..., Any] = function
    return found


def _by_differences(check: str, attribute: str, pair: Callable[[str], Pair]) -> None:
    chosen = pair("float32")
    function = getattr(importlib.import_module(check), attribute)
    function(_jax_function(chosen), chosen.arguments(), order=1, modes=("rev",))


def _assert_close(actual: Outputs, expected: Outputs, dtype: str) -> None:
    import torch

    for name, array in expected.items():
        found, wanted = (torch.from_numpy(np.array(a)) for a in (actual[name], array))
        if dtype == "bfloat16":
            found, wanted = found.bfloat16(), wanted.bfloat16()
        try:
            torch.testing.assert_close(found, wanted)
        except AssertionError as error:
            raise AssertionError(f"{name}: {error}") from None


def _trees_close(actual: Outputs, expected: Outputs, dtype: str) -> None:
    import chex

    chex.assert_trees_all_close({name: actual[name] for name in expected}, dict(expected))


OF_GRADIENTS: dict[str, Callable[[Callable[[str], Pair]], None]] = {
    "torch gradcheck": _gradcheck,
    "gradcheck, fast mode": partial(_gradcheck, fast_mode=True),
    "jax check_grads": partial(_by_differences, "jax.test_util", "check_grads"),
    "chex numerical_grads": partial(_by_differences, "chex", "assert_numerical_grads"),
}
OF_ARRAYS: dict[str, Callable[[Outputs, Outputs, str], None]] = {
    "torch assert_close": _assert_close,
    "chex trees_all_close": _trees_close,
}
CHECKS = (*OF_GRADIENTS, *OF_ARRAYS)
"""Their names, in the order of the kill matrix."""


# --- verdicts --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Verdicts:
    """What each check says, and why where it cannot."""

    words: dict[str, str] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Usual:
    """The usual checks of one backend's item, on one case and in one format of arrays."""

    item: str
    backend: str
    case: Case
    view: View | None
    dtype: str
    expected: Outputs | None
    """Another backend's correct arrays."""

    @property
    def key(self) -> tuple[object, ...]:
        """Alike for what need not be run again with nothing planted."""
        return self.item, self.backend, self.case.name, self.dtype, self.view is None

    def run(self) -> dict[str, str]:
        """Check to what it has to say of the code as it is now: "" where it is satisfied."""
        found: dict[str, str] = {}
        if self.view is not None:
            # Made anew: a whole backend may hold what was compiled before.
            subject = _subject(self.item, self.backend)
            view, case = _resolved(self.view, self.case, subject)
            pair = partial(Pair, subject, view, case)
            found |= {name: _said(check, pair) for name, check in OF_GRADIENTS.items() if _has(name)}
        if self.expected is not None:
            both = arrays(self.item, self.backend, self.case, self.dtype), self.expected, self.dtype
            found |= {name: _said(check, *both) for name, check in OF_ARRAYS.items() if _has(name)}
        return found


def usual(bug: Bug, backend: str) -> Usual:
    """The checks that a bug is shown to. Call it while nothing is planted."""
    item = next(name for name in bug.items if name == "model" or name in computations(backend))
    dtype, view = bug.dtypes[0], VIEWS.get(item)
    seen = set() if view is None else {view.output, *view.arguments.values()}
    if item == "model":
        seen = OF_MODEL
    if dtype == "bfloat16" or not seen & set(bug.shows_in):
        view = None
    if item in NO_REFERENCE:
        return Usual(item, backend, cases_of(item)[0], None, dtype, None)
    name = bug.usual_case or (VIEWS[item].case if item in VIEWS else ARRAYS_ONLY[item][0])
    case = MODEL if item == "model" else next(c for c in cases_of(item) if c.name == name)
    return Usual(item, backend, case, view, dtype, _reference(item, backend, case, dtype))


def verdicts(bug: Bug, checks: Usual, before: Mapping[str, str], planted: Mapping[str, str]) -> Verdicts:
    """From what each check said without the bug and with it."""
    found = Verdicts()
    for name in CHECKS:
        if name not in planted:
            found.words[name], found.reasons[name] = NOT_APPLICABLE, _why_not(bug, checks, name)
        elif before[name]:
            found.words[name], found.reasons[name] = FALSE_ALARM, before[name]
        else:
            found.words[name] = CAUGHT if planted[name] else MISSED
    return found


def _why_not(bug: Bug, checks: Usual, name: str) -> str:
    if not _has(name):
        return f"{_package(name)} is not installed"
    if checks.item in NO_REFERENCE:
        return NO_REFERENCE[checks.item]
    if name in OF_ARRAYS:
        return "no other backend is installed to compare with"
    if checks.item in ARRAYS_ONLY:
        return ARRAYS_ONLY[checks.item][1]
    if bug.dtypes[0] == "bfloat16":
        return "finite differences need more than bfloat16's 8 bits"
    return f"{', '.join(bug.shows_in)} is no gradient"


def _said(check: Callable[..., None], *arguments: Any) -> str:
    """The first line of what a check raises."""
    try:
        check(*arguments)
    except AssertionError as error:
        return next((line.strip() for line in str(error).splitlines() if line.strip()), "differs")
    return ""


def _package(check: str) -> str:
    return "torch" if check.startswith("gradcheck") else check.split()[0]


def _has(check: str) -> bool:
    return find_spec(_package(check)) is not None


def _subject(item: str, backend: str) -> Computation:
    return ModelSubject(backend) if item == "model" else computations(backend)[item]


def _resolved(view: View, case: Case, subject: Any) -> tuple[View, Case]:
    """Of an item the arguments that the case has; of a model its smaller parameters."""
    if case.item != "model":
        arguments = {name: d for name, d in view.arguments.items() if name in case.inputs}
        return replace(view, arguments=arguments), case
    parameters = subject.small_parameters()
    arguments = {name: f"gradient/{name}" for name in parameters}
    return View("", "loss", arguments, ""), Case("model", case.name, parameters)


def arrays(item: str, backend: str, case: Case, dtype: str) -> Outputs:
    """All that a backend gives on a case."""
    with np.errstate(all="ignore"):
        place = Place(dtype, eager=True)
        found = _subject(item, backend)(case.arrays(rounding(dtype)), case.settings, place)
    return {name: array for name, array in found.items() if name not in PATHS}


@lru_cache(maxsize=128)
def _reference(item: str, backend: str, case: Case, dtype: str) -> Outputs | None:
    """The correct arrays of another backend; of what is computed once, its own."""
    if backend == SHARED:
        return arrays(item, SHARED, case, dtype)
    for other in ("numpy", "torch", "jax"):
        unable = other == "numpy" and dtype == "bfloat16"
        if other != backend and installed(other) and not unable:
            for found in (item, ALIKE.get(item, item)):
                if found == "model" or found in computations(other):
                    return arrays(found, other, case, dtype)
    return None
