"""A bug is an edit: old text to new in shipped source, and the modules that hold it executed again.

`planted` puts the edited source in the place of the shipped one. A module is executed in its own namespace,
so whoever holds the module sees the bug. The modules of its room that import it, directly or not, are
executed after it, in dependency order: what they made of it at import (a table, a `custom_vjp`) is made anew.
Elsewhere only the names taken by `from x import f` are set again. Functions and classes are new objects, so
no cache that goes by them, JAX's or torch's, holds a program without the bug; a backend made before keeps its
own compiled programs. Afterwards every namespace is what it was, object for object.
"""

from __future__ import annotations

import ast
import difflib
import importlib
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from graphlib import TopologicalSorter
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

PACKAGES = {"numpy": "numpy_ref", "jax": "jax_models", "torch": "torch_models"}
ROOMS = (*PACKAGES.values(), "triptych.describe", "triptych.cifar10")
"""Where bugs are planted; each is executed again as far as it depends on the edited module."""
OURS = (*PACKAGES.values(), "triptych", "parity")
"""Where names that were taken from such a module are set again."""


class Edit(NamedTuple):
    """In `module`'s source `old`, which stands there exactly once, becomes `new`.

    Lines after the first are indented as the line in which `old` starts, and more if they say so.
    """

    module: str
    old: str
    new: str


Edits = tuple[Edit, ...]


def edit(module: str, *texts: str) -> Edits:
    """One edit for each (old, new) of `texts`."""
    return tuple(Edit(module, old, new) for old, new in zip(texts[::2], texts[1::2], strict=True))


def alike(file: str, *texts: str, of: Iterable[str] = PACKAGES) -> Any:
    """The same edits in each backend's own `file`, as arguments of a `Bug`."""
    return {name: edit(f"{PACKAGES[name]}.{file}", *texts) for name in of}


def edited(edits: Iterable[Edit]) -> dict[str, str]:
    """Module to its edited source; raises ValueError unless each old text stands there exactly once."""
    found: dict[str, str] = {}
    for module, old, new in edits:
        source = found.get(module) or source_of(module)
        places = []
        for match in re.finditer(re.escape(old.split("\n")[0]), source):
            line = source[source.rfind("\n", 0, match.start()) + 1 : match.start()]
            indent = line[: len(line) - len(line.lstrip())]
            if source.startswith(whole := _indented(old, indent), match.start()):
                places.append((match.start(), match.start() + len(whole), indent))
        if len(places) != 1:
            raise ValueError(f"{module}: expected to find once, found {len(places)} times: {old!r}")
        ((start, end, indent),) = places
        found[module] = source[:start] + _indented(new, indent) + source[end:]
    return found


def source_of(module: str) -> str:
    """As shipped."""
    text: str = file_of(module).read_text(encoding="utf-8")
    return text


def _indented(text: str, indent: str) -> str:
    """With the lines after the first."""
    return re.sub(r"\n(?=.)", "\n" + indent, text)


def diff(edits: Iterable[Edit]) -> str:
    """The changed lines of each file, without context."""
    lines = []
    for module, source in edited(edits).items():
        changed = difflib.unified_diff(source_of(module).splitlines(), source.splitlines(), n=0, lineterm="")
        lines += [
            file_of(module, relative=True),
            *(line for line in changed if line[:3] not in ("---", "+++")),
        ]
    return "\n".join(line for line in lines if not line.startswith("@@"))


@contextmanager
def planted(edits: Iterable[Edit]) -> Iterator[None]:
    """Inside, the code has the bug; afterwards, whatever happens, it has not."""
    sources = edited(edits)
    names = _order(sources)
    shipped = {name: dict(vars(importlib.import_module(name))) for name in names}
    try:
        for name in names:
            source = sources.get(name) or source_of(name)
            exec(compile(source, str(file_of(name)), "exec"), vars(sys.modules[name]))
        _take_again(shipped)
        yield
    finally:
        wrong = {name: dict(vars(sys.modules[name])) for name in names}
        for name in names:
            vars(sys.modules[name]).clear()
            vars(sys.modules[name]).update(shipped[name])
        _take_again(wrong)


def _take_again(former: Mapping[str, Mapping[str, Any]]) -> None:
    """Wherever a name still holds what it once took from one of these modules, give it what is there now."""
    for name, module in list(sys.modules.items()):
        path = getattr(module, "__file__", None)
        if name.split(".")[0] in OURS and name not in former and path:
            own = vars(module)
            for source, taken, known in _imports(Path(path)):
                if taken in former.get(source, {}) and own.get(known) is former[source][taken]:
                    own[known] = vars(sys.modules[source]).get(taken, own[known])


def _order(edited: Iterable[str]) -> list[str]:
    """These modules and those of their rooms that import them, each after what it imports."""
    found: dict[str, set[str]] = {name: set() for name in edited}
    graph = {name: uses for room in {_room(name) for name in found} for name, uses in _graph(room).items()}
    while more := {name for name, uses in graph.items() if uses & found.keys()} - found.keys():
        found |= {name: set() for name in more}
    return list(TopologicalSorter({name: graph[name] & found.keys() for name in found}).static_order())


def _room(module: str) -> str:
    return next(room for room in ROOMS if module.startswith(f"{room}."))


@cache
def _graph(room: str) -> dict[str, set[str]]:
    """The room's modules and what each imports when it is executed."""
    root = file_of(room).parent
    found = {}
    for path in root.rglob("*.py"):
        name = ".".join((room, *path.relative_to(root).with_suffix("").parts)).removesuffix(".__init__")
        taken = _imports(path)
        found[name] = {f"{source}.{what}" for source, what, _ in taken} | {source for source, _, _ in taken}
    return found


@cache
def _imports(path: Path) -> tuple[tuple[str, str, str], ...]:
    """(module, name in it or "", name here) of the imports at a file's top level."""
    found = []
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom):
            found += [(node.module or "", alias.name, alias.asname or alias.name) for alias in node.names]
        elif isinstance(node, ast.Import):
            found += [(alias.name, "", alias.asname or alias.name) for alias in node.names]
    return tuple(found)


@cache
def file_of(module: str, relative: bool = False) -> Any:
    spec = find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    path = Path(spec.origin)
    return "/".join(path.parts[-len(module.split(".")) :]) if relative else path
