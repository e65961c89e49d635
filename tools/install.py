"""Install requirements.txt, every file held to a SHA-256 of a lock.

    python -m tools.install requirements.lock "jax[cuda13]"
    python -m tools.install --add torch requirements.lock   # lock the build of torch that pip takes here

pip's --require-hashes wants the exact list of packages, while what torch and jax need differs from machine to
machine. So pip first chooses for this machine, held to the lock's versions, and installs nothing. Then it
installs what it chose, held to the lock's hashes. Nothing that was downloaded runs before its hash was
checked: pip chooses among wheels, which it only reads, and what has no wheel is built beforehand.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

REQUIREMENTS = Path(__file__).resolve().parents[1] / "requirements.txt"
BUILT = "promise"
"""Has no wheel, so its own setup.py runs."""
BUILD_TOOL = "setuptools"
NO_INDEX = re.compile(r"satisfies the requirement (\S+?)[=<>~!;].*from versions: none")
"""How pip says that it knows no version at all of a package that the lock has."""
HINT = "to install without the lock, and unchecked: make environment LOCK="

Lock = dict[str, tuple[list[str], list[str]]]
"""Package to its requirements ("name==1.0 ; marker", one for each version) and to its files' hashes."""


def canonical(name: str) -> str:
    """A package's one spelling."""
    return re.sub(r"[-_.]+", "-", name).lower()


def read(text: str) -> Lock:
    """A lock as uv writes it."""
    lock: Lock = {}
    for line in text.replace("\\\n", " ").splitlines():
        requirement, *hashes = re.split(r"\s+--hash=", line.strip())
        if requirement and not requirement.startswith("#"):
            requirements, known = lock.setdefault(canonical(requirement.partition("==")[0]), ([], []))
            requirements.append(requirement)
            known += hashes
    return lock


def pip(*options: str) -> None:
    """`pip install`, quiet but for errors.

    Raises LookupError where no index answers, CalledProcessError when it fails otherwise, having said why.
    """
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-qq", "install", *options]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True)
    if found := NO_INDEX.search(done.stderr):
        raise LookupError(
            f"no package index answers: pip finds no {found[1]}. Connect to a network, or name an index with "
            "PIP_INDEX_URL, or a folder of wheels with PIP_NO_INDEX=1 PIP_FIND_LINKS=FOLDER"
        )
    sys.stderr.write(done.stderr)
    done.check_returncode()


def choose(*options: str) -> list[dict[str, Any]]:
    """The files that pip would install for these options: wheels only, read and not run."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        pip("--dry-run", "--only-binary", ":all:", "--report", str(report), *options)
        chosen: list[dict[str, Any]] = json.loads(report.read_text())["install"]
        return chosen


def install(lock: Lock, extra: list[str]) -> None:
    """Install requirements.txt and `extra` into the running interpreter's environment.

    Raises LookupError for a package that the lock does not have.
    """
    with tempfile.TemporaryDirectory() as folder:
        exact, pins = Path(folder) / "exact.txt", Path(folder) / "pins.txt"

        def held(requirements: list[tuple[str, str]], *options: str) -> None:
            lines = (f"{text} --hash={' --hash='.join(lock[name][1])}\n" for name, text in requirements)
            exact.write_text("".join(lines))
            pip("--require-hashes", "--no-deps", *options, "-r", str(exact))

        if BUILT in lock:
            held([(BUILD_TOOL, lock[BUILD_TOOL][0][0])], "--only-binary", ":all:")
            # Built by the locked tool; no older build from pip's cache.
            held([(BUILT, lock[BUILT][0][0])], "--no-build-isolation", "--no-cache-dir", "--no-binary", BUILT)
        pins.write_text("".join(f"{line}\n" for requirements, _ in lock.values() for line in requirements))
        chosen = []
        for item in choose("-r", str(REQUIREMENTS), "-c", str(pins), *extra):
            name, version = canonical(item["metadata"]["name"]), item["metadata"]["version"]
            if name not in lock:
                raise LookupError(
                    f"pip needs {name} {version} here, which the lock does not have: make lock; {HINT}"
                )
            chosen.append((name, f"{name}=={version}"))
        if chosen:
            held(chosen, "--only-binary", ":all:")


def add(path: Path, package: str) -> None:
    """Add the hash of the file that pip takes here for a package of the lock: a CPU build of torch."""
    text = path.read_text()
    (requirement,), hashes = read(text)[package]
    (item,) = choose("--ignore-installed", "--no-deps", requirement)
    found = item["download_info"]["archive_info"]["hashes"]["sha256"]
    if f"sha256:{found}" not in hashes:
        path.write_text(
            text.replace(f"\n{requirement} \\\n", f"\n{requirement} \\\n    --hash=sha256:{found} \\\n")
        )
        print(
            f"added {item['download_info']['url'].rpartition('/')[2]}, which pip takes here", file=sys.stderr
        )


def main() -> int:
    """Do what the command line says; returns pip's exit code where pip fails."""
    parser = argparse.ArgumentParser(prog="python -m tools.install", description=__doc__.partition("\n")[0])
    parser.add_argument("--add", metavar="PACKAGE", help="only add the file that pip takes here to the lock")
    parser.add_argument("lock", type=Path, help="versions and hashes")
    parser.add_argument("extra", nargs="*", help='beside requirements.txt, such as "jax[cuda13]"')
    chosen = parser.parse_args()
    try:
        if chosen.add:
            add(chosen.lock, chosen.add)
        else:
            install(read(chosen.lock.read_text()), chosen.extra)
    except subprocess.CalledProcessError as error:
        print(f"error: pip failed, as it says above; {HINT}", file=sys.stderr)
        return error.returncode
    except LookupError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
