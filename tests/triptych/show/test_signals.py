"""SIGINT and SIGTERM wherever they come: the right exit code, no traceback, never lost."""

import signal
import sys
import threading
from collections.abc import Iterator

import pytest

from tests.helpers import tiny
from triptych.show import command
from triptych.show.signals import StopRequest, Terminated, raised


def sent(number: signal.Signals) -> int:
    """A command that is sent a signal, and would have ended with 0."""
    signal.raise_signal(number)
    return 0


each = pytest.mark.parametrize(
    ("number", "kind", "code"),
    [
        (signal.SIGINT, KeyboardInterrupt, 130),
        (signal.SIGTERM, Terminated, 143),
        (signal.SIGHUP, Terminated, 129),
        (signal.SIGUSR1, Terminated, 138),
    ],
)


@pytest.fixture(autouse=True)
def terminal() -> Iterator[None]:
    """SIGINT as in a terminal: whoever started the tests may have it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@each
def test_a_signal_is_an_exception_for_as_long_as_the_command_lasts(number, kind, code, capsys):
    before = signal.getsignal(number)
    with pytest.raises(kind), raised():
        signal.raise_signal(number)
    assert signal.getsignal(number) == before
    assert command.run(lambda: sent(number), "stopped") == code
    assert capsys.readouterr().err == "stopped\n"


@each
def test_an_exception_that_takes_its_place_does_not_hide_it(number, kind, code):
    """As in threading.Condition.wait, which a signal leaves with its lock released twice."""

    def body() -> int:
        condition = threading.Condition(threading.Lock())
        with condition:
            condition.release()
            signal.raise_signal(number)
        return 0

    with pytest.raises(kind) as caught, raised():
        body()
    assert isinstance(caught.value.__cause__, RuntimeError)
    assert command.run(body, "stopped") == code


class Dropping:
    """What a signal's exception raises here, Python prints and drops."""

    def __init__(self, number: signal.Signals) -> None:
        self.number = number

    def __del__(self) -> None:
        signal.raise_signal(self.number)


@each
def test_an_exception_that_is_dropped_is_not_lost(number, kind, code, capsys):
    went_on = []

    def body() -> int:
        Dropping(number)
        went_on.append(True)
        return 0

    assert command.run(body, "stopped") == code
    assert went_on == [True]
    assert capsys.readouterr().err == "stopped\n"


def test_another_exception_that_is_dropped_is_shown():
    class Faulty:
        def __del__(self) -> None:
            raise ValueError("ours")

    def body() -> int:
        Faulty()
        return 0

    shown = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "unraisablehook", lambda unraisable: shown.append(str(unraisable.exc_value)))
        assert command.run(body, "stopped") == 0
    assert shown == ["ours"]


@each
def test_training_answers_one_that_was_dropped_before_it_began(number, kind, code):
    def body() -> int:
        Dropping(number)
        with StopRequest() as stop:
            assert stop.signal == number
        return 7

    assert command.run(body, "stopped") == 7


def test_the_first_signal_is_noted_and_the_second_acts():
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with StopRequest() as stop:
        assert stop.signal is None
        signal.raise_signal(signal.SIGTERM)
        assert stop.signal is signal.SIGTERM
        assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_a_signal_of_a_command_that_is_over_says_nothing_to_the_next():
    assert command.run(lambda: sent(signal.SIGTERM), "stopped") == 143
    assert command.run(lambda: 0, "stopped") == 0
    with StopRequest() as stop:
        assert stop.signal is None


def test_an_ignored_sigint_stays_ignored():
    """A shell ignores SIGINT for a command in the background."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    assert command.run(lambda: sent(signal.SIGINT), "stopped") == 0
    assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN


def test_an_ignored_sighup_stays_ignored_in_training():
    """As under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopRequest() as stop:
            signal.raise_signal(signal.SIGHUP)
        assert stop.signal is None
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_terminal_that_is_gone_is_no_error():
    """What is written to it fails with EIO; the program goes on, and ends with its own code."""
    program = """
import os, pty, sys
from triptych.show.progress import Terminal
above, below = pty.openpty()
os.dup2(below, 1), os.dup2(below, 2), os.close(below), os.close(above)
bar = Terminal()
bar.begin(3, 0, "gone")
for _ in range(3):
    bar.line("gone")
    bar.advance(1, 0.5, 0.5)
bar.end()
sys.exit(5)
"""
    assert tiny.python("-c", program).returncode == 5


def test_outside_the_main_thread_signals_are_left_alone():
    codes = []
    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=lambda: codes.append(command.run(lambda: 5, "stopped")))
    thread.start()
    thread.join()
    assert codes == [5]
    assert signal.getsignal(signal.SIGTERM) == before


@each
def test_one_before_training_ends_with_its_code(number, kind, code, capsys, monkeypatch, tmp_path):
    tiny.install(monkeypatch.setattr)
    monkeypatch.setattr("triptych.cifar10.load", lambda *_, **__: signal.raise_signal(number))
    monkeypatch.chdir(tmp_path)
    assert tiny.call("--backend", "numpy", *tiny.arguments()) == code
    assert capsys.readouterr().err.startswith("interrupted before training began")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("moment", ["numpy", "tyro", "triptych.train.launch"])
def test_ctrl_c_while_train_py_imports_leaves_no_traceback(moment):
    program = f"""
import builtins, os, runpy, signal, sys
whole = builtins.__import__
def arriving(name, *rest):
    if name == {moment!r}:
        os.kill(os.getpid(), signal.SIGINT)
    return whole(name, *rest)
builtins.__import__ = arriving
sys.argv = ["train.py", "list"]
runpy.run_path("train.py", run_name="__main__")
"""
    done = tiny.python("-c", program)
    assert done.returncode == -signal.SIGINT, done.stdout
    assert done.stderr == ""
