"""`python -m parity convert`: from file to file, with a mapping to read and a check of what is computed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import tyro

from parity.convert import api, files, naming, own_model, plain, plan, report, verify
from parity.convert.plan import Order
from parity.convert.sides import Side
from parity.convert.source import About, Source
from parity.convert.units import Array, Convention, Shape, group
from triptych.describe.catalogue import find
from triptych.describe.plain import from_dict
from triptych.describe.spec import Experiment
from triptych.errors import UserError
from triptych.store.checkpoint import write_atomically
from triptych.store.run_dir import RunDirectory

Auto = Literal["auto", "canonical", "torch", "flax-nnx", "flax-linen"]
Flatten = Literal["auto", "channels-first", "channels-last"]


def convert(
    source: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE")],
    target: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="TARGET")],
    to: Convention,
    from_: Annotated[Auto, tyro.conf.arg(name="from")] = "auto",
    experiment: str = "",
    like: Path | None = None,
    model: str = "",
    map: tyro.conf.UseAppendAction[tuple[str, ...]] = (),
    to_flatten: Flatten = "auto",
    from_flatten: Flatten = "auto",
    check: bool = True,
    test_set: bool = False,
    data_dir: Path | None = None,
    overwrite: bool = False,
) -> int:
    """Move weights between this project's form, torch and Flax, and prove that they compute the same.

    Nothing is rounded: names and layouts change, bits do not. Exit code 0: written; 1: the check fails and
    nothing was written; 2: a mistake in the call or in a file. docs/convert.md has the conventions.

    Args:
        source: A run folder, a checkpoint, safetensors (canonical, torch or Flax names), a torch state_dict
            (.pt, .pth) or Flax msgpack.
        target: The file to write: .safetensors, for torch also .pt or .pth, for Flax also .msgpack.
        to: canonical; torch: a state_dict; flax-nnx: an NNX module's state; flax-linen: params and
            batch_stats.
        from_: What the source is, where its content does not tell.
        experiment: The network: a run of the catalogue, a run folder or a config.json. Needed for the check
            where the source does not say.
        like: A file with the names that the target is to have: your own model's state_dict or variables.
        model: Your own model, as package.module:callable, which is imported and called: a torch Module or an
            NNX Module, of the target, or of the source where the target is canonical. Gives the names and
            their order, and is checked by its own forward pass.
        map: THEIR.NAME=OUR.NAME, of layers or parameters, or a JSON file of such pairs, where shapes and
            order leave a choice; may be given several times. Theirs is the target where it is foreign, else
            the source.
        to_flatten: The order in which the target's model flattens images; auto: channels-last for Flax,
            channels-first for torch.
        from_flatten: The same of the source's model.
        check: Build a plain model, or take --model, and hold its layers and logits to the true values.
        test_set: Also predict the test images of the source run, and compare with its predictions.npy.
        data_dir: Where the run's data is, for --test-set; as for train.py.
        overwrite: Replace the target where it exists.
    """
    _require_free(target, overwrite)
    found = files.read(source, None if from_ == "auto" else from_)
    spec = _experiment(experiment) or found.experiment
    print(f"source: {found.what}, {len(found.arrays)} arrays")
    explicit = own_model.read_map(map)
    owner = found.convention if to == "canonical" else to
    module = own_model.load(model, owner) if model else None
    if to == "canonical" and module is not None:
        found = own_model.in_its_order(found, module)
    came, canonical, notes = _canonical(
        found, spec, _order(from_flatten), explicit if to == "canonical" else {}
    )
    template = _template(like, to, module)
    made = _theirs(canonical, to, spec, found, template, explicit, _order(to_flatten), notes)
    arrays = canonical if made is None else made.arrays
    names = {name: name for name in canonical} if made is None else made.plan.names()
    flatten: Order = "channels-first" if made is None else made.plan.flatten
    content = files.encode(target, arrays, About(to, spec, names, flatten))
    _round_trip(target, content, arrays, canonical, made)
    for line in report.conversion(canonical, came, made, notes):
        print(line)
    passed = True
    if check:
        sides = [side for side in (came, made) if side is not None]
        passed = report.checks(_proofs(spec, canonical, sides, module, owner))
    if test_set:
        passed = report.test_set(found, spec, canonical, made or came, data_dir) and passed
    if not passed:
        print(f"{target} was not written")
        return 1
    try:
        write_atomically(target, content)
    except OSError as error:
        raise UserError(f"{target}: cannot be written ({error.strerror}); choose another target") from None
    print(f"written: {target}, {len(arrays)} arrays, read back bit for bit")
    return 0


def _require_free(target: Path, overwrite: bool) -> None:
    if target.is_dir() or not target.absolute().parent.is_dir():
        raise UserError(f"{target}: expected a file in a folder that exists; choose another target")
    if target.exists() and not overwrite:
        raise UserError(f"{target}: exists; choose another target or say --overwrite")


def _experiment(text: str) -> Experiment | None:
    """The experiment that --experiment names."""
    if not text:
        return None
    path = Path(text)
    if path.is_dir() or path.suffix == ".json":
        folder = RunDirectory(path if path.is_dir() else path.parent)
        if not path.is_dir() and path.name != folder.config.name:
            raise UserError(f"experiment: expected a run's config.json, got {path}; name the run folder")
        return from_dict(folder.read_config()["experiment"], f"{folder.config}: experiment")
    return find(text).experiment


def _order(flatten: Flatten) -> Order | None:
    return None if flatten == "auto" else flatten


def _canonical(
    found: Source, spec: Experiment | None, flatten: Order | None, explicit: dict[str, str]
) -> tuple[Side | None, dict[str, Array], list[str]]:
    """The source's canonical arrays, the side they came from where it is foreign, and notes."""
    notes = list(found.notes)
    if found.convention == "canonical":
        if spec is not None:
            _require_fitting(found.arrays, spec)
        else:
            group({name: array.shape for name, array in found.arrays.items()}, "canonical")
        return None, dict(found.arrays), notes
    named = None
    if found.about is not None:
        named, flatten = found.about.names, flatten or found.about.flatten
    canonical, made, more = api.from_arrays(
        found.arrays, found.convention, found.ordered, spec, explicit, flatten, named
    )
    return Side(made, found.arrays), canonical, [*notes, *made.notes, *more]


