"""TV formulas against quadrature, arbitrary precision and Monte Carlo with standard errors."""

import itertools
import math
from typing import Any

import mpmath
import numpy as np
import pytest
from hypothesis import given, target
from hypothesis import strategies as st
from scipy import integrate, stats

from bounds import divergence
from bounds.divergence import (
    bretagnolle_huber,
    diagonal_gaussian_tv_bounds,
    equal_covariance_tv,
    gaussian_tv,
    midpoint_sample_tv,
    mixture_log_density,
    one_sample_tv,
    pinsker,
)

STANDARD_ERRORS = 5.0


def tv_to_sixty_digits(m1: float, s1: float, m2: float, s2: float) -> mpmath.mpf:
    """The textbook crossing-point form (cancelling, hence 60 digits)."""
    with mpmath.workdps(60):
        m1, s1, m2, s2 = map(mpmath.mpf, (m1, s1, m2, s2))
        if s1 == s2:
            return mpmath.erf(abs(m1 - m2) / (2 * mpmath.sqrt(2) * s1))
        a, c = s2**2 - s1**2, m1 * s2**2 - m2 * s1**2
        d = s1 * s2 * mpmath.sqrt((m1 - m2) ** 2 + 2 * a * mpmath.log(s2 / s1))
        x1, x2 = (c - d) / a, (c + d) / a
        mass = [mpmath.ncdf((x2 - m) / s) - mpmath.ncdf((x1 - m) / s) for m, s in ((m1, s1), (m2, s2))]
        return abs(mass[0] - mass[1])


log_scales = st.floats(-8, 8)
log_nearness = st.floats(-15, 0)


@given(log_scales, log_scales, log_nearness, log_nearness, st.sampled_from(["far", "near", "equal"]), st.booleans())
def test_gaussian_tv_is_accurate_to_rounding_at_any_scales(a, b, near, shift, kind, swap):
    s1 = 10**a
    s2 = {"far": 10**b, "near": s1 * (1 + 10**near), "equal": s1}[kind]
    pair = [(0.0, s1), (30 * 10**shift * max(s1, s2), s2)]
    (m1, s1), (m2, s2) = reversed(pair) if swap else pair
    exact = tv_to_sixty_digits(m1, s1, m2, s2)
    error = float(abs(gaussian_tv(m1, s1, m2, s2) - exact) / exact)
    target(error)
    assert error < 1e-14


def test_gaussian_tv_agrees_with_quadrature_of_the_definition():
    """Independent of crossing points altogether: half the integral of |p - q|."""
    grid = np.linspace(-40, 40, 1_000_001)
    for m1, s1, m2, s2 in [(0, 1, 1, 1), (0, 1, 0, 2), (0.3, 0.7, -1.2, 2.5), (0, 1, 0.01, 1.001), (2, 3, 2, 0.2)]:
        distance = np.abs(stats.norm.pdf(grid, m1, s1) - stats.norm.pdf(grid, m2, s2))
        total = integrate.trapezoid(distance, grid)
        assert gaussian_tv(m1, s1, m2, s2) == pytest.approx(total / 2, abs=2e-9)


def test_gaussian_tv_limits_and_broadcasting():
    assert gaussian_tv(1.5, 0.3, 1.5, 0.3) == 0
    assert gaussian_tv(0.0, 1e-8, 1.0, 1e-8) == 1
    assert gaussian_tv(0.0, 1e-300, 1e300, 1e300) == pytest.approx(1, abs=1e-14)
    assert gaussian_tv(-1e308, 1.0, 1e308, 1.0) == 1
    assert gaussian_tv(np.zeros((3, 1)), 1.0, np.ones(4), 2.0).shape == (3, 4)


@given(st.floats(-5, 5), st.floats(0.01, 9), st.floats(-5, 5), st.floats(0.01, 9), st.floats(-9, 9), st.floats(0.1, 9))
def test_gaussian_tv_is_invariant_under_affine_maps(m1, s1, m2, s2, offset, scale):
    moved = gaussian_tv(offset + scale * m1, scale * s1, offset + scale * m2, scale * s2)
    assert moved == pytest.approx(gaussian_tv(m1, s1, m2, s2), abs=1e-12)


