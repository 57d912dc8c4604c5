"""optimal-* and linear-*: derived from their sums, compared with arbitrary precision, limits, speed."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from typing import Any

import mpmath
import numpy as np
import pytest
import sympy
from hypothesis import given, settings
from hypothesis import strategies as st

from bounds import get
from bounds.optimal import truncation_length
from bounds.symbols import eps_m, eps_pi, gamma, k, r_max

RELATIVE = 1e-12
DIGITS = 60
DISCOUNTS = (0.0, 0.5, 0.9, 0.99, 0.9999, 1 - 1e-6)
LENGTHS = (1, 2, 10, 1000, 10**6)
ERRORS = (0.0, 1e-9, 0.01, 0.3, 1.0)
FRACTION_BITS = 192


def brute_force(
    discount: float, model_error: float, policy_divergence: float, rollout_length: int | None, last: int
) -> Any:
    """sum_{t=1}^last of the definition (R = 2), one loop per sum; rollout_length None is the full model."""
    with mpmath.workdps(DIGITS):
        g, m, p = (mpmath.mpf(float(x)) for x in (discount, model_error, policy_divergence))
        total = mpmath.mpf(0)
        for t in range(1, last + 1):
            steps = [t] if rollout_length is None else range(1, min(t, rollout_length) + 1)
            values = [min(mpmath.mpf(1), 1 - (1 - p) ** t + m * sum((1 - p) ** j for j in range(i))) for i in steps]
            total += g**t * sum(values) / len(values)
        return 2 * total


def first_time_below(q: Any, power: Any) -> int | None:
    """The first t >= 1 with q^t <= power, or None."""
    if q <= power:
        return 1
    if power <= 0 or q == 1:
        return None
    return int(mpmath.ceil(mpmath.log(power) / mpmath.log(q)))


def powers_between(base: Any, first: int, stop: int | None) -> Any:
    """sum_{first <= t < stop} base^t with stop None for infinity."""
    if base == 1:
        assert stop is not None
        return mpmath.mpf(stop - first)
    return (base**first - (0 if stop is None else base**stop)) / (1 - base)


def reference_full(discount: float, model_error: float, policy_divergence: float) -> Any:
    """C*_full for R = 2: geometric sums before the cap, subtracted naively in many digits, and the rest."""
    with mpmath.workdps(DIGITS):
        g, m, p = (mpmath.mpf(float(x)) for x in (discount, model_error, policy_divergence))
        if g == 0 or m + p == 0:
            return mpmath.mpf(0)
        if p == 0:
            n = int(mpmath.ceil(1 / m))
            ramp = m * g * (1 - n * g ** (n - 1) + (n - 1) * g**n) / (1 - g) ** 2
            return 2 * (ramp + g**n / (1 - g))
        capped = first_time_below(1 - p, m / (m + p))
        ramp = (1 + m / p) * (powers_between(g, 1, capped) - powers_between(g * (1 - p), 1, capped))
        return 2 * (ramp + (0 if capped is None else g**capped / (1 - g)))


def reference_branched(discount: float, model_error: float, policy_divergence: float, rollout_length: int) -> Any:
    """C*_branch for R = 2: t <= k one by one in fixed point, then intervals of t with the same capped i."""
    with mpmath.workdps(DIGITS):
        g, m, p = (mpmath.mpf(float(x)) for x in (discount, model_error, policy_divergence))
        if g == 0 or m + p == 0:
            return mpmath.mpf(0)
        negligible = mpmath.mpf(10) ** -25 * (m or p)
        one = 1 << FRACTION_BITS
        fixed_g, fixed_m, fixed_p = (int(x * one) for x in (g, m, p))
        fixed_q = one - fixed_p
        discounted, alive, total, uncapped = one, one, 0, 0
        drifts, sums = [0], [0]
        smallest = int(negligible * (1 - g) ** 2 * one)
        t = 0
        while t < rollout_length and discounted > smallest:
            t += 1
            discounted = discounted * fixed_g >> FRACTION_BITS
            drifts.append(drifts[-1] + alive)
            sums.append(sums[-1] + drifts[-1])
            alive = alive * fixed_q >> FRACTION_BITS
            uncapped = t if uncapped == t - 1 else uncapped
            while uncapped and fixed_m * drifts[uncapped] >> FRACTION_BITS >= alive:
                uncapped -= 1
            if uncapped == 0:
                # all capped, now and for good
                total += discounted * one // (one - fixed_g)
                return 2 * mpmath.mpf(total) / one
            inner = t * one - uncapped * alive + (fixed_m * sums[uncapped] >> FRACTION_BITS)
            total += (discounted * inner >> FRACTION_BITS) // t
        value = mpmath.mpf(total) / one
        if t < rollout_length:
            return 2 * value
        q, start = 1 - p, rollout_length + 1
        while g**start > negligible * (1 - g) ** 2:
            stop = None
            while uncapped:
                stop = first_time_below(q, m * mpmath.mpf(drifts[uncapped]) / one)
                if stop is None or stop > start:
                    break
                uncapped -= 1
            else:
                stop = None
            inner = rollout_length + m * mpmath.mpf(sums[uncapped]) / one
            value += (
                inner * powers_between(g, start, stop) - uncapped * powers_between(g * q, start, stop)
            ) / rollout_length
            if stop is None:
                break
            start = stop
        return 2 * value


def relative_error(value: float, reference: Any) -> float:
    if reference == 0:
        return 0.0 if value == 0 else float("inf")
    with mpmath.workdps(DIGITS):
        return float(abs(mpmath.mpf(float(value)) - reference) / reference)


Point = tuple[float, int, float, float]


def branched_point_is_slow(point: Point) -> bool:
    discount, length, _, policy_divergence = point
    return discount > 0.999 and length > 1000 and policy_divergence < 0.01


GRID = tuple(itertools.product(DISCOUNTS, LENGTHS, ERRORS, ERRORS))
SLOW = tuple(point for point in GRID if branched_point_is_slow(point))
QUICK = tuple(point for point in GRID if not branched_point_is_slow(point))


def assert_branched_matches_reference(points: Sequence[Point]) -> None:
    discount, length, model_error, divergence = np.array(points).T
    values = get("optimal-branched").evaluate(
        discount=discount, rollout_length=length, model_error=model_error, policy_divergence=divergence
    )
    for point, value in zip(points, values, strict=True):
        g, n, m, p = point
        assert relative_error(value, reference_branched(g, m, p, n)) <= RELATIVE, point


def test_optimal_branched_equals_arbitrary_precision():
    assert len(QUICK) > 700
    assert_branched_matches_reference(QUICK)


def test_optimal_branched_equals_arbitrary_precision_at_a_million_steps():
    assert_branched_matches_reference([(1 - 1e-6, 10**6, 0.01, 1e-9)])


@pytest.mark.slow
def test_optimal_branched_equals_arbitrary_precision_on_the_slow_rest_of_the_grid():
    assert_branched_matches_reference(SLOW)


def test_optimal_full_equals_arbitrary_precision():
    discounts = (*DISCOUNTS, 1 - 1e-9)
    points = list(itertools.product(discounts, ERRORS, ERRORS))
    discount, model_error, divergence = np.array(points).T
    values = get("optimal-full").evaluate(discount=discount, model_error=model_error, policy_divergence=divergence)
    for (g, m, p), value in zip(points, values, strict=True):
        assert relative_error(value, reference_full(g, m, p)) <= RELATIVE, (g, m, p)


# The references carry 58 digits: errors below 1e-12 would have to be drawn with more.
unit = st.one_of(st.sampled_from(ERRORS), st.floats(1e-3, 1), st.floats(-12, 0).map(lambda x: 10.0**x))


@settings(max_examples=150, deadline=None)
@given(st.floats(1e-6, 0.999), unit, unit, st.integers(1, 60))
def test_any_parameters_equal_arbitrary_precision(discount, model_error, divergence, length):
    errors = {"model_error": model_error, "policy_divergence": divergence}
    branched = get("optimal-branched").evaluate(discount=discount, rollout_length=length, **errors)
    full = get("optimal-full").evaluate(discount=discount, **errors)
    assert relative_error(branched, reference_branched(discount, model_error, divergence, length)) <= RELATIVE
    assert relative_error(full, reference_full(discount, model_error, divergence)) <= RELATIVE


@pytest.mark.parametrize("m", [0.0, 0.013, 0.4, 1.0])
@pytest.mark.parametrize("p", [0.0, 0.021, 0.3, 1.0])
@pytest.mark.parametrize("length", [None, 1, 3, 8])
def test_reference_and_value_equal_the_definition_summed_term_by_term(m, p, length):
    discount, last = 0.5, 60
    expected = brute_force(discount, m, p, length, last)
    tail = 4 * 0.5**last
    reference = reference_full(discount, m, p) if length is None else reference_branched(discount, m, p, length)
    with mpmath.workdps(DIGITS):
        assert expected <= reference + mpmath.mpf(10) ** -30
        assert reference <= expected + tail
    name = "optimal-full" if length is None else "optimal-branched"
    value = get(name).evaluate(discount=discount, model_error=m, policy_divergence=p, rollout_length=length or 1)
    assert abs(value - float(expected)) <= tail + 1e-14


@pytest.mark.parametrize("name", ["optimal-full", "optimal-branched"])
@pytest.mark.parametrize(("m", "p", "length"), [("1/7", "1/9", 3), ("1/4", "0", 2), ("0", "1/3", 4), ("1/2", "1", 1)])
def test_the_expression_is_what_is_evaluated(name, m, p, length):
    """The expression's own Sum, cut at t = 16 where what follows is below 8^-16."""
    g = sympy.Rational(1, 8)
    cut = 16
    values = {gamma: g, eps_m: sympy.Rational(m), eps_pi: sympy.Rational(p), k: length, r_max: 3}
    series = get(name).expression.subs(values)
    (outer,) = [part for part in sympy.preorder_traversal(series) if isinstance(part, sympy.Sum)][:1]
    variable, first, last = outer.limits[0]
    assert (first, last) == (1, sympy.oo)
    terms = [outer.function.subs(variable, step).doit() for step in range(1, cut + 1)]
    expected = sum(terms, sympy.Integer(0)) * (series / outer)
    value = get(name).evaluate(
        discount=float(g),
        model_error=float(values[eps_m]),
        policy_divergence=float(values[eps_pi]),
        rollout_length=length,
        reward_max=3.0,
    )
    assert abs(value - float(expected)) <= 1e-13 * value


