"""Stratified bootstrap intervals: percentile, and bias-corrected and accelerated."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from analysis.flags.statistics import Method, check_resamples
from analysis.statistics.aggregates import (
    Array,
    _evaluation_steps,
    _strata,
    pooled_interquartile_mean,
    probability_of_improvement,
)

Statistic = Callable[[Sequence[Array]], Array]

# Resampled values in memory at a time; the results do not depend on it.
CHUNK = 2**20


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
    """The statistic of every bootstrap resample, the runs of each environment drawn among themselves.

    statistic({x_e[i_e]}), i_e = S_e row numbers drawn uniformly with replacement, anew for each e and resample.

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
    """A stratified bootstrap interval for a statistic, by percentiles or bias-corrected and accelerated.

    The quantiles of ``bootstrap_distribution`` at Phi(z0 + (z0 + z)/(1 - a (z0 + z))), z = Phi^-1((1 -+ c)/2).

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
    check_resamples(resamples, confidence)
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


def distinct_resamples(runs: int) -> int:
    """How many different bootstrap resamples so few runs have.

    C(2 n - 1, n): how many different resamples n runs have, order aside; n >= 1.

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
