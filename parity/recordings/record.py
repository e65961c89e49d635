"""`record` here, `compare` there: what `verify_model` does, with the two models on two machines.

The first folder holds weights, inputs, upstream gradients, and every pass of the model that a verdict needs,
with the noise that sets the limits. The second is recorded from the first: its model runs on the same inputs.
"""

from __future__ import annotations

import contextlib
import os
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from parity.bounds.rounding import Array
from parity.errors import UsageError
from parity.recordings import folder as files
from parity.recordings.tape import Tape, replayed, told_of
from parity.verification.adapters import Pick
from parity.verification.case import Given
from parity.verification.estimate import Noise, measured_in
from parity.verification.measured import coarseness, evaluate, measure, reading, remember
from parity.verification.model import AS_GIVEN, MOVED, opened
from parity.verification.place import Device, Place
from parity.verification.report import Report
from parity.verification.side import Side, built

PACKAGES = "numpy", "torch", "jax", "jaxlib", "flax"
ASKED = "dtypes", "training", "channels_last", "keywords"
SWITCHES: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "torch TF32 in products": ("torch", lambda t: t.backends.cuda.matmul.fp32_precision),
    "torch TF32 in convolutions": ("torch", lambda t: t.backends.cudnn.conv.fp32_precision),
    "torch cudnn.benchmark": ("torch", lambda t: t.backends.cudnn.benchmark),
    "torch cudnn.deterministic": ("torch", lambda t: t.backends.cudnn.deterministic),
    "torch autocast": ("torch", lambda t: t.is_autocast_enabled("cpu") or t.is_autocast_enabled("cuda")),
    "torch default dtype": ("torch", lambda t: str(t.get_default_dtype())),
    "jax_default_matmul_precision": ("jax", lambda j: j.config.jax_default_matmul_precision),
    "jax_enable_x64": ("jax", lambda j: j.config.jax_enable_x64),
}
VARIABLES = "XLA_FLAGS", "NVIDIA_TF32_OVERRIDE", "JAX_DEFAULT_MATMUL_PRECISION", "CUBLAS_WORKSPACE_CONFIG"


def record(
    model: Any,
    inputs: Given | str | Path,
    folder: str | Path,
    *,
    name: str = "model",
    output: Pick = None,
    keywords: Sequence[str] = (),
    dtypes: Sequence[str] = ("float64", "float32"),
    training: bool | None = None,
    channels_last: bool | None = None,
    layers: Mapping[str, str] | None = None,
    device: Device = "cpu",
) -> Path:
    """Write down what a model computes, for `python -m parity compare FIRST SECOND`.

    Args:
        model: As `verify_model` takes it, with weights of its own.
        inputs: Name to shape or array, of the first side. Of the second the first's folder: inputs, weights,
            upstream gradients, and all settings but `output`, `layers` and `device` come from there.
        folder: A new folder, or an empty one.
        name: Of the model.
        output: As in `verify_model`, and so the rest.
        keywords: Names of inputs that are passed by name.
        dtypes: Of float64, float32, bfloat16.
        training: True or False for training or evaluation mode.
        channels_last: Whether the other side takes images otherwise.
        layers: Of the second side: the first's layers to its own.
        device: cpu, or gpu.

    Returns:
        The folder.

    Raises:
        UsageError: What `verify_model` raises; a folder that holds something, or that is no recording.
    """
    where = Path(folder)
    first = Path(inputs) if isinstance(inputs, str | Path) else None
    asked: dict[str, Any]
    fields: dict[str, Any] = {}
    if first is not None:
        fields = files.read(first)
        with files.told(first):
            name, asked = str(fields["name"]), {key: fields["asked"][key] for key in ASKED}
            given: Given = dict(files.arrays(first, "inputs"))
            given = {key: given[key] for key in fields["inputs"]}
    else:
        given = inputs  # type: ignore[assignment]
        asked = dict(zip(ASKED, (list(dtypes), training, channels_last, list(keywords)), strict=True))
    side = built("model", model, output, tuple(asked["keywords"]), asked["training"])
    if not side.state():
        raise UsageError(
            "record: expected a model with weights, got a function alone; give (function, weights)"
        )
    files.begin(where)
    noise: dict[str, Any] = {}
    if first is None:
        tape = Tape(where, whole=2)
        given, dy, noise = _first(tape, side, name, given, asked, layers, device)
        tape.write("inputs", given)
        tape.write("upstream", {"dy": dy})
    else:
        tape = Tape(where, whole=1)
        _judged(name, given, first, fields, tape.recording(side), asked, layers, device)
    state = side.state()
    tape.write("state", {key: _narrow(state[key]) for key in state})
    said = {
        "name": name,
        "asked": asked,
        "device": device,
        "layers": dict(layers or {}),
        "inputs": list(given),
        "of": fields.get("files"),
        "state": {key: [list(a.shape), str(a.dtype)] for key, a in state.items()},
        "side": told_of(side),
        "settings": settings(),
        "noise": noise,
    }
    files.finish(where, {**said, "runs": tape.runs, "files": tape.files})
    return where


