"""The bugs, a file for each family: each a mistake that someone has made, or could have."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from parity.planted import Bug
from parity.planted.catalogue import conv, data, dense, loss, network, norm, optim
from triptych.errors import UserError

BUGS: dict[str, Bug] = {
    bug.name: replace(bug, group=family.GROUP)
    for family in (dense, conv, norm, loss, optim, data, network)
    for bug in family.BUGS
}
"""By name, in the order of the kill matrix."""


def find(names: Iterable[str]) -> list[Bug]:
    """These bugs, or all; raises UserError for a name that there is not."""
    names = list(names)
    for name in names:
        if name not in BUGS:
            raise UserError(f"bug: expected a name that --list shows, got {name!r}; change --bug")
    return [BUGS[name] for name in names] or list(BUGS.values())
