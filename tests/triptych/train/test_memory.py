"""Out of memory: one message that says where and what to reduce, exit code 2, and the run can go on."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from numpy_ref.backend import NumpyBackend
from tests.helpers import tiny
from triptych.errors import UserError
from triptych.train import memory

pytestmark = pytest.mark.usefixtures("machine")


def allocation(backend: str) -> BaseException:
    """The error that each framework itself raises for memory that no machine has."""
    try:
        if backend == "numpy":
            np.empty(2**60, np.uint8)
        elif backend == "torch":
            import torch

            torch.empty(2**60, dtype=torch.uint8)
        else:
            import jax.numpy as jnp

            jnp.zeros((2**30, 2**28), jnp.uint8).block_until_ready()
    except (MemoryError, RuntimeError) as error:
        return error
    raise AssertionError(f"{backend} found 2^60 bytes")


FRAMEWORKS: dict[str, Any] = {
    "numpy": lambda: allocation("numpy"),
    "torch": lambda: allocation("torch"),
    "jax": lambda: allocation("jax"),
    "python": MemoryError,
    "torch cuda": lambda: RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has"),
    "xla": lambda: RuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 123 bytes."),
    "cublas": lambda: RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return tiny.results(tiny.finished(tmp_path_factory.mktemp("whole"), tiny.settings()))


@pytest.mark.parametrize(
    ("kind", "place", "said"),
    [
        *((kind, "train", "ran out of it in training") for kind in FRAMEWORKS),
        ("python", "evaluate", "ran out of it in evaluation"),
    ],
)
def test_each_framework_s_words_end_as_one_message(tmp_path, monkeypatch, capsys, whole, kind, place, said):
    """At the backend's border; the last checkpoint serves once there is memory again."""
    words = ("--backend", "numpy", "--run-dir", str(tmp_path / "run"), *tiny.arguments(checkpoint_every=1))
    method = getattr(NumpyBackend, place)
    calls = 0

    # Named as what it stands for, since the message looks at the names in the traceback.
    def train(self: Any, *arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise FRAMEWORKS[kind]()
        return method(self, *arguments)

    def evaluate(self: Any, *arguments: Any) -> Any:
        return train(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(NumpyBackend, place, train if place == "train" else evaluate)
        assert tiny.call(*words) == 2
    text = capsys.readouterr().err
    assert text.startswith("error: memory: the numpy backend " + said)
    assert text.count("\n") == 1
    assert ("--batch-size (now 20)" in text) == (place == "train")
    assert ("2000 images at once" in text) == (place == "evaluate")
    tiny.newest(tmp_path / "run")
    assert tiny.call(*words) == 0
    assert tiny.results(tmp_path / "run") == whole


@pytest.mark.parametrize("error", [RuntimeError("shapes differ"), ValueError("out of memory"), OSError()])
def test_other_errors_pass(error):
    with pytest.raises(type(error)) as caught, memory.explained(tiny.settings(), "numpy"):
        raise error
    assert caught.value is error


def test_the_message_names_what_makes_a_network_with_convolutions_large():
    with pytest.raises(UserError) as caught, memory.explained(tiny.settings(channels=("8", "M")), "jax"):
        raise MemoryError
    assert "--channels or --hidden" in str(caught.value)


LIMITED = """
import resource, sys
from tests.helpers import tiny
import {module}
tiny.install(setattr)
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + {spare} * 2**20,) * 2)
sys.exit(tiny.call(*sys.argv[1:]))
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads its own size from Linux's /proc")
@pytest.mark.parametrize("backend", ["numpy", "torch"])
def test_a_real_limit_of_the_process_s_memory_is_no_traceback(tmp_path, backend):
    """60 MiB for a network whose parameters alone take 74."""
    module = {"numpy": "numpy_ref.backend", "torch": "torch_models.backend"}[backend]
    code = LIMITED.format(module=module, spare=60)
    where = ("--backend", backend, "--run-dir", str(tmp_path / "run"))
    done = tiny.python("-c", code, *where, *tiny.arguments(hidden=(6000,)))
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith(f"error: memory: the {backend} backend ran out of it in "), done.stderr
    assert done.stderr.count("\n") == 1
