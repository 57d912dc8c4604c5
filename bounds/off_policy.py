"""A policy's return from any data policy's episodes: importance-weighted returns, and a model as control variate.

Neither needs a density of the environment: deterministic dynamics are fine. The policy must be fixed independently of
the episodes. Each function gives nonnegative numbers per episode, whose mean ``nonnegative_lower`` bounds from below.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bounds.bound import FloatArray
from bounds.certificate import Tail
from bounds.log_ratios import BoolArray, check_logarithms, log_ratio, step_array, valid_prefix
from bounds.nonnegative import nonnegative_lower
from bounds.overlap import tail_weight
from bounds.readable import readable


@dataclass(frozen=True, eq=False)
class WeightedReturns:
    """One number per episode with E[values] + offset <= J; equal with an absorbing tail, where the data policy takes
    every action that the policy takes.

    Attributes:
        values: [N], >= 0, without an upper range.
        offset: r_lo times the weights of all times, minus what was added to keep the values nonnegative; in units of
            return.
    """

    values: FloatArray
    offset: float

    __repr__ = readable

    @property
    def estimate(self) -> float:
        """mean(values) + offset: unbiased up to the tail and the data policy's support, without any confidence."""
        return float(self.values.mean()) + self.offset

    def lower(self, confidence: float = 0.95) -> float:
        """The true return J is at least this with probability >= confidence.

        Raises:
            ValueError: a confidence outside (0, 1).
        """
        return float(nonnegative_lower(self.values, confidence)) + self.offset


@dataclass(frozen=True, eq=False)
class _Steps:
    """What both estimators read: all [N, H] but the scalars."""

    log_rho: FloatArray
    log_weight: FloatArray  # log w_{0:t}, with the action at t
    rewards: FloatArray  # r - r_lo >= 0; -r_lo after an episode's end
    mask: BoolArray
    log_discount: FloatArray  # [H], log gamma^t
    after: FloatArray  # [N], what is earned above r_lo after H: of episodes that are over, where the tail is "worst"
    offset: float

    __repr__ = readable


def importance_weighted_returns(
    rewards: npt.ArrayLike,
    log_policy: npt.ArrayLike,
    log_data_policy: npt.ArrayLike,
    *,
    discount: float,
    reward_low: float,
    reward_high: float,
    valid: npt.ArrayLike | None = None,
    tail: Tail = "worst",
) -> WeightedReturns:
    """A policy's return estimated from the data policy's episodes by per-decision importance weights.

    X = sum_t gamma^t w_{0:t} (r_t - r_lo), w_{0:t} = prod_{s<=t} pi(a_s|h_s)/pi_D(a_s|h_s), and E X <= J - offset.

    Args:
        rewards: [N, H], in [reward_low, reward_high].
        log_policy: [N, H], log pi at the actions taken, -inf allowed.
        log_data_policy: [N, H], log density of the action under the policy that took it: each episode its own.
        discount: gamma, in [0, 1).
        reward_low, reward_high: the range of rewards.
        valid: [N, H] booleans, False from the end of an episode on, where nothing is paid any more; the range must then
            include 0. None: every episode lasts H steps.
        tail: what happens from time H on. "worst": an episode that is not over is paid r_lo for ever. "absorbing":
            every episode is over by then and pays nothing more.

    Raises:
        ValueError: an argument out of its range, arrays that do not fit, NaN, a data density of -inf at its own action,
            or a weight above e^700.

    Source:
        Precup, Sutton & Singh 2000 (per-decision importance sampling); docs/theory.md.
    """
    steps = _steps(rewards, log_policy, log_data_policy, discount, reward_low, reward_high, valid, tail)
    return WeightedReturns(_weighted(steps, steps.rewards).sum(axis=1) + _after(steps), steps.offset)


