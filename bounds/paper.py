"""Theorems 1 and 2 of the M3PO paper (its Table 1), and the rollout length at which one overtakes the other."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import sympy

from bounds.bound import Arguments, Bound, FloatArray, closed_form
from bounds.symbols import eps_m, eps_pi, gamma, k, r_max

SOURCE = "the M3PO paper, Table 1"
ERRORS_AS_DEFINED = (
    "expected rewards lie in [-r_max, r_max]",
    "eps_m >= max over t of the mean total variation between true kernel and model, over data histories and actions",
    "eps_pi >= sup over histories of the total variation between data policy and policy",
)


def _theorem_1(x: Arguments) -> Any:
    horizon = 1 / (1 - x.gamma)
    return x.r_max * (2 * x.gamma * (x.eps_m + 2 * x.eps_pi) * horizon**2 + 4 * x.eps_pi * horizon)


def averaged_model_steps(x: Arguments) -> Any:
    """The constant of Theorem 2 that counts the steps taken in the model.

    f(k) = sum_{t>=1} gamma^t (min(t, k) + 1): twice the discounted mean number of model steps in a branched rollout.

    Closed: gamma [(1 - gamma) + (1 - gamma^k)] / (1 - gamma)^2, a sum of positive terms.
    """
    return x.gamma * ((1 - x.gamma) + x.one_minus_power(x.gamma, x.k)) / (1 - x.gamma) ** 2


def _theorem_2(x: Arguments) -> Any:
    data_part = 2 * (1 + x.gamma**2) * x.eps_pi / (1 - x.gamma) ** 2
    return x.r_max * (data_part + averaged_model_steps(x) * (x.eps_pi + x.eps_m))


THEOREM_1 = closed_form(
    name="m3po-th1",
    source=f"{SOURCE}, Theorem 1",
    assumptions=ERRORS_AS_DEFINED,
    scheme="full",
    formula=_theorem_1,
)

THEOREM_2 = closed_form(
    name="m3po-th2",
    source=f"{SOURCE}, Theorem 2",
    assumptions=(
        *ERRORS_AS_DEFINED,
        "the branched return is the average over i = 1..min(t, k) model steps; the paper's own definition is in an "
        "appendix that is not available, and this one reproduces the coefficients of its Table 1",
    ),
    scheme="branched",
    formula=_theorem_2,
)

THEOREM_2_AS_PRINTED: sympy.Expr = r_max * (
    (1 + gamma**2) / (1 - gamma) ** 2 * 2 * eps_pi
    + (gamma - k * gamma**k + (k - 1) * gamma ** (k + 1)) / (1 - gamma) ** 2 * (eps_pi + eps_m)
    + (gamma**k - gamma) / (gamma - 1) * (eps_pi + eps_m)
    + gamma**k / (1 - gamma) * (k + 1) * (eps_pi + eps_m)
)
"""Theorem 2's discrepancy letter by letter as in Table 1; equal to ``THEOREM_2.expression``."""

BOUNDS: tuple[Bound, ...] = (THEOREM_1, THEOREM_2)


def crossover_rollout_length(
    *, discount: npt.ArrayLike, model_error: npt.ArrayLike, policy_divergence: npt.ArrayLike
) -> FloatArray:
    """The largest real k at which Theorem 2's discrepancy is at most Theorem 1's; infinity when that holds for every k.

    k* = log(N / (eps_m + eps_pi)) / log(gamma) - 1 with N = (gamma^2 + 2 gamma - 2) eps_pi - gamma^2 eps_m, if N > 0.
    A rollout of k model steps is preferred by the paper's bounds exactly when k <= k*. k* >= 1 always.

    Args:
        discount: gamma, in [0, 1).
        model_error: eps_m, in [0, 1].
        policy_divergence: eps_pi, in [0, 1].

    Returns:
        float64 of the broadcast shape, in model steps.

    Raises:
        ValueError: an argument is out of its range.
    """
    THEOREM_1.evaluate(discount=discount, model_error=model_error, policy_divergence=policy_divergence)
    discount, model_error, policy_divergence = np.broadcast_arrays(
        np.asarray(discount, float), np.asarray(model_error, float), np.asarray(policy_divergence, float)
    )
    # 1 - N / (eps_m + eps_pi), a sum of positive terms, so that gamma near 1 costs no precision.
    missing = (1 - discount) * (3 + discount) * policy_divergence + (1 + discount**2) * model_error
    total = model_error + policy_divergence
    finite = missing < total
    crossover = np.full(discount.shape, np.inf)
    crossover[finite] = np.log1p(-missing[finite] / total[finite]) / np.log(discount[finite]) - 1
    return crossover
