"""Lower confidence bounds on a policy's return from arrays of episodes, and how several share one error probability.

``return_lower_bounds`` needs rewards and, where other policies acted, two log densities of every action; nothing about
the environment. ``model_lower_bound`` needs a model's returns and Theorem 5's losses. Both fit a training loop as well
as a file of evidence.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from bounds.bound import FloatArray
from bounds.certificate import Tail
from bounds.confidence import betting
from bounds.off_policy import (
    EffectiveSampleSizes,
    WeightedReturns,
    control_variate_returns,
    effective_sample_sizes,
    importance_weighted_returns,
)
from bounds.overlap import OverlapLosses, tail_weight
from bounds.readable import readable

Name = Literal["own-returns", "importance-weights", "control-variate", "theorem-5", "theorem-4"]

# A lower bound that keeps less than this share of the range of returns guarantees nothing worth the name.
LEAST_SHARE = 0.01

# Episodes that are worth fewer than so many of the policy's own carry no bound, however many they are.
FEW_EPISODES = 10.0


@dataclass(frozen=True)
class LowerBound:
    """J >= value with probability >= confidence.

    Attributes:
        name: own-returns, importance-weights or control-variate (from rewards); theorem-5 or theorem-4 (from a model).
        value: in units of return; None where there is none, for the reason given.
        estimate: what endless episodes like these would give, without any confidence.
        confidence: 1 minus its share of the error probability.
        effective_sample_size: how many unweighted episodes the weighted ones are worth; None where nothing is weighted.
        reason: why there is no value, or why it says nothing beyond the least possible return; empty otherwise.
    """

    name: Name
    value: float | None
    estimate: float | None
    confidence: float | None
    effective_sample_size: float | None = None
    reason: str = ""


@dataclass(frozen=True, eq=False)
class CriticValues:
    """What ``control_variate_returns`` takes of a critic that was fitted on other episodes.

    Attributes:
        taken: [N, H], Q_t(h_t, a_t) in [0, q_t], near the policy's expected sum_{u>=t} gamma^(u-t) (r_u - r_lo).
        mean: [N, H], the mean over a ~ pi of min(1, c pi_D/pi) Q_t(h_t, a), such as ``critic_mean_of_draws``.
        budget: L > 0, chosen before looking at the data; None: ``default_budget``.
        ratio_cap: c >= 1.
        largest: [H] or a scalar, q_t; None: what the reward range allows.
    """

    taken: npt.ArrayLike
    mean: npt.ArrayLike
    budget: float | None = None
    ratio_cap: float = 2.0
    largest: npt.ArrayLike | None = None

    __repr__ = readable


def default_budget(episodes: int, returns_range: float, *, own: bool) -> float:
    """L = range of returns * clip(N/600, 0.1, 5), and 0.03 of the range on the policy's own episodes.

    It costs about 4 L/N of width, and too little of it binds the critic where weights are large. It knows the number of
    episodes, the range and who acted, so it may be used without a share of the error probability.
    """
    return returns_range * (0.03 if own else float(np.clip(episodes / 600, 0.1, 5.0)))


def episodes_for_width(standard_deviation: float, width: float, confidence: float = 0.95) -> int:
    """About how many of a policy's own episodes put the lower end of the mean return ``width`` below their mean.

    n = 2 sigma^2 log(1/delta)/width^2, the leading term of such intervals; betting mostly needs somewhat fewer.

    Args:
        standard_deviation: sigma > 0, of one episode's return.
        width: > 0, in the same units.
        confidence: 1 - delta in (0, 1).

    Raises:
        ValueError: an argument out of its range.
    """
    if not (0 < standard_deviation < np.inf and 0 < width < np.inf):
        raise ValueError(
            f"standard_deviation and width must be positive and finite, got {standard_deviation} and {width}"
        )
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be in (0, 1), got {confidence}")
    return int(np.ceil(-2 * (standard_deviation / width) ** 2 * np.log1p(-confidence)))


def return_lower_bounds(
    rewards: npt.ArrayLike,
    log_policy: npt.ArrayLike | None = None,
    log_data_policy: npt.ArrayLike | None = None,
    *,
    discount: float,
    reward_low: float,
    reward_high: float,
    confidence: float = 0.95,
    valid: npt.ArrayLike | None = None,
    tail: Tail = "worst",
    critic: CriticValues | None = None,
) -> tuple[LowerBound, ...]:
    """Every lower bound that rewards alone give; all of them hold together with probability >= ``confidence``.

    The policy's own episodes: one betting interval of their returns, whose range is known. Episodes of any other data
    policies, in any order: importance weights, and ``nonnegative_lower`` of the weighted returns. With a critic, also
    the control variate. Each gets the same share of the error probability, so the largest value holds too.

    Args:
        rewards: [N, H], in [reward_low, reward_high].
        log_policy: [N, H], log pi at the actions taken, -inf allowed. The policy must be fixed independently of these
            episodes. None, with ``log_data_policy``, where the policy itself acted in every episode.
        log_data_policy: [N, H], log density of each action under the policy that took it.
        discount, reward_low, reward_high, valid, tail: as ``importance_weighted_returns``; reward_low < reward_high.
        confidence: of all together, in (0, 1).
        critic: fitted on other episodes, or None.

    Raises:
        ValueError: as ``importance_weighted_returns`` and ``control_variate_returns``; one log density without the
            other.

    Source:
        this project (docs/theory.md, section 9).
    """
    if (log_policy is None) != (log_data_policy is None):
        raise ValueError("log_data_policy and log_policy go together: give both or neither")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be in (0, 1), got {confidence}")
    if not reward_low < reward_high:
        raise ValueError(f"reward_low must be < reward_high, got {reward_low} and {reward_high}")
    own = log_policy is None
    same = np.zeros(np.shape(rewards))
    policy, data_policy = (
        (same, same) if log_policy is None or log_data_policy is None else (log_policy, log_data_policy)
    )
    each = 1 - (1 - confidence) / (1 if critic is None else 2)
    weighted = importance_weighted_returns(
        rewards,
        policy,
        data_policy,
        discount=discount,
        reward_low=reward_low,
        reward_high=reward_high,
        valid=valid,
        tail=tail,
    )
    horizon = np.shape(rewards)[1]
    weight, later = float(np.power(float(discount), np.arange(horizon)).sum()), tail_weight(tail, discount, horizon)
    sizes = None if own else effective_sample_sizes(policy, data_policy, discount=discount, valid=valid)
    if own:
        # what an episode that is over by then earns above r_lo from H on is 0 - r_lo
        span = (reward_high - reward_low) * weight + max(0.0, -reward_low * later)
        values = np.minimum(weighted.values, span)  # rounding only
        value = float(betting(values, each, sides="lower", low=0.0, high=span).lower) + weighted.offset
        found = [LowerBound("own-returns", value, weighted.estimate, each)]
    else:
        found = [_of_weighted("importance-weights", weighted, each, sizes)]
    if critic is not None:
        budget = critic.budget
        if budget is None:
            budget = default_budget(len(weighted.values), (reward_high - reward_low) * weight, own=own)
        variate = control_variate_returns(
            rewards, policy, data_policy, critic.taken, critic.mean, discount=discount, reward_low=reward_low,
            reward_high=reward_high, budget=budget, ratio_cap=critic.ratio_cap, critic_max=critic.largest, valid=valid,
            tail=tail,
        )  # fmt: skip
        found.append(_of_weighted("control-variate", variate, each, sizes))
    total = (reward_high - reward_low) * (weight + later)
    least = reward_low * (weight + later) + LEAST_SHARE * total
    return tuple(_explained(bound, least, len(weighted.values)) for bound in found)


def _of_weighted(
    name: Name, weighted: WeightedReturns, confidence: float, sizes: EffectiveSampleSizes | None
) -> LowerBound:
    size = None if sizes is None else sizes.overall
    return LowerBound(name, weighted.lower(confidence), weighted.estimate, confidence, size)


def _explained(bound: LowerBound, least: float, episodes: int) -> LowerBound:
    """The bound, with the reason where it is below ``least``."""
    if bound.value is None or bound.value >= least:
        return bound
    size = bound.effective_sample_size
    if size == 0:
        reason = "no support: the policy takes none of the data's actions, every weight is 0"
    elif size is not None and size < max(min(FEW_EPISODES, episodes / 2), 0.1 * episodes):
        reason = f"weights too heavy: {episodes} episodes are worth {size:.3g} of the policy's own"
    elif bound.estimate is not None and bound.estimate < least:
        reason = f"the return itself is estimated at no more than {bound.estimate:.4g}"
    else:
        reason = f"{episodes} episodes are too few"
    return replace(bound, reason=reason)


def model_lower_bound(
    losses: OverlapLosses,
    model_returns: npt.ArrayLike,
    *,
    reward_low: float,
    reward_high: float,
    confidence: float = 0.95,
    tail: Tail = "worst",
) -> LowerBound:
    """J >= E[model return] - R E[loss] by Theorem 5, over the H steps of the losses and the tail.

    As many returns as episodes: one interval of the differences, row by row. Each row's mean is then a lower bound on
    J, so the episodes may come from several data policies. Otherwise two intervals, each with half of the error
    probability.

    Args:
        losses: of one of the capped forms of Theorem 5, one number per episode.
        model_returns: [M], discounted returns over H steps in the model; with M = N, row n is made from episode n, or
            none is. Branched returns of several data policies must be paired so.
        reward_low, reward_high, confidence, tail: as ``return_lower_bounds``.

    Raises:
        ValueError: the form "uncapped", returns outside what the reward range allows, or as ``betting``.

    Source:
        this project, Theorem 5 (docs/theory.md, section 8).
    """
    if losses.form == "uncapped":
        raise ValueError("the uncapped form has no lower end; give losses of a capped form")
    if not reward_low < reward_high:
        raise ValueError(f"reward_low must be < reward_high, got {reward_low} and {reward_high}")
    returns = np.asarray(model_returns, dtype=np.float64)
    weight = float(np.power(float(losses.discount), np.arange(losses.horizon)).sum())
    low, high, span = reward_low * weight, reward_high * weight, reward_high - reward_low
    slack = 1e-6 * (high - low)
    if returns.ndim != 1 or not returns.size or not ((returns >= low - slack) & (returns <= high + slack)).all():
        raise ValueError(f"model_returns must be a list of returns in [{low:g}, {high:g}]")
    lost: FloatArray = np.clip(losses.values, 0.0, losses.largest)  # rounding only
    returns = np.clip(returns, low, high)
    if len(returns) == len(lost):
        least = low - span * losses.largest
        value = float(betting(returns - span * lost, confidence, sides="lower", low=least, high=high).lower)
    else:
        half = 1 - (1 - confidence) / 2
        value = float(betting(returns, half, sides="lower", low=low, high=high).lower)
        if losses.largest > 0:
            value -= span * float(betting(lost, half, sides="upper", low=0.0, high=losses.largest).upper)
    later = reward_low * tail_weight(tail, losses.discount, losses.horizon)
    estimate = float(returns.mean() - span * lost.mean()) + later
    return LowerBound("theorem-5", value + later, estimate, confidence)