def control_variate_returns(
    rewards: npt.ArrayLike,
    log_policy: npt.ArrayLike,
    log_data_policy: npt.ArrayLike,
    critic: npt.ArrayLike,
    critic_mean: npt.ArrayLike,
    *,
    discount: float,
    reward_low: float,
    reward_high: float,
    budget: float,
    ratio_cap: float = 2.0,
    critic_max: npt.ArrayLike | None = None,
    valid: npt.ArrayLike | None = None,
    tail: Tail = "worst",
) -> WeightedReturns:
    """Importance-weighted returns with less variance: a critic's predictions are subtracted and their means added.

    Z_t = Z_{t-1} + gamma^t w_{0:t} r~_t - beta_t gamma^t w_{0:t-1} (min(rho_t, c) Q_t(h_t, a_t) - U~_t), plus L.

    rho_t = pi(a_t|h_t)/pi_D(a_t|h_t), w_{0:t} = prod_{s<=t} rho_s, r~ = r - r_lo, Z_{-1} = 0, and
    beta_t = min(1, (L + Z_{t-1})/(gamma^t w_{0:t-1} c q_t)). The bracket has mean 0 given the past, whatever Q is: a
    good Q only makes Z vary less. beta_t spends no more than the budget L and what was earned so far, so that
    Z_t + L >= 0 on every path, and it knows only h_t and what happened before t: if it knew U~_t or a_t, the mean
    would be too large.

    Args:
        rewards, log_policy, log_data_policy, discount, reward_low, reward_high, valid, tail: as
            ``importance_weighted_returns``.
        critic: [N, H], Q_t(h_t, a_t) in [0, q_t]: any function of history and action fitted on other episodes; good if
            near the policy's expected sum_{u>=t} gamma^(u-t) (r_u - r_lo).
        critic_mean: [N, H], U~_t in [0, q_t], the mean of min(1, c pi_D(a|h_t)/pi(a|h_t)) Q_t(h_t, a) over a ~ pi:
            exact for finite actions, or its average over fresh draws of a, independent of the episode given h_t.
        budget: L > 0, in units of return, chosen before looking at the data; small for few episodes.
        ratio_cap: c >= 1, chosen beforehand.
        critic_max: [H] or a scalar, q_t > 0, the largest value of the critic; by default
            (reward_high - reward_low) sum_{u=t}^{H-1} gamma^(u-t).

    Returns:
        values Z_{H-1} + L >= 0, and an offset from which L is subtracted again.

    Raises:
        ValueError: as ``importance_weighted_returns``; a critic outside its range; budget <= 0 or ratio_cap < 1.

    Source:
        this project (docs/theory.md); compare Thomas & Brunskill 2016 (doubly robust, without the budget).
    """
    if not 0 < budget < np.inf:
        raise ValueError(f"budget must be positive and finite, got {budget}")
    if not 1 <= ratio_cap < np.inf:
        raise ValueError(f"ratio_cap must be finite and at least 1, got {ratio_cap}")
    steps = _steps(rewards, log_policy, log_data_policy, discount, reward_low, reward_high, valid, tail)
    mask = steps.mask
    largest = _critic_max(critic_max, mask.shape[1], discount, reward_high - reward_low)
    taken, expected = (
        _critic_values(name, values, mask, largest)
        for name, values in (("critic", critic), ("critic_mean", critic_mean))
    )
    path = _control_variate_path(steps, taken, expected, largest, budget, ratio_cap)
    # Z + L >= 0 in exact arithmetic
    return WeightedReturns(np.maximum(path[:, -1] + budget, 0.0) + _after(steps), steps.offset - budget)


def _control_variate_path(
    steps: _Steps, taken: FloatArray, expected: FloatArray, largest: FloatArray, budget: float, ratio_cap: float
) -> FloatArray:
    """Z_t, [N, H]."""
    earned = _weighted(steps, steps.rewards)
    log_before = np.concatenate([np.zeros((len(taken), 1)), steps.log_weight[:, :-1]], axis=1) + steps.log_discount
    clipped = np.exp(np.minimum(steps.log_rho, np.log(ratio_cap)))
    path, total = np.zeros_like(earned), np.zeros(len(taken))
    for time in range(taken.shape[1]):
        scale = affordable_scale(budget + total, log_before[:, time], ratio_cap * largest[time])
        total = total - scale * (clipped[:, time] * taken[:, time] - expected[:, time]) + earned[:, time]
        path[:, time] = total
    return path


