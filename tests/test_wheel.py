"""The wheel in a fresh environment with NumPy alone, used from a stranger's folder of colliding names."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
OURS = {"parity", "numpy_ref", "jax_models", "torch_models", "triptych"}
COLLIDING = (
    *("experiment", "bench", "study", "cifar10", "tests", "tools", "train", "conftest", "errors", "report"),
    *("verification", "adapters", "judge", "case", "place", "layer", "model", "formula", "bounds", "suite"),
)
"""Names that a stranger's modules may well have; some of them ours once had, too, at the top."""


def run(folder: Path, *words: str | Path) -> subprocess.CompletedProcess[str]:
    command = [str(word) for word in words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=150, check=False)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, so that nothing is left in the checkout, nor taken from an earlier build."""
    copy = tmp_path_factory.mktemp("source")
    skip = shutil.ignore_patterns("__pycache__")
    for name in OURS:
        shutil.copytree(ROOT / name, copy / name, ignore=skip)
    for name in ("pyproject.toml", "README.md", "LICENSE", "train.py"):
        shutil.copy(ROOT / name, copy)
    for name in ("tests", "tools", "docs"):  # must not come along
        (copy / name).mkdir()
        (copy / name / "__init__.py").touch()
    build = "from setuptools.build_meta import build_wheel; build_wheel('.')"
    result = run(copy, sys.executable, "-W", "ignore", "-c", build)
    assert result.returncode == 0, result.stderr
    (found,) = copy.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def stranger(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an environment, `env`, into which pip installed the wheel, and with a stranger's modules.
    The environment has links to this one's NumPy, and pip may reach no index: so NumPy is all that it needs.
    """
    folder = tmp_path_factory.mktemp("stranger")
    venv.create(folder / "env", with_pip=True)
    (site,) = folder.glob("env/lib/python*/site-packages")
    for path in Path(np.__file__).parents[1].glob("numpy*"):
        (site / path.name).symlink_to(path)
    python = folder / "env/bin/python"
    result = run(folder, python, "-m", "pip", "install", "--no-index", "--no-cache-dir", wheel)
    assert result.returncode == 0, result.stderr
    for name in COLLIDING:
        (folder / f"{name}.py").write_text(f"raise RuntimeError('imported a stranger\\'s {name}')\n")
    return folder


def test_the_wheel_holds_our_packages_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names} == OURS | {f"{wheel.name.split('-py3')[0]}.dist-info"}
    assert {"parity/py.typed", "parity/report/page.html.jinja", "triptych/use/look.css"} <= set(names)
    in_tree = {str(path.relative_to(ROOT)) for name in OURS for path in (ROOT / name).rglob("*.py")}
    assert {name for name in names if name.endswith(".py")} == in_tree


def test_the_documented_example_runs_with_numpy_alone(stranger: Path) -> None:
    page = (ROOT / "docs" / "add_your_own.md").read_text()
    example = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)[0]
    (stranger / "example.py").write_text(example)
    result = run(stranger, "env/bin/python", "-W", "error", "example.py")
    assert result.returncode == 0, result.stderr
    assert re.search(r"(\d+) of \1 comparisons hold", result.stdout)
    for package in ("jax", "torch", "safetensors", "tyro", "tqdm", "scipy"):
        assert "ModuleNotFoundError" in run(stranger, "env/bin/python", "-c", f"import {package}").stderr


def test_a_framework_that_is_missing_is_named(stranger: Path) -> None:
    (stranger / "jax_only.py").write_text(
        "from parity import verify\nverify('twice', inputs={'x': (3, 4)}, truth=lambda x: 2 * x, jax=abs)\n"
    )
    result = run(stranger, "env/bin/python", "jax_only.py")
    last = "parity.errors.UsageError: jax: the package 'jax' is not installed; install it, or leave jax out"
    assert result.stderr.splitlines()[-1] == last


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ("parity --help", 0, "parity check"),
        ("parity check", 2, "error: the package 'tyro' is not installed: pip install 'triptych[train]'\n"),
        ("triptych --help", 0, "triptych train"),
        ("triptych train", 2, "error: the package 'tyro' is not installed: pip install 'triptych[train]'\n"),
        ("triptych bench", 2, "error: the package 'tyro' is not installed: pip install 'triptych[train]'\n"),
    ],
)
def test_a_script_runs_or_says_what_to_install(stranger: Path, words: str, code: int, said: str) -> None:
    script, *arguments = words.split()
    result = run(stranger, stranger / "env/bin" / script, *arguments)
    assert result.returncode == code
    assert said in result.stdout if code == 0 else result.stderr == said


STRICT = """\
import numpy as np
from parity import Jax, Numpy, Report, Torch, assert_port, verify, verify_model
from parity.formula import erf, sqrt


def forward(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return 2 * x, x


def backward(dy: np.ndarray, cache: np.ndarray) -> np.ndarray:
    return 2 * dy


report: Report = verify("twice", inputs={"x": (3, 4)}, truth=lambda x: 2 * x, numpy=Numpy(forward, backward))
report.assert_passed()
"""


def test_a_strict_stranger_gets_types(stranger: Path) -> None:
    (stranger / "typed.py").write_text(STRICT + "reveal_type(report.passed)\nverify('none')\n")
    options = ("--strict", "--python-executable", "env/bin/python", "--cache-dir", "cache")
    result = run(stranger, sys.executable, "-m", "mypy", *options, "typed.py")
    assert 'Revealed type is "bool"' in result.stdout
    assert re.findall(r"error: (.*)", result.stdout) == [
        'Missing named argument "inputs" for "verify"  [call-arg]'
    ]