@given(st.floats(0, 40), st.floats(0.01, 100))
def test_equal_covariance_is_the_one_dimensional_form(distance, scale):
    assert equal_covariance_tv(distance) == pytest.approx(gaussian_tv(0.0, scale, distance * scale, scale), rel=1e-13)


def draws(rng: np.random.Generator, mean: Any, std: Any, n: int) -> Any:
    return mean + std * rng.standard_normal((n, np.size(mean)))


def log_density(x: Any, mean: Any, std: Any) -> Any:
    return stats.norm.logpdf(x, mean, std).sum(-1)


def diagonal_pair(rng: np.random.Generator, dimensions: int, shift: float, spread: float) -> tuple[Any, Any, Any, Any]:
    """Two diagonal Gaussians whose TV is far from both 0 and 1."""
    mean_1, std_1 = rng.normal(size=dimensions), np.exp(rng.normal(size=dimensions))
    mean_2 = mean_1 + shift * std_1 * rng.normal(size=dimensions) / np.sqrt(dimensions)
    return mean_1, std_1, mean_2, std_1 * np.exp(spread * rng.normal(size=dimensions) / np.sqrt(dimensions))


@pytest.mark.parametrize("dimensions", [1, 2, 6, 45])
@pytest.mark.parametrize(("shift", "spread"), [(1.0, 0.0), (1.0, 0.3), (0.0, 1.0), (3.0, 1.0)])
def test_estimators_agree_with_each_other_and_lie_between_the_bounds(dimensions, shift, spread):
    rng = np.random.default_rng([dimensions, int(10 * shift), int(10 * spread)])
    m1, s1, m2, s2 = diagonal_pair(rng, dimensions, shift, spread)
    n = 40_000
    x, y = draws(rng, m1, s1, n), draws(rng, m2, s2, n)
    one = one_sample_tv(log_density(x, m1, s1), log_density(x, m2, s2))
    both = np.where(rng.random(n)[:, None] < 0.5, x, y)
    middle = midpoint_sample_tv(log_density(both, m1, s1), log_density(both, m2, s2))
    error = np.hypot(one.std(), middle.std()) / np.sqrt(n)
    assert error < 5e-3
    assert abs(one.mean() - middle.mean()) < STANDARD_ERRORS * error
    lower, upper = diagonal_gaussian_tv_bounds(m1, s1, m2, s2)
    assert 0 < lower <= upper <= 1
    assert lower - STANDARD_ERRORS * error <= middle.mean() <= upper + STANDARD_ERRORS * error
    if spread == 0:
        exact = equal_covariance_tv(np.linalg.norm((m1 - m2) / s1))
        assert lower == pytest.approx(exact, rel=1e-10)
        assert upper == pytest.approx(exact, rel=1e-10)
        assert middle.mean() == pytest.approx(exact, abs=STANDARD_ERRORS * error)
    if dimensions == 1:
        assert lower == upper == gaussian_tv(m1[0], s1[0], m2[0], s2[0])


@pytest.mark.parametrize("unit", [1e-8, 1.0, 1e8])
@pytest.mark.parametrize(
    ("m2", "s2"), [(1.0, 1.0), (0.0, 2.0), (-1.2, 2.5), (0.01, 1.001), (0.5, 1e-3), (3.0, 1e4), (1e-3, 1.0)]
)
def test_gaussian_tv_agrees_with_adaptive_quadrature_in_any_unit(unit, m2, s2):
    """Half the integral of |p - q|, piece by piece on both scales; it does not know where the densities cross."""

    def density(x: float, mean: float, std: float) -> float:
        return math.exp(-(((x - mean) / std) ** 2) / 2) / (std * math.sqrt(2 * math.pi))

    def distance(x: float) -> float:
        return abs(density(x, 0.0, unit) - density(x, m2 * unit, s2 * unit))

    marks = sorted({m + z * s for m, s in ((0.0, 1.0), (m2, s2)) for z in np.linspace(-9, 9, 19)})
    pieces = [
        integrate.quad(distance, a * unit, b * unit, epsabs=1e-11, epsrel=1e-10)[0]
        for a, b in itertools.pairwise(marks)
    ]
    assert gaussian_tv(0.0, unit, m2 * unit, s2 * unit) == pytest.approx(sum(pieces) / 2, abs=1e-9)


