"""The cache of compiled programs: across processes, the same numbers, harmless where it cannot be."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import pytest

from jax_models import cache
from tests.helpers import tiny

SCRIPT = """
import json, sys
from pathlib import Path
from typing import Any
import jax
hits = []
jax.monitoring.register_event_listener(lambda event, **_: hits.append(event))
from tests.helpers import tiny
tiny.install(setattr)
code = tiny.launch(Path(sys.argv[1]), tiny.settings(optimizer="adam", steps=4), "jax")
count = lambda what: sum(event == "/jax/compilation_cache/" + what for event in hits)
print(json.dumps([code, count("cache_hits"), count("cache_misses")]))
"""


def run(folder: Path, place: Path) -> tuple[int, int, int, str, subprocess.CompletedProcess[str]]:
    """A run in a process of its own: exit code, programs found and not found, and the parameters' digest."""
    variables = os.environ | {cache.VARIABLE: str(place)}
    words = [sys.executable, "-W", "always", "-c", SCRIPT, str(folder)]
    done = subprocess.run(words, cwd=tiny.ROOT, env=variables, capture_output=True, text=True, check=True)
    code, hits, misses = json.loads(done.stdout.splitlines()[-1])
    return code, hits, misses, tiny.summary(folder)["parameters_sha256"], done


def test_a_second_process_finds_what_the_first_compiled_and_computes_the_same(tmp_path: Path) -> None:
    code, hits, misses, digest, first = run(tmp_path / "first", tmp_path / "cache")
    assert (code, hits) == (0, 0)
    assert misses > 0
    written = {path.name for path in (tmp_path / "cache").rglob("*-cache")}
    assert any("run_steps" in name for name in written)
    code, hits, misses, again, second = run(tmp_path / "second", tmp_path / "cache")
    assert code == 0
    assert hits >= len(written)
    assert again == digest
    assert tiny.metrics(tmp_path / "first") == tiny.metrics(tmp_path / "second")
    assert "SIGILL" not in first.stderr + second.stderr
    assert "compilation cache" not in first.stderr + second.stderr
    found = re.search(r"first steps done (\d+\.\d) s after the program's start", second.stdout)
    assert found, second.stdout
    assert float(found[1]) > 0.1


def test_a_folder_that_cannot_be_written_leaves_training_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder can lie below a file")
    code, hits, _, digest, done = run(tmp_path / "run", tmp_path / "file" / "cache")
    assert (code, hits) == (0, 0)
    assert "Warning" not in done.stderr
    assert len(digest) == 64


@pytest.fixture
def configured(monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """What `enable` sets in JAX's configuration, kept from JAX itself."""
    changes: dict[str, object] = {}
    monkeypatch.setattr(jax.config, "update", changes.__setitem__)
    return changes


def test_it_is_bounded_and_private(
    tmp_path: Path, configured: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "ours"))
    folder = cache.enable()
    assert folder is not None
    assert folder.parent == tmp_path / "ours"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert configured["jax_compilation_cache_dir"] == str(folder)
    assert configured["jax_compilation_cache_max_size"] == cache.MOST_BYTES > 0


def test_its_default_place_is_the_users_cache(
    tmp_path: Path, configured: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(cache.VARIABLE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = cache.enable()
    assert folder is not None
    assert folder.parent == tmp_path / "triptych" / "xla"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    folder = cache.enable()
    assert folder is not None
    assert folder.parent == tmp_path / "home" / ".cache" / "triptych" / "xla"


def refuse(**_: object) -> None:
    """As a read-only file system does, also to root."""
    raise PermissionError(13, "Permission denied")


@pytest.mark.parametrize(
    ("word", "owner", "replacement"),
    [
        *((word, "", None) for word in ("off", "OFF", "", "0", "none")),
        ("a folder", "tempfile.TemporaryFile", refuse),
        ("a folder", "jax_models.cache.find_spec", lambda _: None),  # of the package that bounds the cache
    ],
)
def test_where_it_is_off_or_cannot_be_there_is_none(
    word: str,
    owner: str,
    replacement: Any,
    tmp_path: Path,
    configured: dict[str, object],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path) if word == "a folder" else word)
    if replacement:
        monkeypatch.setattr(owner, replacement)
    assert cache.enable() is None
    assert configured == {}


def test_the_users_own_cache_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "ours"))
    config: Any = jax.config  # its options are no attributes to a type checker
    bound = config.jax_compilation_cache_max_size
    jax.config.update("jax_compilation_cache_dir", "/the/users")
    try:
        assert cache.enable() == Path("/the/users")
        assert config.jax_compilation_cache_dir == "/the/users"
        assert config.jax_compilation_cache_max_size == bound
    finally:
        jax.config.update("jax_compilation_cache_dir", None)
    assert not (tmp_path / "ours").exists()
