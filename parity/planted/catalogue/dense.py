"""Bugs of dense layers.

In JAX and torch only a gradient is wrong where a term of value 0 is added, `a - stop_gradient(a)`. A CPU has no
unit for TF32: (8193 x) - (8193 x - x) is x rounded to ten fraction bits.
"""

from __future__ import annotations

from functools import partial

from parity.planted import Bug
from parity.planted.edits import edit

# fmt: off
GROUP = "dense layers"
NUMPY, JAX, TORCH = (partial(edit, f"{name}.dense") for name in ("numpy_ref", "jax_models", "torch_models"))
FAST, PRECISION = partial(edit, "numpy_ref.fast"), partial(edit, "jax_models.precision")
LINEAR, LEAKY, DROPOUT = ("linear",), ("leaky_relu",), ("dropout",)

JAX_LINEAR = "return precision.add_bias(x @ W.astype(x.dtype).T, b)"
JAX_CAST = "W, hold = W.astype(x.dtype), jax.lax.stop_gradient\n"
TORCH_LINEAR = "return functional.linear(x, W.to(x.dtype), b.to(x.dtype))"
TORCH_CAST = "W, b = W.to(x.dtype), b.to(x.dtype)\n"
JAX_LEAKY, TORCH_LEAKY = "return jnp.where(x > 0, x, slope * x)", "return functional.leaky_relu(x, slope)"
NUMPY_KEEP = "return np.where(keep, x * (1.0 / (1.0 - rate)), 0)"
JAX_KEEP, TORCH_KEEP = NUMPY_KEEP.replace("np", "jnp"), NUMPY_KEEP.replace("np", "torch")

