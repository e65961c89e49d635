"""`python -m parity convert`: from file to file, with a mapping to read and a check of what is computed."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import tyro

from parity.convert import files, plain, plan, verify
from parity.convert.api import canonical_shapes, to_canonical
from parity.convert.plan import NEUTRAL, Options, Side
from parity.convert.units import (
    Array,
    Arrays,
    Convention,
    Order,
    Weights,
    group,
    is_flax,
    shapes_of,
    stripped,
)
from triptych.describe.catalogue import find
from triptych.describe.spec import Experiment
from triptych.errors import UserError
from triptych.show import tables
from triptych.store.files import write_atomically
from triptych.store.run_dir import RunDirectory


def convert(
    source: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE")],
    target: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="TARGET")],
    to: Convention,
    experiment: str = "",
    model: str = "",
    map: tyro.conf.UseAppendAction[tuple[str, ...]] = (),
    flatten: Order | None = None,
    check: bool = True,
    overwrite: bool = False,
) -> int:
    """Move weights between this project's form, torch and Flax, and prove that they compute the same.

    Nothing is rounded. Exit code 1: the check fails and nothing was written. See docs/convert.md.

    Args:
        source: A run folder, a checkpoint, safetensors (canonical, torch or Flax names), a torch state_dict
            (.pt, .pth) or Flax msgpack.
        target: The file to write: .safetensors, for torch also .pt or .pth, for Flax also .msgpack.
        to: canonical; torch: a state_dict; flax-nnx: an NNX module's state; flax-linen: params and
            batch_stats.
        experiment: The network, where the source does not tell: a name or a run folder.
        model: Your own torch, NNX or linen model, as package.module:callable, which is imported and called.
            Gives the layers, their names and their order, and is checked by its own forward pass. This and
            the next two are of the target's side, or of the source's where the target is canonical.
        map: THEIR.NAME=OUR.NAME, of layers or parameters; may be repeated.
        flatten: The order in which that model flattens images; default: channels-last for Flax only.
        check: Build a plain model, or take --model, and hold its layers and logits to the true values.
        overwrite: Replace the target where it exists.
    """
    _require_free(target, overwrite)
    found = files.read(source)
    print(f"source: {found.what}, {len(found.arrays)} arrays")
    spec = _experiment(experiment) or found.experiment
    own = _load(model, found.convention if to == "canonical" else to) if model else None
    options = Options(experiment=spec, explicit=_pairs(map), flatten=flatten)
    done = _converted(found, to, options, own)
    content = _content(done, target, spec)
    _print_mapping(done, found.notes, spec)
    passed = _check(done, spec, own) if check else True
    if passed:
        write_atomically(target, content)
    print(f"written: {target}, read back bit for bit" if passed else f"{target} was not written")
    return 0 if passed else 1


def _require_free(target: Path, overwrite: bool) -> None:
    if target.is_dir() or not target.absolute().parent.is_dir():
        raise UserError(f"{target}: expected a file in a folder that exists; choose another target")
    if target.exists() and not overwrite:
        raise UserError(f"{target}: exists; choose another target or say --overwrite")


def _experiment(text: str) -> Experiment | None:
    """The experiment that --experiment names."""
    if text and Path(text).is_dir():
        return files.experiment_of(RunDirectory(Path(text)))
    return find(text).experiment if text else None


def _pairs(entries: tuple[str, ...]) -> dict[str, str]:
    """Their names to ours, of THEIRS=OURS."""
    pairs = [entry.partition("=")[::2] for entry in entries]
    for (theirs, ours), entry in zip(pairs, entries, strict=True):
        if not (theirs and ours):
            raise UserError(f"map: expected THEIR.NAME=OUR.NAME, got {entry!r}; change --map")
    return dict(pairs)


# --- a model of the caller's own ---


class OwnModel(NamedTuple):
    """A model of the caller's own: its names, and its forward pass."""

    weights: Weights
    logits: Callable[[Arrays, Array], Array]
    """Its weights and prepared images (B, 3, 32, 32) in, whatever the framework's own layout."""


def _load(name: str, convention: Convention) -> OwnModel:
    """What `package.module:callable` makes; imports and runs the caller's own code.

    Raises UserError where it cannot be had, or is no module of that framework.
    """
    where, colon, attribute = name.partition(":")
    if not colon or convention == "canonical":
        raise UserError(f"model: expected package.module:callable of a foreign model, got {name!r}")
    if "" not in sys.path:
        sys.path.insert(0, "")  # the folder that the command runs in
    try:
        make = getattr(importlib.import_module(where), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"model: cannot import {name} ({error}); change --model") from None
    try:
        made = make()
    except TypeError as error:
        raise UserError(f"model: {name}() cannot be called without arguments ({error})") from None
    framework = plain.framework(convention)
    if not isinstance(made, framework.MODULES[convention]):
        raise UserError(f"model: expected {name}() to be a {convention} Module, got {type(made).__name__}")

    def run(arrays: Arrays, x: Array) -> Array:
        logits: Array = framework.logits(made, plain.widened(arrays, np.float64), x)
        return logits

    return OwnModel(
        _or_refused(framework.weights_of, convention, made),
        lambda *given: _or_refused(run, convention, *given),
    )


def _or_refused(call: Callable[..., Any], convention: Convention, *given: Any) -> Any:
    """A call that runs the model's own code."""
    try:
        return call(*given)
    except (RuntimeError, TypeError, ValueError) as error:
        layout = "(B, 3, 32, 32)" if convention == "torch" else "(B, 32, 32, 3)"
        raise UserError(
            f"model: expected one that takes images {layout} and nothing else, got {error}; change --model"
        ) from None


