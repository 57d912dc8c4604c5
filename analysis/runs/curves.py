"""Learning and error curves read from run directories."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from m3po.runs.run_directory import RunDirectory

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Curves:
    """Runs on a common grid of steps.

    Attributes:
        env_id: their environment.
        commits: of the code that made them, "+" where it had uncommitted changes.
        seeds: [S].
        steps: [E] real environment steps at the evaluations.
        values: metric name -> [S, E].
    """

    env_id: str
    commits: list[str]
    seeds: list[int]
    steps: Array
    values: dict[str, Array]

    @property
    def final_returns(self) -> Array:
        """The last evaluation of every run, not the best: [S]."""
        return self.values["return"][:, -1]


def load(run_dirs: Sequence[Path]) -> Curves:
    """Read the runs.

    Raises:
        ValueError: when one is not a run directory, has no metrics yet, or the runs do not belong together.
    """
    runs = [RunDirectory.read(path) for path in run_dirs]
    tables = [each.metrics() for each in runs]
    for each, table in zip(runs, tables, strict=True):
        if not table:
            raise ValueError(f"{each.path} has no metrics yet")
        if each.config.env_id != runs[0].config.env_id:
            raise ValueError(f"{each.path} is of {each.config.env_id}, {runs[0].path} of {runs[0].config.env_id}")
        if each.config.algorithm != runs[0].config.algorithm:
            raise ValueError(
                f"{each.path} is of {each.config.algorithm}, {runs[0].path} of {runs[0].config.algorithm}; "
                "analysis.comparison puts algorithms beside each other"
            )
    steps = [row["step"] for row in tables[0]]
    for each, table in zip(runs, tables, strict=True):
        if [row["step"] for row in table] != steps:
            raise ValueError(f"{each.path} was evaluated at other steps than {runs[0].path}")
    rows = [row for table in tables for row in table]
    common = [name for name in rows[0] if all(name in row for row in rows)]
    names = [name for name in common if isinstance(rows[0][name], int | float)]
    if "return" not in names:
        raise ValueError(f"{runs[0].path} has an epoch without an evaluation, or other runs do")
    values = {name: np.array([[row[name] for row in table] for table in tables], dtype=np.float64) for name in names}
    commits = sorted({commit for each in runs for commit in each.commits})
    return Curves(
        runs[0].config.env_id, commits, [each.config.seed for each in runs], np.array(steps, dtype=np.float64), values
    )