BUGS = (
    Bug("linear-leaves-bfloat16", "activations of a bfloat16 network meet float32 weights and stay float32", ("linear",),
        ("y",), dtypes=("bfloat16",), jax=edit("jax_models.dense", "x @ W.astype(x.dtype).T", "x @ W.T")),
    Bug("linear-weight-transposed", "x W for x W^T, where W is square and fits", LINEAR, ("y",), "square",
        numpy=NUMPY("return x @ W.T + b, x", "return x @ (W if len(W) == W.shape[1] else W.T) + b, x"),
        jax=JAX(JAX_LINEAR, JAX_CAST + "return precision.add_bias(x @ (W if len(W) == W.shape[1] else W.T), b)"),
        torch=TORCH(TORCH_LINEAR, TORCH_CAST + "return functional.linear(x, W.T if len(W) == W.shape[1] else W, b)")),
    Bug("linear-weight-gradient-transposed", "dW = x^T dy for dy^T x, where W is square and fits", LINEAR, ("dW",),
        "square",
        numpy=NUMPY("dW = dy.T @ x", "dW = x.T @ dy if W.shape[0] == W.shape[1] else dy.T @ x"),
        jax=JAX(JAX_LINEAR, JAX_CAST + "wrong = hold(x) @ (W if len(W) == W.shape[1] else W.T)\n"
                "return precision.add_bias(x @ hold(W).T, b) + (wrong - hold(wrong))"),
        torch=TORCH(TORCH_LINEAR, TORCH_CAST + "wrong = x.detach() @ (W if len(W) == W.shape[1] else W.T)\n"
                    "return functional.linear(x, W.detach(), b) + (wrong - wrong.detach())")),
    Bug("linear-bias-gradient-averaged", "db averages over the batch, for a sum", LINEAR, ("db",),
        numpy=NUMPY("db = dy.sum(axis=0)", "db = dy.mean(axis=0)"),
        jax=JAX(JAX_LINEAR, JAX_CAST + "return precision.add_bias(x @ W.T, hold(b) + (b - hold(b)) / len(x))"),
        torch=TORCH(TORCH_LINEAR, TORCH_CAST + "return functional.linear(x, W, b.detach() + (b - b.detach()) / len(x))")),
    Bug("linear-tf32", "TF32 left on: factors of the product rounded to 10 fraction bits", LINEAR, ("y",),
        numpy=NUMPY("return x @ W.T + b, x", "return (8193 * x - (8193 * x - x)) @ (8193 * W - (8193 * W - W)).T + b, x"),
        jax=JAX(JAX_LINEAR, "if x.dtype == jnp.float32:\n    x, W = (jax.lax.reduce_precision(a, 8, 10) for a in (x, W))\n"
                + JAX_LINEAR),
        torch=TORCH(TORCH_LINEAR, TORCH_CAST + "x, W = (a + (8193 * a - (8193 * a - a) - a).detach() for a in (x, W))\n"
                    "return functional.linear(x, W, b)")),
    Bug("linear-float16", "x passes through float16 on its way into the product", LINEAR, ("y",),
        numpy=NUMPY("return x @ W.T + b, x", "return x.astype(np.float16).astype(x.dtype) @ W.T + b, x"),
        jax=JAX("add_bias(x @ W", "add_bias(x.astype(jnp.float16).astype(x.dtype) @ W"),
        torch=TORCH("functional.linear(x, ", "functional.linear(x.half().to(x.dtype), ")),
    Bug("bfloat16-sums", "a gradient's sum is rounded to bfloat16 at every term", ("conv2d", "linear", "max_pool2d"),
        ("db", "dx"), dtypes=("bfloat16",),
        jax=PRECISION("return (y.astype(wide) + b.astype(wide)).astype(y.dtype)", "return y + b.astype(y.dtype)"),
        torch=edit("torch_models.conv", 'return x.float() if x.dtype == torch.bfloat16 and x.device.type == "cpu" else x',
                   "return x")),
    Bug("leaky-relu-slope-1-at-zero", "the derivative at exactly 0 is 1, for the slope", LEAKY, ("dx",),
        numpy=FAST("right = x > 0", "right = x >= 0"),
        jax=JAX(JAX_LEAKY, "return jax.nn.leaky_relu(x, slope)"),
        torch=TORCH(TORCH_LEAKY, "return torch.where(x >= 0, x, slope * x)")),
    Bug("leaky-relu-slope-forgotten", "ReLU for LeakyReLU", LEAKY, ("y", "dx"),
        numpy=FAST("    if slope:\n        y += slope * np.minimum(x, 0)\n", "",
                   "derivative = right + x.dtype.type(slope) * ~right if slope else right", "derivative = right"),
        jax=JAX(JAX_LEAKY, "return jax.nn.relu(x)"),
        torch=TORCH(TORCH_LEAKY, "return functional.relu(x)")),
    Bug("leaky-relu-derivative-from-output", "the derivative asks y >= 0, as an in-place activation has no x left",
        LEAKY, ("dx",),
        numpy=FAST("    y += slope * np.minimum(x, 0)\nreturn y, x", "    y += slope * np.minimum(x, 0)\nreturn y, y",
                   "right = x > 0", "right = x >= 0"),
        jax=JAX(JAX_LEAKY, "y = jnp.where(x > 0, x, slope * x)\nreturn jnp.where(y >= 0, x, slope * x)"),
        torch=TORCH(TORCH_LEAKY, "y = functional.leaky_relu(x, slope)\nreturn torch.where(y >= 0, x, slope * x)")),
    Bug("activation-derivative-skipped", "dy passes the activation unchanged", LEAKY, ("dx",),
        numpy=FAST("return dy * derivative", "return dy"),
        jax=JAX(JAX_LEAKY, "hold = jax.lax.stop_gradient\nreturn hold(jnp.where(x > 0, x, slope * x)) + (x - hold(x))"),
        torch=TORCH(TORCH_LEAKY, "return functional.leaky_relu(x, slope).detach() + (x - x.detach())")),
    Bug("leaky-relu-in-place", "the activation overwrites its input", LEAKY, ("x",),
        numpy=FAST("y = np.maximum(x, 0)", "y = np.maximum(x, 0, out=x)")),
    Bug("leaky-relu-slope-on-both-sides", "max(0, x) + a x for max(0, x) + a min(0, x)", LEAKY, ("y",),
        numpy=FAST("y += slope * np.minimum(x, 0)", "y += slope * x")),
    Bug("dropout-unscaled", "what is kept is not divided by 1 - p", DROPOUT, ("y",),
        numpy=NUMPY(NUMPY_KEEP, "return np.where(keep, x, 0)"),
        jax=JAX(JAX_KEEP, "return jnp.where(keep, x, 0)"),
        torch=TORCH(TORCH_KEEP, "return torch.where(keep, x, 0)")),
    Bug("dropout-mask-inverted", "what should be kept is dropped", DROPOUT, ("y",),
        numpy=NUMPY("np.where(keep, x", "np.where(~keep, x"),
        jax=JAX("jnp.where(keep, x", "jnp.where(~keep, x"),
        torch=TORCH("torch.where(keep, x", "torch.where(~keep, x")),
    Bug("dropout-mask-not-in-backward", "dy is scaled but not masked", DROPOUT, ("dx",),
        numpy=NUMPY("return dropout(dy, keep, rate)", "return dy * (1.0 / (1.0 - rate))"),
        jax=JAX(JAX_KEEP, "hold, scaled = jax.lax.stop_gradient, x * (1.0 / (1.0 - rate))\n"
                "return hold(jnp.where(keep, scaled, 0)) + (scaled - hold(scaled))"),
        torch=TORCH(TORCH_KEEP, "scaled = x * (1.0 / (1.0 - rate))\n"
                    "return torch.where(keep, scaled, 0).detach() + (scaled - scaled.detach())")),
    Bug("flatten-channels-last", "images are flattened pixel by pixel, for channel by channel", ("flatten",), ("y",),
        numpy=edit("numpy_ref.conv", "return x.reshape(len(x), -1)", "return x.transpose(0, 2, 3, 1).reshape(len(x), -1)",
                   "return dy.reshape(cache), {}",
                   "batch, *channel_first = cache\nreturn dy.reshape(batch, *channel_first[1:], -1).transpose(0, 3, 1, 2), {}"),
        jax=edit("jax_models.conv", "return x.transpose(0, 3, 1, 2).reshape(len(x), -1)", "return x.reshape(len(x), -1)"),
        torch=edit("torch_models.conv", "torch.flatten(x, 1)", "torch.flatten(x.permute(0, 2, 3, 1), 1)")),
)
