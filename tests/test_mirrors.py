"""The three backends are mirrors: the same stems, public names and equations, each equation carried out."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("numpy_ref", "jax_models", "torch_models")
STEMS = ("augment", "conv", "dense", "loss", "model", "norm", "optim")
DERIVED = ("conv", "dense", "loss", "norm", "optim")
"""These open with their equations."""

ONE_ROOM_ONLY: dict[tuple[str, str], set[str]] = {
    # What a backward needs of its forward pass is kept by hand where backward is written by hand.
    ("numpy_ref", "conv"): {"ConvCache", "PoolCache"},
    # Memory layout is JAX's own; XLA's operations serve what is not a CPU.
    ("jax_models", "conv"): {
        "to_internal", "to_canonical", "vendor_conv2d", "vendor_max_pool2d",
    },
    # Libraries derive the backward too, so that a second function has ours.
    ("jax_models", "norm"): {"batch_norm_manual"},
    ("torch_models", "norm"): {"batch_norm_manual"},
    # The derivation's two steps, of which libraries have only the whole.
    ("numpy_ref", "loss"): {"cross_entropy"},
    # A library's optimizer is an object that holds the slots; ours is a function of them.
    ("numpy_ref", "optim"): {"update"},
    ("jax_models", "optim"): {
        "create", "get_slots", "set_slots", "init", "step_scalars", "scale_by_adam", "Moments",
    },
    ("torch_models", "optim"): {"create", "get_slots", "set_slots", "set_learning_rate"},
    # Flax keeps a module's structure and its parameters apart.
    ("jax_models", "model"): {"bind"},
}  # fmt: skip


def source(room: str, stem: str) -> str:
    return (ROOT / room / f"{stem}.py").read_text()


def public(room: str, stem: str) -> set[str]:
    """Functions and classes, but for the backward of another: written by hand in NumPy alone."""
    defined = (node.name for node in ast.parse(source(room, stem)).body
               if isinstance(node, ast.FunctionDef | ast.ClassDef))  # fmt: skip
    return {name for name in defined if not name.startswith("_") and not name.endswith("_backward")}


def equations(room: str, stem: str) -> list[str]:
    """The indented lines of the module's docstring."""
    text = ast.get_docstring(ast.parse(source(room, stem)))
    assert text is not None
    return [line for line in text.splitlines() if line.startswith("    ")]


def numbers(text: str) -> set[int]:
    """1, 5 and 7 to 9 of "eq. 1, 5; backward 7-9"."""
    spans = re.findall(r"\b(\d+)(?:-(\d+))?", text)
    return {n for first, last in spans for n in range(int(first), int(last or first) + 1)}


def carried_out(room: str, stem: str) -> set[int]:
    """Numbers of the tags that stand behind code."""
    lines = source(room, stem).splitlines()
    comments = [
        token for token in tokenize.generate_tokens(io.StringIO("\n".join(lines)).readline)
        if token.type == tokenize.COMMENT and lines[token.start[0] - 1][: token.start[1]].strip()
    ]  # fmt: skip
    tags = (re.findall(r"(?:eq\.|backward) [\d, -]+(?:from [\d, -]+)?", token.string) for token in comments)
    return set().union(*(numbers(tag) for found in tags for tag in found))


@pytest.mark.parametrize("stem", STEMS)
def test_the_same_public_names(stem: str) -> None:
    names = {room: public(room, stem) for room in ROOMS}
    for room in ROOMS:
        only = ONE_ROOM_ONLY.get((room, stem), set())
        assert only <= names[room], "the table names what is gone"
        names[room] -= only
    assert names["numpy_ref"] == names["jax_models"] == names["torch_models"]
    assert names["numpy_ref"]


@pytest.mark.parametrize("stem", DERIVED)
def test_the_same_equations_each_carried_out(stem: str) -> None:
    """In the libraries, too: there a tag says which call does it."""
    reference = equations("numpy_ref", stem)
    assert reference
    wanted = set().union(*(numbers(tag) for tag in re.findall(r"eq\. ([\d-]+)", "\n".join(reference))))
    assert bool(wanted) == (stem != "optim")
    for room in ROOMS:
        assert equations(room, stem) == reference, room
        assert wanted <= carried_out(room, stem), (
            f"{room}/{stem}.py carries out no {wanted - carried_out(room, stem)}"
        )


@pytest.mark.parametrize("stem", ["dense", "conv", "norm"])
def test_every_layer_has_its_code_in_each_family(stem: str) -> None:
    """A table from description to code, which model.py collects; the class has the description's name."""
    tables = [__import__(f"{room}.{stem}", fromlist=["LAYERS"]).LAYERS for room in ROOMS]
    assert tables[0].keys() == tables[1].keys() == tables[2].keys()
    assert all(described.__name__ == code.__name__ for table in tables for described, code in table.items())
