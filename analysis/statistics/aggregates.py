"""Aggregates of final returns: interquartile mean, probability of improvement, steps to a threshold."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


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
    """Returns on a scale on which environments can be compared.

    (return - low)/(high - low): 0 at the low anchor, 1 at the high one, unbounded on both sides.

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
    """The mean of the middle half of the runs.

    (x_(c+1) + ... + x_(N-c))/(N - 2 c) with x_(1) <= ... <= x_(N) the sorted runs and c = floor(N/4).

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
    """How often a run of the first variant beats one of the second, in the same environment.

    mean_e { #(x > y) + #(x = y)/2 }/(S_e Q_e), the pairs counted over runs x of ``first``, y of ``second`` in e.

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


def _evaluation_steps(steps: ArrayLike) -> Array:
    values = _runs(steps, "steps")
    if values.ndim != 1 or (np.diff(values) <= 0).any():
        raise ValueError(f"steps must be one increasing list, got {np.asarray(steps).tolist()}")
    return values


def steps_to_reach(steps: ArrayLike, returns: ArrayLike, threshold: float) -> Array:
    """After how many real steps each run first reaches the threshold.

    min{t_e : return at t_e >= threshold}, infinity where there is none: steps [E], returns [S, E] -> [S].

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
