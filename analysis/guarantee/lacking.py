"""What evidence lacks when nothing can be certified from it: episodes, a closer policy, a better model."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, replace

import numpy as np

from analysis.guarantee.evidence import Evidence
from analysis.guarantee.lower_bounds import losses_of, lower_bound_by_overlap
from bounds import LowerBound, OverlapLosses
from bounds.return_bounds import LEAST_SHARE

# Beyond so many episodes or numbers the search for how many would do stops.
MOST_EPISODES = 200_000

CURES = {
    "policy": "collect data with the policy itself, or move it less between collections",
    "model": "improve the model, or shorten its rollouts",
    "reward": "improve the reward model, or pay the model's rollouts with the known reward",
    "tail": "lengthen the episodes",
}


@dataclass(frozen=True)
class Lacking:
    """Why a bound says nothing, and how many episodes would change that; None where no number would."""

    reason: str
    episodes: int | None = None


def what_is_lacking(evidence: Evidence, losses: OverlapLosses, confidence: float) -> Lacking:
    """What Theorem 5 would need, computed: the bound that endless evidence like this would give, then the same with
    each part of the discrepancy alone, or the number of episodes from which the present ones would do.

    Args:
        confidence: of Theorem 5's bound.
    """
    assert evidence.model_returns is not None
    weight, reward_range = evidence.horizon_weight, evidence.reward_high - evidence.reward_low
    tail = evidence.tail_weight
    least = evidence.reward_low * weight + LEAST_SHARE * reward_range * (weight + tail)
    promise = float(evidence.model_returns.mean())
    found = promise - reward_range * float(losses.values.mean())
    if found >= least:
        return _episodes_lacking(evidence, losses, confidence, least, found)
    if promise < least:
        return Lacking(f"the model itself promises no more than {promise:.4g} over {evidence.horizon} steps")
    parts = parts_alone(evidence)
    largest = max(parts, key=lambda name: parts[name])
    # Mending one part leaves about what the others cost alone.
    left = {name: sum(value for other, value in parts.items() if other != name) for name in parts if parts[name] > 0}
    enough = [name for name, cost in left.items() if promise - cost >= least]
    if tail > 0 and found >= least - LEAST_SHARE * reward_range * tail:
        largest, enough, parts = "tail", ["tail"], parts | {"tail": reward_range * tail}
    elif enough:
        largest = min(enough, key=lambda name: left[name])
    reason = f"the {largest} part alone is about {parts[largest]:.3g} ({CURES[largest]}"
    others = ", ".join(f"{name} {value:.3g}" for name, value in parts.items() if name != largest and value > 0)
    if not enough:
        reason += f"; that alone would not do, beside {others}" if others else "; that alone would not do"
    return Lacking(reason + f"; {evidence.episodes} episodes were measured, and more like them would not help)")


def parts_alone(evidence: Evidence) -> dict[str, float]:
    """Theorem 5's discrepancy at the mean losses with only one part imperfect, in units of return."""
    names = {"policy": evidence.log_policy, "model": evidence.model_returns, "reward": evidence.predicted_rewards}
    span = evidence.reward_high - evidence.reward_low
    return {
        name: 0.0 if given is None else span * float(losses_of(evidence, only=name).values.mean())
        for name, given in names.items()
    }


def repeated(evidence: Evidence, losses: OverlapLosses, count: int) -> tuple[Evidence, OverlapLosses]:
    """``count`` episodes that are the present ones over and over, with as many more returns of the model."""
    assert evidence.model_returns is not None
    many = copy.copy(evidence)  # not made anew, since evidence refuses repetition
    returns = np.resize(evidence.model_returns, round(count * len(evidence.model_returns) / evidence.episodes))
    object.__setattr__(many, "model_returns", returns)
    return many, replace(losses, values=np.resize(losses.values, count))


def _episodes_lacking(
    evidence: Evidence, losses: OverlapLosses, confidence: float, least: float, endless: float
) -> Lacking:
    """How many episodes would do: the smallest number of which the present ones, over and over, give a bound."""
    parts = parts_alone(evidence)
    largest = max(parts, key=lambda name: parts[name])
    limit = f"endless ones would give {endless:.4g} over {evidence.horizon} steps"
    if parts[largest] > 0:
        limit += f", since the {largest} part alone is about {parts[largest]:.3g}"

    def enough(count: int) -> bool:
        return (lower_bound_by_overlap(*repeated(evidence, losses, count), confidence).value or 0.0) >= least

    few, many = evidence.episodes, 2 * evidence.episodes
    while not enough(many):
        few, many = many, 2 * many
        if few > MOST_EPISODES:
            return Lacking(f"more than {few:,} episodes like these {evidence.episodes} would be needed; {limit}")
    while many - few > max(1, many // 20):
        middle = (few + many) // 2
        few, many = (few, middle) if enough(middle) else (middle, many)
    # Other episodes are not these: a fifth more, in two digits.
    digits = 10 ** max(len(str(many)) - 2, 0)
    needed = math.ceil(1.2 * many / digits) * digits
    return Lacking(
        f"{evidence.episodes} episodes are too few; about {needed:,} like these, with as many more returns of the "
        f"model, would do; {limit}",
        needed,
    )


def returns_lacking(bound: LowerBound, episodes: int, least: float) -> Lacking:
    """What a bound from rewards alone would need.

    Args:
        bound: one that says nothing, with its reason.
        episodes: N.
        least: where a bound begins to say something.
    """
    if "weights" in bound.reason or "support" in bound.reason:
        return Lacking(f"{bound.reason} ({CURES['policy']})")
    assert bound.value is not None
    assert bound.estimate is not None
    if bound.estimate < least:
        return Lacking(bound.reason)
    # The distance of a bound from what it estimates falls at least with the square root of the number.
    ratio = (bound.estimate - bound.value) / (bound.estimate - least)
    needed = math.ceil(episodes * ratio**2)
    return Lacking(f"{bound.reason}; about {needed:,} like these would do", needed)
