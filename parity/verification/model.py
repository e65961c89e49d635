"""Your own model: a port held to its original, layer by layer.

    report = verify_model("net", inputs={"x": (4, 3, 32, 32)}, reference=torch_module, port=nnx_module)

The reference in a wider format stands for the true values, and its own rounding sets the limits (see
`measured` and `estimate`: estimated, not proved). Parameters and layers are matched by themselves
(`matching`, `pairing`). Where something differs, each layer of the port is fed what the reference computed
(`blame`), so that a layer that is wrong by its own doing is told from those that only inherit the difference.
A second case moves every parameter, since a scale of 1 or a shift of 0 hides what ignores it (`fresh`).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from parity.bounds.rounding import Array
from parity.errors import UsageError
from parity.verification import fresh
from parity.verification.adapters import Implementation, Pick
from parity.verification.blame import Blame, blamed
from parity.verification.case import Case, Given, drawn
from parity.verification.casts import UNCUT, Cuts, beyond, cut_quantities
from parity.verification.compare import (
    Comparison,
    check_repeats,
    cut_results,
    naming,
    slight,
    weighed,
    with_upstream,
)
from parity.verification.estimate import Noise, together
from parity.verification.joined import Convert, Joined, joined
from parity.verification.judge import Item, Label
from parity.verification.measured import (
    FEW,
    LARGE,
    SAMPLES,
    Measured,
    Point,
    coarseness,
    evaluate,
    give_back,
    limits,
    measure,
    reading,
)
from parity.verification.place import Device, Inputs, Outputs, Place
from parity.verification.report import FOLLOWS, Report, report_of
from parity.verification.side import Side, Trace, built

LIMITS = (
    "Limits are ESTIMATED from {n} perturbed evaluations of the reference "
    "(parity/verification/estimate.py), not proved."
)
AS_GIVEN, MOVED = "as given", "parameters moved"
TABLES = (
    "The reference keeps a float32 table outside its state: what follows from it is judged by float32's "
    "limits"
)


def verify_model(
    name: str,
    *,
    inputs: Given,
    reference: Any,
    port: Any,
    layers: Mapping[str, str] | None = None,
    convert: Convert | None = None,
    output: Pick = None,
    keywords: Sequence[str] = (),
    dtypes: Sequence[str] = ("float64", "float32"),
    training: bool | None = None,
    channels_last: bool | None = None,
    device: Device = "cpu",
) -> Report:
    """Judge a port's activations, output and gradients by the model that it was ported from.

    Args:
        name: Of the model.
        inputs: Name to shape (normal numbers are drawn), or to a NumPy array, in the order of the reference's
            call.
        reference: A torch module; a Flax NNX module; (linen module, variables), with the call's keywords as a
            third if it has some; a JAX function and its parameters; or an object with `parameters`, `forward`
            and `backward` in NumPy (`adapters.numpy_model`). A function may return a dictionary of
            activations, one of them `output`.
        port: The same; or a JAX function alone, of (parameters, *inputs) as `convert` makes them.
        layers: Layers of the reference to those of the port, where matching by parameters and values is not
            enough. `relu[1]` is the second call of one that is called again, `lstm:1` the second of several
            outputs. Of a function only these are compared.
        convert: The reference's parameters and buffers, as NumPy arrays by name, to the port's. None: the
            port's own values are compared with the reference's, and tell what belongs to what.
        output: Which of a module's several outputs: a number, a name, or a function of them.
        keywords: Names of inputs that are passed by name.
        dtypes: Of float64, float32, bfloat16.
        training: True or False puts both models in training or evaluation mode; None leaves them as they are.
        channels_last: Whether one takes images with channels last and the other first; None: as is the habit
            of the frameworks, and otherwise if that fails.
        device: cpu, or gpu.

    Raises:
        UsageError: Names that are not there, outputs that are not arrays, a model that is random.
    """
    given = layers, convert, output, keywords, dtypes, training, channels_last, device
    return opened(name, inputs, reference, port, *given).report()


def opened(
    name: str,
    inputs: Given,
    reference: Any,
    port: Any,
    layers: Mapping[str, str] | None = None,
    convert: Convert | None = None,
    output: Pick = None,
    keywords: Sequence[str] = (),
    dtypes: Sequence[str] = ("float64", "float32"),
    training: bool | None = None,
    channels_last: bool | None = None,
    device: Device = "cpu",
) -> _Session:
    """The comparison that `verify_model` reports; raises UsageError as it does."""
    if unknown := set(keywords) - set(inputs):
        raise UsageError(f"keywords: expected names among the inputs {sorted(inputs)}, got {sorted(unknown)}")
    original = built("reference", reference, output, tuple(keywords), training)
    ported = built("port", port, output, tuple(keywords), training)
    arrays = {key: drawn(name, AS_GIVEN, key, given) for key, given in inputs.items()}
    start = original.state()
    if taken := sorted(set(inputs) & set(start)):
        raise UsageError(f"inputs: {taken} are names of parameters too; choose others")
    with naming(Case(name, AS_GIVEN, {})):
        first = original.run(start, arrays, None, Place("float32"))
        pair = joined(original, ported, convert, arrays, list(first.activations), channels_last)
    case = with_upstream(Case(name, AS_GIVEN, arrays), first.output.shape)
    item = Item(name, lambda i, s, r: {}, tuple(dtypes))
    return _Session(item, case, pair, dict(layers or {}), device)


def assert_port(name: str, **arguments: Any) -> None:
    """`verify_model` in a test: raises AssertionError with the report where the port is wrong."""
    __tracebackhide__ = True
    verify_model(name, **arguments).assert_passed()


@dataclass(frozen=True, eq=False)
class Judged:
    """A case in a format, evaluated on both sides."""

    label: Label
    measured: Measured
    outputs: Outputs
    whole: bool
    blurred: Outputs | None


@dataclass(eq=False)
class _Session:
    """One comparison of a port with a reference."""

    item: Item
    case: Case
    pair: Joined
    layers: Mapping[str, str]
    device: Device

    def point(self, case: str) -> Point:
        """As given, or with parameters moved."""
        reference, state = self.pair.reference, self.pair.reference.state()
        inputs = {key: array for key, array in self.case.inputs.items() if key != "dy"}
        if case == MOVED:
            state = {**state, **fresh.moved(state, reference.parameters, reference.rows_kept)}
        return Point(state, inputs, self.case.inputs["dy"])

    def traced(self, place: Place, point: Point) -> Trace:
        """The port's pass."""
        state = self.pair.state(point.state)
        with np.errstate(all="ignore"):
            return self.pair.port.run(state, self.pair.inputs(point.inputs), point.dy, place)

    def ported(self, point: Point, place: Place) -> tuple[Outputs, bool]:
        """The port's results, by the reference's names, and whether it took gradients."""
        trace = self.traced(place, point)
        found = self.pair.read(trace), trace.whole
        del trace
        give_back()
        return found

    @cached_property
    def samples(self) -> int:
        size = sum(int(np.prod(shape)) for shape in self.pair.shapes.values())
        return FEW if size > LARGE else SAMPLES

    @cached_property
    def blurred(self) -> Side | None:
        return self.pair.reference.blurred()

    def judged(self, case: str) -> list[Judged]:
        """In every format; the first case also settles which layers belong together."""
        place, point = Place("float64", self.device), self.point(case)
        with np.errstate(all="ignore"):
            ours = self.pair.reference.run(point.state, point.inputs, point.dy, place)
        centre, passes = reading(ours), {}
        if case == AS_GIVEN:
            ours.parameters = dict.fromkeys(ours.parameters, np.zeros(0))  # large, and read already
            own = self.traced(place, point)
            self.pair.pair(ours, own, self.layers)
            passes["float64"] = self.pair.read(own), own.whole
            after = [k for k, array in ours.buffers.items() if not np.array_equal(array, point.state[k])]
            self.compared = [*self.pair.compared(ours), *(f"{key} after" for key in after)]
            self.gradients = {f"d{key}" for key in (*ours.inputs, *ours.gradients, *ours.parameters)}
            del own
        del ours
        found = []
        done = measure(self.pair.reference, point, centre, self.item.dtypes, self.device, self.samples)
        for dtype, measured in done.items():
            if dtype not in passes:
                passes[dtype] = self.ported(measured.point, Place(dtype, self.device))
            other = self.blurred and evaluate(self.blurred, measured.point, place, reading)
            label = Label(self.item, replace(self.case, name=case), "port", Place(dtype, self.device))
            kept = replace(measured, point=Point({}, {}, point.dy), noise=copy.copy(measured.noise))
            found.append(Judged(label, kept, *passes[dtype], other or None))
        return found

    def compare(self, judged: Sequence[Judged], cut: Cuts, cut_port: Cuts) -> Comparison:
        """Every comparison, with limits that know what the reference cuts to a narrower format."""
        made = Comparison()
        for dtype in self.item.dtypes:
            for one in judged:
                if one.label.place.dtype != dtype:
                    continue
                bounds = limits(one.measured, dtype, cut, one.blurred)
                wanted = {key: bounds[key] for key in self.compared}
                outputs = {key: array for key, array in one.outputs.items() if key in wanted}
                made.results += weighed(wanted, outputs, one.whole, one.label, made)
                if one.measured.noise.by_format:
                    made.notes.append(FOLLOWS.format(", ".join(sorted(one.measured.noise.by_format))))
            if dtype == "float64":
                made.results += cut_results(beyond(cut_port, cut), judged[0].label)
        return made

    def report(self) -> Report:
        moves = self.pair.convert is not None or bool(self.pair.map.terms) or not self.pair.port.state()
        judged = [one for case in ((AS_GIVEN, MOVED) if moves else (AS_GIVEN,)) for one in self.judged(case)]
        made, cut, blames = self.compare(judged, UNCUT, UNCUT), UNCUT, list[Blame]()
        if any(not result.passed and result.dtype == "float64" for result in made.results):
            cut, cut_port = self.looked_into()
            made = self.compare(judged, cut, cut_port) if cut or cut_port else made
        coarse = self.coarser(judged, made)
        if coarse:
            made = self.compare(judged, cut, UNCUT)
        failed = [result for result in made.results if not result.passed]
        if failed:
            where = failed[0].case, failed[0].dtype
            wrong = next(one for one in judged if (one.label.case.name, one.label.place.dtype) == where)
            blames = self.blames(wrong, cut)
        named = [key for key in self.compared if key not in self.gradients and not key.endswith(" after")]
        first = next((key for key in named if key in {result.quantity for result in failed}), "")
        notes, missing = [*self.notes(made, cut, moves, judged), *coarse], []
        if self.pair.untold:
            missing.append(f"gradients of {len(self.pair.untold)} parameters not compared")
        if not any(key in self.gradients for key in self.compared):
            missing.append("no gradient was compared")
        report = report_of(self.item, made, LIMITS.format(n=self.samples), notes, "reference", missing)
        own = tuple(blame.line() for blame in blames)
        return replace(
            report, first=blames[0].layer if blames else first, own=own, layers=tuple(self.pair.told())
        )

    def coarser(self, judged: Sequence[Judged], made: Comparison) -> list[str]:
        """Where the port is off by a few limits, it may round more coarsely than the reference: see
        `estimate`. Changes the noise, and tells where.
        """
        failed = [result for result in made.results if not result.passed]
        if not all(slight([result], result.dtype) for result in failed):
            return []
        told = []
        for one in judged:
            case, dtype = one.label.case.name, one.label.place.dtype
            off = {result.quantity for result in failed if (result.case, result.dtype) == (case, dtype)}
            if not off:
                continue
            known = one.measured.noise
            own: Mapping[str, float] = {}
            if dtype != "float64" or not all(known[key] for key in off):
                own = coarseness(
                    self.read, self.read_port, self.point(case), dtype, self.device, self.samples
                )
            wider = together([known], Noise(own), dtype)
            for key in sorted(key for key in off if wider[key] > known[key]):
                told.append(f"in {key} ({dtype}, {case})")
                known[key] = wider[key]
        admitted = "an equal form that is less accurate, let pass"
        return [f"The port rounds more coarsely, {', '.join(told)}: {admitted}"] if told else []

    def read(self, point: Point, place: Place) -> Outputs:
        """The reference's results."""
        return evaluate(self.pair.reference, point, place, reading)

    def read_port(self, point: Point, place: Place) -> Outputs:
        """The port's, by the reference's names."""
        return self.ported(point.in_format(place.dtype), place)[0]

    def looked_into(self) -> tuple[Cuts, Cuts]:
        """What either side cuts to a narrower format. Raises UsageError for a model that is random."""
        point = self.point(AS_GIVEN)
        case = replace(self.case, inputs={**point.state, **point.inputs, "dy": point.dy})

        def theirs(state: Inputs, inputs: Inputs, dy: Array, place: Place) -> Outputs:
            return reading(self.pair.reference.run(state, inputs, dy, place))

        def own(state: Inputs, inputs: Inputs, dy: Array, place: Place) -> Outputs:
            trace = self.pair.port.run(self.pair.state(state), self.pair.inputs(inputs), dy, place)
            return self.pair.read(trace)

        found = []
        for name, run in (("reference", theirs), ("port", own)):

            def pull(arrays: Inputs, dy: Array, place: Place, run: Any = run) -> Outputs:
                state = {key: array for key, array in arrays.items() if key not in point.inputs}
                outputs: Outputs = run(state, {key: arrays[key] for key in point.inputs}, dy, place)
                return outputs

            one = Implementation(name, "torch", lambda inputs, place: (), pull)
            check_repeats(one, case, Place("float64", self.device))
            cut = cut_quantities(one, case, [*point.inputs], self.device)
            found.append({key: one for key, one in cut.items() if key in self.compared})
        return found[0], found[1]

    def blames(self, wrong: Judged, cut: Cuts) -> list[Blame]:
        """The layers that are wrong by their own doing, in the case and format of the first failure."""
        if not (self.pair.reference.traced and self.pair.port.traced and wrong.whole):
            return []
        place, case = wrong.label.place, wrong.label.case.name
        point = self.point(case)
        wide = Place("float64", self.device)
        with np.errstate(all="ignore"):
            ours, entered = (
                self.pair.reference.run(point.state, point.inputs, point.dy, wide, forced)
                for forced in (None, dict[str, Any]())
            )
        ours.entries = entered.entries  # only a forced pass tells what goes into a layer
        state = self.pair.state(point.state)
        noise = {key: bound.error for key, bound in limits(wrong.measured, place.dtype, cut).items()}
        return blamed(self.pair, ours, state, point, place, noise, self.compared)

    def notes(self, made: Comparison, cut: Cuts, moves: bool, judged: Sequence[Judged]) -> list[str]:
        notes = [TABLES] if self.blurred else []
        if cut:
            narrowest = max(cut.values(), key=lambda one: one.u).to
            first = next(key for key in made.quantities if key in cut and cut[key].to == narrowest)
            limits = f"{narrowest}'s limits"
            notes.append(f"The reference is cut to {narrowest} at {first}: judged by {limits} from there on")
        if not moves:
            notes.append(
                "The port's parameters were not moved off their values; give convert= to compare with "
                "others, too"
            )
        match = self.pair.match
        if match is not None and not match.loaded:
            notes.append(
                "The port's parameters were not the reference's: its were put in by the order of layers, and "
                "laid out as the frameworks do; give convert= if that is wrong"
            )
        elif match is not None and match.differing:
            some = [f"{key} ({self.pair.map.terms[key][0].source})" for key in match.differing[:4]]
            more = f" and {len(match.differing) - 4} more" if match.differing[4:] else ""
            notes.append(f"The port does not have the reference's values in {', '.join(some)}{more}")
        if match is not None and match.alone:
            notes.append(f"No counterpart in the reference: {', '.join(match.alone)}")
        return notes + self.unused(judged[-1])

    def unused(self, judged: Judged) -> list[str]:
        """Which parameters have no effect on the output: in the reference, and in the port alone."""
        theirs, own = judged.measured.values, judged.outputs
        told = [key for key in self.pair.reference.parameters if f"d{key}" in self.compared]
        idle = [key for key in told if not theirs[f"d{key}"].any()]
        ignored = [key for key in told if key not in idle and f"d{key}" in own and not own[f"d{key}"].any()]
        notes = []
        if idle:
            notes.append(
                f"In the reference these have no effect on the output: {', '.join(idle)}; not compared"
            )
        if ignored:
            notes.append(f"The port does not use {', '.join(ignored)}; the reference does")
        return notes
