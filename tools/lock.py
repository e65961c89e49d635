"""Pin every package that requirements.txt brings, with the SHA-256 of each of its files.

    python -m tools.lock 3.11 > requirements.lock

uv chooses one version of each package for every platform, every Python from the one named, and with every
accelerator. It asks the public index. Where pip takes another file on this machine, such as a CPU build of
torch, that file's hash is added, and said.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import venv
from pathlib import Path
from typing import Any

from tools.install import (
    BUILD_TOOLS,
    REQUIREMENTS,
    Locked,
    Pip,
    allowed,
    canonical,
    file_of,
    held,
    read,
    run,
    write,
)
from triptych.show import command

UV = "uv==0.13.9"
ALSO = ("jax[cuda13,tpu]", *BUILD_TOOLS)
"""Needed beside requirements.txt: with ACCEL, and to build what has no wheel."""
HEADER = """\
# Made by `make lock` for Python {oldest} and newer; change requirements.txt instead.
# All that any platform or accelerator needs: tools/install.py installs what this machine needs of it.
"""


def resolve(environment: Path, oldest: str) -> list[Locked]:
    """uv's choice."""
    what = ["--universal", "--python-version", oldest, "--fork-strategy", "fewest", "--generate-hashes"]
    uv = [str(environment / "uv"), "pip", "compile", "--quiet", "--no-header", "--no-annotate", *what]
    done = subprocess.run(
        [*uv, str(REQUIREMENTS), "-"], input="\n".join(ALSO), stdout=subprocess.PIPE, text=True, check=True
    )
    return read(done.stdout)


def add(report: dict[str, Any], lock: list[Locked]) -> list[Locked]:
    """The lock with the files that pip chose on this machine."""
    for item in report["install"]:
        name, (file, sha256) = canonical(item["metadata"]["name"]), file_of(item)
        if sha256 and sha256 not in allowed(lock).get(name, ()):
            print(f"lock: added {file}, which pip takes here", file=sys.stderr)
            more = frozenset({sha256})
            lock = [one._replace(hashes=one.hashes | more) if one.name == name else one for one in lock]
    held(report, lock)  # or it could not be installed here
    return lock


def main() -> int:
    """Print the lock for the oldest Python named on the command line, and all newer ones."""
    if len(sys.argv) != 2:
        sys.exit("usage: python -m tools.lock OLDEST_PYTHON   (such as 3.11)")
    oldest = sys.argv[1]
    try:
        with tempfile.TemporaryDirectory() as folder:
            venv.create(folder, with_pip=True)
            environment = Path(folder) / ("Scripts" if sys.platform == "win32" else "bin")
            python = str(environment / "python")
            run(python, UV)
            pip = Pip(python, resolve(environment, oldest), Path(folder))
            pip.build()
            print(HEADER.format(oldest=oldest) + write(add(pip.choose(), pip.lock)), end="")
        return 0
    except subprocess.CalledProcessError as error:  # uv or pip has said why
        return error.returncode


if __name__ == "__main__":
    sys.exit(command.run(main, "stopped"))
