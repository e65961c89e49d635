"""Convolution and max-pooling of images.

    y_oij = b_o + sum_ckl W_ockl xp_c,si+k,sj+l                 C kh kw products      eq. 64
    dL/dW_ockl = sum_ij dL/dy_oij xp_c,si+k,sj+l                B H' W' products      eq. 66-67
    dL/db_o = sum_ij dL/dy_oij                                                        eq. 68
    dL/dx_cuv = sum_oij dL/dy_oij W_oc,u-si,v-sj                at most O kh kw       eq. 69-72
    y_cij = max over the window; dL/dx goes to its first maximum                      eq. 75-78

Each is an inner product, so gamma_n of the same sum of magnitudes is its limit, whether it is computed as
one product of patches, as kh kw products, or directly. Products with the zeros of the border count as
terms: gamma_n only grows with n. Convolution by a transform (Winograd, FFT) has another limit: see
parity.suite.truth.winograd.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from parity.bounds.bounded import Bounded, either, from_terms
from parity.bounds.rounding import Array, Rounding
from parity.verification.place import Inputs, Settings
from triptych.describe.layers import Window


def conv2d(inputs: Inputs, settings: Settings, r: Rounding) -> dict[str, Bounded]:
    """x (B, C, H, W), W (O, C, kh, kw), dy (B, O, H', W') and perhaps b (O,) to y, and with
    dy also dx, dW and perhaps db.
    """
    window: Window = settings["window"]
    x, W = Bounded.exact(inputs["x"], r), inputs["W"].astype(r.truth)
    b = Bounded.exact(inputs["b"], r) if "b" in inputs else None
    quantities = {"y": convolved(x, Bounded.exact(inputs["W"], r), b, window)}
    if "dy" not in inputs:
        return quantities
    dy = Bounded.exact(inputs["dy"], r)
    terms = W[:, 0].size, dy.value[:, 0].size
    g, size_g, e_g = _parts(dy, inputs["dy"])
    a, size_a, e_a = _parts(x, inputs["x"])
    if settings.get("need_dx", True):
        dx, size_dx = _by_input(g, W, x.shape, window), _by_input(size_g, abs(W), x.shape, window)
        moved = 0.0 if e_g is None else _by_input(e_g, abs(W), x.shape, window)
        quantities["dx"] = from_terms(dx, size_dx, terms[0], r, moved)
    moved = 0.0
    if e_g is not None:
        moved = moved + _by_weight(e_g, size_a, window)
    if e_a is not None:
        moved = moved + _by_weight(size_g if e_g is None else size_g + e_g, e_a, window)
    quantities["dW"] = from_terms(
        _by_weight(g, a, window), _by_weight(size_g, size_a, window), terms[1], r, moved
    )
    if "b" in inputs:
        quantities["db"] = dy.sum(axis=(0, 2, 3))
    return quantities


def convolved(x: Bounded, W: Bounded, b: Bounded | None, window: Window) -> Bounded:
    """y, of numbers that may carry errors."""
    c, size_c = W.value, abs(W.value)
    y, size = _forward(x.value, c, window), _forward(abs(x.value), size_c, window)
    inherited: Array | float = 0.0
    if x.error.any():
        inherited = inherited + _forward(x.error, size_c, window)
    if W.error.any():
        inherited = inherited + _forward(abs(x.value) + x.error, W.error, window)
    after = from_terms(y, size, W[0].size, x.r, inherited)
    if b is None:
        return after
    b = b.reshape(-1, 1, 1)
    among = from_terms(y + b.value, size + abs(b.value), W[0].size + 1, x.r, inherited + b.error)
    return either(after + b, among)


def pooled(x: Bounded, window: Window) -> Bounded:
    """y, of an x that may carry errors: the largest moves by no more than the largest error in its window."""
    xp, ep = _padded(x.value, window, -np.inf), _padded(x.error, window, 0)
    value, error = (
        np.stack([array[place] for _, place in _places(window, x.shape)]).max(axis=0) for array in (xp, ep)
    )
    return Bounded(value, error, x.r)


def _parts(x: Bounded, given: Array | Bounded) -> tuple[Array, Array, Array | None]:
    """Values, their sizes, and their errors where they were computed (None: they are the backend's own)."""
    return x.value, abs(x.value), x.error if isinstance(given, Bounded) else None


def max_pool2d(inputs: Inputs, settings: Settings, r: Rounding) -> dict[str, Bounded]:
    """x (B, C, H, W), dy (B, C, H', W') to y, which is not rounded, and dx, a sum of at most kh kw."""
    window: Window = settings["window"]
    if isinstance(inputs["x"], Bounded):
        return _pooled_with_errors(inputs["x"], Bounded.exact(inputs["dy"], r), window)
    x, dy = (inputs[name].astype(r.truth) for name in ("x", "dy"))
    y, first = _first_maxima(x, window)
    dx, size, count = (_routed(d, first, x.shape, window) for d in (dy, abs(dy), np.ones_like(dy)))
    alone = count <= 1
    total = from_terms(dx, size, window.kernel[0] * window.kernel[1] - 1, r)
    # What one window alone sends is a copy; a subnormal one may be flushed.
    copied = np.where(abs(dx) < r.tiny, abs(dx), 0).astype(np.float64)
    error = np.where(alone, copied, total.error)
    return {"y": Bounded.exact(y, r), "dx": Bounded(dx, error, r)}


def _pooled_with_errors(x: Bounded, dy: Bounded, window: Window) -> dict[str, Bounded]:
    """The same of an x that is known within its errors: y is off by at most the largest error in its
    window, and dy may go to any place that could hold the maximum.
    """
    y, (_, first) = pooled(x, window), _first_maxima(x.value, window)
    lowest, sent = y.value.astype(np.float64) - y.error, np.abs(dy.value).astype(np.float64) + dy.error
    highest = _padded(x.value.astype(np.float64) + x.error, window, -np.inf)
    dx, size = (_routed(d, first, x.shape, window) for d in (dy.value, np.abs(dy.value)))
    moved = np.zeros(highest.shape)
    for index, (_, place) in enumerate(_places(window, x.shape)):
        rivals = np.sum([highest[other] >= lowest for _, other in _places(window, x.shape)], axis=0) > 1
        candidate = (highest[place] >= lowest) & rivals
        moved[place] += np.where(candidate, sent, np.where(first == index, dy.error, 0))
    total = from_terms(dx, size, window.kernel[0] * window.kernel[1], x.r, _inside(moved, window))
    return {"y": y, "dx": total}


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
