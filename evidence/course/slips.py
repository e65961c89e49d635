"""docs/course/report_errors.md: the report's slips, each decided by computing what is printed.

`printed` is the formula read as it stands, `right` the one of docs/derivations.md, and `true` central differences of
the forward pass. Where indices that are printed leave a choice, the reading is told in `wrong`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

Array = Any
_rng = np.random.default_rng(21)
K, B, EPS, SLOPE = 4, 4, 1e-5, 0.02
S = _rng.normal(size=K)
T = np.eye(K)[2]
Z = np.array([0.7, -1.2, 0.4, -0.3])
W, X0, BIAS = _rng.normal(size=(3, K)), _rng.normal(size=K), _rng.normal(size=3)
# As many features as samples: (55), (57) and (63) print sums to B over the index of features.
X, DY, GAMMA = _rng.normal(size=(B, B)), _rng.normal(size=(B, B)), _rng.normal(1, 0.3, B)
LOGITS, TARGETS = _rng.normal(size=(B, K)), np.eye(K)[[0, 3, 1, 1]]


def softmax(s: Array) -> Array:
    e = np.exp(s - s.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def leaky(z: Array) -> Array:
    return np.where(z > 0, z, SLOPE * z)


def normalized(x: Array, mu: Array, variance: Array) -> Array:
    return (x - mu) / np.sqrt(variance + EPS)


def losses(s: Array) -> Array:
    return -(TARGETS * np.log(softmax(s))).sum(axis=1)


MU, VARIANCE = X.mean(axis=0), X.var(axis=0)
XHAT, INVERSE = normalized(X, MU, VARIANCE), 1 / np.sqrt(VARIANCE + EPS)
G = GAMMA * DY
P = softmax(S)
DVARIANCE = (G * (X - MU)).sum(axis=0) * -0.5 * INVERSE**3
DMU = -INVERSE * G.sum(axis=0)
DX = INVERSE / B * (B * G - G.sum(axis=0) - XHAT * (G * XHAT).sum(axis=0))


def slope(f: Callable[[Array], Array], x: Array, h: float = 1e-6) -> Array:
    """df/dx by central differences: f's shape, then x's."""
    columns = []
    for index in np.ndindex(x.shape):
        step = np.zeros(x.shape)
        step[index] = h
        columns.append((np.asarray(f(x + step)) - np.asarray(f(x - step))) / (2 * h))
    out = np.stack(columns, axis=-1)
    return out.reshape(*out.shape[:-1], *x.shape)


def through_batch_norm(x: Array) -> Array:
    return (G * normalized(x, x.mean(axis=0), x.var(axis=0))).sum()


def _by_variance(x: Array) -> Array:
    """One sample's d xhat / d sigma^2 by differences."""
    return slope(lambda v: normalized(x, MU, v), VARIANCE).diagonal()


class Slip(NamedTuple):
    """One wrong equation."""

    equation: str
    shown: str
    """What is printed, in LaTeX."""
    wrong: str
    mended: str
    """What is right, in LaTeX."""
    printed: Array
    right: Array
    true: Array

    @property
    def said(self) -> str:
        """How far off the printed one is."""
        a, b = np.asarray(self.printed), np.asarray(self.right)
        if a.shape != b.shape:
            return f"shape {_shape(a)} for {_shape(b)}"
        if not np.isfinite(a).all():
            return "NaN"
        size = np.abs(b).max()
        error = np.abs(a - b).max()
        return f"{error / size:.2f} of the largest" if size else f"{error:.2f} for 0"


def _shape(a: Array) -> str:
    return "x".join(map(str, a.shape)) or "1"


def _only(a: Array, index: tuple[int, int]) -> Array:
    """The array with all but one entry at 0."""
    out = np.zeros_like(a)
    out[index] = a[index]
    return out


