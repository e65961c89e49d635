"""Compiled programs kept on disk, so that the next start of the same experiment does not compile them again.

JAX's own persistent compilation cache, in a folder of ours: $TRIPTYCH_CACHE_DIR, else triptych/xla below
$XDG_CACHE_HOME or ~/.cache. `TRIPTYCH_CACHE_DIR=off` turns it off; a cache that the user set up for JAX
itself (JAX_COMPILATION_CACHE_DIR) stays as it is. A cached program is the compiled one, bit for bit.
"""

from __future__ import annotations

import hashlib
import os
import platform
import tempfile
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import jax

VARIABLE = "TRIPTYCH_CACHE_DIR"
MOST_BYTES = 500 * 2**20
"""The least recently used programs are dropped beyond this."""
SHORTEST = 0.1
"""Programs that compile in fewer seconds are not worth a file."""


def enable() -> Path | None:
    """Turn the cache on for this process; returns its folder, or None where there is none to be had.

    None when it is turned off, when the folder cannot be written to, or when the package that JAX locks a
    bounded cache with is missing: training then compiles as it would without.
    """
    configured: str | None = jax.config.jax_compilation_cache_dir  # type: ignore[attr-defined]
    if configured is not None:
        return Path(configured)
    if find_spec("filelock") is None:
        return None
    root = _root()
    if root is None:
        return None
    folder = root / _machine()
    if not _writable(folder):
        return None
    jax.config.update("jax_compilation_cache_max_size", MOST_BYTES)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", SHORTEST)
    jax.config.update("jax_compilation_cache_dir", str(folder))
    return folder


def _root() -> Path | None:
    chosen = os.environ.get(VARIABLE)
    if chosen is not None:
        return None if chosen.lower() in ("", "off", "0", "none") else Path(chosen).expanduser()
    try:
        home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    except RuntimeError:  # nobody's home: a user without an entry, as in some containers
        return None
    return Path(home) / "triptych" / "xla"


def _machine() -> str:
    """A name for what compiled code depends on beside the program: a home folder may be shared by machines
    with other instructions, and JAX's own key does not hold the processor's.
    """
    parts = [platform.machine(), platform.system(), version("jax"), version("jaxlib")]
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        wanted = ("model name", "flags", "Features", "CPU part")
        parts += sorted({line for line in lines if line.startswith(wanted)})
    except OSError:
        parts.append(platform.processor())
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _writable(folder: Path) -> bool:
    """Whether a file can be made there, for this user alone: what lies in the cache is run as code."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False
