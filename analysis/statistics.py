"""``python -m analysis.statistics TABLE.csv``: what a table of learning curves says, and how surely.

Pure functions of arrays, then the command that reads a table of ``analysis.variants``. Axis 0 of every array holds
runs (seeds); every further axis is another quantity, and all of them are done at once. A stratum is the runs of one
variant in one environment: they are resampled among themselves.

With few seeds a bootstrap interval is too short, whatever it says; ``analysis.interval_coverage`` measures by how much
and ``MEASURED_COVERAGE`` holds the result.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import tyro
from numpy.typing import ArrayLike, NDArray
from scipy import special

from analysis.csv_lines import read_lines
from analysis.figure_style import INK, VARIANT_COLOURS, figure_style
from analysis.outputs import Output, check_figure, mark_of
from m3po.command_line import json_of, run
from m3po.flag_checks import Confidence, NotNegative, Seed, Within, check_fields

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = NDArray[np.float64]
Method = Literal["percentile", "bca"]
Statistic = Callable[[Sequence[Array]], Array]

# Resampled values in memory at a time; the results do not depend on it.
CHUNK = 2**20
# The name of the environment of a table that has no such column.
ONE_ENVIRONMENT = "all"
METHOD_NAMES: dict[Method, str] = {"percentile": "percentile", "bca": "BCa"}
LINE_STYLES = ("-", "--", ":", "-.")


@dataclass(frozen=True)
class Coverage:
    """Lowest and highest measured coverage over the simulated populations, for the interquartile mean and for the
    probability of improvement."""

    iqm: tuple[float, float]
    improvement: tuple[float, float]


# Of 95% intervals, by the number of seeds in one environment: python -m analysis.interval_coverage.
MEASURED_COVERAGE: dict[int, dict[Method, Coverage]] = {
    3: {"percentile": Coverage((0.74, 0.75), (0.45, 0.81)), "bca": Coverage((0.69, 0.75), (0.46, 0.91))},
    5: {"percentile": Coverage((0.89, 0.93), (0.69, 0.90)), "bca": Coverage((0.88, 0.90), (0.69, 0.95))},
    10: {"percentile": Coverage((0.93, 0.93), (0.86, 0.94)), "bca": Coverage((0.92, 0.92), (0.92, 0.97))},
    20: {"percentile": Coverage((0.94, 0.94), (0.90, 0.95)), "bca": Coverage((0.94, 0.95), (0.94, 0.97))},
}
# From this many seeds on none of the measured intervals misses much more than one time in ten.
ENOUGH_SEEDS = 20


@dataclass(frozen=True, eq=False)
class BootstrapInterval:
    """A statistic and the ends of its bootstrap interval, each a scalar or an array [...] of the runs' further axes.

    Attributes:
        estimate: the statistic of the runs themselves.
        lower, upper: the ends. They cover the statistic of the population with probability ``confidence`` only as the
            number of runs grows; see ``MEASURED_COVERAGE`` for how far from it a few runs are.
        confidence: asked for, in (0, 1).
        method: how the ends were read off the resamples.
        resamples: how many were drawn.
    """

    estimate: Any
    lower: Any
    upper: Any
    confidence: float
    method: Method
    resamples: int


def _runs(returns: ArrayLike, name: str = "returns") -> Array:
    """As float64 with axis 0 of runs, at least one, all finite."""
    values = np.asarray(returns, dtype=np.float64)
    if values.ndim == 0:
        raise ValueError(f"{name} must have an axis 0 of runs, got the scalar {values}")
    if len(values) == 0:
        raise ValueError(f"{name} must hold at least one run, got shape {values.shape}")
    if not np.isfinite(values).all():
        raise ValueError(f"{name} must be finite, got {values[~np.isfinite(values)].flat[0]}")
    return values


def _strata(strata: Sequence[ArrayLike], name: str = "strata") -> list[Array]:
    """Each checked by ``_runs``; at least one; the same further axes."""
    if isinstance(strata, np.ndarray) or len(strata) == 0:
        raise ValueError(f"{name} must be a sequence of at least one array of runs, one per environment")
    values = [_runs(each, f"{name}[{place}]") for place, each in enumerate(strata)]
    for place, each in enumerate(values):
        if each.shape[1:] != values[0].shape[1:]:
            raise ValueError(f"{name}[{place}] has further axes {each.shape[1:]}, {name}[0] has {values[0].shape[1:]}")
    return values


def normalise(returns: ArrayLike, low: float, high: float) -> Array:
    """(return - low)/(high - low): 0 at the low anchor, 1 at the high one, unbounded on both sides.

    Args:
        returns: any shape.
        low, high: two returns of the same environment, finite, low < high; say a random and an expert policy's.

    Raises:
        ValueError: when an anchor is not finite or they are not in order.
    """
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError(f"anchors must be finite with low < high, got low={low}, high={high}")
    return (np.asarray(returns, dtype=np.float64) - low) / (high - low)


def interquartile_mean(returns: ArrayLike) -> Array:
    """(x_(c+1) + ... + x_(N-c))/(N - 2 c) with x_(1) <= ... <= x_(N) the sorted runs and c = floor(N/4).

    Just ``scipy.stats.trim_mean(returns, 0.25)``: no run is ever trimmed in part, so fewer than a quarter go from each
    side unless 4 divides N. With N = 1, 2, 3 nothing is trimmed and it is the mean; with N = 5 one run of each side
    (20%) is left out, with N = 6 one (17%), with N = 7 one (14%), with N = 8 two (25%).

    Args:
        returns: [N, ...] runs, of all environments together, in any order; finite.

    Returns:
        [...].

    Raises:
        ValueError: when there is no run or a value is not finite.

    Source: Agarwal et al. 2021, "Deep reinforcement learning at the edge of the statistical precipice", section 4.3.
    """
    values = np.sort(_runs(returns), axis=0)
    cut = len(values) // 4
    kept = values[cut : len(values) - cut]
    # A running sum adds in the same order whatever the memory layout, so equal resamples tie exactly.
    return np.asarray(np.cumsum(kept, axis=0)[-1] / len(kept))


def pooled_interquartile_mean(strata: Sequence[ArrayLike]) -> Array:
    """``interquartile_mean`` of the runs of all environments put together: each [S_e, ...] -> [...].

    With unequal numbers of seeds an environment weighs as many runs as it has. Runs on different scales do not belong
    together: ``normalise`` first.

    Raises:
        ValueError: as ``interquartile_mean``; no environment; different further axes.
    """
    return interquartile_mean(np.concatenate(_strata(strata)))


def probability_of_improvement(first: Sequence[ArrayLike], second: Sequence[ArrayLike]) -> Array:
    """mean_e { #(x > y) + #(x = y)/2 }/(S_e Q_e), the pairs counted over runs x of ``first``, y of ``second`` in e.

    The probability that a fresh run of the first variant beats a fresh run of the second in an environment drawn at
    random; 0.5 says neither is better. It says nothing about by how much. Unchanged by any increasing transformation
    of an environment's returns.

    Args:
        first: one array [S_e, ...] of runs per environment e.
        second: one array [Q_e, ...] per environment, in the same order.

    Returns:
        [...], within [0, 1].

    Raises:
        ValueError: when the numbers of environments differ or there is none, further axes differ, or a value is not
            finite.

    Source: Agarwal et al. 2021, section 4.3 (the Mann-Whitney U statistic divided by the number of pairs).
    """
    ours, theirs = _strata(first, "first"), _strata(second, "second")
    if len(ours) != len(theirs):
        raise ValueError(f"first has {len(ours)} environments, second has {len(theirs)}")
    if ours[0].shape[1:] != theirs[0].shape[1:]:
        raise ValueError(f"first has further axes {ours[0].shape[1:]}, second has {theirs[0].shape[1:]}")
    total: Array = np.zeros(ours[0].shape[1:])
    for x, y in zip(ours, theirs, strict=True):
        # Whole numbers up to the one division, so that equal resamples tie exactly.
        twice = np.zeros(x.shape[1:], dtype=np.int64)
        for one in y:
            twice += 2 * (x > one).sum(axis=0) + (x == one).sum(axis=0)
        total = total + twice / (2 * len(x) * len(y))
    return np.asarray(total / len(ours))


def _bootstrap_statistics(
    statistic: Statistic, strata: Sequence[ArrayLike], resamples: int, generator: np.random.Generator
) -> tuple[list[Array], Array]:
    """The checked strata and the statistic of every resample, [B, ...]."""
    values = _strata(strata)
    for place, each in enumerate(values):
        if len(each) < 2:
            raise ValueError(f"a bootstrap needs at least 2 runs in every stratum, strata[{place}] has {len(each)}")
    if resamples < 1:
        raise ValueError(f"resamples must be at least 1, got {resamples}")
    drawn = [generator.integers(len(each), size=(len(each), resamples)) for each in values]
    width = max(1, CHUNK // sum(each.size for each in values))
    parts = [
        statistic([each[rows[:, start : start + width]] for each, rows in zip(values, drawn, strict=True)])
        for start in range(0, resamples, width)
    ]
    return values, np.concatenate(parts)


def bootstrap_distribution(
    statistic: Statistic, strata: Sequence[ArrayLike], *, resamples: int, generator: np.random.Generator
) -> Array:
    """statistic({x_e[i_e]}), i_e = S_e row numbers drawn uniformly with replacement, anew for each e and resample.

    Whole rows are drawn, so a resampled run keeps its whole learning curve.

    Args:
        statistic: a list of [S_e, ...] -> [...] that takes every further axis as another quantity.
        strata: one array [S_e, ...] per stratum, S_e >= 2; the statistic gets them in this order.
        resamples: B >= 1.
        generator: where the randomness comes from.

    Returns:
        [B, ...].

    Raises:
        ValueError: when there is no stratum or one has fewer than two runs, further axes differ, a value is not
            finite, or B < 1.

    Source: Agarwal et al. 2021, section 4.1; Davison & Hinkley 1997, "Bootstrap methods and their application", 3.2.
    """
    return _bootstrap_statistics(statistic, strata, resamples, generator)[1]


def _acceleration(statistic: Statistic, strata: Sequence[Array]) -> Array:
    """sum_e sum_j l_ej^3/S_e^3 / (6 {sum_e sum_j l_ej^2/S_e^2}^(3/2)), l_ej = (S_e - 1)(mean_i t_ei - t_ej).

    t_ej is the statistic without run j of stratum e. 0 where no run makes a difference.
    """
    cubes, squares = 0.0, 0.0
    for place, each in enumerate(strata):
        without = np.stack(
            [
                statistic([*strata[:place], np.delete(each, row, axis=0), *strata[place + 1 :]])
                for row in range(len(each))
            ]
        )
        influence = (len(each) - 1) * (without.mean(axis=0) - without)
        cubes = cubes + (influence**3).sum(axis=0) / len(each) ** 3
        squares = squares + (influence**2).sum(axis=0) / len(each) ** 2
    scale = np.asarray(6 * np.asarray(squares) ** 1.5)
    return np.asarray(np.divide(cubes, scale, out=np.zeros_like(scale), where=scale > 0))


def _quantiles(ordered: Array, levels: Array) -> Array:
    """Of each column of ``ordered`` [B, ...], sorted along axis 0, the quantile at its own level in ``levels`` [...].

    Linear between the order statistics, as numpy's default.
    """
    places = levels * (len(ordered) - 1)
    below = np.floor(places).astype(np.int64)
    above = np.minimum(below + 1, len(ordered) - 1)
    left = np.take_along_axis(ordered, below[None], axis=0)[0]
    right = np.take_along_axis(ordered, above[None], axis=0)[0]
    return np.asarray(left + (right - left) * (places - below))


def bootstrap_interval(
    statistic: Statistic,
    strata: Sequence[ArrayLike],
    *,
    generator: np.random.Generator,
    confidence: float = 0.95,
    resamples: int = 10_000,
    method: Method = "percentile",
) -> BootstrapInterval:
    """The quantiles of ``bootstrap_distribution`` at Phi(z0 + (z0 + z)/(1 - a (z0 + z))), z = Phi^-1((1 -+ c)/2).

    c is the confidence. "percentile": z0 = a = 0. "bca": z0 = Phi^-1 of the share of resamples below the estimate,
    ties counted half, and a the jackknife's acceleration over all strata. At z0 = +-infinity (every resample on one
    side of the estimate) the levels are 0 or 1. Ties are exact ones: a statistic should add up in an order that does
    not depend on the memory layout, as those here do.

    Args:
        statistic, strata, resamples, generator: as ``bootstrap_distribution``.
        confidence: c in (0, 1); at least one resample is wanted beyond each end, B (1 - c) >= 2.
        method: "percentile" or "bca".

    Raises:
        ValueError: as ``bootstrap_distribution``; a bad confidence or method; too few resamples for the confidence.

    Source: Efron 1987, "Better bootstrap confidence intervals"; Davison & Hinkley 1997, 5.3.2, for several strata.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie in (0, 1), got {confidence}")
    if method not in ("percentile", "bca"):
        raise ValueError(f"method must be 'percentile' or 'bca', got {method!r}")
    if resamples < fewest_resamples(confidence):
        raise ValueError(
            f"resamples must be at least {fewest_resamples(confidence)} at confidence {confidence}, got {resamples}"
        )
    values, distribution = _bootstrap_statistics(statistic, strata, resamples, generator)
    estimate = np.asarray(statistic(values))
    z = special.ndtri(np.array([(1 - confidence) / 2, (1 + confidence) / 2]))
    levels = special.ndtr(z).reshape(2, *(1,) * estimate.ndim) + np.zeros((2, *estimate.shape))
    if method == "bca":
        below = ((distribution < estimate).mean(axis=0) + (distribution <= estimate).mean(axis=0)) / 2
        bias = special.ndtri(below)
        finite = np.isfinite(bias)
        shifted = np.where(finite, bias, 0.0) + z.reshape(2, *(1,) * estimate.ndim)
        divisor = 1 - _acceleration(statistic, values) * shifted
        # Beyond its pole the formula turns back; the level has reached 0 or 1 there.
        stretched = np.divide(shifted, divisor, out=np.copysign(np.inf, shifted), where=divisor > 0)
        moved = special.ndtr(np.where(finite, bias, 0.0) + stretched)
        levels = np.where(finite, moved, below)
    distribution.sort(axis=0)
    lower, upper = (_quantiles(distribution, each) for each in levels)
    return BootstrapInterval(estimate[()], lower[()], upper[()], confidence, method, resamples)


