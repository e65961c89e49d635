"""All families together: every item, its cases, and every kind of layer. Nothing else lists them."""

from __future__ import annotations

from functools import cache

from parity.suite import conv, data, dense, images, loss, norm, optim, pool
from parity.suite.operator import InNetwork, Operator
from parity.verification.case import Case
from parity.verification.judge import Item
from triptych.describe.layers import Layer

FAMILIES = (dense, conv, pool, norm, loss, optim, data, images)
OPERATORS: dict[str, Operator] = {o.item.name: o for family in FAMILIES for o in family.OPERATORS}
ITEMS: dict[str, Item] = {name: operator.item for name, operator in OPERATORS.items()}
_LAYERS = {record.kind: record for family in FAMILIES for record in getattr(family, "LAYERS", ())}


@cache
def cases_of(item: str) -> tuple[Case, ...]:
    """One item's hand-picked cases, made once."""
    return tuple(case for case in OPERATORS[item].cases() if case.item == item)


def in_network(layer: Layer) -> InNetwork:
    """How that kind of layer takes part in a network."""
    return _LAYERS[type(layer)]
