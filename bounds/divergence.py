"""Total variation (half the L1 distance, in [0, 1]) between the densities this project meets.

Closed forms for Gaussians, two-sided bounds for diagonal Gaussians, and unbiased one-sample estimators for densities
that can only be evaluated. tanh is a bijection, so the TV of two tanh-squashed Gaussians is that of the Gaussians.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

Array = NDArray[np.float64]

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(12)
# Beyond these the TV of the two Gaussians is 1 to rounding; staying below keeps squares inside float64's range.
_MAX_LOG_RATIO = 230.0
_MAX_SHIFT = 1e200


def _finite(name: str, values: ArrayLike) -> Array:
    array = np.asarray(values, dtype=np.float64)
    bad = ~np.isfinite(array)
    if bad.any():
        raise ValueError(f"{name} must be finite, got {array[bad].flat[0]}")
    return array


def _positive(name: str, values: ArrayLike) -> Array:
    array = _finite(name, values)
    if (array <= 0).any():
        raise ValueError(f"{name} must be positive, got {array[array <= 0].flat[0]}")
    return array


def _log_densities(name: str, values: ArrayLike) -> Array:
    """Log densities: anything but NaN and +inf (a density is finite), -inf being density zero."""
    array = np.asarray(values, dtype=np.float64)
    bad = np.isnan(array) | (array == np.inf)
    if bad.any():
        raise ValueError(f"{name} must be below +inf and not NaN, got {array[bad].flat[0]}")
    return array


def _unwrap(array: Array) -> Any:
    return array[()]


def _normal_mass(start: Array, width: Array) -> Array:
    """Mass of N(0, 1) on [start, start + width], accurate relative to itself also for a tiny width."""
    near, far = start, start + width
    flip = near > 0
    high = np.where(flip, -near, far)
    low = np.where(flip, -far, near)
    by_difference = special.ndtr(high) - special.ndtr(low)
    points = np.where(np.isfinite(start), start, 0.0)[..., None] + np.minimum(width, 1.0)[..., None] * (_NODES + 1) / 2
    by_quadrature = width / 2 * (np.exp(-(points**2) / 2) @ _WEIGHTS) / np.sqrt(2 * np.pi)
    by_quadrature = np.where(np.isfinite(start), by_quadrature, 0.0)
    return np.where(width < 0.5, by_quadrature, by_difference)


def gaussian_tv(mean_1: ArrayLike, std_1: ArrayLike, mean_2: ArrayLike, std_2: ArrayLike) -> Any:
    """TV(N(mean_1, std_1²), N(mean_2, std_2²)) in closed form, elementwise.

    In units of the smaller scale, with r >= 1 the ratio of the scales, d the distance of the means,
    Q = sqrt(d² + 2 (r² - 1) log r): the densities cross at z_- < 0 < z_+ = (d² + 2 r² log r)/(d + r Q) and
    z_- = -(d + r Q)/(r² - 1), and

        TV = Phi(z_+) - Phi(z_+ - (Q + d)/(r + 1)) + Phi(z_- + 2 (r - 1) log(r)/(Q + d)) - Phi(z_-),

    a sum of two masses on short intervals: nothing cancels for nearly equal scales, for equal scales it is
    erf(d/(2 sqrt 2)), and the relative error stays near rounding for any scales, 1e-8 and 1e8 included.

    Args:
        mean_1, std_1, mean_2, std_2: broadcast against each other; finite, the standard deviations positive.

    Returns:
        float64 of the broadcast shape, in [0, 1]. Symmetric in the two Gaussians.

    Raises:
        ValueError: a mean that is not finite, a standard deviation that is not finite and positive.

    Source: the 1-D crossing points of two Gaussians, rearranged here to avoid cancellation.
    """
    m1, s1, m2, s2 = np.broadcast_arrays(
        _finite("mean_1", mean_1), _positive("std_1", std_1), _finite("mean_2", mean_2), _positive("std_2", std_2)
    )
    small, large = np.minimum(s1, s2), np.maximum(s1, s2)
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        shift = np.minimum(np.abs(m1 - m2) / small, _MAX_SHIFT)
        log_ratio = np.minimum(np.log1p((large - small) / small), _MAX_LOG_RATIO)
        ratio = np.exp(log_ratio)
        square_excess = np.expm1(2 * log_ratio)
        q = np.hypot(shift, np.sqrt(2 * square_excess * log_ratio))
        denominator = shift + ratio * q
        upper_crossing = shift * (shift / denominator) + 2 * ratio**2 * log_ratio / denominator
        lower_crossing = -denominator / square_excess
        upper_width = (q + shift) / (ratio + 1)
        lower_width = 2 * np.expm1(log_ratio) * log_ratio / (q + shift)
        total = _normal_mass(upper_crossing - upper_width, upper_width) + _normal_mass(lower_crossing, lower_width)
    identical = (shift == 0) & (log_ratio == 0)
    return _unwrap(np.where(identical, 0.0, np.minimum(total, 1.0)))


def equal_covariance_tv(mahalanobis: ArrayLike) -> Any:
    """TV of two Gaussians (any dimension) with one covariance Sigma: erf(delta / (2 sqrt 2)).

    Args:
        mahalanobis: delta = sqrt((m_1 - m_2)' Sigma^-1 (m_1 - m_2)) >= 0, any shape.

    Raises:
        ValueError: a distance that is negative or NaN.
    """
    distance = np.asarray(mahalanobis, dtype=np.float64)
    bad = ~(distance >= 0)
    if bad.any():
        raise ValueError(f"mahalanobis must be at least 0, got {distance[bad].flat[0]}")
    return _unwrap(np.asarray(special.erf(distance / (2 * np.sqrt(2)))))


def diagonal_gaussian_tv_bounds(
    mean_1: ArrayLike, std_1: ArrayLike, mean_2: ArrayLike, std_2: ArrayLike
) -> tuple[Any, Any]:
    """(lower, upper) around the TV of two Gaussians with diagonal covariances; the last axis is the coordinate.

    lower: the largest of max_i TV_i, 1 - BC and the TV of the projections on the pooled discriminant direction.
    upper: the smallest of 1 - prod_i (1 - TV_i), sqrt(1 - BC²) and, through the Gaussian that has the mean of one
    and the covariance of the other, erf(delta/(2 sqrt 2)) + sqrt(1 - BC_0²) (BC_0 with the means made equal).
    Here TV_i is the closed 1-D form and BC the Bhattacharyya coefficient
    prod_i sqrt(2 s_1i s_2i/(s_1i² + s_2i²)) exp(-(m_1i - m_2i)²/(4 (s_1i² + s_2i²))). The two meet where the
    covariances are equal, and in one dimension both are the exact TV.

    Args:
        mean_1, std_1, mean_2, std_2: broadcast against each other, at least one axis; standard deviations positive.

    Returns:
        two float64 arrays of the broadcast shape without its last axis, 0 <= lower <= upper <= 1.

    Raises:
        ValueError: no coordinate axis or an empty one; a mean or standard deviation as in `gaussian_tv`.

    Source: tensorisation of TV and Hellinger affinity; data processing for the projection.
    """
    m1, s1, m2, s2 = np.broadcast_arrays(
        _finite("mean_1", mean_1), _positive("std_1", std_1), _finite("mean_2", mean_2), _positive("std_2", std_2)
    )
    if m1.ndim == 0 or m1.shape[-1] == 0:
        raise ValueError(f"the last axis must hold at least one coordinate, got shape {m1.shape}")
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        coordinate_tv = np.asarray(gaussian_tv(m1, s1, m2, s2))
        both = np.hypot(s1, s2)
        log_affinity_of_scales = (np.log1p(-np.minimum(((s1 - s2) / both) ** 2, 1.0)) / 2).sum(-1)
        log_affinity = log_affinity_of_scales - ((m1 - m2) ** 2 / (4 * both**2)).sum(-1)

        direction = (m1 - m2) / both / both
        largest = np.abs(direction).max(-1, keepdims=True)
        direction = np.where(largest > 0, direction / largest, 1.0)
        projected = gaussian_tv(
            (direction * (m1 - m2)).sum(-1),
            np.sqrt(((direction * s1) ** 2).sum(-1)),
            0.0,
            np.sqrt(((direction * s2) ** 2).sum(-1)),
        )
        by_product = -np.expm1(np.log1p(-np.minimum(coordinate_tv, 1.0)).sum(-1))
        scales_apart = np.sqrt(-np.expm1(2 * log_affinity_of_scales))
        means_apart = [special.erf(np.sqrt((((m1 - m2) / s) ** 2).sum(-1)) / (2 * np.sqrt(2))) for s in (s1, s2)]
    lower = np.maximum.reduce([coordinate_tv.max(-1), projected, -np.expm1(log_affinity)])
    upper = np.minimum.reduce(
        [by_product, np.sqrt(-np.expm1(2 * log_affinity)), *(apart + scales_apart for apart in means_apart)]
    )
    if m1.shape[-1] == 1:
        upper = coordinate_tv[..., 0]
    lower = np.clip(lower, 0.0, 1.0) + 0.0
    # The two ends are equal in exact arithmetic where they meet; rounding must not cross them.
    return _unwrap(lower), _unwrap(np.clip(upper, lower, 1.0))


def one_sample_tv(log_density: ArrayLike, log_model_density: ArrayLike) -> Any:
    """Unbiased TV estimate from one draw x ~ p: Z = max(0, 1 - q(x)/p(x)), so that E_p[Z] = TV(p, q).

    Args:
        log_density: log p(x) at the draw; finite, since a draw has positive density.
        log_model_density: log q(x) at the same point; -inf where q vanishes.

    Returns:
        Z in [0, 1] of the broadcast shape; values near -1e4 lose nothing.

    Raises:
        ValueError: log_density not finite; log_model_density NaN or +inf.
    """
    p = _finite("log_density", log_density)
    q = _log_densities("log_model_density", log_model_density)
    # adding 0.0 turns the -0.0 of equal densities into 0.0
    return _unwrap(np.asarray(-np.expm1(np.minimum(q - p, 0.0)) + 0.0))


def midpoint_sample_tv(log_density: ArrayLike, log_model_density: ArrayLike) -> Any:
    """TV estimate from one draw x ~ (p + q)/2: |tanh((log p(x) - log q(x))/2)|, whose mean is TV(p, q).

    Unlike `one_sample_tv` it is symmetric and its variance is at most TV (1 - TV).

    Args:
        log_density, log_model_density: log p(x) and log q(x); either may be -inf, not both.

    Returns:
        values in [0, 1] of the broadcast shape.

    Raises:
        ValueError: NaN or +inf, or both densities zero at one point (no draw of (p + q)/2 lies there).
    """
    p, q = np.broadcast_arrays(
        _log_densities("log_density", log_density), _log_densities("log_model_density", log_model_density)
    )
    if ((p == -np.inf) & (q == -np.inf)).any():
        raise ValueError("log_density and log_model_density are both -inf at a draw")
    return _unwrap(np.asarray(np.abs(np.tanh((p - q) / 2))))


def mixture_log_density(member_log_densities: ArrayLike, axis: int = 0) -> Any:
    """log of the equally weighted mixture of B densities: logsumexp_b(log q_b) - log B.

    The ensemble predicts with this mixture; the average of the members' TVs is only an upper bound on its TV.

    Args:
        member_log_densities: log q_b(x); -inf where a member vanishes.
        axis: the axis of the members, of length B >= 1.

    Raises:
        ValueError: NaN or +inf, no such axis, or no member along it.
    """
    densities = _log_densities("member_log_densities", member_log_densities)
    if not -densities.ndim <= axis < densities.ndim:
        raise ValueError(f"axis {axis} does not exist in member_log_densities of shape {densities.shape}")
    members = densities.shape[axis]
    if members == 0:
        raise ValueError("member_log_densities has no members")
    return _unwrap(np.asarray(special.logsumexp(densities, axis=axis) - np.log(members)))


def pinsker(kl_divergence: ArrayLike) -> Any:
    """Pinsker's upper bound TV <= min(1, sqrt(KL/2)), KL in nats.

    Raises:
        ValueError: a divergence that is negative or NaN (+inf is allowed and gives 1).
    """
    return _unwrap(np.minimum(1.0, np.sqrt(_divergence(kl_divergence) / 2)))


def bretagnolle_huber(kl_divergence: ArrayLike) -> Any:
    """TV <= sqrt(1 - exp(-KL)), KL in nats: weaker than Pinsker near 0, never vacuous at a finite KL.

    Raises:
        ValueError: a divergence that is negative or NaN.
    """
    return _unwrap(np.sqrt(-np.expm1(-_divergence(kl_divergence))))


def _divergence(kl_divergence: ArrayLike) -> Array:
    kl = np.asarray(kl_divergence, dtype=np.float64)
    bad = ~(kl >= 0)
    if bad.any():
        raise ValueError(f"kl_divergence must be at least 0, got {kl[bad].flat[0]}")
    return kl
