"""The pictures of `triptych look`: confusion, mistakes, first-layer weights, reliability."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from triptych.describe.layers import first_trained
from triptych.describe.network import IMAGE_SHAPE
from triptych.show import pages
from triptych.show.intervals import wilson
from triptych.show.plots import BLUE, ORANGE
from triptych.use.judged import BINS, Bins, Judged
from triptych.use.trained import Trained

MOST_UNITS = 100
GREY = 128


def confusion(judged: Judged, classes: Sequence[str]) -> Figure:
    """Rows are true classes; the colour is a row's share."""
    counts = judged.confusion
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    figure = pages.figure(7.2, 6.4)
    axes = figure.subplots()
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(counts):
        ink = "white" if share[row, column] > 0.5 else "black"
        axes.text(column, row, str(count), ha="center", va="center", color=ink, fontsize=8)
    axes.set_xticks(range(len(classes)), classes, rotation=45, ha="right")
    axes.set_yticks(range(len(classes)), classes)
    axes.set(xlabel="predicted", ylabel="is", title=f"accuracy {judged.accuracy:.4f}")
    return figure


def mistakes(judged: Judged, rows: np.ndarray, images: np.ndarray, classes: Sequence[str]) -> Figure:
    """The images of these rows, with what they are and what was said."""
    columns = 6
    lines = max(math.ceil(len(rows) / columns), 1)
    figure = pages.figure(1.7 * columns, 2.0 * lines)
    grid = list(figure.subplots(lines, columns, squeeze=False).flat)
    for axes in grid:
        axes.axis("off")
    for axes, row in zip(grid, rows, strict=False):
        axes.imshow(images[row].transpose(1, 2, 0), interpolation="nearest")
        said, is_ = classes[judged.predicted[row]], classes[judged.labels[row]]
        axes.set_title(f"{is_}\nsaid {said} {judged.confidence[row]:.2f}", fontsize=8)
    return figure


def reliability(bins: Bins) -> Figure:
    """Accuracy over confidence, with Wilson's 95% intervals, and how many images have which confidence."""
    figure = pages.figure(5.6, 5.0)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    full = np.flatnonzero(bins.counts)
    accuracy, confidence = bins.accuracy[full], bins.confidence[full]
    ends = np.array([wilson(int(bins.hits[k]), int(bins.counts[k])) for k in full]).reshape(-1, 2).T
    upper.plot([0, 1], [0, 1], color="#888888", lw=1, ls="--", label="calibrated")
    upper.vlines(confidence, *ends, color=BLUE, lw=1.5)
    upper.plot(confidence, accuracy, "o-", color=BLUE, ms=4, label="model, with 95% (Wilson)")
    upper.set(ylabel="accuracy", ylim=(0, 1), xlim=(0, 1), title=f"ECE {bins.ece:.4f}", facecolor="none")
    upper.legend(fontsize=8, framealpha=0, loc="upper left")
    edges = np.arange(BINS) / BINS
    lower.bar(edges, bins.counts, width=1 / BINS, align="edge", color=ORANGE, alpha=0.8)
    lower.set(xlabel="confidence (probability of the class predicted)", ylabel="images", facecolor="none")
    for axes in (upper, lower):
        axes.grid(alpha=0.3)
    return figure


def first_weights(model: Trained) -> tuple[np.ndarray, str]:
    """The first trained layer's weights as one picture, uint8 (H, W, 3), and what it shows.

    A unit's weights are an image of their own: 32x32 of an MLP, 3x3 of a convolution. Grey is 0, and each
    unit's largest magnitude is as bright or dark as can be. Of more than MOST_UNITS, those of largest norm.
    """
    name = first_trained(model.experiment.layers())
    weight = model.checkpoint.state.parameters[f"{name}.weight"].astype(np.float64)
    units = weight if weight.ndim == 4 else weight.reshape(len(weight), *IMAGE_SHAPE)
    chosen = np.arange(len(units))
    what = f"all {len(units)} units of {name}"
    if len(units) > MOST_UNITS:
        norms = np.sqrt((units**2).sum(axis=(1, 2, 3)))
        chosen = np.sort(np.argsort(-norms, kind="stable")[:MOST_UNITS])
        what = f"the {MOST_UNITS} units of largest norm, of {len(units)} of {name}"
    largest = np.abs(units).max(axis=(1, 2, 3), keepdims=True)
    shades = GREY + 127 * units / np.where(largest > 0, largest, 1)
    return _mosaic(np.round(shades[chosen]).astype(np.uint8).transpose(0, 2, 3, 1)), what


def _mosaic(tiles: np.ndarray) -> np.ndarray:
    """Tiles (N, h, w, 3) in rows, about as many across as down, a line of grey between them."""
    count, height, width, _ = tiles.shape
    across = math.ceil(math.sqrt(count))
    down = math.ceil(count / across)
    picture = np.full((down * (height + 1) - 1, across * (width + 1) - 1, 3), GREY, np.uint8)
    for at, tile in enumerate(tiles):
        row, column = divmod(at, across)
        top, left = row * (height + 1), column * (width + 1)
        picture[top : top + height, left : left + width] = tile
    return picture


def png(pixels: np.ndarray, scale: int = 1) -> bytes:
    """uint8 (H, W, 3) as a PNG file, each pixel `scale` wide and high."""
    buffer = io.BytesIO()
    Image.fromarray(pixels.repeat(scale, axis=0).repeat(scale, axis=1)).save(buffer, "PNG")
    return buffer.getvalue()


def inline(content: bytes) -> str:
    """A PNG file as an address that a page holds in itself."""
    return "data:image/png;base64," + base64.b64encode(content).decode()