def affordable_scale(left: FloatArray, log_weight: FloatArray, largest: float) -> FloatArray:
    """How much of the control variate each episode can afford: its value must not fall below 0.

    beta gamma^t w_{0:t-1} = min(gamma^t w_{0:t-1}, (L + Z_{t-1})/(c q_t)), [N].

    Args:
        left: [N], L + Z_{t-1} >= 0.
        log_weight: [N], log gamma^t w_{0:t-1}.
        largest: c q_t > 0.
    """
    afforded = np.maximum(left, 0.0) / largest  # below 0 by rounding only
    with np.errstate(divide="ignore"):
        return np.where(log_weight < np.log(afforded), np.exp(np.minimum(log_weight, np.log(afforded))), afforded)


def critic_mean_of_draws(
    critic: npt.ArrayLike, log_policy: npt.ArrayLike, log_data_policy: npt.ArrayLike, *, ratio_cap: float = 2.0
) -> FloatArray:
    """The mean of the critic under capped importance weights, estimated without bias from fresh actions of the policy.

    U~ = mean over draws of min(1, c pi_D(a|h)/pi(a|h)) Q(h, a), a fresh from pi: what ``critic_mean`` wants.

    Args:
        critic: [..., D], Q >= 0 at D >= 1 actions drawn from the policy at each history, anew for every history and
            independently of the action that the data policy took there.
        log_policy, log_data_policy: [..., D], log densities of these actions; -inf allowed for the data policy.
        ratio_cap: c >= 1, as in ``control_variate_returns``.

    Returns:
        [...].

    Raises:
        ValueError: arrays that do not fit, a ratio_cap below 1, NaN, or a policy density that is not finite.

    Source:
        this project (docs/theory.md).
    """
    if not 1 <= ratio_cap < np.inf:
        raise ValueError(f"ratio_cap must be finite and at least 1, got {ratio_cap}")
    values, own, data = (np.asarray(x, dtype=np.float64) for x in (critic, log_policy, log_data_policy))
    if values.ndim == 0 or values.shape[-1] == 0 or not values.shape == own.shape == data.shape:
        raise ValueError(
            f"critic, log_policy and log_data_policy must have one shape [..., draws], got {values.shape}, "
            f"{own.shape} and {data.shape}"
        )
    if not (np.isfinite(own).all() and (data < np.inf).all()):
        raise ValueError("log_policy must be finite at what was drawn from it, and log_data_policy finite or -inf")
    return np.asarray((np.exp(np.minimum(0.0, np.log(ratio_cap) + data - own)) * values).mean(axis=-1))


@dataclass(frozen=True, eq=False)
class EffectiveSampleSizes:
    """How many unweighted episodes the weighted ones are worth, in [1, N] (0 where every weight is 0).

    Attributes:
        per_time: [H], of the weights w_{0:t} at each time.
        overall: of sum_t gamma^t w_{0:t}, the weight of an episode as a whole.
    """

    per_time: FloatArray
    overall: float

    __repr__ = readable


def effective_sample_sizes(
    log_policy: npt.ArrayLike, log_data_policy: npt.ArrayLike, *, discount: float, valid: npt.ArrayLike | None = None
) -> EffectiveSampleSizes:
    """How many episodes of the policy's own the weighted episodes are worth.

    (sum_n w_n)^2 / sum_n w_n^2 of the importance weights, from their logarithms; a diagnosis, not a guarantee.

    Args and raises: as ``importance_weighted_returns``; weights of any size.

    Source:
        Kish 1965.
    """
    mask = valid_prefix(valid, step_array("log_policy", log_policy).shape)
    log_weight = np.cumsum(log_ratio(log_policy, log_data_policy, mask, ("log_policy", "log_data_policy")), axis=1)
    overall = np.logaddexp.reduce(log_weight + _log_powers(discount, mask.shape[1]), axis=1)
    return EffectiveSampleSizes(_kish(log_weight), float(_kish(overall)))


def _kish(log_weight: FloatArray) -> FloatArray:
    """(sum w)^2 / sum w^2 over axis 0."""
    largest = log_weight.max(axis=0)
    scaled = np.exp(log_weight - np.where(np.isfinite(largest), largest, 0.0))
    squares = np.square(scaled).sum(axis=0)
    return np.asarray(np.square(scaled.sum(axis=0)) / np.where(squares > 0, squares, 1.0))


