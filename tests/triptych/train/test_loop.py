"""The training loop on every backend: what a run writes, when it stops, and what it does not depend on."""

import dataclasses
import io
import signal
import struct
from collections.abc import Iterator
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData
from tensorboardX.proto.summary_pb2 import Summary

from numpy_ref.backend import NumpyBackend
from tests.helpers import small, tiny
from triptych.describe.plain import to_dict
from triptych.describe.protocol import Evaluation
from triptych.show import plots
from triptych.show.plots import curves
from triptych.store import checkpoint
from triptych.store.records import Record
from triptych.store.run_dir import flat

PLAIN = tiny.settings(eval_every=5)
"""Three evaluations: after steps 5 and 10, and after the last, 12."""
pytestmark = pytest.mark.usefixtures("machine")


@pytest.fixture(scope="module", params=tiny.BACKENDS)
def finished(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run of PLAIN, with its picture, one for each backend."""
    folder = tmp_path_factory.mktemp(request.param)
    with pytest.MonkeyPatch.context() as patch:
        tiny.install(patch.setattr)
        patch.setattr(plots, "curves", curves)
        assert tiny.launch(folder, PLAIN, request.param) == 0
    return folder


def test_metrics_hold_every_step_and_every_evaluation(finished):
    records = tiny.metrics(finished)
    order = [(record["kind"], record["step"]) for record in records]
    train = [("train", step) for step in range(1, 13)]
    assert order == [*train[:5], ("eval", 5), *train[5:10], ("eval", 10), *train[10:], ("eval", 12)]
    for record in tiny.metrics(finished, "train"):
        assert set(record) == {"kind", "step", "loss", "accuracy", "learning_rate"}
        assert record["learning_rate"] == 1e-5
        assert record["accuracy"] * 20 == pytest.approx(round(record["accuracy"] * 20), abs=1e-5)
    losses = [record["loss"] for record in tiny.metrics(finished, "train")]
    assert len(set(losses)) == len(losses)


def test_an_evaluation_reports_the_mean_of_the_steps_since_the_last(finished):
    train, evaluations = tiny.metrics(finished, "train"), tiny.metrics(finished, "eval")
    for record, since in zip(evaluations, (0, 5, 10), strict=True):
        interval = train[since : record["step"]]
        for key in ("loss", "accuracy"):
            assert record[f"train_{key}"] == pytest.approx(np.mean([r[key] for r in interval]), rel=1e-12)


def test_the_summary_says_what_came_out(finished):
    summary, evaluations = tiny.summary(finished), tiny.metrics(finished, "eval")
    final, best = evaluations[-1], max(evaluations, key=lambda record: record["test_accuracy"])
    expected = {
        "experiment": "fig1", "dtype": "float32", "seed": 0, "steps": 12, "stopped_early": False,
        "train_loss": final["train_loss"], "train_accuracy": final["train_accuracy"],
        "test_accuracy": final["test_accuracy"], "test_loss": final["test_loss"],
        "best_test_accuracy": best["test_accuracy"], "best_step": best["step"],
        "data": {"source": "generated", "fingerprint": tiny.dataset().fingerprint},
    }  # fmt: skip
    assert {key: summary.get(key) for key in expected} == expected
    assert summary["backend"] in summary["versions"]
    assert {"python", "numpy"} <= set(summary["versions"])
    assert summary["device"].startswith(("cpu", "gpu"))
    assert summary["train_seconds"] > 0
    assert summary["compile_seconds"] >= 0
    assert summary["steps_per_second"] == pytest.approx(12 / summary["train_seconds"])


def test_the_last_checkpoint_predicts_what_the_run_reports(finished):
    """predictions.npy, accuracy and loss, worked out again from the saved parameters by hand."""
    summary, data = tiny.summary(finished), tiny.dataset()
    last = tiny.newest(finished)
    assert last.step == 12
    assert summary["parameters_sha256"] == checkpoint.parameters_sha256(last.state)
    theta = {key: value.astype(np.float64) for key, value in last.state.parameters.items()}
    x = (data.test_images - data.train_images.mean(axis=0)).reshape(tiny.TEST, -1)
    h = x @ theta["linear1.weight"].T + theta["linear1.bias"]
    logits = np.where(h > 0, h, 0.02 * h) @ theta["linear2.weight"].T + theta["linear2.bias"]
    losses = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(tiny.TEST), data.test_labels]

    predictions = np.load(finished / "predictions.npy")
    assert predictions.dtype == np.uint8
    assert predictions.tolist() == logits.argmax(axis=1).tolist()
    assert summary["test_accuracy"] == np.mean(predictions == data.test_labels)
    assert summary["test_loss"] == pytest.approx(losses.mean(), rel=1e-5)


def test_the_curves_are_a_picture(finished):
    loss, accuracy = blue((finished / "curves.png").read_bytes())
    assert loss > 100
    assert accuracy > 100


def test_the_curves_of_a_short_and_of_an_unevaluated_run_show_what_there_is():
    train: list[Record] = [
        {"kind": "train", "step": step, "loss": 2.3 - step / 9, "accuracy": 0.1 * step, "learning_rate": 1e-3}
        for step in (1, 2, 3)
    ]
    evaluation: Record = {"kind": "eval", "step": 1, "train_loss": 2.2, "train_accuracy": 0.2}
    evaluation |= {"test_loss": 2.1, "test_accuracy": 0.3}
    empty = blue(curves([], "nothing"))
    some: list[list[Record]] = [train, train[:1], [train[0], evaluation]]
    for records in some:
        drawn = blue(curves(records, "some"))
        assert min(drawn[0] - empty[0], drawn[1] - empty[1]) > 10


def blue(png: bytes) -> tuple[int, int]:
    """How many pixels of a picture of curves are as blue as train lines, on the left and on the right."""
    picture = matplotlib.image.imread(io.BytesIO(png), format="png")
    assert picture.shape[:2] == (504, 1320)
    drawn = (picture[:, :, 2] - picture[:, :, 0]) > 0.15
    return int(drawn[:, :660].sum()), int(drawn[:, 660:].sum())


def test_checkpoints_are_kept_for_the_last_two_evaluations_and_the_best(finished):
    steps = {step for step, _ in checkpoint.listing(finished / "checkpoints")}
    assert steps == {10, 12, tiny.summary(finished)["best_step"]}


def test_tensorboard_files_hold_the_metrics(tmp_path):
    tiny.launch(tmp_path, PLAIN, tensorboard=True)
    scalars = board_scalars(tmp_path / "tensorboard")
    for record in tiny.metrics(tmp_path, "train"):
        assert scalars.pop(("batch/loss", record["step"])) == np.float32(record["loss"])
        assert scalars.pop(("batch/accuracy", record["step"])) == np.float32(record["accuracy"])
        assert scalars.pop(("batch/learning_rate", record["step"])) == np.float32(1e-5)
    for record in tiny.metrics(tmp_path, "eval"):
        for name in ("train_loss", "train_accuracy", "test_loss", "test_accuracy"):
            assert scalars.pop((name, record["step"])) == np.float32(record[name])
    assert scalars == {}


def test_tensorboard_sees_an_evaluation_at_once(tmp_path):
    """A run killed before it saves its second evaluation has it on the disk."""
    words = ("--backend", "numpy", *tiny.arguments(), "--tensorboard", "--run-dir", str(tmp_path / "run"))
    assert tiny.run("SIGKILL:save:3", *words).returncode == -signal.SIGKILL
    tags = {("test_accuracy", 4), ("test_accuracy", 8), ("batch/loss", 8)}
    assert tags <= set(board_scalars(tmp_path / "run/tensorboard"))


def test_tensorboard_knows_the_settings(tmp_path):
    def session(value: Summary.Value) -> HParamsPluginData:
        return HParamsPluginData.FromString(value.metadata.plugin_data.content)

    tiny.launch(tmp_path, tiny.settings(hidden=(6, 5)), tensorboard=True)
    values = {value.tag: value for _, value in board_values(tmp_path / "tensorboard")}
    start = session(values["_hparams_/session_start_info"]).session_start_info.hparams
    assert start["hidden"].string_value == "6 5"
    assert start["learning_rate"].number_value == 1e-5
    assert start["backend"].string_value == "numpy"
    assert set(start) == {"backend", *flat(to_dict(tiny.settings()))}
    experiment = session(values["_hparams_/experiment"]).experiment
    assert "test_accuracy" in {info.name.tag for info in experiment.metric_infos}
    assert session(values["_hparams_/session_end_info"]).HasField("session_end_info")


def board_scalars(folder: Path) -> dict[tuple[str, int], float]:
    """The scalars in TensorBoard's event files, by tag and step."""
    return {
        (value.tag, step): value.simple_value
        for step, value in board_values(folder)
        if not value.HasField("metadata")
    }


def board_values(folder: Path) -> Iterator[tuple[int, Summary.Value]]:
    """What is in TensorBoard's event files: records of length, checksum, protobuf, checksum."""
    for path in folder.iterdir():
        content = path.read_bytes()
        while content:
            (length,) = struct.unpack("<Q", content[:8])
            event = Event.FromString(content[12 : 12 + length])
            yield from ((event.step, value) for value in event.summary.value)
            content = content[16 + length :]


# --- what the results do not depend on ---

ADAM = {"optimizer": "adam", "learning_rate": 1e-3, "weight_decay": 1e-2, "dropout": 0.3, "hidden": (6, 5)}


@pytest.mark.parametrize("backend", tiny.BACKENDS)
def test_the_number_of_steps_a_call_changes_no_bit(tmp_path, monkeypatch, backend):
    what, outcomes = tiny.settings(**ADAM, eval_every=12), []
    for capacity in (1, 3, 7):
        tiny.install(monkeypatch.setattr, capacity)
        tiny.launch(tmp_path / str(capacity), what, backend)
        outcomes.append(tiny.results(tmp_path / str(capacity)))
    assert outcomes[0] == outcomes[1] == outcomes[2]


@pytest.fixture(scope="module")
def everywhere(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same float64 run on each backend, all its checkpoints kept."""
    folders = {}
    for name in tiny.BACKENDS:
        folder = tmp_path_factory.mktemp(name)
        folders[name] = tiny.finished(folder, FLOAT64, name, checkpoint_every=1, keep_checkpoints=99)
    return folders


FLOAT64 = tiny.settings(**ADAM, dtype="float64")


@pytest.mark.parametrize(
    ("first", "second"), [(a, b) for a in tiny.BACKENDS for b in tiny.BACKENDS if a != b]
)
def test_another_backend_goes_on_where_one_stopped(tmp_path, everywhere, first, second):
    stopped = tiny.rewind(everywhere[first], tmp_path / "stopped", 5)
    went_on = tmp_path / "went_on"
    assert tiny.launch(went_on, FLOAT64, second, resume=stopped) == 0
    assert [record["step"] for record in tiny.metrics(went_on, "train")] == list(range(1, 13))
    assert tiny.metrics(went_on)[:6] == tiny.metrics(everywhere[first])[:6]
    ours, theirs = tiny.newest(went_on), tiny.newest(everywhere[first])
    assert ours.step == theirs.step == 12
    small.assert_same(ours.state, theirs.state, 1e-10)


def script(monkeypatch: pytest.MonkeyPatch, **accuracies: list[float]) -> None:
    """Let the n-th evaluation of a split report the n-th of these accuracies."""
    original, left = NumpyBackend.evaluate, {split: list(values) for split, values in accuracies.items()}

    def evaluate(self: NumpyBackend, split: str, statistics: object = None) -> Evaluation:
        found = original(self, split)
        return dataclasses.replace(found, accuracy=left[split].pop(0)) if left[split] else found

    monkeypatch.setattr(NumpyBackend, "evaluate", evaluate)


@pytest.mark.parametrize(
    ("patience", "accuracies", "last"),
    [
        (1, [0.2, 0.3, 0.3, 0.9], 3),  # as good is no better
        (2, [0.3, 0.2, 0.4, 0.3, 0.35, 0.9], 5),
        (2, [0.5, 0.4, 0.3, 0.2], 3),
        (3, [0.1, 0.2, 0.1, 0.1, 0.3, 0.1, 0.1, 0.1, 0.9], 8),
    ],
)
@pytest.mark.parametrize("validation", [0, 40])
def test_stopping_early_after_evaluations_without_a_better_one(
    tmp_path, monkeypatch, patience, accuracies, last, validation
):
    """With validation images their accuracy counts; that of the test set, which always rises, does not."""
    rising = [0.01 * number for number in range(1, 20)]
    script(monkeypatch, **{"test": rising, "validation" if validation else "test": accuracies})
    what = tiny.settings(steps=20, eval_every=2, early_stopping=patience, validation=validation)
    assert tiny.launch(tmp_path, what) == 0
    records, summary = tiny.metrics(tmp_path, "eval"), tiny.summary(tmp_path)
    assert [record["step"] for record in records] == list(range(2, 2 * last + 1, 2))
    assert (summary["steps"], summary["stopped_early"]) == (2 * last, 2 * last < 20)
    key = "validation_accuracy" if validation else "test_accuracy"
    assert [record[key] for record in records] == accuracies[:last]
    assert summary[key] == accuracies[last - 1]


@pytest.mark.parametrize("backend", tiny.BACKENDS)
def test_a_run_that_learns_nothing_stops_early(tmp_path, backend):
    what = tiny.settings(learning_rate=0.0, early_stopping=1, eval_every=3)
    assert tiny.launch(tmp_path, what, backend) == 0
    summary = tiny.summary(tmp_path)
    assert (summary["steps"], summary["best_step"], summary["stopped_early"]) == (6, 3, True)


@pytest.mark.parametrize(("keep", "left"), [(1, [4, 12]), (2, [4, 10, 12]), (9, [0, 2, 4, 6, 8, 10, 12])])
def test_the_best_checkpoint_is_kept(tmp_path, monkeypatch, keep, left):
    script(monkeypatch, test=[0.1, 0.4, 0.2, 0.3, 0.4, 0.3])
    assert tiny.launch(tmp_path, tiny.settings(eval_every=2), keep_checkpoints=keep) == 0
    assert [step for step, _ in checkpoint.listing(tmp_path / "checkpoints")] == left
    assert (tiny.summary(tmp_path)["best_step"], tiny.summary(tmp_path)["best_test_accuracy"]) == (4, 0.4)
