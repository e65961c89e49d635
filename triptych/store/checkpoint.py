"""Checkpoints: one safetensors file each, with a SHA-256 over everything in it.

safetensors itself carries no checksum. The digest in a file's metadata covers the other metadata and
every tensor's name, dtype, shape and bytes, and is verified on load. A file appears under its name
only when it is complete and on the disk (temporary file, fsync, rename, folder fsync).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError

from triptych.describe.state import PARAMETERS, Key, State
from triptych.errors import UserError
from triptych.store.files import LinkError, own_folder, read_bytes, write_atomically

FORMAT = "triptych-checkpoint-1"
MOST_BYTES = 2**32
_NAME = re.compile(r"step-(\d{8,})\.safetensors")


class CheckpointError(UserError):
    """A checkpoint that is missing, damaged or not ours."""


@dataclass(frozen=True)
class Checkpoint:
    """A backend's full canonical state after `step` steps, and what the loop noted with it."""

    step: int
    state: State
    info: dict[str, Any]
    """JSON values: backend, fingerprint of the data, seconds so far, SHA-256 of the metrics so far."""


def save(folder: Path, checkpoint: Checkpoint) -> Path:
    """Write `folder`/step-NNNNNNNN.safetensors so that it is there whole or not at all."""
    path = own_folder(folder) / f"step-{checkpoint.step:08d}.safetensors"
    write_atomically(path, encode(checkpoint.step, checkpoint.state.flat(), checkpoint.info))
    return path


def encode(step: int, arrays: Mapping[str, np.ndarray], info: Mapping[str, Any]) -> bytes:
    """A checkpoint file's bytes."""
    tensors = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    content = json.dumps({"step": step, "info": info}, sort_keys=True)
    metadata = {"format": FORMAT, "content": content, "sha256": digest(content, tensors)}
    return safetensors.numpy.save(tensors, metadata)


def load(path: Path) -> Checkpoint:
    """The checkpoint in `path`; raises CheckpointError unless every byte is as it was saved.

    Raises UserError for what the system refuses to read, for a format of another version, and for a whole
    file that no run writes: none of these is damage.
    """
    metadata, tensors = read_tensors(path, FORMAT, CheckpointError)
    content = metadata.get("content", "")
    if metadata.get("sha256") != digest(content, tensors):
        raise CheckpointError(f"{path}: damaged, its SHA-256 is not the one it was saved with")
    step, info = _fields(content, path)
    try:
        return Checkpoint(step, State.from_flat(tensors), info)
    except UserError as error:
        raise UserError(f"{path}: {error}; take another run's") from None


def read_tensors(
    path: Path, form: str, damaged: type[UserError] = UserError
) -> tuple[dict[str, str], dict[str, np.ndarray]]:
    """Metadata and tensors of a safetensors file. Raises `damaged` where its content is wrong, and UserError
    where it cannot be read or has another format.
    """
    try:
        content = read_bytes(path, MOST_BYTES)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    try:
        tensors = safetensors.numpy.load(content)
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        metadata = header.get("__metadata__") or {}
    except (SafetensorError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise damaged(f"{path}: not a readable safetensors file ({error})") from None
    found = metadata.get("format")
    if found == form:
        return metadata, tensors
    if isinstance(found, str) and found.startswith(form.rstrip("0123456789")):
        raise UserError(
            f"{path}: expected format {form}, found {found}; read it by the version that wrote it"
        )
    raise damaged(f"{path}: expected format {form}, found {found or 'none'}")


def _fields(content: str, path: Path) -> tuple[int, dict[str, Any]]:
    """Step and info. The digest is right, but anybody can compute one: the values are checked as well."""
    try:
        fields = json.loads(content)
        step, info = fields["step"], fields["info"]
    except (ValueError, KeyError, TypeError, RecursionError):
        step, info = None, None
    if type(step) is not int or not 0 <= step < 2**63 or not isinstance(info, dict):
        raise CheckpointError(f"{path}: expected its step and info, found {content[:40]!r}")
    return step, info


def listing(folder: Path) -> list[tuple[int, Path]]:
    """(step, path) of the checkpoints in `folder`, oldest first; damaged ones too."""
    if folder.is_symlink():
        raise LinkError(folder)
    if not folder.is_dir():
        return []
    matches = [(match, path) for path in folder.iterdir() if (match := _NAME.fullmatch(path.name))]
    return sorted((int(match[1]), path) for match, path in matches)


def load_latest(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """The newest checkpoint that loads, and a line for each newer one that does not."""
    damaged: list[str] = []
    for _, path in reversed(listing(folder)):
        try:
            return load(path), damaged
        except CheckpointError as error:
            damaged.append(str(error))
    return None, damaged


def prune(folder: Path, keep_last: int, keep_steps: set[int]) -> None:
    """Remove all but the newest `keep_last` and those of `keep_steps`, and temporary files left over."""
    found = listing(folder)
    for step, path in found[: max(len(found) - keep_last, 0)]:
        if step not in keep_steps:
            path.unlink()
    for leftover in folder.glob("*.tmp"):
        leftover.unlink()


def drop_after(folder: Path, step: int) -> None:
    """Remove the checkpoints of later steps: a run that went back past them will make them again."""
    for later, path in listing(folder):
        if later > step:
            path.unlink()


def parameters_sha256(state: State) -> str:
    """SHA-256 over the parameters alone: equal exactly when they are bit for bit the same."""
    return digest("", {str(Key(PARAMETERS, name)): array for name, array in state.parameters.items()})


def digest(content: str, tensors: Mapping[str, np.ndarray]) -> str:
    """SHA-256 over a text and every tensor's name, dtype, shape and bytes."""
    hashed = hashlib.sha256(content.encode())
    for name in sorted(tensors):
        array = tensors[name]
        hashed.update(json.dumps([name, array.dtype.str, array.shape]).encode())
        hashed.update(np.ascontiguousarray(array).data)
    return hashed.hexdigest()
