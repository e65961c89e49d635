"""Bugs of convolution and pooling."""

from __future__ import annotations

from functools import partial

from parity.planted import Bug
from parity.planted.edits import edit

# fmt: off
GROUP = "convolution and pooling"
NUMPY, NUMPY_WINDOWS = partial(edit, "numpy_ref.fast"), partial(edit, "numpy_ref.windows")
JAX, TORCH = partial(edit, "jax_models.conv"), partial(edit, "torch_models.conv")
CPU, WINDOWS, WINOGRAD = (partial(edit, f"jax_models.cpu.{name}") for name in ("conv", "windows", "winograd"))
CONV, POOL, TRANSFORMED = ("conv2d",), ("max_pool2d",), ("conv2d_winograd",)

NUMPY_TAKES = "rows, columns = window.output(*x.shape[2:])\n"
NUMPY_BACK = "(kh, kw), channels = cache.window.kernel, W.shape[1]\n"
NUMPY_SUM = "db = dY.sum(axis=0)"
JAX_CONV = "y = _conv2d(x, W.astype(x.dtype), window)"
TORCH_CONV = "y = functional.conv2d(wide, kernel, offset, window.stride, window.padding)"
TORCH_POOL = "y = functional.max_pool2d(wide, window.kernel, window.stride, window.padding)"
TORCH_STACK = (
    "(k, l), (s, t), (p, q) = window.kernel, window.stride, window.padding\n"
    "padded = functional.pad(wide, (q, q, p, p), value=-torch.inf)\n"
    "values = padded.unfold(2, k, s).unfold(3, l, t).flatten(4)  # (B, C, H', W', places)\n"
)
# Which places attain the maximum, as bits.
NUMPY_TIES = (
    "first = _first_equal(padded, y, window) if np.isfinite(y).all() else _first_wins(padded, y, window)",
    "number = {at: n for n, (at, _) in enumerate(places(window, size))}\n"
    "first = sum((padded[place] == y).astype(int) << number[at] for at, place in places(window, size))",
    "upstream * (first == k * cache.window.kernel[1] + l)",
)
JAX_TIES = (
    "return jax.lax.optimization_barrier((y, first))",
    "ties = [(at(padded, place, window, size) == y).astype(jnp.int32) for place in places(window)]\n"
    "return jax.lax.optimization_barrier((y, sum(tie << n for n, tie in enumerate(ties))))",
    "return np.min_scalar_type(window.kernel[0] * window.kernel[1] - 1)", "return np.dtype(np.int32)",
    "jnp.where(first == place[0] * kw + place[1], dy, 0)",
)


def _same(sizes: str, window: str = "window") -> str:
    """SAME's zeros before an image, where the window's own are as many on both sides."""
    each = f"zip({sizes}, {window}.kernel, {window}.stride, {window}.padding, strict=True)"
    return f"(min(p, max((n - 1) // s * s + k - n, 0) // 2) for n, k, s, p in {each})"


def _numpy_reordered(which: str, order: str) -> tuple[str, ...]:
    """W in another order, its own inverse, `which` the condition; in its gradient, too."""
    kernel = f"W = {order} if {which} else W\n"
    back = f"swap = {which}\nW = {order} if swap else W\n"
    return (NUMPY_TAKES, kernel + NUMPY_TAKES, NUMPY_BACK, back + NUMPY_BACK,
            NUMPY_SUM, f"dW = d{order} if swap else dW\n{NUMPY_SUM}")


NUMPY_SAME = NUMPY_WINDOWS("for p, size in zip(window.padding, image[2:], strict=True))",
                           f"for p, size in zip({_same('image[2:]')}, image[2:], strict=True))")
JAX_SAME = WINDOWS("return surround(x, (top, top), (left, left), value)",
                   f"p, q = {_same('x.shape[1:3]')}\nreturn surround(x, (p, 2 * top - p), (q, 2 * left - q), value)",
                   "map(_seen, window.kernel, window.stride, window.padding)",
                   f"map(_seen, window.kernel, window.stride, {_same('image[1:3]')})")
TORCH_SAME = (f"(top, left), (p, q) = window.padding, {_same('x.shape[2:]')}\n"
              "wide = functional.pad(wide, (q, 2 * left - q, p, 2 * top - p), value=%s)\n")

