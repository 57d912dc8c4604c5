"""Tables of learning curves, read strictly."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from analysis.runs.csv_lines import read_lines
from analysis.statistics.aggregates import Array, normalise

# The name of the environment of a table that has no such column.
ONE_ENVIRONMENT = "all"


@dataclass(frozen=True, eq=False)
class Table:
    """Learning curves of several variants at common evaluations.

    Attributes:
        steps: [E] environment steps of the evaluations, increasing.
        environments: in the order in which the table first names them; ``("all",)`` where it has no such column.
        seeds: variant -> for each environment, its seeds in increasing order.
        returns: variant -> for each environment [S_e, E], rows as the seeds.
        cut: variants with runs that were evaluated after the last of ``steps``.
    """

    steps: Array
    environments: tuple[str, ...]
    seeds: dict[str, tuple[tuple[int, ...], ...]]
    returns: dict[str, tuple[Array, ...]]
    cut: tuple[str, ...] = ()

    def finals(self, variant: str) -> list[Array]:
        """The last evaluation of every run, not the best: [S_e] for each environment."""
        return [curves[:, -1] for curves in self.returns[variant]]

    def normalised(self, anchors: dict[str, tuple[float, float]]) -> Table:
        """``normalise`` with the (low, high) of each environment.

        Raises:
            ValueError: as ``normalise``; an environment without anchors, or anchors of an unknown one.
        """
        for name in anchors:
            if name not in self.environments:
                raise ValueError(f"anchors of {name!r}, but the environments are {', '.join(self.environments)}")
        for name in self.environments:
            if name not in anchors:
                raise ValueError(f"no anchors of {name!r}")
        ends = [anchors[name] for name in self.environments]
        returns = {
            variant: tuple(normalise(curves, *pair) for curves, pair in zip(each, ends, strict=True))
            for variant, each in self.returns.items()
        }
        return dataclasses.replace(self, returns=returns)


def read_table(
    path: Path, last_step: int | None = None, *, environment: str | None = None, common_steps: bool = False
) -> Table:
    """Read a CSV with the columns variant, seed, step, return and, if it likes, environment; others are ignored.

    Lines that start with # are comments. Rows come in any order, one per run and evaluation.

    Args:
        path: the table.
        last_step: leave out evaluations after this step; None keeps all.
        environment: read the rows of this one only; None reads all.
        common_steps: leave out evaluations at steps that not every run has, instead of refusing them.

    Raises:
        ValueError: naming the file, the line and the value: a column is missing, a cell is no number, two rows are of
            one evaluation, runs were evaluated at different steps, or a variant lacks an environment.
        OSError: when the file cannot be read.
    """
    runs: dict[tuple[str, str, int], dict[int, float]] = {}
    latest: dict[str, int] = {}
    for line in read_lines(path, ("variant", "seed", "step", "return")):
        step = line.whole("step")
        variant = line.cells["variant"]
        if not variant:
            raise ValueError(f"{line.where}: the variant has no name")
        key = variant, line.cells.get("environment") or ONE_ENVIRONMENT, line.whole("seed")
        if environment not in (None, key[1]):
            continue
        latest[variant] = max(step, latest.get(variant, 0))
        if last_step is not None and step > last_step:
            continue
        evaluations = runs.setdefault(key, {})
        if step in evaluations:
            raise ValueError(f"{line.where}: there are two rows of {_run_name(key)} at step {step}")
        evaluations[step] = line.number("return")
    if not runs:
        which = ("" if environment is None else f" of {environment}") + (
            "" if last_step is None else f" up to step {last_step}"
        )
        raise ValueError(f"{path} has no rows{which}")
    if common_steps:
        common = set.intersection(*(set(evaluations) for evaluations in runs.values()))
        if not common:
            raise ValueError(f"{path} has no step at which all runs were evaluated")
        runs = {key: {step: evaluations[step] for step in common} for key, evaluations in runs.items()}
    table = _table(path, runs)
    return dataclasses.replace(table, cut=tuple(name for name in table.returns if latest[name] > table.steps[-1]))


def _run_name(key: tuple[str, str, int]) -> str:
    variant, environment, seed = key
    return f"{variant} seed {seed}" + ("" if environment == ONE_ENVIRONMENT else f" in {environment}")


def _table(path: Path, runs: dict[tuple[str, str, int], dict[int, float]]) -> Table:
    """Runs on their common grid of steps."""
    first, steps = next((key, sorted(evaluations)) for key, evaluations in runs.items())
    for key, evaluations in runs.items():
        if sorted(evaluations) != steps:
            odd = min(set(evaluations).symmetric_difference(steps))
            has, lacks = (key, first) if odd in evaluations else (first, key)
            raise ValueError(
                f"{path}: {_run_name(has)} was evaluated at step {odd}, {_run_name(lacks)} was not (--last-step leaves "
                "out what came later, --common-steps what not all have)"
            )
    environments = tuple(dict.fromkeys(environment for _, environment, _ in runs))
    seeds: dict[str, tuple[tuple[int, ...], ...]] = {}
    returns: dict[str, tuple[Array, ...]] = {}
    for variant in dict.fromkeys(variant for variant, _, _ in runs):
        found = [sorted(key[2] for key in runs if key[:2] == (variant, name)) for name in environments]
        for name, here in zip(environments, found, strict=True):
            if not here:
                raise ValueError(f"{path} has no run of {variant} in {name}")
        seeds[variant] = tuple(tuple(here) for here in found)
        returns[variant] = tuple(
            np.array([[runs[variant, name, seed][step] for step in steps] for seed in here])
            for name, here in zip(environments, found, strict=True)
        )
    return Table(np.array(steps, dtype=np.float64), environments, seeds, returns)