def test_bounds_and_estimators_do_not_depend_on_units_from_1e_8_to_1e8_in_45_dimensions():
    """Every coordinate in its own unit: the same TV, and log densities hundreds of nats away from the plain ones."""
    rng = np.random.default_rng(45)
    m1, s1, m2, s2 = diagonal_pair(rng, 45, 1.0, 0.3)
    units = 10.0 ** rng.permutation(np.linspace(-8, 8, 45))
    plain, scaled = (m1, s1, m2, s2), tuple(units * each for each in (m1, s1, m2, s2))
    for found, expected in zip(diagonal_gaussian_tv_bounds(*scaled), diagonal_gaussian_tv_bounds(*plain), strict=True):
        assert 0.1 < expected < 0.9
        assert found == pytest.approx(expected, rel=1e-12)
    x = draws(rng, m1, s1, 2000)
    for estimator in (one_sample_tv, midpoint_sample_tv):
        found = estimator(log_density(units * x, *scaled[:2]), log_density(units * x, *scaled[2:]))
        np.testing.assert_allclose(found, estimator(log_density(x, m1, s1), log_density(x, m2, s2)), atol=1e-11)
    shifted = log_density(units * x[:1], *scaled[:2]) - log_density(x[:1], m1, s1)
    assert shifted == pytest.approx(-np.log(units).sum(), abs=1e-9)


@pytest.mark.parametrize("distance", [0.1, 1.0, 3.0])
@pytest.mark.parametrize(("dimensions", "scale"), [(600, 1e7), (45, 1e8), (45, 1e-8)])
def test_monte_carlo_at_extreme_log_densities_has_the_exact_mean(distance, dimensions, scale):
    """Equal covariances: the TV is erf(distance/(2 sqrt 2)). 600 coordinates of scale 1e7 are at about -1e4 nats."""
    rng = np.random.default_rng([dimensions, int(10 * distance), int(np.log10(scale) + 8)])
    n = 4000
    m1, std = np.zeros(dimensions), np.full(dimensions, scale)
    m2 = np.full(dimensions, distance * scale / np.sqrt(dimensions))
    exact = equal_covariance_tv(distance)
    x, y = draws(rng, m1, std, n), draws(rng, m2, std, n)
    both = np.where(rng.random(n)[:, None] < 0.5, x, y)
    log_p = log_density(x, m1, std)
    if dimensions == 600:
        assert -1.1e4 < log_p.mean() < -1e4
    else:
        assert abs(log_p.mean()) > 700
    for values in (
        one_sample_tv(log_p, log_density(x, m2, std)),
        midpoint_sample_tv(log_density(both, m1, std), log_density(both, m2, std)),
    ):
        error = values.std() / np.sqrt(n)
        assert error < 0.01
        assert abs(values.mean() - exact) < STANDARD_ERRORS * error


def test_an_ensemble_far_below_underflow_has_the_tv_of_its_mixture():
    """Three members in 45 dimensions at about -9e3 nats: E_p[Z] of the mixture against ordinary densities."""
    rng = np.random.default_rng(9)
    n, dimensions, drop = 3000, 45, -9000.0
    centres = np.zeros((3, dimensions))
    centres[:, 0] = [-1.0, 0.0, 1.0]
    x = rng.standard_normal((n, dimensions))
    log_p = stats.norm.logpdf(x).sum(-1)
    members = np.array([stats.norm.logpdf(x, centre).sum(-1) for centre in centres])
    found = one_sample_tv(log_p + drop, mixture_log_density(members + drop))
    np.testing.assert_allclose(found, one_sample_tv(log_p, mixture_log_density(members)), atol=1e-10)
    exact = integrate.quad(
        lambda z: max(0.0, stats.norm.pdf(z) - np.mean([stats.norm.pdf(z, c) for c in (-1, 0, 1)])), -12, 12, limit=200
    )[0]
    assert abs(found.mean() - exact) < STANDARD_ERRORS * found.std() / np.sqrt(n)
    assert np.mean(one_sample_tv(log_p, members)) > found.mean() + 0.1  # the members' average is only an upper bound


