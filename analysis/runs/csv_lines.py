"""Tables as they come from elsewhere: UTF-8, comment lines that start with #, a header, a cell for each column."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from m3po.runs.files import read_regular


@dataclass(frozen=True)
class Line:
    """One row of a CSV, with its place for messages.

    Attributes:
        where: file and line, for messages.
        cells: column -> text.
    """

    where: str
    cells: Mapping[str, str]

    def number(self, column: str) -> float:
        """The finite number in a column.

        Raises:
            ValueError: names file, line and value when it is none.
        """
        text = self.cells[column]
        try:
            value = math.nan if "_" in text else float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise ValueError(f"{self.where}: {column} must be a finite number, got {text!r}")
        return value

    def whole(self, column: str) -> int:
        """The whole number from 0 in a column.

        Raises:
            ValueError: as ``number``.
        """
        value = self.number(column)
        if value != int(value) or value < 0:
            raise ValueError(f"{self.where}: {column} must be a whole number from 0, got {self.cells[column]!r}")
        return int(value)


def read_lines(
    path: Path, needed: Sequence[str], *, exactly: bool = False, cut: Literal["read", "refused", "left out"] = "read"
) -> list[Line]:
    """The rows of a CSV, in its order.

    Args:
        path: of the file; a byte order mark is no part of the first column's name.
        needed: columns that it must have.
        exactly: refuse other columns, or another order.
        cut: what becomes of a last line without an end, as a crash leaves it.

    Raises:
        ValueError: names the file, the line and the cell: a column is missing or there twice, a row has more or fewer
            cells than the header, the text is not UTF-8 or no CSV.
        OSError: when the file cannot be read.
    """
    try:
        text = read_regular(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not a text file in UTF-8") from error
    numbered = [(number, line) for number, line in enumerate(io.StringIO(text, newline=""), 1) if line[:1] != "#"]
    if cut != "read" and numbered and not numbered[-1][1].endswith("\n"):
        number, line = numbered.pop()
        if cut == "refused":
            raise ValueError(f"{path}:{number}: the table ends within this line: {line}")
    reader = csv.reader((line for _, line in numbered), strict=True)
    lines: list[Line] = []
    columns: list[str] = []
    try:
        columns = next(reader, [])
        _check_columns(path, columns, needed, exactly=exactly)
        for cells in filter(None, reader):
            where = f"{path}:{numbered[reader.line_num - 1][0]}"
            if len(cells) != len(columns):
                shown = ",".join(cells)
                raise ValueError(f"{where}: {len(cells)} cells under {len(columns)} columns (decimal commas?): {shown}")
            lines.append(Line(where, dict(zip(columns, cells, strict=True))))
    except csv.Error as error:
        raise ValueError(f"{path}:{numbered[max(reader.line_num, 1) - 1][0]}: {error}") from error
    return lines


def _check_columns(path: Path, columns: Sequence[str], needed: Sequence[str], *, exactly: bool) -> None:
    if exactly and list(columns) != list(needed):
        raise ValueError(f"{path} has the columns {', '.join(columns)}; expected {', '.join(needed)}")
    for name in needed:
        if name not in columns:
            raise ValueError(f"{path} has no column {name!r}, its columns are: {', '.join(columns) or 'none'}")
    for name in columns:
        if columns.count(name) > 1:
            raise ValueError(f"{path} has the column {name!r} twice")
