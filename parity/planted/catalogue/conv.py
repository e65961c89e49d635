"""Bugs of convolution and pooling."""

from __future__ import annotations

from functools import partial

from parity.planted import Bug
from parity.planted.edits import edit

GROUP = "convolution and pooling"
NUMPY, JAX, TORCH = (
    partial(edit, f"{package}.conv") for package in ("numpy_ref", "jax_models", "torch_models")
)
WINDOWS, WINOGRAD = partial(edit, "jax_models.windows"), partial(edit, "jax_models.winograd")
CONV, POOL = ("conv2d",), ("max_pool2d",)

NUMPY_TAKES, NUMPY_PRODUCT = "    _check(x, W, window)\n", "y = patches @ _matrix(W).T"
NUMPY_BACK = "    (kh, kw), channels = cache.window.kernel, W.shape[1]\n"
JAX_CONV = "y = conv2d(x, self.weight[...].astype(x.dtype), self.window)"
JAX_BIAS = "return y if self.bias is None else dense.add_bias(y, self.bias[...])"
TORCH_CONV = "y = functional.conv2d(x, W, b, self.stride, self.padding)"
TORCH_POOL = "return super().forward(_wide_on_cpu(input)).to(input.dtype)"


def _same(pairs: str) -> str:
    """Zeros of SAME before (size n, kernel k, stride s), where the window's own are as many on both sides."""
    return f"min(p, max((n - 1) // s * s + k - n, 0) // 2) for n, k, s, p in zip({pairs}, strict=True)"


NUMPY_SAME = NUMPY("rows, columns = (slice(p, p + size) for p, size in zip(window.padding, image[2:], strict=True))",
                   f"before = ({_same('image[2:], window.kernel, window.stride, window.padding')})\n    "
                   "rows, columns = (slice(p, p + size) for p, size in zip(before, image[2:], strict=True))")  # fmt: skip
JAX_SAME = WINDOWS("return surround(x, (top, top), (left, left), value)",
                   f"p, q = ({_same('x.shape[1:3], window.kernel, window.stride, window.padding')})\n    "
                   "return surround(x, (p, 2 * top - p), (q, 2 * left - q), value)",
                   "rows, columns = map(_seen, window.kernel, window.stride, window.padding)",
                   f"before = ({_same('image[1:3], window.kernel, window.stride, window.padding')})\n    "
                   "rows, columns = map(_seen, window.kernel, window.stride, before)")  # fmt: skip
TORCH_SAME = (f"(top, left), (p, q) = self.padding, ({_same('x.shape[2:], self.kernel_size, self.stride, self.padding')})"
              "\n        x = functional.pad(x, (q, 2 * left - q, p, 2 * top - p), value=%s)\n        ")  # fmt: skip
TORCH_STACK = (
    "(k, l), (s, t), (p, q) = self.kernel_size, self.stride, self.padding\n        "
    "x = functional.pad(_wide_on_cpu(input), (q, q, p, p), value=-torch.inf)\n        "
    "values = x.unfold(2, k, s).unfold(3, l, t).flatten(4)\n        "
)
"""Every window's values (B, C, H', W', places)."""
JAX_STACK = (
    "window, size = self.window, self.window.output(*x.shape[1:3])\n        padded = pad(x, window, -jnp.inf)\n        "
    "values = jnp.stack([at(padded, place, window, size) for place in places(window)])\n        "
)
NUMPY_TIES = ("first = _first_equal(padded, y, window) if np.isfinite(y).all() else _first_wins(padded, y, window)",
              "first = sum((padded[place] == y).astype(int) << k * window.kernel[1] + l for (k, l), place in "
              "_places(window, size))", "upstream * (first == k * cache.window.kernel[1] + l)")  # fmt: skip