def test_diagonal_bounds_hold_against_two_dimensional_quadrature():
    grid = np.linspace(-12, 12, 1201)
    cell = (grid[1] - grid[0]) ** 2
    for seed in range(6):
        m1, s1, m2, s2 = diagonal_pair(np.random.default_rng(seed), 2, 1.5, 0.8)
        m2, s2, m1, s1 = (m2 - m1) / s1, s2 / s1, np.zeros(2), np.ones(2)
        p, q = (np.outer(*(stats.norm.pdf(grid, m[i], s[i]) for i in (0, 1))) for m, s in ((m1, s1), (m2, s2)))
        exact = np.abs(p - q).sum() * cell / 2
        lower, upper = diagonal_gaussian_tv_bounds(m1, s1, m2, s2)
        assert lower - 1e-5 <= exact <= upper + 1e-5


@given(st.integers(0, 10_000), st.integers(1, 8))
def test_diagonal_bounds_are_at_least_as_tight_as_the_coordinatewise_ones(seed, dimensions):
    m1, s1, m2, s2 = diagonal_pair(np.random.default_rng(seed), dimensions, 2.0, 1.0)
    coordinates = gaussian_tv(m1, s1, m2, s2)
    lower, upper = diagonal_gaussian_tv_bounds(m1, s1, m2, s2)
    assert coordinates.max() <= lower <= upper
    assert upper <= 1 - np.prod(1 - coordinates) + 1e-12


@pytest.mark.parametrize("spread", [0.02, 1.5])
def test_diagonal_bounds_are_the_hellinger_ones_for_many_scales(spread):
    """Equal means in 45 dimensions: sqrt(1 - BC²) binds above and, far apart, 1 - BC below; BC by quadrature."""
    scales = np.exp(spread * np.random.default_rng(8).normal(size=45))
    x = np.linspace(-40, 40, 40_001)
    affinity = np.prod(
        [integrate.simpson(np.sqrt(stats.norm.pdf(x) * stats.norm.pdf(x, scale=s)), x=x) for s in scales]
    )
    lower, upper = diagonal_gaussian_tv_bounds(np.zeros(45), np.ones(45), np.zeros(45), scales)
    assert upper == pytest.approx(np.sqrt(1 - affinity**2), rel=1e-9)
    if spread > 1:
        assert lower == pytest.approx(1 - affinity, rel=1e-9)


def test_one_sample_estimator_is_exactly_unbiased_on_a_finite_space():
    rng = np.random.default_rng(3)
    p, q = rng.dirichlet(np.ones(7)), rng.dirichlet(np.ones(7))
    q[2] = 0
    q /= q.sum()
    tv = np.abs(p - q).sum() / 2
    with np.errstate(divide="ignore"):
        log_p, log_q = np.log(p), np.log(q)
    assert p @ one_sample_tv(log_p, log_q) == pytest.approx(tv, abs=1e-15)
    assert (p + q) / 2 @ midpoint_sample_tv(log_p, log_q) == pytest.approx(tv, abs=1e-15)


def test_log_densities_far_below_underflow():
    assert one_sample_tv(-1e4, -1e4 + np.log(0.25)) == pytest.approx(0.75, rel=1e-11)
    assert one_sample_tv(-1e4, -2e4) == 1
    assert one_sample_tv(-2e4, -1e4) == 0
    assert one_sample_tv(-3.0, -np.inf) == 1
    assert midpoint_sample_tv(-1e4, -1e4 + np.log(3)) == pytest.approx(0.5, rel=1e-11)
    np.testing.assert_array_equal(midpoint_sample_tv([-np.inf, -1e4], [-1e4, -np.inf]), 1)
    assert not np.signbit(one_sample_tv(-1.0, -1.0))


