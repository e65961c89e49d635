"""What every command makes of what goes wrong: one sentence on standard error, and an exit code."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence

from triptych.errors import UserError, missing
from triptych.show import signals
from triptych.show.wrapping import fitted

OURS = 70
"""The exit code of a mistake of the program: EX_SOFTWARE of sysexits.h."""
MOST = 300
"""Characters of a message that are shown."""


def call(function: Callable[..., int], argv: Sequence[str], description: str | None) -> int:
    """The exit code of a command `triptych NAME`, a function of that name whose arguments tyro reads."""

    def body() -> int:
        import tyro  # here: `parity --help` answers without it

        prog = f"triptych {function.__name__}"
        code: int = tyro.cli(function, args=argv, prog=prog, description=description)
        return code

    return run(body, "interrupted")


def run(
    body: Callable[[], int], interrupted: str, mistakes: tuple[type[Exception], ...] = (UserError,)
) -> int:
    """The body's exit code; 2 for one of `mistakes`, a package that is not installed, or a file that cannot
    be read or written, 128 + the signal that ends it (`interrupted` says what became of the work), 141 where
    nobody reads the output any more, and 70 for a mistake of ours, whose traceback is written to a file.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by the caller: `>&-`
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
    try:
        with signals.raised():
            code = body()
            sys.stdout.flush()
        return code
    except mistakes as error:
        _say(f"error: {error}")
        return 2
    except ModuleNotFoundError as error:
        _say(f"error: {missing(error)}")
        return 2
    except BrokenPipeError:
        # Such as `| head`. Python would complain once more when it flushes at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except OSError as error:
        _say(f"error: cannot read or write {error.filename or 'a file'}: {error.strerror}")
        return 2
    except (KeyboardInterrupt, signals.Terminated) as error:
        print(interrupted, file=sys.stderr)
        return 128 + (error.number if isinstance(error, signals.Terminated) else signal.SIGINT)
    except Exception as error:
        what = (str(error).strip() or "no message").splitlines()[0][:MOST]
        _say(
            f"error: {type(error).__name__}: {what}. This is a mistake of the program, not yours: please "
            f"report it with the file {_written(traceback.format_exc())}"
        )
        return OURS


def _say(text: str) -> None:
    print(fitted(text, sys.stderr), file=sys.stderr)


def _written(text: str) -> str:
    """The name of a new file with this text, or why there is none."""
    try:
        handle, path = tempfile.mkstemp(prefix="triptych-traceback-", suffix=".txt", text=True)
        with open(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
    except OSError as error:
        return f"that could not be written ({error.strerror})"
    return path
