"""Every single-edit mutant of the numerical files: small mistakes made mechanically in the syntax tree.

A mutant is an `Edit`, so that it is planted as the catalogue's bugs are and shows as a diff. Left alone are
docstrings, annotations, messages and strings, imports, decorators, assertions, what raises and its condition,
and functions about devices, compiling, versions and memory: nothing there is a number.
"""

from __future__ import annotations

import ast
import random
from bisect import bisect
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import NamedTuple

from parity.planted.edits import PACKAGES, Edit, edited, source_of

LAYERS = ("augment", "backend", "conv", "dense", "loss", "model", "norm", "optim")
MODULES = (
    *(f"{package}.{name}" for package in PACKAGES.values() for name in LAYERS),
    *("numpy_ref.fast", "numpy_ref.windows", "jax_models.sweep"),
    *("jax_models.cpu.conv", "jax_models.cpu.windows", "jax_models.cpu.winograd"),
    *("triptych.describe.init", "triptych.describe.schedule", "triptych.describe.streams"),
    *("triptych.cifar10.preprocess", "triptych.cifar10.batches"),
)
"""The numerical files. Not: those about caches, devices, precision modes and exporting."""
NOT_NUMBERS = {
    *("build", "compile", "versions", "make_deterministic", "find_devices", "_find_device", "context"),
    *("_precision", "_suitable", "_prefetch"),
}
OPERATORS: dict[type, str] = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/", ast.FloorDiv: "//"}
EXCHANGED = {"+": "-", "-": "+", "*": "/", "/": "*", "//": "/"}
COMPARED: dict[type, tuple[str, tuple[str, ...]]] = {
    ast.Lt: ("<", ("<=", ">")),
    ast.LtE: ("<=", ("<", ">=")),
    ast.Gt: (">", (">=", "<")),
    ast.GtE: (">=", (">", "<=")),
    ast.Eq: ("==", ("!=",)),
    ast.NotEq: ("!=", ("==",)),
}
PAIRS = (
    *(("maximum", "minimum"), ("max", "min"), ("amax", "amin"), ("sum", "mean"), ("floor", "ceil")),
    *(("zeros", "ones"), ("zeros_like", "ones_like"), ("argmax", "argmin"), ("any", "all")),
    *(("greater", "greater_equal"), ("less", "less_equal"), ("exp", "expm1"), ("log", "log1p")),
)
NAMES = {old: new for pair in PAIRS for old, new in (pair, pair[::-1])}
LEFT_OUT = ("sqrt", "square", "abs", "log", "exp")
"""Functions whose argument may stand in their place."""

ANY_ORDER = {"maximum", "minimum", "max", "min", "isinstance", "getattr", "hasattr"}
"""Where exchanged arguments change nothing, or no number."""

Change = tuple[str, int, int, str]
"""Kind, start and end in the source, and the new text."""


class Mutant(NamedTuple):
    """One small mistake."""

    kind: str
    line: int
    function: int
    """The first line of the innermost function that holds it, 0 at a module's or class's top."""
    edit: Edit


def mutants(module: str) -> list[Mutant]:
    """All of one module, in the order of the source."""
    return list(_Reader(module).mutants())


def choose(modules: Iterable[str], seed: int, count: int | None) -> list[Mutant]:
    """So many at random, spread over the modules in proportion; the first ones of a longer choice."""
    rows = []
    for module in modules:
        found = mutants(module)
        generator = random.Random(f"{seed}/{module}")
        generator.shuffle(found)
        start = generator.random()
        rows += [((i + start) / len(found), module, mutant) for i, mutant in enumerate(found)]
    return [mutant for _, _, mutant in sorted(rows, key=lambda row: row[:2])][:count]


