"""A side that keeps each pass that it runs, and a side that gives them back where its framework is not.

A pass is known by a checksum of all that goes into it. Whoever replays computes the same points from the
recorded weights and inputs; a pass that was never recorded is told as such. Whole activations are kept of
float64 alone, where layers are matched by value and fed with each other's; else what is judged.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from parity.bounds.rounding import Array
from parity.errors import UsageError
from parity.recordings import folder as files
from parity.verification.adapters import CallFailed, thinned
from parity.verification.place import Inputs, Place
from parity.verification.side import Forced, Side, Trace

PARTS = "activations", "gradients", "inputs", "parameters", "buffers", "entries"


def known_by(
    state: Inputs, inputs: Inputs, dy: Array | None, place: Place, forced: Forced | None, blurred: bool
) -> str:
    """Equal where nothing that goes into a pass differs."""
    said = [f"{place.dtype} {blurred} {dy is None} {forced is None}"]
    flat = {} if dy is None else {"dy": dy}
    for kind in (state, inputs, flat):
        said += [f"{key} {array.shape} {_sum(array)}" for key, array in sorted(kind.items())]
    said += [f"{key} {_sum(y)} {_sum(dy)}" for key, (y, dy) in sorted((forced or {}).items())]
    return f"{zlib.crc32(chr(10).join(said).encode()):08x}{len(said):x}"


def _sum(array: Array) -> str:
    held = np.ascontiguousarray(array)
    return f"{zlib.crc32(held.reshape(-1).view(np.uint8).data):x}" if held.size else ""


@dataclass(eq=False)
class Tape:
    """The passes of a recording that is being made."""

    folder: Path
    whole: int
    """Of so many float64 passes, the first ones, whole activations are kept."""
    runs: dict[str, Any] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)

    def recording(self, side: Side, blurred: bool = False) -> Side:
        """The same side, which also writes down what it computes."""

        def run(
            state: Inputs, inputs: Inputs, dy: Array | None, place: Place, forced: Forced | None = None
        ) -> Trace:
            key = known_by(state, inputs, dy, place, forced, blurred)
            try:
                trace = side.run(state, inputs, dy, place, forced)
            except CallFailed as error:
                self.runs[key] = {"failed": error.what}
                raise
            if key not in self.runs:
                centre = self.whole > 0 and place.dtype == "float64" and dy is not None
                self.whole -= centre
                self.keep(key, trace, forced is not None or centre)
            return trace

        def other() -> Side | None:
            found = side.blurred()
            return self.recording(found, True) if found else None

        return replace(side, run=run, blurred=other, order=None)

    def keep(self, key: str, trace: Trace, whole: bool) -> None:
        held = {"output": trace.output}
        told: dict[str, Any] = {"whole": trace.whole}
        for part in PARTS:
            found = getattr(trace, part)
            told[part] = list(found)
            for name, array in found.items():
                thin = part == "parameters" or (part in ("activations", "gradients") and not whole)
                held[f"{part}/{name}"] = thinned(name, array) if thin else array
        self.write(f"run{len(self.runs)}", held)
        self.runs[key] = {"file": f"run{len(self.runs)}", **told}

    def write(self, name: str, held: Mapping[str, Array]) -> None:
        self.files[name] = files.write(self.folder, name, held)


def told_of(side: Side) -> dict[str, Any]:
    """What a manifest says of a side beside its passes."""
    return {
        "framework": side.framework,
        "parameters": list(side.parameters),
        "channels_last": side.channels_last,
        "aliases": dict(side.aliases),
        "rows_kept": dict(side.rows_kept),
        "told": side.told,
        "traced": side.traced,
        "blurred": side.blurred() is not None,
    }


def replayed(folder: Path, fields: Mapping[str, Any], name: str) -> Side:
    """A recording as a side; raises UsageError for passes that are not in it."""
    said = fields["side"]
    state = files.arrays(folder, "state")
    order = list(fields["state"])

    def wide() -> Inputs:
        return {key: a.astype(np.float64) if (a := state[key]).dtype.kind == "f" else a for key in order}

    def made(blurred: bool) -> Side:
        def run(
            state: Inputs, inputs: Inputs, dy: Array | None, place: Place, forced: Forced | None = None
        ) -> Trace:
            found = fields["runs"].get(known_by(state, inputs, dy, place, forced, blurred))
            if found is None:
                raise UsageError(
                    f"{folder}: this pass ({place.dtype}) was not recorded: the other side has other inputs, "
                    "weights or settings, or another version of this package; record the second side by "
                    "parity.record(port, FIRST FOLDER) with the same version"
                )
            if "failed" in found:
                raise CallFailed(str(found["failed"]))
            if found["file"] not in fields["files"]:
                raise ValueError(f"no file {found['file']!r}")
            held = files.arrays(folder, found["file"])
            parts: dict[str, Any] = {part: files.mapped(found[part], held, f"{part}/") for part in PARTS}
            for part in ("inputs", "parameters", "buffers"):
                parts[part] = dict(parts[part])
            return Trace(held["output"], whole=bool(found["whole"]), **parts)

        return Side(
            name, str(said["framework"]), wide, tuple(said["parameters"]), run, dict,
            channels_last=bool(said["channels_last"]), aliases=said["aliases"], rows_kept=said["rows_kept"],
            blurred=lambda: made(True) if said["blurred"] and not blurred else None,
            told=str(said["told"]), traced=bool(said["traced"]),
        )  # fmt: skip

    return made(False)
