"""Bugs of batch normalization."""

from __future__ import annotations

from functools import partial

from parity.planted import Bug
from parity.planted.edits import alike, edit

# fmt: off
GROUP = "batch normalization"
NUMPY, JAX, TORCH = (partial(edit, f"{package}.norm") for package in ("numpy_ref", "jax_models", "torch_models"))
NORM, BY_HAND = ("batch_norm_manual", "batch_norm_autodiff"), ("batch_norm_manual",)

UNBIASED = "return variance * (n / (n - 1))"
NUMPY_ROOT = "inverse = 1 / np.sqrt(variance + eps)"
JAX_ROOT = "inverse = 1 / jnp.sqrt(variance + eps)"
TORCH_ROOTS = ("xhat = centred / (variance + eps).sqrt().view(along)", "inverse = (variance + eps).rsqrt()")
TORCH_N = "n = x.numel() // gamma.numel()\n"
MOMENTUM = "return (1.0 - momentum) * running + momentum * now"
REVERSED = "return momentum * running + (1.0 - momentum) * now"
SUM = "n * dy - dbeta - xhat * dgamma"
DX = f"dx = gamma * inverse / n * ({SUM})"
TORCH_DX = "inner = n * dy - dbeta.view(along) - xhat * dgamma.view(along)"

