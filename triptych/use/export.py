"""`triptych export RUN --to onnx|torch|flax --out PATH`: a trained model as a file that needs no Triptych.

    triptych export runs/fig1-jax-1a2b3c4d --to onnx --out fig1.onnx
    triptych export runs/fig1-jax-1a2b3c4d --to torch --out fig1.py     # and fig1.pt beside it
    triptych export runs/fig1-jax-1a2b3c4d --to flax --out fig1.py      # and fig1.npz beside it

The preprocessing is inside: all three take pixels from 0 to 255. Before anything is written the export runs
beside the run's own backend on generated images, or on its test images, and must not differ by more than
rounding explains (docs/use_a_run.md). Exit code 1: it does, and nothing was written.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro

from triptych.cifar10 import generated
from triptych.describe.catalogue import title
from triptych.describe.spec import BackendName, Device
from triptych.errors import UserError
from triptych.show import command
from triptych.show.wrapping import fitted
from triptych.store.files import write_atomically
from triptych.use import agreement
from triptych.use.agreement import Run
from triptych.use.trained import Trained, open_run, own_dataset

Format = Literal["onnx", "torch", "flax"]
IMAGES = 200
SUFFIX: dict[Format, str] = {"onnx": ".onnx", "torch": ".py", "flax": ".py"}


def export(
    run: tyro.conf.Positional[Path],
    /,
    to: Format,
    out: Path,
    best: bool = False,
    test_set: bool = False,
    backend: BackendName | None = None,
    device: Device = "auto",
    data_dir: Path | None = None,
    overwrite: bool = False,
) -> int:
    """Write a run's model for other programs.

    Args:
        run: The run's folder.
        to: onnx: an ONNX file; torch: a module of plain torch and its weights; flax: the same of Flax NNX.
        out: The file to write: NAME.onnx, or NAME.py, beside which the weights go as NAME.pt or NAME.npz.
        best: Take the checkpoint with the best test accuracy, not the last.
        test_set: Check on the run's test images, not on 200 generated ones.
        backend: What the export is checked against; the backend that trained the run where it is left out.
        device: As for train.
        data_dir: Where CIFAR-10 is, for --test-set, and for runs made before they kept their mean image.
        overwrite: Replace the files where they exist.
    """
    _require_name(out, to)
    model = open_run(run, best, data_dir)
    images = _images(model, test_set, data_dir)
    dtype = "float64" if to == "torch" and model.experiment.training.dtype == "float64" else "float32"
    files, written = _made(model, to, out, dtype)
    _require_free([out.with_name(name) for name in files], overwrite)
    in_float64 = _made(model, to, out, "float64")[1]
    found = agreement.compare(model, images, model.logits(images, backend, device), written, in_float64)
    kind = "test" if test_set else "generated"
    lines = found.lines(f"{backend or model.config['backend']}, {len(images)} {kind} images")
    print(fitted("\n".join([f"{model.describe()}; exported in {dtype}", *lines]), sys.stdout))
    if not found.passed:
        print(f"FAILED: {found.fault}; nothing was written")
        return 1
    for name, content in files.items():
        write_atomically(out.with_name(name), content)
    print("written: " + ", ".join(str(out.with_name(name)) for name in files))
    return 0


def main(argv: list[str]) -> int:
    """The command; returns its exit code."""
    return command.call(export, argv, __doc__)


def _require_name(out: Path, to: Format) -> None:
    if out.suffix != SUFFIX[to]:
        raise UserError(f"out: expected a file NAME{SUFFIX[to]} for --to {to}, got {out}; change --out")
    if to != "onnx" and not out.stem.isidentifier():
        raise UserError(f"out: expected a name that Python can import, such as model.py, got {out.name}")
    if not out.absolute().parent.is_dir():
        raise UserError(f"out: expected a file in a folder that exists, got {out}; change --out")


def _require_free(paths: list[Path], overwrite: bool) -> None:
    taken = [path for path in paths if path.exists()]
    if taken and not overwrite:
        raise UserError(f"{taken[0]}: exists; choose another --out or say --overwrite")


def _images(model: Trained, test_set: bool, data_dir: Path | None) -> np.ndarray:
    return (
        own_dataset(model, data_dir).test_images if test_set else generated.generate(train=0, test=IMAGES)[2]
    )


def _made(model: Trained, to: Format, out: Path, dtype: str) -> tuple[dict[str, bytes], Run]:
    """The files by name, in float32 or float64, and what runs them."""
    title, layers, way_in = _title(model), model.experiment.layers(), model.preprocessing
    if to == "onnx":
        from triptych.use import onnx_file

        content = onnx_file.encode(model, title, dtype)
        runs = onnx_file.by_definition if dtype == "float64" else onnx_file.logits
        return {out.name: content}, partial(runs, content)
    exported = _module(to)
    text = exported.source(layers, way_in.scale is not None, model.classes, dtype, title, out.stem)
    arrays = exported.weights(model.checkpoint.state, way_in.mean, way_in.scale, dtype)
    files = {out.name: text.encode(), out.with_suffix(exported.WEIGHTS).name: arrays}
    return files, partial(_tried, files, partial(exported.logits, dtype=dtype))


def _module(to: Format) -> Any:
    """What writes a plain torch or Flax module; imports the framework."""
    if to == "torch":
        from torch_models import exported

        return exported
    from jax_models import exported as plain_flax

    return plain_flax


def _tried(
    files: dict[str, bytes], logits: Callable[[Path, np.ndarray], np.ndarray], images: np.ndarray
) -> np.ndarray:
    """What the files give once they are written, somewhere else than they will lie."""
    with tempfile.TemporaryDirectory() as folder:
        for name, content in files.items():
            (Path(folder) / name).write_bytes(content)
        return logits(Path(folder) / next(iter(files)), images)


def _title(model: Trained) -> str:
    what, backend = title(str(model.config["name"]), model.experiment), model.config["backend"]
    return f"Trained by Triptych: {what}, by {backend}, {model.checkpoint.step} steps (run {model.name})."
