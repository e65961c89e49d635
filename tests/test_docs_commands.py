"""The commands of README and docs: their options exist, and `make docs-check` runs each, made short."""

import contextlib
import importlib
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from unittest import mock

import pytest
import torch
from markdown_it import MarkdownIt
from markdown_it.token import Token
from PIL import Image

from triptych.cifar10 import generated
from triptych.describe.catalogue import CATALOGUE

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
PROGRAM = re.compile(r"(?:\$ )?((?:python|triptych|parity|pip|uv|make|docker|train\.py|triptych/\S+\.sh) .*)")
OURS = ("triptych", "parity", "evidence")

NOT_RUN = {
    "make|docker|pip|uv ": "installs, builds or tests: tests/tools, tests/test_wheel.py and CI do",
    "python -m pytest": "these are tests",
    "python -m evidence": "rewrites a page, in minutes to hours; tests/evidence runs the quick forms",
    "triptych/bench/accelerator.sh|.* --device gpu": "needs a GPU",
    ".*study (run|publish)|.*--docs$|.*--page docs": "takes hours, or writes into docs: tests/triptych/study",
    ".*--model mine:Net": "needs a reader's own class: tests/parity/convert",
    "python -m (parity|triptych bench)( check| self-test)?$|(parity check|triptych bench step)$":
        "the whole takes 10 to 45 minutes: the quick forms below run",
    "parity check catches|train.py --sweep$|.*--experiment$|python -m parity locate$": "no whole command",
}  # fmt: skip
"""Commands that docs-check does not run, and why."""
QUICK_BENCH = "--models fig1 --variants jax torch --batches 200 --repeats 1 --calls 1 --images 1000"
SHORTER = (
    (r".*train.py .*--epochs", "--epochs 0.01"),
    (r".*train.py .*--resume", "--steps 30"),
    (r".*train.py (?!list|--help)", "--steps 20"),
    (r".*parity grow", "--steps 2 --test-images 50 --backend numpy jax"),
    (r".*parity locate numpy", "--steps 2"),
    (r".*parity check .*--drawn", "--drawn 1 --item linear"),
    (r".*parity check .*--item", "--quick"),
    (r".*parity report", "--quick"),
    (r".*study (report|list)", f"--published {ROOT / 'docs/study-results'}"),
    (r".*parity ulps", "--stride 1000003"),
    (r".*bench .*--(models|json)", QUICK_BENCH),
    (r".*bench sweep", "--repeats 1 --calls 1 --variants jax-sweep jax"),
    (r".*bench whole", "--repeats 1 --steps 20"),
)
"""What is said besides, the first that fits, so that it takes seconds: of two the last counts."""
STANDS_FOR = {
    "RUN": "runs/fig1",
    "RUN...": "runs/cnn",
    "IMAGE...": "ship.jpg",
    "NAME": "fig1",
    "runs/mine/run.toml": "runs/fig1/run.toml",
    "runs/fig1-jax-1a2b3c4d": "runs/fig1",
    "runs/A": "runs/fig1",
    "runs/B": "runs/other",
    "A/checkpoints/step-00000400.safetensors": "runs/fig1/checkpoints/step-00000020.safetensors",
    "B/checkpoints/step-00000400.safetensors": "runs/other/checkpoints/step-00000020.safetensors",
}
ENDS = {".*exercise check": 1, ".*locate (runs/A runs/B|A/)": 1}
"""Other exit codes than 0: what is not yet written is not right, and other seeds differ."""


def texts(tokens: Sequence[Token]) -> Iterator[str]:
    """The lines of code of a page, in blocks and in sentences."""
    for token in tokens:
        if token.type == "code_block" or (token.type == "fence" and token.info in ("", "console", "sh")):
            yield from token.content.replace("\\\n", " ").splitlines()
        elif token.type == "code_inline":
            yield token.content
        yield from texts(token.children or ())


def commands() -> list[str]:
    """Every command of the pages once, without its comment, in their order."""
    parser = MarkdownIt("commonmark").enable("table")
    lines = (line for page in PAGES for line in texts(parser.parse(page.read_text())))
    found = (PROGRAM.fullmatch(line.partition("#")[0].strip()) for line in lines)
    return list(dict.fromkeys(" ".join(match[1].split()) for match in found if match))


def why_not(command: str) -> str | None:
    return next((why for pattern, why in NOT_RUN.items() if re.match(pattern, command)), None)


def words(command: str) -> list[str]:
    """For subprocess: this interpreter, from any folder."""
    first, *rest = shlex.split(command)
    if first == "python":
        rest = rest[1:] if rest[0] == "-m" else rest
        first, *rest = rest if rest[0] != "train.py" else ["triptych", "train", *rest[1:]]
    elif first == "train.py":
        first, rest = "triptych", ["train", *rest]
    return [sys.executable, "-m", first, *rest]


