"""CSVs of finished runs: the commits that trained them in comment lines, then one line per run and evaluation."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis.runs.csv_lines import Line


def table_of(mark: str, commits: Iterable[str], columns: Sequence[str], lines: Iterable[Sequence[Any]]) -> str:
    """The text of the CSV with the commits and the ``mark`` of the command that writes it."""
    trained = ", ".join(_in_one_line(each) for each in sorted(set(commits)))
    return f"# trained with m3po.train at commit {trained} ({mark})\n" + csv_of(columns, lines)


def csv_of(columns: Sequence[str], lines: Iterable[Sequence[Any]]) -> str:
    """The text of a CSV whose cells hold data wherever they come from: none is a formula to a spreadsheet, none has
    more than one line."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_cell(value) for value in line] for line in lines)
    return text.getvalue()


CURVE_COLUMNS = ("variant", "seed", "step", "return")


def _cell(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        float(value)  # a negative number is no formula
    except ValueError:
        pass
    else:
        return value.strip()
    line = _in_one_line(value)
    return f"'{line}" if line.startswith(("=", "+", "-", "@")) else line


def _in_one_line(text: str) -> str:
    """Without line ends, tabs and other control characters."""
    return "".join(each if each.isprintable() else " " for each in text).strip()


def curves_of(lines: Sequence[Line], variants: Iterable[str]) -> dict[str, dict[int, NDArray[np.float64]]]:
    """Variant -> seed -> (step, return) of every evaluation [E, 2], for those of ``variants`` that are there.

    Raises:
        ValueError: when there is none, a number is not finite, steps do not rise, or the seeds of a variant were not
            evaluated at the same steps.
    """
    curves: dict[str, dict[int, list[tuple[float, float]]]] = {name: {} for name in variants}
    for line in lines:
        if line.cells["variant"] in curves:
            points = curves[line.cells["variant"]].setdefault(line.whole("seed"), [])
            if points and points[-1][0] >= line.whole("step"):
                raise ValueError(f"{line.where}: step {line.cells['step']} comes after {points[-1][0]:.0f}")
            points.append((line.whole("step"), line.number("return")))
    found = {name: seeds for name, seeds in curves.items() if seeds}
    if not found:
        raise ValueError(f"no rows of {', '.join(curves)}")
    for name, seeds in found.items():
        grids = {seed: [step for step, _ in points] for seed, points in seeds.items()}
        for seed, steps in grids.items():
            if steps != next(iter(grids.values())):
                raise ValueError(f"{name}: seed {seed} was not evaluated at the steps of seed {next(iter(grids))}")
    return {name: {seed: np.array(points) for seed, points in sorted(seeds.items())} for name, seeds in found.items()}
