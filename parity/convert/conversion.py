"""One conversion from a file's weights to another file's content, and what can be said of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from parity.convert import api, files, own_model, plan
from parity.convert.plan import NEUTRAL, Options, Side
from parity.convert.source import Source
from parity.convert.units import Array, Arrays, Convention, Names, Order, group, is_flax, shapes_of
from triptych.describe.spec import Experiment
from triptych.errors import UserError


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


@dataclass(frozen=True)
class Conversion:
    """The weights on each side; None where a side is not foreign."""

    canonical: dict[str, Array]
    came: Side | None
    made: Side | None = None

    @property
    def sides(self) -> list[Side]:
        return [side for side in (self.came, self.made) if side is not None]

    def content(self, target: Path, experiment: Experiment | None) -> bytes:
        """The target file's; read back and converted back, every array is what it was."""
        if self.made is None:
            own = {name: name for name in self.canonical}
            written = Source("", "canonical", self.canonical, experiment=experiment, names=own)
        else:
            made = self.made.plan
            written = Source(
                "", made.convention, self.made.arrays, True, experiment, made.names(), made.flatten
            )
        content = files.encode(target, written)
        back = files.parse(content, target, written.convention).arrays
        _require_same(written.arrays, back)
        if self.made is not None:
            _require_same(self.canonical, self.made.plan.to_ours(back))
        return content


def carry_out(request: Request) -> Conversion:
    """Raises UserError where source, network and target do not fit, or fit in several ways."""
    canonical, came = _canonical(request)
    if request.to == "canonical":
        if request.like is not None:
            raise UserError("like: canonical names are this project's own; leave --like out")
        return Conversion(canonical, came)
    options = Options(experiment=request.experiment, explicit=request.explicit, flatten=request.to_flatten)
    names, shapes = _target_names(request), shapes_of(canonical)
    if names is None:
        made = plan.into_plain(shapes, request.to, **options)
    else:
        made = plan.make(shapes, names, **options)
    arrays = made.to_theirs(canonical, request.source.step)
    in_order = arrays if names is None else [name for name in names.shapes if name in arrays]
    return Conversion(canonical, came, Side(made, {name: arrays[name] for name in in_order}))


def _canonical(request: Request) -> tuple[dict[str, Array], Side | None]:
    """The source's canonical arrays, and the side they came from where it is foreign."""
    found, spec = request.source, request.experiment
    if found.convention != "canonical":
        explicit = found.names | (request.explicit if request.to == "canonical" else {})
        options = Options(experiment=spec, explicit=explicit, flatten=request.from_flatten or found.flatten)
        return api.arrays_in(found.convention, found.arrays, found.ordered, **options)
    shapes = shapes_of(found.arrays)
    group(Names("canonical", shapes))  # raises for what is no layer's
    wanted = shapes if spec is None else api.canonical_shapes(spec)
    lines = [
        f"{name}: expected {wanted.get(name, 'nothing')}, found {shapes.get(name, 'nothing')}"
        for name in wanted | shapes
        if wanted.get(name) != shapes.get(name)
    ]
    if lines:
        raise UserError(
            "source: not the experiment's network:\n  " + "\n  ".join(lines) + "\nname the right --experiment"
        )
    return found.arrays, None


def _target_names(request: Request) -> Names | None:
    """Those of the caller's own model or file; None: a plain model's."""
    to, like = request.to, request.like
    if request.module is not None:
        return own_model.names(request.module, to)
    if like is None:
        return None
    found = files.read(like, to)
    if found.convention != to:
        raise UserError(f"like: expected {to} names in {like}, found {found.what}; name another file")
    return Names(to, shapes_of(found.arrays), found.ordered)


def _require_same(before: Arrays, after: Arrays) -> None:
    assert set(before) == set(after), sorted(set(before) ^ set(after))
    for name, a in before.items():
        b = after[name]
        same = (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())
        assert same, f"{name} did not come back as it was"


def rows(side: Side) -> list[tuple[str, str, str, str]]:
    """Every array: their name, its shape there, our name, and what moves."""
    found = []
    for ours, theirs in side.plan.pairs:
        for role in ours.names | theirs.names:
            one, other = theirs.names.get(role, ""), ours.names.get(role, "")
            moves = ["transposed"] if role == "weight" and is_flax(side.plan.convention) else []
            if ours.path in side.plan.channels and role != "bias":
                moves.append(f"features of {side.plan.channels[ours.path]} channels reordered")
            if not (one and other):
                moves = [f"{NEUTRAL[role]:g} throughout, on one side only"]
            shape = side.arrays[one].shape if one else ours.shapes[role]
            found.append((one or "none", "x".join(map(str, shape)), other or "none", ", ".join(moves)))
    return found
