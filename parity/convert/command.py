"""`python -m parity convert`: from file to file, with a mapping to read and a check of what is computed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import tyro

from parity.convert import conversion, files, own_model, predictions
from parity.convert.conversion import Conversion, Request
from parity.convert.units import Convention, Order
from parity.convert.verify import Proof
from parity.verification.table import explain
from triptych.describe.catalogue import find
from triptych.describe.plain import from_dict
from triptych.describe.spec import Experiment
from triptych.errors import UserError
from triptych.show import tables
from triptych.store.checkpoint import write_atomically
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
        experiment: The network, where the source does not tell: a name, a run folder or a config.json.
        like: A file with the names that the target is to have: your own model's state_dict or variables.
        model: Your own torch or NNX model, as package.module:callable, which is imported and called; of the
            foreign side. Gives the names and their order, and is checked by its own forward pass.
        map: THEIR.NAME=OUR.NAME, of layers or parameters, or a JSON file of such pairs, where shapes and
            order leave a choice; may be given several times.
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
    content = done.content(target)
    _print_mapping(done)
    passed = _print_proofs(done.proofs()) if check else True
    if test_set:
        passed = _print_test_set(done, data_dir) and passed
    if passed:
        _write(target, content)
    said = f"written: {target}, {len(done.arrays)} arrays, read back bit for bit"
    print(said if passed else f"{target} was not written")
    return 0 if passed else 1


def _print_test_set(done: Conversion, data_dir: Path | None) -> bool:
    """The plain model's predictions against the run's; returns whether rounding explains what differs."""
    request, side = done.request, done.made or done.came
    outcome, accuracy = predictions.of_run(request.source, request.experiment, done.canonical, side, data_dir)
    print(outcome.line(accuracy))
    return outcome.passed


def _write(target: Path, content: bytes) -> None:
    try:
        write_atomically(target, content)
    except OSError as error:
        raise UserError(f"{target}: cannot be written ({error.strerror}); choose another target") from None


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


def _print_mapping(done: Conversion) -> None:
    """Every array's names and shapes on each side, then the notes."""
    for title, side in (("from", done.came), ("to", done.made)):
        if side is not None:
            print(f"{title} {side.plan.convention}:")
            header = ("theirs", "shape", "ours", "")
            table = tables.text(header, conversion.rows(side.plan))
            print(table, *conversion.advice(side.plan), sep="\n")
    dtypes = sorted({array.dtype.name for array in done.canonical.values()})
    print(f"dtype: {', '.join(dtypes)}, kept")
    for line in dict.fromkeys(done.notes):
        print(f"note: {line}")


def _print_proofs(proofs: list[tuple[str, Proof]] | str) -> bool:
    """What was found; returns whether everything holds."""
    if isinstance(proofs, str):
        print(proofs)
        return True
    for name, proof in proofs:
        worst = proof.worst()
        if proof.passed:
            print(
                f"check, {name}: holds; {len(proof.results)} comparisons, the worst ({worst.quantity}) at "
                f"{worst.share:.3f} of its limit; predictions equal on {proof.agreeing} of {proof.images} "
                f"images; a logit's limit is {proof.room:.1e} of the logits' spread"
            )
        else:
            print(f"check, {name}: FAILED")
            for result in [result for result in proof.results if not result.passed][:5]:
                print(f"  {explain(result)}")
    return all(proof.passed for _, proof in proofs)
