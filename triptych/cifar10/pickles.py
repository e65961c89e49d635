"""Reads the official Python 2 batch files without unpickling them.

Unpickling runs code, and even a restricted unpickler hands hostile state to NumPy and can be made to
allocate or hash without end. A batch file needs some twenty pickle operations that build numbers, byte
strings, lists, tuples and one dictionary, and three NumPy names that stand for one array. This module
carries out those operations alone, on plain values, and records the array's shape and bytes itself; no
name is ever looked up. `pickletools` splits the file into operations.
"""

from __future__ import annotations

import io
import pickletools
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from triptych.cifar10.dataset import DataError
from triptych.cifar10.official import CHANNELS, CLASSES, PIXELS, SIDE

NEXT_STEP = "restore this file from the official archive (cifar-10-python.tar.gz), or delete the folder"

# The names as the official files spell them, whatever NumPy calls them today.
RECONSTRUCT = "numpy.core.multiarray _reconstruct"
NDARRAY = "numpy ndarray"
DTYPE = "numpy dtype"


def parse(data: bytes, name: str, rows: int) -> tuple[np.ndarray, np.ndarray, bytes | None]:
    """Images uint8 (rows, 3, 32, 32), labels uint8 (rows,) and the batch's own title of one batch file.

    data: the whole file; name: how to call it in messages. Raises DataError on any departure from the
    official layout, with the byte offset or the row.
    """
    # Three operations an image (label, file name, memo) and a few for the rest.
    batch = _Machine(data, name, limit=8 * rows + 1000).run()
    if not isinstance(batch, dict):
        raise _wrong(name, f"expected a dictionary, got {_describe(batch)}")
    for key in (b"data", b"labels"):
        if key not in batch:
            keys = sorted(key.decode("latin-1")[:40] for key in batch)[:8]
            raise _wrong(name, f"expected the keys 'data' and 'labels', got {keys}")
    title = batch.get(b"batch_label")
    return (
        _images(batch[b"data"], name, rows),
        _labels(batch[b"labels"], name, rows),
        title if isinstance(title, bytes) else None,
    )


def _images(array: object, name: str, rows: int) -> np.ndarray:
    if not isinstance(array, _Array) or array.shape is None:
        raise _wrong(name, f"'data': expected a NumPy array, got {_describe(array)}")
    if array.shape != (rows, PIXELS):
        shape = tuple(array.shape[:4])
        raise _wrong(name, f"'data': expected shape ({rows}, {PIXELS}), got {shape}")
    if len(array.data) != rows * PIXELS:
        raise _wrong(name, f"'data': expected {rows * PIXELS} bytes of pixels, got {len(array.data)}")
    pixels = np.frombuffer(array.data, np.uint8)
    flat = pixels.reshape((rows, PIXELS), order="F" if array.fortran else "C")
    return flat.reshape(rows, CHANNELS, SIDE, SIDE)


def _labels(labels: object, name: str, rows: int) -> np.ndarray:
    if not isinstance(labels, list):
        raise _wrong(name, f"'labels': expected a list, got {_describe(labels)}")
    if len(labels) != rows:
        raise _wrong(name, f"'labels': expected {rows} labels, got {len(labels)}")
    for row, label in enumerate(labels):
        if type(label) is not int or not 0 <= label < CLASSES:
            raise _wrong(name, f"'labels', row {row}: expected 0 to {CLASSES - 1}, got {_describe(label)}")
    return np.array(labels, np.uint8)


@dataclass
class _Global:
    name: str


@dataclass
class _Dtype:
    """The dtype uint8, the only one that is let through."""


@dataclass
class _Array:
    shape: tuple[int, ...] | None = None
    fortran: bool = False
    data: bytes = b""


_MARK = object()
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_NUMBERS = ("BININT", "BININT1", "BININT2", "LONG1")
_STRINGS = ("SHORT_BINSTRING", "BINSTRING")
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_GETS = ("BINGET", "LONG_BINGET")
_PUTS = ("BINPUT", "LONG_BINPUT")


class _Stop(Exception):
    """The pickle is against the rules; _Machine.run adds the file and the byte offset."""


