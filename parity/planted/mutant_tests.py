"""The last stage of `python -m parity mutate`: the unit tests, on a copy that has the mutant."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

from parity.planted.edits import OURS, Edit, edited, file_of

SECONDS = 240.0
LEFT_OUT = (
    "tests/parity/planted",
    "tests/evidence",
    "tests/tools",
    "test_architecture",
    "test_docs",
    "wheel",
)
"""They judge the text of a file, or plant bugs of their own in it, or the project as a whole."""


def killed(edit: Edit) -> tuple[str, str] | None:
    """How the tests notice the edit (a failure counts as a number, a timeout as time), and in which files."""
    root = file_of(edit.module).parents[edit.module.count(".")]
    files = likely(root, edit.module)
    if not files:
        return None
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for name in (*OURS, "tests", "docs", "pyproject.toml", "README.md"):
            source = root / name
            if source.is_dir():
                shutil.copytree(source, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
            elif source.exists():
                shutil.copy(source, copy / name)
        (source,) = edited([edit]).values()
        file_of_copy = copy / file_of(edit.module).relative_to(root)
        file_of_copy.write_text(source, encoding="utf-8")
        words = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *files]
        environment = os.environ | {"PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
        try:
            done = subprocess.run(
                words, cwd=copy, env=environment, capture_output=True, text=True, timeout=SECONDS, check=False
            )
        except subprocess.TimeoutExpired:
            return None
    if done.returncode != 1:
        return None
    failed = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    return "number", failed[0].split()[1] if failed else files[0]


def likely(root: Path, module: str) -> list[str]:
    """Test files that depend on the module, those that name it in their own path or imports first."""
    package = module.split(".")[0]
    found = []
    for path in sorted((root / "tests").rglob("test_*.py")):
        relative = path.relative_to(root).as_posix()
        if any(part in relative for part in LEFT_OUT):
            continue
        taken = _imported(path)
        own = any(each == module or each.startswith(f"{module}.") for each in taken)
        near = any(each.split(".")[0] == package for each in taken) and package != "triptych"
        if own or near:
            same = path.stem.removeprefix("test_") in module.split(".")
            found.append((not (own and same), not own, not same, relative))
    return [relative for *_, relative in sorted(found)]


@cache
def _imported(path: Path) -> frozenset[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return frozenset(found)
