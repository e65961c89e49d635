"""tools/install.py and tools/lock.py, with packages made up here and no network."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import json
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

from tools import install, lock
from triptych.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
A, B, C = "a" * 64, "b" * 64, "c" * 64

LOCK = f"""\
# made up
ai-two==1.0 ; sys_platform == 'linux' \\
    --hash=sha256:{A} \\
    --hash=sha256:{B}
torch==2.13.0 \\
    --hash=sha256:{C}
"""


def chosen(name: str, version: str, sha256: str | None, file: str = "file.whl") -> dict[str, Any]:
    """A package in pip's report."""
    archive = {} if sha256 is None else {"hashes": {"sha256": sha256}}
    return {
        "metadata": {"name": name, "version": version},
        "download_info": {"url": f"https://index.invalid/{file}", "archive_info": archive},
    }


def test_a_lock_is_read_and_written() -> None:
    packages = install.read(LOCK)
    assert packages == [
        install.Locked("ai-two", "ai-two==1.0 ; sys_platform == 'linux'", frozenset({A, B})),
        install.Locked("torch", "torch==2.13.0", frozenset({C})),
    ]
    assert install.write(packages) == LOCK.partition("\n")[2]


def test_what_pip_chose_gets_the_locks_hashes() -> None:
    """Also under another spelling of its name, as a local build, and where the index tells no hash."""
    report = {"install": [chosen("AI_two", "1.0", A), chosen("torch", "2.13.0+cpu", None)]}
    assert install.held(report, install.read(LOCK)) == [
        install.Locked("ai-two", "ai-two==1.0", frozenset({A, B})),
        install.Locked("torch", "torch==2.13.0+cpu", frozenset({C})),
    ]


@pytest.mark.parametrize(
    ("item", "said"),
    [
        (chosen("left-pad", "3.0", A), "pip needs left-pad 3.0 here, which the lock does not have"),
        (
            chosen("torch", "2.13.0+cpu", A, "torch-2.13.0%2Bcpu-cp312.whl"),
            f"the lock does not have torch-2.13.0+cpu-cp312.whl (SHA-256 {A})",
        ),
    ],
)
def test_what_the_lock_does_not_have_is_refused(item: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=re.escape(said)) as refused:
        install.held({"install": [item]}, install.read(LOCK))
    assert str(refused.value).endswith("without the lock: make environment LOCK=")


def test_a_refusal_is_a_sentence_and_exit_code_2(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def calls(python: str, *options: str) -> None:
        assert "--dry-run" in options, "nothing is installed"
        report = Path(options[options.index("--report") + 1])
        report.write_text(json.dumps({"install": [chosen("torch", "2.13.0", B)]}))

    (tmp_path / "made.lock").write_text(LOCK)
    monkeypatch.setattr(install, "run", calls)
    monkeypatch.setattr(sys, "argv", ["install", "--lock", str(tmp_path / "made.lock")])
    assert install.main() == 2
    assert capsys.readouterr().err.startswith("error: the lock does not have file.whl")


def test_without_a_lock_pip_takes_what_it_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, ...]] = []
    monkeypatch.setattr(install, "run", lambda python, *options: calls.append(options))
    monkeypatch.setattr(sys, "argv", ["install", "jax[tpu]"])
    assert install.main() == 0
    assert calls == [("-r", str(ROOT / "requirements.txt"), "jax[tpu]")]


def test_the_machines_own_build_joins_the_lock(capsys: pytest.CaptureFixture[str]) -> None:
    report = {"install": [chosen("torch", "2.13.0+cpu", A, "cpu.whl"), chosen("AI.two", "1.0", B)]}
    packages = lock.add(report, install.read(LOCK))
    assert install.allowed(packages) == {"ai-two": {A, B}, "torch": {A, C}}
    assert capsys.readouterr().err == "lock: added cpu.whl, which pip takes here\n"


def test_a_lock_that_pip_could_not_install_is_not_made() -> None:
    with pytest.raises(UserError, match="left-pad"):
        lock.add({"install": [chosen("left-pad", "3.0", A)]}, install.read(LOCK))


