"""`triptych look`: what is counted, what is drawn, and the page."""

from __future__ import annotations

import html
import io
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.helpers import tiny
from tests.helpers.page import Page
from triptych.__main__ import main
from triptych.show import pages
from triptych.show.intervals import wilson
from triptych.store import checkpoint
from triptych.use import pictures
from triptych.use.judged import BINS, Judged
from triptych.use.look import per_class
from triptych.use.trained import open_run

FILES = {"index.html", "confusion.png", "mistakes.png", "weights.png", "reliability.png"}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.finished(tmp_path_factory.mktemp("look") / "run", tiny.settings(learning_rate=1e-4))


@pytest.fixture(autouse=True)
def data(monkeypatch: pytest.MonkeyPatch) -> None:
    tiny.install(monkeypatch.setattr)


def judged(*rows: tuple[float, float, float], labels: list[int]) -> Judged:
    return Judged(np.array(rows), np.array(labels, np.uint8))


THREE = judged(
    (0.5, 0.5, 0.0),
    (0.1, 0.7, 0.2),
    (0.1, 0.7, 0.2),
    (0.0, 0.0, 1.0),
    (0.3, 0.3, 0.4),
    labels=[0, 1, 0, 2, 0],
)


def test_counts_by_hand():
    assert THREE.predicted.tolist() == [0, 1, 1, 2, 2]  # of a tie the first
    assert THREE.confusion.tolist() == [[1, 1, 1], [0, 1, 0], [0, 0, 1]]
    assert (THREE.hits, THREE.accuracy) == (3, 0.6)
    assert THREE.mistakes(9).tolist() == [2, 4]
    assert THREE.mistakes(1).tolist() == [2]
    rows = per_class(THREE, ("a", "b", "c"))
    low, high = wilson(1, 3)
    assert rows[0] == ["a", "0.333", f"{low:.3f} to {high:.3f}", "1.000", "b, 1 times"]
    assert rows[2][3:] == ["0.500", ""]


def test_ece_by_hand():
    """Bins of 15: 0.4 ends bin 5, 0.5 lies in bin 7, 0.7 in bin 10, 1.0 in the last."""
    bins = THREE.calibration()
    counts = dict.fromkeys(range(BINS), 0) | {5: 1, 7: 1, 10: 2, 14: 1}
    assert bins.counts.tolist() == list(counts.values())
    assert bins.hits[[5, 7, 10, 14]].tolist() == [0, 1, 1, 1]
    assert bins.ece == pytest.approx((1 * 0.4 + 1 * 0.5 + 2 * 0.2 + 1 * 0.0) / 5)


def test_ece_of_a_calibrated_and_of_a_boastful_model():
    p = np.repeat([[0.75, 0.25]], 400, axis=0)
    labels = np.tile([0, 0, 0, 1], 100)
    assert Judged(p, labels).calibration().ece == pytest.approx(0.0, abs=1e-12)
    assert Judged(np.repeat([[1.0, 0.0]], 400, axis=0), labels).calibration().ece == pytest.approx(0.25)


