"""A torch state_dict in a file, .pt or .pth: read without running anything in it, whatever it is.

`weights_only=True` executes no code, but a hostile file can still ask for more than a machine has. So, before
torch sees it: an archive must be uncompressed, as torch writes it; and a pickle must not hold values within
values without end. A few hundred bytes can say a tuple of itself and itself, eighty times over: 2^80 steps
for whoever hashes it, which a dictionary does with its keys. Afterwards: a tensor may claim to be an enormous
view of a few numbers, which only a copy makes real.
"""

from __future__ import annotations

import io
import pickletools
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from parity.convert import plain_torch
from parity.convert.source import Source, floating, stripped
from parity.convert.units import Arrays
from triptych.errors import UserError

WRAPPERS = ("state_dict", "model_state_dict", "model")
"""Under which a training checkpoint may hold its state_dict."""
MOST = 10**7
"""Values within values; a state_dict comes to a few dozen a tensor."""
_PUTS = ("PUT", "BINPUT", "LONG_BINPUT")
_GETS = ("GET", "BINGET", "LONG_BINGET")
_MOST_PICKLES = 5
"""In torch's old format: magic number, version, system, values, keys; then plain bytes."""


def read(content: bytes, path: Path) -> Source:
    """The weights in a file's content; raises UserError for anything but a state_dict."""
    if content[:2] == b"PK":
        _require_stored(content, path)
    elif is_bomb(content):
        raise _bomb(path)
    try:
        loaded = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # unpickling what is not a state_dict can raise anything
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(
            f"{path}: not a state_dict that torch.load reads with weights_only=True ({reason[0][:200]}); "
            "save model.state_dict(), not the model"
        ) from None
    state, notes = _unwrapped(loaded, path)
    wrong = [name for name, value in state.items() if not isinstance(value, torch.Tensor)]
    if wrong or not state:
        raise UserError(
            f"{path}: expected a state_dict of tensors, found {', '.join(map(str, wrong[:5])) or 'nothing'} "
            "in it; save model.state_dict()"
        )
    if sum(tensor.numel() * tensor.element_size() for tensor in state.values()) > 4 * len(content):
        raise _bomb(path)
    arrays, more = stripped({str(name): plain_torch.to_array(tensor) for name, tensor in state.items()})
    return Source("torch state_dict", "torch", floating(arrays, path), True, notes=(*notes, *more))


def _bomb(path: Path) -> UserError:
    return UserError(f"{path}: unpacks to many times its size, as no state_dict does; do not trust it")


def _require_stored(content: bytes, path: Path) -> None:
    """torch writes its archives uncompressed; a compressed one may unpack to any size."""
    try:
        archive = zipfile.ZipFile(io.BytesIO(content))
        entries = archive.infolist()
        stored = all(entry.compress_type == zipfile.ZIP_STORED for entry in entries)
        pickled = [archive.read(entry) for entry in entries if stored and entry.filename.endswith(".pkl")]
    except (zipfile.BadZipFile, ValueError, NotImplementedError, RuntimeError, EOFError, OSError) as error:
        raise UserError(f"{path}: a damaged archive ({error}); copy it again, or save it anew") from None
    if any(entry.filename.endswith(".npy") for entry in entries):
        raise UserError(f"{path}: a NumPy .npz archive; save its arrays as safetensors instead")
    if not stored:
        raise UserError(f"{path}: a compressed archive, which torch does not write; save it with torch.save")
    if any(map(is_bomb, pickled)):
        raise _bomb(path)


def _unwrapped(loaded: Any, path: Path) -> tuple[Mapping[Any, Any], tuple[str, ...]]:
    if not isinstance(loaded, Mapping):
        raise UserError(
            f"{path}: expected a state_dict, found {type(loaded).__name__}; save model.state_dict()"
        )
    for key in WRAPPERS:
        if isinstance(loaded.get(key), Mapping):
            return loaded[key], (f"the state_dict is what the file holds under {key!r}",)
    return loaded, ()


def encode(arrays: Arrays) -> bytes:
    """The content of a file with these arrays."""
    buffer = io.BytesIO()
    torch.save({name: plain_torch.to_tensor(array) for name, array in arrays.items()}, buffer)
    return buffer.getvalue()


# --- how much work the values in a pickle are, found without building them ---


def is_bomb(content: bytes) -> bool:
    """Whether one of the pickles that `content` starts with holds a value of more than MOST parts.

    What is no pickle is none: reading it will fail on its own.
    """
    stream = io.BytesIO(content)
    try:
        return any(_largest(stream) > MOST for _ in range(_MOST_PICKLES))
    except (ValueError, IndexError, KeyError):
        return False


def _largest(stream: io.BytesIO) -> int:
    """Carry out a pickle's operations on sizes in place of values."""
    stack: list[int | None] = []  # None is a mark
    memo: dict[Any, int | None] = {}
    largest = 0
    for operation, argument, _ in pickletools.genops(stream):
        if operation.name in _PUTS:
            memo[argument] = stack[-1]
        elif operation.name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif operation.name in _GETS:
            stack.append(memo[argument])
        elif operation.name == "MARK":
            stack.append(None)
        else:
            size = 1 + sum(_taken(operation, stack))
            stack += [size] * len(operation.stack_after)
            largest = max(largest, size)
            if largest > MOST:
                break
    return largest


def _taken(operation: pickletools.OpcodeInfo, stack: list[int | None]) -> list[int]:
    """Take from the stack what the operation does."""
    before, taken = list(operation.stack_before), []
    if pickletools.stackslice in before:
        while (size := stack.pop()) is not None:
            taken.append(size)
        before = before[: before.index(pickletools.markobject)]
    taken += [size for size in (stack.pop() for _ in before) if size is not None]
    return taken
