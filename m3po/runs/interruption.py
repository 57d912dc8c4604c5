"""Ctrl-C, SIGTERM and SIGHUP as a polite request: finish the step under way, write a checkpoint, stop."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType, TracebackType
from typing import Any

from m3po.extras import missing_extra
from m3po.runs.terminal import messages

_COMMANDS = ("m3po", "analysis", "paper_figures")


def end_quietly_while_importing() -> None:
    """Where a package here is the start of ``python -m``: in the seconds of the imports Ctrl-C is one line, and so is a
    library of an extra that is not installed.

    ``KeyboardInterrupt`` comes back with ``command_line.run``.
    """
    words = sys.orig_argv
    module = words[words.index("-m") + 1] if "-m" in words[:-1] else ""
    # "-m" is the first word only while Python looks for the module.
    if sys.argv[:1] == ["-m"] and module.partition(".")[0] in _COMMANDS:
        sys.excepthook = _end_for_want_of_a_library
        _end_at_once()


def imports_are_over() -> None:
    """Ctrl-C raises ``KeyboardInterrupt`` again."""
    if sys.excepthook is _end_for_want_of_a_library:
        sys.excepthook = sys.__excepthook__
    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@contextlib.contextmanager
def ends_quietly() -> Iterator[None]:
    """Ctrl-C is one line while something is imported within."""
    _end_at_once()
    try:
        yield
    finally:
        imports_are_over()


def _end_at_once() -> None:
    in_main_thread = threading.current_thread() is threading.main_thread()
    if in_main_thread and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end)


def _end(number: int, frame: FrameType | None) -> None:
    with contextlib.suppress(OSError):
        os.write(2, b"interrupted\n")
    os._exit(128 + number)


def _end_for_want_of_a_library(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """What Python calls for an exception that nobody handles: exit code 2 and a line, when an extra is missing."""
    lacking = missing_extra(error) if isinstance(error, ModuleNotFoundError) else None
    if lacking is None:
        sys.__excepthook__(kind, error, trace)
        return
    print(f"error: {lacking}", file=messages(), flush=True)
    os._exit(2)


class Stopped(KeyboardInterrupt):
    """A signal asked to stop, once (then there is a checkpoint) or twice (then at once).

    Attributes:
        exit_code: 128 + the signal's number, as a shell reports it.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.exit_code = 128 + number


def exit_code(interruption: KeyboardInterrupt) -> int:
    """The exit code of a command that was interrupted: 128 + the number of the signal."""
    return int(getattr(interruption, "exit_code", 128 + signal.SIGINT))


class StopRequest:
    """While entered, remembers the first SIGINT, SIGTERM or SIGHUP; a second one interrupts at once, unless it is
    SIGHUP: a terminal that closes sends several.

    Attributes:
        number: of the signal that asked to stop, None until then.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self._previous: dict[int, Any] = {}

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.number is None:
            self.number = number
            print("\nstopping after this step; once more to stop at once", file=messages(), flush=True)
        elif number != signal.SIGHUP:
            raise Stopped(number)

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():  # only there may handlers be set
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                if signal.getsignal(number) not in (signal.SIG_IGN, None):
                    self._previous[number] = signal.signal(number, self._receive)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
