"""Images for a model: files of any size, folders of them, and CIFAR-10's test images by number."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from triptych.cifar10 import Dataset
from triptych.describe.network import IMAGE_SHAPE
from triptych.errors import UserError

SUFFIXES = (".png", ".jpg", ".jpeg")
FORMATS = ("PNG", "JPEG")
TEST = "test:"
"""test:17 is the test image of that number, counted from 0; test:0-9 are ten of them."""


@dataclass(frozen=True, eq=False)
class Given:
    """An image to classify."""

    name: str
    pixels: np.ndarray
    """uint8 (3, 32, 32)."""
    resized: str = ""
    """What became of it on the way to 32x32, if anything."""
    label: int | None = None
    """Its class, where that is known."""


def read(words: Sequence[str], dataset: Callable[[], Dataset]) -> list[Given]:
    """The images that the words name, in their order: files, folders (their PNG and JPEG files, by name) and
    test images. `dataset` gives the data, where a test image is asked for.

    Raises UserError that names the word that is no image.
    """
    if not all(words) or not words:
        raise UserError("image: expected PNG or JPEG files, a folder of them, or test:NUMBER")
    found: list[Given] = []
    for word in words:
        path = Path(word)
        if word.startswith(TEST) and not path.exists():
            found += _of_test_set(word, dataset)
        elif path.is_dir():
            inside = sorted(entry for entry in path.iterdir() if entry.suffix.lower() in SUFFIXES)
            if not inside:
                raise UserError(f"image: expected a folder with PNG or JPEG files, found none in {path}")
            found += map(of_file, inside)
        else:
            found.append(of_file(path))
    return found


def of_file(path: Path) -> Given:
    """A PNG or JPEG file of any size and colour as the network's 32x32: turned upright as its EXIF says, put
    on white where it is transparent, its largest centred square cut out, resampled (Lanczos).

    Raises UserError where it cannot be read.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # damaged EXIF data count as none
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=FORMATS) as opened:
                upright = ImageOps.exif_transpose(opened)
                colours = _in_colour(upright, path)
    except FileNotFoundError:
        raise UserError(f"image: {path}: no such file; name PNG or JPEG files, or test:NUMBER") from None
    except UnidentifiedImageError:
        raise UserError(f"image: {path}: expected a PNG or JPEG file, and this is none") from None
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise UserError(
            f"image: {path}: too large, over {Image.MAX_IMAGE_PIXELS} pixels; scale it down"
        ) from None
    except UserError:
        raise
    except Exception as error:  # Pillow's readers raise of every kind on damaged files
        raise UserError(f"image: {path}: cannot be read ({error})") from None
    side, (width, height) = IMAGE_SHAPE[1], colours.size
    square, resized = min(width, height), ""
    left, top = (width - square) // 2, (height - square) // 2
    # Cut first: a resampling of a part would mix in what lies just outside it.
    cut = colours.crop((left, top, left + square, top + square))
    fitted = cut.resize((side, side), Image.Resampling.LANCZOS)
    if (width, height) != (side, side):
        part = "" if width == height else f"its centred {square}x{square}, "
        resized = f"{width}x{height}: {part}resized to {side}x{side}"
    return Given(str(path), np.asarray(fitted, np.uint8).transpose(2, 0, 1).copy(), resized)


def _in_colour(image: Image.Image, path: Path) -> Image.Image:
    """Red, green and blue, 8 bits each, on white."""
    if image.mode.startswith(("I", "F")):
        raise UserError(
            f"image: {path}: expected 8 bits a channel, got Pillow's mode {image.mode}; convert it"
        )
    over = image.convert("RGBA")
    white = Image.new("RGBA", over.size, "white")
    return Image.alpha_composite(white, over).convert("RGB")


def _of_test_set(word: str, dataset: Callable[[], Dataset]) -> list[Given]:
    first, _, last = word.removeprefix(TEST).partition("-")
    numbers = [first, last or first]
    if not all(text.isascii() and text.isdecimal() for text in numbers):
        raise UserError(f"image: expected test:NUMBER or test:FIRST-LAST, such as test:17, got {word!r}")
    low, high = map(int, numbers)
    data = dataset()
    count = len(data.test_images)
    if not low <= high < count:
        raise UserError(f"image: expected test images from 0 to {count - 1}, got {word!r}")
    return [
        Given(f"test:{at}", data.test_images[at], label=int(data.test_labels[at]))
        for at in range(low, high + 1)
    ]
