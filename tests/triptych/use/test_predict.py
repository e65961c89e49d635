"""`triptych predict`: the run's own numbers by any backend, images of any size, and users' mistakes."""

import dataclasses
import json
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from parity.__main__ import main as parity_main
from parity.bounds.bounded import Bounded
from parity.convert.verify import fast, true_logits
from tests.helpers import tiny
from triptych import cifar10
from triptych.__main__ import main
from triptych.cifar10 import Dataset
from triptych.errors import UserError
from triptych.store import checkpoint, preprocessing
from triptych.use import images
from triptych.use.predict import softmax
from triptych.use.trained import open_run

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished MLP by NumPy, standardized, in float64."""
    what = tiny.settings(preprocess="standardize", learning_rate=1e-2, dtype="float64")
    return tiny.finished(tmp_path_factory.mktemp("predict") / "run", what)


@pytest.fixture(autouse=True)
def data(monkeypatch: pytest.MonkeyPatch) -> None:
    tiny.install(monkeypatch.setattr)


def ask(capsys: Capture, *words: object) -> list[dict[str, Any]]:
    assert main(["predict", *map(str, words), "--json"]) == 0
    found: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
    return found


def by_formula(folder: Path, pixels: np.ndarray) -> tuple[np.ndarray, float]:
    """Class probabilities (N, 10) in float64 from the run's files, and how far a backend's may be off."""
    way_in, r = preprocessing.load(folder / "preprocessing.safetensors"), fast("float64")
    assert way_in.scale is not None
    x = (Bounded.exact(pixels, r) - Bounded.constant(way_in.mean, r)) * Bounded.constant(way_in.scale, r)
    state = tiny.newest(folder).state
    s = true_logits(open_run(folder).experiment.layers(), state.parameters | state.statistics, x)
    e = np.exp(s.value - s.value.max(axis=1, keepdims=True))
    # Logits off by d each change a probability by a factor between exp(-2 d) and exp(2 d).
    return e / e.sum(axis=1, keepdims=True), float(np.expm1(2 * s.error.max()))


@pytest.mark.parametrize("backend", tiny.BACKENDS)
def test_every_backend_gives_the_formulas_probabilities(run, capsys, backend):
    dataset = tiny.dataset()
    found = ask(capsys, run, "test:0-99", "--backend", backend, "--top", 10)
    p, limit = by_formula(run, dataset.test_images)
    assert limit < 1e-9
    for at, entry in enumerate(found):
        assert entry["image"] == f"test:{at}"
        assert entry["label"] == images_class(dataset.test_labels[at])
        named = {item["class"]: item["probability"] for item in entry["top"]}
        assert list(named.values()) == sorted(named.values(), reverse=True)
        for c, probability in enumerate(p[at]):
            assert abs(named[images_class(c)] - probability) <= limit
    hits = np.mean([entry["top"][0]["class"] == entry["label"] for entry in found])
    assert hits == pytest.approx(tiny.summary(run)["test_accuracy"])


def images_class(label: int) -> str:
    names = "airplane automobile bird cat deer dog frog horse ship truck"
    return names.split()[label]


def test_a_picture_of_a_test_image_is_that_test_image(run, tmp_path, capsys):
    Image.fromarray(tiny.dataset().test_images[7].transpose(1, 2, 0)).save(tmp_path / "seven.png")
    (tmp_path / "notes.txt").write_text("passed over")
    from_folder, from_test = ask(capsys, run, tmp_path, "test:7")
    assert from_folder == {"image": str(tmp_path / "seven.png"), "top": from_test["top"]}


def test_softmax_has_ties_and_huge_logits():
    p = softmax(np.array([[0.0, 0.0], [1000.0, 0.0], [-1e4, 1e4]], np.float32))
    assert p.tolist() == [[0.5, 0.5], [1.0, 0.0], [0.0, 1.0]]


# --- from a file to 32x32 ---


def saved(path: Path, pixels: np.ndarray, **options: Any) -> np.ndarray:
    Image.fromarray(pixels).save(path, **options)
    return images.of_file(path).pixels


def test_the_centred_square_is_taken(tmp_path):
    wide = np.zeros((40, 90, 3), np.uint8)
    wide[:, :25], wide[:, 65:] = (255, 0, 0), (0, 255, 0)
    wide[:, 25:65] = (0, 0, 255)
    found = images.of_file(save(tmp_path / "wide.png", wide))
    assert (found.pixels == np.array([0, 0, 255], np.uint8)[:, None, None]).all()
    assert found.resized == "90x40: its centred 40x40, resized to 32x32"
    assert (saved(tmp_path / "tall.png", wide.transpose(1, 0, 2)) == found.pixels).all()


def save(path: Path, pixels: np.ndarray) -> Path:
    Image.fromarray(pixels).save(path)
    return path


def test_a_file_of_32x32_comes_through_bit_for_bit(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    found = images.of_file(save(tmp_path / "small.png", pixels))
    assert (found.pixels == pixels.transpose(2, 0, 1)).all()
    assert found.resized == ""


def test_transparent_is_white_and_grey_is_grey(tmp_path):
    clear = np.zeros((32, 32, 4), np.uint8)
    clear[16:, :, 3] = 255
    found = saved(tmp_path / "clear.png", clear)
    assert (found[:, :16] == 255).all()
    assert (found[:, 16:] == 0).all()
    grey = np.random.default_rng(1).integers(0, 256, (32, 32), np.uint8)
    assert (saved(tmp_path / "grey.png", grey) == grey).all()


def test_a_photo_is_turned_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter clockwise
    dark = np.zeros((64, 64, 3), np.uint8)
    dark[:, 32:] = 255  # bright to the right, so below once it is upright
    found = saved(tmp_path / "photo.jpg", dark, exif=exif)
    assert found[:, :14].max() < 40
    assert found[:, 18:].min() > 215


# --- whose model ---


def test_the_best_checkpoint_is_taken_when_asked_for(run):
    summary = tiny.summary(run)
    records = tiny.metrics(run, "eval")
    assert summary["best_step"] == max(records, key=lambda record: record["test_accuracy"])["step"]
    found = open_run(run, best=True).checkpoint
    assert found.step == summary["best_step"]
    assert open_run(run).checkpoint.step == summary["steps"]


def test_an_interrupted_run_serves_as_far_as_it_came(run, tmp_path, capsys):
    begun = tiny.rewind(run, tmp_path / "begun", 8)
    assert main(["predict", str(begun), "test:0"]) == 0
    assert capsys.readouterr().err == f"{begun}: numpy, step 8 of 12, not finished\n"


def test_an_older_run_gets_its_mean_image_from_its_data(run, tmp_path, capsys):
    old = tmp_path / "old"
    shutil.copytree(run, old)
    (old / "preprocessing.safetensors").unlink()
    assert main(["predict", str(old), "test:0"]) == 2
    assert "trained before runs kept their mean image" in capsys.readouterr().err
    again = ask(capsys, old, "test:0", "--data-dir", tmp_path)
    assert again == ask(capsys, run, "test:0")
    ours, theirs = (preprocessing.load(folder / "preprocessing.safetensors") for folder in (old, run))
    assert (ours.mean == theirs.mean).all()
    assert ours.scale is not None
    assert (ours.scale == theirs.scale).all()
    assert ours.classes == theirs.classes


def test_the_data_is_looked_for_where_the_run_found_it(tmp_path, capsys, monkeypatch):
    """By predict, look, locate and --resume; until --data-dir names another place, or that one is gone."""
    asked: list[Path | None] = []

    def load(dataset: str, data_dir: Path | None, **_: object) -> Dataset:
        asked.append(data_dir)
        return tiny.dataset()

    there = tmp_path / "there"
    there.mkdir()
    made, on = tiny.finished(tmp_path / "run", tiny.settings(), data_dir=there), str(tmp_path / "on")
    monkeypatch.setattr(cifar10, "load", load)
    for command in ("predict {} test:0", "look {}"):
        assert main(command.format(made).split()) == 0
    assert parity_main(["locate", str(made), "numpy"]) == 0
    assert tiny.call("--resume", str(made), "--backend", "numpy", "--steps", "16", "--run-dir", on) == 0
    assert len(asked) >= 4
    assert set(asked) == {there}
    asked.clear()
    assert main(["predict", str(made), "test:0", "--data-dir", "here"]) == 0
    there.rmdir()
    assert main(["predict", str(made), "test:0"]) == 0
    assert asked == [Path("here"), None]
    for value in (b"3", b"'/dev/null'", b"[", b"\xff", b"'a\0b'", b'"a\\u0000b"'):
        (made / "run.toml").write_bytes(b"data_dir = " + value)
        assert main(["predict", str(made), "test:0"]) == 0
    assert asked[2:] == [None] * 6


def test_batch_norm_takes_running_statistics_whatever_comes_along(tmp_path, capsys):
    what = tiny.settings(batch_norm="manual", norm_statistics="batch")
    folder = tiny.finished(tmp_path / "norm", what)
    capsys.readouterr()
    together, alone = ask(capsys, folder, "test:0-9"), ask(capsys, folder, "test:3")
    assert [item["class"] for item in together[3]["top"]] == [item["class"] for item in alone[0]["top"]]
    assert together[3]["top"][0]["probability"] == pytest.approx(alone[0]["top"][0]["probability"], rel=1e-5)
    assert main(["predict", str(folder), "test:3"]) == 0
    assert "running statistics" in capsys.readouterr().err


@pytest.fixture
def broken(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here: the run, and copies of it with a fault each; images that are none."""
    monkeypatch.chdir(tmp_path)
    for name in ("run", "bare", "foreign", "classes", "other-data", "flipped", "unfinished"):
        shutil.copytree(run, name)
    shutil.rmtree("bare/checkpoints")
    shutil.rmtree("unfinished/checkpoints")
    Path("unfinished/summary.json").unlink()
    state = tiny.newest(run).state
    wide = {"linear2.weight": np.zeros((11, 6)), "linear2.bias": np.zeros(11)}
    found = tiny.newest(Path("foreign"))
    other = dataclasses.replace(state, parameters=state.parameters | wide)
    checkpoint.save(Path("foreign/checkpoints"), dataclasses.replace(found, state=other))
    way_in = preprocessing.load(run / "preprocessing.safetensors")
    fewer = dataclasses.replace(way_in, classes=way_in.classes[:9])
    preprocessing.save(Path("classes/preprocessing.safetensors"), fewer)
    found = tiny.newest(Path("other-data"))
    found.info["fingerprint"] = "sha256:0123456789abcdef"
    checkpoint.save(Path("other-data/checkpoints"), found)
    tiny.flip(Path("flipped/preprocessing.safetensors"))
    Path("empty").mkdir()
    Path("no.png").write_bytes(b"no picture")
    whole = save(Path("whole.png"), np.zeros((64, 64, 3), np.uint8)).read_bytes()
    Path("half.png").write_bytes(whole[: len(whole) // 2])
    save(Path("deep.png"), np.zeros((32, 32), np.uint16))


MISTAKES = {
    "nowhere x.png": "run: expected a run's folder, found nothing at nowhere",
    "empty x.png": "found a folder without config.json at empty",
    ". x.png": "found one of runs; name one, such as bare",
    "no.png x.png": "found a file at no.png",
    "bare whole.png": "bare: no checkpoint in bare/checkpoints; repeat the command",
    "unfinished whole.png": "unfinished: no checkpoint in unfinished/checkpoints; repeat the command",
    "foreign whole.png": "linear2.weight is (11, 6) in its checkpoint and (10, 6) in the network",
    "classes whole.png": "expected the names of the network's 10 classes, found 9",
    "flipped whole.png": "flipped/preprocessing.safetensors: damaged",
    "other-data test:0": "other-data was trained on data sha256:0123456789ab..., found",
    "run": "image: expected PNG or JPEG files, a folder of them, or test:NUMBER",
    "run gone.png": "image: gone.png: no such file",
    "run no.png": "image: no.png: expected a PNG or JPEG file, and this is none",
    "run half.png": "image: half.png: cannot be read",
    "run deep.png": "image: deep.png: expected 8 bits a channel",
    "run empty": "expected a folder with PNG or JPEG files, found none in empty",
    "run test:100": "expected test images from 0 to 99, got 'test:100'",
    "run test:9-3": "expected test images from 0 to 99, got 'test:9-3'",
    "run test:x": "expected test:NUMBER or test:FIRST-LAST",
    "run whole.png --top 11": "top: expected 1 to 10, got 11",
}


@pytest.mark.usefixtures("broken")
@pytest.mark.parametrize("words", MISTAKES)
def test_a_mistake_is_one_line_and_exit_code_2(capsys, words):
    assert main(["predict", *words.split()]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert MISTAKES[words] in captured.err


def test_damaged_files_are_read_or_refused(tmp_path):
    """Bytes of a PNG and a JPEG with EXIF data changed, cut off or put in, many times over."""
    rng, exif = random.Random(0), Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a picture"
    pixels = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    outcomes: set[object] = set()
    for name in ("whole.png", "whole.jpg"):
        Image.fromarray(pixels).save(tmp_path / name, exif=exif)
        whole = (tmp_path / name).read_bytes()
        for _ in range(300):
            content = bytearray(whole)
            for _ in range(rng.choice((1, 2, 5))):
                content[rng.randrange(min(len(content), rng.choice((60, 300, 9999))))] = rng.randrange(256)
            (tmp_path / "damaged").write_bytes(content[: rng.choice((len(content), rng.randrange(8, 2000)))])
            try:
                outcomes.add(images.of_file(tmp_path / "damaged").pixels.shape)
            except UserError as error:
                outcomes.add("refused" if "\n" not in str(error) else str(error))
    assert outcomes == {(3, 32, 32), "refused"}


def test_a_huge_picture_is_refused(tmp_path, monkeypatch):
    path = save(tmp_path / "huge.png", np.zeros((50, 50, 3), np.uint8))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2000)
    with pytest.raises(UserError, match=r"huge.png: too large, over 2000 pixels"):
        images.of_file(path)
