"""`triptych export`: files that need no Triptych compute what the run computes, or are not written."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

from tests.helpers import tiny
from triptych.__main__ import main
from triptych.describe.layers import LeakyReLU
from triptych.use import agreement, export, onnx_file
from triptych.use.trained import Trained, open_run

MLP: dict[str, Any] = {"batch_norm": "manual", "dropout": 0.2, "hidden": (8, 6), "preprocess": "standardize"}
CNN: dict[str, Any] = {
    "channels": ("4", "M", "6", "M"),
    "hidden": (),
    "batch_norm": "autodiff",
    "head_norm": True,
    "dropout": 0.1,
    "slope": 0.0,
    "optimizer": "adam",
    "learning_rate": 1e-2,
}
NETWORKS: dict[str, dict[str, Any]] = {
    "plain": {"learning_rate": 1e-4},
    "mlp": MLP | {"learning_rate": 1e-2},
    "cnn": CNN,
    "cnn without norm": {"channels": ("4", "M"), "hidden": (5,), "slope": 0.1, "learning_rate": 1e-4},
}
FORMATS = {"onnx": "net.onnx", "torch": "net.py", "flax": "net.py"}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Finished runs by NumPy, one of each network."""
    root = tmp_path_factory.mktemp("export")
    return {name: tiny.finished(root / name, tiny.settings(**what)) for name, what in NETWORKS.items()}


@pytest.fixture(autouse=True)
def data(monkeypatch: pytest.MonkeyPatch) -> None:
    tiny.install(monkeypatch.setattr)


SLOW = [
    pytest.param(network, to, marks=pytest.mark.slow)
    for network, to in (("cnn without norm", "torch"), ("cnn without norm", "flax"), ("mlp", "flax"))
]


