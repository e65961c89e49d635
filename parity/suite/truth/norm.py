"""Batch norm: forward, backward, running statistics, evaluation; per column of (n, C).

    mu = sum x / n,  sigma^2 = sum (x - mu)^2 / n,  i = (sigma^2 + eps)^(-1/2),  xhat = (x - mu) i
    forward      A  gamma xhat + beta          B  x (gamma i) + (beta - mu gamma i)
    backward     C  gamma i / n (n dy - sum dy - xhat sum dy xhat)                       eq. 61-63
                 D  gamma i (dy - sum dy / n - xhat (sum dy xhat / n))
                 E  through the formulas above, step by step, as automatic differentiation goes
    dgamma = sum dy xhat, or i sum dy (x - mu); dbeta = sum dy                           eq. 47-48
    running      (1 - m) running + m now, of the variance n / (n - 1) sigma^2
    evaluation   x s + (beta - mean s), s = gamma (var + eps)^(-1/2), or (x - mean) s + beta

The variance is the one place where errors cancel and must be seen to: with any m near mu,
sum (x - m)^2 / n = sigma^2 + (m - mu)^2, so an error d of the mean enters squared (Chan, Golub & LeVeque
1983). Its limit is gamma_(n+4) (sigma^2 + d^2) + d^2. A one-pass variance, off by gamma_n (sigma^2 + mu^2),
does not get through.
"""

from __future__ import annotations

from typing import Any

from parity.bounds.bounded import Bounded, either, two_pass_variance
from parity.bounds.rounding import Rounding
from parity.verification.place import Inputs, Settings


def train(inputs: Inputs, settings: Settings, r: Rounding) -> dict[str, Bounded]:
    """x, dy (B, C) or (B, C, H, W), gamma, beta, running_mean, running_var (C,) to y, dx, dgamma, dbeta and
    the new running statistics. In bfloat16 computes in float32 and rounds y and dx.
    """
    wide, shape = r.wide, inputs["x"].shape
    x, dy = (Bounded.exact(columns(inputs[name]), wide) for name in ("x", "dy"))
    found = normalized(x, dy, inputs, settings)
    quantities = {key: image(found[key], shape).to(r) for key in ("y", "dx")}
    quantities |= {key: found[key] for key in ("dgamma", "dbeta")}
    n, mu, variance = len(x), found["mu"], found["variance"]
    more, less = Bounded.constant(n / (n - 1), wide), Bounded.constant((n - 1) / n, wide)
    # torch's own operation gives the unbiased variance, which is made biased and unbiased again.
    now = {"running_mean": mu, "running_var": either(variance * more, variance * more * less * more)}
    for key, value in now.items():
        quantities[key] = _running(Bounded.exact(inputs[key], wide), value, settings["momentum"])
    return quantities


def linear_then_norm(inputs: Inputs, settings: Settings, r: Rounding) -> dict[str, Bounded]:
    """x (B, d_in), W, b, gamma, beta and dy to y, dx, dW, db: the true db is zero in every element, and so
    is dW of a weight on a constant input. The limit is what rounding may leave there.
    """
    x, W, b, dy = (Bounded.exact(inputs[name], r) for name in ("x", "W", "b", "dy"))
    found = normalized((x @ W.T + b).to(r.wide), dy.to(r.wide), inputs, settings)
    inner = found["dx"].to(r)
    return {"y": found["y"].to(r), "dx": inner @ W, "dW": inner.T @ x, "db": inner.sum(axis=0)}


def normalized(x: Bounded, dy: Bounded, inputs: Inputs, settings: Settings) -> dict[str, Bounded]:
    """y, dx (n, C), dgamma, dbeta, mu and variance (C,) of columns that may themselves carry errors."""
    r, n = x.r, len(x)
    gamma, beta = (Bounded.exact(inputs[name], r) for name in ("gamma", "beta"))
    mu, centred, variance, i = _statistics(x, settings["eps"])
    xhat, scale = centred * i, gamma * i
    dgamma = either(dy.inner(xhat, axis=0), i * dy.inner(centred, axis=0))
    dbeta = dy.sum(axis=0)
    dx = either(
        scale / n * (n * dy - dbeta - xhat * dgamma),
        scale * (dy - dbeta / n - xhat * (dgamma / n)),
        _step_by_step(dy, gamma, centred, i, n),
    )
    y = by_batch(x, gamma, beta, settings["eps"])
    return {"y": y, "dx": dx, "dgamma": dgamma, "dbeta": dbeta, "mu": mu, "variance": variance}


def by_batch(x: Bounded, gamma: Bounded, beta: Bounded, eps: float) -> Bounded:
    """y of columns (n, C), that may carry errors, by their own statistics."""
    mu, centred, _, i = _statistics(x, eps)
    scale = gamma * i
    return either(gamma * (centred * i) + beta, x * scale + (beta - mu * scale))


def by_running(
    x: Bounded, gamma: Bounded, beta: Bounded, mean: Bounded, variance: Bounded, eps: float
) -> Bounded:
    """y of columns (n, C), that may carry errors, by given statistics."""
    i = (variance + Bounded.constant(eps, x.r)).rsqrt(least=eps * (1 - 3 * x.r.u))
    scale = gamma * i
    centred = x - mean
    return either(x * scale + (beta - mean * scale), centred * i * gamma + beta, centred * scale + beta)


def _statistics(x: Bounded, eps: float) -> tuple[Bounded, Bounded, Bounded, Bounded]:
    """mu, x - mu, sigma^2 and i."""
    mu = x.mean(axis=0)
    variance = two_pass_variance(x, mu)
    i = (variance + Bounded.constant(eps, x.r)).rsqrt(least=eps * (1 - 3 * x.r.u))
    return mu, x - mu, variance, i


def evaluate(inputs: Inputs, settings: Settings, r: Rounding) -> dict[str, Bounded]:
    """x, gamma, beta, running_mean and running_var to y."""
    wide = r.wide
    x = Bounded.exact(columns(inputs["x"]), wide)
    gamma, beta, mean, variance = (
        Bounded.exact(inputs[name], wide) for name in ("gamma", "beta", "running_mean", "running_var")
    )
    y = by_running(x, gamma, beta, mean, variance, settings["eps"])
    return {"y": image(y, inputs["x"].shape).to(r)}


def _step_by_step(dy: Bounded, gamma: Bounded, centred: Bounded, i: Bounded, n: int) -> Bounded:
    """dx by the chain rule through i, sigma^2 and mu (eq. 51-60)."""
    g = gamma * dy  # eq. 51
    dvariance = g.inner(centred, axis=0) * (i * i * i) * 0.5  # eq. 56-57, without its sign
    dcentred = g * i - centred * (dvariance / n * 2)  # eq. 54, 60
    return dcentred - dcentred.mean(axis=0)  # eq. 58-59


def _running(running: Bounded, now: Bounded, momentum: float) -> Bounded:
    kept, taken = (Bounded.constant(share, now.r) for share in (1.0 - momentum, momentum))
    return kept * running + taken * now


def columns(x: Any) -> Any:
    """One column for each channel, of an array or a Bounded: (B, C), or (B, C, H, W) as (B H W, C)."""
    return x if x.ndim == 2 else x.transpose(0, 2, 3, 1).reshape(-1, x.shape[1])


def image(y: Bounded, shape: tuple[int, ...]) -> Bounded:
    """The inverse of `columns`, for an array of that shape."""
    if len(shape) == 2:
        return y
    batch, channels, height, width = shape
    return y.reshape(batch, height, width, channels).transpose(0, 3, 1, 2)
