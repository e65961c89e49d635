"""Bugs of losses."""

from __future__ import annotations

from functools import partial

from parity.planted import Bug
from parity.planted.edits import edit

# fmt: off
GROUP = "losses"
NUMPY, JAX, TORCH = (partial(edit, f"{package}.loss") for package in ("numpy_ref", "jax_models", "torch_models"))
CROSS, SQUARED = ("cross_entropy",), ("squared_error",)

JAX_TARGETS = "return optax.smooth_labels(jax.nn.one_hot(labels, classes, dtype=dtype), smoothing)"
JAX_SOFTMAX, TORCH_SOFTMAX = "return jax.nn.softmax(s, axis=1)", "return functional.softmax(s, dim=1)"
NUMPY_JACOBIAN = "return p * (dp - (dp * p).sum(axis=1, keepdims=True))"
TORCH_CROSS = 's, labels, reduction="none", label_smoothing=smoothing'
SHARE = "smoothing / max(s.shape[1] - 1, 1)"


def _jax(gradient: str) -> tuple[str, str]:
    """The softmax with the derivative of `gradient`, which is linear in s: p is constant in it."""
    wrong = f"hold = jax.lax.stop_gradient\np = hold(jax.nn.softmax(s, axis=1))\nwrong = {gradient}\n"
    return JAX_SOFTMAX, wrong + "return p + (wrong - hold(wrong))"


def _torch(gradient: str) -> tuple[str, str]:
    wrong = f"p = functional.softmax(s, dim=1).detach()\nwrong = {gradient}\n"
    return TORCH_SOFTMAX, wrong + "return p + (wrong - wrong.detach())"


BUGS = (
    Bug("loss-sum-for-mean", "1/B is missing: the loss's gradient sums over the batch", ("model",), ("loss ds",),
        numpy=NUMPY("return (softmax(s) - t) / len(s)", "return softmax(s) - t"),
        jax=edit("jax_models.backend", "objective.label_smoothing).mean()", "objective.label_smoothing).sum()"),
        torch=edit("torch_models.backend", "objective.label_smoothing).mean()", "objective.label_smoothing).sum()")),
    Bug("loss-labels-shifted", "labels count from 1", CROSS, ("L", "ds"),
        numpy=NUMPY("t[np.arange(len(labels)), labels] +=", "t[np.arange(len(labels)), (labels + 1) % classes] +="),
        jax=JAX("t = targets(labels, ", "t = targets((labels + 1) % s.shape[1], "),
        torch=TORCH(TORCH_CROSS, TORCH_CROSS.replace("labels,", "(labels + 1) % s.shape[1],"))),
    Bug("loss-smoothing-over-others", "smoothing goes to the K - 1 other classes, for all K", CROSS, ("L", "ds"),
        "ordinary, smoothed",
        numpy=NUMPY("smoothing / classes, dtype)", "smoothing / max(classes - 1, 1), dtype)",
                    "labels] += 1.0 - smoothing", "labels] = 1.0 - smoothing"),
        jax=JAX(JAX_TARGETS, "hot = jax.nn.one_hot(labels, classes, dtype=dtype)\n"
                "return hot * (1.0 - smoothing) + (1 - hot) * (smoothing / max(classes - 1, 1))"),
        torch=TORCH(TORCH_CROSS, "s, functional.one_hot(labels, s.shape[1]).to(s.dtype) * (1.0 - smoothing - "
                    f'{SHARE}) + {SHARE}, reduction="none"')),
    Bug("softmax-without-maximum", "exp of the logits as they are: overflows near 89", CROSS, ("L",),
        numpy=NUMPY("e = np.exp(s - s.max(axis=1, keepdims=True))", "e = np.exp(s)",
                    "shifted = s - s.max(axis=1, keepdims=True)", "shifted = s"),
        jax=JAX("return optax.softmax_cross_entropy(s, t)",
                "return jnp.sum(t * (jnp.log(jnp.sum(jnp.exp(s), axis=1, keepdims=True)) - s), axis=1)"),
        torch=TORCH(f"return functional.cross_entropy(  # eq. 1, 5; backward 2-18, 36\n    {TORCH_CROSS}\n)",
                    "t = targets(labels, s.shape[1], smoothing, s.dtype)\n"
                    "return (t * (s.exp().sum(1, keepdim=True).log() - s)).sum(1)")),
    Bug("softmax-jacobian-sign", "p_i p_j for - p_i p_j off the diagonal", SQUARED, ("ds",),
        numpy=NUMPY(NUMPY_JACOBIAN, "return p * (dp - 2 * dp * p + (dp * p).sum(axis=1, keepdims=True))"),
        jax=JAX(*_jax("p * (s - 2 * p * s + jnp.sum(p * s, axis=1, keepdims=True))")),
        torch=TORCH(*_torch("p * (s - 2 * p * s + (p * s).sum(dim=1, keepdim=True))"))),
    Bug("softmax-zero-gradient", "ds is 0: right for a loss that sums p", SQUARED, ("ds",),
        numpy=NUMPY(NUMPY_JACOBIAN, "return 0 * dp"),
        jax=JAX(*_jax("0 * s")),
        torch=TORCH(*_torch("0 * s"))),
    Bug("softmax-jacobian-diagonal", "only the diagonal p (1 - p) of the Jacobian", SQUARED, ("ds",),
        numpy=NUMPY(NUMPY_JACOBIAN, "return dp * p * (1 - p)"),
        jax=JAX(*_jax("p * (1 - p) * s")),
        torch=TORCH(*_torch("p * (1 - p) * s"))),
    Bug("hinge-counts-zero-margins", "a margin of exactly 0 counts as violated", ("hinge",), ("ds",),
        numpy=NUMPY("ds = (_margins(s, labels) > 0)", "ds = (_margins(s, labels) >= 0)",
                    "labels] = -ds.sum(axis=1)", "labels] = 1 - ds.sum(axis=1)"),
        jax=JAX("(margins > 0) & ~true", "(margins >= 0) & ~true"),
        torch=TORCH('return functional.multi_margin_loss(s, labels, reduction="none")',
                    "margins = (1 - s.gather(1, labels[:, None]) + s).clamp(min=0)\n"
                    "true = functional.one_hot(labels, s.shape[1]).bool()\n"
                    "return margins.masked_fill(true, 0).sum(1) / s.shape[1]")),
    Bug("l2-without-half", "l sum W^2 for l/2 sum W^2: the gradient doubles", ("l2",), ("penalty", "dW"),
        numpy=NUMPY("return 0.5 * l2 * sum(", "return l2 * sum(", "return l2 * W", "return 2 * l2 * W"),
        jax=JAX("return 0.5 * l2 * optax", "return l2 * optax"),
        torch=TORCH("return 0.5 * l2 * torch", "return l2 * torch")),
)
