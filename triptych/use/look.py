"""`triptych look RUN`: a page of what a trained run gets wrong, and how sure it is.

    triptych look runs/fig1-jax-1a2b3c4d

Classifies the test images and writes RUN/look/index.html, which stands alone, and its pictures as PNG files:
confusion matrix, accuracy of each class, the most confident mistakes, first-layer weights, and calibration
(reliability diagram and ECE).
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from triptych.cifar10 import Dataset
from triptych.describe.spec import BackendName, Device
from triptych.show import command, pages, plots, tables
from triptych.show.intervals import wilson
from triptych.show.runs import predictions
from triptych.show.wrapping import fitted
from triptych.store.files import write_atomically
from triptych.use import pictures
from triptych.use.judged import BINS, Judged
from triptych.use.predict import softmax
from triptych.use.trained import Trained, open_run, own_dataset

MISTAKES = 24


def look(
    run: tyro.conf.Positional[Path],
    /,
    best: bool = False,
    backend: BackendName | None = None,
    device: Device = "auto",
    data_dir: Path | None = None,
) -> int:
    """Write a page of a run's mistakes into its folder.

    Args:
        run: The run's folder.
        best: Take the checkpoint with the best test accuracy, not the last.
        backend: What computes; the backend that trained the run where it is left out.
        device: As for train.
        data_dir: Where CIFAR-10 is, as for train.
    """
    model = open_run(run, best, data_dir)
    dataset = own_dataset(model, data_dir)
    statistics = model.experiment.model.norm_statistics
    p = softmax(model.logits(dataset.test_images, backend, device, statistics))
    judged = Judged(p, dataset.test_labels)
    page = _write(model, judged, dataset)
    print(fitted(f"{model.describe()}\n{_text(model, judged)}\npage: {page}", sys.stdout))
    return 0


def main(argv: list[str]) -> int:
    """The command; returns its exit code."""
    return command.call(look, argv, __doc__)


def per_class(judged: Judged, classes: tuple[str, ...]) -> list[list[str]]:
    """Of each class: how often it was recognized with Wilson's 95% interval, how often right where it was
    said, and what it was mostly taken for.
    """
    rows = []
    for c, (name, counts) in enumerate(zip(classes, judged.confusion, strict=True)):
        images, said = int(counts.sum()), int(judged.confusion[:, c].sum())
        low, high = wilson(int(counts[c]), images) if images else (0.0, 1.0)
        wrong = np.where(np.arange(len(classes)) == c, -1, counts)
        taken = int(wrong.argmax())
        rows.append(
            [
                name,
                f"{counts[c] / images:.3f}" if images else "",
                f"{low:.3f} to {high:.3f}",
                f"{counts[c] / said:.3f}" if said else "",
                f"{classes[taken]}, {wrong[taken]} times" if wrong[taken] > 0 else "",
            ]
        )
    return rows


CLASS_HEADER = ("class", "accuracy", "95% (Wilson)", "right when said", "mostly taken for")


def _text(model: Trained, judged: Judged) -> str:
    (low, high), images, ece = judged.interval, len(judged.labels), judged.calibration().ece
    confidence = judged.confidence.mean()
    return (
        f"test accuracy {judged.accuracy:.4f}, 95% {low:.4f} to {high:.4f} (Wilson, {images} images)\n"
        f"mean confidence {confidence:.4f}, expected calibration error {ece:.4f} ({BINS} bins)\n"
        + tables.text(CLASS_HEADER, per_class(judged, model.classes))
    )


def _write(model: Trained, judged: Judged, dataset: Dataset) -> Path:
    """Write the page and its pictures; the page's path."""
    folder = model.folder.look
    folder.mkdir(exist_ok=True)
    bins, rows = judged.calibration(), judged.mistakes(MISTAKES)
    weights, what = pictures.first_weights(model)
    scale = max(1, 640 // weights.shape[1])
    reliability, images = pictures.reliability(bins), dataset.test_images
    content: dict[str, Any] = {
        "title": f"Triptych: {model.name}",
        "style": pages.css("dark.css") + (Path(__file__).parent / "look.css").read_text(encoding="utf-8"),
        "made_by": "Made by triptych look.",
        "model": model,
        "judged": judged,
        "bins": bins,
        "bin_count": BINS,
        "ways": _ways(model, judged),
        "curves": _curves(model),
        "class_header": CLASS_HEADER,
        "class_rows": per_class(judged, model.classes),
        "mistakes": [_mistake(row, judged, images, model.classes) for row in rows],
        "weights": pictures.inline(pictures.png(weights)),
        "weights_shown": what,
        "reliability": pages.svg(reliability, "reliability", themed=True),
    }
    template = pages.environment(Path(__file__).parent).get_template("look.html.jinja")
    files = {
        "index.html": template.render(content).encode(),
        "confusion.png": pages.png(pictures.confusion(judged, model.classes)),
        "mistakes.png": pages.png(pictures.mistakes(judged, rows, images, model.classes)),
        "weights.png": pictures.png(weights, scale),
        "reliability.png": pages.png(reliability),
    }
    for name, written in files.items():
        write_atomically(folder / name, written)
    return folder / "index.html"


def _curves(model: Trained) -> list[str]:
    """Loss and accuracy up to the checkpoint; nothing of a run whose metrics are gone."""
    records = model.folder.read_metrics(model.checkpoint.step)
    drawn = []
    for quantity in plots.UNITS if records else ():
        figure = pages.figure(5.2)
        axes = figure.subplots()
        plots.draw(axes, records, quantity)
        axes.set_facecolor("none")
        drawn.append(pages.svg(figure, quantity, themed=True))
    return drawn


def _mistake(row: int, judged: Judged, images: np.ndarray, classes: tuple[str, ...]) -> dict[str, Any]:
    label = int(judged.labels[row])
    return {
        "number": int(row),
        "is": classes[label],
        "said": classes[judged.predicted[row]],
        "confidence": float(judged.confidence[row]),
        "own": float(judged.p[row, label]),
        "picture": pictures.inline(pictures.png(images[row].transpose(1, 2, 0))),
    }


def _ways(model: Trained, judged: Judged) -> list[str]:
    """How it was computed, and whether it is what the run itself predicted."""
    spec, lines = model.experiment, []
    if model.normalizes:
        lines.append(
            f"Batch norm takes {spec.model.norm_statistics} statistics, as the run's evaluations do."
        )
    if spec.objective.loss == "hinge":
        lines.append("Trained by the hinge loss, whose outputs no softmax makes probabilities: read the "
                     "calibration as a description only.")  # fmt: skip
    if model.folder.summary.exists() and model.checkpoint.step == model.folder.read_summary()["steps"]:
        differing = int((predictions(model.folder) != judged.predicted).sum())
        lines.append(
            f"{differing} of {len(judged.labels)} predictions differ from the run's predictions.npy."
        )
    return lines