def test_mixture_is_the_logarithm_of_the_mean_density():
    rng = np.random.default_rng(4)
    members = rng.normal(size=(5, 3, 2))
    np.testing.assert_allclose(mixture_log_density(members), np.log(np.exp(members).mean(0)), rtol=1e-13)
    np.testing.assert_allclose(mixture_log_density(members, axis=-1), np.log(np.exp(members).mean(-1)), rtol=1e-13)
    assert mixture_log_density([-1e4, -np.inf]) == pytest.approx(-1e4 - np.log(2), rel=1e-15)
    assert mixture_log_density([-np.inf, -np.inf]) == -np.inf


def test_average_of_member_tvs_only_bounds_the_mixture():
    """Two members on either side of p: each is far from it, their mixture is much nearer."""
    p = np.array([0.25, 0.5, 0.25])
    members = np.array([[0.5, 0.5, 0.0], [0.0, 0.5, 0.5]])
    with np.errstate(divide="ignore"):
        log_p, log_members = np.log(p), np.log(members)
    mixture = p @ one_sample_tv(log_p, mixture_log_density(log_members))
    average = np.mean([p @ one_sample_tv(log_p, member) for member in log_members])
    assert mixture == pytest.approx(0.0, abs=1e-15)
    assert average == pytest.approx(0.25)


@given(st.floats(-3, 3), st.floats(0.2, 4))
def test_kl_bounds_dominate_the_gaussian_tv(mean, std):
    kl = -np.log(std) + (std**2 + mean**2) / 2 - 0.5
    tv = gaussian_tv(mean, std, 0.0, 1.0)
    kl = max(kl, 0.0)
    # the TV of nearly identical Gaussians exceeds the rounding of their KL
    assert tv <= min(pinsker(kl), bretagnolle_huber(kl)) + 1e-7


def test_kl_bounds_are_what_they_say():
    np.testing.assert_allclose(pinsker([0, 0.02, 0.5, 8, np.inf]), [0, 0.1, 0.5, 1, 1], rtol=1e-15)
    np.testing.assert_allclose(bretagnolle_huber([0, np.log(2), np.inf]), [0, np.sqrt(0.5), 1], rtol=1e-15)
    # Pinsker is sharp in the limit: TV / sqrt(KL/2) -> 1 for Bernoulli(1/2 ± x), x -> 0
    x = 1e-3
    kl = (0.5 + x) * np.log1p(2 * x) + (0.5 - x) * np.log1p(-2 * x)
    assert x / pinsker(kl) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: gaussian_tv(0.0, 0.0, 0.0, 1.0), "std_1 must be positive, got 0.0"),
        (lambda: gaussian_tv(0.0, 1.0, 0.0, -2.5), "std_2 must be positive, got -2.5"),
        (lambda: gaussian_tv(np.nan, 1.0, 0.0, 1.0), "mean_1 must be finite, got nan"),
        (lambda: equal_covariance_tv(-0.5), "got -0.5"),
        (lambda: diagonal_gaussian_tv_bounds(0.0, 1.0, 0.0, 1.0), "shape ()"),
        (lambda: diagonal_gaussian_tv_bounds([0.0], [np.inf], [0.0], [1.0]), "std_1 must be finite, got inf"),
        (lambda: one_sample_tv(-np.inf, 0.0), "log_density must be finite, got -inf"),
        (lambda: one_sample_tv(0.0, np.nan), "log_model_density must be below"),
        (lambda: midpoint_sample_tv(-np.inf, -np.inf), "both -inf"),
        (lambda: mixture_log_density([0.0, np.inf]), "got inf"),
        (lambda: mixture_log_density(np.zeros((0, 2))), "no members"),
        (lambda: mixture_log_density([0.0], axis=1), "axis 1"),
        (lambda: pinsker(-1.0), "got -1.0"),
    ],
)
def test_bad_values_are_named(call, named):
    with pytest.raises(ValueError) as raised:
        call()
    assert named in str(raised.value)


def test_quadrature_constant_matters(monkeypatch):
    """The accuracy test above would notice a wrong short-interval rule."""
    monkeypatch.setattr(divergence, "_WEIGHTS", divergence._WEIGHTS * (1 + 1e-9))
    assert abs(gaussian_tv(0.0, 1.0, 0.1, 1.0) / float(tv_to_sixty_digits(0, 1, 0.1, 1)) - 1) > 1e-10