def fewest_resamples(confidence: float) -> int:
    """The smallest B with one resample beyond each end, B (1 - c) >= 2, up to rounding of c."""
    return math.ceil(2 / (1 - confidence) - 1e-6)


def distinct_resamples(runs: int) -> int:
    """C(2 n - 1, n): how many different resamples n runs have, order aside; n >= 1.

    Raises:
        ValueError: when n < 1.
    """
    if runs < 1:
        raise ValueError(f"runs must be at least 1, got {runs}")
    return math.comb(2 * runs - 1, runs)


def probability_of_improvement_interval(
    first: Sequence[ArrayLike],
    second: Sequence[ArrayLike],
    *,
    generator: np.random.Generator,
    confidence: float = 0.95,
    resamples: int = 10_000,
    method: Method = "percentile",
) -> BootstrapInterval:
    """``bootstrap_interval`` of ``probability_of_improvement``, both variants resampled within each environment.

    When no two runs overlap, or all tie, every resample gives the same and the interval is that one point: not
    certainty, only all that these runs can show.

    Raises:
        ValueError: as these two.
    """
    ours, theirs = _strata(first, "first"), _strata(second, "second")
    if len(ours) != len(theirs):
        raise ValueError(f"first has {len(ours)} environments, second has {len(theirs)}")

    def statistic(strata: Sequence[Array]) -> Array:
        return probability_of_improvement(strata[: len(ours)], strata[len(ours) :])

    return bootstrap_interval(
        statistic, [*ours, *theirs], generator=generator, confidence=confidence, resamples=resamples, method=method
    )


