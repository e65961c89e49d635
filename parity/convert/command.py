"""`python -m parity convert`: from file to file, with a mapping to read and a check of what is computed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro

from parity.convert import conversion, files, own_model, verify
from parity.convert.conversion import Conversion, Request
from parity.convert.units import Convention, Order, is_flax
from triptych.describe.catalogue import find
from triptych.describe.spec import Experiment
from triptych.errors import UserError
from triptych.show import tables
from triptych.store.files import write_atomically
from triptych.store.run_dir import RunDirectory

Auto = Literal["auto", "canonical", "torch", "flax-nnx", "flax-linen"]


def convert(
    source: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE")],
    target: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="TARGET")],
    to: Convention,
    from_: Annotated[Auto, tyro.conf.arg(name="from")] = "auto",
    experiment: str = "",
    like: Path | None = None,
    model: str = "",
    map: tyro.conf.UseAppendAction[tuple[str, ...]] = (),
    to_flatten: Order | None = None,
    from_flatten: Order | None = None,
    check: bool = True,
    test_set: bool = False,
    data_dir: Path | None = None,
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
        from_: What the source is, where its content does not tell.
        experiment: The network, where the source does not tell: a name or a run folder.
        like: A file with the names that the target is to have: your own model's state_dict or variables.
        model: Your own torch or NNX model, as package.module:callable, which is imported and called; of the
            foreign side. Gives the names and their order, and is checked by its own forward pass.
        map: THEIR.NAME=OUR.NAME, of layers or parameters, or a JSON file of them; may be repeated.
        to_flatten: The target model's order of flattened images; default: channels-last for Flax only.
        from_flatten: The same of the source's model.
        check: Build a plain model, or take --model, and hold its layers and logits to the true values.
        test_set: Also predict the source run's test images, and compare with its predictions.npy.
        data_dir: Where the run's data is, for --test-set; as for train.py.
        overwrite: Replace the target where it exists.
    """
    _require_free(target, overwrite)
    found = files.read(source, None if from_ == "auto" else from_)
    print(f"source: {found.what}, {len(found.arrays)} arrays")
    owner = found.convention if to == "canonical" else to
    explicit, module = own_model.read_map(map), own_model.load(model, owner) if model else None
    if to == "canonical" and module is not None:
        found = own_model.in_its_order(found, module)
    spec = _experiment(experiment) or found.experiment
    done = conversion.carry_out(Request(found, to, spec, explicit, module, like, from_flatten, to_flatten))
    content = done.content(target, spec)
    _print_mapping(done, found.notes)
    passed = _check(done, spec, module) if check else True
    if test_set:
        explained, line = verify.test_set(found, spec, done.canonical, done.made or done.came, data_dir)
        print(line)
        passed = explained and passed
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
    if Path(text).is_dir() and text:
        return files.experiment_of(RunDirectory(Path(text)))
    return find(text).experiment if text else None


def _print_mapping(done: Conversion, notes: tuple[str, ...]) -> None:
    for side in done.sides:
        layout = "(B, 32, 32, 3)" if is_flax(side.plan.convention) else "(B, 3, 32, 32)"
        print(f"{'from' if side is done.came else 'to'} {side.plan.convention}:")
        print(tables.text(("theirs", "shape", "ours", ""), conversion.rows(side)))
        print(f"images {layout}, (pixel - mean) * scale as in training; flattened {side.plan.flatten}")
    dtypes = sorted({array.dtype.name for array in done.canonical.values()})
    print(f"dtype: {', '.join(dtypes)}, kept", *(f"note: {line}" for line in notes), sep="\n")


def _check(done: Conversion, spec: Experiment | None, module: Any) -> bool:
    """Hold each side, and the caller's own `module` of the last, to the truth; whether everything holds."""
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
        if module is not None:
            side = done.sides[-1]
            run = own_model.runner(module, side.plan.convention, side.arrays)
            proofs["your model"] = verify.check_model(spec, done.canonical, run, side.plan.convention)
        print(*(proof.line(name) for name, proof in proofs.items()), sep="\n")
        return all(proof.passed for proof in proofs.values())
    return True
