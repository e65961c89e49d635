"""How much work the values in a pickle are, found without building them.

A few hundred bytes can say a tuple of itself and itself, eighty times over: 2^80 steps for whoever hashes
it, which a dictionary does with its keys. torch.load with weights_only=True runs nothing, but hashes.
"""

from __future__ import annotations

import io
import pickletools
from typing import Any

MOST = 10**7
"""Values within values; a state_dict comes to a few dozen a tensor."""
_PUTS = ("PUT", "BINPUT", "LONG_BINPUT")
_GETS = ("GET", "BINGET", "LONG_BINGET")
_MOST_PICKLES = 5
"""In torch's old format: magic number, version, system, values, keys; then plain bytes."""


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
