"""Which room may import which: arrows run downwards only, and each framework stays in its own room.

    train.py                                                    9
    triptych.bench, study, use, parity.__main__                 8: never one another
    parity.planted, runs, convert, report                       7
    parity.suite                                                6: the library's first customer
    triptych.train                                              5: loop, sweeps, resuming
    triptych.store, triptych.show                               4
    triptych.cifar10, numpy_ref, jax_models, torch_models       3: never one another
    triptych.describe                                           2: an experiment as data
    parity.bounds, parity.verification, parity.formula          1: the library: NumPy, and a framework in
                                                                   its adapter; nothing of ours
    triptych.errors                                             1

The checker reads source, so it sees imports inside functions and imports by a literal name. What it
cannot see (a name built at run time) is caught by importing the rooms with a framework blocked.
"""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]

SIBLINGS = {"triptych.cifar10", "numpy_ref", "jax_models", "torch_models"}
LIBRARY = {"parity.errors", "parity.bounds", "parity.formula", "parity.verification"}
FLOORS: dict[str, int] = {
    "train": 9,
    "triptych.__main__": 9,
    "triptych.bench": 8,
    "triptych.course": 8,
    "triptych.study": 8,
    "triptych.use": 8,
    "parity.__main__": 8,
    "parity.planted": 7,
    "parity.runs": 7,
    "parity.convert": 7,
    "parity.report": 7,
    "parity.suite": 6,
    "triptych.train": 5,
    "triptych.store": 4,
    "triptych.show": 4,
    **dict.fromkeys(SIBLINGS, 3),
    "triptych.describe": 2,
    **dict.fromkeys(LIBRARY, 1),
    "triptych.errors": 1,
    "parity.recordings": 2,
    "parity": 2,
    "triptych": 0,
}
"""Room to the height of its floor."""
APART = {*SIBLINGS, "triptych.bench", "triptych.course", "triptych.study", "triptych.use"}
"""Rooms that never import a neighbour on their floor."""
PACKAGES = {"train", "triptych", "parity", "numpy_ref", "jax_models", "torch_models"}

JAX = {"jax", "jaxlib", "flax", "optax", "chex", "orbax"}
TORCH = {"torch", "torchvision"}
MEASURES_BOTH = (
    "parity.verification.adapters.",
    "parity.suite",
    "parity.planted",
    "parity.runs",
    "parity.convert",
    "triptych.bench",
)
ALLOWED_IN: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(JAX, ("jax_models", *MEASURES_BOTH)),
    "torch": ("torch_models", *MEASURES_BOTH),
    "torchvision": ("triptych.cifar10", *MEASURES_BOTH),
    "tensorflow_datasets": ("triptych.cifar10",),
}
"""Framework to what the names of modules that may import it begin with."""
OPTIONAL = {"torchvision", "tensorflow_datasets"}
"""Sources of data that a run may do without: imported inside a function, when asked for."""
LOOKS_UP_BY_NAME = ("triptych.describe.protocol", "parity", "triptych.__main__")
"""Modules that may import a room by its name: the look-up of backends, and what is loaded when asked for."""


class Import(NamedTuple):
    """One name that a module imports."""

    target: str  # dotted
    line: int
    lazy: bool  # inside a function
    by_name: bool  # importlib.import_module("..."), __import__("...")


def imports_of(source: str, module: str, is_package: bool = False) -> Iterator[Import]:
    """Every import in a module's source, relative ones resolved, `from a import b` as a.b."""
    tree = ast.parse(source)
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    lazy = {id(inner) for function in functions for inner in ast.walk(function)}
    for node in ast.walk(tree):
        here = (getattr(node, "lineno", 0), id(node) in lazy)
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, *here, by_name=False)
        elif isinstance(node, ast.ImportFrom):
            package = module.split(".") if is_package else module.split(".")[:-1]
            base = package[: len(package) - node.level + 1] if node.level else []
            for alias in node.names:
                yield Import(
                    ".".join([*base, *filter(None, [node.module]), alias.name]), *here, by_name=False
                )
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            yield from (
                Import(str(name.value), *here, by_name=True)
                for name in node.args[:1]
                if isinstance(name, ast.Constant)
            )


def room_of(module: str) -> str:
    """The room that a module lies in: `parity.verification` for `parity.verification.adapters.jax`."""
    while module not in FLOORS and "." in module:
        module = module.rpartition(".")[0]
    return module


def nearest_module(target: str, modules: Mapping[str, str]) -> str:
    """The module that a dotted name lies in: `triptych.describe.spec.Layer` in `triptych.describe.spec`."""
    while target not in modules and "." in target:
        target = target.rpartition(".")[0]
    return target