def _evaluation_steps(steps: ArrayLike) -> Array:
    values = _runs(steps, "steps")
    if values.ndim != 1 or (np.diff(values) <= 0).any():
        raise ValueError(f"steps must be one increasing list, got {np.asarray(steps).tolist()}")
    return values


def sample_efficiency_curve(
    steps: ArrayLike,
    strata: Sequence[ArrayLike],
    *,
    generator: np.random.Generator,
    confidence: float = 0.95,
    resamples: int = 10_000,
    method: Method = "percentile",
) -> BootstrapInterval:
    """``bootstrap_interval`` of ``pooled_interquartile_mean`` at every evaluation: fields [E].

    A resample draws whole curves, the same runs at every step. Each step's interval stands alone: the band as a whole
    covers a whole curve less often.

    Args:
        steps: [E] environment steps of the evaluations, increasing.
        strata: one array [S_e, E] per environment.

    Raises:
        ValueError: as ``bootstrap_interval``; steps that do not increase; curves of another length.
    """
    grid, curves = _evaluation_steps(steps), _strata(strata)
    if curves[0].shape[1:] != grid.shape:
        raise ValueError(f"curves must have {len(grid)} evaluations, as steps, got further axes {curves[0].shape[1:]}")
    return bootstrap_interval(
        pooled_interquartile_mean, curves, generator=generator, confidence=confidence, resamples=resamples,
        method=method,
    )  # fmt: skip


