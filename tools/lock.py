"""Pin every package that requirements.txt brings, for the Python versions named on the command line.

    python tools/lock.py python3.11 python3.12 python3.13 > requirements.lock

The first interpreter, the oldest, chooses the versions; each later one must be able to install the same
ones. A package that only some of them need gets a marker. The lock is used as pip constraints, so it
may leave out the CUDA packages: torch and jax pin their own, and a CPU build has none.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CUDA_PACKAGE = re.compile(r"(nvidia|cuda|triton|jax-cuda\d+)\b")


def resolve(python: str, pins: dict[str, str], folder: Path) -> tuple[str, dict[str, str]]:
    """The interpreter's version ("3.11"), and canonical package name to version, with `pins` held."""
    environment, constraints, report = folder / "venv", folder / "pins.txt", folder / "report.json"
    constraints.write_text("".join(f"{name}=={version}\n" for name, version in pins.items()))
    subprocess.run([python, "-m", "venv", "--clear", str(environment)], check=True)
    pip = [str(environment / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "-qq"]
    install = ["install", "--dry-run", "--ignore-installed", "--report", str(report)]
    requested = ["-r", str(ROOT / "requirements.txt"), "-c", str(constraints)]
    subprocess.run([*pip, *install, *requested], check=True)
    content = json.loads(report.read_text())
    found = {}
    for item in content["install"]:
        name = re.sub(r"[-_.]+", "-", item["metadata"]["name"]).lower()
        if not CUDA_PACKAGE.match(name):
            found[name] = item["metadata"]["version"].partition("+")[0]  # a local build counts as its release
    return content["environment"]["python_version"], found


def lock(pythons: list[str]) -> str:
    """The text of requirements.lock."""
    pins: dict[str, str] = {}
    needed: dict[str, list[str]] = {}
    versions = []
    for python in pythons:
        with tempfile.TemporaryDirectory() as folder:
            version, found = resolve(python, pins, Path(folder))
        versions.append(version)
        for name, pin in found.items():
            pins.setdefault(name, pin)
            needed.setdefault(name, []).append(version)
    lines = [
        f"# Made by `make lock` with Python {', '.join(versions)}; change requirements.txt instead.",
        "# Used as constraints: pip install -r requirements.txt -c requirements.lock",
    ]
    for name in sorted(pins):
        missing = len(needed[name]) < len(versions)
        marker = " or ".join(f'python_version == "{version}"' for version in needed[name])
        lines.append(f"{name}=={pins[name]}" + (f" ; {marker}" if missing else ""))
    return "\n".join(lines) + "\n"


def main() -> None:
    """Print the lock, or say which interpreter could not install the pinned set."""
    if len(sys.argv) < 2:
        sys.exit("usage: lock.py PYTHON [PYTHON ...]   (the oldest first)")
    try:
        print(lock(sys.argv[1:]), end="")
    except (OSError, subprocess.CalledProcessError) as error:
        sys.exit(
            f"lock: {error}\nEach Python named must be installed, and able to install one set of versions."
        )


if __name__ == "__main__":
    main()
