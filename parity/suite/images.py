"""Stored images on their way to the first layer: random crop and flip, then (pixel - mean) scale.

    crop    y_cij = xb_c,r+i,s+j, xb being x inside `border` black pixels; (r, s) in 0..2 border
    flip    then y_cij = y_c,i,W-1-j
    pixels  mean = sum / n and scale = 1 / sqrt(variance) of the training images in float64, rounded once

By hand: integers are moved, so nothing is rounded. Written as plain slices, image by image: none of the
backends does it so.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from parity.bounds.bounded import Bounded
from parity.bounds.rounding import ROUNDINGS, Array, Rounding
from parity.suite.data import moments
from parity.suite.draws import NAME, Draws
from parity.suite.operator import HOST, NETWORK, Operator
from parity.verification.case import Case, Layout, generator
from parity.verification.judge import Item
from parity.verification.place import Inputs, Settings


def augment(inputs: Inputs, settings: Settings, r: Rounding) -> dict[str, Bounded]:
    """images uint8 (B, C, H, W), perhaps shifts (B, 2) and flips (B,), setting border, to y, the same type
    of numbers carried as floating ones.
    """
    given = (inputs["images"], inputs.get("shifts"), inputs.get("flips"))
    y = moved(*given, settings.get("border", 0)).astype(r.truth)
    return {"y": Bounded(y, np.zeros(y.shape), r)}


def moved(images: Array, shifts: Array | None, flips: Array | None, border: int) -> Array:
    """The images cut and mirrored; as they are where neither shifts nor flips are given."""
    return np.stack(
        [
            _one(
                image,
                None if shifts is None else tuple(map(int, shifts[i])),
                flips is not None and bool(flips[i]),
                border,
            )
            for i, image in enumerate(images)
        ]
    )


def _one(image: Array, shift: tuple[int, ...] | None, flip: bool, border: int) -> Array:
    channels, height, width = image.shape
    if shift is not None:
        surrounded = np.zeros((channels, height + 2 * border, width + 2 * border), image.dtype)
        surrounded[:, border : border + height, border : border + width] = image
        top, left = shift
        image = surrounded[:, top : top + height, left : left + width]
    return image[:, :, ::-1] if flip else image


def augmentation_draws(inputs: Inputs, settings: Settings, r: Rounding) -> dict[str, Bounded]:
    """Setting places, the number of equally likely whole numbers 0..places-1 (two: flips), and count, to
    `mean` and `variance` about the middle and `beyond` (1,).

    Their variance is (m^2 - 1) / 12 and their kurtosis 3/5 (3 m^2 - 7) / (m^2 - 1) of m places.
    """
    square = settings["places"] ** 2
    kurtosis = 0.6 * (3 * square - 7) / (square - 1)
    return moments(math.sqrt((square - 1) / 12), kurtosis, settings["count"], r)


def pixels(inputs: Inputs, settings: Settings, r: Rounding) -> dict[str, Bounded]:
    """images uint8 (N, 3, 32, 32), perhaps shifts (N, 2) and flips (N,), to x, the prepared images;
    test_images have no say.
    """
    mean, scale = fitted(inputs["images"], settings["preprocess"])
    seen = moved(inputs["images"], inputs.get("shifts"), inputs.get("flips"), settings.get("border", 0))
    return {"x": prepared(seen, mean, scale, r)}


def fitted(images: Array, preprocess: str) -> tuple[Bounded, Bounded | None]:
    """The map that training images uint8 (N, 3, 32, 32) call for: mean and scale, as on the host."""
    host, n = ROUNDINGS["float64"], len(images)
    total = images.sum(axis=0, dtype=np.int64)
    if preprocess == "mean-image":
        return Bounded.exact(total, host) / n, None
    count = n * images[0, 0].size
    channel = total.sum(axis=(1, 2)).reshape(-1, 1, 1)
    return Bounded.exact(channel, host) / count, 1 / (_variance(images, channel, count, host)).sqrt()


def prepared(images: Array, mean: Bounded, scale: Bounded | None, r: Rounding) -> Bounded:
    """(pixel - mean) scale of uint8 images (N, 3, 32, 32)."""
    x = Bounded.exact(images, r.wide) - mean.to(r.wide)
    return x if scale is None else x * scale.to(r.wide)


def _variance(images: Array, channel: Array, count: int, host: Rounding) -> Bounded:
    """(n sum x^2 - (sum x)^2) / n^2 from exact integers, divided once."""
    squares = np.zeros((images.shape[1], 1, 1), np.int64)
    for part in np.array_split(images, max(1, len(images) // 2000)):
        squares += np.square(part, dtype=np.int64).sum(axis=(0, 2, 3)).reshape(-1, 1, 1)
    limit = count * int(squares.max())
    exact = [count * int(q) - int(s) ** 2 for q, s in zip(squares.ravel(), channel.ravel(), strict=True)]
    if limit < 2**62:
        return Bounded.exact(np.array(exact).reshape(-1, 1, 1), host) / float(count**2)
    # Integers beyond NumPy's: the nearest numbers of the truth's format, one rounding each.
    value = np.array([host.truth(e // 2**40) * 2**40 + host.truth(e % 2**40) for e in exact])
    rounded = Bounded.exact(0.0, host).rounded(
        value.reshape(-1, 1, 1), 0 * value.reshape(-1, 1, 1).astype(float)
    )
    return rounded / Bounded.exact(0.0, host).rounded(host.truth(count) ** 2, 0.0)


# --- cases ---


def _alone() -> Iterator[Case]:
    rows: dict[str, tuple[tuple[int, ...], int, Layout]] = {
        "every corner and edge, border 4": ((18, 3, 32, 32), 4, "plain"),
        "every corner and edge, one row": ((18, 3, 1, 7), 2, "plain"),
        "one pixel": ((18, 2, 1, 1), 1, "plain"),
        "border wider than the image": ((18, 1, 3, 5), 6, "plain"),
        "channels-last memory": ((18, 3, 6, 5), 2, "channels-last"),
        "not contiguous": ((18, 3, 5, 8), 3, "strided"),
    }
    for name, (shape, border, layout) in rows.items():
        inputs = {"images": _images(name, shape)} | _places(border)
        quick = name == "every corner and edge, one row"
        yield Case("augmentation", name, inputs, {"border": border}, layout, quick)
    shape, border = (25, 3, 5, 4), 2
    images = _images("all", shape)
    every = np.array([(r, s) for r in range(5) for s in range(5)], np.int32)
    yield Case("augmentation", "every shift", {"images": images, "shifts": every}, {"border": border})
    flips = generator("flips").random(25) > 0.5
    yield Case("augmentation", "flips alone", {"images": images, "flips": flips}, quick=True)
    yield Case("augmentation", "none flips", {"images": images, "flips": np.zeros(25, bool)})
    still = {"images": images, "shifts": np.full((25, 2), border, np.int32), "flips": np.ones(25, bool)}
    yield Case("augmentation", "no shift, all flip", still, {"border": border})
    one = {"images": _images("one", (1, 3, 4, 6)), "shifts": np.array([[2, 0]], np.int32)}
    yield Case("augmentation", "one image", one | {"flips": np.ones(1, bool)}, {"border": 1})
    yield Case("augmentation", "neither", {"images": images})


def _prepared() -> Iterator[Case]:
    """The black border comes before the mean is subtracted: it is not 0 behind it."""
    rng = generator("images")
    stored = {
        name: rng.integers(0, 256, (12, 3, 32, 32), dtype=np.uint8) for name in ("images", "test_images")
    }
    for kind in ("mean-image", "standardize"):
        yield Case("preprocessing", kind, stored, {"preprocess": kind})
    for kind in ("mean-image", "standardize"):
        inputs = {"images": _images(kind, (18, 3, 32, 32))} | _places(4)
        settings = {"preprocess": kind, "border": 4}
        yield Case("preprocessing", f"{kind}, cropped and flipped", inputs, settings, quick=True)


def _draws() -> Iterator[Case]:
    for border in (1, 4):
        for of in ("rows", "columns"):
            settings = {"border": border, "of": of, "places": 2 * border + 1, "count": 20_000}
            yield Case("augmentation_draws", f"{of}, border {border}", {}, settings, quick=border == 4)
    settings = {"border": 0, "of": "flips", "places": 2, "count": 20_000}
    yield Case("augmentation_draws", "flips", {}, settings, quick=True)


def _places(border: int) -> dict[str, Array]:
    """The nine shifts to corners, edges and the middle (no shift), each without and with a flip."""
    ends = (0, border, 2 * border)
    shifts = np.array([(row, column) for row in ends for column in ends], np.int32)
    return {"shifts": np.concatenate([shifts, shifts]), "flips": np.arange(18) >= 9}


def _images(name: str, shape: tuple[int, ...]) -> Array:
    """No pixel is black, so that the border can be told from the image."""
    return generator("augmentation", name).integers(1, 256, shape, dtype=np.uint8)


def _drawn(d: Draws) -> Case:
    """Images of any size, a border up to their own."""
    shape = (3, 2, 4, 5) if d.few else d.sizes(4, 4)
    border, rng = 2 if d.few else d.integer(0, 4), d.rng()
    inputs: dict[str, Array] = {"images": rng.integers(0, 256, shape, dtype=np.uint8)}
    if d.flag():
        inputs["shifts"] = rng.integers(0, 2 * border + 1, (shape[0], 2), dtype=np.int32)
    if d.flag():
        inputs["flips"] = rng.random(shape[0]) > 0.5
    return Case("augmentation", NAME, inputs, {"border": border}, d.layout())


INTEGERS = ("float32",)
"""What moves integers below 2^24, which float32 carries as they are."""
OPERATORS = (
    Operator(Item("augmentation", augment, INTEGERS, elementwise=True), _alone, _drawn),
    Operator(Item("augmentation_draws", augmentation_draws, HOST), _draws),
    Operator(Item("preprocessing", pixels, NETWORK, elementwise=True), _prepared),
)
