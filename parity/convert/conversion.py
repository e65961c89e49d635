"""One conversion from a file's weights to another file's content, and what can be said of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from parity.convert import api, files, naming, own_model, plain, plan, verify
from parity.convert.plan import Plan, Side
from parity.convert.source import About, Source
from parity.convert.units import Array, Convention, Order, Shape, group, is_flax, own_shape, shapes_of
from triptych.describe.spec import Experiment
from triptych.errors import UserError

Template = tuple[dict[str, Shape], bool]
"""The names and own shapes that a target is to have, and whether they come in the network's order."""


@dataclass(frozen=True)
class Request:
    """What is to become of a source."""

    source: Source
    to: Convention
    experiment: Experiment | None
    explicit: dict[str, str]
    """Names of the foreign side to ours: the target's, or of a canonical target the source's."""
    module: Any = None
    """The caller's own model, on the foreign side."""
    like: Path | None = None
    from_flatten: Order | None = None
    to_flatten: Order | None = None

    @property
    def owner(self) -> Convention:
        """Whose model `module` is."""
        return self.source.convention if self.to == "canonical" else self.to


@dataclass(frozen=True)
class Conversion:
    """A request carried out."""

    request: Request
    canonical: dict[str, Array]
    came: Side | None
    """The source's side where it is foreign, then the target's."""
    made: Side | None
    notes: tuple[str, ...]

    @property
    def sides(self) -> list[Side]:
        """The foreign ones."""
        return [side for side in (self.came, self.made) if side is not None]

    @property
    def arrays(self) -> dict[str, Array]:
        """The target's."""
        return self.canonical if self.made is None else self.made.arrays

    def content(self, target: Path) -> bytes:
        """The target file's; read back and converted back, every array is what it was."""
        to, spec = self.request.to, self.request.experiment
        if self.made is None:
            about = About(to, spec, {name: name for name in self.canonical})
        else:
            about = About(to, spec, self.made.plan.names(), self.made.plan.flatten)
        content = files.encode(target, self.arrays, about)
        back = files.decode(target, content, to)
        _require_same(self.arrays, back)
        if self.made is not None:
            _require_same(self.canonical, plan.to_ours(self.made.plan, back)[0])
        return content

    def proofs(self) -> list[tuple[str, verify.Proof]] | str:
        """Each side's check by name, or why there is none."""
        spec, module = self.request.experiment, self.request.module
        if not verify.finite(self.canonical):
            return "not checked: the weights hold NaN or infinities, which were moved as they are"
        if spec is None:
            return "not checked: the network is not known; say --experiment (and --no-check silences this)"
        if not self.sides:
            return "nothing to check: the weights were canonical and stay so"
        proofs = []
        for side in self.sides:
            proof = verify.check(spec, self.canonical, side)
            proofs.append((f"plain {side.plan.convention} model", proof))
        if module is not None:
            run = own_model.runner(module, self.request.owner, self.sides[-1].arrays)
            proofs.append(("your model", verify.check_model(spec, self.canonical, run, self.request.owner)))
        return proofs


def carry_out(request: Request) -> Conversion:
    """Raises UserError where source, network and target do not fit, or fit in several ways."""
    found, to, spec = request.source, request.to, request.experiment
    canonical, came, notes = _canonical(request)
    if to == "canonical":
        if request.like is not None:
            raise UserError("like: canonical names are this project's own; leave --like out")
        return Conversion(request, canonical, came, None, tuple(notes))
    explicit, layers = request.explicit, None if spec is None else spec.layers()
    template = _template(request)
    if template is None:
        names = {} if layers is None else plain.names(layers, to)
        names |= {ours: theirs for theirs, ours in explicit.items()}
        units, _ = naming.our_units(shapes_of(canonical), layers)
        template = naming.default_theirs(names, units, to), False
        explicit = {names.get(unit.path, unit.path): unit.path for unit in units}
    shapes, ordered = template
    made = api.plan_for(shapes_of(canonical), to, shapes, spec, explicit, request.to_flatten, ordered)
    arrays, more = plan.to_theirs(made, canonical, found.step)
    side = Side(made, {name: arrays[name] for name in shapes if name in arrays})
    return Conversion(request, canonical, came, side, (*notes, *made.notes, *more))


def _canonical(request: Request) -> tuple[dict[str, Array], Side | None, list[str]]:
    """The source's canonical arrays, the side they came from where it is foreign, and notes."""
    found, spec, flatten, names = request.source, request.experiment, request.from_flatten, None
    if found.convention == "canonical":
        if spec is not None:
            _require_fitting(shapes_of(found.arrays), api.canonical_shapes(spec))
        else:
            group(shapes_of(found.arrays), "canonical")
        return dict(found.arrays), None, list(found.notes)
    if found.about is not None:
        names, flatten = found.about.names, flatten or found.about.flatten
    explicit = request.explicit if request.to == "canonical" else {}
    canonical, made, more = api.from_arrays(
        found.arrays, found.convention, found.ordered, spec, explicit, flatten, names
    )
    return canonical, Side(made, found.arrays), [*found.notes, *made.notes, *more]


def _require_fitting(found: dict[str, Shape], wanted: dict[str, Shape]) -> None:
    lines = [
        f"{name}: expected {wanted.get(name, 'nothing')}, found {found.get(name, 'nothing')}"
        for name in wanted | found
        if wanted.get(name) != found.get(name)
    ]
    if lines:
        raise UserError(
            "source: not the experiment's network:\n  " + "\n  ".join(lines) + "\nname the right --experiment"
        )


def _template(request: Request) -> Template | None:
    """The target's, or None for a plain model's."""
    to, like = request.to, request.like
    if request.module is not None:
        return own_model.shapes(request.module, to), to == "torch"
    if like is None:
        return None
    found = files.read(like, to)
    if found.convention != to:
        raise UserError(f"like: expected {to} names in {like}, found {found.what}; name another file")
    return shapes_of(found.arrays), found.ordered


def _require_same(before: dict[str, Array], after: dict[str, Array]) -> None:
    assert set(before) == set(after), sorted(set(before) ^ set(after))
    for name, a in before.items():
        b = after[name]
        same = (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())
        assert same, f"{name} did not come back as it was"


def rows(made: Plan) -> list[tuple[str, str, str, str]]:
    """Every array: their name, its shape there, our name, and what moves."""
    found = []
    for pair in made.pairs:
        for role, theirs in pair.theirs.names.items():
            shape = own_shape(pair.theirs.shapes[role], pair.theirs.kind, role, made.convention)
            moves = ["transposed"] if role == "weight" and is_flax(made.convention) else []
            if pair.ours.path in made.channels and role != "bias":
                moves.append(f"features of {made.channels[pair.ours.path]} channels reordered")
            ours = pair.ours.names.get(role, "left out")
            found.append((theirs, "x".join(map(str, shape)) or "scalar", ours, ", ".join(moves)))
    return found


def advice(made: Plan) -> list[str]:
    """What a user of their side should know."""
    layout = "(B, 32, 32, 3)" if is_flax(made.convention) else "(B, 3, 32, 32)"
    lines = [f"images {layout}, (pixel - mean) * scale as in training; flattened {made.flatten}"]
    if any("running_mean" in pair.ours.shapes for pair in made.pairs):
        lines.append(
            "batch norm: eps 1e-5; momentum 0.1 in torch is 0.9 in Flax; running variances carry over, but "
            "torch (and this project) goes on with the unbiased variance and Flax with the biased one"
        )
    return lines
