"""The two graphs: batch norm with its three paths, and two layers."""

from __future__ import annotations

from functools import partial

from evidence.course.graph import DERIVED, Page, Place, Step, text

BLUE, ORANGE, GREEN, GREY, BLACK = "#1b6ca8", "#b8511a", "#2e7d32", "#999999", "#333333"
MEAN = "<sup>1</sup>/<sub>n</sub> Σ<sub>s</sub>"
JAX_NORM = "norm.py", DERIVED + "y, _, mu, variance = _forward"
TORCH_NORM = "norm.py", DERIVED + "y = gamma.view(along) * xhat + beta.view(along)"
DX = "dx = gamma * inverse / n * (n * dy - dbeta - xhat * dgamma)"


def _norm(name: str, equation: str, formula: str, *pieces: str, path: str = "") -> Step:
    """Of norm.py in each backend; with NumPy's line alone the frameworks derive it."""
    numpy, *others = (("norm.py", piece) for piece in pieces)
    jax, torch = others or (JAX_NORM, TORCH_NORM)
    return Step(name, equation, formula, numpy, jax, torch, path)


BATCH_NORM = Page(
    "Batch norm, forward and back",
    "One feature of four samples. Change the numbers and walk through the graph. NumPy's staged backward "
    "pass has a line for each equation. JAX and PyTorch have the simplified one by hand: (47), (48), (63); "
    "and beside it a form that the framework differentiates.",
    (
        ("x", "x", (1, 1, 3, 3)),
        ("d", "dy", (1, 0, 0, 0)),
        ("gamma", "γ", (1,)),
        ("beta", "β", (0,)),
        ("eps", "ε", (0,)),
    ),
    (780, 340),
    {
        "x": (80, 160, "x", "dL/dx"),
        "μ": (270, 70, "μ, the mean", "dL/dμ"),
        "σ²": (270, 260, "σ², the variance", "dL/dσ²"),
        "x̂": (480, 160, "x̂", "g = dL/dx̂"),
        "y": (690, 160, "y", "dy"),
    },
    (
        ("x", "x̂", BLUE, "eq. 52", 0.3),
        ("x", "μ", ORANGE, "eq. 59", 0.42),
        ("μ", "x̂", ORANGE, "eq. 54", 0.55),
        ("x", "σ²", GREEN, "eq. 60", 0.5),
        ("σ²", "x̂", GREEN, "eq. 57", 0.5),
        ("μ", "σ²", GREY, "eq. 55: 0", 0.7),
        ("x̂", "y", BLACK, "eq. 51", 0.5),
    ),
    (
        _norm(
            "μ, the mean", "", f"μ = {MEAN} x<sup>s</sup>", "mu = x.mean", "mu = jnp.mean", "mu = x.mean",
        ),
        _norm(
            "σ², the variance", "", f"σ² = {MEAN} (x<sup>s</sup> − μ)²",
            "variance = np.square", "variance = jnp.mean", "variance = centred.square",
        ),
        _norm(
            "x̂", "", "x̂<sup>s</sup> = (x<sup>s</sup> − μ) / √(σ² + ε)",
            "xhat *= inverse", "xhat = ", "xhat = centred /",
        ),
        _norm(
            "y", "", "y<sup>s</sup> = γ x̂<sup>s</sup> + β",
            "y = gamma.reshape(along) * xhat", "gamma * xhat + beta", "y = gamma.view(along) * xhat",
        ),
        _norm(
            "dγ", "47", "∂L/∂γ = Σ<sub>s</sub> ∂L/∂y<sup>s</sup> x̂<sup>s</sup>",
            "dgamma = (dy * xhat)", "dgamma = jnp.sum", "dgamma = (dy * xhat)",
        ),
        _norm(
            "dβ", "48", "∂L/∂β = Σ<sub>s</sub> ∂L/∂y<sup>s</sup>",
            "dbeta = dy.sum", "dbeta = jnp.sum", "dbeta = dy.sum",
        ),
        _norm(
            "g = dL/dx̂", "51", "g<sup>s</sup> = ∂L/∂x̂<sup>s</sup> = γ ∂L/∂y<sup>s</sup>",
            "# eq. 51: dL/dxhat",
        ),
        _norm(
            "dL/dσ²", "56, 57",
            "∂L/∂σ² = Σ<sub>s</sub> g<sup>s</sup> · (−½ (x<sup>s</sup> − μ) (σ² + ε)<sup>−3/2</sup>)",
            "dvariance = total", path="three",
        ),
        _norm(
            "dL/dμ", "58",
            "∂L/∂μ = −Σ<sub>s</sub> g<sup>s</sup> / √(σ² + ε); the path through σ² adds 0 (55)",
            "dmu_short =", path="two",
        ),
        _norm(
            "path 1: directly", "52",
            "g<sup>r</sup> ∂x̂<sup>r</sup>/∂x<sup>r</sup> = g<sup>r</sup> / √(σ² + ε)",
            "dxhat_dx = inverse", path="one",
        ),
        _norm(
            "path 2: through μ", "59", "∂L/∂μ ∂μ/∂x<sup>r</sup> = ∂L/∂μ · 1/n",
            "dmu_dx = ", path="two",
        ),
        _norm(
            "path 3: through σ²", "60", "∂L/∂σ² ∂σ²/∂x<sup>r</sup> = ∂L/∂σ² · 2/n (x<sup>r</sup> − μ)",
            "dvariance_dx = ", path="three",
        ),
        _norm(
            "dL/dx", "61-63",
            "∂L/∂x<sup>r</sup>: the three paths added up, = 1/n (σ² + ε)<sup>−1/2</sup> (n g<sup>r</sup> − "
            "Σ<sub>s</sub> g<sup>s</sup> − x̂<sup>r</sup> Σ<sub>s</sub> g<sup>s</sup> x̂<sup>s</sup>)",
            DX, DX, "dx = (gamma * inverse / n)",
        ),
    ),
    "batch_norm.js",
)  # fmt: skip

