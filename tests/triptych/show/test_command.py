"""What commands make of what goes wrong."""

import subprocess
import sys
from typing import NoReturn

import pytest

from triptych.errors import UserError
from triptych.show import command


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (UserError("size: expected 1, got 2"), 2, "error: size: expected 1, got 2\n"),
        (PermissionError(13, "Permission denied", "x"), 2, "cannot read or write x: Permission denied"),
        (KeyboardInterrupt(), 130, "stopped\n"),
    ],
)
def test_a_sentence_and_a_code(error, code, said, capsys):
    def body() -> NoReturn:
        raise error

    assert command.run(body, "stopped") == code
    assert said in capsys.readouterr().err


def test_our_own_mistakes_have_a_code_of_their_own_and_are_kept(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def body() -> NoReturn:
        raise AssertionError("ours\nin two lines")

    assert command.run(body, "stopped") == 70
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: AssertionError: ours. This is a mistake of the program")
    (kept,) = tmp_path.iterdir()
    assert line.endswith(str(kept))
    assert "in body\n    raise AssertionError" in kept.read_text()


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_closed_output_is_no_error(closed):
    program = (
        "import sys; from triptych.show import command; "
        "sys.exit(command.run(lambda: print('line') or print('more', file=sys.stderr) or 0, ''))"
    )
    line = f'"$0" -c "$1" {closed}'
    done = subprocess.run(["sh", "-c", line, sys.executable, program], capture_output=True, check=False)
    assert done.returncode == 0


def test_a_reader_that_leaves_is_no_error():
    program = (
        "import sys; from triptych.show import command; "
        "sys.exit(command.run(lambda: print('line\\n' * 100_000) or 0, ''))"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=-1, stderr=-1, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 141
