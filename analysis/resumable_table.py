"""A CSV of measurements that is written row by row, so that a measurement that was stopped goes on where it was."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, Generic, TypeVar, get_type_hints

from m3po.run_directory import commit_of, provenance

Row = TypeVar("Row")


def read_rows(path: Path, row_type: type[Row]) -> list[Row]:
    """The rows of a table, in the order in which they were measured; a line cut off by a crash is left out.

    Raises:
        ValueError: when the file is no table of ``row_type``.
    """
    hints = get_type_hints(row_type)
    names = [field.name for field in fields(row_type)]  # type: ignore[arg-type]
    lines = [line for line in path.read_text().splitlines(keepends=True) if not line.startswith("#")]
    whole = [line for line in lines if line.endswith("\n")]
    reader = csv.DictReader(whole)
    if reader.fieldnames is not None and list(reader.fieldnames) != names:
        raise ValueError(f"{path} has the columns {', '.join(reader.fieldnames)}; expected {', '.join(names)}")
    return [row_type(**{name: _value(path, row[name], hints[name]) for name in names}) for row in reader]


def _value(path: Path, text: str | None, kind: Any) -> Any:
    try:
        if kind is bool:
            return {"True": True, "False": False}[text or ""]
        return kind(text) if kind in (int, float) else str(text)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: {text!r} is no {kind.__name__}") from error


class ResumableTable(Generic[Row]):
    """A CSV with one line per row of a dataclass, after comment lines with its settings and the commits it was made at.

    Args:
        path: of the file; it may hold rows measured earlier with the same settings.
        row_type: a dataclass of int, float, bool and str fields.
        settings: all that the values depend on, JSON-ready.

    Attributes:
        rows: all rows so far.

    Raises:
        ValueError: when the file holds something else, or rows that were measured with other settings.
    """

    def __init__(self, path: Path, row_type: type[Row], settings: Mapping[str, Any]) -> None:
        self.path = path
        self.rows: list[Row] = []
        first = f"# settings {json.dumps(dict(settings))}\n"
        commit = f"# commit {commit_of(provenance([]))}\n"
        names = [field.name for field in fields(row_type)]  # type: ignore[arg-type]
        if path.exists():
            lines = path.read_text().splitlines(keepends=True)
            if not lines or lines[0] != first:
                raise ValueError(f"{path} was not measured with these settings; choose another file or the same ones")
            self.rows = read_rows(path, row_type)
            kept = [line for line in lines if line.endswith("\n")]
            earlier = [line for line in kept if line.startswith("# commit")]
            path.write_text("".join(kept) + ("" if earlier and earlier[-1] == commit else commit))
        else:
            path.write_text(first + commit + ",".join(names) + "\n")

    def add(self, row: Row) -> None:
        """Append a row; it is in the file when this returns."""
        values = [f"{value:.9g}" if isinstance(value, float) else value for value in asdict(row).values()]  # type: ignore[call-overload]
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerow(values)
        with self.path.open("a") as file:
            file.write(text.getvalue())
        self.rows.append(row)
