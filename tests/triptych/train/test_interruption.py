"""Runs that are cut short, by a signal, a kill or damaged checkpoints: repeating the command goes on."""

import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import tiny
from triptych.store import checkpoint

MOMENTUM = {"momentum": 0.9, "nesterov": True, "dropout": 0.3}
ADAM = {"optimizer": "adam", "learning_rate": 1e-3, "weight_decay": 1e-2, "dropout": 0.3, "l2": 1e-3}
pytestmark = pytest.mark.usefixtures("machine")


@pytest.mark.parametrize("optimizer", [MOMENTUM, ADAM], ids=["momentum", "adam"])
@pytest.mark.parametrize("backend", tiny.BACKENDS)
def test_going_on_from_any_checkpoint_changes_no_bit(tmp_path, backend, optimizer):
    what, whole, often = tiny.settings(**optimizer, validation=40), tmp_path / "whole", tmp_path / "often"
    tiny.launch(whole, what, backend)
    tiny.launch(often, what, backend, checkpoint_every=1, keep_checkpoints=99)
    assert [step for step, _ in checkpoint.listing(often / "checkpoints")] == list(range(13))
    expected = tiny.results(whole)
    assert tiny.results(often) == expected
    for step in range(13):
        folder = tiny.rewind(often, tmp_path / f"from {step}", step)
        assert tiny.launch(folder, what, backend) == 0
        assert tiny.results(folder) == expected, f"resumed at step {step}"


def damaged_copy(tmp_path: Path) -> tuple[Path, Path]:
    """A finished run, and a copy as of step 12 whose checkpoints of steps 8 and 12 are damaged."""
    whole, damaged = tmp_path / "whole", tmp_path / "damaged"
    tiny.launch(whole, tiny.settings(), keep_checkpoints=9)
    tiny.rewind(whole, damaged, 12)
    for step in (8, 12):
        tiny.flip(damaged / "checkpoints" / f"step-{step:08d}.safetensors")
    return whole, damaged


def test_damaged_checkpoints_are_passed_over(tmp_path, capsys):
    whole, damaged = damaged_copy(tmp_path)
    capsys.readouterr()
    assert tiny.launch(damaged, tiny.settings()) == 0
    text = capsys.readouterr().out
    assert "resuming at step 4" in text
    assert "step-00000008.safetensors: damaged" in text
    assert "step-00000012.safetensors: damaged" in text
    assert tiny.results(damaged) == tiny.results(whole)


def test_damaged_checkpoints_are_not_kept_in_place_of_whole_ones(tmp_path):
    """Else the next interruption would lose all that was done since."""
    _, damaged = damaged_copy(tmp_path)
    (damaged / "checkpoints" / "step-00000000.safetensors").unlink()
    with tiny.killed("SIGKILL:save:2"):
        tiny.launch(damaged, tiny.settings(), checkpoint_every=1, keep_checkpoints=1)
    found, _ = checkpoint.load_latest(damaged / "checkpoints")
    assert found is not None
    assert found.step == 5


def kill_everywhere(folder: Path, place: str, **options: Any) -> int:
    """Kill a run before its first, second, ... call at `place`, each time in a fresh copy of `folder`,
    repeat the command, and compare with a run that nothing interrupted; how many moments there were.
    """
    what, whole = tiny.settings(**MOMENTUM, steps=5, eval_every=2), folder.parent / f"whole {place}"
    tiny.launch(whole, what)
    for count in range(1, 99):
        attempt = folder.parent / f"{place} {count}"
        if folder.exists():
            shutil.copytree(folder, attempt)
        with pytest.MonkeyPatch.context() as patch:
            tiny.arm(patch.setattr, f"SIGKILL:{place}:{count}", tiny.kill)
            try:
                tiny.launch(attempt, what, checkpoint_every=1, **options)
                return count - 1
            except tiny.Killed:
                pass
        try:
            tiny.launch(attempt, what)
        except Exception as error:
            raise AssertionError(f"killed before {place} number {count}, repeating fails: {error}") from error
        assert tiny.results(attempt) == tiny.results(whole), f"killed before {place} number {count}"
        assert not list(attempt.rglob("*.tmp"))
    raise AssertionError("the run never ended")