def steps_to_reach(steps: ArrayLike, returns: ArrayLike, threshold: float) -> Array:
    """min{t_e : return at t_e >= threshold}, infinity where there is none: steps [E], returns [S, E] -> [S].

    The first evaluation that reaches it, which a lucky evaluation can do: a run may fall below again. Infinity keeps
    order statistics honest (the median is infinite unless more than half of the runs reach it); never average it away.

    Raises:
        ValueError: steps that do not increase, curves of another length, a value or threshold that is not finite.
    """
    grid, curves = _evaluation_steps(steps), _runs(returns)
    if curves.ndim != 2 or curves.shape[1:] != grid.shape:
        raise ValueError(f"returns must be [S, {len(grid)}], got shape {curves.shape}")
    if not math.isfinite(threshold):
        raise ValueError(f"threshold must be finite, got {threshold}")
    return np.asarray(np.where(curves >= threshold, grid, np.inf).min(axis=1))


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


@dataclass(frozen=True)
class StatisticsConfig:
    """Summarise the final evaluations (the last, not the best) of a table of learning curves: interquartile mean with
    its bootstrap interval over seeds, probability of improvement, steps to a threshold."""

    table: tyro.conf.Positional[Path]
    """CSV with the columns variant, seed, step, return, and environment if there are several, as analysis.variants
    writes it; lines that start with # are comments."""
    baseline: str | None = None
    """The variant that the others are compared with."""
    threshold: float | None = None
    """A return, normalised if --anchors is given: report the steps after which runs first reach it."""
    resamples: Annotated[int, Within(1, 10**5)] = 10_000
    """Bootstrap resamples of the seeds, at most 100000."""
    confidence: Confidence = 0.95
    """Of every interval, in (0, 1)."""
    method: Method = "percentile"
    """How interval ends are read off the resamples: their quantiles, or bias-corrected and accelerated ones."""
    seed: Seed = 0
    """Seed of the resampling."""
    anchors: tuple[str, ...] = ()
    """ENVIRONMENT=LOW,HIGH for each environment: replace every return by (return - LOW)/(HIGH - LOW). A table without
    the column has one environment, called all. Needed as soon as there are several."""
    last_step: NotNegative | None = None
    """Leave out evaluations after this step; the last one that is left is the final one."""
    environment: str | None = None
    """Read the rows of this environment only."""
    common_steps: bool = False
    """Leave out evaluations at steps that not every run has, instead of refusing the table."""
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False
    """Print JSON instead of a table."""
    figure: Path | None = None
    """Also draw the curves and the probabilities of improvement into this file (.png, .pdf, .svg)."""
    overwrite: bool = False
    """Replace the file of --figure even if this command did not write it; one that it wrote is replaced anyway."""

    def __post_init__(self) -> None:
        check_fields(self)
        if self.resamples < fewest_resamples(self.confidence):
            raise ValueError(
                f"--resamples must be at least {fewest_resamples(self.confidence)} at --confidence "
                f"{self.confidence}, got {self.resamples}"
            )
        check_figure("figure", self.figure)
        anchors_of(self.anchors)