def _log_powers(discount: float, horizon: int) -> FloatArray:
    """log gamma^t, [H]; 0 at t = 0 also for gamma = 0."""
    if not 0 <= discount < 1:
        raise ValueError(f"discount must be in [0, 1), got {discount}")
    later = np.arange(1, horizon) * (np.log(discount) if discount > 0 else -np.inf)
    return np.concatenate([[0.0], later])


def _steps(
    rewards: npt.ArrayLike,
    log_policy: npt.ArrayLike,
    log_data_policy: npt.ArrayLike,
    discount: float,
    reward_low: float,
    reward_high: float,
    valid: npt.ArrayLike | None,
    tail: Tail,
) -> _Steps:
    if not (np.isfinite(reward_low) and np.isfinite(reward_high) and reward_low <= reward_high):
        raise ValueError(f"reward_low <= reward_high must be finite, got {reward_low} and {reward_high}")
    paid = step_array("rewards", rewards)
    mask = valid_prefix(valid, paid.shape)
    log_discount = _log_powers(discount, paid.shape[1])
    if not mask.all() and not reward_low <= 0 <= reward_high:
        raise ValueError(
            "an ended episode is paid 0, so the reward range must include 0 where some episodes end early, "
            f"got [{reward_low:g}, {reward_high:g}]"
        )
    outside = mask & ~((paid >= reward_low) & (paid <= reward_high))
    if outside.any():
        episode, time = (int(index) for index in np.argwhere(outside)[0])
        raise ValueError(
            f"rewards must lie in [{reward_low:g}, {reward_high:g}], got {paid[episode, time]} at episode {episode}, "
            f"time {time}"
        )
    log_rho = log_ratio(log_policy, log_data_policy, mask, ("log_policy", "log_data_policy"))
    log_weight = np.cumsum(log_rho, axis=1)
    later = tail_weight(tail, discount, paid.shape[1])
    return _Steps(
        log_rho,
        log_weight,
        np.where(mask, np.where(mask, paid, 0.0), 0.0) - reward_low,
        mask,
        log_discount,
        np.where(mask[:, -1], 0.0, -reward_low * later),
        reward_low * (float(np.exp(log_discount).sum()) + later),
    )


def _weighted(steps: _Steps, rewards: FloatArray) -> FloatArray:
    """gamma^t w_{0:t} r~_t, [N, H]."""
    log_scale = steps.log_weight + steps.log_discount
    check_logarithms(log_scale, "the discounted importance weight")
    return np.exp(log_scale) * rewards


def _after(steps: _Steps) -> FloatArray:
    """w_{0:H-1} times what an episode that is over by H earns above r_lo from then on, [N]."""
    check_logarithms(steps.log_weight[:, -1:], "the importance weight")
    return np.exp(steps.log_weight[:, -1]) * steps.after


def _critic_max(critic_max: npt.ArrayLike | None, horizon: int, discount: float, reward_range: float) -> FloatArray:
    if critic_max is None:
        # sum_{u=t}^{H-1} gamma^(u-t) = (1 - gamma^(H-t))/(1 - gamma), smallest terms first
        rest = np.cumsum(np.power(float(discount), np.arange(horizon)))[::-1]
        return np.asarray(reward_range * rest if reward_range > 0 else np.ones(horizon))
    largest = np.broadcast_to(np.asarray(critic_max, dtype=np.float64), (horizon,))
    if not ((largest > 0) & (largest < np.inf)).all():
        raise ValueError(
            f"critic_max must be positive and finite, got {largest[~((largest > 0) & (largest < np.inf))][0]}"
        )
    return largest


def _critic_values(name: str, values: npt.ArrayLike, mask: BoolArray, largest: FloatArray) -> FloatArray:
    array = step_array(name, values, mask.shape)
    slack = 1e-12 * largest
    outside = mask & ~((array >= -slack) & (array <= largest + slack))
    if outside.any():
        episode, time = (int(index) for index in np.argwhere(outside)[0])
        raise ValueError(
            f"{name} must lie in [0, {largest[time]:g}] at time {time}, got {array[episode, time]} at episode {episode}"
        )
    return np.where(mask, np.clip(array, 0.0, largest), 0.0)