# fmt: off
BUGS = (
    Bug("conv-rows-columns-swapped", "the kernel's rows and columns change places", CONV, ("y",),
        numpy=NUMPY(NUMPY_TAKES, NUMPY_TAKES + "    W = W.swapaxes(2, 3) if W.shape[2] == W.shape[3] else W\n",
                    NUMPY_BACK, "    swap = W.shape[2] == W.shape[3]\n    W = W.swapaxes(2, 3) if swap else W\n" + NUMPY_BACK,
                    "db = dY.sum(axis=0)", "dW = dW.swapaxes(2, 3) if swap else dW\n    db = dY.sum(axis=0)"),
        jax=JAX(JAX_CONV, "W = self.weight[...].astype(x.dtype)\n        "
                "y = conv2d(x, W.swapaxes(0, 1) if W.shape[0] == W.shape[1] else W, self.window)"),
        torch=TORCH(TORCH_CONV, "W = W.transpose(2, 3) if W.shape[2] == W.shape[3] else W\n        " + TORCH_CONV)),
    Bug("conv-flipped", "true convolution for cross-correlation: the kernel is flipped", CONV, ("y",),
        numpy=NUMPY(NUMPY_TAKES, NUMPY_TAKES + "    W = W[:, :, ::-1, ::-1]\n",
                    NUMPY_BACK, "    W = W[:, :, ::-1, ::-1]\n" + NUMPY_BACK,
                    "dW = dM.reshape(len(W), kh, kw, channels)", "dW = dM.reshape(len(W), kh, kw, channels)[:, ::-1, ::-1]"),
        jax=JAX(JAX_CONV, "y = conv2d(x, self.weight[...][::-1, ::-1].astype(x.dtype), self.window)"),
        torch=TORCH(TORCH_CONV, "y = functional.conv2d(x, W.flip(2, 3), b, self.stride, self.padding)")),
    Bug("conv-dx-not-flipped", "dx correlates dy with the kernel as it is, for flipped", CONV, ("dx",),
        numpy=NUMPY("dP = dY @ M[:, k, l]", "dP = dY @ M[:, -1 - k, -1 - l]"),
        jax=JAX("dY, M = dy.reshape(-1, dy.shape[3]), W.reshape(-1, W.shape[3])",
                "dY, M = dy.reshape(-1, dy.shape[3]), W[::-1, ::-1].reshape(-1, W.shape[3])")
            + WINOGRAD("V, U = _transforms(x, W)\n    dM", "V, U = _transforms(x, W[::-1, ::-1])\n    dM"),
        torch=TORCH(TORCH_CONV, "wrong = functional.conv2d(x, W.detach().flip(2, 3), None, self.stride, self.padding)\n"
                    "        y = functional.conv2d(x.detach(), W, b, self.stride, self.padding) + (wrong - wrong.detach())")),
    Bug("conv-channels-swapped", "in and out channels change places where they are as many", CONV, ("y",), "square",
        numpy=NUMPY(NUMPY_TAKES, NUMPY_TAKES + "    W = W.swapaxes(0, 1) if len(W) == W.shape[1] else W\n",
                    NUMPY_BACK, "    swap = len(W) == W.shape[1]\n    W = W.swapaxes(0, 1) if swap else W\n" + NUMPY_BACK,
                    "db = dY.sum(axis=0)", "dW = dW.swapaxes(0, 1) if swap else dW\n    db = dY.sum(axis=0)"),
        jax=JAX(JAX_CONV, "W = self.weight[...].astype(x.dtype)\n        "
                "y = conv2d(x, W.swapaxes(2, 3) if W.shape[2] == W.shape[3] else W, self.window)"),
        torch=TORCH(TORCH_CONV, "W = W.transpose(0, 1) if len(W) == W.shape[1] else W\n        " + TORCH_CONV)),
    Bug("conv-same-padding", "stride 2 with SAME padding for 1 on each side", CONV, ("y",), "stride 2, even image",
        numpy=NUMPY_SAME,
        jax=JAX_SAME,
        torch=TORCH(TORCH_CONV, TORCH_SAME % 0 + "y = functional.conv2d(x, W, b, self.stride)")),
    Bug("conv-bias-gradient-averages-width", "db averages over the width, for a sum", CONV, ("db",),
        numpy=NUMPY("db = dY.sum(axis=0)", "db = dY.sum(axis=0) / dy.shape[3]"),
        jax=JAX(JAX_BIAS, "hold, b = jax.lax.stop_gradient, 0 if self.bias is None else self.bias[...]\n        "
                "return y if self.bias is None else dense.add_bias(y, hold(b) + (b - hold(b)) / y.shape[2])"),
        torch=TORCH(TORCH_CONV, "y = functional.conv2d(x, W, None, self.stride, self.padding)\n        "
                    "if b is not None:\n            y = y + (b.detach() + (b - b.detach()) / y.shape[3])[:, None, None]")),
    Bug("conv-dw-last-image", "dW is overwritten image by image: = for +=", CONV, ("dW",),
        numpy=NUMPY("dM = dY.T @ cache.patches", "rows = dy.shape[2] * dy.shape[3]\n    dM = dY[-rows:].T @ cache.patches[-rows:]"),
        jax=JAX("dM = _product(_patches(x, window).T, dY)",
                "rows = dy.shape[1] * dy.shape[2]\n    dM = _product(_patches(x[-1:], window).T, dY[-rows:])")
            + WINOGRAD("jnp.tensordot(v, m, ((0, 1, 2), (0, 1, 2)))", "jnp.tensordot(v[-1], m[-1], ((0, 1), (0, 1)))"),
        torch=TORCH(TORCH_CONV, "last = functional.conv2d(x[-1:].detach(), W, None, self.stride, self.padding)\n        "
                    "y = functional.conv2d(x, W.detach(), b, self.stride, self.padding)\n        "
                    "y = torch.cat([y[:-1], y[-1:] + (last - last.detach())])")),
    Bug("conv-dx-overwritten", "dx is overwritten where windows overlap: = for +=", CONV, ("dx",),
        numpy=NUMPY("dxp[place] += dP.reshape(", "dxp[place] = dP.reshape("),
        jax=WINDOWS("return sum(terms[1:], terms[0])", "return terms[-1]"),
        torch=TORCH(TORCH_CONV, "(p, q), (s, t) = self.padding, self.stride\n        "
                    "y = functional.conv2d(x.detach(), W, b, self.stride, self.padding)\n        "
                    "xp = functional.pad(x, (q, q, p, p))\n        owner = torch.zeros_like(xp)\n        "
                    "places = [(k, l) for k in range(W.shape[2]) for l in range(W.shape[3])]\n        "
                    "at = [(..., slice(k, k + s * (y.shape[2] - 1) + 1, s), slice(l, l + t * (y.shape[3] - 1) + 1, t)) "
                    "for k, l in places]\n        "
                    "for n, where in enumerate(at):\n            owner[where] = n\n        "
                    "for n, ((k, l), where) in enumerate(zip(places, at, strict=True)):\n            "
                    'part = torch.einsum("bcij,oc->boij", (xp * (owner == n))[where], W[:, :, k, l].detach())\n            '
                    "y = y + (part - part.detach())")),
    Bug("conv-tf32", "TF32 left on in convolutions: factors rounded to 10 fraction bits", CONV, ("y",),
        numpy=NUMPY(NUMPY_PRODUCT, "M = _matrix(W)\n    "
                    "y = (8193 * patches - (8193 * patches - patches)) @ (8193 * M - (8193 * M - M)).T"),
        jax=JAX(JAX_CONV, "W = self.weight[...].astype(x.dtype)\n        if x.dtype == jnp.float32:\n            "
                "x, W = (jax.lax.reduce_precision(a, 8, 10) for a in (x, W))\n        y = conv2d(x, W, self.window)"),
        torch=TORCH(TORCH_CONV, "x, W = (a + (8193 * a - (8193 * a - a) - a).detach() for a in (x, W))\n        " + TORCH_CONV)),
    Bug("pool-splits-ties", "equal maxima share the gradient", POOL, ("dx",),
        numpy=NUMPY(*NUMPY_TIES, "upstream * (first >> k * cache.window.kernel[1] + l & 1) / np.bitwise_count(first)"),
        jax=JAX("return max_pool2d(x, self.window)", JAX_STACK + "return values.max(axis=0)"),
        torch=TORCH(TORCH_POOL, TORCH_STACK + "return values.amax(dim=-1).to(input.dtype)")),
    Bug("pool-counts-ties", "each of several equal maxima gets the whole gradient", POOL, ("dx",),
        numpy=NUMPY(*NUMPY_TIES, "upstream * (first >> k * cache.window.kernel[1] + l & 1)"),
        jax=JAX("return max_pool2d(x, self.window)", JAX_STACK + "y = jax.lax.stop_gradient(values.max(axis=0))\n        "
                "every = jnp.where(values == y, values, 0).sum(axis=0)\n        "
                "return y + (every - jax.lax.stop_gradient(every))"),
        torch=TORCH(TORCH_POOL, TORCH_STACK + "y = values.amax(dim=-1).detach()\n        "
                    "every = torch.where(values == y[..., None], values, 0).sum(-1)\n        "
                    "return (y + (every - every.detach())).to(input.dtype)")),
    Bug("pool-last-maximum", "the last of equal maxima gets the gradient, for the first", POOL, ("dx",),
        numpy=NUMPY("first = np.full(y.shape, last, kind)", "first = np.zeros(y.shape, kind)",
                    "        attained = (padded[place] != y) * kind(last - number)\n        attained += kind(number)\n"
                    "        np.minimum(first, attained, out=first)",
                    "        np.maximum(first, (padded[place] == y) * kind(number), out=first)",
                    "~(here <= so_far)", "~(here < so_far)"),
        jax=JAX("greater = ~(here <= y)", "greater = ~(here < y)"),
        torch=TORCH(TORCH_POOL, TORCH_STACK + "return values.flip(-1).max(dim=-1).values.to(input.dtype)")),
    Bug("pool-padding-wins", "padding with 0 for -inf: it beats negative values", POOL, ("y",),
        numpy=NUMPY("padded, size = _pad(x, window, -np.inf)", "padded, size = _pad(x, window, 0)"),
        jax=JAX("padded = pad(x, window, -jnp.inf)", "padded = pad(x, window, 0)"),
        torch=TORCH(TORCH_POOL, "p, q = self.padding\n        x = functional.pad(_wide_on_cpu(input), (q, q, p, p))\n"
                    "        return functional.max_pool2d(x, self.kernel_size, self.stride).to(input.dtype)")),
    Bug("pool-same-padding", "stride 2 with SAME padding for 1 on each side", POOL, ("y",),
        numpy=NUMPY_SAME,
        jax=JAX_SAME,
        torch=TORCH(TORCH_POOL, "x = _wide_on_cpu(input)\n        " + TORCH_SAME % "-torch.inf"
                    + "return functional.max_pool2d(x, self.kernel_size, self.stride).to(input.dtype)")),
)