def opened(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


def test_weights_are_drawn_as_they_are(run):
    model = open_run(run)
    state = model.checkpoint.state
    weight = np.zeros((6, 3072), np.float32)
    weight[0, 0], weight[0, 1] = 2.0, -1.0  # red, the first row's first two pixels
    weight[5, 3071] = -3.0  # blue, the last pixel
    there = replace(state, parameters=state.parameters | {"linear1.weight": weight})
    drawn, what = pictures.first_weights(replace(model, checkpoint=replace(model.checkpoint, state=there)))
    assert what == "all 6 units of linear1"
    assert drawn.shape == (2 * 33 - 1, 3 * 33 - 1, 3)
    assert drawn[0, :3, 0].tolist() == [255, 64, 128]
    assert drawn[-1, -1].tolist() == [128, 128, 1]
    drawn[0, :2, 0] = drawn[-1, -1, 2] = 128
    assert (drawn == 128).all()
    assert (opened(pictures.png(drawn, 2)) == drawn.repeat(2, axis=0).repeat(2, axis=1)).all()


def test_of_many_units_the_largest_are_drawn(run):
    model = open_run(run)
    weight = np.full((150, 3072), 1e-3, np.float32)
    weight[::2] = 1.0
    weight[75:] *= -1
    there = replace(model.checkpoint.state, parameters={"linear1.weight": weight})
    drawn, what = pictures.first_weights(replace(model, checkpoint=replace(model.checkpoint, state=there)))
    assert what == "the 100 units of largest norm, of 150 of linear1"
    assert drawn.shape == (10 * 33 - 1, 10 * 33 - 1, 3)


def test_the_page_shows_what_the_run_predicts(tmp_path, capsys):
    what = tiny.settings(learning_rate=1e-4, channels=("4", "M"), batch_norm="manual", hidden=())
    folder = tiny.finished(tmp_path / "run", what)
    capsys.readouterr()
    assert main(["look", str(folder)]) == 0
    final = tiny.summary(folder)["test_accuracy"]
    low, high = wilson(round(100 * final), 100)
    said = capsys.readouterr().out
    assert f"test accuracy {final:.4f}, 95% {low:.4f} to {high:.4f} (Wilson, 100 images)" in said
    assert {path.name for path in (folder / "look").iterdir()} == FILES
    page = Page((folder / "look" / "index.html").read_text())
    text = html.unescape((folder / "look" / "index.html").read_text())
    assert page.foreign == []
    assert f"Test accuracy {final:.4f}" in text
    assert "0 of 100 predictions differ from the run's predictions.npy." in text
    assert text.count("train, mean of batches") == 2, "curves of loss and accuracy"
    predictions, labels = np.load(folder / "predictions.npy"), tiny.dataset().test_labels
    matrix = [[int(cell) for cell in row[1:]] for row in page.rows[1:11]]
    for label in range(10):
        assert matrix[label] == np.bincount(predictions[labels == label], minlength=10).tolist()
    wrong = np.flatnonzero(predictions != labels)
    shown = [int(word.partition("<")[0]) for word in text.split("<code>test:")[1:]]
    assert len(shown) == min(24, len(wrong))
    assert set(shown) <= set(wrong.tolist())
    for name in FILES - {"index.html"}:
        assert opened((folder / "look" / name).read_bytes()).std() > 5, f"{name} is blank"


def test_mistakes_are_drawn_in_their_colours():
    images = np.zeros((2, 3, 32, 32), np.uint8)
    images[1, 0] = 255
    both = Judged(np.array([[1.0, 0.0], [1.0, 0.0]]), np.array([1, 1]))
    figure = pictures.mistakes(both, both.mistakes(9), images, ("cat", "dog"))
    drawn = pages.png(figure)
    colours = {tuple(pixel) for pixel in opened(drawn).reshape(-1, 3).tolist()}
    assert {(0, 0, 0), (255, 0, 0), (255, 255, 255)} <= colours


def test_overwriting_a_run_takes_its_page_away(run, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    (folder / "look").mkdir()
    (folder / "look" / "index.html").touch()
    assert tiny.launch(folder, tiny.settings(learning_rate=1e-4), overwrite=True) == 0
    assert not (folder / "look").exists()


def test_a_model_without_mistakes_says_so(run, tmp_path, monkeypatch):
    labels = np.load(run / "predictions.npy")
    sure = replace(tiny.dataset(), test_labels=labels)
    monkeypatch.setattr("triptych.cifar10.load", lambda *_, **__: sure)
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    assert main(["look", str(folder)]) == 0
    assert "every image was predicted right" in (folder / "look" / "index.html").read_text()


def spoil(folder: Path, how: str) -> None:
    if how == "other data":
        found = tiny.newest(folder)
        found.info["fingerprint"] = "sha256:0123456789abcdef"
        checkpoint.save(folder / "checkpoints", found)
    elif how == "no checkpoint":
        shutil.rmtree(folder / "checkpoints")
    elif how == "page in the way":
        (folder / "look").write_text("")
    else:
        (folder / "predictions.npy").write_bytes(b"no")


MISTAKES: dict[str, str] = {
    "other data": "was trained on data sha256:0123456789ab..., found",
    "no checkpoint": "no checkpoint in",
    "page in the way": "error: cannot read or write",
    "no predictions": "predictions.npy: not a run's predictions",
}


@pytest.mark.parametrize("how", MISTAKES)
def test_a_mistake_is_one_line_and_exit_code_2(run, tmp_path, capsys, how: str) -> None:
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    spoil(folder, how)
    capsys.readouterr()
    assert main(["look", str(folder)]) == 2
    error: Any = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert MISTAKES[how] in error
