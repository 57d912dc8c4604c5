"""A lower confidence bound for the mean of nonnegative numbers that have no upper range, such as weighted returns."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.special import expit

from bounds.bound import FloatArray

# Shares of the capital, evenly spaced in log(f/(1-f)): the small ones for many or widely spread samples, the large ones
# for few samples that hardly differ.
BETS: tuple[float, ...] = tuple(float(f) for f in expit(np.arange(4.8, -7.3, -1.2)))

_STEPS = 200
_PRECISION = 1e-13
_CHUNK = 2_000_000  # numbers held at once


def nonnegative_lower(
    samples: npt.ArrayLike,
    confidence: float = 0.95,
    *,
    bets: npt.ArrayLike = BETS,
    running: bool = False,
) -> FloatArray:
    """A lower confidence bound on the mean of nonnegative draws that have no known upper end.

    The largest m with avg_f prod_n (1 - f + f X_n/m) >= 1/delta; the mean is at least m with probability 1 - delta.

    At m = the mean, each product is a nonnegative martingale that starts at 1, and so is their average over the fixed
    bets f; by Ville's inequality it ever reaches 1/delta with probability at most delta. Nothing is assumed about the
    largest possible sample. It is enough that each sample's mean *given the ones before it* is the same (or at most the
    mean that is bounded): the samples may come from several, or adaptively chosen, data policies. Independent samples
    of *different* means, such as rows stacked by task, are allowed without ``running``: then the bound is one for the
    average of their means, since E prod_n (1 - f + f X_n/m) = prod_n (1 - f + f E X_n/m) is at most the n-th power of
    the factors' average, which is 1. With ``running`` they are not: the first rows alone would be believed.

    Args:
        samples: [n, ...], n >= 1 draws >= 0 along axis 0; every further axis is another quantity.
        confidence: 1 - delta in (0, 1), for each quantity separately.
        bets: f in (0, 1), at least one; chosen without looking at the samples.
        running: also use the capital at every earlier n. The bound after each n is then the largest so far, and all of
            them hold together with probability 1 - delta: one may look after every sample, and stop at any. False: the
            capital after all n alone, which does not depend on the order of the samples.

    Returns:
        [...], or with ``running`` [n, ...], non-decreasing along axis 0. 0 where nothing is rejected. Rounded down by
        at most 1e-12 relative.

    Raises:
        ValueError: no samples, a negative, infinite or NaN one, a confidence or a bet outside (0, 1).

    Source:
        Ville's inequality for a mixture of fixed bets (docs/theory.md); compare Waudby-Smith & Ramdas 2023.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie in (0, 1), got {confidence}")
    shares = np.asarray(bets, dtype=np.float64)
    if shares.ndim != 1 or shares.size == 0 or not ((shares > 0) & (shares < 1)).all():
        raise ValueError(f"bets must be a list of numbers in (0, 1), got {bets!r}")
    values = np.asarray(samples, dtype=np.float64)
    if values.ndim == 0 or values.shape[0] == 0:
        raise ValueError(f"samples must hold at least one draw along axis 0, got shape {values.shape}")
    wrong = ~((values >= 0) & (values < np.inf))
    if wrong.any():
        raise ValueError(f"samples must be nonnegative and finite, got {values[wrong].flat[0]}")
    flat = values.reshape(len(values), -1)
    target = -np.log1p(-confidence)
    chunk = max(1, _CHUNK // (len(values) * len(shares)))
    solve = _running if running else _root
    parts = [solve(flat[:, first : first + chunk], shares, target) for first in range(0, flat.shape[1], chunk)]
    bound = np.concatenate(parts, axis=-1) if parts else np.zeros(0)
    return bound.reshape(values.shape if running else values.shape[1:])[()]


def _log_capital(log_scaled: FloatArray, log_mean: FloatArray, shares: FloatArray) -> tuple[FloatArray, FloatArray]:
    """log avg_f prod_n (1 - f + f X_n/m) at log m, [M], from log X [n, M], and its derivative in log m."""
    log_gain = np.log(shares)[:, None, None] + (log_scaled - log_mean)
    log_factor = np.logaddexp(np.log1p(-shares)[:, None, None], log_gain)
    log_product = log_factor.sum(axis=1)
    log_total = np.logaddexp.reduce(log_product, axis=0)
    slope = -(np.exp(log_gain - log_factor).sum(axis=1) * np.exp(log_product - log_total)).sum(axis=0)
    return log_total - np.log(len(shares)), slope


def _root(numbers: FloatArray, shares: FloatArray, target: float, below: FloatArray | None = None) -> FloatArray:
    """The m at which the capital is exp(target), [M]: Newton's method in log m, where log capital is convex and falls.

    From a point where the capital is too large, such as ``below`` where it is not 0, every step stays there: the bound
    is approached from below.
    """
    largest = numbers.max(axis=0)
    scale = np.where(largest > 0.0, largest, 1.0)
    with np.errstate(divide="ignore"):
        log_scaled = np.log(numbers / scale)
        # One factor alone, f X_max/m, and 1 - f for the others, already reach the target here.
        alone = (len(numbers) - 1) * np.log1p(-shares) + np.log(shares) - np.log(len(shares)) - target
        log_mean = np.full(scale.shape, alone.max())
        if below is not None:
            log_mean = np.maximum(log_mean, np.log(below / scale))
    active = np.flatnonzero(largest > 0.0)
    for _ in range(_STEPS):
        capital, slope = _log_capital(log_scaled[:, active], log_mean[active], shares)
        step = (target - capital) / slope
        log_mean[active] += np.maximum(step, 0.0)
        active = active[step > _PRECISION]
        if active.size == 0:
            break
    # Rounding may have left the last step on the other side.
    return np.where(largest > 0.0, np.exp(log_mean - 4 * _PRECISION) * largest, 0.0)


def _running(numbers: FloatArray, shares: FloatArray, target: float) -> FloatArray:
    """The bound after each n, [n, M]: the largest root so far, searched for where the last one is exceeded."""
    bounds, best = np.zeros(numbers.shape), np.zeros(numbers.shape[1])
    with np.errstate(divide="ignore"):
        log_numbers = np.log(numbers)
    for n in range(1, len(numbers) + 1):
        improved = (best == 0.0) & (numbers[n - 1] > 0.0)
        known = np.flatnonzero(best > 0.0)
        if known.size:
            capital, _ = _log_capital(log_numbers[:n, known], np.log(best[known]), shares)
            improved[known] = capital > target
        if improved.any():
            best[improved] = np.maximum(best[improved], _root(numbers[:n, improved], shares, target, best[improved]))
        bounds[n - 1] = best
    return bounds
