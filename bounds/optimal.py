"""Theorem 3: the smallest valid discrepancies (optimal-*), and their closed, uncapped relaxations (linear-*).

The optimal value is a series over time with a cap at total variation 1 in every term. It is evaluated in closed form in
time and, for the branched scheme, with one pass over at most min(k, N) rollout positions; ``truncation_length`` proves
what is lost by stopping at N.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import sympy

from bounds.bound import Arguments, Bound, FloatArray, closed_form
from bounds.paper import ERRORS_AS_DEFINED, averaged_model_steps
from bounds.symbols import eps_m, eps_pi, gamma, i, j, k, r_max, t

SOURCE = "this project, Theorem 3 (docs/theory.md)"
BRANCHED_RETURN = "the branched return is the average over i = 1..min(t, k) model steps"

# Elements of one numpy operation: large enough to hide Python's overhead, small enough to stay in cache.
TILE = 2**15
# No power of a float64 below 1 is above the smallest float after this many steps.
FOREVER = 1e300


def _linear_full(x: Arguments) -> Any:
    return 2 * x.r_max * x.gamma * (x.eps_m + x.eps_pi) / (1 - x.gamma) ** 2


def _linear_branched(x: Arguments) -> Any:
    return x.r_max * (averaged_model_steps(x) * x.eps_m + 2 * x.gamma * x.eps_pi / (1 - x.gamma) ** 2)


def divergence_expression(time: sympy.Expr, model_steps: sympy.Expr) -> sympy.Expr:
    """The largest possible divergence of the laws of the history, as a sympy expression.

    u(t, i) = min{1, 1 - (1-eps_pi)^t + eps_m sum_{j<i} (1-eps_pi)^j}, the largest TV at t after i model steps.
    """
    drift = sympy.Sum((1 - eps_pi) ** j, (j, 0, model_steps - 1))
    return sympy.Min(1, 1 - (1 - eps_pi) ** time + eps_m * drift)


OPTIMAL_FULL_EXPRESSION: sympy.Expr = 2 * r_max * sympy.Sum(gamma**t * divergence_expression(t, t), (t, 1, sympy.oo))
OPTIMAL_BRANCHED_EXPRESSION: sympy.Expr = (
    2
    * r_max
    * sympy.Sum(
        gamma**t / sympy.Min(t, k) * sympy.Sum(divergence_expression(t, i), (i, 1, sympy.Min(t, k))), (t, 1, sympy.oo)
    )
)


def _geometric(base_log: FloatArray, one_minus_base: FloatArray, length: FloatArray) -> FloatArray:
    """sum_{j < n} b^j = (1 - b^n) / (1 - b) for n >= 0, and n where b = 1; b is given by its logarithm and 1 - b."""
    flat = one_minus_base == 0
    with np.errstate(invalid="ignore"):
        ratio = -np.expm1(length * base_log) / np.where(flat, 1.0, one_minus_base)
    return np.where(length == 0, 0.0, np.where(flat, length, ratio))


def _first_time_capped(needed_power: FloatArray, log_q: FloatArray) -> FloatArray:
    """The first whole t >= 1 with (1-eps_pi)^t <= needed_power; FOREVER where there is none."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        time = np.ceil(np.log(needed_power) / log_q)
    time = np.where(needed_power >= 1, 1.0, np.where(needed_power <= 0, FOREVER, time))
    return np.clip(np.where(np.isnan(time), FOREVER, time), 1.0, FOREVER)