def complaint(module: str, item: Import, modules: Mapping[str, str]) -> str | None:
    """What is wrong with one import, if anything."""
    room, wanted = room_of(module), item.target.partition(".")[0]
    if wanted in PACKAGES:
        target = nearest_module(item.target, modules)
        there = room_of(target)
        if there == room or (item.by_name and module in LOOKS_UP_BY_NAME):
            return None
        if FLOORS[there] > FLOORS[room]:
            return f"an upward arrow to {target}"
        if FLOORS[there] == FLOORS[room] and room in APART:
            return f"a sideways arrow to {target}"
    elif wanted in ALLOWED_IN and not module.startswith(ALLOWED_IN[wanted]):
        return f"{wanted} belongs in {', '.join(sorted(ALLOWED_IN[wanted]))}"
    elif wanted in OPTIONAL and room == "triptych.cifar10" and not item.lazy:
        return f"{wanted} is optional: import it inside the function that needs it"
    elif room in {"numpy_ref", *LIBRARY} and wanted not in {"numpy", *ALLOWED_IN, *sys.stdlib_module_names}:
        return f"{room} imports NumPy only, not {wanted}"
    return None


def violations(modules: Mapping[str, str], packages: frozenset[str] = frozenset()) -> list[str]:
    """Every import among these modules (dotted name to source) that breaks a rule."""
    found = []
    for module, source in modules.items():
        for item in imports_of(source, module, module in packages):
            if reason := complaint(module, item, modules):
                found.append(f"{module}, line {item.line}: {reason}")
    return found


def sources() -> dict[str, Path]:
    """Dotted name of every module in the rooms, to its file."""
    files = [
        ROOT / "train.py",
        *(path for package in sorted(PACKAGES) for path in sorted((ROOT / package).rglob("*.py"))),
    ]
    names = {path: ".".join(path.relative_to(ROOT).with_suffix("").parts) for path in files if path.exists()}
    return {name.removesuffix(".__init__"): path for path, name in names.items()}


def test_the_tree_keeps_to_the_rules() -> None:
    paths = sources()
    packages = frozenset(name for name, path in paths.items() if path.name == "__init__.py")
    assert violations({name: path.read_text() for name, path in paths.items()}, packages) == []


def test_every_room_is_found() -> None:
    """Guard the test above against passing because it looked at nothing."""
    found = sources()
    assert {room_of(name) for name in found} == set(FLOORS)


def test_no_room_holds_more_than_a_third_of_the_code() -> None:
    lines: dict[str, int] = {}
    for name, path in sources().items():
        lines[room_of(name)] = lines.get(room_of(name), 0) + len(path.read_text().splitlines())
    assert max(lines.values()) < sum(lines.values()) / 3


def test_no_import_runs_in_a_circle() -> None:
    """Between modules, counting imports inside functions."""
    paths = sources()
    arrows: dict[str, set[str]] = {}
    for name, path in paths.items():
        found = imports_of(path.read_text(), name, path.name == "__init__.py")
        targets = {
            nearest_module(item.target, dict.fromkeys(paths, "")) for item in found if not item.by_name
        }
        arrows[name] = targets & set(paths) - {name}
    while arrows:  # take away what imports nothing that is left
        free = {name for name, targets in arrows.items() if not targets & set(arrows)}
        assert free, f"these import one another in a circle: {sorted(arrows)}"
        arrows = {name: targets for name, targets in arrows.items() if name not in free}


def test_no_code_lives_outside_the_rooms() -> None:
    """A new top-level folder or file of code needs a place in the rules first."""
    hidden_or_known = PACKAGES | {"tests", "tools", "docs", "evidence"}
    top = (path for path in ROOT.iterdir() if not path.name.startswith("."))
    outside = {
        path.name
        for path in top
        if path.stem not in hidden_or_known and (path.suffix == ".py" or any(path.glob("*.py")))
    }
    assert outside == set()


BROKEN = [
    ("triptych.describe.spec", "from triptych.train.loop import run", "upward"),
    ("triptych.describe.spec", "from triptych.train import loop", "upward"),
    ("triptych.describe.spec", "from ..train import loop", "upward"),
    ("triptych.describe.spec", "importlib.import_module('triptych.train.loop')", "upward"),
    ("triptych.describe.init", "import numpy_ref.dense", "upward"),
    ("triptych.describe.protocol", "from triptych.cifar10 import sources", "upward"),
    ("triptych.describe.init", "__import__('jax_models')", "upward"),
    ("jax_models.norm", "from numpy_ref.norm import forward", "sideways"),
    ("torch_models.norm", "def f():\n    import jax_models.norm", "sideways"),
    ("torch_models.backend", "import triptych.cifar10.batches", "sideways"),
    ("triptych.cifar10.sources", "import jax_models", "sideways"),
    ("numpy_ref.backend", "import triptych.train.loop", "upward"),
    ("triptych.train.loop", "import train", "upward"),
    ("triptych.train.loop", "from parity.suite import check", "upward"),
    ("triptych.study.page", "from triptych.bench import text", "sideways"),
    ("parity.verification.layer", "from triptych.describe.spec import Device", "upward"),
    ("parity.bounds.special", "from parity.suite import cases", "upward"),
    ("parity.verification.model", "import jax_models.dense", "upward"),
    ("parity.bounds.special", "import scipy", "NumPy only"),
    ("parity.verification.layer", "import jax", "jax belongs in"),
    ("triptych.train.loop", "import jax.numpy as jnp", "jax belongs in"),
    ("triptych.describe.schedule", "from optax import adam", "optax belongs in"),
    ("torch_models.dense", "from flax import nnx", "flax belongs in"),
    ("jax_models.dense", "from torch.nn import functional", "torch belongs in"),
    ("train", "import torch", "torch belongs in"),
    ("triptych.cifar10.sources", "def f():\n    import torch", "torch belongs in"),
    ("triptych.study.page", "import torch", "torch belongs in"),
    ("triptych.train.loop", "import torchvision", "torchvision belongs in"),
    ("triptych.cifar10.sources", "import torchvision", "is optional"),
    ("triptych.cifar10.sources", "import tensorflow_datasets as tfds", "is optional"),
    ("numpy_ref.dense", "import jax", "jax belongs in"),
    ("numpy_ref.conv", "from scipy.signal import convolve", "NumPy only"),
]