def test_the_lock_is_whole() -> None:
    """It has each of requirements.txt within its range, what a build needs, and hashes throughout."""
    packages = install.read((ROOT / "requirements.lock").read_text())
    assert all(package.hashes for package in packages)
    assert all(re.fullmatch("[0-9a-f]{64}", one) for package in packages for one in package.hashes)
    pinned = {package.name: Requirement(package.requirement).specifier for package in packages}
    assert {*install.BUILT, *install.BUILD_TOOLS} <= pinned.keys()
    lines = (line.partition("#")[0].strip() for line in (ROOT / "requirements.txt").read_text().splitlines())
    for asked in (Requirement(line) for line in lines if line):
        (pin,) = pinned[install.canonical(asked.name)]
        assert asked.specifier.contains(pin.version), f"{asked} has another pin; make lock"


def wheel(folder: Path, version: str) -> str:
    """A wheel of the package madeup; its SHA-256."""
    path = folder / f"madeup-{version}-py3-none-any.whl"
    about = f"madeup-{version}.dist-info"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("madeup.py", "")
        file.writestr(f"{about}/METADATA", f"Metadata-Version: 2.1\nName: madeup\nVersion: {version}\n")
        file.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr(f"{about}/RECORD", "")
    return hashlib.sha256(path.read_bytes()).hexdigest()


def source(folder: Path, trace: Path) -> str:
    """A source archive of the package promise whose setup.py leaves a trace; its SHA-256."""
    setup = f"open({str(trace)!r}, 'w')\nimport setuptools\nsetuptools.setup(name='promise', version='2.3')\n"
    path = folder / "promise-2.3.tar.gz"
    with tarfile.open(path, "w:gz") as file:
        for name, text in (("setup.py", setup), ("PKG-INFO", "Metadata-Version: 2.1\nName: promise\n")):
            member = tarfile.TarInfo(f"promise-2.3/{name}")
            member.size = len(text)
            file.addfile(member, io.BytesIO(text.encode()))
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def index(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder that is all that pip knows; it installs nothing into the environment of the tests."""
    if importlib.util.find_spec("pip") is None:
        pytest.skip("no pip in this environment")
    for name, value in (("CONFIG_FILE", os.devnull), ("NO_INDEX", "1"), ("FIND_LINKS", str(tmp_path))):
        monkeypatch.setenv(f"PIP_{name}", value)
    monkeypatch.setenv("PIP_TARGET", str(tmp_path / "installed"))
    monkeypatch.setattr(install, "REQUIREMENTS", tmp_path / "requirements.txt")
    (tmp_path / "requirements.txt").write_text("madeup>=1\n")
    return tmp_path


def test_pip_takes_the_pinned_version_and_no_altered_file(
    index: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    sha256, _ = wheel(index, "1.0"), wheel(index, "1.1")
    packages = [install.Locked("madeup", "madeup==1.0", frozenset({sha256}))]
    pip = install.Pip(sys.executable, packages, index)
    exact = install.held(pip.choose(), packages)
    assert exact == packages
    assert not (index / "installed").exists(), "choosing installs nothing"
    with pytest.raises(subprocess.CalledProcessError):
        pip.install([exact[0]._replace(hashes=frozenset({A}))], *install.WHEELS)
    assert "DO NOT MATCH THE HASHES" in capfd.readouterr().err
    assert not (index / "installed").exists()
    pip.install(exact, *install.WHEELS)
    assert (index / "installed" / "madeup.py").exists()


def test_no_setup_py_runs_before_its_hash_was_checked(index: Path) -> None:
    trace = index / "trace"
    sha256 = source(index, trace)

    def build(one: str) -> None:
        packages = [install.Locked("promise", "promise==2.3", frozenset({one}))]
        install.Pip(sys.executable, packages, index).build()

    with pytest.raises(subprocess.CalledProcessError):
        build(A)
    assert not trace.exists()
    build(sha256)
    assert trace.exists()
