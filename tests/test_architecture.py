"""Which room may import which: arrows run downwards only, and each framework stays in its own room.

    train.py, parity, bench, study            4: never one another
    the rest of experiment                    3: loop, run directory, checkpoints, plots, ...
    cifar10, numpy_ref, jax_models, torch_models   2: never one another
    experiment's description of a run         1: DESCRIPTION below; names no framework

The checker reads source, so it sees imports inside functions and imports by a literal name. What it
cannot see (a name built at run time) is caught by importing the rooms with a framework blocked.
"""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent

DESCRIPTION = {"errors", "require", "layers", "network", "spec", "plain", "catalogue", "init", "schedule"}
DESCRIPTION |= {"streams", "backend", "grid"}
SIBLINGS = {"cifar10", "numpy_ref", "jax_models", "torch_models"}
TOP = {"train", "parity", "bench", "study"}
ROOMS = {"experiment", *SIBLINGS, *TOP}

JAX = {"jax", "jaxlib", "flax", "optax", "chex", "orbax"}
TORCH = {"torch", "torchvision"}
MEASURES_BOTH = {"parity", "bench"}
ALLOWED_IN = {
    **{name: {"jax_models", *MEASURES_BOTH} for name in JAX},
    "torch": {"torch_models", *MEASURES_BOTH},
    "torchvision": {"cifar10", *MEASURES_BOTH},
    "tensorflow_datasets": {"cifar10"},
}
"""Framework to the rooms that may import it."""
OPTIONAL = {"torchvision", "tensorflow_datasets"}
"""Sources of data that a run may do without: imported inside a function, when asked for."""
LOOKS_UP_BY_NAME = "experiment.backend"
"""The one module that may import a room by its name: the look-up of backends."""


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


def level(module: str) -> int:
    """The height of a module's floor; imports go to a lower one, or stay in the room."""
    room, _, rest = module.partition(".")
    if room == "experiment":
        return 1 if not rest or rest.split(".")[0] in DESCRIPTION else 3
    return 2 if room in SIBLINGS else 4


def nearest_module(target: str, modules: Mapping[str, str]) -> str:
    """The module that a dotted name lies in: `experiment.spec.Layer` in `experiment.spec`."""
    while target not in modules and "." in target:
        target = target.rpartition(".")[0]
    return target


def complaint(module: str, item: Import, modules: Mapping[str, str]) -> str | None:
    """What is wrong with one import, if anything."""
    room, wanted = module.partition(".")[0], item.target.partition(".")[0]
    if wanted in ROOMS:
        target = nearest_module(item.target, modules)
        if item.by_name and module == LOOKS_UP_BY_NAME:
            return None
        if level(target) > level(module):
            return f"an upward arrow to {target}"
        if wanted != room and level(target) == level(module):
            return f"a sideways arrow to {target}"
    elif wanted in ALLOWED_IN and room not in ALLOWED_IN[wanted]:
        return f"{wanted} belongs in {', '.join(sorted(ALLOWED_IN[wanted]))}"
    elif wanted in OPTIONAL and room == "cifar10" and not item.lazy:
        return f"{wanted} is optional: import it inside the function that needs it"
    elif room == "numpy_ref" and wanted != "numpy" and wanted not in sys.stdlib_module_names:
        return f"numpy_ref imports NumPy only, not {wanted}"
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
        *(path for room in sorted(ROOMS) for path in sorted((ROOT / room).rglob("*.py"))),
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
    assert {name.partition(".")[0] for name in found} >= {"train", "experiment", *SIBLINGS}
    assert {f"experiment.{stem}" for stem in DESCRIPTION} <= set(found)


def test_no_code_lives_outside_the_rooms() -> None:
    """A new top-level folder or file of code needs a place in the rules first."""
    hidden_or_known = ROOMS | {"tests", "tools", "docs"}
    top = (path for path in ROOT.iterdir() if not path.name.startswith("."))
    outside = {
        path.name
        for path in top
        if path.stem not in hidden_or_known and (path.suffix == ".py" or any(path.glob("*.py")))
    }
    assert outside == set()


@pytest.mark.parametrize("stem", ["dense", "loss", "optim", "model", "backend"])
def test_the_backends_mirror_one_another(stem: str) -> None:
    found = sources()
    assert [room for room in sorted(SIBLINGS - {"cifar10"}) if f"{room}.{stem}" not in found] == []