def _in_its_order(found: Weights, own: OwnModel) -> Weights:
    """The source with the classes and order of its model; raises UserError where the names differ."""
    names = list(stripped(own.weights.arrays)[0])
    if set(names) != set(found.arrays):
        apart = ", ".join(sorted(set(names) ^ set(found.arrays))[:9])
        raise UserError(f"model: not the source's, only one of the two has {apart}; change --model")
    classes = stripped(own.weights.classes or {})[0]
    arrays = {name: found.arrays[name] for name in names}
    return replace(found, arrays=arrays, ordered=own.weights.ordered, classes=classes)


# --- the conversion ---


class Conversion(NamedTuple):
    """The weights on each side; None where a side is not foreign."""

    canonical: dict[str, Array]
    came: Side | None
    made: Side | None
    step: int

    @property
    def sides(self) -> list[Side]:
        return [side for side in (self.came, self.made) if side is not None]


def _converted(found: Weights, to: Convention, options: Options, own: OwnModel | None) -> Conversion:
    """Raises UserError where source, network and target do not fit, or fit in several ways."""
    of_source: Options = {
        "experiment": options["experiment"],
        "explicit": found.names,
        "flatten": found.flatten,
    }
    if to == "canonical":
        found = found if own is None else _in_its_order(found, own)
        of_source["explicit"] = found.names | dict(options["explicit"] or {})
        of_source["flatten"] = options["flatten"] or found.flatten
    if found.convention == "canonical":
        canonical, came = _required(found.arrays, options["experiment"]), None
    else:
        canonical, came = to_canonical(found, **of_source)
    if to == "canonical":
        return Conversion(canonical, came, None, found.step)
    if own is None:
        made = plan.into_plain(shapes_of(canonical), to, **options)
    else:
        made = plan.make(shapes_of(canonical), own.weights, **options)
    arrays = made.to_theirs(canonical, found.step)
    if own is not None:
        arrays = {name: arrays[name] for name in own.weights.arrays if name in arrays}
    return Conversion(canonical, came, Side(made, arrays), found.step)


def _required(arrays: dict[str, Array], spec: Experiment | None) -> dict[str, Array]:
    """The canonical arrays, once they are found to be the experiment's."""
    group(Weights("canonical", arrays))  # raises for what is no layer's
    shapes = shapes_of(arrays)
    wanted = shapes if spec is None else canonical_shapes(spec)
    lines = [
        f"{name}: expected {wanted.get(name, 'nothing')}, found {shapes.get(name, 'nothing')}"
        for name in wanted | shapes
        if wanted.get(name) != shapes.get(name)
    ]
    if lines:
        listed = "\n  ".join(lines)
        raise UserError(f"source: not the experiment's network:\n  {listed}\nname the right --experiment")
    return arrays


def _content(done: Conversion, target: Path, spec: Experiment | None) -> bytes:
    """The target file's; read back and converted back, every array is what it was."""
    if done.made is None:
        own = {name: name for name in done.canonical}
        written = Weights("canonical", done.canonical, experiment=spec, names=own)
    else:
        made = done.made.plan
        written = Weights(
            made.convention, done.made.arrays, True, experiment=spec, names=made.names(), flatten=made.flatten
        )
    content = files.encode(target, written)
    back = files.parse(content, target).arrays
    _require_same(written.arrays, back)
    if done.made is not None:
        _require_same(done.canonical, done.made.plan.to_ours(back))
    return content


def _require_same(before: Arrays, after: Arrays) -> None:
    assert set(before) == set(after), sorted(set(before) ^ set(after))
    for name, a in before.items():
        b = after[name]
        same = (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())
        assert same, f"{name} did not come back as it was"


# --- what is said of it ---


def _print_mapping(done: Conversion, notes: tuple[str, ...], spec: Experiment | None) -> None:
    for side in done.sides:
        layout = "(B, 32, 32, 3)" if is_flax(side.plan.convention) else "(B, 3, 32, 32)"
        print(f"{'from' if side is done.came else 'to'} {side.plan.convention}:")
        print(tables.text(("theirs", "shape", "ours", ""), _rows(side)))
        print(f"images {layout}, (pixel - mean) * scale as in training; flattened {side.plan.flatten}")
        doubts = [f"{theirs.path} may be {theirs.doubt}" for _, theirs in side.plan.pairs if theirs.doubt]
        if doubts and spec is None and side is done.came:
            notes = (*notes, f"by names and shapes alone {', '.join(doubts)}; --model would tell")
    dtypes = sorted({array.dtype.name for array in done.canonical.values()})
    print(f"dtype: {', '.join(dtypes)}, kept", *(f"note: {line}" for line in notes), sep="\n")


def _rows(side: Side) -> list[tuple[str, str, str, str]]:
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


def _check(done: Conversion, spec: Experiment | None, own: OwnModel | None) -> bool:
    """Hold each side, and the caller's own model of the last, to the truth; whether everything holds."""
    if not all(np.isfinite(array.astype(np.float64)).all() for array in done.canonical.values()):
        print("not checked: the weights hold NaN or infinities, which were moved as they are")
    elif spec is None:
        print("not checked: the network is not known; say --experiment (and --no-check silences this)")
    elif not done.sides:
        print("nothing to check: the weights were canonical and stay so")
    else:
        proofs = {
            f"plain {side.plan.convention} model": verify.check(spec, done.canonical, side)
            for side in done.sides
        }
        if own is not None:
            side = done.sides[-1]
            proofs["your model"] = verify.check_model(
                spec, done.canonical, lambda x: own.logits(side.arrays, x), side.plan.convention
            )
        print(*(proof.line(name) for name, proof in proofs.items()), sep="\n")
        return all(proof.passed for proof in proofs.values())
    return True
