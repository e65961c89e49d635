"""Convolution and max-pooling of images.

    y_oij = b_o + sum_ckl W_ockl xp_c,si+k,sj+l                 C kh kw products      eq. 64
    dL/dW_ockl = sum_ij dL/dy_oij xp_c,si+k,sj+l                B H' W' products      eq. 66-67
    dL/db_o = sum_ij dL/dy_oij                                                        eq. 68
    dL/dx_cuv = sum_oij dL/dy_oij W_oc,u-si,v-sj                at most O kh kw       eq. 69-72
    y_cij = max over the window; dL/dx goes to its first maximum                      eq. 75-78

Each is an inner product, so gamma_n of the same sum of magnitudes is its limit, whether it is computed as
one product of patches, as kh kw products, or directly. Products with the zeros of the border count as
terms: gamma_n only grows with n. Convolution by a transform (Winograd, FFT) has another limit: see
parity.truth.winograd.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from experiment.layers import Window
from parity.bounded import Bounded, bilinear, either, from_terms
from parity.rounding import Array, Rounding
from parity.truth import Inputs, Settings


def conv2d(inputs: Inputs, settings: Settings, r: Rounding) -> dict[str, Bounded]:
    """x (B, C, H, W), W (O, C, kh, kw), dy (B, O, H', W') and perhaps b (O,) to y, dx, dW and perhaps db."""
    window: Window = settings["window"]
    x, W, dy = (inputs[name].astype(r.truth) for name in ("x", "W", "dy"))
    y, size_y = (_forward(a, c, window) for a, c in ((x, W), (abs(x), abs(W))))
    dx, size_dx = (_by_input(g, c, x.shape, window) for g, c in ((dy, W), (abs(dy), abs(W))))
    dW, size_dW = (_by_weight(g, a, window) for g, a in ((dy, x), (abs(dy), abs(x))))
    terms = W[0].size, W[:, 0].size, dy[:, 0].size
    quantities = {
        "y": from_terms(y, size_y, terms[0], r),
        "dx": from_terms(dx, size_dx, terms[1], r),
        "dW": from_terms(dW, size_dW, terms[2], r),
    }
    if "b" in inputs:
        b = Bounded.exact(inputs["b"], r).reshape(-1, 1, 1)
        among = from_terms(y + b.value, size_y + abs(b.value), terms[0] + 1, r)
        quantities["y"] = either(quantities["y"] + b, among)
        quantities["db"] = Bounded.exact(inputs["dy"], r).sum(axis=(0, 2, 3))
    return quantities


def convolved(x: Bounded, W: Bounded, b: Bounded | None, window: Window) -> Bounded:
    """y, of an x that may carry errors."""
    y = bilinear(x, W, lambda a, c: _forward(a, c, window), W[0].size)
    if b is None:
        return y
    along = b.reshape(-1, 1, 1)
    among = bilinear(x, W, lambda a, c: _forward(a, c, window), W[0].size, start=along)
    return either(y + along, among)


def pooled(x: Bounded, window: Window) -> Bounded:
    """y, of an x that may carry errors: the largest moves by no more than the largest error in its window."""
    xp, ep = _padded(x.value, window, -np.inf), _padded(x.error, window, 0)
    value, error = (
        np.stack([array[place] for _, place in _places(window, x.shape)]).max(axis=0) for array in (xp, ep)
    )
    return Bounded(value, error, x.r)


def max_pool2d(inputs: Inputs, settings: Settings, r: Rounding) -> dict[str, Bounded]:
    """x (B, C, H, W), dy (B, C, H', W') to y, which is not rounded, and dx, a sum of at most kh kw."""
    window: Window = settings["window"]
    x, dy = (inputs[name].astype(r.truth) for name in ("x", "dy"))
    y, first = _first_maxima(x, window)
    dx, size, count = (_routed(d, first, x.shape, window) for d in (dy, abs(dy), np.ones_like(dy)))
    alone = count <= 1
    total = from_terms(dx, size, window.kernel[0] * window.kernel[1] - 1, r)
    # What one window alone sends is a copy; a subnormal one may be flushed.
    copied = np.where(abs(dx) < r.tiny, abs(dx), 0).astype(np.float64)
    error = np.where(alone, copied, total.error)
    return {"y": Bounded.exact(y, r), "dx": Bounded(dx, error, r)}


def _forward(x: Array, W: Array, window: Window) -> Array:
    xp, y = _padded(x, window, 0), 0
    for (k, l), place in _places(window, x.shape):
        y = y + np.einsum("bcij,oc->boij", xp[place], W[:, :, k, l])
    return np.asarray(y)


def _by_input(dy: Array, W: Array, shape: tuple[int, ...], window: Window) -> Array:
    dxp = _padded(np.zeros(shape, dy.dtype), window, 0)
    for (k, l), place in _places(window, shape):
        dxp[place] += np.einsum("boij,oc->bcij", dy, W[:, :, k, l])
    return _inside(dxp, window)


def _by_weight(dy: Array, x: Array, window: Window) -> Array:
    xp = _padded(x, window, 0)
    columns = [np.einsum("boij,bcij->oc", dy, xp[place]) for _, place in _places(window, x.shape)]
    return np.stack(columns, axis=-1).reshape(dy.shape[1], x.shape[1], *window.kernel)


def _first_maxima(x: Array, window: Window) -> tuple[Array, Array]:
    """y, and which of the window's places, counted in reading order, holds the first of its maxima."""
    xp, real = _padded(x, window, -np.inf), _padded(np.ones_like(x), window, 0)
    values = np.stack([xp[place] for _, place in _places(window, x.shape)])
    inside = np.stack([real[place] for _, place in _places(window, x.shape)]) > 0
    y = values.max(axis=0)
    with np.errstate(invalid="ignore"):
        attains = ((values == y) | (np.isnan(values) & np.isnan(y))) & inside
    return y, attains.argmax(axis=0)


def _routed(dy: Array, first: Array, shape: tuple[int, ...], window: Window) -> Array:
    dxp = _padded(np.zeros(shape, dy.dtype), window, 0)
    for index, (_, place) in enumerate(_places(window, shape)):
        dxp[place] += np.where(first == index, dy, 0)
    return _inside(dxp, window)


def _padded(x: Array, window: Window, value: float) -> Array:
    (p, q), (batch, channels, height, width) = window.padding, x.shape
    xp = np.full((batch, channels, height + 2 * p, width + 2 * q), value, x.dtype)
    xp[:, :, p : p + height, q : q + width] = x
    return xp


def _inside(xp: Array, window: Window) -> Array:
    (p, q), (height, width) = window.padding, xp.shape[2:]
    return xp[:, :, p : height - p, q : width - q]


def _places(
    window: Window, shape: tuple[int, ...]
) -> Iterator[tuple[tuple[int, int], tuple[slice, slice, slice, slice]]]:
    """For each (k, l) in reading order, where all windows' (k, l) lie in a padded (B, C, H, W)."""
    rows, columns = window.output(*shape[2:])
    for k in range(window.kernel[0]):
        for l in range(window.kernel[1]):
            down = slice(k, k + window.stride[0] * (rows - 1) + 1, window.stride[0])
            across = slice(l, l + window.stride[1] * (columns - 1) + 1, window.stride[1])
            yield (k, l), (slice(None), slice(None), down, across)
