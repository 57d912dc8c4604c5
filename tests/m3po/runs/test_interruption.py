"""One signal asks, the second insists, and the process's own handlers come back."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import pytest

from m3po.runs.interruption import Stopped, StopRequest, end_quietly_while_importing, exit_code, imports_are_over

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.fixture(autouse=True)
def received() -> Iterator[list[int]]:
    """Signals that reached the handlers from before; whatever a test does to handlers is undone."""
    seen: list[int] = []

    def remember(number: int, frame: FrameType | None) -> None:
        seen.append(number)

    before = {number: signal.signal(number, remember) for number in SIGNALS}
    yield seen
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_signal_is_remembered(number: int, received: list[int], capsys: pytest.CaptureFixture[str]) -> None:
    with StopRequest() as stop:
        assert stop.number is None
        signal.raise_signal(number)
        assert stop.number == number
    assert received == []
    out, err = capsys.readouterr()
    assert out == ""
    assert "stopping after this step; once more to stop at once" in err


@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("first", SIGNALS)
def test_the_second_signal_interrupts_at_once(first: int, second: int) -> None:
    with StopRequest() as stop:
        signal.raise_signal(first)
        with pytest.raises(KeyboardInterrupt) as interruption:
            signal.raise_signal(second)
        assert exit_code(interruption.value) == 128 + second
        assert stop.number == first


@pytest.mark.parametrize("first", SIGNALS)
def test_a_terminal_that_closes_may_say_so_twice(first: int) -> None:
    with StopRequest() as stop:
        signal.raise_signal(first)
        signal.raise_signal(signal.SIGHUP)
        assert stop.number == first


def test_handlers_come_back(received: list[int]) -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    with StopRequest() as stop:
        assert all(signal.getsignal(number) not in before for number in SIGNALS)
    assert [signal.getsignal(number) for number in SIGNALS] == before
    for number in SIGNALS:
        signal.raise_signal(number)
    assert received == list(SIGNALS)
    assert stop.number is None


def test_handlers_come_back_after_an_exception() -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    with pytest.raises(RuntimeError, match="lost"), StopRequest():
        raise RuntimeError("lost")
    assert [signal.getsignal(number) for number in SIGNALS] == before


@pytest.mark.parametrize(("ignored", "other"), list(itertools.permutations(SIGNALS, 2)))
def test_an_ignored_signal_stays_ignored(ignored: int, other: int) -> None:
    """A shell starts background jobs with SIGINT ignored: Ctrl-C is meant for others."""
    signal.signal(ignored, signal.SIG_IGN)
    with StopRequest() as stop:
        assert signal.getsignal(ignored) is signal.SIG_IGN
        signal.raise_signal(ignored)
        assert stop.number is None
        signal.raise_signal(other)
        assert stop.number == other
    assert signal.getsignal(ignored) is signal.SIG_IGN


def test_in_a_thread_nothing_is_installed() -> None:
    """Only the main thread may set handlers; a training in another must work all the same."""
    before = [signal.getsignal(number) for number in SIGNALS]
    inside: list[object] = []
    numbers: list[int | None] = []

    def work() -> None:
        with StopRequest() as stop:
            inside.extend(signal.getsignal(number) for number in SIGNALS)
            numbers.append(stop.number)
        inside.append("left")

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(timeout=30)
    assert inside == [*before, "left"]
    assert numbers == [None]
    assert [signal.getsignal(number) for number in SIGNALS] == before


@pytest.mark.parametrize(
    ("number", "code", "name"),
    [(signal.SIGINT, 130, "SIGINT"), (signal.SIGTERM, 143, "SIGTERM"), (signal.SIGHUP, 129, "SIGHUP")],
)
def test_stopped_carries_the_exit_code_of_its_signal(number: int, code: int, name: str) -> None:
    stopped = Stopped(number)
    assert isinstance(stopped, KeyboardInterrupt)
    assert stopped.exit_code == code
    assert str(stopped) == name


@pytest.mark.parametrize("module", ["m3po.train", "analysis.check_guarantee"])
def test_ctrl_c_during_the_imports_is_one_line(module: str, tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("import time\nprint('ready', flush=True)\ntime.sleep(300)\n")
    root = Path(__file__).parents[3]
    with subprocess.Popen(
        [sys.executable, "-m", module], cwd=root, env={**os.environ, "PYTHONPATH": f"{tmp_path}:{root}"},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=60)
    assert (process.returncode, told) == (130, "interrupted\n")


def test_a_program_that_only_imports_this_keeps_its_ctrl_c(monkeypatch: pytest.MonkeyPatch) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    monkeypatch.setattr(sys, "argv", ["-m"])
    for words in (["python", "-m", "theirs.train"], ["python", "their.py"], ["python", "-m"]):
        monkeypatch.setattr(sys, "orig_argv", words)
        end_quietly_while_importing()
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "m3po.train"])
    end_quietly_while_importing()
    assert signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    imports_are_over()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
