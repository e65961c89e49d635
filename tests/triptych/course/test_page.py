"""The interactive pages of docs/course in a browser: their numbers are those of the reference."""

from __future__ import annotations

import html
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from evidence.course import graph, graphs
from evidence.course.equations import ROOT
from numpy_ref import dense, loss, norm

PAGE = Path(__file__).resolve().parents[3] / "docs" / "course" / "batch_norm.html"
PAGES = [PAGE, PAGE.with_name("two_layers.html")]
BROWSER = shutil.which("chromium") or shutil.which("google-chrome")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_loads_nothing_from_elsewhere(page: Path) -> None:
    assert not re.search(r"https?:|src=|@import|fetch\(", page.read_text())


@pytest.mark.parametrize("page", [graphs.BATCH_NORM, graphs.TWO_LAYERS], ids=lambda page: page.title)
def test_every_step_has_its_equation_and_three_lines_and_every_node_its_steps(page: graph.Page) -> None:
    """The lines are those of the source; where a framework derives a gradient, that is said."""
    names = {step.name for step in page.steps} | {"dy", *(key for key, *_ in page.inputs), "W1", "W2"}
    for value, gradient in (node[2:] for node in page.nodes.values()):
        assert {value, gradient} <= names | {""}
    for step in page.steps:
        code = graph.code(step)
        assert step.formula
        assert [line["backend"] for line in code] == ["NumPy", "JAX", "PyTorch"]
        for line in code:
            file, number = line["where"].partition(",")[0].split(":")
            source = (ROOT / file).read_text().splitlines()[int(number) - 1]
            assert html.unescape(line["line"]) in source


def shown_by_the_browser(page: Path) -> dict[str, list[float]]:
    """Each row's name and numbers."""
    command = [str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom", page.as_uri()]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    rows = {}
    for row in re.findall(r"<tr[^>]*data-step.*?</tr>", shown):
        name = re.search(r"<th>(.*?)</th>", row)
        assert name
        rows[name[1]] = [float(v) for v in re.findall(r"<td>(.*?)</td>", row)]
    return rows


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="needs chromium")
def test_every_node_has_the_references_numbers(tmp_path: Path) -> None:
    copy = tmp_path / "page.html"
    numbers = {"x": [0.5, -1, 2, 4], "d": [1, -2, 0.5, 3], "gamma": [1.5], "beta": [0.25], "eps": [0.01]}
    text = PAGE.read_text()
    for key, values in numbers.items():
        for i, value in enumerate(values):
            text, changed = re.subn(rf'(<input id="{key}{i}"[^>]*value=)"[^"]*"', rf'\g<1>"{value}"', text)
            assert changed == 1
    copy.write_text(text)
    rows = shown_by_the_browser(copy)
    x, dy = np.array([[0.5], [-1.0], [2.0], [4.0]]), np.array([[1.0], [-2.0], [0.5], [3.0]])
    gamma, beta = np.array([1.5]), np.array([0.25])
    staged = norm.batch_norm_staged_backward(dy, x, gamma, 0.01)
    y, cache, mu, variance = norm.batch_norm(x, gamma, beta, 0.01)
    _, dgamma, dbeta = norm.batch_norm_backward(dy, cache)
    expected = {
        "μ, the mean": mu, "σ², the variance": variance, "x̂": cache[0], "y": y, "dγ": dgamma, "dβ": dbeta,
        "g = dL/dx̂": staged[51], "dL/dσ²": staged[56], "dL/dμ": staged[58], "dL/dx": staged[61],
        "path 1: directly": staged[51] * staged[52],
        "path 2: through μ": np.full(4, (staged[58] * staged[59]).item()),
        "path 3: through σ²": staged[56] * staged[60],
    }  # fmt: skip
    assert set(rows) == set(expected)
    for node, value in expected.items():
        np.testing.assert_allclose(rows[node], value.ravel(), atol=6e-7)  # shown to six digits


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="needs chromium")
def test_the_two_layers_have_the_references_numbers(tmp_path: Path) -> None:
    rows = shown_by_the_browser(PAGES[1])
    x, W1, a = np.array([[3.0, -1.0]]), np.array([[1.0, 2.0], [0.0, 1.0]]), 0.1
    W2, t, none = np.array([[1.0, 0.0], [-1.0, 2.0]]), np.array([[1.0, 0.0]]), np.zeros(2)
    z, _ = dense.linear(x, W1, none)
    h, _ = dense.leaky_relu(z, a)
    s, _ = dense.linear(h, W2, none)
    ds = loss.softmax_cross_entropy_backward(s, t)
    dh, dW2, _ = dense.linear_backward(ds, h, W2)
    assert dh is not None
    dz = dense.leaky_relu_backward(dh, z, a)
    dx, dW1, _ = dense.linear_backward(dz, x, W1)
    assert dx is not None
    expected = {
        "z": z, "h": h, "s": s, "p": loss.softmax(s), "L": loss.softmax_cross_entropy(s, t),
        "dL/ds": ds, "dL/dW2": dW2, "dL/dh": dh, "dL/dz": dz, "dL/dW1": dW1,
        "dL/dx": dx,
    }  # fmt: skip
    assert set(rows) == set(expected)
    for node, value in expected.items():
        np.testing.assert_allclose(rows[node], value.ravel(), atol=6e-7)  # shown to six digits