def _optimal_full(x: Arguments) -> FloatArray:
    """R/(1-gamma) [ (eps_pi+eps_m) gamma sum_{j<n} (gamma q)^j + gamma^(n+1) (1 - (eps_pi+eps_m) sum_{j<n} q^j) ].

    q = 1 - eps_pi, and n is the last time at which u(n, n) < 1. This is summation by parts of sum_t gamma^t u(t, t):
    every term is positive, the weights gamma^t of the increments of u are at least gamma^(n+1), and the increments add
    up to 1, so the rounding of the last bracket costs at most an ulp of the whole; hence an n that is off by one
    through rounding is harmless too.
    """
    g, m, p = np.broadcast_arrays(x.gamma, x.eps_m, x.eps_pi)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        log_q, log_g = np.log1p(-p), np.log(g)
        # u(t, t) < 1 iff q^t (eps_pi + eps_m) > eps_m
        capped = np.where(p == 0, 1 / m, np.log1p(p / m) / -log_q)
    capped = np.where(m + p == 0, FOREVER, np.where((p == 1) | (m >= 1), 1.0, capped))
    n = np.maximum(np.ceil(np.minimum(capped, FOREVER)) - 1, 0.0)
    with np.errstate(invalid="ignore", over="ignore"):
        discounted = _geometric(log_g + log_q, (1 - g) + g * p, n)
        reached = (m + p) * _geometric(log_q, p, n)
        last = np.where(g == 0, 0.0, g * np.exp(n * log_g))
    bracket = (m + p) * g * discounted + last * np.maximum(1 - reached, 0.0)
    return np.asarray(2 * x.r_max * np.where(m + p == 0, 0.0, bracket) / (1 - g))


def truncation_length(discount: FloatArray) -> FloatArray:
    """After how many terms the sum in the optimal discrepancy can be cut off, however long the rollout is.

    N with |C*(k) - C*(N)| <= exp(-40) C*(k) for every k >= N and all errors: longer rollouts need no longer sums.

    C*(k) and C*(N) differ only at times t > N, there by at most gamma^t u(t, t) <= gamma^t t u(1, 1), and
    C*(k) >= u(1, 1) gamma/(1-gamma); so the relative difference is at most gamma^N (N + 1/(1-gamma)). With
    A = 40 + log(1/(1-gamma)), any N >= (A + log 2A)/log(1/gamma) makes that at most exp(-40) < 5e-18.
    """
    reach = 40 - np.log1p(-discount)
    with np.errstate(divide="ignore"):
        return np.asarray(np.ceil((reach + np.log(2 * reach)) / -np.log(discount)) + 1)


def _sum_of_drifts(n: FloatArray, p: FloatArray, drift: FloatArray) -> FloatArray:
    """sum_{i=1}^n s_i with s_i = (1-(1-p)^i)/p, given s_n: (n - (1-p) s_n)/p, or its binomial series for small n p.

    The series sum_j C(n+1, j+2) (-p)^j alternates with terms shrinking by at least n p/(j+3); stopped after 15 terms at
    n p <= 1/2 the remainder is below (1/2)^15 2/17! < 2e-19 of the first term.
    """
    small = n * p <= 0.5
    with np.errstate(divide="ignore", invalid="ignore"):
        closed = (n - (1 - p) * drift) / p
    if not np.any(small):
        return closed
    series = np.ones(small.shape)
    for order in range(14, 0, -1):
        series = 1 - p * (n - order) / (order + 2) * series
    return np.where(small, n * (n + 1) / 2 * series, closed)


def _branched_tile(
    g: FloatArray, m: FloatArray, p: FloatArray, length: FloatArray, start: int, stop: int
) -> FloatArray:
    """The share of positions start <= n < stop in (1-gamma) C*/R, per point (rows); ``length`` is k.

    Position n contributes as a time n < k, where rollouts of 1..n steps are averaged, and as a rollout of n <= k steps,
    whose whole future t >= k is summed by parts.
    """
    n = np.arange(start, stop, dtype=np.float64)[None, :]
    with np.errstate(divide="ignore"):
        log_g, log_q = np.log(g), np.log1p(-p)
    q_n, lost_n = np.exp(n * log_q), -np.expm1(n * log_q)
    drift = np.where(p == 0, n, lost_n / np.where(p == 0, 1.0, p))
    total = np.zeros(g.shape[0])

    if start < np.max(length):
        early = n < length
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            # eps_m s_i < q^n iff i is below this
            ratio = p * q_n / m
            first = np.where(p == 0, 1 / m, np.log1p(-np.minimum(ratio, 1.0)) / log_q)
        first = np.where((m == 0) | (ratio >= 1), FOREVER, first)
        uncapped = np.clip(np.ceil(np.minimum(first, n + 1)) - 1, 0.0, n)
        with np.errstate(invalid="ignore"):
            drift_there = np.where(p == 0, uncapped, -np.expm1(uncapped * log_q) / np.where(p == 0, 1.0, p))
        drift_there = np.where(uncapped == 0, 0.0, drift_there)
        inner = (n - uncapped) + uncapped * lost_n + m * _sum_of_drifts(uncapped, p, drift_there)
        total += np.sum(np.where(early, np.exp((n - 1) * log_g) * inner / n, 0.0), axis=1) * (g * (1 - g))[:, 0]

    here = n <= length
    q_k = np.exp(length * log_q)
    at_k = np.minimum(m * drift - np.expm1(length * log_q), 1.0)
    capped = np.maximum(_first_time_capped(m * drift, log_q), length)
    steps = np.maximum(capped - 1 - length, 0.0)
    with np.errstate(invalid="ignore", over="ignore"):
        increments = p * g * q_k * _geometric(log_g + log_q, (1 - g) + g * p, steps)
        beyond = np.exp((capped - length) * log_g) * np.maximum(np.exp((capped - 1) * log_q) - m * drift, 0.0)
    future = np.where(capped <= length, 1.0, at_k + increments + np.where(capped >= FOREVER, 0.0, beyond))
    total += np.sum(np.where(here, future, 0.0), axis=1) * (g * np.exp((length - 1) * log_g) / length)[:, 0]
    return total


