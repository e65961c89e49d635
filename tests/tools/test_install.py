"""tools/install.py, with packages made up here and no network."""

import hashlib
import importlib.util
import io
import json
import os
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

from tools import install

ROOT = Path(__file__).resolve().parents[2]
A, B, C = "sha256:" + "a" * 64, "sha256:" + "b" * 64, "sha256:" + "c" * 64

LOCK = f"""\
# made up
AI_two==1.0 ; sys_platform == 'linux' \\
    --hash={A} \\
    --hash={B}
torch==2.13.0 \\
    --hash={C}
"""


def chosen(name: str, version: str, sha256: str = A) -> dict[str, Any]:
    archive = {"hashes": {"sha256": sha256.removeprefix("sha256:")}}
    return {
        "metadata": {"name": name, "version": version},
        "download_info": {"url": f"https://index.invalid/{name}.whl", "archive_info": archive},
    }


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """pip's calls, each with the text of what its last option names, in place of pip; the dry run chooses
    torch's CPU build.
    """
    made: list[tuple[str, ...]] = []

    def pip(*options: str) -> None:
        if "--dry-run" in options:
            report = Path(options[options.index("--report") + 1])
            report.write_text(
                json.dumps({"install": [chosen("torch", "2.13.0+cpu"), chosen("ai.two", "1.0")]})
            )
        made.append((*options, Path(options[-1]).read_text() if options[-1].endswith("exact.txt") else ""))

    monkeypatch.setattr(install, "pip", pip)
    return made


def command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *words: str, lock: str = LOCK) -> int:
    path = tmp_path / "made.lock"
    path.write_text(lock)
    monkeypatch.setattr(sys, "argv", ["install", *words, str(path)])
    return install.main()


def test_what_pip_chose_is_installed_with_the_locks_hashes(monkeypatch, tmp_path, calls):
    """Also under another spelling of its name, and as a local build."""
    assert command(monkeypatch, tmp_path) == 0
    dry, real = calls
    assert {"--dry-run", "--only-binary", ":all:"} <= set(dry)
    assert {"--require-hashes", "--no-deps", "--only-binary", ":all:"} <= set(real)
    assert real[-1].splitlines() == [f"torch==2.13.0+cpu --hash={C}", f"ai-two==1.0 --hash={A} --hash={B}"]


def test_a_package_that_the_lock_does_not_have_is_refused(monkeypatch, tmp_path, calls, capsys):
    assert command(monkeypatch, tmp_path, lock=LOCK.replace("AI_two", "other")) == 2
    assert len(calls) == 1, "nothing is installed"
    said = capsys.readouterr().err
    assert said.startswith("error: pip needs ai-two 1.0 here, which the lock does not have")
    assert said.endswith("make environment LOCK=\n")


