"""Cases of random crop and flip, alone and before preprocessing."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from parity.bounds.rounding import Array
from parity.verification.case import Case, Layout, generator


def cases() -> Iterator[Case]:
    """All of them."""
    yield from _alone()
    yield from _prepared()
    yield from _draws()


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
    for kind in ("mean-image", "standardize"):
        inputs = {"images": _images(kind, (18, 3, 32, 32))} | _places(4)
        settings = {"preprocess": kind, "border": 4}
        yield Case("preprocessing", f"{kind}, cropped and flipped", inputs, settings)


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
