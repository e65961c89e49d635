"""Ways to spoil bytes, drawn from a seeded source: flips, cuts, splices, huge lengths, odd JSON."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Sequence

LENGTHS = (0, 1, 255, 2**15, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**64 - 1)
WORDS = (
    b"NaN", b"-Infinity", b"1e999", b"-1", b"1e-400", b"9" * 30, b"9" * 5000, b"true", b"null", b"[]", b"{}",
    b'""', b'"\\ud800"', b'"' + b"x" * 3000 + b'"', b"[" * 3000, b'{"a":' * 3000, b'"../../../x"',
    b"\xff\xfe", b"\x00", b"0.5", b"12345678901234567890", b'"step": 1, "step": 2', b"\n", b"\r\n",
)  # fmt: skip


def flip(draw: random.Random, content: bytearray, others: Sequence[bytes]) -> None:
    """One bit."""
    if content:
        content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)


def scatter(draw: random.Random, content: bytearray, others: Sequence[bytes]) -> None:
    """Several bytes to anything."""
    for _ in range(min(draw.randint(2, 12), len(content))):
        content[draw.randrange(len(content))] = draw.randrange(256)


def cut(draw: random.Random, content: bytearray, others: Sequence[bytes]) -> None:
    """The end is missing."""
    del content[draw.randrange(len(content) + 1) :]


def drop(draw: random.Random, content: bytearray, others: Sequence[bytes]) -> None:
    """A piece is missing."""
    start = draw.randrange(len(content) + 1)
    del content[start : start + draw.choice((1, 2, 4, 8, 64, 512))]


def repeat(draw: random.Random, content: bytearray, others: Sequence[bytes]) -> None:
    """A piece twice."""
    start = draw.randrange(len(content) + 1)
    content[start:start] = content[start : start + draw.choice((1, 4, 64, 512))]


def splice(draw: random.Random, content: bytearray, others: Sequence[bytes]) -> None:
    """The start of this, the end of another of its kind."""
    other = draw.choice(others)
    content[draw.randrange(len(content) + 1) :] = other[draw.randrange(len(other) + 1) :]


def lengths(draw: random.Random, content: bytearray, others: Sequence[bytes]) -> None:
    """A number of some width that says something enormous, over what was there."""
    width, value = draw.choice((1, 2, 4, 8)), draw.choice(LENGTHS)
    at = draw.randrange(max(len(content) - width, 0) + 1)
    order = draw.choice("<>")
    content[at : at + width] = struct.pack(f"{order}Q", value)[:width]


def word(draw: random.Random, content: bytearray, others: Sequence[bytes]) -> None:
    """A word that text formats stumble over, put in or in place of a number or string."""
    start = draw.randrange(len(content) + 1)
    content[start : start + draw.choice((0, 1, 4))] = draw.choice(WORDS)


def value(draw: random.Random, content: bytearray, others: Sequence[bytes]) -> None:
    """In JSON: the value after some colon becomes another."""
    colons = [at for at, byte in enumerate(content) if byte == 0x3A]
    if not colons:
        return word(draw, content, others)
    start = draw.choice(colons) + 1
    end = start
    while end < len(content) and content[end] not in b",}\n":
        end += 1
    content[start:end] = draw.choice(WORDS)
    return None


Mutator = Callable[[random.Random, bytearray, Sequence[bytes]], None]
BINARY: tuple[Mutator, ...] = (flip, flip, scatter, cut, drop, repeat, splice, lengths, lengths)
TEXT: tuple[Mutator, ...] = (flip, scatter, cut, drop, repeat, splice, word, value, value, value)


def mutated(draw: random.Random, seeds: Sequence[bytes], mutators: Sequence[Mutator]) -> bytes:
    """One of the seeds, spoilt once to three times."""
    content = bytearray(draw.choice(seeds))
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        draw.choice(mutators)(draw, content, seeds)
    return bytes(content)
