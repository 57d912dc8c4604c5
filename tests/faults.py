"""A disk that fails, or a process that is killed, at a chosen file-system event below a folder."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

# What happens at the event. "killed", "half killed": before it, or half way through it, and nothing that the process
# does afterwards, such as cleaning up, happens. "SIGKILL": in earnest. "full": from then on there is no space.
ERRORS = {"ENOSPC": errno.ENOSPC, "EIO": errno.EIO, "EPERM": errno.EPERM}
KINDS = ("killed", "half killed", "full", *ERRORS)


class KilledError(BaseException):
    """The process is gone."""


class Disk:
    """The events below ``folder`` while ``failing``: opening, writing, syncing, cutting, linking, renaming, removing.

    Args:
        at: number of the event that fails, from 0; none when None.
        kind: how.
        lacking: without hard links and ``flock``, as some file systems are.
        watch: called before every event.
    """

    def __init__(
        self, folder: Path, at: int | None, kind: str, *, lacking: bool = False, watch: Callable[[], None] | None = None
    ) -> None:
        self.events: list[str] = []
        self._folder, self._at, self._kind, self._lacking, self._watch = str(folder), at, kind, lacking, watch
        self._descriptors: set[int] = set()
        self._dead = self._watching = False

    @contextlib.contextmanager
    def failing(self) -> Iterator[None]:
        """While entered."""
        with pytest.MonkeyPatch.context() as patch:
            for name in ("open", "write", "fsync", "ftruncate", "link", "replace", "unlink", "mkdir", "rmdir"):
                patch.setattr(os, name, self._event(name, getattr(os, name)))
            close = os.close

            def closed(descriptor: int) -> None:
                self._descriptors.discard(descriptor)
                close(descriptor)

            patch.setattr(os, "close", closed)
            # Every disk is used by another process: the one before is dead. Its id would not tell a child's disk from
            # one that the parent makes later.
            start = secrets.token_hex()
            patch.setattr("m3po.runs.files._start_of", lambda process: start)
            if self._lacking:
                patch.setattr(fcntl, "flock", _refuse(errno.ENOSYS))
            yield

    def _event(self, name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def event(first: Any, *rest: Any, **options: Any) -> Any:
            inside = first in self._descriptors if isinstance(first, int) else str(first).startswith(self._folder)
            if not inside or self._watching:
                return original(first, *rest, **options)
            if self._dead:
                raise KilledError
            if self._watch is not None:
                self._watching = True
                self._watch()
                self._watching = False
            number = len(self.events)
            self.events.append(name)
            do = _nothing if name == "fsync" else original  # fsync is slow, and the machine stays on
            if name == "link" and self._lacking:
                do = _refuse(errno.EPERM)
            if number == self._at or (self._kind == "full" and self._at is not None and number > self._at):
                return self._fail(name, do, first, *rest, **options)
            return self._done(name, do(first, *rest, **options))

        return event

    def _done(self, name: str, result: Any) -> Any:
        if name == "open":
            self._descriptors.add(result)
        return result

    def _fail(self, name: str, do: Callable[..., Any], first: Any, *rest: Any, **options: Any) -> Any:
        if self._kind == "SIGKILL":
            os.kill(os.getpid(), signal.SIGKILL)
        if self._kind == "full":
            takes_space = name in ("write", "mkdir", "link") or (name == "open" and bool(rest[0] & os.O_CREAT))
            if not takes_space:
                return self._done(name, do(first, *rest, **options))
        if self._kind != "killed" and name == "write":
            do(first, bytes(rest[0])[: len(rest[0]) // 2])
        elif self._kind == "half killed":
            do(first, *rest, **options)
        if self._kind in ("killed", "half killed"):
            self._dead = True
            raise KilledError
        code = errno.ENOSPC if self._kind == "full" else ERRORS[self._kind]
        raise OSError(code, os.strerror(code))


def _refuse(code: int) -> Callable[..., Any]:
    def refuse(*_: Any, **__: Any) -> Any:
        raise OSError(code, os.strerror(code))

    return refuse


def _nothing(*_: Any) -> None:
    return None
