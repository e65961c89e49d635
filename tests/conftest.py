"""What every test relies on: no display, no accelerator unless asked for, the same random numbers each time.

Importing this file imports neither jax nor torch: tests that block one of them must be able to start.
"""

import os
import random
import signal
import sys
from pathlib import Path

import hypothesis
import numpy as np
import pytest

# Read by the libraries when they are first imported, here or in a test's own subprocess.
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["TRIPTYCH_CACHE_DIR"] = "off"  # what a test compiles is this checkout's; test_cache.py asks for it
if "PYTEST_XDIST_WORKER" in os.environ:  # several processes share the cores: one thread each for BLAS
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

# Whoever starts the tests in the background may have them ignored, which is inherited; a run honours that.
signal.signal(signal.SIGINT, signal.default_int_handler)
for name in ("SIGHUP", "SIGUSR1"):
    if hasattr(signal, name):
        signal.signal(getattr(signal, name), signal.SIG_DFL)

# A slow machine is not a bug. CI draws the same examples each time, so that red means the change is wrong;
# by hand each run looks at new ones.
hypothesis.settings.register_profile("hand", deadline=None)
hypothesis.settings.register_profile("ci", deadline=None, derandomize=True)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "hand")


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Start each test from the same state of every global random source in use."""
    random.seed(0)
    np.random.seed(0)  # for code that draws from the global source
    if torch := sys.modules.get("torch"):
        torch.manual_seed(0)


@pytest.fixture
def rng() -> np.random.Generator:
    """The same stream of random numbers for each test."""
    return np.random.default_rng(0)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The tiny data, and an empty folder to stand in."""
    from tests.helpers import tiny  # imports what trains: not for every test

    tiny.install(monkeypatch.setattr)
    monkeypatch.chdir(tmp_path)