@cache
def usage(program: str, *names: str) -> str:
    main = importlib.import_module(f"{program}.__main__").main
    asked, out = [program, *names, "--help-all" if names == ("train",) else "--help"], io.StringIO()
    patched = mock.patch.object(sys, "argv", asked)
    with patched, contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
        assert main() == 0
    return out.getvalue()


def test_every_option_of_the_pages_exists(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")  # no option's name is broken
    missing, checked = [], 0
    for command in commands():
        if command.startswith(
            ("pip", "uv", "docker", "python -m pytest", "triptych/", "parity check catches")
        ):
            continue
        if command.startswith("make "):
            assert re.search(rf"^{command.split()[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE), (
                command
            )
            continue
        _, _, program, *rest = words(command)
        target = [program]
        depth = {"bench": 2, "study": 2, "exercise": 1}.get(rest[0], 1) if rest and program in OURS else 0
        while rest and len(target) <= depth and re.fullmatch("[a-z-]+", rest[0]) and rest[0][0] != "-":
            target.append(rest.pop(0))
        if target == ["triptych", "bench"]:
            target.append("step")
        for word in rest:
            if re.match("--[a-z]", word) and word not in ("--help", "--help-all"):
                checked += 1
                if not re.search(rf"{word}\b", usage(*target)):
                    missing.append(f"{command}: {word}")
    assert missing == []
    assert checked > 100


def test_the_reasons_and_the_short_forms_are_of_commands_that_are_there():
    known = commands()
    assert len(known) > 90
    for pattern in [*NOT_RUN, *(one for one, _ in SHORTER), *ENDS]:
        assert any(re.match(pattern, command) for command in known), f"{pattern!r} fits none"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data, two MLPs, a CNN, a sweep, a picture, a stranger's weights and exercises begun."""
    place = tmp_path_factory.mktemp("docs")
    train_images, train_labels, test_images, test_labels = generated.generate()
    images, labels = (
        [*train_images.reshape(5, 10_000, -1), test_images],
        [*train_labels.reshape(5, -1), test_labels],
    )
    batches = place / "data" / "cifar-10-batches-bin"
    batches.mkdir(parents=True)
    for number, (pixels, classes) in enumerate(zip(images, labels, strict=True), 1):
        name = f"data_batch_{number}.bin" if number < 6 else "test_batch.bin"
        rows = torch.cat(
            [torch.from_numpy(classes)[:, None], torch.from_numpy(pixels.reshape(10_000, -1))], 1
        )
        rows.numpy().tofile(batches / name)
    for options in (
        "--run-dir runs/fig1",
        "--run-dir runs/other --seed 1",
        "--run-dir runs/cnn --channels 4 M 8 M --hidden 8",
        "--run-dir runs/sweep --sweep learning_rate=2e-3,1e-3 seed=0,1",
    ):
        run(f"python train.py --backend jax {options} --steps 20", place)
    for name in ("ship.jpg", "photo.jpg"):
        Image.fromarray(test_images[0].transpose(1, 2, 0)).resize((640, 480)).save(place / name)
    torch.save(plain_vgg().state_dict(), place / "theirs.pt")
    for number in (2, 3, 5, 6, 7, 8):  # the pages start 1 and 4
        run(f"triptych exercise start {number}", place)
    run(f"python -m triptych bench {QUICK_BENCH} --json A.json", place)
    shutil.copy(place / "A.json", place / "B.json")
    return place


def plain_vgg() -> torch.nn.Sequential:
    """fig7 as a stranger writes it."""
    layers: list[torch.nn.Module] = []
    before = 3
    for entry in CATALOGUE["fig7"].experiment.model.channels:
        if entry == "M":
            layers.append(torch.nn.MaxPool2d(3, 2, 1))
            continue
        convolution = torch.nn.Conv2d(before, int(entry), 3, padding=1, bias=False)
        layers += [convolution, torch.nn.BatchNorm2d(int(entry)), torch.nn.ReLU()]
        before = int(entry)
    return torch.nn.Sequential(*layers, torch.nn.Flatten(), torch.nn.Linear(512, 10))


def run(command: str, place: Path, code: int = 0) -> None:
    environment = {"TRIPTYCH_DATA_DIR": str(place / "data"), "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    found = [STANDS_FOR.get(word, word) for word in words(command)]
    found = [str(place / "data") if word == "D" else word for word in found]
    done = subprocess.run(found, cwd=place, env=os.environ | environment, capture_output=True, text=True)
    assert done.returncode == code, f"{shlex.join(found)}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"


@pytest.mark.slow
@pytest.mark.parametrize("command", [one for one in commands() if why_not(one) is None])
def test_the_command_runs(place, command):
    shorter = next((more for pattern, more in SHORTER if re.match(pattern, command)), "")
    code = next((code for pattern, code in ENDS.items() if re.match(pattern, command)), 0)
    run(f"{command} {shorter}", place, code)
