"""Bugs of dense layers."""

from __future__ import annotations

from functools import partial

from parity.planted import Bug
from parity.planted.edits import edit

GROUP = "dense layers"
NUMPY, JAX, TORCH = (
    partial(edit, f"{package}.dense") for package in ("numpy_ref", "jax_models", "torch_models")
)
LINEAR, LEAKY, DROPOUT = ("linear",), ("leaky_relu",), ("dropout",)

# In JAX and torch a gradient alone is wrong where a term of value 0 stands in, `a - stop_gradient(a)`.
# TF32 has no unit on a CPU: (8193 x) - (8193 x - x) is x rounded to ten fraction bits.
NUMPY_FORWARD = "y = x @ W.T  # eq. 25, each row W x"
JAX_FORWARD = "return add_bias(x @ self.weight[...].astype(x.dtype).T, self.bias[...])"
JAX_WEIGHT = "W, hold = self.weight[...].astype(x.dtype), jax.lax.stop_gradient\n        "
TORCH_FORWARD = "return functional.linear(input, W, b)"
JAX_LEAKY = "return jnp.where(x > 0, x, self.slope * x)"
TORCH_LEAKY = '(eq. 19-24, 37)."""'
TORCH_METHOD = (
    TORCH_LEAKY + "\n\n    def forward(self, x: Tensor) -> Tensor:\n        y = super().forward(x)\n        "
)
NUMPY_KEEP = "return np.where(keep, x * (1.0 / (1.0 - rate)), 0)"
JAX_KEEP = "return jnp.where(keep, x * (1.0 / (1.0 - self.rate)), 0)"
TORCH_KEEP = "return torch.where(keep, x * (1.0 / (1.0 - self.rate)), 0)"

