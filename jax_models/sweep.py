"""Many runs that differ in learning rate, weight decay and seed, trained by one compiled program.

Every run has a seat: a place on the leading axis of parameters, statistics and optimizer state. The program
takes `backend.JaxBackend`'s own step and loop, with the weight decay as an argument, and carries it out for
all seats:

- on a GPU or TPU for as many at once as fit beside their activations (vmap), then for the next ones;
- on a CPU for one after another: a single run keeps its cores busy, so batching has nothing to gain, and one
  run's activations are all that is held. `python -m bench.sweep` measures both (jax-sweep, jax-vmap).

Where there are several devices, the seats are divided among them; nothing crosses from one to another.
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

from experiment.backend import Evaluation, State, Statistics, StepResults, Steps, TrainingData, no_steps
from experiment.grid import common
from experiment.network import shapes
from experiment.spec import Device, Experiment
from jax_models import cache
from jax_models.backend import DeviceData, JaxBackend, TrainState, evaluation, find_devices

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
    """Implements `experiment.backend.Together`."""

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
        self._mesh = Mesh(np.array(devices), ("runs",))
        self._divided, self._whole = (NamedSharding(self._mesh, spec) for spec in (RUNS, ALL))
        self.one = JaxBackend(common(experiments[0]), data, devices[0], self._whole)
        """A single seat is seen and filled through this: `JaxBackend` with one run's state in it."""
        self.device = self.one.device + (f" x {len(devices)}" if len(devices) > 1 else "")
        share = math.ceil(len(experiments) / len(devices))
        self.at_once = min(at_once or self._suitable(devices[0]), share)
        self.seats = len(devices) * self.at_once * math.ceil(share / self.at_once)
        self.seeds = sorted({experiment.training.seed for experiment in experiments})
        self.updates = [0] * self.seats
        self.capacity = 0
        self.members = [Member(self, seat) for seat in range(len(experiments))]
        self._state: TrainState | None = None
        self._seen: dict[tuple[str, bool], list[Evaluation]] = {}
        self._own = self._constants()
        # The same placement in and out, as JAX writes it: another spelling would compile anew.
        self._train = jax.jit(self.train_seats, donate_argnums=0, out_shardings=self._divided)
        self._evaluate = jax.jit(self.evaluate_seats, static_argnums=3)
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

    def _constants(self) -> dict[str, Array]:
        """Each seat's weight decay, and the place of its seed in `seeds`; seats left over repeat the last."""
        spare = [self.experiments[-1]] * (self.seats - len(self.experiments))
        runs = self.experiments + spare
        decays = np.array([run.optimization.weight_decay for run in runs]).astype(self.one.dtype)
        seeds = np.array([self.seeds.index(run.training.seed) for run in runs], np.int32)
        return self._put({"decay": decays, "seed": seeds}, self._divided)

    def _put(self, tree: Any, placement: NamedSharding) -> Any:
        with self.one.context():
            return jax.device_put(tree, placement)

    # --- all runs ---

    def compile(self, capacity: int) -> None:
        """Compile training for calls of `capacity` steps, and evaluation."""
        self.capacity = max(self.capacity, capacity, 2)
        self.train({0: no_steps(self.experiments[0])})
        self.evaluate("test")

    def train(self, steps: Mapping[int, Steps]) -> dict[int, StepResults]:
        """Take the steps of these seats, as many for each; the others stay as they are."""
        (count,) = {len(some) for some in steps.values()}
        self.capacity = max(self.capacity, count, 2)
        self._seen = {}
        own = self._put(self._columns(steps), self._divided) | self._own
        inputs = self._put(self._inputs(steps), self._whole)
        with self.one.context():
            self._state, results = self._train(self._state, own, self.one.data["train"], inputs, count)
            results = jax.device_get(results)
        for seat, some in steps.items():
            self.updates[seat] += len(some)
        return {seat: self.one.step_results(results[seat][0], results[seat][1], count) for seat in steps}

    def _columns(self, steps: Mapping[int, Steps]) -> dict[str, Any]:
        """Every seat's numbers of each step, and which seats train."""
        idle = no_steps(self.experiments[0])
        scalars = [
            self.one.scalars(steps.get(seat, idle), self.updates[seat], self.capacity)
            for seat in range(self.seats)
        ]
        active = np.array([seat in steps for seat in range(self.seats)])
        return {"scalars": jax.tree.map(lambda *rows: np.stack(rows), *scalars), "active": active}

    def _inputs(self, steps: Mapping[int, Steps]) -> Any:
        """What the steps read: with an axis for the seeds where there are several."""
        of_seed = {self.experiments[seat].training.seed: some for seat, some in steps.items()}
        idle = no_steps(self.experiments[0])
        tables = [self.one.inputs(of_seed.get(seed, idle), self.capacity) for seed in self.seeds]
        return tables[0] if len(tables) == 1 else jax.tree.map(lambda *rows: np.stack(rows), *tables)

    def evaluate(self, split: str, statistics: Statistics | None = None) -> list[Evaluation]:
        """Every run's; worked out once for as long as no run changes."""
        batch = (statistics or self.experiments[0].model.norm_statistics) == "batch"
        if (split, batch) not in self._seen:
            assert self._state is not None
            state = self._state.parameters, self._state.statistics
            with self.one.context():
                results = jax.device_get(self._evaluate(*state, self.one.data[split], batch))
            rows = zip(*results, strict=True)
            self._seen[split, batch] = [evaluation(*row) for row in rows][: len(self.members)]
        return self._seen[split, batch]

    # --- one run ---

    def enter(self, seat: int) -> None:
        """Take what `one` holds into the seat."""
        self._seen = {}
        with self.one.context():
            if self._state is None:
                self._state = self._empty(self.one.state)
            self._state = self._write(self._state, self.one.state, seat)
        self.updates[seat] = self.one.updates

    def show(self, seat: int) -> JaxBackend:
        """`one`, holding the seat's run."""
        with self.one.context():
            self.one.state = self._read(self._state, seat)
        self.one.updates = self.updates[seat]
        return self.one

    def _empty(self, one: TrainState) -> TrainState:
        def zeros(one: TrainState) -> Any:
            return jax.tree.map(lambda array: jnp.zeros((self.seats, *array.shape), array.dtype), one)

        state: TrainState = jax.jit(zeros, out_shardings=self._divided)(one)
        return state

    # --- compiled functions ---

    def train_seats(
        self, state: TrainState, own: Any, data: DeviceData, inputs: Any, count: Array
    ) -> tuple[TrainState, Array]:
        """`count` steps of the active seats; results (seats, 2, capacity): losses and hits."""
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
        """One device's seats, `at_once` at once, each group's state read and put back in its place."""

        def run(state: TrainState, own: Any) -> tuple[TrainState, Array]:
            return self._train_one(state, own, data, inputs, count)

        seats = len(own["decay"])
        results = jnp.zeros((seats, 2, self.capacity), self.one.dtype)

        def body(i: Array, carry: tuple[TrainState, Array]) -> tuple[TrainState, Array]:
            if self.at_once == 1:
                return _put_seat(carry, run(_seat(carry[0], i), _seat(own, i)), i)
            group, size = i * self.at_once, self.at_once
            part = jax.tree.map(lambda a: jax.lax.dynamic_slice_in_dim(a, group, size), (carry[0], own))
            return _put_group(carry, jax.vmap(run)(*part), group)

        return jax.lax.fori_loop(0, seats // self.at_once, body, (state, results))

    def _train_one(
        self, state: TrainState, own: Any, data: DeviceData, inputs: Any, count: Array
    ) -> tuple[TrainState, Array]:
        several = len(self.seeds) > 1
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

    def evaluate_seats(
        self, parameters: dict[str, Array], statistics: dict[str, Array], data: DeviceData, batch: bool
    ) -> tuple[Array, Array, Array]:
        """Per seat and sample: losses, hits, predictions."""

        def share(parameters: Any, statistics: Any, data: DeviceData) -> Any:
            def run(state: tuple[Any, Any]) -> tuple[Array, Array, Array]:
                return self.one.evaluate_split(*state, data, batch)

            size = None if self.at_once == 1 else self.at_once
            return jax.lax.map(run, (parameters, statistics), batch_size=size)

        divided = jax.shard_map(
            share, mesh=self._mesh, in_specs=(RUNS, RUNS, ALL), out_specs=RUNS, check_vma=False
        )
        losses, hits, predictions = divided(parameters, statistics, data)
        return losses, hits, predictions


class Member:
    """One run of a `JaxSweep`. Implements `experiment.backend.Backend`: what is asked of this run alone is
    done by the same program, with the other seats idle.
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
        return self._sweep.evaluate(split, statistics)[self._seat]

    def trace(self, steps: Steps) -> dict[str, np.ndarray]:
        return self._sweep.show(self._seat).trace(steps)

    def export_state(self) -> State:
        return self._sweep.show(self._seat).export_state()

    def import_state(self, state: Mapping[str, np.ndarray]) -> None:
        self._sweep.one.import_state(state)
        self._sweep.enter(self._seat)

    def versions(self) -> dict[str, str]:
        return self._sweep.one.versions()


# --- seats: places on the leading axis of every array of a tree ---


def _seat(tree: Any, i: Array) -> Any:
    return jax.tree.map(lambda array: jax.lax.dynamic_index_in_dim(array, i, keepdims=False), tree)


def _put_seat(tree: Any, one: Any, i: Array) -> Any:
    update: Callable[..., Array] = partial(jax.lax.dynamic_update_index_in_dim, index=i, axis=0)
    return jax.tree.map(update, tree, one)


def _put_group(tree: Any, group: Any, first: Array) -> Any:
    update: Callable[..., Array] = partial(jax.lax.dynamic_update_slice_in_dim, start_index=first, axis=0)
    return jax.tree.map(update, tree, group)


def _read_seat(state: TrainState, i: Array) -> Any:
    return _seat(state, i)


def _write_seat(state: TrainState, one: TrainState, i: Array) -> Any:
    return _put_seat(state, one, i)