def anchors_of(words: Sequence[str]) -> dict[str, tuple[float, float]]:
    """``ENVIRONMENT=LOW,HIGH`` -> {environment: (low, high)}.

    Raises:
        ValueError: naming the word that is not of this form, or whose anchors are not in order, or that comes twice.
    """
    anchors: dict[str, tuple[float, float]] = {}
    for word in words:
        name, _, ends = word.rpartition("=")
        try:
            low, high = (float(end) for end in ends.split(","))
            normalise(0.0, low, high)
        except ValueError as error:
            raise ValueError(f"--anchors must be ENVIRONMENT=LOW,HIGH with finite LOW < HIGH, got {word!r}") from error
        if not name or name in anchors:
            raise ValueError(f"--anchors needs each environment once, got {word!r}")
        anchors[name] = (low, high)
    return anchors


@dataclass(frozen=True, eq=False)
class VariantSummary:
    """What the table says about one variant.

    Attributes:
        name: the variant.
        finals: for each environment [S_e], the last evaluation of every run.
        iqm: [E] curve of the interquartile mean over the runs of all environments, without an interval where a stratum
            has a single run: NaN ends.
        improvement: probability of improvement over the baseline at the last evaluation; None without a baseline, for
            the baseline itself; NaN ends where a stratum has a single run.
        reaching: [all runs] steps to the threshold, infinity where a run never reaches it; None without one.
    """

    name: str
    finals: list[Array]
    iqm: BootstrapInterval
    improvement: BootstrapInterval | None
    reaching: Array | None

    @property
    def runs(self) -> Array:
        """The final evaluations of all environments together."""
        return np.concatenate(self.finals)


def _without_interval(estimate: Array, config: StatisticsConfig) -> BootstrapInterval:
    nothing = np.full_like(estimate, np.nan)
    return BootstrapInterval(estimate[()], nothing[()], nothing[()], config.confidence, config.method, 0)