class _Reader:
    """One file's source and its tree."""

    def __init__(self, module: str) -> None:
        self.module, self.source = module, source_of(module)
        self.lines = self.source.splitlines(keepends=True)
        self.starts = [0]
        for line in self.lines:
            self.starts.append(self.starts[-1] + len(line))

    def mutants(self) -> Iterator[Mutant]:
        seen = set()
        for node, function in self._nodes(ast.parse(self.source), 0):
            for kind, start, end, new in self._changes(node):
                if (start, end, new) not in seen and self.source[start:end] != new:
                    seen.add((start, end, new))
                    edit = self._edit(start, end, new)
                    if edit is not None:
                        yield Mutant(kind, self._line(start), function, edit)

    def _nodes(self, node: ast.AST, function: int) -> Iterator[tuple[ast.AST, int]]:
        """What may be mutated below `node`, each with its function's first line."""
        for field, value in ast.iter_fields(node):
            if field in ("annotation", "returns", "decorator_list", "bases", "type_comment"):
                continue
            for child in value if isinstance(value, list) else [value]:
                if not isinstance(child, ast.AST) or _left_alone(child):
                    continue
                inner = function
                if isinstance(child, ast.FunctionDef):
                    inner = min([child.lineno, *(made.lineno for made in child.decorator_list)])
                if hasattr(child, "lineno"):
                    yield child, inner
                yield from self._nodes(child, inner)

    def _changes(self, node: ast.AST) -> Iterator[Change]:
        if isinstance(node, ast.BinOp):
            yield from self._binary(node)
        elif isinstance(node, ast.UnaryOp) and not isinstance(node.op, ast.UAdd):
            yield "sign or not dropped", *self._span(node), self._inside(node.operand)
        elif isinstance(node, ast.Compare):
            yield from self._compared(node)
        elif isinstance(node, ast.BoolOp):
            old, new = ("and", "or") if isinstance(node.op, ast.And) else ("or", "and")
            yield from self._between("and, or", node.values[0], node.values[1], old, (new,))
        elif isinstance(node, ast.Constant):
            yield from self._constant(node)
        elif isinstance(node, ast.Slice):
            yield from self._sliced(node)
        elif isinstance(node, ast.Call):
            yield from self._called(node)
        elif isinstance(node, ast.AugAssign):
            if sign := OPERATORS.get(type(node.op)):
                yield from self._between(
                    "update's operator", node.target, node.value, sign, (EXCHANGED[sign],)
                )
            yield "update dropped", *self._span(node), "pass"
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            yield "call dropped", *self._span(node), "pass"
        if isinstance(node, ast.If | ast.IfExp | ast.While):
            yield "condition negated", *self._span(node.test), f"(not {self._inside(node.test)})"

    def _binary(self, node: ast.BinOp) -> Iterator[Change]:
        old = OPERATORS.get(type(node.op))
        if old is None or any(isinstance(side, ast.JoinedStr) for side in (node.left, node.right)):
            return
        yield from self._between("operator", node.left, node.right, old, (EXCHANGED[old],))
        yield "term dropped", *self._span(node), self._inside(node.left)
        yield "term dropped", *self._span(node), self._inside(node.right)

    def _compared(self, node: ast.Compare) -> Iterator[Change]:
        sides = [node.left, *node.comparators]
        for left, right, op in zip(sides, sides[1:], node.ops, strict=False):
            if type(op) in COMPARED:
                yield from self._between("comparison", left, right, *COMPARED[type(op)])

    def _constant(self, node: ast.Constant) -> Iterator[Change]:
        if isinstance(node.value, bool):
            yield "constant", *self._span(node), str(not node.value)
        elif isinstance(node.value, int):
            yield "constant", *self._span(node), str(node.value + 1)
            yield (
                "constant",
                *self._span(node),
                f"({node.value - 1})" if node.value < 1 else str(node.value - 1),
            )
        elif isinstance(node.value, float):
            yield "constant", *self._span(node), repr(node.value * 1.01 or 0.01)

    def _sliced(self, node: ast.Slice) -> Iterator[Change]:
        for kind, part in (("start", node.lower), ("stop", node.upper), ("step", node.step)):
            if part is not None:
                yield f"slice without its {kind}", *self._span(part), ""
                if kind != "step":
                    yield f"slice's {kind} off by one", *self._span(part), f"{self._inside(part)} + 1"

    def _called(self, node: ast.Call) -> Iterator[Change]:
        name = node.func
        last = name.attr if isinstance(name, ast.Attribute) else getattr(name, "id", "")
        if last in NAMES:
            end = self._span(name)[1]
            yield "function", end - len(last), end, NAMES[last]
        if last in LEFT_OUT and len(node.args) == 1:
            yield "function dropped", *self._span(node), self._inside(node.args[0])
        plain = [arg for arg in node.args if not isinstance(arg, ast.Starred)]
        if last not in ANY_ORDER:
            for a, b in pairwise(plain):
                (start, middle), (after, end) = self._span(a), self._span(b)
                changed = self.source[after:end] + self.source[middle:after] + self.source[start:middle]
                yield "arguments exchanged", start, end, changed

    def _between(
        self, kind: str, left: ast.AST, right: ast.AST, old: str, new: tuple[str, ...]
    ) -> Iterator[Change]:
        """The operator that stands between two nodes; parentheses and line breaks may, too."""
        place = self.source.index(old, self._span(left)[1], self._span(right)[0])
        for each in new:
            yield kind, place, place + len(old), each

    def _span(self, node: ast.AST) -> tuple[int, int]:
        """Where it stands; columns are of UTF-8."""
        rows = ((getattr(node, f"{end}lineno"), getattr(node, f"{end}col_offset")) for end in ("", "end_"))
        start, end = (
            self.starts[line - 1] + len(self.lines[line - 1].encode()[:column].decode())
            for line, column in rows
        )
        return start, end

    def _inside(self, node: ast.AST) -> str:
        start, end = self._span(node)
        text = self.source[start:end]
        return text if isinstance(node, ast.Name | ast.Attribute | ast.Call | ast.Constant) else f"({text})"

    def _line(self, place: int) -> int:
        return bisect(self.starts, place)

    def _edit(self, start: int, end: int, new: str) -> Edit | None:
        """Whole lines, and as many before them as make them unique; None where the result is no Python."""
        first = self._line(start) - 1
        last = min(i for i, at in enumerate(self.starts) if at >= end)
        changed = self.source[self.starts[first] : start] + new + self.source[end : self.starts[last]]
        try:
            compile(self.source[:start] + new + self.source[end:], self.module, "exec")
        except SyntaxError:
            return None
        for above in range(first, -1, -1):
            before = self.source[self.starts[above] : self.starts[first]]
            old = before + self.source[self.starts[first] : self.starts[last]]
            if self.source.count("\n" + old) + self.source.startswith(old) == 1:
                found = Edit(self.module, old, before + changed)
                try:
                    return found if edited([found]) else None
                except ValueError:
                    continue
        return None


def _left_alone(node: ast.AST) -> bool:
    if isinstance(node, ast.FunctionDef):
        return node.name in NOT_NUMBERS or node.name.startswith("_check")
    if isinstance(node, ast.If):
        return all(isinstance(line, ast.Raise) for line in node.body) and not node.orelse
    if isinstance(node, ast.Expr):
        checks = isinstance(node.value, ast.Call) and getattr(node.value.func, "id", "").startswith("_check")
        return isinstance(node.value, ast.Constant) or checks
    return isinstance(node, ast.Raise | ast.Assert | ast.Import | ast.ImportFrom | ast.JoinedStr)
