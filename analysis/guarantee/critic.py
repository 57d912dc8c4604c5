"""The critic in evidence: what the control variate needs of it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from bounds import CriticValues, critic_mean_of_draws

if TYPE_CHECKING:
    from analysis.guarantee.evidence import Evidence

PER_DRAW = ("critic_draws", "log_policy_draws", "log_data_policy_draws")

CAUSES_OF_DRAWS = {
    "log_data_policy_draws": (
        "the data policy's density of the critic's draws beats that of the policy they are said to be drawn from",
        "draws of the data policy, the two exchanged, or the Jacobian of tanh in only one of them",
    ),
}


def check_critic(evidence: Evidence) -> None:
    """The control variate needs the critic at the data's actions, and its mean under the policy or draws for it.

    Raises:
        ValueError: naming what does not fit.
    """
    if not 1 <= evidence.ratio_cap < math.inf:
        raise ValueError(f"ratio_cap must be finite and at least 1, got {evidence.ratio_cap}")
    if evidence.budget is not None and not 0 < evidence.budget < math.inf:
        raise ValueError(f"budget must be positive and finite, got {evidence.budget}")
    names = ("critic_mean", *PER_DRAW)
    given = {name: getattr(evidence, name) for name in names if getattr(evidence, name) is not None}
    if evidence.critic is None:
        if given:
            raise ValueError(f"{next(iter(given))} needs critic, its values at the data's actions")
        return
    if evidence.rewards is None:
        raise ValueError("critic needs rewards: it takes noise out of returns that were paid")
    of_draws = PER_DRAW if evidence.log_policy is not None else PER_DRAW[:1]
    wanted = ("critic_mean",) if "critic_mean" in given else of_draws
    if set(given) != set(wanted):
        raise ValueError(
            f"critic needs critic_mean or {' with '.join(of_draws)}, and nothing else of its kind, got "
            f"{', '.join(given) or 'neither'}"
        )
    happened = evidence.happened
    for name in (name for name in wanted if name in PER_DRAW):
        values: NDArray[np.float64] = given[name]
        first = given[wanted[0]].shape
        if values.shape[:2] != happened.shape or values.shape != first:
            raise ValueError(
                f"{name} must have shape {(*happened.shape, first[-1])} like the others, got {values.shape}"
            )
        bad = ~(values < np.inf) & happened[:, :, None]
        if bad.any():
            raise ValueError(f"{name} must be a number, got {values[bad][0]}")


def critic_values(evidence: Evidence) -> CriticValues:
    """The critic as ``bounds.return_lower_bounds`` takes it.

    Raises:
        ValueError: draws that the policy cannot take.
    """
    assert evidence.critic is not None
    mean = evidence.critic_mean
    if mean is None:
        assert evidence.critic_draws is not None
        mask = evidence.happened[:, :, None]
        own, data = (
            np.zeros(evidence.critic_draws.shape) if values is None else np.where(mask, values, 0.0)
            for values in (evidence.log_policy_draws, evidence.log_data_policy_draws)
        )
        draws = np.where(mask, evidence.critic_draws, 0.0)
        mean = critic_mean_of_draws(draws, own, data, ratio_cap=evidence.ratio_cap)
    return CriticValues(evidence.critic, mean, evidence.budget, evidence.ratio_cap)