def summarise(table: Table, config: StatisticsConfig) -> list[VariantSummary]:
    """Every variant, best final interquartile mean first.

    Every interval has a Generator of its own, spawned from the seed, so that it does not depend on which others are
    asked for.

    Raises:
        ValueError: when the baseline is not in the table.
    """
    if config.baseline is not None and config.baseline not in table.returns:
        raise ValueError(f"--baseline must be one of {', '.join(table.returns)}, got {config.baseline!r}")

    def settings(name: str, quantity: int) -> dict[str, Any]:
        generator = np.random.default_rng([config.seed, quantity, *name.encode()])
        return {
            "generator": generator, "confidence": config.confidence, "resamples": config.resamples,
            "method": config.method,
        }  # fmt: skip

    def single(*strata: Sequence[Array]) -> bool:
        return any(len(each) < 2 for group in strata for each in group)

    summaries = []
    for name, curves in table.returns.items():
        finals = table.finals(name)
        if single(curves):
            iqm = _without_interval(pooled_interquartile_mean(curves), config)
        else:
            iqm = sample_efficiency_curve(table.steps, curves, **settings(name, 0))
        improvement = None
        if config.baseline is not None and name != config.baseline:
            other = table.finals(config.baseline)
            if single(finals, other):
                improvement = _without_interval(probability_of_improvement(finals, other), config)
            else:
                improvement = probability_of_improvement_interval(finals, other, **settings(name, 1))
        reaching = None
        if config.threshold is not None:
            reaching = np.concatenate([steps_to_reach(table.steps, each, config.threshold) for each in curves])
        summaries.append(VariantSummary(name, finals, iqm, improvement, reaching))
    return sorted(summaries, key=lambda each: -each.iqm.estimate[-1])


def _range(ends: tuple[float, float]) -> str:
    low, high = (f"{end:.0%}" for end in ends)
    return low if low == high else f"{low} to {high}"


def _tie(table: Table, name: str, other: str) -> bool:
    """Whether a run of the one returned the same as a run of the other in some environment."""
    return any(
        np.isin(ours, theirs).any() for ours, theirs in zip(table.finals(name), table.finals(other), strict=True)
    )


def notes(table: Table, config: StatisticsConfig, summaries: Sequence[VariantSummary]) -> list[str]:
    """What the reader of the intervals has to know: how few the seeds are, and where an interval says nothing."""
    counts = [len(seeds) for each in table.seeds.values() for seeds in each]
    lines = []
    if table.cut:
        lines.append(
            f"left out: later evaluations of {', '.join(table.cut)}; at {table.steps[-1]:,.0f} steps their runs were "
            "not over"
        )
    if min(counts) < 2:
        lines.append("a stratum with a single seed has no bootstrap interval")
    fewest = min((count for count in counts if count > 1), default=None)
    if fewest is not None:
        # With fewer seeds than were measured, the fewest measured: theirs flatters.
        known = max((n for n in MEASURED_COVERAGE if n <= fewest), default=min(MEASURED_COVERAGE))
        covered = MEASURED_COVERAGE[known][config.method]
        sure = (
            f"with {known} seeds in one environment 95% {METHOD_NAMES[config.method]} intervals held the population's "
            f"IQM in {_range(covered.iqm)} and the probability of improvement in {_range(covered.improvement)} of "
            "simulated experiments"
        )
        few = "too few for the intervals to mean what they say; " if fewest < ENOUGH_SEEDS else ""
        lines.append(
            f"{fewest} seeds have {distinct_resamples(fewest):,} different resamples: {few}measured coverage: {sure} "
            "(python -m analysis.interval_coverage)"
        )
    if min(counts) < 4 and len(table.environments) == 1:
        lines.append("of fewer than 4 runs none is trimmed: their IQM is their mean")
    apart = [
        each.name
        for each in summaries
        if each.improvement is not None and each.improvement.lower == each.improvement.upper
    ]
    tied = [name for name in apart if config.baseline is not None and _tie(table, name, config.baseline)]
    for names, meaning in (
        ([name for name in apart if name not in tied], "no runs overlap, not that none ever would"),
        (tied, "all these runs tie, not that all would"),
    ):
        if names:
            lines.append(f"an interval of a single point ({', '.join(names)}) means that {meaning}")
    return lines


def _finite(value: Any) -> Any:
    """For JSON: NaN and infinity, "there is none", as null."""
    if isinstance(value, np.ndarray):
        return [_finite(each) for each in value.tolist()]
    return float(value) if math.isfinite(value) else None


