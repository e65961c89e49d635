"""Real bugs, planted one at a time into the code that runs: what a harness is worth is what it catches.

`catalogue` says what each bug is and where it must show; `<backend>_side` says how each backend would get
it wrong, as replacements of functions in its own modules. Parity's computations call those functions anew
each time, so the replacement is what runs. A bug is a wrong implementation that works: shapes and dtypes are
right, and nothing crashes.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple
from unittest.mock import patch

from triptych.errors import UserError, missing

FRAMEWORKS = ("numpy", "jax", "torch")


@dataclass(frozen=True)
class Bug:
    """One mistake, whatever the framework."""

    name: str
    """lower-case-with-hyphens, unique."""
    title: str
    """What is wrong, in one line."""
    items: tuple[str, ...]
    """What of `python -m parity check` computes it; the first is what the usual checks are run on."""
    shows_in: tuple[str, ...]
    """Quantities, one of which must fail; of a model by their last word."""
    usual_case: str = ""
    """The case whose inputs the usual checks get; empty: the item's ordinary one."""
    dtypes: tuple[str, ...] = ("float32",)
    """Formats in which it shows."""
    backends: tuple[str, ...] = FRAMEWORKS
    """Where it can be made."""
    group: str = ""


class Patch(NamedTuple):
    """`owner.name` becomes `value`."""

    owner: Any
    name: str
    value: Any


Plantings = Mapping[str, list[Patch]]
"""Bug's name to all that it replaces."""


def plantings(backend: str) -> Plantings:
    """How one backend (or `shared`) gets each bug; raises UserError where its framework is missing."""
    try:
        module = importlib.import_module(f"parity.planted.{backend}_side")
    except ModuleNotFoundError as error:
        raise UserError(f"backend {backend}: {missing(error)}, or choose another --backend") from None
    found: Plantings = module.PLANTINGS
    return found


@contextmanager
def planted(bug: Bug, backend: str) -> Iterator[None]:
    """Inside, the backend has the bug; afterwards, whatever happens, it has not."""
    with ExitStack() as stack:
        for owner, name, value in plantings(backend)[bug.name]:
            stack.enter_context(patch.object(owner, name, value))
        yield
