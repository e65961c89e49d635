"""JAX's own switches, which people set to find faults: the same numbers, or our own message."""

import pytest

from tests.helpers import tiny

RUN = ("--backend", "jax", *tiny.arguments(steps=4), "--run-dir")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    folder = tmp_path_factory.mktemp("plain") / "run"
    tiny.finished(folder, tiny.settings(steps=4), "jax")
    return [record["loss"] for record in tiny.metrics(folder, "train")]


@pytest.mark.parametrize(
    ("switch", "bits"),
    [
        ({"JAX_TRANSFER_GUARD": "disallow_explicit", "JAX_NUMPY_RANK_PROMOTION": "raise"}, True),
        ({"JAX_DISABLE_JIT": "1"}, False),
    ],
)
def test_they_leave_a_run_as_it_is(tmp_path, plain, switch, bits):
    done = tiny.run("never", *RUN, str(tmp_path / "run"), **switch)
    assert (done.returncode, done.stderr) == (0, "")
    losses = [record["loss"] for record in tiny.metrics(tmp_path / "run", "train")]
    assert losses == (plain if bits else pytest.approx(plain, rel=1e-5))


def test_a_nan_is_named_by_step_and_layer_under_debug_nans(tmp_path):
    done = tiny.run("never", *RUN, str(tmp_path / "run"), "--learning-rate", "1e30", JAX_DEBUG_NANS="1")
    assert done.returncode == 3
    assert "stopped being finite at step 2: first non-finite value in the output of layer" in done.stderr


def test_a_platform_that_is_not_there_is_one_line(tmp_path):
    done = tiny.run("never", *RUN, str(tmp_path / "run"), JAX_PLATFORMS="tpu")
    assert done.returncode == 2
    assert done.stderr.startswith("error: device: JAX_PLATFORMS=tpu names no platform that JAX finds here")
    assert done.stderr.count("\n") == 1