BUGS = (
    Bug("conv-rows-columns-swapped", "the kernel's rows and columns change places", CONV, ("y",),
        numpy=NUMPY(*_numpy_reordered("W.shape[2] == W.shape[3]", "W.swapaxes(2, 3)")),
        jax=JAX(JAX_CONV, f"W = W.swapaxes(0, 1) if W.shape[0] == W.shape[1] else W\n{JAX_CONV}"),
        torch=TORCH(TORCH_CONV, "square = kernel.shape[2] == kernel.shape[3]\n"
                    f"kernel = kernel.transpose(2, 3) if square else kernel\n{TORCH_CONV}")),
    Bug("conv-flipped", "true convolution for cross-correlation: the kernel is flipped", CONV, ("y",),
        numpy=NUMPY(*_numpy_reordered("True", "W[:, :, ::-1, ::-1]")),
        jax=JAX(JAX_CONV, "y = _conv2d(x, W[::-1, ::-1].astype(x.dtype), window)"),
        torch=TORCH(TORCH_CONV, TORCH_CONV.replace("kernel,", "kernel.flip(2, 3),"))),
    Bug("conv-dx-not-flipped", "dx correlates dy with the kernel as it is, for flipped", CONV, ("dx",),
        numpy=NUMPY("dP = dY @ M[:, k, l]", "dP = dY @ M[:, -1 - k, -1 - l]"),
        jax=CPU("W.reshape(-1, W.shape[3])\ndM", "W[::-1, ::-1].reshape(-1, W.shape[3])\ndM")
            + WINOGRAD("V, U = _transforms(x, W)\ndM", "V, U = _transforms(x, W[::-1, ::-1])\ndM"),
        torch=TORCH(TORCH_CONV, "wrong = functional.conv2d(wide, kernel.detach().flip(2, 3), None, window.stride, window.padding)\n"
                    f"{TORCH_CONV.replace('wide', 'wide.detach()')} + (wrong - wrong.detach())")),
    Bug("conv-channels-swapped", "in and out channels change places where they are as many", CONV, ("y",), "square",
        numpy=NUMPY(*_numpy_reordered("len(W) == W.shape[1]", "W.swapaxes(0, 1)")),
        jax=JAX(JAX_CONV, f"W = W.swapaxes(2, 3) if W.shape[2] == W.shape[3] else W\n{JAX_CONV}"),
        torch=TORCH(TORCH_CONV, f"kernel = kernel.transpose(0, 1) if len(kernel) == kernel.shape[1] else kernel\n{TORCH_CONV}")),
    Bug("conv-same-padding", "stride 2 with SAME padding for 1 on each side", CONV, ("y",), "stride 2, even image",
        numpy=NUMPY_SAME,
        jax=JAX_SAME,
        torch=TORCH(TORCH_CONV, TORCH_SAME % 0 + "y = functional.conv2d(wide, kernel, offset, window.stride)")),
    Bug("conv-bias-gradient-averages-width", "db averages over the width, for a sum", CONV, ("db",),
        numpy=NUMPY(NUMPY_SUM, "db = dY.sum(axis=0) / dy.shape[3]"),
        jax=JAX("precision.add_bias(y, b)", "precision.add_bias("
                "y, jax.lax.stop_gradient(b) + (b - jax.lax.stop_gradient(b)) / y.shape[2])"),
        torch=TORCH(TORCH_CONV, f"{TORCH_CONV.replace('offset', 'None')}\nif offset is not None:\n"
                    "    y = y + (offset.detach() + (offset - offset.detach()) / y.shape[3])[:, None, None]")),
    Bug("conv-dw-last-image", "dW is overwritten image by image: = for +=", CONV, ("dW",),
        numpy=NUMPY("dM = dY.T @ cache.patches", "last = dy.shape[2] * dy.shape[3]\ndM = dY[-last:].T @ cache.patches[-last:]"),
        jax=CPU("dM = _product(_patches(x, window).T, dY)",
                "dM = _product(_patches(x[-1:], window).T, dY[-dy.shape[1] * dy.shape[2] :])")
            + WINOGRAD("jnp.tensordot(v, m, ((0, 1, 2), (0, 1, 2)))", "jnp.tensordot(v[-1], m[-1], ((0, 1), (0, 1)))"),
        torch=TORCH(TORCH_CONV, "last = functional.conv2d(wide[-1:].detach(), kernel, None, window.stride, window.padding)\n"
                    f"{TORCH_CONV.replace('kernel', 'kernel.detach()')}\n"
                    "y = torch.cat([y[:-1], y[-1:] + (last - last.detach())])")),
    Bug("conv-dx-overwritten", "dx is overwritten where windows overlap: = for +=", CONV, ("dx",),
        numpy=NUMPY("dxp[place] += dP.reshape(", "dxp[place] = dP.reshape("),
        jax=WINDOWS("return sum(terms[1:], terms[0])", "return terms[-1]"),
        torch=TORCH(TORCH_CONV, "(k, l), (s, t), (p, q) = window.kernel, window.stride, window.padding\n"
                    f"{TORCH_CONV.replace('wide', 'wide.detach()')}\n"
                    "padded = functional.pad(wide, (q, q, p, p))\nlast = torch.zeros_like(padded)\n"
                    "places = [(i, j, slice(i, i + s * (y.shape[2] - 1) + 1, s), slice(j, j + t * (y.shape[3] - 1) + 1, t))\n"
                    "          for i in range(k) for j in range(l)]\n"
                    "for n, (i, j, rows, columns) in enumerate(places):\n    last[:, :, rows, columns] = n\n"
                    "for n, (i, j, rows, columns) in enumerate(places):\n"
                    "    part = (padded * (last == n))[:, :, rows, columns]\n"
                    '    part = torch.einsum("bcij,oc->boij", part, kernel[:, :, i, j].detach())\n'
                    "    y = y + (part - part.detach())")),
    Bug("conv-tf32", "TF32 left on in convolutions: factors rounded to 10 fraction bits", CONV, ("y",),
        numpy=NUMPY("y = patches @ _matrix(W).T", "M = _matrix(W)\n"
                    "y = (8193 * patches - (8193 * patches - patches)) @ (8193 * M - (8193 * M - M)).T"),
        jax=JAX(JAX_CONV, "if x.dtype == jnp.float32:\n    x, W = (jax.lax.reduce_precision(a, 8, 10) for a in (x, W))\n"
                + JAX_CONV),
        torch=TORCH(TORCH_CONV, "wide, kernel = (a + (8193 * a - (8193 * a - a) - a).detach() for a in (wide, kernel))\n"
                    + TORCH_CONV)),
    Bug("conv-patches-column-first", "patches run down the columns of a window, its kernel along the rows", CONV, ("y",),
        jax=CPU("for place in places(window)]\nreturn", "for place in sorted(places(window), key=lambda at: at[::-1])]\nreturn")),
    Bug("windows-border-one-short", "the windows behind the last one are left out of dx", ("conv2d", "max_pool2d"), ("dx",),
        jax=WINDOWS("(a + padding - k) // stride)", "(a + padding - k) // stride - (k == kernel - 1 > 0))")),
    Bug("windows-padding-not-subtracted", "dx is off by the padding", ("conv2d", "max_pool2d"), ("dx",),
        jax=WINDOWS("rows, columns = map(_seen, window.kernel, window.stride, window.padding)",
                    "rows, columns = map(_seen, window.kernel, window.stride, (0, 0))")),
    Bug("winograd-never-taken", "the direct sum, slower, is what runs on even images", TRANSFORMED, ("by Winograd",),
        jax=edit("jax_models.cpu.conv", "x.shape[2] % 2 == 0", "x.shape[2] % 2 == 1")),
    Bug("winograd-filter-sign", "G has + for - in its third row", TRANSFORMED, ("y",),
        jax=WINOGRAD("[0.5, -0.5, 0.5]", "[0.5, 0.5, 0.5]")),
    Bug("winograd-input-sign", "B^T has a wrong sign: the tile's last place is added", TRANSFORMED, ("y",),
        jax=WINOGRAD("[0, 1, 0, -1]", "[0, 1, 0, 1]")),
    Bug("winograd-output-row", "A^T takes the fourth product with + into the second output", TRANSFORMED, ("y",),
        jax=WINOGRAD("[0, 1, -1, -1]", "[0, 1, -1, 1]")),
    Bug("winograd-two-places-filter", "G for an axis of two places has its rows in another order", TRANSFORMED, ("y",),
        "2x2 image",
        jax=WINOGRAD("np.array([[1, -1, 0], [0, 1, 0], [0, -1, 1]])", "np.array([[0, -1, 1], [0, 1, 0], [1, -1, 0]])")),
    Bug("winograd-kernel-transposed", "U is transposed where in and out channels are as many", TRANSFORMED, ("dx",),
        jax=WINOGRAD("lambda m, u: m @ u.T", "lambda m, u: m @ (u if len(u) == u.shape[1] else u.T)")),
    Bug("winograd-overlap-dropped", "dx of a tile's inner places lacks the neighbouring tiles'", TRANSFORMED, ("dx",),
        jax=WINOGRAD("return [tiles[1] + shift(tiles[3], 1), tiles[2] + shift(tiles[0], -1)]", "return [tiles[1], tiles[2]]")),
    Bug("winograd-overlap-wraps", "the neighbour on the other side is added", TRANSFORMED, ("dx",),
        jax=WINOGRAD("tiles[1] + shift(tiles[3], 1), tiles[2] + shift(tiles[0], -1)",
                     "tiles[1] + shift(tiles[3], -1), tiles[2] + shift(tiles[0], 1)")),
    Bug("pool-splits-ties", "equal maxima share the gradient", POOL, ("dx",),
        numpy=NUMPY(*NUMPY_TIES, "upstream * (first >> k * cache.window.kernel[1] + l & 1) / np.bitwise_count(first)"),
        jax=CPU(*JAX_TIES, "jnp.where(first >> place[0] * kw + place[1] & 1, dy / jax.lax.population_count(first), 0)"),
        torch=TORCH(TORCH_POOL, TORCH_STACK + "y = values.amax(dim=-1)")),
    Bug("pool-counts-ties", "each of several equal maxima gets the whole gradient", POOL, ("dx",),
        numpy=NUMPY(*NUMPY_TIES, "upstream * (first >> k * cache.window.kernel[1] + l & 1)"),
        jax=CPU(*JAX_TIES, "jnp.where(first >> place[0] * kw + place[1] & 1, dy, 0)"),
        torch=TORCH(TORCH_POOL, TORCH_STACK + "y = values.amax(dim=-1).detach()\n"
                    "every = torch.where(values == y[..., None], values, 0).sum(-1)\ny = y + (every - every.detach())")),
    Bug("pool-last-maximum", "the last of equal maxima gets the gradient, for the first", POOL, ("dx",),
        numpy=NUMPY("first = np.full(y.shape, last, kind)", "first = np.zeros(y.shape, kind)",
                    "attained = (padded[place] != y) * kind(last - number)\nattained += kind(number)\n"
                    "np.minimum(first, attained, out=first)",
                    "np.maximum(first, (padded[place] == y) * kind(number), out=first)",
                    "~(here <= so_far)", "~(here < so_far)"),
        jax=CPU("greater = ~(here <= y)", "greater = ~(here < y)"),
        torch=TORCH(TORCH_POOL, TORCH_STACK + "y = values.flip(-1).max(dim=-1).values")),
    Bug("pool-padding-wins", "padding with 0 for -inf: it beats negative values", POOL, ("y",),
        numpy=NUMPY("padded, size = pad(x, window, -np.inf)", "padded, size = pad(x, window, 0)"),
        jax=CPU("padded = pad(x, window, -jnp.inf)", "padded = pad(x, window, 0)"),
        torch=TORCH(TORCH_POOL, "p, q = window.padding\n"
                    "y = functional.max_pool2d(functional.pad(wide, (q, q, p, p)), window.kernel, window.stride)")),
    Bug("pool-same-padding", "stride 2 with SAME padding for 1 on each side", POOL, ("y",),
        numpy=NUMPY_SAME,
        jax=JAX_SAME,
        torch=TORCH(TORCH_POOL, TORCH_SAME % "-torch.inf" + "y = functional.max_pool2d(wide, window.kernel, window.stride)")),
    Bug("pool-gradient-overwritten", "dx is overwritten where windows overlap: = for +=", POOL, ("dx",),
        numpy=NUMPY("dxp[place] += upstream *", "dxp[place] = upstream *")),
    Bug("pool-gradient-in-bfloat16", "dx of overlapping windows is summed in bfloat16", POOL, ("dx",),
        dtypes=("bfloat16",),
        jax=CPU("wide = dy.astype(at_least_float32(dy.dtype))", "wide = dy")),
    Bug("pool-number-of-height", "the maximum's number is k kh + l for k kw + l", POOL, ("dx",),
        numpy=NUMPY("number = k * window.kernel[1] + l", "number = k * window.kernel[0] + l"),
        jax=CPU("kw = window.kernel[1]", "kw = window.kernel[0]")),
)