BUGS = (
    Bug("norm-biased-running-variance", "the running variance takes the biased one", NORM, ("running_var",),
        **alike("norm", UNBIASED, "return variance")),
    Bug("norm-running-deviation", "the running variance takes the standard deviation", NORM, ("running_var",),
        numpy=NUMPY(UNBIASED, "return np.sqrt(variance * (n / (n - 1)))"),
        jax=JAX(UNBIASED, "return jnp.sqrt(variance * (n / (n - 1)))"),
        torch=TORCH(UNBIASED, "return (variance * (n / (n - 1))).sqrt()")),
    Bug("norm-momentum-reversed", "m r + (1 - m) now for (1 - m) r + m now", NORM, ("running_mean", "running_var"),
        **alike("norm", MOMENTUM, REVERSED)),
    Bug("norm-without-xhat-term", "dx lacks - xhat sum g xhat: the variance counts as constant", BY_HAND, ("dx",),
        **alike("norm", SUM, "n * dy - dbeta", of=("numpy", "jax")),
        torch=TORCH(TORCH_DX, "inner = n * dy - dbeta.view(along)")),
    Bug("norm-without-mean-term", "dx lacks - sum g: the mean counts as constant", BY_HAND, ("dx",),
        **alike("norm", SUM, "n * dy - xhat * dgamma", of=("numpy", "jax")),
        torch=TORCH(TORCH_DX, "inner = n * dy - xhat * dgamma.view(along)")),
    Bug("norm-statistics-detached", "no gradient flows through mean and variance", NORM, ("dx",),
        numpy=NUMPY(SUM, "n * dy"),
        jax=JAX(SUM, "n * dy", "mu = jnp.mean(x, axis=axes)", "mu = jax.lax.stop_gradient(jnp.mean(x, axis=axes))",
                "jnp.mean(jnp.square(centred), axis=axes)", "jax.lax.stop_gradient(jnp.mean(jnp.square(centred), axis=axes))"),
        torch=TORCH(TORCH_DX, "inner = n * dy",
                    "mu = x.mean(axes)\ncentred", "mu = x.detach().mean(axes)\ncentred",
                    "variance = centred.square()", "variance = centred.detach().square()")),
    Bug("norm-zero-gradient", "dx is 0: right for a loss that sums y", BY_HAND, ("dx",),
        **alike("norm", DX, "dx = 0 * dy", of=("numpy", "jax")),
        torch=TORCH(TORCH_DX, "inner = 0 * dy")),
    Bug("norm-gamma-left-out", "dx lacks the factor gamma", BY_HAND, ("dx",),
        **alike("norm", DX, f"dx = inverse / n * ({SUM})", of=("numpy", "jax")),
        torch=TORCH("dx = (gamma * inverse / n).view(along) * inner", "dx = (inverse / n).view(along) * inner")),
    Bug("norm-eps-outside-root", "sqrt(variance) + eps for sqrt(variance + eps)", NORM, ("y",),
        numpy=NUMPY(NUMPY_ROOT, "inverse = 1 / (np.sqrt(variance) + eps)"),
        jax=JAX(JAX_ROOT, "inverse = 1 / (jnp.sqrt(variance) + eps)"),
        torch=TORCH(TORCH_ROOTS[0], "xhat = centred / (variance.sqrt() + eps).view(along)",
                    TORCH_ROOTS[1], "inverse = 1 / (variance.sqrt() + eps)")),
    Bug("norm-eps-missing", "no eps at all", NORM, ("y",),
        numpy=NUMPY(NUMPY_ROOT, "inverse = 1 / np.sqrt(variance)"),
        jax=JAX(JAX_ROOT, "inverse = 1 / jnp.sqrt(variance)"),
        torch=TORCH(TORCH_ROOTS[0], "xhat = centred / variance.sqrt().view(along)",
                    TORCH_ROOTS[1], "inverse = variance.rsqrt()", "momentum=1.0, eps=eps)", "momentum=1.0, eps=1e-300)")),
    Bug("norm-one-pass-variance", "E[x^2] - E[x]^2 for the mean of (x - mean)^2", NORM, ("y", "running_var"),
        numpy=NUMPY("np.square(xhat).mean(axis=axes, dtype=np.float64, keepdims=True).astype(x.dtype)",
                    "np.maximum((x * x).mean(axis=axes, keepdims=True) - mu * mu, 0)"),
        jax=JAX("jnp.mean(jnp.square(centred), axis=axes)", "jnp.maximum(jnp.mean(x * x, axis=axes) - mu * mu, 0)"),
        torch=TORCH("variance = centred.square().mean(axes)", "variance = (x.square().mean(axes) - mu.square()).clamp(min=0)",
                    "variance = xhat.square().mean(axes)", "variance = (x.square().mean(axes) - mu.square()).clamp(min=0)")),
    Bug("norm-unbiased-normalizes", "normalises by the variance over n - 1", NORM, ("y",),
        numpy=NUMPY(NUMPY_ROOT, "inverse = 1 / np.sqrt(variance * (n / (n - 1)) + eps)"),
        jax=JAX(JAX_ROOT, "n = x.size // gamma.size\ninverse = 1 / jnp.sqrt(variance * (n / (n - 1)) + eps)"),
        torch=TORCH(TORCH_ROOTS[0], TORCH_N + "xhat = centred / (variance * (n / (n - 1)) + eps).sqrt().view(along)",
                    TORCH_ROOTS[1], TORCH_N + "inverse = (variance * (n / (n - 1)) + eps).rsqrt()")),
    Bug("norm-evaluates-by-batch", "evaluation normalises by the batch", ("batch_norm_evaluate",), ("y",),
        numpy=NUMPY("return x * scale.reshape(along) + (beta - mean * scale).reshape(along)",
                    "return batch_norm(x, gamma, beta, eps)[0]"),
        jax=JAX("return x * scale + (beta - mean * scale)", "return _forward(x, gamma, beta, eps)[0]"),
        torch=TORCH("return x * scale.view(along) + (beta - mean * scale).view(along)",
                    "return batch_norm(x, gamma, beta, eps)[0]")),
    Bug("norm-centres-in-place", "x - mean overwrites x", NORM, ("x",),
        numpy=NUMPY("xhat = x - mu", "xhat = np.subtract(x, mu, out=x)")),
    Bug("norm-rule-takes-other-cotangent", "the backward rule of `custom_vjp` reads the mean's cotangent, which is 0", BY_HAND,
        ("dx", "dgamma", "dbeta"),
        jax=JAX("dy = d[0]", "dy = 0 * d[0] + d[1]")),
    Bug("norm-rule-exchanges-gradients", "the backward rule hands dgamma to beta and dbeta to gamma", BY_HAND,
        ("dgamma", "dbeta"),
        numpy=NUMPY("return dx, dgamma.reshape(-1), dbeta.reshape(-1)", "return dx, dbeta.reshape(-1), dgamma.reshape(-1)"),
        jax=JAX("return dx, dgamma, dbeta", "return dx, dbeta, dgamma"),
        torch=TORCH("return dx, dgamma if need_gamma else None, dbeta if need_beta", "return dx, dbeta if need_gamma else None, dgamma if need_beta")),
    Bug("norm-cache-before-scaling", "the forward rule keeps x - mean for xhat", BY_HAND, ("dx", "dgamma"),
        jax=JAX("return y, (xhat, inverse, gamma), mu, variance", "return y, (centred, inverse, gamma), mu, variance")),
    Bug("norm-batch-counts-rows", "n is the batch size for images too, not batch, height and width", BY_HAND, ("dx",),
        **alike("norm", "n = dy.size // gamma.size", "n = len(dy)", of=("numpy", "jax")),
        torch=TORCH("n = dy.numel() // gamma.numel()", "n = len(dy)")),
    Bug("norm-buffers-keep-a-tenth", "torch's one operation gets its default momentum: its statistics are a tenth",
        ("batch_norm_autodiff",), ("running_mean", "running_var"),
        torch=TORCH("training=True, momentum=1.0", "training=True, momentum=0.1")),
    Bug("norm-unbiased-twice", "torch's unbiased variance is made unbiased again", ("batch_norm_autodiff",), ("running_var",),
        torch=TORCH("return y, mean, variance * ((n - 1) / n)", "return y, mean, variance")),
)