def test_truncation_keeps_its_promise():
    """gamma^N (N + 1/(1-gamma)) <= exp(-40) and the value at k > N is the one at N."""
    for discount in (0.3, 0.9, 0.99, 0.9999, 1 - 1e-6, 1 - 1e-9):
        n = int(truncation_length(np.array(discount)))
        with mpmath.workdps(DIGITS):
            g = mpmath.mpf(discount)
            assert g**n * (n + 1 / (1 - g)) <= mpmath.exp(-40)
            assert g ** (0.7 * n) * (n + 1 / (1 - g)) > mpmath.exp(-40)
    n = int(truncation_length(np.array(0.9)))
    arguments: dict[str, Any] = {"discount": 0.9, "model_error": 1e-9, "policy_divergence": 1e-12}
    values = [get("optimal-branched").evaluate(**arguments, rollout_length=length) for length in (n, n + 1, 10**9)]
    assert values[0] == values[1] == values[2]
    with mpmath.workdps(DIGITS):
        further = reference_branched(0.9, 1e-9, 1e-12, 3 * n)
    assert relative_error(values[0], further) <= 1e-14


@pytest.mark.parametrize("length", [1, 2, 7, 40])
def test_linear_bounds_derived_from_their_sums(length):
    with mpmath.workdps(DIGITS):
        g, m, p, r = (mpmath.mpf(x) for x in (0.75, 0.125, 0.0625, 3.0))
        full = r * mpmath.fsum(2 * g**t * t * (m + p) for t in range(1, 600))
        branched = r * mpmath.fsum(
            2 * g**t * mpmath.fsum(t * p + i * m for i in range(1, min(t, length) + 1)) / min(t, length)
            for t in range(1, 600)
        )
    arguments: dict[str, Any] = {"discount": 0.75, "model_error": 0.125, "policy_divergence": 0.0625, "reward_max": 3.0}
    assert get("linear-full").evaluate(**arguments) == pytest.approx(float(full), rel=1e-14)
    value = get("linear-branched").evaluate(**arguments, rollout_length=length)
    assert value == pytest.approx(float(branched), rel=1e-14)