@pytest.mark.parametrize(("module", "source", "reason"), BROKEN)
def test_each_rule_catches_its_violation(module: str, source: str, reason: str) -> None:
    rooms = dict.fromkeys(FLOORS, "")
    found = violations(rooms | {"triptych.train.loop": "", "triptych.describe.spec": "", module: source})
    assert len(found) == 1
    assert reason in found[0]


ALLOWED = [
    ("triptych.describe.protocol", "importlib.import_module('jax_models')"),
    ("jax_models.model", "import jax\nfrom triptych.describe.spec import Layer"),
    ("torch_models.model", "import torch\nfrom torch_models import dense"),
    ("triptych.cifar10.sources", "from triptych.describe.protocol import TrainingData"),
    ("triptych.cifar10.sources", "def f():\n    import torchvision, tensorflow_datasets"),
    ("numpy_ref.dense", "import math\nimport numpy as np\nfrom triptych.describe import spec"),
    ("triptych.train.loop", "from triptych.cifar10 import batches"),
    ("train", "from triptych.train.loop import run"),
    ("parity.suite.norm", "import jax, torch, jax_models, torch_models.norm"),
    ("parity.verification.adapters.jax", "import jax"),
]


@pytest.mark.parametrize(("module", "source"), ALLOWED)
def test_the_rules_let_the_design_through(module: str, source: str) -> None:
    assert violations({**dict.fromkeys(FLOORS, ""), module: source}) == []


def import_blocked(names: list[str], blocked: set[str]) -> subprocess.CompletedProcess[str]:
    """Import modules in a new process in which the blocked packages cannot be imported."""
    code = (
        "import importlib, sys\n"
        f"sys.modules.update(dict.fromkeys({sorted(blocked)!r}))\n"
        f"for name in {names!r}:\n    importlib.import_module(name)\n"
    )
    command = [sys.executable, "-W", "error", "-c", code]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=150, check=False)


@pytest.mark.parametrize(
    ("backend", "blocked"),
    [
        ("jax_models", TORCH | OPTIONAL),
        ("torch_models", JAX | OPTIONAL),
        ("numpy_ref", JAX | TORCH | OPTIONAL),
    ],
)
def test_a_backend_runs_without_the_other_frameworks(backend: str, blocked: set[str]) -> None:
    rooms = {room for room in FLOORS if room.startswith("triptych")} - {"triptych.bench", "triptych.study"}
    rooms |= {"train", "numpy_ref", backend}
    names = [name for name in sources() if room_of(name) in rooms and not name.endswith("__main__")]
    assert any(name.startswith(backend) for name in names)
    result = import_blocked(names, blocked)
    assert result.returncode == 0, result.stderr


def test_the_library_needs_numpy_alone() -> None:
    """With every other package that is installed, and all of ours that trains, out of reach."""
    rooms = LIBRARY | {"parity"}
    names = [name for name in sources() if room_of(name) in rooms]
    names = [name for name in names if not name.startswith("parity.verification.adapters.")]
    ours = {"triptych", "train", "numpy_ref", "jax_models", "torch_models", "parity.suite"}
    others = {name for name in packages_distributions() if not name.startswith("numpy")}
    assert {"jax", "torch", "safetensors"} <= others
    result = import_blocked([*names, "parity.verification.adapters.numpy"], others | ours)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(("backend", "blocked"), [("jax_models.dense", JAX), ("torch_models.dense", TORCH)])
def test_blocking_a_framework_blocks_it(backend: str, blocked: set[str]) -> None:
    assert "ModuleNotFoundError" in import_blocked([backend], blocked).stderr


def test_every_dependency_has_one_range() -> None:
    """pyproject.toml's ranges are those of requirements.txt."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    named = {*project["dependencies"], *(item for extra in extras.values() for item in extra)}
    plain = {item.replace("[cuda13]", "").replace("[tpu]", "") for item in named}
    plain -= {item for item in plain if item.startswith("triptych[")}
    lines = (line.partition("#")[0].strip() for line in (ROOT / "requirements.txt").read_text().splitlines())
    assert plain == {line for line in lines if line}
