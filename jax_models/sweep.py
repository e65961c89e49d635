"""Many runs that differ in learning rate, weight decay and seed, trained by one compiled program.

Every run has a seat: a place in a group, on the leading axis of the group's parameters, statistics and
optimizer state. The program takes `backend.JaxBackend`'s own step and loop, with the weight decay as an
argument, and is called for one group after another:

- on a GPU or TPU a group holds as many runs as fit beside their activations, batched by vmap;
- on a CPU it holds one: a single run keeps its cores busy, so batching has nothing to gain, and one run's
  activations are all that is held. `python -m triptych bench sweep` measures both (jax-sweep, jax-vmap).

The groups' arrays are apart, not parts of larger ones: a program that cut a run's out of those, and put them
back, worked in new memory at each call; on a CPU half of its processes took a fifth longer (docs/sweep.md).

Where there are several devices, a group's seats are divided among them; nothing crosses from one to another.
What seeds decide (batches, masks, crops, flips) is handed over once for each seed, not for each run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jax_models import cache
from jax_models.backend import DeviceData, JaxBackend, TrainState, evaluation, find_devices
from triptych.describe.grid import common
from triptych.describe.network import shapes
from triptych.describe.protocol import (
    Evaluation,
    Statistics,
    StepResults,
    Steps,
    TrainingData,
    no_steps,
)
from triptych.describe.spec import Device, Experiment
from triptych.describe.state import State

Array = jax.Array
RUNS = PartitionSpec("runs")
"""An array whose first axis is divided among the devices."""
ALL = PartitionSpec()
"""An array that every device holds whole."""


def build(experiments: Sequence[Experiment], data: TrainingData, device: Device) -> JaxSweep:
    """The runs on all devices of that kind; raises UserError when JAX has none."""
    cache.enable()
    return JaxSweep(experiments, data, find_devices(device))


class JaxSweep:
    """Implements `triptych.describe.protocol.Together`."""

    def __init__(
        self,
        experiments: Sequence[Experiment],
        data: TrainingData,
        devices: Sequence[jax.Device],
        at_once: int | None = None,
    ) -> None:
        """`at_once` runs at once on a device; None takes what suits it."""
        self.experiments = list(experiments)
        if len({common(experiment) for experiment in experiments}) != 1:
            raise AssertionError("runs of one program differ in learning rate, weight decay and seed only")
        devices = list(devices)[: len(experiments)]
        self._one_by_one = devices[0].platform == "cpu"
        """Whether a call waits for the one before: a CPU would carry both out, with both's activations."""
        self._mesh = Mesh(np.array(devices), ("runs",))
        self._divided, self._whole = (NamedSharding(self._mesh, spec) for spec in (RUNS, ALL))
        self.one = JaxBackend(common(experiments[0]), data, devices[0], self._whole)
        """A single seat is seen and filled through this: `JaxBackend` with one run's state in it."""
        self.device = self.one.device + (f" x {len(devices)}" if len(devices) > 1 else "")
        share = math.ceil(len(experiments) / len(devices))
        self.at_once = min(at_once or self._suitable(devices[0]), share)
        self.width = len(devices) * self.at_once
        """Seats of a group; see `triptych.describe.protocol.Together`."""
        self.groups = math.ceil(share / self.at_once)
        self.seeds = [self._group_seeds(group) for group in range(self.groups)]
        self.tables = max(map(len, self.seeds))
        """Seeds that a call has inputs for; the same for every group, or each would be compiled anew."""
        self.updates = [0] * (self.groups * self.width)
        self.capacity = 0
        self.members = [Member(self, seat) for seat in range(len(experiments))]
        self._states: list[TrainState] = []
        self._seen: dict[tuple[int, str, bool], list[Evaluation]] = {}
        self._own = [self._constants(group) for group in range(self.groups)]
        # The same placement in and out, as JAX writes it: another spelling would compile anew.
        self._train = jax.jit(self.train_group, donate_argnums=0, out_shardings=self._divided)
        self._evaluate = jax.jit(self.evaluate_group, static_argnums=3)
        self._read = jax.jit(_read_seat, out_shardings=self._whole)
        self._write = jax.jit(_write_seat, donate_argnums=0, out_shardings=self._divided)

    def _suitable(self, device: jax.Device) -> int:
        """How many runs a device takes at once: one on a CPU, elsewhere as many as half its memory holds
        activations of, with their gradients and as much again for what the compiler keeps.
        """
        if device.platform == "cpu":
            return 1
        limit = (device.memory_stats() or {}).get("bytes_limit", 8e9)
        description = self.one.experiment
        values = sum(math.prod(shape) for shape in shapes(description.layers()))
        activations = description.data.batch_size * values * self.one.dtype.itemsize
        return max(1, int(limit / 2 / (4 * activations)))

    def _seats(self, group: int) -> range:
        return range(group * self.width, (group + 1) * self.width)

    def _runs(self, group: int) -> list[Experiment]:
        """What is in the group's seats; those left over repeat the last."""
        return [self.experiments[min(seat, len(self.experiments) - 1)] for seat in self._seats(group)]

    def _group_seeds(self, group: int) -> list[int]:
        return sorted({run.training.seed for run in self._runs(group)})

    def _constants(self, group: int) -> dict[str, Array]:
        """Each seat's weight decay, and the place of its seed among the group's."""
        runs = self._runs(group)
        decays = np.array([run.optimization.weight_decay for run in runs]).astype(self.one.dtype)
        seeds = np.array([self.seeds[group].index(run.training.seed) for run in runs], np.int32)
        return self._put({"decay": decays, "seed": seeds}, self._divided)

    def _put(self, tree: Any, placement: NamedSharding) -> Any:
        with self.one.context():
            return jax.device_put(tree, placement)

    # --- all runs ---

    def compile(self, capacity: int) -> None:
        """Compile training for calls of `capacity` steps, and evaluation."""
        self.capacity = max(self.capacity, capacity, 2)
        self.train({0: no_steps(self.experiments[0])})
        self.evaluate(0, "test")

    def train(self, steps: Mapping[int, Steps]) -> dict[int, StepResults]:
        """Take the steps of these seats, as many for each; the others stay as they are."""
        (count,) = {len(some) for some in steps.values()}
        self.capacity = max(self.capacity, count, 2)
        groups = sorted({seat // self.width for seat in steps})
        results = dict(zip(groups, self._train_groups(groups, steps, count), strict=True))
        self._seen = {key: seen for key, seen in self._seen.items() if key[0] not in results}
        found = {}
        for seat, some in steps.items():
            self.updates[seat] += len(some)
            losses, hits = results[seat // self.width][seat % self.width]
            found[seat] = self.one.step_results(losses, hits, count)
        return found

    def _train_groups(
        self, groups: Sequence[int], steps: Mapping[int, Steps], count: int
    ) -> list[np.ndarray]:
        results = []
        for group in groups:
            inputs = self._put(self._inputs(group, steps), self._whole)
            own = self._put(self._columns(group, steps), self._divided) | self._own[group]
            with self.one.context():
                data = self.one.data["train"]
                self._states[group], result = self._train(self._states[group], own, data, inputs, count)
            results.append(jax.block_until_ready(result) if self._one_by_one else result)
        with self.one.context():
            found: list[np.ndarray] = jax.device_get(results)
        return found

    def _columns(self, group: int, steps: Mapping[int, Steps]) -> dict[str, Any]:
        """Every seat's numbers of each step, and which seats train."""
        idle = no_steps(self.experiments[0])
        scalars = [
            self.one.scalars(steps.get(seat, idle), self.updates[seat], self.capacity)
            for seat in self._seats(group)
        ]
        active = np.array([seat in steps for seat in self._seats(group)])
        return {"scalars": jax.tree.map(lambda *rows: np.stack(rows), *scalars), "active": active}

    def _inputs(self, group: int, steps: Mapping[int, Steps]) -> Any:
        """What the steps read: with an axis for the seeds where a group has several."""
        mine = [seat for seat in self._seats(group) if seat in steps]
        of_seed = {self.experiments[seat].training.seed: steps[seat] for seat in mine}
        idle = no_steps(self.experiments[0])
        wanted = [of_seed.get(seed, idle) for seed in self.seeds[group]]
        wanted += [idle] * (self.tables - len(wanted))
        tables = [self.one.inputs(some, self.capacity) for some in wanted]
        return tables[0] if len(tables) == 1 else jax.tree.map(lambda *rows: np.stack(rows), *tables)

    def evaluate(self, seat: int, split: str, statistics: Statistics | None = None) -> Evaluation:
        """That run's, worked out for its group, once for as long as no run of the group changes."""
        group, place = divmod(seat, self.width)
        batch = (statistics or self.experiments[0].model.norm_statistics) == "batch"
        if (group, split, batch) not in self._seen:
            state = self._states[group].parameters, self._states[group].statistics
            with self.one.context():
                results = jax.device_get(self._evaluate(*state, self.one.data[split], batch))
            self._seen[group, split, batch] = [evaluation(*row) for row in zip(*results, strict=True)]
        return self._seen[group, split, batch][place]

    # --- one run ---

    def enter(self, seat: int) -> None:
        """Take what `one` holds into the seat."""
        group, place = divmod(seat, self.width)
        self._seen = {key: seen for key, seen in self._seen.items() if key[0] != group}
        with self.one.context():
            while len(self._states) < self.groups:
                self._states.append(self._empty(self.one.state))
            self._states[group] = self._write(self._states[group], self.one.state, place)
        self.updates[seat] = self.one.updates

    def show(self, seat: int) -> JaxBackend:
        """`one`, holding the seat's run."""
        group, place = divmod(seat, self.width)
        with self.one.context():
            self.one.state = self._read(self._states[group], place)
        self.one.updates = self.updates[seat]
        return self.one

    def _empty(self, one: TrainState) -> TrainState:
        def zeros(one: TrainState) -> Any:
            return jax.tree.map(lambda array: jnp.zeros((self.width, *array.shape), array.dtype), one)

        state: TrainState = jax.jit(zeros, out_shardings=self._divided)(one)
        return state

    # --- compiled functions ---

    def train_group(
        self, state: TrainState, own: Any, data: DeviceData, inputs: Any, count: Array
    ) -> tuple[TrainState, Array]:
        """`count` steps of the group's active seats; results (seats, 2, capacity): losses and hits."""
        divided = jax.shard_map(
            self._train_share,
            mesh=self._mesh,
            in_specs=(RUNS, RUNS, ALL, ALL, ALL),
            out_specs=(RUNS, RUNS),
            check_vma=False,
        )
        new, results = divided(state, own, data, inputs, count)
        return new, results

    def _train_share(
        self, state: TrainState, own: Any, data: DeviceData, inputs: Any, count: Array
    ) -> tuple[TrainState, Array]:
        """One device's seats of the group."""

        def run(state: TrainState, own: Any) -> tuple[TrainState, Array]:
            return self._train_one(state, own, data, inputs, count)

        return self._over_seats(run)(state, own)

    def _over_seats(self, run: Callable[..., Any]) -> Callable[..., Any]:
        """`run` of every seat of a device: without vmap for one alone, which trains as it would outside."""
        if self.at_once > 1:
            return jax.vmap(run)

        def alone(*trees: Any) -> Any:
            found = run(*jax.tree.map(lambda array: array[0], trees))
            return jax.tree.map(lambda array: array[None], found)

        return alone

    def _train_one(
        self, state: TrainState, own: Any, data: DeviceData, inputs: Any, count: Array
    ) -> tuple[TrainState, Array]:
        several = self.tables > 1
        alone = self.at_once == 1

        def row(i: Array) -> Any:
            read = jax.tree.map(lambda column: column[own["seed"], i] if several else column[i], inputs)
            return read | {"scalars": jax.tree.map(lambda column: column[i], own["scalars"])}

        # Under vmap the runs share the number of steps, and idle ones forget what they did.
        steps = jnp.where(own["active"], count, 0) if alone else count
        new, *results = self.one.loop(state, data, row, self.capacity, steps, own["decay"])
        if not alone:
            new = jax.tree.map(lambda after, before: jnp.where(own["active"], after, before), new, state)
        return new, jnp.stack(results)

    def evaluate_group(
        self, parameters: dict[str, Array], statistics: dict[str, Array], data: DeviceData, batch: bool
    ) -> tuple[Array, Array, Array]:
        """Per seat and sample: losses, hits, predictions."""

        def share(parameters: Any, statistics: Any, data: DeviceData) -> Any:
            def run(parameters: Any, statistics: Any) -> tuple[Array, Array, Array]:
                return self.one.evaluate_split(parameters, statistics, data, batch)

            return self._over_seats(run)(parameters, statistics)

        divided = jax.shard_map(
            share, mesh=self._mesh, in_specs=(RUNS, RUNS, ALL), out_specs=RUNS, check_vma=False
        )
        losses, hits, predictions = divided(parameters, statistics, data)
        return losses, hits, predictions


class Member:
    """One run of a `JaxSweep`. Implements `triptych.describe.protocol.Backend`: what is asked of this run
    alone is done by the same program, with the other seats idle.
    """

    name = "jax"

    def __init__(self, sweep: JaxSweep, seat: int) -> None:
        self._sweep, self._seat = sweep, seat
        self.device = sweep.device

    def start(self, parameters: Mapping[str, np.ndarray]) -> None:
        self._sweep.one.start(parameters)
        self._sweep.enter(self._seat)

    def compile(self, capacity: int) -> None:
        self._sweep.compile(capacity)

    def train(self, steps: Steps) -> StepResults:
        return self._sweep.train({self._seat: steps})[self._seat]

    def evaluate(self, split: str, statistics: Statistics | None = None) -> Evaluation:
        return self._sweep.evaluate(self._seat, split, statistics)

    def logits(self, split: str, statistics: Statistics | None = None) -> np.ndarray:
        return self._sweep.show(self._seat).logits(split, statistics)

    def trace(self, steps: Steps) -> dict[str, np.ndarray]:
        return self._sweep.show(self._seat).trace(steps)

    def export_state(self) -> State:
        return self._sweep.show(self._seat).export_state()

    def import_state(self, state: State) -> None:
        self._sweep.one.import_state(state)
        self._sweep.enter(self._seat)

    def versions(self) -> dict[str, str]:
        return self._sweep.one.versions()


# --- a seat: a place on the leading axis of every array of a tree ---


def _read_seat(state: TrainState, i: Array) -> Any:
    return jax.tree.map(lambda array: jax.lax.dynamic_index_in_dim(array, i, keepdims=False), state)


def _write_seat(state: TrainState, one: TrainState, i: Array) -> Any:
    update: Callable[..., Array] = partial(jax.lax.dynamic_update_index_in_dim, index=i, axis=0)
    return jax.tree.map(update, state, one)