@pytest.mark.usefixtures("calls")
def test_the_machines_own_build_joins_the_lock_once(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(install, "choose", lambda *options: [chosen("torch", "2.13.0+cpu", A)])
    for lock, said in ((LOCK, "added torch.whl, which pip takes here\n"), (None, "")):
        text = (tmp_path / "made.lock").read_text() if lock is None else lock
        assert command(monkeypatch, tmp_path, "--add", "torch", lock=text) == 0
        assert capsys.readouterr().err == said
        packages = install.read((tmp_path / "made.lock").read_text())
        assert packages["torch"] == (["torch==2.13.0"], [A, C])
        assert packages["ai-two"] == (["AI_two==1.0 ; sys_platform == 'linux'"], [A, B])


def test_the_lock_is_whole():
    """It has each of requirements.txt within its range, what a build needs, and hashes throughout."""
    packages = install.read((ROOT / "requirements.lock").read_text())
    assert all(hashes for _, hashes in packages.values())
    assert all(re.fullmatch("sha256:[0-9a-f]{64}", one) for _, hashes in packages.values() for one in hashes)
    assert {install.BUILT, install.BUILD_TOOL} <= packages.keys()
    lines = (line.partition("#")[0].strip() for line in (ROOT / "requirements.txt").read_text().splitlines())
    for asked in (Requirement(line) for line in lines if line):
        ((pinned,), _) = packages[install.canonical(asked.name)]
        (pin,) = Requirement(pinned).specifier
        assert asked.specifier.contains(pin.version), f"{asked} has another pin; make lock"


def test_the_container_is_made_of_files_that_are_there():
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    copied = [name for line in lines if line.startswith("COPY ") for name in line.split()[1:-1]]
    assert copied == ["requirements.txt", "requirements.lock", "tools", "."]
    assert all((ROOT / name).exists() for name in copied)
    (image,) = [line for line in lines if line.startswith("FROM ")]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    version = re.fullmatch(r"FROM python:([\d.]+)-slim", image)
    assert version
    assert f"Programming Language :: Python :: {version[1]}" in project["classifiers"]
    (entry,) = [json.loads(line.removeprefix("ENTRYPOINT ")) for line in lines if line.startswith("ENTRY")]
    assert entry[0] in project["scripts"]
    assert "RUN python -m tools.install requirements.lock" in "\n".join(lines)


def wheel(folder: Path, version: str) -> str:
    """A wheel of the package madeup; its SHA-256."""
    path = folder / f"madeup-{version}-py3-none-any.whl"
    about = f"madeup-{version}.dist-info"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("madeup.py", "")
        file.writestr(f"{about}/METADATA", f"Metadata-Version: 2.1\nName: madeup\nVersion: {version}\n")
        file.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr(f"{about}/RECORD", "")
    return "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()


def source(folder: Path, trace: Path) -> str:
    """A source archive of the package promise whose setup.py leaves a trace; its SHA-256."""
    setup = f"open({str(trace)!r}, 'w')\nimport setuptools\nsetuptools.setup(name='promise', version='2.3')\n"
    path = folder / "promise-2.3.tar.gz"
    with tarfile.open(path, "w:gz") as file:
        for name, text in (("setup.py", setup), ("PKG-INFO", "Metadata-Version: 2.1\nName: promise\n")):
            member = tarfile.TarInfo(f"promise-2.3/{name}")
            member.size = len(text)
            file.addfile(member, io.BytesIO(text.encode()))
    return "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()


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


def test_pip_takes_the_pinned_version_and_no_altered_file(index, capfd):
    sha256, _ = wheel(index, "1.0"), wheel(index, "1.1")
    with pytest.raises(subprocess.CalledProcessError):
        install.install({"madeup": (["madeup==1.0"], [A])}, [])
    assert "DO NOT MATCH THE HASHES" in capfd.readouterr().err
    assert not (index / "installed").exists()
    install.install({"madeup": (["madeup==1.0"], [sha256])}, [])
    assert (index / "installed" / "madeup.py").exists()
    assert (index / "installed" / "madeup-1.0.dist-info").exists()


@pytest.mark.usefixtures("index")
def test_without_an_index_one_line_says_so(monkeypatch, tmp_path, capfd):
    lock = "".join(f"{one} \\\n    --hash={A}\n" for one in ("promise==2.3", "setuptools==80"))
    assert command(monkeypatch, tmp_path, lock=lock) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("error: no package index answers: pip finds no setuptools. Connect to a network")


def test_no_setup_py_runs_before_its_hash_was_checked(index, monkeypatch):
    trace, pip = index / "trace", install.pip
    sha256 = source(index, trace)
    (index / "requirements.txt").write_text("")
    # The tool that builds comes from the tests' own environment: what is checked here is the archive.
    monkeypatch.setattr(
        install, "pip", lambda *options: None if "setuptools" in read(options) else pip(*options)
    )

    def build(one: str) -> None:
        install.install({"setuptools": (["setuptools==1"], [A]), "promise": (["promise==2.3"], [one])}, [])

    with pytest.raises(subprocess.CalledProcessError):
        build(A)
    assert not trace.exists()
    build(sha256)
    assert trace.exists()


def read(options: tuple[str, ...]) -> str:
    return Path(options[-1]).read_text() if options[-1].endswith("exact.txt") else ""