@pytest.mark.parametrize(("place", "least"), [("replace", 10), ("fsync", 20), ("append", 5), ("unlink", 3)])
def test_a_kill_at_any_write_loses_nothing(tmp_path, place, least):
    assert kill_everywhere(tmp_path / "none", place) >= least


@pytest.mark.parametrize("place", ["unlink", "replace"])
def test_a_kill_while_a_run_is_overwritten_leaves_no_obstacle(tmp_path, place):
    folder = tmp_path / "old"
    tiny.launch(folder, tiny.settings(**MOMENTUM, steps=5, eval_every=2))
    assert kill_everywhere(folder, place, overwrite=True) >= 4


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Backend to the folder of a run in a process of its own that nothing interrupted."""
    folders: dict[str, Path] = {}

    def get(backend: str) -> Path:
        if backend not in folders:
            folders[backend] = tmp_path_factory.mktemp(backend)
            done = command(folders[backend], backend, "never")
            assert done.returncode == 0, done.stderr
        return folders[backend]

    return get


def command(folder: Path, backend: str, moment: str) -> Any:
    where = ("--backend", backend, "--run-dir", str(folder))
    cache = str(folder.parent / "compiled")  # JAX compiles once for all the processes of a test
    return tiny.run(moment, *where, *tiny.arguments(**MOMENTUM), TRIPTYCH_CACHE_DIR=cache)


@pytest.mark.parametrize("backend", ["numpy", "jax", pytest.param("torch", marks=pytest.mark.slow)])
def test_killed_with_kill_9_twice_a_run_ends_as_if_never_interrupted(tmp_path, uninterrupted, backend):
    """First with metrics ahead of the last checkpoint, then, resumed, within a save."""
    expected = tiny.results(uninterrupted(backend))
    assert command(tmp_path, backend, "SIGKILL:plan:4").returncode == -signal.SIGKILL
    assert tiny.newest(tmp_path).step == 4
    assert tiny.metrics(tmp_path)[-1]["step"] == 7, "metrics are ahead of the checkpoint"

    # Resumed, the first renames are those of the mean image and metrics.jsonl, the third the checkpoint's.
    assert command(tmp_path, backend, "SIGKILL:replace:3").returncode == -signal.SIGKILL
    assert (tmp_path / "checkpoints" / "step-00000008.safetensors.tmp").exists()
    assert tiny.metrics(tmp_path)[-1] == expected[1][-6], "the evaluation at step 8 is in the metrics"

    done = command(tmp_path, backend, "never")
    assert done.returncode == 0, done.stderr
    assert "resuming at step 4, saved by " + backend in done.stdout
    assert tiny.results(tmp_path) == expected


SLOW = [pytest.param(backend, marks=pytest.mark.slow) for backend in ("jax", "torch")]


@pytest.mark.parametrize(
    ("name", "code"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129), ("SIGUSR1", 138)]
)
@pytest.mark.parametrize("backend", ["numpy", *SLOW])
def test_a_signal_stops_a_run_with_a_checkpoint(tmp_path, uninterrupted, backend, name, code):
    stopped = command(tmp_path, backend, f"{name}:plan:3")
    assert (stopped.returncode, stopped.stderr) == (code, "")
    assert f"stopped by {name} at step 7; checkpoint saved" in stopped.stdout
    assert "repeat the same command, without --overwrite, to resume" in stopped.stdout
    assert tiny.newest(tmp_path).step == 7
    assert (tmp_path / "curves.png").exists()
    assert len((tmp_path / "metrics.csv").read_text().splitlines()) == 1 + 7 + 1
    done = command(tmp_path, backend, "never")
    assert done.returncode == 0, done.stderr
    assert tiny.results(tmp_path) == tiny.results(uninterrupted(backend))
