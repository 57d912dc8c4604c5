"""TensorBoard's events of a run: a copy of its metrics to look at, whose loss must not cost the run."""

from __future__ import annotations

import os
import secrets
import socket
import time
from collections.abc import Mapping
from pathlib import Path

from m3po.runs.files import write_whole
from m3po.runs.terminal import messages


class _Stream:
    """What RecordWriter wants of a file, in one thread: tensorboard's own writer loses the errors of a full disk."""

    def __init__(self, path: Path) -> None:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        self._descriptor = os.open(path, flags, 0o666)

    def write(self, data: bytes) -> None:
        write_whole(self._descriptor, data)

    def close(self) -> None:
        os.close(self._descriptor)


class EventLog:
    """An event file in ``folder``; when it cannot be written, a warning, and no more events of this session.

    Args:
        first_step: what other sessions wrote from this step on is not shown.
    """

    def __init__(self, folder: Path, *, first_step: int) -> None:
        self._folder, self._first_step = folder, first_step
        self._stream: _Stream | None = None
        self._failed = False

    def add(self, values: Mapping[str, float], *, step: int) -> None:
        """One point of every curve."""
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.record_writer import RecordWriter

        if self._failed:
            return
        now = time.time()
        points = [Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        events = [Event(wall_time=now, step=step, summary=Summary(value=points))]
        try:
            if self._stream is None:
                name = (
                    f"events.out.tfevents.{int(now):010d}.{socket.gethostname()}.{os.getpid()}.{secrets.token_hex(4)}"
                )
                self._stream = _Stream(self._folder / name)
                start = Event(wall_time=now, step=self._first_step, session_log=SessionLog(status=SessionLog.START))
                events = [Event(wall_time=now, file_version="brain.Event:2"), start, *events]
            for event in events:
                RecordWriter(self._stream).write(event.SerializeToString())
        except OSError as error:
            self._failed = True
            print(f"warning: no more TensorBoard events: {error}", file=messages())

    def close(self) -> None:
        if self._stream is not None:
            self._stream.close()
            self._stream = None