# fmt: off
BUGS = (
    Bug("linear-weight-transposed", "x W for x W^T, where W is square and fits", LINEAR, ("y",), "square",
        numpy=NUMPY(NUMPY_FORWARD, "y = x @ (W if W.shape[0] == W.shape[1] else W.T)"),
        jax=JAX(JAX_FORWARD, JAX_WEIGHT + "return add_bias(x @ (W if len(W) == W.shape[1] else W.T), self.bias[...])"),
        torch=TORCH(TORCH_FORWARD, "return functional.linear(input, W.T if len(W) == W.shape[1] else W, b)")),
    Bug("linear-weight-gradient-transposed", "dW = x^T dy for dy^T x, where W is square and fits", LINEAR, ("dW",),
        "square",
        numpy=NUMPY("dW = dy.T @ x", "dW = x.T @ dy if W.shape[0] == W.shape[1] else dy.T @ x"),
        jax=JAX(JAX_FORWARD, JAX_WEIGHT + "wrong = hold(x) @ (W if len(W) == W.shape[1] else W.T)\n        "
                "return add_bias(x @ hold(W).T, self.bias[...]) + (wrong - hold(wrong))"),
        torch=TORCH(TORCH_FORWARD, "wrong = input.detach() @ (W if len(W) == W.shape[1] else W.T)\n        "
                    "return functional.linear(input, W.detach(), b) + (wrong - wrong.detach())")),
    Bug("linear-bias-gradient-averaged", "db averages over the batch, for a sum", LINEAR, ("db",),
        numpy=NUMPY("db = dy.sum(axis=0)", "db = dy.mean(axis=0)"),
        jax=JAX(JAX_FORWARD, JAX_WEIGHT + "b = self.bias[...]\n        "
                "return add_bias(x @ W.T, hold(b) + (b - hold(b)) / len(x))"),
        torch=TORCH(TORCH_FORWARD, "b = b.detach() + (b - b.detach()) / len(input)\n        " + TORCH_FORWARD)),
    Bug("linear-tf32", "TF32 left on: factors of the product rounded to 10 fraction bits", LINEAR, ("y",),
        numpy=NUMPY(NUMPY_FORWARD, "y = (8193 * x - (8193 * x - x)) @ (8193 * W - (8193 * W - W)).T"),
        jax=JAX(JAX_FORWARD, JAX_WEIGHT + "if x.dtype == jnp.float32:\n            "
                "x, W = (jax.lax.reduce_precision(a, 8, 10) for a in (x, W))\n        "
                "return add_bias(x @ W.T, self.bias[...])"),
        torch=TORCH(TORCH_FORWARD, "input, W = (a + (8193 * a - (8193 * a - a) - a).detach() for a in (input, W))"
                    "\n        " + TORCH_FORWARD)),
    Bug("linear-float16", "x passes through float16 on its way into the product", LINEAR, ("y",),
        numpy=NUMPY(NUMPY_FORWARD, "y = x.astype(np.float16).astype(x.dtype) @ W.T"),
        jax=JAX("add_bias(x @ self.weight", "add_bias(x.astype(jnp.float16).astype(x.dtype) @ self.weight"),
        torch=TORCH("functional.linear(input, W, b)", "functional.linear(input.half().to(input.dtype), W, b)")),
    Bug("bfloat16-sums", "a gradient's sum is rounded to bfloat16 at every term", ("conv2d", "linear", "max_pool2d"),
        ("db", "dx"), dtypes=("bfloat16",),
        jax=JAX("return (y.astype(wide) + b.astype(wide)).astype(y.dtype)", "return y + b.astype(y.dtype)"),
        torch=edit("torch_models.conv", 'return x.float() if x.dtype == torch.bfloat16 and x.device.type == "cpu" else x',
                   "return x")),
    Bug("leaky-relu-slope-1-at-zero", "the derivative at exactly 0 is 1, for the slope", LEAKY, ("dx",),
        numpy=NUMPY("right = x > 0", "right = x >= 0"),
        jax=JAX(JAX_LEAKY, "return jax.nn.leaky_relu(x, self.slope)"),
        torch=TORCH(TORCH_LEAKY, TORCH_METHOD + "return torch.where(x >= 0, x, self.negative_slope * x)")),
    Bug("leaky-relu-slope-forgotten", "ReLU for LeakyReLU", LEAKY, ("y", "dx"),
        numpy=NUMPY("    if slope:\n        y += slope * np.minimum(x, 0)\n", "",
                    "derivative = right + x.dtype.type(slope) * ~right if slope else right", "derivative = right"),
        jax=JAX(JAX_LEAKY, "return jax.nn.relu(x)"),
        torch=TORCH(TORCH_LEAKY, TORCH_METHOD + "return functional.relu(x)")),
    Bug("leaky-relu-derivative-from-output", "the derivative asks y >= 0, as an in-place activation has no x left",
        LEAKY, ("dx",),
        numpy=NUMPY("        y += slope * np.minimum(x, 0)\n    return y, x", "        y += slope * np.minimum(x, 0)\n    return y, y",
                    "right = x > 0", "right = x >= 0"),
        jax=JAX(JAX_LEAKY, "y = jnp.where(x > 0, x, self.slope * x)\n        "
                "return jnp.where(y >= 0, x, self.slope * x)"),
        torch=TORCH(TORCH_LEAKY, TORCH_METHOD + "return torch.where(y >= 0, x, self.negative_slope * x)")),
    Bug("activation-derivative-skipped", "dy passes the activation unchanged", LEAKY, ("dx",),
        numpy=NUMPY("return dy * derivative", "return dy"),
        jax=JAX(JAX_LEAKY, "hold = jax.lax.stop_gradient\n        "
                "return hold(jnp.where(x > 0, x, self.slope * x)) + (x - hold(x))"),
        torch=TORCH(TORCH_LEAKY, TORCH_METHOD + "return y.detach() + (x - x.detach())")),
    Bug("dropout-unscaled", "what is kept is not divided by 1 - p", DROPOUT, ("y",),
        numpy=NUMPY(NUMPY_KEEP, "return np.where(keep, x, 0)"),
        jax=JAX(JAX_KEEP, "return jnp.where(keep, x, 0)"),
        torch=TORCH(TORCH_KEEP, "return torch.where(keep, x, 0)")),
    Bug("dropout-mask-inverted", "what should be kept is dropped", DROPOUT, ("y",),
        numpy=NUMPY("np.where(keep, x", "np.where(~keep, x"),
        jax=JAX("jnp.where(keep, x", "jnp.where(~keep, x"),
        torch=TORCH("torch.where(keep, x", "torch.where(~keep, x")),
    Bug("dropout-mask-not-in-backward", "dy is scaled but not masked", DROPOUT, ("dx",),
        numpy=NUMPY("return dropout_forward(dy, keep, rate)", "return dy * (1.0 / (1.0 - rate))"),
        jax=JAX(JAX_KEEP, "hold, all = jax.lax.stop_gradient, x * (1.0 / (1.0 - self.rate))\n        "
                "return hold(jnp.where(keep, all, 0)) + (all - hold(all))"),
        torch=TORCH(TORCH_KEEP, "all = x * (1.0 / (1.0 - self.rate))\n        "
                    "return torch.where(keep, all, 0).detach() + (all - all.detach())")),
    Bug("flatten-channels-last", "images are flattened pixel by pixel, for channel by channel", ("flatten",), ("y",),
        numpy=edit("numpy_ref.model", "                cache[name] = x.shape\n", "                x = x.transpose(0, 2, 3, 1)\n                cache[name] = x.shape\n",
                   "return dy.reshape(cache[name])", "return dy.reshape(cache[name]).transpose(0, 3, 1, 2)"),
        jax=edit("jax_models.model", "(x.transpose(0, 3, 1, 2) if self.channels_last else x)", "x"),
        torch=edit("torch_models.model", "return nn.Flatten()", "return nn.Sequential(_ChannelsLast(), nn.Flatten())",
                   "def _module(", "class _ChannelsLast(nn.Module):\n    def forward(self, x: Tensor) -> Tensor:\n"
                   "        return x.permute(0, 2, 3, 1)\n\n\ndef _module(")),
)