def _diverged() -> tuple[Array, Array]:
    """(36) as printed and simplified, where softmax gives a class of the target exactly 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        p = softmax(np.array([800.0, 0.0, 0.0, 0.0]))
        return (-T / p) @ (np.diag(p) - np.outer(p, p)), p - T


JACOBIAN = np.diag(P) - np.outer(P, P)
TRUE_JACOBIAN = slope(softmax, S)
TRUE_DX = slope(through_batch_norm, X)
TRUE_LEAKY = slope(leaky, Z)
TRUE_DMU = slope(lambda mu: (G * normalized(X, mu, np.square(X - mu).mean(axis=0))).sum(), MU)
TRUE_DVARIANCE = slope(lambda v: (G * normalized(X, MU, v)).sum(), VARIANCE)

SLIPS = (
    Slip(
        "6",
        r"\partial x/\partial \tilde x_i = [\partial \tilde x_1/\partial \tilde x_i, \dots]^\top",
        "The numerators have a tilde too many: as printed the column is that of the identity.",
        r"[\partial x_1/\partial \tilde x_i, \dots]^\top",
        np.eye(K)[:, 0],
        JACOBIAN[:, 0],
        TRUE_JACOBIAN[:, 0],
    ),
    Slip(
        "7",
        r"\partial x_k/\partial \tilde x_i = g/h",
        "The derivative of the quotient is set equal to the quotient itself.",
        r"\partial (g/h)/\partial \tilde x_i",
        P[0],
        P[0] - P[0] ** 2,
        TRUE_JACOBIAN[0, 0],
    ),
    Slip(
        "8, 13",
        r"g(\tilde x_i),\ k \ne i",
        "g is written as a function of the i-th input. It is the exponential of the k-th, so g' is 0; with g as printed "
        "(13) gives the case k = i.",
        r"g = e^{\tilde x_k}, \quad g' = [i = k]\, e^{\tilde x_k}",
        P[0] - P[0] ** 2,
        -P[0] * P[1],
        TRUE_JACOBIAN[1, 0],
    ),
    Slip(
        "11, 16",
        r"\mathrm{softmax}(\tilde x_k)",
        "Softmax of one number is 1; what is meant is one component of the softmax of the whole vector.",
        r"\mathrm{softmax}(\tilde x)_k",
        1.0 - 1.0 * 1.0,
        P[0] - P[0] ** 2,
        TRUE_JACOBIAN[0, 0],
    ),
    Slip(
        "22",
        r"\partial x/\partial \tilde x_i = [\partial \tilde x_1/\partial \tilde x_i, \dots]^\top",
        "As (6): a tilde too many, and N in the place of l.",
        r"[\partial x_1/\partial \tilde x_i, \dots]^\top",
        np.eye(K)[:, 1],
        SLOPE * np.eye(K)[:, 1],
        TRUE_LEAKY[:, 1],
    ),
    Slip(
        "23",
        r"\partial \tilde x_i/\partial \tilde x_i = a",
        "The left side as printed is 1 for every input.",
        r"\partial x_i/\partial \tilde x_i",
        1.0,
        SLOPE,
        TRUE_LEAKY[1, 1],
    ),
    Slip(
        "26",
        r"[\partial \tilde x/\partial x_i, \dots, \partial \tilde x/\partial x_i]^\top",
        "Each entry of the column is the whole column: the components have lost their index.",
        r"[\partial \tilde x_1/\partial x_i, \dots, \partial \tilde x_{d_l}/\partial x_i]^\top",
        np.stack([W[:, 0]] * 3),
        W[:, 0],
        slope(lambda x: W @ x + BIAS, X0)[:, 0],
    ),
    Slip(
        "27",
        r"\text{a single element } \partial \tilde x/\partial x_i = w_i",
        "Called a single element, it is a column.",
        r"\partial \tilde x_k/\partial x_i = W_{ki}",
        W[:, 0],
        W[1, 0],
        slope(lambda x: W @ x + BIAS, X0)[1, 0],
    ),
    Slip(
        "30",
        r"\partial/\partial W_{jk}\, [W_{i1} x_1, \dots, W_{id} x_d]",
        "A list stands where the sum of its entries belongs (and the first form has W's entry ij times the whole x).",
        r"\partial/\partial W_{jk} \sum_m W_{im} x_m",
        X0 * np.eye(K)[1],
        X0[1],
        slope(lambda W: (W @ X0 + BIAS)[0], W)[0, 1],
    ),
    Slip(
        "36",
        r"\partial L/\partial x\, (\mathrm{diag}(x) - x x^\top)",
        "Right, and not finished: one-hot targets are assumed and not used. Where a probability underflows to 0 it is "
        "0 times infinity.",
        r"(x - t)^\top",
        *_diverged(),
        _diverged()[1],
    ),
    Slip(
        "45",
        r"\frac{\partial L_{total}}{L_{individual}}",
        "The second d is missing; a quotient of losses is not a derivative. The sum's loss has also lost its s.",
        r"\partial L_{total}/\partial L^s = 1/B",
        losses(LOGITS).mean() / losses(LOGITS),
        np.full(B, 1 / B),
        slope(lambda each: each.mean(), losses(LOGITS)),
    ),
    Slip(
        "48",
        r"\sum_s \sum_i \frac{\partial L}{\partial y_i^s} \frac{\partial y_i^s}{\partial \beta_i}",
        "i in the place of j: the sum adds all features up.",
        r"\sum_s \sum_i \frac{\partial L}{\partial y_i^s} \frac{\partial y_i^s}{\partial \beta_j}",
        np.full(B, DY.sum()),
        DY.sum(axis=0),
        slope(lambda beta: (DY * (GAMMA * XHAT + beta)).sum(), np.zeros(B)),
    ),
    Slip(
        "49",
        r"(\partial L/\partial x)_i^r = \sum_s \sum_i \dots \partial y_i^s/\partial x_j^r",
        "i is summed on the right and free on the left, j the reverse. Read with j = 1: every feature gets the first's.",
        r"(\partial L/\partial x)_j^r",
        np.repeat(DX[:, :1], B, axis=1),
        DX,
        TRUE_DX,
    ),
    Slip(
        "50",
        r"\sum_s \sum_i A_i^s + M_i + V_i",
        "No brackets. If the sums reach all three terms, those through the mean and the variance count B times.",
        r"\Big( \sum_s A_j^s \Big) + M_j + V_j",
        G * INVERSE + B * (DMU / B + DVARIANCE * 2 * (X - MU) / B),
        DX,
        TRUE_DX,
    ),
    Slip(
        "51",
        r"\delta_{i=j} \delta_{r=s}\, \partial L/\partial y_j^r\, \gamma_j",
        "i and s were summed away and still stand in the deltas. Read with i = s = 1: one entry is left.",
        r"\partial L/\partial y_j^r\, \gamma_j",
        _only(G, (0, 0)),
        G,
        slope(lambda xhat: (DY * GAMMA * xhat).sum(), XHAT),
    ),
    Slip(
        "52",
        r"\partial \hat x/\partial x = \delta_{i=j} \delta_{r=s} / \sqrt{\sigma^2 + \epsilon}",
        "True with mean and variance held still, which is not said: as the derivative of the normalised input by x it "
        "lacks two paths.",
        r"\frac{1}{\sqrt{\sigma^2 + \epsilon}} \big( [r = s] - \frac1B - \frac1B \hat x^r \hat x^s \big)",
        np.eye(B) * INVERSE[0],
        INVERSE[0] * (np.eye(B) - 1 / B - np.outer(XHAT[:, 0], XHAT[:, 0]) / B),
        slope(lambda x: normalized(x, x.mean(), x.var()), X[:, 0]),
    ),
    Slip(
        "53",
        r"\frac{\partial L}{\partial \hat x} \frac{\partial \hat x}{\partial \mu_i}",
        "The sum over samples is missing. Read with the first sample.",
        r"\sum_s \frac{\partial L}{\partial \hat x_i^s} \frac{\partial \hat x_i^s}{\partial \mu_i}",
        -INVERSE * G[0],
        DMU,
        TRUE_DMU,
    ),
    Slip(
        "55",
        r"\frac{\partial}{\partial \sigma^2} \frac1B \sum_s (x_i^s - \mu_i)^2 = \frac1B \sum_{i=1}^B -2 (x_i - \mu_i)",
        "By the variance in the place of the mean; the last sum is over features (read for the first sample), and that "
        "the right one is 0 is not seen.",
        r"-\frac2B \sum_s (x_i^s - \mu_i) = 0",
        np.full(B, -2 / B * (X[0] - MU).sum()),
        np.zeros(B),
        slope(lambda mu: np.square(X - mu).mean(axis=0), MU).diagonal(),
    ),
    Slip(
        "56",
        r"\frac{\partial L}{\partial \hat x_i} \frac{\partial \hat x_i}{\partial \sigma_i^2}",
        "The sum over samples is missing. Read with the first sample.",
        r"\sum_s \frac{\partial L}{\partial \hat x_i^s} \frac{\partial \hat x_i^s}{\partial \sigma_i^2}",
        G[0] * (X - MU)[0] * -0.5 * INVERSE**3,
        DVARIANCE,
        TRUE_DVARIANCE,
    ),
    Slip(
        "57",
        r"\sum_{i=1}^B (x_i - \mu_i)(-0.5)(\sigma_i^2 + \epsilon)^{-1.5}",
        "Here stands the sum that (56) lacks. Over the samples these deviations sum to 0, and so does all of it.",
        r"(x_i^s - \mu_i)(-0.5)(\sigma_i^2 + \epsilon)^{-1.5}",
        np.broadcast_to((X - MU).sum(axis=0) * -0.5 * INVERSE**3, X.shape),
        (X - MU) * -0.5 * INVERSE**3,
        np.stack([_by_variance(x) for x in X]),
    ),
    Slip(
        "60",
        r"\frac{2 (x_i - \mu)}{B}",
        "The sample r is missing, and the feature of the mean. Read with the first sample.",
        r"\frac{2 (x_i^r - \mu_i)}{B}",
        np.broadcast_to(2 * (X - MU)[0] / B, X.shape),
        2 * (X - MU) / B,
        np.stack([slope(lambda x: x.var(), X[:, i]) for i in range(B)], axis=1),
    ),
    Slip(
        "61",
        r"\sum_s \sum_i A_i^s + M_i + V_i",
        "As (50), read the other way: the sums reach the first term alone, and i has no meaning in the others. Read with "
        "i = 1.",
        r"\Big( \sum_s A_j^s \Big) + M_j + V_j",
        G * INVERSE + (DMU / B + DVARIANCE * 2 * (X - MU) / B)[:, :1],
        DX,
        TRUE_DX,
    ),
    Slip(
        "62",
        r"\dots + \frac{\partial L}{\partial \hat x_i^s} \sum_{i=1}^B (x_i - \mu_i)(-0.5)(\sigma_i^2 + \epsilon)^{-1.5} \frac{2 (x_i - \mu)}{B}",
        "With (57) put in, the sum is 0 and the path through the variance is gone.",
        r"\dots + \Big( \sum_s \frac{\partial L}{\partial \hat x_i^s} (x_i^s - \mu_i) \Big) (-0.5)(\sigma_i^2 + \epsilon)^{-1.5} \frac{2 (x_i^r - \mu_i)}{B}",
        G * INVERSE + DMU / B + G * ((X - MU).sum(axis=0) * -0.5 * INVERSE**3) * 2 * (X - MU) / B,
        DX,
        TRUE_DX,
    ),
    Slip(
        "63",
        r"\sum_{j=1}^B \frac{\partial L}{\partial \hat x_j^r}, \quad \sum_{j=1}^B \frac{\partial L}{\partial \hat x_j^r} \hat x_j^r",
        "Both sums run over the features of one sample.",
        r"\sum_{s=1}^B \frac{\partial L}{\partial \hat x_i^s}, \quad \sum_{s=1}^B \frac{\partial L}{\partial \hat x_i^s} \hat x_i^s",
        INVERSE / B * (B * G - G.sum(axis=1, keepdims=True) - XHAT * (G * XHAT).sum(axis=1, keepdims=True)),
        DX,
        TRUE_DX,
    ),
)

HEAD = """# Find the error: the report's equations

A real report, marked. Each row shows an equation as it was printed, what is wrong with it, and what is right. None
of this is opinion: `evidence/course/slips.py` computes the printed formula as it stands, the right one, and
differences of the forward pass. The right one agrees with the differences, the printed one does not. The last column
says by how much, for one random example.

Cover the columns on the right and find the error first.

"""

TAIL = """
Not in the table, since nothing can be computed from them: (1) to (3), (5) to (7), (25) to (35), (47), (48) and (51) write
a derivative of a sum without brackets; (41) is empty; and the text says of LeakyReLU that "at 0, this is
undefined", where the function is 0 and only its derivative is not defined.

The report's batch norm trained to 0.544, so its code was right where its text is not: most slips are in indices, and
an array has none. Text and code each want a check of their own.
"""


def page() -> str:
    """The Markdown."""
    rows = ["| eq. | printed | what is wrong | right | the printed one is off by |", "|---|---|---|---|---|"]
    rows += [
        f"| {slip.equation} | $`{slip.shown}`$ | {slip.wrong} | $`{slip.mended}`$ | {slip.said} |"
        for slip in SLIPS
    ]
    return HEAD + "\n".join(rows) + "\n" + TAIL
