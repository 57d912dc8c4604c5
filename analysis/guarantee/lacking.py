"""What evidence lacks when nothing can be certified from it: episodes, a closer policy, a better model."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import numpy as np

from analysis.guarantee.evidence import Evidence
from analysis.guarantee.lower_bounds import (
    LEAST_SHARE,
    METHODS,
    SUMS,
    Samples,
    best_lower_bound,
    estimated_parts,
    summed_discrepancies,
)

# Why a bound says nothing

# Beyond so many episodes or numbers the search for how many would do stops.
MOST_EPISODES, MOST_NUMBERS = 200_000, 1_000_000

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


def what_is_lacking(evidence: Evidence, samples: Samples, confidence: float, tail: float) -> Lacking:
    """What the certificate would need, computed: the bound that endless evidence like this would give, then the same
    without each part of the discrepancy, or the number of episodes from which the present ones would do.

    Args:
        tail: sum of the weights of all times from H on.
    """
    weight, reward_range = evidence.horizon_weight, evidence.reward_high - evidence.reward_low
    least = evidence.reward_low * weight + LEAST_SHARE * reward_range * (weight + tail)
    found = with_endless_evidence(evidence, samples)
    if found >= least:
        return _episodes_lacking(evidence, samples, confidence, least, found)
    promise = float(evidence.model_returns.mean())
    if promise < least:
        return Lacking(f"the model itself promises no more than {promise:.4g} over {evidence.horizon} steps")
    parts = estimated_parts(evidence, samples)
    without = {name: with_endless_evidence(evidence, samples, without=name) for name, size in parts.items() if size > 0}
    largest = max(parts, key=lambda name: parts[name])
    enough = [name for name, value in without.items() if value >= least]
    if tail > 0 and found >= least - LEAST_SHARE * reward_range * tail:
        largest, enough, parts = "tail", ["tail"], parts | {"tail": reward_range * tail}
    elif enough:
        largest = max(enough, key=lambda name: without[name])
    reason = f"the {largest} part alone is about {parts[largest]:.3g} ({CURES[largest]}"
    others = ", ".join(f"{name} {value:.3g}" for name, value in parts.items() if name != largest and value > 0)
    if not enough:
        reason += f"; that alone would not do, beside {others}" if others else "; that alone would not do"
    return Lacking(reason + f"; {evidence.episodes} episodes were measured, and more like them would not help)")


def with_endless_evidence(evidence: Evidence, samples: Samples, *, without: str | None = None) -> float:
    """The lower bound on the return over H steps were the means of the samples exact, and one part of them zero."""
    kept = Samples(
        np.zeros_like(samples.model_error) if without == "model" else samples.model_error,
        np.zeros_like(samples.policy_divergence) if without == "policy" else samples.policy_divergence,
        np.zeros_like(samples.reward_error) if without == "reward" and samples.reward_error is not None
        else samples.reward_error,
    )  # fmt: skip
    promise = float(evidence.model_returns.mean())
    return promise - min(
        float(summed_discrepancies(evidence, kept)[0].mean()), sum(estimated_parts(evidence, kept).values())
    )


def repeated(evidence: Evidence, samples: Samples, count: int) -> tuple[Evidence, Samples]:
    """``count`` episodes that are the present ones over and over, with as many more returns of the model."""
    rows = np.resize(np.arange(evidence.episodes), count)
    many = copy.copy(evidence)  # not made anew, since evidence refuses repetition
    returns = np.resize(evidence.model_returns, round(count * len(evidence.model_returns) / evidence.episodes))
    object.__setattr__(many, "model_returns", returns)
    return many, Samples(
        samples.model_error[rows],
        samples.policy_divergence[rows],
        None if samples.reward_error is None else samples.reward_error[rows],
    )


def _episodes_lacking(evidence: Evidence, samples: Samples, confidence: float, least: float, endless: float) -> Lacking:
    """How many episodes would do: the smallest number of which the present ones, over and over, give a bound."""
    parts = estimated_parts(evidence, samples)
    largest = max(parts, key=lambda name: parts[name])
    limit = f"endless ones would give {endless:.4g} over {evidence.horizon} steps"
    if parts[largest] > 0:
        limit += f", since the {largest} part alone is about {parts[largest]:.3g}"
    by_sums = float(evidence.model_returns.mean() - summed_discrepancies(evidence, samples)[0].mean()) >= least
    most_profiles = MOST_NUMBERS // evidence.horizon
    most = MOST_EPISODES if by_sums else most_profiles

    def enough(count: int) -> bool:
        methods = tuple(METHODS) if count <= most_profiles else (SUMS,)
        return best_lower_bound(*repeated(evidence, samples, count), confidence, methods)[1] >= least

    few, many = evidence.episodes, 2 * evidence.episodes
    while not enough(many):
        few, many = many, 2 * many
        if few > most:
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
