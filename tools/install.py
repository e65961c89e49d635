"""Install requirements.txt, every file held to a SHA-256 of requirements.lock.

    python -m tools.install --lock requirements.lock "jax[cuda13]"
    python -m tools.install                                          # the newest versions, unchecked

pip's --require-hashes wants a list of exact packages, while what torch and jax need differs from machine to
machine. So pip first chooses for this machine, held to the lock's versions, and installs nothing. Then it
installs exactly what it chose, held to the lock's hashes. Nothing that was downloaded runs before its hash
was checked: pip chooses among wheels, which it only reads, and what has no wheel is built beforehand.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote

from triptych.errors import UserError
from triptych.show import command

REQUIREMENTS = Path(__file__).resolve().parents[1] / "requirements.txt"
BUILT = ("promise",)
"""Packages that have no wheel, so that their own setup.py runs."""
BUILD_TOOLS = ("setuptools",)
WHEELS = ("--only-binary", ":all:")


class Locked(NamedTuple):
    """One package of the lock: what pip is to find ("name==version ; marker"), and its files' SHA-256."""

    name: str
    requirement: str
    hashes: frozenset[str]


def canonical(name: str) -> str:
    """A package's one spelling."""
    return re.sub(r"[-_.]+", "-", name).lower()


def read(text: str) -> list[Locked]:
    """The packages of a lock."""
    packages = []
    for line in text.replace("\\\n", " ").splitlines():
        requirement, *hashes = re.split(r"\s+--hash=sha256:", line.strip())
        if requirement and not requirement.startswith("#"):
            name, _, _ = requirement.partition("==")
            packages.append(Locked(canonical(name), requirement, frozenset(hashes)))
    return packages


def write(lock: list[Locked]) -> str:
    """The packages as pip reads them, and `read`."""
    lines = (
        " \\\n    --hash=sha256:".join((package.requirement, *sorted(package.hashes))) for package in lock
    )
    return "".join(f"{line}\n" for line in lines)


def allowed(lock: list[Locked]) -> dict[str, frozenset[str]]:
    """Package to the hashes of all its files."""
    hashes: dict[str, frozenset[str]] = {}
    for package in lock:  # one that has several versions, by marker, has several lines
        hashes[package.name] = hashes.get(package.name, frozenset()) | package.hashes
    return hashes


def file_of(item: dict[str, Any]) -> tuple[str, str | None]:
    """Name and SHA-256 of a file in pip's report; None from an index that tells no hashes."""
    found = item["download_info"]
    return unquote(found["url"]).rpartition("/")[2], found.get("archive_info", {}).get("hashes", {}).get(
        "sha256"
    )


def held(report: dict[str, Any], lock: list[Locked]) -> list[Locked]:
    """What pip chose, with the hashes that the lock has for it.

    Raises UserError for a package and for a file that the lock does not have.
    """
    hashes, chosen = allowed(lock), []
    for item in report["install"]:
        name, version = canonical(item["metadata"]["name"]), item["metadata"]["version"]
        if name not in hashes:
            raise UserError(
                f"pip needs {name} {version} here, which the lock does not have: add it with `make lock`, "
                "or install without the lock: make environment LOCK="
            )
        file, sha256 = file_of(item)
        if sha256 and sha256 not in hashes[name]:
            raise UserError(
                f"the lock does not have {file} (SHA-256 {sha256}), which pip chose here: it is another "
                f"build of {name} {version} than those that were locked, or not the original file; "
                "to install it all the same, without the lock: make environment LOCK="
            )
        chosen.append(Locked(name, f"{name}=={version}", hashes[name]))
    return chosen


class Pip(NamedTuple):
    """pip of one interpreter, held to a lock; its files go into `folder`."""

    python: str
    lock: list[Locked]
    folder: Path

    def install(self, packages: list[Locked], *options: str) -> None:
        """Install these and nothing else."""
        if not packages:
            return
        exact = self.folder / "exact.txt"
        exact.write_text(write(packages))
        run(self.python, "--require-hashes", "--no-deps", *options, "-r", str(exact))

    def build(self) -> None:
        """Install what has no wheel, built with the lock's tools; no older build from pip's cache."""
        tools = [package for package in self.lock if package.name in BUILD_TOOLS]
        built = [package for package in self.lock if package.name in BUILT]
        self.install(tools, *WHEELS)
        self.install(built, "--no-build-isolation", "--no-cache-dir", "--no-binary", ",".join(BUILT))

    def choose(self, *extra: str) -> dict[str, Any]:
        """pip's report of what requirements.txt brings beside what is installed."""
        pins, report = self.folder / "pins.txt", self.folder / "report.json"
        pins.write_text("".join(f"{package.requirement}\n" for package in self.lock))
        asked = ("-r", str(REQUIREMENTS), "-c", str(pins), *extra)
        run(self.python, "--dry-run", "--report", str(report), *WHEELS, *asked)
        content: dict[str, Any] = json.loads(report.read_text())
        return content


def run(python: str, *options: str) -> None:
    """`pip install`, quiet but for errors."""
    subprocess.run(
        [python, "-m", "pip", "--disable-pip-version-check", "-qq", "install", *options], check=True
    )


def install(lock: Path | None, extra: list[str]) -> int:
    """Install into the environment of the running interpreter; pip's exit code where pip fails."""
    try:
        if lock is None:
            run(sys.executable, "-r", str(REQUIREMENTS), *extra)
            return 0
        with tempfile.TemporaryDirectory() as folder:
            pip = Pip(sys.executable, read(lock.read_text()), Path(folder))
            pip.build()
            pip.install(held(pip.choose(*extra), pip.lock), *WHEELS)
        return 0
    except subprocess.CalledProcessError as error:  # pip has said why
        return error.returncode


def main() -> int:
    """Install what the command line names."""
    parser = argparse.ArgumentParser(prog="python -m tools.install", description=__doc__.partition("\n")[0])
    parser.add_argument("--lock", type=Path, help="versions and hashes; without it the newest, unchecked")
    parser.add_argument("extra", nargs="*", help='beside requirements.txt, such as "jax[cuda13]"')
    chosen = parser.parse_args()
    return command.run(lambda: install(chosen.lock, chosen.extra), "stopped")


if __name__ == "__main__":
    sys.exit(main())
