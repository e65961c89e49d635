"""Real bugs, planted one at a time into the code that runs: what a harness is worth is what it catches.

`catalogue` has the bugs, a file for each family: what each is, where it must show, and the edit of shipped
lines that makes it in each backend. A bug is a wrong implementation that works: shapes and dtypes are right,
and nothing crashes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from parity.planted import edits
from parity.planted.edits import Edits

FRAMEWORKS = ("numpy", "jax", "torch")


@dataclass(frozen=True)
class Bug:
    """One mistake, and how each backend gets it."""

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
    numpy: Edits = ()
    jax: Edits = ()
    torch: Edits = ()
    shared: Edits = ()
    """In what is computed once for all three."""
    group: str = ""

    @property
    def edits(self) -> dict[str, Edits]:
        """By backend, where it can be made."""
        found = {name: getattr(self, name) for name in (*FRAMEWORKS, "shared")}
        return {name: each for name, each in found.items() if each}


@contextmanager
def planted(bug: Bug, backend: str) -> Iterator[None]:
    """Inside, the backend has the bug; afterwards, whatever happens, it has not."""
    with edits.planted(bug.edits[backend]):
        yield
