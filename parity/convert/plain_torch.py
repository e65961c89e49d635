"""torch's side: a module's layers by class, an experiment as `nn.Sequential`, arrays as tensors, .pt files.

`torch.load(weights_only=True)` runs no code, but a hostile file can still ask for more than a machine has.
Before torch sees a file: an archive must hold its parts as they are, each once, as torch writes it; and a
pickle must not hold values within values without end. A few hundred bytes can say a tuple of itself and
itself, eighty times over: 2^80 steps for whoever hashes it, which a dictionary does with its keys.
Afterwards: a tensor may claim to be an enormous view of a few numbers, which only a copy makes real.
"""

from __future__ import annotations

import copy
import io
import pickletools
import re
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import Module
from torch.nn.modules.batchnorm import _BatchNorm

from parity.convert.plain import bfloat16, in_our_order
from parity.convert.units import (
    Array,
    Arrays,
    Convention,
    Layers,
    Order,
    Weights,
    is_weight,
    left_out,
    stripped,
)
from torch_models import plain
from triptych.errors import UserError

WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "network", "module", "params")
"""Under which a training checkpoint may hold its state_dict."""
MOST = 10**7
"""Values within values; a state_dict comes to a few dozen a tensor."""
MOST_PICKLED = 2**25
"""Bytes of pickle, which are read one operation at a time."""


MODULES = {"torch": Module}


# --- modules and tensors ---


def state_of(source: Module | Mapping[str, Any]) -> dict[str, Any]:
    """Name to tensor; raises UserError where something is no tensor, or one has no shape yet."""
    state = unwrapped(source)[0] if isinstance(source, Mapping) else source.state_dict()
    wrong = [
        f"{name} ({type(value).__name__})" for name, value in state.items() if not isinstance(value, Tensor)
    ]
    if wrong or not state:
        raise UserError(
            f"torch: expected a state_dict of tensors, found {', '.join(wrong[:5]) or 'nothing'}; save "
            "model.state_dict() of a model that is not quantized"
        )
    lazy = [name for name, tensor in state.items() if nn.parameter.is_lazy(tensor)]
    if lazy:
        raise UserError(
            f"torch: {lazy[0]} has no shape yet, as its layer is lazy; run the model once on images"
        )
    return {str(name): tensor for name, tensor in state.items()}


def weights_of(source: Module | Mapping[str, Any]) -> Weights:
    """The weights of a module, whose layers are known by class, or of a state_dict, as tensors."""
    if not isinstance(source, Module | Mapping):
        raise UserError(f"torch: expected a module or its state_dict, got {type(source).__name__}")
    state = state_of(source)
    kept = {name: t for name, t in state.items() if is_weight(name, str(t.dtype).removeprefix("torch."))}
    notes = left_out(state.keys() - kept.keys())
    if not isinstance(source, Module):
        return Weights("torch", kept, ordered=True, notes=(*unwrapped(source)[1], *notes))
    first: dict[Any, str] = {}
    for name, tensor in source.state_dict(keep_vars=True).items():
        if first.setdefault(id(tensor), name) != name:
            raise UserError(
                f"torch: {first[id(tensor)]} and {name} are one tensor; in this project's networks every "
                "layer has its own: untie them first"
            )
    owners = {name.rpartition(".")[0] for name in kept}
    classes = {
        path: _kind(part)
        for path, part in source.named_modules(remove_duplicate=False)
        if path in owners or (type(part).__module__.startswith("torch.nn.") and "Norm" in type(part).__name__)
    }
    return Weights("torch", kept, ordered=True, classes=classes, notes=notes)


def _kind(part: Module) -> str:
    """The kind of layer that a module is, or its class where it computes something else."""
    for base, kind in ((nn.Linear, "linear"), (nn.Conv2d, "conv"), (_BatchNorm, "norm")):
        if isinstance(part, base) and not hasattr(part, "parametrizations"):
            other = [
                f"{key}={getattr(part, key)}"
                for key, usual in _USUAL.items()
                if getattr(part, key, usual) != usual
            ]
            if other:
                return f"{type(part).__name__} with {', '.join(other)}"
            if type(part).forward is base.forward or isinstance(part, nn.SyncBatchNorm):
                return kind
            return f"{type(part).__module__}.{type(part).__qualname__}"  # may be called Linear, too
    return type(part).__name__