def _first(
    tape: Tape,
    side: Side,
    name: str,
    given: Given,
    asked: Mapping[str, Any],
    layers: Mapping[str, str] | None,
    device: Device,
) -> tuple[dict[str, Array], Array, dict[str, Any]]:
    """Records what any port's verdict may ask for; returns inputs, upstream gradient, and noise."""
    taped = tape.recording(side)
    session = opened(name, given, taped, taped, **{**asked, "device": device})
    points = {case: session.point(case) for case in (AS_GIVEN, MOVED)}
    for point in points.values():  # whole
        taped.run(point.state, point.inputs, point.dy, Place("float64", device))
    noise: dict[str, Any] = {}
    for case, point in points.items():
        centre = evaluate(side, point, Place("float64", device), reading)
        for dtype in session.item.dtypes:
            found = measure(side, point, centre, (dtype,), device, session.samples)[dtype].noise
            noise.setdefault(case, {})[measured_in(dtype)] = [dict(found), sorted(found.by_format)]
    for case, point in points.items():
        session.judged(case)
        for dtype in session.item.dtypes:
            coarseness(session.read, session.read, point, dtype, device, session.samples)
        if taped.traced:
            taped.run(point.state, point.inputs, point.dy, Place("float64", device), {})
    session.looked_into()
    inputs = {key: array for key, array in session.case.inputs.items() if key != "dy"}
    return inputs, session.case.inputs["dy"], noise


def _judged(
    name: str,
    given: Given,
    first: Path,
    fields: Mapping[str, Any],
    port: Side,
    asked: Mapping[str, Any],
    layers: Mapping[str, str] | None,
    device: Device,
) -> Report:
    """`verify_model`'s report, the first side from its folder."""
    theirs = replayed(first, fields, "reference")
    session = opened(name, given, theirs, port, layers, **{**asked, "device": device})
    for case, each in fields["noise"].items():
        for narrow, (values, by_format) in each.items():
            noise = Noise(values)
            noise.by_format = frozenset(by_format)
            remember(theirs, session.point(case), narrow, device, noise)
    return session.report()


def compared(first: str | Path, second: str | Path) -> tuple[list[str], Report]:
    """What differs between the machines, a line each; and what `verify_model` says of the two models.

    Raises:
        UsageError: No recordings, damaged ones, or a second that was not recorded from the first.
    """
    one, other = Path(first), Path(second)
    fields, own = files.read(one), files.read(other)
    with files.told(one), files.told(other):
        if own["of"] != fields["files"]:
            raise UsageError(
                f"{other}: expected a recording made from {one}; record it by "
                f"parity.record(port, {str(one)!r}, FOLDER), so that both sides run the same inputs"
            )
        arrays = files.arrays(one, "inputs")
        given = {key: arrays[key] for key in fields["inputs"]}
        port = replayed(other, own, "port")
        report = _judged(
            fields["name"], given, one, fields, port, fields["asked"], own["layers"], own["device"]
        )
        return differing(fields, own), report


def differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Versions, devices and switches that are not the same."""
    a, b = ({"device": x["device"], **x["settings"]} for x in (one, other))
    different = [key for key in a if key in b and a[key] != b[key]]
    return [f"{key}: {a[key]} in the first, {b[key]} in the second" for key in different]


def settings() -> dict[str, str]:
    """Versions, precision switches and variables of this process; of frameworks that are loaded."""
    found = {"python": platform.python_version(), "machine": platform.machine()}
    for package in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    for key, (package, switch) in SWITCHES.items():
        if package in sys.modules:
            found[key] = _told(switch, sys.modules[package])
    return found | {key: os.environ.get(key, "not set") for key in VARIABLES}


def _told(switch: Callable[[Any], Any], module: Any) -> str:
    try:
        return str(switch(module))
    except (AttributeError, RuntimeError):
        return "not there"


def _narrow(array: Array) -> Array:
    """In float32 where that loses nothing."""
    if array.dtype.kind != "f":
        return array
    narrow = array.astype(np.float32)
    return narrow if np.array_equal(narrow, array, equal_nan=True) else array
