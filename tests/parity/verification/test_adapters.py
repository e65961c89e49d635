"""What the adapters pin, and what they say of packages that are missing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import torch

from parity.verification import adapters
from parity.verification.adapters import jax as jax_adapter
from parity.verification.adapters import torch as torch_adapter
from parity.verification.place import Place

ROOT = Path(__file__).resolve().parents[3]


def test_torch_s_precision_is_pinned_and_put_back() -> None:
    products, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn

    def flags() -> tuple[bool, bool, bool]:
        return products.allow_tf32, convolutions.allow_tf32, products.allow_bf16_reduced_precision_reduction

    before = flags()
    seen = {}
    for dtype in ("float32", "bfloat16", "tf32", "shipped-tf32"):
        with torch_adapter.precision(Place(dtype)):
            seen[dtype] = flags()
        assert flags() == before
    assert seen["float32"] == seen["bfloat16"] == (False, False, False)
    assert seen["tf32"] == (True, True, False)
    assert seen["shipped-tf32"] == before


def test_jax_s_precision_is_pinned_and_put_back() -> None:
    def product(place: Place) -> str:
        with jax_adapter.precision(place):
            return str(jax.make_jaxpr(lambda a: a @ a)(np.ones((2, 2), np.float32)))

    assert "precision=(Precision.HIGHEST, Precision.HIGHEST)" in product(Place("float32"))
    assert "Precision.HIGH, " in product(Place("tf32"))
    assert "recision" not in product(Place("shipped-tf32"))


# --- packages that are missing ---


def test_installed_asks_for_the_framework_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    assert adapters.installed("jax")
    assert not adapters.installed("no_such_framework")
    monkeypatch.setitem(sys.modules, "tqdm", None)
    assert adapters.installed("numpy")
    monkeypatch.setitem(sys.modules, "torch", None)
    assert not adapters.installed("torch")


def test_importing_the_library_loads_no_framework() -> None:
    code = "from parity import verify, verify_model, Report\nimport parity.formula, sys\n"
    code += "assert not {'jax', 'torch', 'flax'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60)


HIDE = """
import sys
from importlib.machinery import PathFinder
find = PathFinder.find_spec
PathFinder.find_spec = lambda name, path=None, target=None: None if name in {} else find(name, path, target)
from parity.__main__ import main
sys.exit(main({}))
"""


def without(hidden: list[str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """`parity` with these arguments in a process that does not find some packages."""
    command = [sys.executable, "-c", HIDE.format(hidden, [*arguments])]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)


def test_a_missing_framework_is_left_out_and_said() -> None:
    result = without(["jax", "torch"], "check", "--item", "linear", "--quick")
    assert result.returncode == 0, result.stderr
    assert "jax is not installed" in result.stdout
    assert "torch is not installed" in result.stdout


def test_any_other_missing_package_is_an_error_that_names_it() -> None:
    """What a backend needs beside its framework: without it the backend must not be left out in silence."""
    result = without(["optax", "torch"], "check", "--item", "linear", "--quick")
    assert result.returncode == 2
    assert result.stderr == (
        "error: backend jax: the package 'optax' is not installed: pip install '.[jax]', "
        "or choose another --backend\n"
    )