def test_small_errors_make_linear_optimal():
    """Where nothing is capped or lost twice (k = 1, no policy divergence) the optimal value is the linear one."""
    model_error = np.linspace(0, 1, 41)
    arguments: dict[str, Any] = {"discount": 0.97, "model_error": model_error}
    np.testing.assert_allclose(
        get("optimal-branched").evaluate(**arguments), get("linear-branched").evaluate(**arguments), rtol=1e-14
    )
    tiny: dict[str, Any] = {"discount": 0.97, "model_error": 1e-13, "policy_divergence": 1e-13, "rollout_length": 20}
    for scheme in ("full", "branched"):
        optimal, linear = (get(f"{kind}-{scheme}").evaluate(**tiny) for kind in ("optimal", "linear"))
        assert linear * (1 - 1e-10) <= optimal <= linear


def test_numerical_edges_give_no_warning_and_no_nan():
    values = [0.0, 5e-324, 1e-300, 1e-16, 0.5, 1 - 1e-16, 1.0]
    points = itertools.product([0.0, 1e-300, 0.5, 0.99, np.nextafter(1, 0)], values, values, [1, 2, 30])
    discount, model_error, divergence, length = np.array(list(points)).T
    with np.errstate(all="raise", under="ignore"):
        for name in ("optimal-full", "optimal-branched"):
            result = get(name).evaluate(
                discount=discount, model_error=model_error, policy_divergence=divergence, rollout_length=length
            )
            assert np.all(np.isfinite(result))
            assert np.all(result <= 2 * discount / (1 - discount) * (1 + 1e-14))
            assert np.all((result > 0) | (discount < 1e-290) | (model_error + divergence < 1e-290))


def test_ten_thousand_points_in_two_seconds():
    generator = np.random.default_rng(0)
    model_error, divergence = generator.uniform(size=(2, 10_000)) * 0.1
    started = time.process_time()
    get("optimal-branched").evaluate(
        discount=0.99, rollout_length=10, model_error=model_error, policy_divergence=divergence
    )
    assert time.process_time() - started < 2


def test_many_different_rollout_lengths_equal_one_by_one():
    generator = np.random.default_rng(1)
    length = np.concatenate([generator.integers(1, 30, 200), [70_000, 40_000, 3]])
    model_error, divergence = 10 ** generator.uniform(-6, 0, (2, length.size))
    divergence[-3:] = 1e-9
    model_error[-3:] = 1e-4
    discount = np.full(length.shape, 0.9999)
    together = get("optimal-branched").evaluate(
        discount=discount, model_error=model_error, policy_divergence=divergence, rollout_length=length
    )
    alone = [
        get("optimal-branched").evaluate(
            discount=0.9999, model_error=float(m), policy_divergence=float(p), rollout_length=int(n)
        )
        for m, p, n in zip(model_error, divergence, length, strict=True)
    ]
    np.testing.assert_allclose(together, alone, rtol=1e-14)