def _ends(interval: BootstrapInterval) -> dict[str, Any]:
    return {name: _finite(getattr(interval, name)) for name in ("estimate", "lower", "upper")}


def as_record(table: Table, config: StatisticsConfig, summaries: Sequence[VariantSummary]) -> dict[str, Any]:
    """The ``--json`` object. A step that is null was not reached; an end that is null does not exist."""
    variants = {}
    for each in summaries:
        variants[each.name] = entry = {
            "seeds": {
                name: list(seeds) for name, seeds in zip(table.environments, table.seeds[each.name], strict=True)
            },
            "final_returns": {
                name: values.tolist() for name, values in zip(table.environments, each.finals, strict=True)
            },
            "mean": float(each.runs.mean()),
            "iqm": {name: None if values is None else values[-1] for name, values in _ends(each.iqm).items()},
            "median": float(np.median(each.runs)),
            "worst": float(each.runs.min()),
            "iqm_curve": _ends(each.iqm),
        }
        if config.baseline is not None:
            entry["probability_of_improvement"] = None if each.improvement is None else _ends(each.improvement)
        if each.reaching is not None:
            entry["steps_to_threshold"] = {
                "runs": _finite(each.reaching),
                "reached": int(np.isfinite(each.reaching).sum()),
                "median": _finite(np.median(each.reaching)),
            }
    return {
        "step": int(table.steps[-1]),
        "steps": table.steps.astype(int).tolist(),
        "environments": list(table.environments),
        "normalised": bool(config.anchors),
        "baseline": config.baseline,
        "threshold": config.threshold,
        "confidence": config.confidence,
        "method": config.method,
        "resamples": config.resamples,
        "variants": variants,
        "notes": notes(table, config, summaries),
    }


def _interval_text(interval: BootstrapInterval, decimals: int) -> str:
    if not math.isfinite(np.ravel(interval.lower)[-1]):
        return "none"
    return f"[{np.ravel(interval.lower)[-1]:.{decimals}f}, {np.ravel(interval.upper)[-1]:.{decimals}f}]"


def _reaching_text(reaching: Array) -> str:
    """The median and how many runs it rests on."""
    median = np.median(reaching)
    shown = f"{median:,.0f}" if math.isfinite(median) else "not reached"
    return f"{shown} ({np.isfinite(reaching).sum()} of {len(reaching)})"


