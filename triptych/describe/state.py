"""Everything a training run carries from one step to the next, and its names in a checkpoint file.

A file holds one flat dict: `parameters/<name>`, `optimizer/<slot>/<name>`, `statistics/<name>` and
`optimizer/updates`. Only this module makes or reads those names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from triptych.describe.layers import Layer, initial_statistics
from triptych.describe.spec import Optimization
from triptych.errors import UserError

Array = np.ndarray
PARAMETERS, STATISTICS, OPTIMIZER = "parameters", "statistics", "optimizer"
UPDATES = f"{OPTIMIZER}/updates"


class Key(NamedTuple):
    """One array of a state."""

    group: str
    """`parameters`, `statistics`, or the name of an optimizer's slot."""
    name: str
    """Canonical, such as linear1.weight."""

    @property
    def slot(self) -> str | None:
        """The optimizer's slot; None for a parameter or a running statistic."""
        return None if self.group in (PARAMETERS, STATISTICS) else self.group

    @property
    def layer(self) -> str:
        return self.name.rpartition(".")[0]

    @property
    def last(self) -> str:
        """The name within the layer, such as weight."""
        return self.name.rpartition(".")[2]

    def __str__(self) -> str:
        return f"{OPTIMIZER}/{self.group}/{self.name}" if self.slot else f"{self.group}/{self.name}"


@dataclass(frozen=True)
class State:
    """Parameters, optimizer state and running statistics in canonical form.

    With the number of steps taken, it is enough to go on exactly where training stopped.
    """

    parameters: dict[str, Array]
    """Canonical name to array."""
    slots: dict[str, dict[str, Array]] = field(default_factory=dict)
    """Optimizer's slot (`Optimization.slots`) to canonical name to array."""
    statistics: dict[str, Array] = field(default_factory=dict)
    """Batch norm's running statistics, such as norm1.running_mean."""
    updates: int = 0
    """How many updates the slots hold."""

    def arrays(self) -> dict[Key, Array]:
        """Every array: parameters, then slots, then statistics."""
        groups = {PARAMETERS: self.parameters, **self.slots, STATISTICS: self.statistics}
        return {Key(group, name): array for group, named in groups.items() for name, array in named.items()}

    def map(self, change: Callable[[Key, Array], Array]) -> State:
        """The state with every array replaced by change(key, array)."""

        def changed(group: str, named: Mapping[str, Array]) -> dict[str, Array]:
            return {name: change(Key(group, name), array) for name, array in named.items()}

        slots = {slot: changed(slot, named) for slot, named in self.slots.items()}
        return State(
            changed(PARAMETERS, self.parameters), slots, changed(STATISTICS, self.statistics), self.updates
        )

    def slots_of(self, optimization: Optimization) -> dict[str, dict[str, Array]] | None:
        """What the optimizer keeps, or None where the state is another optimizer's."""
        if any(not self.parameters.keys() <= self.slots.get(slot, {}).keys() for slot in optimization.slots):
            return None
        return {slot: self.slots[slot] for slot in optimization.slots}

    def statistics_of(self, layers: tuple[Layer, ...]) -> dict[str, Array]:
        """The layers' running statistics; those that the state lacks start afresh."""
        fresh = initial_statistics(layers)
        return {name: self.statistics.get(name, array) for name, array in fresh.items()}

    def flat(self) -> dict[str, Array]:
        """A checkpoint file's names to arrays."""
        named = {str(key): array for key, array in self.arrays().items()}
        return named | {UPDATES: np.array(self.updates, np.int64)}

    @staticmethod
    def from_flat(arrays: Mapping[str, Array]) -> State:
        """The reverse of `flat`; raises UserError for a name or a count that no run writes."""
        updates = arrays.get(UPDATES, np.empty(0))
        if updates.shape != () or updates.dtype != np.int64 or updates < 0:
            raise UserError(
                f"{UPDATES} is {updates.dtype} {updates.tolist()}, expected one int64 of at least 0"
            )
        state = State({}, updates=int(updates))
        for key in [key for key in arrays if key != UPDATES]:
            match key.split("/", 2):
                case [group, name] if group == PARAMETERS:
                    state.parameters[name] = arrays[key]
                case [group, name] if group == STATISTICS:
                    state.statistics[name] = arrays[key]
                case [group, slot, name] if group == OPTIMIZER and slot not in (PARAMETERS, STATISTICS):
                    state.slots.setdefault(slot, {})[name] = arrays[key]
                case _:
                    raise UserError(f"{key!r} is the name of no array that a run writes")
        return state
