"""docs/course/batch_norm.html in a browser: its numbers are those of the reference."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from numpy_ref import norm

PAGE = Path(__file__).resolve().parents[3] / "docs" / "course" / "batch_norm.html"
START = "{ x: [1, 1, 3, 3], d: [1, 0, 0, 0], gamma: 1, beta: 0, eps: 0 }"
BROWSER = shutil.which("chromium") or shutil.which("google-chrome")


def test_the_page_loads_nothing_from_elsewhere() -> None:
    text = PAGE.read_text()
    assert START in text
    assert not re.search(r"https?:|src=|@import|fetch\(", text)


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="needs chromium")
def test_every_node_has_the_references_numbers(tmp_path: Path) -> None:
    copy = tmp_path / "page.html"
    numbers = "{ x: [0.5, -1, 2, 4], d: [1, -2, 0.5, 3], gamma: 1.5, beta: 0.25, eps: 0.01 }"
    copy.write_text(PAGE.read_text().replace(START, numbers))
    command = [str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom", copy.as_uri()]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    rows = {}
    for row in re.findall(r"<tr.*?</tr>", shown):
        name = re.search(r"<th>(.*?)</th>", row)
        assert name
        rows[name[1]] = [float(v) for v in re.findall(r"<td>(.*?)</td>", row)]
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