@dataclass
class _Machine:
    """The stack machine of the pickle format, cut down to what the official files use."""

    source: bytes
    name: str
    limit: int
    stack: list[Any] = field(default_factory=list)
    memo: dict[int, Any] = field(default_factory=dict)

    def run(self) -> object:
        """The value that the pickle builds."""
        stream = io.BytesIO(self.source)
        with warnings.catch_warnings():
            # Decoding some hostile text operations warns; the operations are refused right after.
            warnings.simplefilter("ignore")
            operations = pickletools.genops(stream)
            for _ in range(self.limit):
                offset = stream.tell()
                try:
                    if self._step(operations):
                        return self._pop()
                except (_Stop, ValueError) as problem:
                    reason = str(problem)[:200]
                    raise _wrong(
                        self.name, f"not a CIFAR-10 batch at byte offset {offset}: {reason}"
                    ) from None
        raise _wrong(self.name, f"expected at most {self.limit} pickle operations, got more")

    def _step(self, operations: Iterator[tuple[Any, Any, int | None]]) -> bool:
        """Carry out the next operation; whether it was the last one."""
        operation, argument, _ = next(operations)
        kind = operation.name
        if kind == "STOP":
            return True
        if kind in _NUMBERS:
            self.stack.append(argument)
        elif kind in _STRINGS:
            self.stack.append(argument.encode("latin-1"))
        elif kind in _CONSTANTS:
            self.stack.append(_CONSTANTS[kind])
        elif kind in _PUTS:
            self.memo[argument] = self._top()
        elif kind in _GETS:
            if argument not in self.memo:
                raise _Stop(f"reads the memo's entry {argument}, which was never written")
            self.stack.append(self.memo[argument])
        elif kind == "MARK":
            self.stack.append(_MARK)
        elif kind == "GLOBAL":
            self.stack.append(_global(argument))
        elif kind != "PROTO":
            self._build(kind)
        return False

    def _build(self, kind: str) -> None:
        """The operations that make a container or an array out of values on the stack."""
        if kind == "EMPTY_DICT":
            self.stack.append({})
        elif kind == "EMPTY_LIST":
            self.stack.append([])
        elif kind == "EMPTY_TUPLE":
            self.stack.append(())
        elif kind == "TUPLE":
            self.stack.append(tuple(self._to_mark()))
        elif kind in _TUPLES:
            self.stack.append(tuple(reversed([self._pop() for _ in range(_TUPLES[kind])])))
        elif kind in ("APPEND", "APPENDS"):
            items = self._to_mark() if kind == "APPENDS" else [self._pop()]
            self._container(list).extend(items)
        elif kind in ("SETITEM", "SETITEMS"):
            items = self._to_mark() if kind == "SETITEMS" else [self._pop(), self._pop()][::-1]
            self._set_items(items)
        elif kind == "REDUCE":
            arguments, function = self._pop(), self._pop()
            self.stack.append(_call(function, arguments))
        elif kind == "BUILD":
            state = self._pop()
            _set_state(self._top(), state)
        else:
            raise _Stop(f"the pickle operation {kind} has no place in a CIFAR-10 file")

    def _set_items(self, items: list[Any]) -> None:
        keys = items[::2]
        # Only byte strings: hashing nested tuples can take for ever.
        if len(items) % 2 or not all(type(key) is bytes for key in keys):
            raise _Stop("expected byte strings as the dictionary's keys")
        self._container(dict).update(zip(keys, items[1::2], strict=True))

    def _container(self, kind: type) -> Any:
        if type(self._top()) is not kind:
            raise _Stop(f"expected a {kind.__name__} to fill, got {_describe(self._top())}")
        return self._top()

    def _top(self) -> Any:
        if not self.stack or self.stack[-1] is _MARK:
            raise _Stop("expected a value on the stack, found none")
        return self.stack[-1]

    def _pop(self) -> Any:
        self._top()
        return self.stack.pop()

    def _to_mark(self) -> list[Any]:
        for at in range(len(self.stack) - 1, -1, -1):
            if self.stack[at] is _MARK:
                items = self.stack[at + 1 :]
                del self.stack[at:]
                return items
        raise _Stop("expected a mark on the stack, found none")


def _global(name: str) -> _Global:
    if name not in (RECONSTRUCT, NDARRAY, DTYPE):
        raise _Stop(
            f"asks for the Python object '{name[:100]}', which no official file does; do not trust it"
        )
    return _Global(name)


def _call(function: object, arguments: object) -> _Array | _Dtype:
    """Stand-ins for `_reconstruct(ndarray, (0,), 'b')` and `dtype('u1', 0, 1)`."""
    if not isinstance(function, _Global) or not isinstance(arguments, tuple) or not arguments:
        raise _Stop("expected a call of a NumPy name")
    first = arguments[0]
    if function.name == RECONSTRUCT and isinstance(first, _Global) and first.name == NDARRAY:
        return _Array()
    if function.name == DTYPE and type(first) is bytes:
        if first not in (b"u1", b"|u1"):
            raise _Stop(f"expected pixels of dtype uint8 ('u1'), got {_describe(first)}")
        return _Dtype()
    raise _Stop(f"expected _reconstruct(ndarray) or dtype('u1'), got a call of {function.name}")


def _set_state(target: object, state: object) -> None:
    """Stand-in for `ndarray.__setstate__((1, shape, dtype, fortran, bytes))`; a dtype's adds nothing."""
    if isinstance(target, _Dtype):
        return
    if not isinstance(target, _Array) or not isinstance(state, tuple) or len(state) != 5:
        raise _Stop("expected the state of an array: (version, shape, dtype, order, bytes)")
    _, shape, dtype, fortran, data = state
    if not isinstance(shape, tuple) or not all(type(size) is int for size in shape):
        raise _Stop("expected the array's shape as a tuple of integers")
    if not isinstance(dtype, _Dtype) or type(fortran) is not bool or type(data) is not bytes:
        raise _Stop("expected the array's dtype uint8, order and bytes")
    target.shape, target.fortran, target.data = shape, fortran, data


def _describe(value: object) -> str:
    """A value for a message. Containers by type alone: the repr of nested ones can take for ever."""
    if value is None or type(value) in (bool, float):
        return repr(value)
    if type(value) is int:
        return repr(value) if abs(value) < 10**18 else "a huge integer"
    if type(value) is bytes:
        return repr(value[:40])
    return type(value).__name__.lstrip("_")


def _wrong(name: str, what: str) -> DataError:
    return DataError(f"{name}: {what}; {NEXT_STEP}")