@pytest.mark.parametrize(
    ("network", "to"),
    [
        ("mlp", "torch"),
        *((network, "onnx") for network in NETWORKS),
        ("cnn", "torch"),
        ("cnn", "flax"),
        *SLOW,
    ],
)
def test_every_network_leaves_as_every_format(runs, tmp_path, capsys, network, to):
    out = tmp_path / FORMATS[to]
    assert main(["export", str(runs[network]), "--to", to, "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "the same class for 200 of 200" in said
    assert said.splitlines()[-1].startswith(f"written: {out}")
    made, images = open_run(runs[network]), tiny.dataset().test_images
    ours = made.logits(images)
    assert np.ptp(ours) > 1e-3, "logits that say nothing would agree whatever the export did"
    theirs = run_written(out, to, images)
    assert theirs.dtype == np.float32
    assert np.abs(ours - theirs).max() <= limit(made, images)


def limit(model: Trained, images: np.ndarray) -> float:
    """How far two right computations in float32 may be apart: each as far from float64 as rounding in sums of
    its length lets it be.
    """
    ours = model.logits(images)
    return 2 * agreement.compare(model, images, ours, lambda x: ours, lambda x: ours[: len(x)]).allowed


def run_written(out: Path, to: str, images: np.ndarray) -> np.ndarray:
    if to == "onnx":
        return onnx_file.logits(out.read_bytes(), images)
    logits = export._module(to).logits  # type: ignore[arg-type]
    found: np.ndarray = logits(out, images, "float32")
    return found


BLOCKED = {
    "torch": ("triptych", "parity", "jax", "flax", "jax_models", "torch_models"),
    "flax": ("triptych", "parity", "torch", "jax_models", "torch_models"),
}


@pytest.mark.parametrize(("to", "axes"), [("torch", (0, 1, 2, 3)), ("flax", (0, 2, 3, 1))])
def test_a_module_needs_its_framework_alone(runs, tmp_path, to, axes):
    """From another folder, without this project: loaded and called as its docstring says."""
    assert main(["export", str(runs["cnn"]), "--to", to, "--out", str(tmp_path / "net.py")]) == 0
    images = tiny.dataset().test_images[:5]
    np.save(tmp_path / "images.npy", images.transpose(axes))
    prepare = "torch.from_numpy(images)" if to == "torch" else "images"
    (tmp_path / "use.py").write_text(
        f"import sys\nsys.modules.update(dict.fromkeys({BLOCKED[to]!r}))\n"
        "import json\nimport numpy as np\nimport net\n"
        + ("import torch\n" if to == "torch" else "")
        + "images = np.load('images.npy')\n"
        f"scores = net.load()({prepare})\n"
        "print(json.dumps([net.CLASSES[int(c)] for c in scores.argmax(1)]))\n"
        "np.save('scores.npy', scores.detach() if hasattr(scores, 'detach') else scores)\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "use.py"], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    made = open_run(runs["cnn"])
    wanted, scores = made.logits(images), np.load(tmp_path / "scores.npy")
    assert json.loads(done.stdout) == [made.classes[c] for c in wanted.argmax(axis=1)]
    assert np.abs(scores - wanted).max() <= limit(made, images)


def test_the_onnx_file_says_what_it_takes_and_gives(runs, tmp_path):
    out = tmp_path / "net.onnx"
    assert main(["export", str(runs["mlp"]), "--to", "onnx", "--out", str(out)]) == 0
    session = onnxruntime.InferenceSession(out.read_bytes(), providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    assert (given.name, given.type, given.shape) == ("images", "tensor(uint8)", ["N", 3, 32, 32])
    classes = json.loads(session.get_modelmeta().custom_metadata_map["classes"])
    assert classes == list(open_run(runs["mlp"]).classes)
    images = tiny.dataset().test_images
    for count in (1, 7):
        logits, p = session.run(["logits", "probabilities"], {"images": images[:count]})
        assert p.shape == (count, 10)
        e = np.exp(logits.astype(np.float64))
        assert p == pytest.approx(e / e.sum(axis=1, keepdims=True), abs=1e-6)
    weights = {array.name: numpy_helper.to_array(array) for array in onnx.load(out).graph.initializer}
    state = tiny.newest(runs["mlp"]).state
    for name, array in (state.parameters | state.statistics).items():
        assert (weights[name] == array).all()


def test_weights_of_a_float64_run_stay_float64_in_torch(tmp_path):
    what = tiny.settings(dtype="float64", learning_rate=1e-4)
    folder, out = tiny.finished(tmp_path / "run", what), tmp_path / "net.py"
    assert main(["export", str(folder), "--to", "torch", "--out", str(out)]) == 0
    images = tiny.dataset().test_images
    from torch_models import exported

    theirs, ours = exported.logits(out, images, "float64"), open_run(folder).logits(images)
    assert theirs.dtype == ours.dtype == np.float64
    assert np.abs(theirs - ours).max() <= 1e-12 * np.abs(ours).max()


@pytest.mark.slow
def test_a_bfloat16_run_is_exported_in_float32(tmp_path, capsys):
    what = tiny.settings(dtype="bfloat16", learning_rate=1e-4)
    folder = tiny.finished(tmp_path / "run", what, "torch")
    assert main(["export", str(folder), "--to", "onnx", "--out", str(tmp_path / "net.onnx")]) == 0
    assert "exported in float32" in capsys.readouterr().out


# --- what is wrong is not written ---


def wrong_slope(model: Trained) -> Trained:
    changed = replace(model.experiment.model, slope=0.021)
    return replace(model, experiment=replace(model.experiment, model=changed))


def wrong_weight(model: Trained) -> Trained:
    state = model.checkpoint.state
    weight = state.parameters["linear2.weight"].copy()
    weight[3, 2] += 0.01
    there = replace(state, parameters=state.parameters | {"linear2.weight": weight})
    return replace(model, checkpoint=replace(model.checkpoint, state=there))


def wrong_mean(model: Trained) -> Trained:
    way_in = model.preprocessing
    return replace(model, preprocessing=replace(way_in, mean=way_in.mean[:, :, ::-1]))


def transposed_image(model: Trained) -> Trained:
    state = model.checkpoint.state
    weight = state.parameters["linear1.weight"].reshape(-1, 3, 32, 32).swapaxes(2, 3).reshape(6, -1)
    there = replace(state, parameters=state.parameters | {"linear1.weight": weight})
    return replace(model, checkpoint=replace(model.checkpoint, state=there))


@pytest.mark.parametrize("spoil", [wrong_slope, wrong_weight, wrong_mean, transposed_image])
def test_an_export_that_computes_another_thing_is_refused(runs, tmp_path, monkeypatch, capsys, spoil):
    right = export._made
    monkeypatch.setattr(export, "_made", lambda model, *rest: right(spoil(model), *rest))
    out = tmp_path / "net.onnx"
    assert main(["export", str(runs["plain"]), "--to", "onnx", "--out", str(out)]) == 1
    assert "FAILED: its formula differs" in capsys.readouterr().out
    assert not out.exists()


def test_a_file_that_differs_from_its_formula_is_refused(runs, tmp_path, monkeypatch, capsys):
    """The formula is right, what is written is not: as a runtime's fault would show."""
    right = onnx_file.logits
    monkeypatch.setattr(
        onnx_file, "logits", lambda content, images: right(content, images) * np.float32(1.01)
    )
    out = tmp_path / "net.onnx"
    assert main(["export", str(runs["plain"]), "--to", "onnx", "--out", str(out)]) == 1
    assert "from float64, where rounding allows" in capsys.readouterr().out
    assert not out.exists()


def test_nan_is_no_agreement():
    numbers = agreement.Agreement(1e-6, float("nan"), 1e-6, 1e-4, 0.0, 1, 1)
    assert not numbers.passed
    assert replace(numbers, formula=1e-6).passed
    assert not replace(numbers, formula=1e-6, written=float("nan")).passed


def test_no_layer_is_left_without_an_operator():
    with pytest.raises(TypeError, match="no ONNX operator"):
        onnx_file._operator(None)  # type: ignore[arg-type]
    assert onnx_file._operator(LeakyReLU("a", 0.0))[0] == "Relu"


# --- users' mistakes ---

MISTAKES = {
    "--to onnx --out net.py": "expected a file NAME.onnx for --to onnx, got net.py",
    "--to torch --out net.pt": "expected a file NAME.py for --to torch, got net.pt",
    "--to flax --out my-net.py": "expected a name that Python can import, such as model.py, got my-net.py",
    "--to onnx --out nowhere/net.onnx": "expected a file in a folder that exists, got nowhere/net.onnx",
    "--to torch --out there.py": "there.pt: exists; choose another --out or say --overwrite",
}


@pytest.mark.parametrize("words", MISTAKES)
def test_a_mistake_is_one_line_and_exit_code_2(runs, tmp_path, monkeypatch, capsys, words):
    monkeypatch.chdir(tmp_path)
    Path("there.pt").touch()
    assert main(["export", str(runs["plain"]), *words.split()]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert MISTAKES[words] in error
    assert [path.name for path in tmp_path.iterdir()] == ["there.pt"]


@pytest.mark.parametrize("package", ["onnx", "onnxruntime"])
def test_a_missing_package_is_named_with_its_extra(runs, tmp_path, monkeypatch, capsys, package):
    monkeypatch.setitem(sys.modules, package, None)
    assert main(["export", str(runs["plain"]), "--to", "onnx", "--out", str(tmp_path / "net.onnx")]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: the package '{package}' is not installed: pip install '")
    assert error.endswith("[onnx]'\n")