BROKEN = {
    "description imports the loop": ("experiment.spec", "from experiment.loop import run", "upward"),
    "the same, through the package": ("experiment.spec", "from experiment import loop", "upward"),
    "the same, relative": ("experiment.spec", "from . import loop", "upward"),
    "the same, by name": ("experiment.spec", "importlib.import_module('experiment.loop')", "upward"),
    "the package imports the loop": ("experiment", "import experiment.loop", "upward"),
    "description imports a backend": ("experiment.init", "import numpy_ref.dense", "upward"),
    "description imports the data": ("experiment.backend", "from cifar10 import sources", "upward"),
    "description names a backend outside the look-up": (
        "experiment.init",
        "__import__('jax_models')",
        "upward",
    ),
    "a backend imports another": ("jax_models.norm", "from numpy_ref.norm import forward", "sideways"),
    "the same, inside a function": ("torch_models.norm", "def f():\n    import jax_models.norm", "sideways"),
    "the reference imports another": ("numpy_ref.norm", "import torch_models.norm", "sideways"),
    "a backend imports the data": ("torch_models.backend", "import cifar10.batches", "sideways"),
    "the data imports a backend": ("cifar10.sources", "import jax_models", "sideways"),
    "a backend imports the loop": ("numpy_ref.backend", "import experiment.loop", "upward"),
    "the data imports the loop": ("cifar10.sources", "from experiment.loop import run", "upward"),
    "the loop imports the command line": ("experiment.loop", "import train", "upward"),
    "the loop imports the harness": ("experiment.loop", "from parity import compare", "upward"),
    "the harness imports the bench": ("parity.report", "from bench import table", "sideways"),
    "jax above its room": ("experiment.loop", "import jax.numpy as jnp", "jax belongs in"),
    "optax in the description": ("experiment.schedule", "from optax import adam", "optax belongs in"),
    "flax in torch's room": ("torch_models.dense", "from flax import nnx", "flax belongs in"),
    "torch in jax's room": ("jax_models.dense", "from torch.nn import functional", "torch belongs in"),
    "torch in the command line": ("train", "import torch", "torch belongs in"),
    "torch in the data": ("cifar10.sources", "def f():\n    import torch", "torch belongs in"),
    "torch in the study": ("study.page", "import torch", "torch belongs in"),
    "torchvision in the loop": ("experiment.loop", "import torchvision", "torchvision belongs in"),
    "torchvision for every run": ("cifar10.sources", "import torchvision", "is optional"),
    "tfds for every run": ("cifar10.sources", "import tensorflow_datasets as tfds", "is optional"),
    "the reference uses jax": ("numpy_ref.dense", "import jax", "jax belongs in"),
    "the reference uses SciPy": ("numpy_ref.conv", "from scipy.signal import convolve", "NumPy only"),
}


@pytest.mark.parametrize(("module", "source", "reason"), BROKEN.values(), ids=BROKEN.keys())
def test_each_rule_catches_its_violation(module: str, source: str, reason: str) -> None:
    planted = {
        "experiment": "",
        "experiment.loop": "",
        "experiment.spec": "",
        "jax_models": "",
        module: source,
    }
    found = violations(planted, frozenset({"experiment", "jax_models"}))
    assert len(found) == 1
    assert reason in found[0]


ALLOWED = {
    "the look-up of backends": ("experiment.backend", "importlib.import_module('jax_models')"),
    "a backend reads the description": ("jax_models.model", "import jax\nfrom experiment.spec import Layer"),
    "a backend reads itself": ("torch_models.model", "import torch\nfrom torch_models import dense"),
    "the data reads the description": ("cifar10.sources", "from experiment.backend import TrainingData"),
    "an optional source of data": (
        "cifar10.sources",
        "def f():\n    import torchvision, tensorflow_datasets",
    ),
    "the reference uses NumPy": (
        "numpy_ref.dense",
        "import math\nimport numpy as np\nfrom experiment import spec",
    ),
    "the loop reads the data": (
        "experiment.loop",
        "from cifar10 import batches\nfrom experiment import plots",
    ),
    "the command line runs the loop": ("train", "from experiment.loop import run"),
    "the harness compares both": ("parity.compare", "import jax, torch, jax_models, torch_models.norm"),
}


@pytest.mark.parametrize(("module", "source"), ALLOWED.values(), ids=ALLOWED.keys())
def test_the_rules_let_the_design_through(module: str, source: str) -> None:
    assert violations({"experiment": "", "experiment.spec": "", "experiment.loop": "", module: source}) == []


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
    rooms = {"train", "experiment", "cifar10", "numpy_ref", backend}
    names = [name for name in sources() if name.partition(".")[0] in rooms and not name.endswith("__main__")]
    assert any(name.startswith(backend) for name in names)
    result = import_blocked(names, blocked)
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