_USUAL = {"groups": 1, "dilation": (1, 1), "padding_mode": "zeros", "track_running_stats": True}
"""Settings under which our networks have a layer of that class; its window and eps are the experiment's."""


def read(weights: Weights) -> Weights:
    """The same with NumPy arrays of the same bits."""
    return replace(weights, arrays={name: to_array(tensor, name) for name, tensor in weights.arrays.items()})


def to_tensor(array: Array) -> Tensor:
    """A copy with the same bits."""
    if array.dtype.name == "bfloat16":
        return torch.from_numpy(np.array(array).view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(np.array(array))


def to_array(tensor: Tensor, name: str) -> Array:
    """A copy with the same bits, in C order; raises UserError for a tensor that is not plain numbers."""
    for fault, is_so, advice in (
        ("on the meta device, without values", tensor.is_meta, "load its weights first"),
        ("sparse or nested", tensor.layout != torch.strided or tensor.is_nested, "call to_dense() first"),
    ):
        if is_so:
            raise UserError(f"torch: {name} is {fault}; {advice}")
    tensor = tensor.detach().cpu().resolve_neg()
    if tensor.dtype == torch.bfloat16:
        return tensor.contiguous().view(torch.int16).numpy().copy().view(bfloat16())
    return np.array(tensor.numpy(), order="C")


# --- an experiment's model, and the caller's ---


class ChannelsLastFlatten(Module):
    """(B, C, H, W) to (B, H W C)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(0, 2, 3, 1).flatten(1)


@torch.no_grad()
def outputs(_: Convention, layers: Layers, weights: Arrays, x: Array, flatten: Order) -> list[Array]:
    """See parity.convert.plain.framework."""
    modules = plain.modules(layers)
    if flatten == "channels-last":
        modules = [ChannelsLastFlatten() if isinstance(m, nn.Flatten) else m for m in modules]
    model, y = nn.Sequential(*modules), to_tensor(x)
    model.to(y.dtype).load_state_dict({name: to_tensor(array) for name, array in weights.items()})
    found = []
    for module in model.eval():
        y = module(y)
        found.append(y.numpy())
    return in_our_order(layers, found, flatten)


@torch.no_grad()
def logits(module: Module, weights: Arrays, x: Array) -> Array:
    """A module of the caller's own in float64, without touching it: images (B, 3, 32, 32) in."""
    model = copy.deepcopy(module).to("cpu", torch.float64).eval()
    model.load_state_dict(
        {name: to_tensor(weights[name]) if name in weights else t for name, t in module.state_dict().items()}
    )
    return np.array(model(to_tensor(x)).numpy())


# --- files ---


def encode(arrays: Arrays) -> bytes:
    """The content of a file with these arrays."""
    buffer = io.BytesIO()
    torch.save({name: to_tensor(array) for name, array in arrays.items()}, buffer)
    return buffer.getvalue()


def parse(content: bytes) -> Weights:
    """The weights in a file's content; raises UserError for anything but a state_dict."""
    if content[:2] == b"PK":
        _require_sound(content)
    elif is_bomb(content):
        raise UserError(BOMB)
    try:
        with warnings.catch_warnings(action="ignore"):  # of what it thinks of sparse or quantized tensors
            loaded = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # unpickling what is not a state_dict can raise anything
        asked = re.search(r"GLOBAL (\S+)", str(error))
        reason = (
            f"it holds a {asked[1]}"
            if asked
            else (str(error).strip().splitlines() or [type(error).__name__])[0]
        )
        raise UserError(
            f"not a state_dict that torch.load reads with weights_only=True ({reason[:200]}); save "
            "model.state_dict(), not the model, and nothing but tensors beside it"
        ) from None
    if not isinstance(loaded, Mapping):
        raise UserError(f"expected a state_dict, found {type(loaded).__name__}; save model.state_dict()")
    found = read_bounded(weights_of(loaded), 4 * len(content))
    arrays, more = stripped(found.arrays)
    return replace(found, arrays=arrays, notes=(*found.notes, *more), what="torch state_dict")


def read_bounded(found: Weights, most: int) -> Weights:
    """`read`, where the copies come to no more than so many bytes."""
    dense = [
        t for t in found.arrays.values() if t.layout == torch.strided and not t.is_meta and not t.is_nested
    ]
    if sum(tensor.numel() * tensor.element_size() for tensor in dense) > most:
        raise UserError(BOMB)
    return read(found)


def unwrapped(loaded: Mapping[Any, Any]) -> tuple[Mapping[Any, Any], tuple[str, ...]]:
    """The state_dict that a training checkpoint holds, and a note of what else it holds."""
    notes: tuple[str, ...] = ()
    for _ in range(4):
        inner = [key for key, value in loaded.items() if "optim" not in str(key) and _holds_tensors(value)]
        known = [key for key in WRAPPERS if key in inner]
        if any(isinstance(value, Tensor) and value.dim() for value in loaded.values()) or not inner:
            break
        if not known and len(inner) > 1:
            raise UserError(
                f"expected one state_dict, found {', '.join(map(str, inner[:9]))}; save one by itself"
            )
        key = (known or inner)[0]
        rest = ", ".join(str(other) for other in loaded if other != key)
        notes = (
            *notes,
            f"the state_dict is what the file holds under {key!r}" + (rest and f"; left out: {rest}"),
        )
        loaded = loaded[key]
    return loaded, notes


def _holds_tensors(value: Any, depth: int = 4) -> bool:
    """Whether a dictionary has tensors in it, or in those within."""
    return isinstance(value, Mapping) and any(
        isinstance(part, Tensor) or (depth > 0 and _holds_tensors(part, depth - 1)) for part in value.values()
    )


BOMB = "unpacks to many times its size, as no state_dict does; do not trust it"


def _require_sound(content: bytes) -> None:
    """torch writes its archives uncompressed; a compressed one, or one of parts that overlap, may unpack to
    any size.
    """
    try:
        archive = zipfile.ZipFile(io.BytesIO(content))
        entries = archive.infolist()
        plain_parts = all(entry.compress_type == zipfile.ZIP_STORED for entry in entries)
        if any(entry.filename.endswith(".npy") for entry in entries):
            raise UserError("a NumPy .npz archive; save its arrays as safetensors instead")
        if not plain_parts:
            raise UserError("a compressed archive, which torch does not write; save it with torch.save")
        if sum(entry.file_size for entry in entries) > len(content):
            raise UserError(BOMB)
        pickled = [archive.read(entry) for entry in entries if entry.filename.endswith(".pkl")]
    except (zipfile.BadZipFile, ValueError, NotImplementedError, RuntimeError, EOFError, OSError) as error:
        raise UserError(f"a damaged archive ({error}); copy it again, or save it anew") from None
    if any(map(is_bomb, pickled)):
        raise UserError(BOMB)


# --- how much work the values in a pickle are, found without building them ---


def is_bomb(content: bytes) -> bool:
    """Whether one of the pickles that `content` starts with holds a value of more than MOST parts, or more
    operations than a state_dict needs. What is no pickle is none: reading it will fail on its own.
    """
    stream = io.BytesIO(content)
    try:
        # In torch's old format: magic number, version, system, values, keys; then plain bytes.
        return any(_largest(stream) > MOST for _ in range(5))
    except (ValueError, IndexError, KeyError):
        return False


def _largest(stream: io.BytesIO) -> int:
    """Carry out a pickle's operations on sizes in place of values."""
    stack: list[int | None] = []  # None is a mark
    memo: dict[Any, int | None] = {}
    largest, start = 0, stream.tell()
    for operation, argument, place in pickletools.genops(stream):
        if operation.name in ("PUT", "BINPUT", "LONG_BINPUT"):
            memo[argument] = stack[-1]
        elif operation.name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif operation.name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif operation.name == "MARK":
            stack.append(None)
        else:
            size = 1 + sum(_taken(operation, stack))
            stack += [size] * len(operation.stack_after)
            largest = max(largest, size)
        fills = operation.name == "GLOBAL" and "bytearray" in str(argument)  # of n: n zeros
        if largest > MOST or fills or (place or 0) - start > MOST_PICKLED:
            return MOST + 1
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
