"""Messages to a terminal that may be closed, full or gone: what cannot be written is dropped, and nothing else ends."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from typing import Any, TextIO, cast

_started_in: Path | None = None


class _Unfailing:
    """A text stream whose ``write`` and ``flush`` never raise."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    # RuntimeError: a signal's handler writes while the program was writing.
    def write(self, text: str) -> int:
        with contextlib.suppress(OSError, ValueError, RuntimeError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError, RuntimeError):
            self._stream.flush()

    def isatty(self) -> bool:
        try:
            return self._stream.isatty()
        except (OSError, ValueError):
            return False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def unfailing(stream: TextIO) -> TextIO:
    """``stream`` with a ``write`` and ``flush`` that never raise."""
    return cast(TextIO, _Unfailing(stream))


def messages() -> TextIO:
    """Where to ``print`` what is not a command's result: stderr as far as there is one."""
    # Where it was closed before the start it is None, for which print would take stdout.
    return unfailing(sys.stderr if sys.stderr is not None else cast(TextIO, _Nowhere()))


def remember_where_started() -> None:
    """Let ``shown`` mean the working directory of now."""
    global _started_in
    _started_in = Path.cwd()


def shown(path: Path) -> Path:
    """A path for people: from the directory in which the command was started when it lies below that one."""
    if _started_in is None or not path.is_relative_to(_started_in):
        return path
    return path.relative_to(_started_in)


class _Nowhere:
    encoding = "utf-8"

    def write(self, text: str) -> int:
        return len(text)

    def flush(self) -> None:
        pass

    def isatty(self) -> bool:
        return False


def open_what_is_closed() -> None:
    """Where stdin, stdout or stderr was closed before the start, put nothing: else the next file that is opened would
    get its number, and the messages of libraries in C would go into it."""
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        if getattr(sys, name) is None:
            descriptor = os.open(os.devnull, os.O_RDWR)
            if descriptor != number and not _is_open(number):
                os.dup2(descriptor, number)
            setattr(sys, name, open(descriptor, mode, encoding="utf-8"))  # noqa: SIM115 (until the end)


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True
