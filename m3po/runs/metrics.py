"""metrics.jsonl of a run and its TensorBoard events: append-only, noticing every other hand."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from m3po.runs import files
from m3po.runs.event_log import EventLog
from m3po.runs.records import MEBIBYTE, check_row, parsed

_LARGEST = 1024 * MEBIBYTE


class Metrics:
    """The rows of metrics of a run, one per epoch.

    Args:
        folder: of the run.
        check: called before every write; raises when this process may not write.
    """

    def __init__(self, folder: Path, check: Callable[[], None]) -> None:
        self._folder, self._file, self._check = folder, folder / "metrics.jsonl", check
        self._events: EventLog | None = None
        self._size: int | None = None  # as it was written last; None when it was not written yet

    def append(self, row: dict[str, Any]) -> None:
        """See ``RunDirectory.append_metrics``."""
        self._check()
        line = json.dumps(row, allow_nan=False).encode() + b"\n"
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(self._file, flags, 0o666)
        try:
            size = os.fstat(descriptor).st_size
            self._check_size(size)
            files.append(descriptor, line)
        finally:
            os.close(descriptor)
        if size == 0:
            files.sync_folder(self._folder)
        self._size = size + len(line)
        if self._events is None:
            self._events = EventLog(self._folder, first_step=row["step"])
        numbers = {name: value for name, value in row.items() if isinstance(value, int | float) and name != "step"}
        self._events.add(numbers, step=row["step"])

    def _check_size(self, size: int) -> None:
        if self._size is not None and size != self._size:
            raise ValueError(
                f"{self._file} was changed while the run was under way: it has {size} bytes, {self._size} were written"
            )

    def read(self) -> tuple[list[dict[str, Any]], str]:
        """The rows, and the SHA-256 of the file.

        Raises:
            ValueError: when a whole line is not a row.
        """
        content = files.read_regular(self._file, _LARGEST) if os.path.lexists(self._file) else b""
        rows: list[dict[str, Any]] = []
        for number, line in enumerate(content.split(b"\n")[:-1], 1):
            try:
                row = parsed(line)
            except ValueError as error:
                raise ValueError(f"{self._file} line {number} is not JSON: {error}") from error
            try:
                check_row(row)
            except ValueError as error:
                raise ValueError(f"{self._file} line {number} {error}") from error
            if rows and row["step"] <= rows[-1]["step"]:
                raise ValueError(f"{self._file} line {number} has step={row['step']} after step {rows[-1]['step']}")
            rows.append(row)
        return rows, hashlib.sha256(content).hexdigest()

    def written(self) -> tuple[list[dict[str, Any]], str]:
        """``read``, of a file that holds exactly what this session has written.

        Raises:
            ValueError: when another hand has changed it.
        """
        self._check_size(self._file.stat().st_size if self._file.exists() else 0)
        return self.read()

    def drop_after(self, step: int) -> None:
        """See ``RunDirectory.drop_metrics_after``."""
        kept = [row for row in self.read()[0] if row["step"] <= step]
        if step >= 0 and (not kept or kept[-1]["step"] != step):
            raise ValueError(f"{self._file} has no row for step {step}, where the checkpoint is")
        content = "".join(json.dumps(row) + "\n" for row in kept).encode()
        self._check()
        files.replace_atomically(self._file, content)
        self._size = len(content)

    def close(self) -> None:
        """End the TensorBoard events of this session."""
        if self._events is not None:
            self._events.close()
            self._events = None
