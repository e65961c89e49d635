"""One comparison of two subjects: on every case, in each format, and in words where they differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from parity.bounds.bounded import Bounded
from parity.bounds.rounding import Array, rounding
from parity.errors import UsageError
from parity.verification.adapters import Implementation, thinned
from parity.verification.case import Case
from parity.verification.casts import UNCUT, Cuts, beyond, cut_quantities
from parity.verification.compare import Comparison, cut_results, weighed
from parity.verification.estimate import FACTOR, STUDENT
from parity.verification.judge import Item, Label, Result
from parity.verification.measured import FEW, SAMPLES, Measured, Point, limits, measure
from parity.verification.place import Device, Inputs, Outputs, Place
from parity.verification.report import FOLLOWS, Report, report_of
from parity.verification.update import fit, statistics, words
from parity.verification.update.history import COUNTED, History, Updater, counts_far, narrower
from parity.verification.update.slots import Matched, matched
from parity.verification.update.subject import Subject, quantities

LIMITS = (
    "Limits are ESTIMATED from {n} perturbed runs of the reference (parity/verification/estimate.py), not "
    "proved."
)
RATE, COUNT = "learning rate", "step count"
LARGE = 100_000
"""Numbers in all gradients of a run: from there on fewer samples do."""
Judged = tuple[Label, Measured, Outputs]


@dataclass(eq=False)
class Session:
    item: Item
    reference: Subject
    port: Subject
    points: Mapping[str, Point]
    shapes: tuple[dict[str, tuple[int, ...]], dict[str, tuple[int, ...]]]
    """Of each side's parameters, in the same order."""
    device: Device

    def ported(self, point: Point, place: Place) -> History:
        return self.port.run(point.state, point.inputs, point.dy, place)

    def own(self, point: Point, place: Place) -> History:
        return self.reference.run(point.state, point.inputs, point.dy, place)

    @cached_property
    def firsts(self) -> tuple[History, History]:
        """Both sides on the first case in float64; raises UsageError for one that does not repeat."""
        point, place, found = next(iter(self.points.values())), Place("float64", self.device), []
        for name, run in (("reference", self.own), ("port", self.ported)):
            one, again = (quantities(run(point, place)) for _ in range(2))
            differing = [key for key in one if not np.array_equal(one[key], again[key], equal_nan=True)]
            if differing:
                raise UsageError(
                    f"{name}: {', '.join(differing[:3])} came out otherwise when run again from the same "
                    "start; "
                    "fix its random numbers, or what it keeps outside its state"
                )
            found.append(run(point, place))
        return found[0], found[1]

    @cached_property
    def slots(self) -> dict[str, Matched]:
        return matched(*self.firsts, self.reference.steps)

    @cached_property
    def wanted(self) -> list[str]:
        """What both sides have."""
        ours, theirs = self.firsts
        kept = [f"{slot} of {key}" for slot in self.slots for key in ours.slots[slot]]
        others = [key for each in ours.others.values() for key in each]
        return [*(key for key in ours.parameters if key in theirs.parameters), *kept, *others]

    def read(self, history: History, dtype: str) -> Outputs:
        """The port's quantities by the reference's names."""
        found, stored = quantities(history), rounding(dtype).stored
        out = {key: thinned(key, array) for key, array in found.items() if key in self.wanted}
        for slot, match in self.slots.items():
            for key in history.slots.get(match.own, {}):
                name = f"{slot} of {key}"
                out[name] = thinned(name, np.asarray(found[f"{match.own} of {key}"] * match.factor, stored))
        return out

    def judged(self) -> list[Judged]:
        found = []
        samples = (
            FEW if sum(a.size for a in next(iter(self.points.values())).inputs.values()) > LARGE else SAMPLES
        )
        self.samples = samples
        for case, point in self.points.items():
            side = self.reference.side()
            centre = _thin(quantities(self.own(point, Place("float64", self.device))))
            done = measure(side, point, centre, self.item.dtypes, self.device, samples)
            for dtype, measured in done.items():
                label = Label(self.item, Case(self.item.name, case, {}), "port", Place(dtype, self.device))
                found.append((label, measured, self.read(self.ported(measured.point, label.place), dtype)))
        return found

    def compare(self, judged: Sequence[Judged], cut: Cuts, cut_port: Cuts, constants: float) -> Comparison:
        made = Comparison()
        for label, measured, outputs in judged:
            dtype = label.place.dtype
            blurred = self.blurred(measured, constants) if constants and dtype != "float64" else None
            bounds = limits(measured, dtype, cut, blurred)
            made.results += weighed({key: bounds[key] for key in self.wanted}, outputs, True, label, made)
            if measured.noise.by_format:
                made.notes.append(FOLLOWS.format(", ".join(sorted(measured.noise.by_format))))
        label = next(label for label, _, _ in judged if label.place.dtype == self.item.dtypes[0])
        if "float64" in self.item.dtypes:
            made.results += cut_results(beyond(cut_port, cut), label)
        return self.structure(made, label)

    def blurred(self, measured: Measured, by: float) -> Outputs:
        """Values with 1 - beta off by a relative `by`: of moments themselves, of parameters their changes."""
        found = {}
        for key, value in measured.values.items():
            if key in measured.noise.by_format:
                value = measured.own[key].astype(np.float64)
            moves = np.abs(value)
            if key in self.firsts[0].parameters and value.ndim:
                start = np.asarray(thinned(key, measured.point.state[key]))
                whole = [start.reshape(-1)[None], value.reshape(self.reference.steps, -1)]
                fits = whole[0].shape[1] == whole[1].shape[1]
                steps = np.abs(np.diff(np.concatenate(whole), axis=0)).cumsum(axis=0) if fits else moves
                moves = steps.reshape(value.shape)
            found[key] = value + by * moves
        return found

    def structure(self, made: Comparison, label: Label) -> Comparison:
        """Step counts, learning rates, and the formats that slots are kept in."""
        ours, theirs = self.firsts
        n = self.reference.steps
        for key, kept in theirs.formats.items():
            if key.startswith(COUNT) and not counts_far(kept):
                made.results.append(
                    label.failure(key, f"kept in {kept}, which does not count to {COUNTED:,}")
                )
            elif (
                not key.startswith(COUNT)
                and narrower(kept, "float64")
                and not narrower(ours.formats.get(key, ""), "float64")
            ):
                made.results.append(label.failure(f"{key}", f"kept in {kept} where float64 comes in"))
        counts = [{tuple(one) for one in side.counts.values() if len(one) == n} for side in (ours, theirs)]
        if all(counts):
            made.quantities[COUNT] = True
            if not counts[0] & counts[1]:
                a, b = (min(side) for side in counts)
                made.results.append(
                    label.failure(COUNT, f"{_row(b)} after each step, {_row(a)} in the reference")
                )
        mine, other = (list(side.rates.values()) for side in (ours, theirs))
        if mine and len(mine) == len(other) and all(len(one) == n for one in (*mine, *other)):
            wide = rounding("float64")
            made.quantities[RATE] = True
            made.results += weighed(
                {RATE: _rate_limits(np.array(mine).T)},
                {RATE: np.array(other, wide.stored).T},
                True,
                replace(label, place=Place("float64", self.device)),
                made,
            )
        return made

    def report(self) -> Report:
        judged = self.judged()
        made = self.compare(judged, UNCUT, UNCUT, 0.0)
        failed = {result.dtype for result in made.results if not result.passed}
        told: list[str] = []
        if failed:
            ours = self.rule(self.reference.updater, 0, None)
            if "float64" not in failed and ours is not None and ours.off <= fit.EXACT:
                made = self.compare(judged, UNCUT, UNCUT, _constants(ours, rounding("float32").u))
            cut, cut_port = self.cuts() if "float64" in failed else (UNCUT, UNCUT)
            if cut or cut_port:
                made = self.compare(judged, cut, cut_port, 0.0)
            told = self.terms(made, ours)
        report = report_of(self.item, made, LIMITS.format(n=self.samples), self.notes(), "reference")
        return replace(report, terms=tuple(told))

    def rule(self, updater: Updater | None, side: int, near: fit.Found | None) -> fit.Found | None:
        if updater is None:
            return None
        with np.errstate(all="ignore"):
            return fit.identified(updater, self.shapes[side], self.reference.steps, near)

    def terms(self, made: Comparison, ours: fit.Found | None) -> list[str]:
        failed = {result.quantity for result in made.results if not result.passed}
        kept = [f"The term that differs: {r.quantity}: {r.note}" for r in made.results if _structural(r)]
        graded = self.firsts[0].others.get("gradients", {})
        first = [key for key in graded if key in failed and self.first_step_differs(key)]
        if first:
            return [f"Gradients differ in the first step already ({', '.join(first[:3])}): see verify_model"]
        if told := self.statistics(failed):
            kept += told
            failed -= set(self.firsts[0].others["buffers"])
        if self.reference.updater is None or not failed & set(self.wanted) or ours is None:
            return kept
        near = ours if ours.off <= fit.EXACT else None
        theirs = self.rule(self.port.updater, 1, near) if near else None
        names = [key for key, shape in self.shapes[0].items() if int(np.prod(shape)) > 2] or list(
            self.shapes[0]
        )
        return kept + words.terms(ours, theirs, names)

    def statistics(self, failed: set[str]) -> list[str]:
        """Running statistics that differ, those of one rule in one line."""
        point, found = next(iter(self.points.values())), dict[str, list[str]]()
        ours, theirs = (side.others.get("buffers", {}) for side in self.firsts)
        own_start = self.port.read(dict(self.port.begin(point.state)))
        for key in ours:
            if key in failed and key in theirs and key in own_start:
                values = point.state[key], own_start[key], ours[key][0], theirs[key][0]
                found.setdefault(statistics.rule(*values), []).append(key)
        return [
            f"The term that differs: {', '.join(keys[:2])}"
            + (f" and {len(keys) - 2} more" if keys[2:] else "")
            + f": {said}"
            for said, keys in found.items()
            if said
        ]

    def first_step_differs(self, key: str) -> bool:
        ours, theirs = (side.others["gradients"][key][0] for side in self.firsts)
        return bool(np.abs(ours - theirs).max() > 1e-9 * np.abs(ours).max())

    def cuts(self) -> tuple[Cuts, Cuts]:
        """What either side cuts to a narrower format."""
        point, found = next(iter(self.points.values())), []
        case = Case(self.item.name, "ordinary", {**point.state, **point.inputs, "dy": point.dy})
        for name, run in (("reference", self.own), ("port", self.ported)):

            def pull(arrays: Inputs, dy: Array, place: Place, run=run) -> Outputs:  # type: ignore[no-untyped-def]
                state = {key: array for key, array in arrays.items() if key not in point.inputs}
                history = run(Point(state, {key: arrays[key] for key in point.inputs}, dy), place)
                return self.read(history, "float64") if run == self.ported else _thin(quantities(history))

            one = Implementation(name, "numpy", lambda inputs, place: (), pull)
            cut = cut_quantities(one, case, [*point.inputs], self.device)
            found.append({key: one for key, one in cut.items() if key in self.wanted})
        return found[0], found[1]

    def notes(self) -> list[str]:
        ours, theirs = self.firsts
        alone = [slot for slot in ours.slots if slot not in self.slots]
        own = [slot for slot in theirs.slots if slot not in {match.own for match in self.slots.values()}]
        notes = [f"In the reference's state alone: {', '.join(alone)}"] if alone else []
        notes += [f"In the port's state alone: {', '.join(own)}"] if own else []
        if self.slots:
            pairs = ", ".join(
                f"{slot} = {m.own}" + (f" times {m.factor:.6g}" if m.factor != 1 else "")
                for slot, m in self.slots.items()
            )
            notes.append(f"Slots compared, the reference's = the port's: {pairs}")
        return notes


def _thin(found: Outputs) -> Outputs:
    return {"output": np.zeros(1), **{key: thinned(key, array) for key, array in found.items()}}


def _structural(result: Result) -> bool:
    """Whether a failure is one of `structure`, but not of rates."""
    return not result.passed and (result.quantity.startswith(COUNT) or result.note.startswith("kept in"))


def _rate_limits(rates: Array) -> Bounded:
    """S is the effect of changing each rate's last digit; nothing measures R, so it is FACTOR times S."""
    r = rounding("float64")
    units = 2 * np.sqrt(1 + FACTOR**2) * float(np.sqrt(np.mean(np.square(rates))))
    limit = 2 * (STUDENT * r.u * units + r.u * np.abs(rates)) + r.tiny
    return Bounded(rates.astype(r.truth), limit, r)


def _constants(found: fit.Found, u: float) -> float:
    """How far 1 - beta goes when beta is rounded to float32."""
    ones = [s for key, s in found.settings.items() if key in fit.ONE_MINUS]
    return max((abs((1 - float(np.float32(s))) / (1 - s) - 1) for s in ones if s < 1), default=0.0) + u


def _row(counts: Sequence[float]) -> str:
    return ", ".join(f"{count:g}" for count in counts[:3])
