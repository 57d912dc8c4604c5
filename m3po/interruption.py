"""Ctrl-C, SIGTERM and SIGHUP as a polite request: finish the step under way, write a checkpoint, stop."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

from m3po.terminal import messages


class Stopped(KeyboardInterrupt):
    """The training stopped because it was asked to, after writing a checkpoint.

    Attributes:
        exit_code: 128 + the signal's number, as a shell reports it.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.exit_code = 128 + number


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
            raise KeyboardInterrupt

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