def _optimal_branched(x: Arguments) -> FloatArray:
    """The sum over positions 1..min(k, N, first time at which one model step is capped), in tiles of fixed memory.

    Time is proportional to that length: about 0.15 s of CPU per million positions of one point.
    """
    arrays = np.broadcast_arrays(x.gamma, x.eps_m, x.eps_pi, x.k)
    shape = arrays[0].shape
    g, m, p, length = (np.ravel(array) for array in arrays)
    value = np.zeros(g.shape)
    # From the time on at which one model step is capped, every mean is 1 whatever k; without model error k is void.
    with np.errstate(divide="ignore"):
        longest = np.minimum(truncation_length(g), _first_time_capped(m, np.log1p(-p)))
    length = np.minimum(length, np.where(m == 0, 1.0, longest))
    order = np.argsort(length, kind="stable")
    order = order[(g[order] > 0) & ((m + p)[order] > 0)]
    done = 0
    while done < order.size:
        # Points sorted by length, so that a block of rows wastes little on the shorter ones.
        rows = order[done : done + max(1, int(TILE // length[order[done]]))]
        rows = rows[: max(1, int(TILE // length[rows[-1]]))]
        done += rows.size
        columns = (g[rows, None], m[rows, None], p[rows, None], length[rows, None])
        longest_here = int(length[rows[-1]])
        parts = [
            _branched_tile(*columns, start, min(start + TILE, longest_here + 1))
            for start in range(1, longest_here + 1, TILE)
        ]
        value[rows] = np.sum(parts, axis=0) / (1 - g[rows])
    return np.asarray(2 * x.r_max * value.reshape(shape))


LINEAR_FULL = closed_form(
    name="linear-full",
    source=f"{SOURCE}, uncapped",
    assumptions=ERRORS_AS_DEFINED,
    scheme="full",
    formula=_linear_full,
)

LINEAR_BRANCHED = closed_form(
    name="linear-branched",
    source=f"{SOURCE}, uncapped",
    assumptions=(*ERRORS_AS_DEFINED, BRANCHED_RETURN),
    scheme="branched",
    formula=_linear_branched,
)

OPTIMAL_FULL = Bound(
    name="optimal-full",
    source=SOURCE,
    assumptions=ERRORS_AS_DEFINED,
    scheme="full",
    expression=OPTIMAL_FULL_EXPRESSION,
    formula=_optimal_full,
)

OPTIMAL_BRANCHED = Bound(
    name="optimal-branched",
    source=SOURCE,
    assumptions=(*ERRORS_AS_DEFINED, BRANCHED_RETURN),
    scheme="branched",
    expression=OPTIMAL_BRANCHED_EXPRESSION,
    formula=_optimal_branched,
)

BOUNDS: tuple[Bound, ...] = (LINEAR_FULL, LINEAR_BRANCHED, OPTIMAL_FULL, OPTIMAL_BRANCHED)