def text(table: Table, config: StatisticsConfig, summaries: Sequence[VariantSummary]) -> str:
    """The summary as a table, best interquartile mean first, and the notes."""
    decimals = 3 if config.anchors else 1
    places = len(table.environments)
    where = "" if places == 1 else f", {places} environments"
    head = ["variant", "seeds", "mean", "IQM", "interval", "median", "worst"]
    if config.baseline is not None:
        head += [f"P(better than {config.baseline})", "interval"]
    if config.threshold is not None:
        head.append(f"median steps to {config.threshold:g} (runs that reach it)")
    rows = [head]
    for each in summaries:
        counts = sorted({len(values) for values in each.finals})
        row = [
            each.name,
            str(counts[0]) if len(counts) == 1 else f"{counts[0]}-{counts[-1]}",
            f"{each.runs.mean():.{decimals}f}",
            f"{each.iqm.estimate[-1]:.{decimals}f}",
            _interval_text(each.iqm, decimals),
            f"{np.median(each.runs):.{decimals}f}",
            f"{each.runs.min():.{decimals}f}",
        ]
        if config.baseline is not None:
            row += (
                ["baseline", ""]
                if each.improvement is None
                else [f"{each.improvement.estimate:.2f}", _interval_text(each.improvement, 2)]
            )
        if each.reaching is not None:
            row.append(_reaching_text(each.reaching))
        rows.append(row)
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    lines = [
        f"final evaluation (the last, not the best) after {table.steps[-1]:,.0f} steps{where}"
        f"{', normalised returns' if config.anchors else ''}; {config.confidence:.0%} {METHOD_NAMES[config.method]} "
        f"bootstrap intervals over seeds, {config.resamples:,} resamples"
    ]
    for row in rows:
        cells = [row[0].ljust(widths[0])] + [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("  ".join(cells).rstrip())
    return "\n".join([*lines, *(f"note: {line}" for line in notes(table, config, summaries))])


def draw(table: Table, config: StatisticsConfig, summaries: Sequence[VariantSummary]) -> Figure:
    """Left: interquartile mean at every evaluation, with bands. Right: probability of improvement over the baseline."""
    from matplotlib.figure import Figure

    compared = config.baseline is not None and len(summaries) > 1
    figure = Figure(figsize=(10.0 if compared else 6.0, 4.0), layout="constrained")
    panels = figure.subplots(1, 2 if compared else 1, squeeze=False, width_ratios=(1.35, 1) if compared else (1,))[0]
    look = looks(list(table.returns))
    _draw_curves(panels[0], table, config, summaries, look)
    if compared:
        _draw_improvement(panels[1], config, summaries, look)
    seeds = sorted({len(each) for variant in table.seeds.values() for each in variant})
    count = f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
    many = "" if len(table.environments) == 1 else f" in each of {len(table.environments)} environments"
    figure.suptitle(
        f"{count} seed{'' if seeds == [1] else 's'} per variant{many}; {config.confidence:.0%} "
        f"{METHOD_NAMES[config.method]} bootstrap intervals over seeds, {config.resamples:,} resamples",
        x=0.01, ha="left", fontsize=9,
    )  # fmt: skip
    return figure


def looks(names: Sequence[str]) -> dict[str, tuple[str, str]]:
    """A colour and a line style per name: a variant's own, and for others what is left, then dashed, then dotted."""
    pairs = [(colour, style) for style in LINE_STYLES for colour in VARIANT_COLOURS.values()]
    taken = {name: (VARIANT_COLOURS[name], LINE_STYLES[0]) for name in names if name in VARIANT_COLOURS}
    free = itertools.cycle([pair for pair in pairs if pair not in taken.values()])
    return {name: taken[name] if name in taken else next(free) for name in names}


def _draw_curves(
    axes: Axes,
    table: Table,
    config: StatisticsConfig,
    summaries: Sequence[VariantSummary],
    look: dict[str, tuple[str, str]],
) -> None:
    for each in summaries:
        colour, style = look[each.name]
        axes.plot(table.steps, each.iqm.estimate, color=colour, ls=style, label=each.name)
        axes.fill_between(table.steps, each.iqm.lower, each.iqm.upper, color=colour, alpha=0.13, lw=0)
    if config.threshold is not None:
        axes.axhline(config.threshold, color=INK, lw=0.9, ls=":", zorder=0)
    axes.set_xlabel("real environment steps")
    axes.set_ylabel("normalised return of an episode" if config.anchors else "return of an episode")
    axes.set_title("interquartile mean over runs", loc="left")
    axes.legend(loc="lower right", fontsize=7.5, ncols=2 if len(summaries) > 4 else 1)


def _draw_improvement(
    axes: Axes, config: StatisticsConfig, summaries: Sequence[VariantSummary], look: dict[str, tuple[str, str]]
) -> None:
    shown = [each for each in summaries if each.improvement is not None]
    for place, each in enumerate(shown):
        colour, _ = look[each.name]
        interval = each.improvement
        assert interval is not None
        if math.isfinite(interval.lower):
            axes.plot(
                [interval.lower, interval.upper], [place, place], color=colour, lw=5, alpha=0.35, solid_capstyle="butt"
            )
        axes.plot(interval.estimate, place, "o", color=colour, markersize=6)
    axes.axvline(0.5, color=INK, lw=0.9, ls=":", zorder=0)
    axes.set_yticks(range(len(shown)), [each.name for each in shown])
    axes.set_ylim(len(shown) - 0.5, -0.5)
    axes.set_xlim(-0.03, 1.03)
    axes.set_xlabel("probability")
    axes.set_title(f"a run is better than one of {config.baseline}", loc="left")


def main(config: StatisticsConfig) -> int:
    output = None
    if config.figure is not None:
        mark = mark_of("analysis.statistics")
        output = Output("figure", config.figure, mark, config.overwrite, (config.table,)).check()
    table = read_table(config.table, config.last_step, environment=config.environment, common_steps=config.common_steps)
    if config.anchors:
        table = table.normalised(anchors_of(config.anchors))
    elif len(table.environments) > 1:
        raise ValueError(
            f"returns of {', '.join(table.environments)} are on different scales: give --anchors ENVIRONMENT=LOW,HIGH "
            "of each (0,1 where they are normalised already)"
        )
    summaries = summarise(table, config)
    if config.as_json:
        print(json_of(as_record(table, config, summaries)))
    else:
        print(text(table, config, summaries))
    if output is not None:
        with figure_style():
            output.write_figure(draw(table, config, summaries))
        print(f"figure: {output.path}", file=sys.stderr)
    return 0


def cli(arguments: Sequence[str] | None = None) -> None:
    run(main, StatisticsConfig, arguments, prog="python -m analysis.statistics")


if __name__ == "__main__":
    cli()