LINEAR: tuple[Place, Place, Place] = (
    ("dense.py", "return x @ W.T + b"),
    ("dense.py", "x @ W.astype(x.dtype).T"),
    ("dense.py", "functional.linear(x"),
)
RELU: tuple[Place, Place, Place] = (
    ("dense.py", "return np.where(x > 0, x, slope * x)"),
    ("dense.py", "return jnp.where(x > 0, x, slope * x)"),
    ("dense.py", "functional.leaky_relu"),
)
LOSS = (
    ("loss.py", "return optax.softmax_cross_entropy(s, t)"),
    ("loss.py", "return functional.cross_entropy("),
)


def _derived(numpy: Place, forward: tuple[Place, ...]) -> tuple[Place, Place, Place]:
    """NumPy's own line; the frameworks derive it from their forward line."""
    jax, torch = ((name, DERIVED + piece) for name, piece in forward[-2:])
    return numpy, jax, torch


TWO_LAYERS = Page(
    "Two layers, forward and back",
    "Linear, LeakyReLU, Linear, softmax, cross-entropy, for one sample; biases are 0. Change the numbers and "
    "walk through the graph.",
    (
        ("x", "x", (3, -1)),
        ("w", "W1, by rows", (1, 2, 0, 1)),
        ("a", "slope a", (0.1,)),
        ("v", "W2, by rows", (1, 0, -1, 2)),
        ("t", "t", (1, 0)),
    ),
    (860, 280),
    {
        "x": (60, 200, "x", "dL/dx"),
        "W1": (210, 75, "W1", "dL/dW1"),
        "z": (210, 200, "z", "dL/dz"),
        "h": (370, 200, "h", "dL/dh"),
        "W2": (530, 75, "W2", "dL/dW2"),
        "s": (530, 200, "s", "dL/ds"),
        "p": (670, 200, "p", ""),
        "t": (800, 75, "t", ""),
        "L": (800, 200, "L", ""),
    },
    (
        ("x", "z", BLACK, "eq. 25, 38", 0.5),
        ("W1", "z", ORANGE, "", 0.5),
        ("z", "h", BLUE, "eq. 19, 37", 0.5),
        ("h", "s", BLACK, "eq. 25, 38", 0.5),
        ("W2", "s", ORANGE, "", 0.5),
        ("s", "p", GREEN, "eq. 5", 0.5),
        ("p", "L", GREEN, "eq. 1", 0.5),
        ("t", "L", GREY, "", 0.5),
    ),
    (
        Step("z", "25", "z = W1 x", *LINEAR),
        Step("h", "19", "h = max(0, z) + a min(0, z)", *RELU, path="one"),
        Step("s", "25", "s = W2 h", *LINEAR),
        Step(
            "p", "5", "p<sub>i</sub> = e<sup>s<sub>i</sub></sup> / Σ<sub>k</sub> e<sup>s<sub>k</sub></sup>",
            ("loss.py", "e = np.exp"), ("loss.py", "return jax.nn.softmax"),
            ("loss.py", "functional.softmax(s"),
            path="three",
        ),
        Step(
            "L", "1", "L = −Σ<sub>i</sub> t<sub>i</sub> ln p<sub>i</sub>",
            ("loss.py", "return -(t * log_p)"), *LOSS, path="three",
        ),
        Step(
            "dL/ds", "36", "∂L/∂s = ∂L/∂p (diag(p) − p p<sup>T</sup>) = (p − t)<sup>T</sup>",
            *_derived(("loss.py", "return (softmax(s) - t)"), LOSS), path="three",
        ),
        Step(
            "dL/dW2", "43", "∂L/∂W2 = (∂L/∂s)<sup>T</sup> h<sup>T</sup>",
            *_derived(("dense.py", "dW = dy.T @ x"), LINEAR), path="two",
        ),
        Step("dL/dh", "38", "∂L/∂h = ∂L/∂s W2", *_derived(("dense.py", "dx = dy @ W"), LINEAR)),
        Step(
            "dL/dz", "37", "∂L/∂z = ∂L/∂h diag([z &gt; 0] + a [z ≤ 0])",
            *_derived(("dense.py", "return np.where(x > 0, dy, slope * dy)"), RELU), path="one",
        ),
        Step(
            "dL/dW1", "43", "∂L/∂W1 = (∂L/∂z)<sup>T</sup> x<sup>T</sup>",
            *_derived(("dense.py", "dW = dy.T @ x"), LINEAR), path="two",
        ),
        Step("dL/dx", "38", "∂L/∂x = ∂L/∂z W1", *_derived(("dense.py", "dx = dy @ W"), LINEAR)),
    ),
    "two_layers.js",
)  # fmt: skip

batch_norm, two_layers = partial(text, BATCH_NORM), partial(text, TWO_LAYERS)
