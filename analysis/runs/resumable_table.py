"""A CSV of measurements that is written row by row, so that a measurement that was stopped goes on where it was."""

from __future__ import annotations

import csv
import io
import json
import os
import stat
import weakref
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, Generic, TypeVar, get_type_hints

from analysis.runs.csv_lines import Line, read_lines
from m3po.runs.files import HeldError, LostError, append, flock, is_at, read_regular, replaced
from m3po.runs.provenance import commit_of, provenance

Row = TypeVar("Row")


def read_rows(path: Path, row_type: type[Row], *, finite: bool = False) -> list[Row]:
    """The rows of a table, in the order in which they were measured; a line cut off by a crash is left out.

    Raises:
        ValueError: when the file is no table of ``row_type``, or, with ``finite``, is cut off or holds NaN or infinite
            numbers.
    """
    hints = get_type_hints(row_type)
    names = [field.name for field in fields(row_type)]  # type: ignore[arg-type]
    lines = read_lines(path, names, exactly=True, cut="refused" if finite else "left out")
    return [row_type(**{name: _value(line, name, hints[name], finite=finite) for name in names}) for line in lines]


def _value(line: Line, name: str, kind: Any, *, finite: bool) -> Any:
    text = line.cells[name]
    if finite and kind is float:
        return line.number(name)
    try:
        if kind is bool:
            return {"True": True, "False": False}[text]
        return kind(text) if kind in (int, float) else text
    except (ValueError, KeyError) as error:
        raise ValueError(f"{line.where}: {name}: {text!r} is no {kind.__name__}") from error


def settings_of(config: Any, *growing: str) -> dict[str, Any]:
    """What the rows of a table depend on: the fields of a dataclass, but for its file, how its rows are printed, and
    those that a table may be ``growing`` by."""
    return {name: value for name, value in asdict(config).items() if name not in ("out", "as_json", *growing)}


class ResumableTable(Generic[Row]):
    """A CSV with one line per row of a dataclass, after comment lines with its settings and the commits it was made at.

    Args:
        path: of the file; it may hold rows measured earlier with the same settings.
        row_type: a dataclass of int, float, bool and str fields.
        settings: all that the values depend on, JSON-ready.

    Attributes:
        rows: all rows so far.

    Raises:
        ValueError: when the file holds something else, or rows that were measured with other settings, or another
            process is writing it.
    """

    def __init__(self, path: Path, row_type: type[Row], settings: Mapping[str, Any]) -> None:
        self.path = path.absolute()
        self.rows: list[Row] = []
        first = f"# settings {json.dumps(dict(settings))}\n"
        commit = f"# commit {commit_of(provenance([]))}\n"
        names = [field.name for field in fields(row_type)]  # type: ignore[arg-type]
        self._descriptor = _locked(self.path)
        self._closing = weakref.finalize(self, os.close, self._descriptor)
        lines = read_regular(self.path).decode().splitlines(keepends=True)
        if not lines:  # new, or killed before it had its header
            self._replace(first + commit + ",".join(names) + "\n")
            return
        if lines[0] != first:
            raise ValueError(f"{path} was not measured with these settings; choose another file or the same ones")
        self.rows = read_rows(self.path, row_type)
        kept = [line for line in lines if line.endswith("\n")]
        earlier = [line for line in kept if line.startswith("# commit")]
        if kept != lines or not earlier or earlier[-1] != commit:
            self._replace("".join(kept) + ("" if earlier and earlier[-1] == commit else commit))

    def _replace(self, text: str) -> None:
        descriptor = replaced(self.path, text.encode())
        self._closing()
        self._descriptor = descriptor
        self._closing = weakref.finalize(self, os.close, descriptor)

    def close(self) -> None:
        """Let others write the file; the last thing done with a table, at the latest when it is forgotten."""
        self._closing()

    def add(self, row: Row) -> None:
        """Append a row; it is in the file when this returns."""
        values = [f"{value:.9g}" if isinstance(value, float) else value for value in asdict(row).values()]  # type: ignore[call-overload]
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerow(values)
        if not is_at(self.path, self._descriptor):
            raise LostError(f"{self.path} was removed or replaced while it was being written")
        append(self._descriptor, text.getvalue().encode())
        self.rows.append(row)


def _locked(path: Path) -> int:
    """The file, made when it is not there, to append to it; locked where there are locks."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise ValueError(f"{path} is not a regular file")
            flock(descriptor)
        except HeldError as error:
            os.close(descriptor)
            raise ValueError(f"another process is writing {path}") from error
        except BaseException:
            os.close(descriptor)
            raise
        if is_at(path, descriptor):
            return descriptor
        os.close(descriptor)  # it was replaced in between
