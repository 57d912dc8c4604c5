"""Theorem 4: a discrepancy from per-step error profiles, which are averages over real data and hence measurable."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from bounds.bound import LARGEST_ROLLOUT_LENGTH, FloatArray
from bounds.readable import readable

Tail = Literal["worst", "absorbing"]


@dataclass(frozen=True, eq=False)
class Certificate:
    """What Theorem 4 subtracts from the model return, and where it comes from.

    Attributes:
        value: the discrepancy, in units of return: |true return - model return| <= value.
        policy_part: what remains with a perfect model and a perfect reward: the policy divergence alone.
        model_part: what the model error adds to the policy part (the cap at total variation 1 keeps it from counting
            what the policy divergence already lost).
        reward_part: the discounted reward error.
        tail_part: the times the profiles do not cover.
        per_step: [H], the discounted contributions of the times 0..H-1; they sum to value - tail_part.
        total_variation: [H], the averaged total-variation bound on the law at each time, in [0, 1].
    """

    value: float
    policy_part: float
    model_part: float
    reward_part: float
    tail_part: float
    per_step: FloatArray
    total_variation: FloatArray

    __repr__ = readable


def certificate(
    model_error_profile: npt.ArrayLike,
    policy_divergence_profile: npt.ArrayLike,
    *,
    discount: float,
    reward_range: float,
    rollout_length: int | None = None,
    reward_error_profile: npt.ArrayLike | None = None,
    tail: Tail = "worst",
) -> Certificate:
    """How far the model return can be from the true one, given the errors at every time step (Theorem 4).

    |J - J_model| <= R sum_t gamma^t avg_{i=1..min(t,k)} min(1, sum_{s<t} d_s + sum_{s=t-i}^{t-1} m_s) + tail.

    The profiles cover the H reward times t = 0..H-1. With a learned reward (``reward_error_profile``) the action at t
    counts too: the sum of the policy divergence runs over s <= t, t = 0 included, and e_t is added at every t.

    Args:
        model_error_profile: m_t, the mean total variation between true kernel and model over data histories and
            actions at time t, in [0, 1]; length H - 1 (the transitions between reward times) or H (the last transition
            is then not used: nothing after it is rewarded within the horizon).
        policy_divergence_profile: d_t, the mean total variation between data policy and policy over data histories at
            time t, in [0, 1]; length H, which defines H. Without a learned reward d_{H-1} is not used.
        discount: gamma, in [0, 1).
        reward_range: R = r_hi - r_lo >= 0, in units of reward.
        rollout_length: k >= 1, the most model steps of the branched rollout; None for the full-model rollout, i = t.
        reward_error_profile: e_t, the mean absolute error of the learned reward (clipped to [r_lo, r_hi]) over data
            histories and actions, in [0, R]; length H. None: the model return uses the true reward.
        tail: what happens from time H on. "worst": the process goes on and nothing is known, which adds
            R gamma^H / (1 - gamma). "absorbing": both returns end there (the episode is over, or is in a zero-reward
            absorbing state), which adds nothing.

    Returns:
        the value and its parts.

    Raises:
        ValueError: an argument is out of its range or the lengths do not fit.

    Source:
        this project, Theorem 4 (docs/theory.md).
    """
    if not 0 <= discount < 1:
        raise ValueError(f"discount must be in [0, 1), got {discount}")
    if not 0 <= reward_range < np.inf:
        raise ValueError(f"reward_range must be nonnegative and finite, got {reward_range}")
    if tail not in ("worst", "absorbing"):
        raise ValueError(f"tail must be 'worst' or 'absorbing', got {tail!r}")
    divergence = _profile("policy_divergence_profile", policy_divergence_profile, 1.0)
    horizon = divergence.size
    if horizon == 0:
        raise ValueError("policy_divergence_profile must have at least one entry, got none")
    error = _profile("model_error_profile", model_error_profile, 1.0)
    if error.size not in (horizon - 1, horizon):
        raise ValueError(
            f"model_error_profile must have {horizon - 1} or {horizon} entries to go with {horizon} policy "
            f"divergences, got {error.size}"
        )
    k = checked_rollout_length(rollout_length, horizon)
    learned_reward = reward_error_profile is not None
    reward_error = np.zeros(horizon)
    if reward_error_profile is not None:
        reward_error = _profile("reward_error_profile", reward_error_profile, float(reward_range))
        if reward_error.size != horizon:
            raise ValueError(f"reward_error_profile must have {horizon} entries, got {reward_error.size}")

    accumulated = np.concatenate([[0.0], np.cumsum(divergence)])
    policy_sum = accumulated[1:] if learned_reward else accumulated[:-1]
    policy_cap = np.minimum(policy_sum, 1.0)
    total_variation = policy_cap.copy()
    for time in range(1, horizon):
        # Model errors of the last 1..min(t, k) steps, or all t of them for the full-model rollout.
        window = np.cumsum(error[max(time - k, 0) : time][::-1]) if rollout_length is not None else error[:time].sum()
        average = np.mean(np.minimum(1.0, policy_sum[time] + window))
        # A mean of equal numbers may round below them; the model part is not negative.
        total_variation[time] = max(average, policy_cap[time])

    weights = np.power(float(discount), np.arange(horizon))
    policy_steps = reward_range * weights * policy_cap
    model_steps = reward_range * weights * (total_variation - policy_cap)
    reward_steps = weights * reward_error
    tail_part = float(reward_range * discount**horizon / (1 - discount)) if tail == "worst" else 0.0
    policy_part, model_part, reward_part = (float(steps.sum()) for steps in (policy_steps, model_steps, reward_steps))
    return Certificate(
        value=policy_part + model_part + reward_part + tail_part,
        policy_part=policy_part,
        model_part=model_part,
        reward_part=reward_part,
        tail_part=tail_part,
        per_step=policy_steps + model_steps + reward_steps,
        total_variation=total_variation,
    )


@dataclass(frozen=True, eq=False)
class LinearWeights:
    """What every entry of the profiles weighs in Theorem 4 without its caps, for a reward range of 1.

    value - tail_part <= R (model_error . m + policy_divergence . d) + reward_error . e, with equality while no cap is
    reached. A mean of weighted sums over trajectories needs one confidence interval where profiles need H.

    Attributes:
        model_error: [H], of m_t; the last is 0, since nothing after that transition is rewarded.
        policy_divergence: [H], of d_t.
        reward_error: [H], gamma^t, of e_t.
    """

    model_error: FloatArray
    policy_divergence: FloatArray
    reward_error: FloatArray

    __repr__ = readable


def linear_weights(
    horizon: int, *, discount: float, rollout_length: int | None = None, learned_reward: bool = False
) -> LinearWeights:
    """How much each error at each time step costs in Theorem 4 when none of its caps is reached.

    m_s weighs sum_{t>s} gamma^t max(0, n_t - (t-s) + 1)/n_t, n_t = min(t, k) (full: sum_{t>s} gamma^t), and d_s
    weighs sum_{t>s} gamma^t, with a learned reward sum_{t>=s} gamma^t. Times run from 0 to H - 1.

    Args and raises: as ``certificate``, with ``horizon`` H >= 1.

    Source:
        this project, Theorem 4 (docs/theory.md), sums exchanged.
    """
    if not 0 <= discount < 1:
        raise ValueError(f"discount must be in [0, 1), got {discount}")
    if horizon < 1:
        raise ValueError(f"horizon must be >= 1, got {horizon}")
    k = checked_rollout_length(rollout_length, horizon)
    powers = np.power(float(discount), np.arange(horizon))
    following = np.append(np.cumsum(powers[::-1])[::-1], 0.0)
    model_error = np.zeros(horizon)
    for time in range(1, horizon):
        if rollout_length is None:
            model_error[:time] += powers[time]
            continue
        steps = min(time, k)
        model_error[time - steps : time] += powers[time] * np.arange(1, steps + 1) / steps
    return LinearWeights(model_error, following[:-1] if learned_reward else following[1:], powers)


def _profile(name: str, values: npt.ArrayLike, largest: float) -> FloatArray:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1:
        raise ValueError(f"{name} must have one axis, time, got shape {array.shape}")
    valid = (array >= 0) & (array <= largest)
    if not np.all(valid):
        time = int(np.argmin(valid))
        raise ValueError(f"{name} must be in [0, {largest:g}], got {array[time]} at time {time}")
    return array


def checked_rollout_length(rollout_length: int | None, horizon: int) -> int:
    """k, or the horizon for None, which stands for the model from the start.

    Raises:
        ValueError: not a whole number from 1 to 2^53.
    """
    if rollout_length is None:
        return horizon
    if isinstance(rollout_length, bool) or not (
        1 <= rollout_length <= LARGEST_ROLLOUT_LENGTH and rollout_length == int(rollout_length)
    ):
        raise ValueError(f"rollout_length must be a whole number from 1 to 2^53 or None, got {rollout_length!r}")
    return int(rollout_length)