def _require_fitting(arrays: dict[str, Array], spec: Experiment) -> None:
    wanted = api.canonical_shapes(spec)
    found = {name: array.shape for name, array in arrays.items()}
    lines = [
        f"{name}: expected {wanted.get(name, 'nothing')}, found {found.get(name, 'nothing')}"
        for name in wanted | found
        if wanted.get(name) != found.get(name)
    ]
    if lines:
        raise UserError(
            "source: not the experiment's network:\n  " + "\n  ".join(lines) + "\nname the right --experiment"
        )


def _template(
    like: Path | None, to: Convention, module: object | None
) -> tuple[dict[str, Shape], bool] | None:
    """The names and own shapes that the target is to have, and whether they come in order; None: a plain
    model's.
    """
    if module is not None and to != "canonical":
        return own_model.shapes(module, to), to == "torch"
    if like is None:
        return None
    if to == "canonical":
        raise UserError("like: canonical names are this project's own; leave --like out")
    found = files.read(like, to)
    if found.convention != to:
        raise UserError(f"like: expected {to} names in {like}, found {found.what}; name another file")
    return {name: array.shape for name, array in found.arrays.items()}, found.ordered


def _theirs(
    canonical: dict[str, Array],
    to: Convention,
    spec: Experiment | None,
    found: Source,
    template: tuple[dict[str, Shape], bool] | None,
    explicit: dict[str, str],
    flatten: Order | None,
    notes: list[str],
) -> Side | None:
    """The target's side; None where the target is canonical. Adds to `notes`."""
    if to == "canonical":
        return None
    ours = {name: array.shape for name, array in canonical.items()}
    layers = None if spec is None else spec.layers()
    if template is None:
        names = {} if layers is None else plain.names(layers, to)
        names |= {layer: theirs for theirs, layer in explicit.items()}
        units, _ = naming.our_units(ours, layers)
        shapes = naming.default_theirs(names, units, to)
        explicit = {names.get(unit.path, unit.path): unit.path for unit in units}
        template = shapes, False
    made = plan.make(
        ours, template[0], to, ordered=template[1], flatten=flatten, layers=layers, explicit=explicit
    )
    arrays, more = plan.to_theirs(made, canonical, found.step)
    notes += [*made.notes, *more]
    return Side(made, {name: arrays[name] for name in template[0] if name in arrays})


def _round_trip(
    target: Path, content: bytes, arrays: dict[str, Array], canonical: dict[str, Array], made: Side | None
) -> None:
    """Read the file's bytes and convert them back: every array must be what it was."""
    back = files.decode(target, content, "canonical" if made is None else made.plan.convention)
    _require_same(arrays, back)
    if made is not None:
        _require_same(canonical, plan.to_ours(made.plan, back)[0])


def _require_same(before: dict[str, Array], after: dict[str, Array]) -> None:
    assert set(before) == set(after), sorted(set(before) ^ set(after))
    for name, array in before.items():
        same = (array.dtype, array.shape, array.tobytes()) == (
            after[name].dtype,
            after[name].shape,
            after[name].tobytes(),
        )
        assert same, f"{name} did not come back as it was"


def _proofs(
    spec: Experiment | None,
    canonical: dict[str, Array],
    sides: list[Side],
    module: object | None,
    owner: Convention,
) -> list[tuple[str, verify.Proof]] | str:
    """Each side's check by name, or why there is none."""
    if not verify.finite(canonical):
        return "not checked: the weights hold NaN or infinities, which were moved as they are"
    if spec is None:
        return "not checked: the network is not known; say --experiment (and --no-check silences this)"
    if not sides:
        return "nothing to check: the weights were canonical and stay so"
    proofs = []
    for side in sides:
        weights = side.plain_weights(spec)
        proof = verify.check(spec, canonical, weights, side.plan.convention, side.plan.flatten)
        proofs.append((f"plain {side.plan.convention} model", proof))
    if module is not None:
        run = own_model.runner(module, owner, sides[-1].arrays)
        proofs.append(("your model", verify.check_model(spec, canonical, run, owner)))
    return proofs
