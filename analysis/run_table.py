"""CSVs of finished runs: the commits that trained them in comment lines, then one line per run and evaluation."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


def table_of(commits: Iterable[str], columns: Sequence[str], lines: Iterable[Sequence[Any]]) -> str:
    """The text of the CSV."""
    text = io.StringIO()
    text.write(f"# trained with m3po.train at commit {', '.join(sorted(set(commits)))}\n")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(lines)
    return text.getvalue()


def lines_of(path: Path) -> list[dict[str, str]]:
    """The lines of a CSV, without its comments."""
    with path.open() as file:
        return list(csv.DictReader(line for line in file if not line.startswith("#")))


def curves_of(lines: Sequence[Mapping[str, str]], variants: Iterable[str]) -> dict[str, dict[int, NDArray[np.float64]]]:
    """Variant -> seed -> (step, return) of every evaluation [E, 2], for those of ``variants`` that are there."""
    curves: dict[str, dict[int, list[tuple[float, float]]]] = {name: {} for name in variants}
    for line in lines:
        if line["variant"] in curves:
            point = float(line["step"]), float(line["return"])
            curves[line["variant"]].setdefault(int(line["seed"]), []).append(point)
    return {
        name: {seed: np.array(points) for seed, points in sorted(seeds.items())}
        for name, seeds in curves.items()
        if seeds
    }
