"""The candidates for a lower bound of the true return: which of them the evidence allows, and all of them together."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from analysis.guarantee.critic import critic_values
from analysis.guarantee.dependence import reuse
from analysis.guarantee.evidence import Evidence
from analysis.guarantee.lower_bounds import Samples, losses_of, lower_bound_by_overlap, lower_bound_by_profiles
from bounds import LowerBound, OverlapLosses, return_lower_bounds
from bounds.return_bounds import Name

FROM_REWARDS: tuple[Name, ...] = ("own-returns", "importance-weights", "control-variate")
FROM_MODEL: tuple[Name, ...] = ("theorem-5", "theorem-4")


def missing(evidence: Evidence) -> dict[Name, str]:
    """What keeps a candidate from being tried at all, by its name. It depends on which entries there are and on what is
    declared, never on what was measured, so the error probability is shared by the others alone."""
    found: dict[Name, str] = {}
    if evidence.rewards is None:
        found |= dict.fromkeys(FROM_REWARDS, "no rewards in the evidence")
    elif evidence.log_policy is None:
        found["importance-weights"] = "the policy itself acted: its own returns need no weights"
    else:
        found["own-returns"] = "another policy acted, as log_policy and log_data_policy say"
    if evidence.rewards is not None and (
        why := "no critic in the evidence" if evidence.critic is None else reuse("critic", evidence.critic_dependence)
    ):
        found["control-variate"] = why
    if (why := no_total_variation(evidence) or reuse("model", evidence.model_dependence)) is not None:
        return found | dict.fromkeys(FROM_MODEL, why)
    if evidence.data_policies > 1:
        found["theorem-4"] = f"its profiles are of one data policy, and here are {evidence.data_policies}"
        assert evidence.model_returns is not None
        if evidence.model_steps is not None and len(evidence.model_returns) != evidence.episodes:
            found["theorem-5"] = (
                f"branched returns from {evidence.data_policies} data policies need one for each episode, made from it"
            )
    return found


def no_total_variation(evidence: Evidence) -> str | None:
    """Why total variation cannot be measured at all, or what it would speak of is not said; or None."""
    if evidence.log_density is None:
        return "the environment's one-step density is unknown, so no total variation can be measured"
    if evidence.log_model_density is None:
        return "the model has no density at the real observations, so no total variation can be measured"
    if evidence.model_returns is None:
        return "no model_returns in the evidence"
    if evidence.rollout_length == "not said":
        return "it is not said how the model's returns were made: rollout_length must be k or 'full'"
    if not evidence.happened.all() and not evidence.termination_modelled:
        return (
            "some episodes end before the last step, and it is not said that the model has to predict that: both "
            "densities and the model's rollouts must treat the end as part of the next observation, and "
            "termination_modelled must be True"
        )
    happened = evidence.log_density[evidence.happened]
    if np.isposinf(happened).any():
        return "the environment is deterministic: its total variation to every density is 1"
    if not np.isfinite(happened).all():
        return "log_density says that something that happened cannot happen: it is -inf"
    return None


@dataclass(frozen=True, eq=False)
class Candidates:
    """Every candidate, tried or not, in the order of ``Name``; those with a value hold together.

    Attributes:
        bounds: in units of the return that ``Evidence.absorbing`` asks for.
        samples, losses: what the model's candidates were made of; None where none was tried.
    """

    bounds: tuple[LowerBound, ...]
    samples: Samples | None
    losses: OverlapLosses | None

    @property
    def best(self) -> LowerBound | None:
        """The one of largest value."""
        valued = [bound for bound in self.bounds if bound.value is not None]
        return max(valued, key=lambda bound: bound.value or 0.0, default=None)


def candidates_of(evidence: Evidence, confidence: float) -> Candidates:
    """Every candidate that the evidence allows, each with the same share of the error probability 1 - confidence."""
    lacking = missing(evidence)
    tried = [name for name in (*FROM_REWARDS, *FROM_MODEL) if name not in lacking]
    found = {name: LowerBound(name, None, None, None, reason=why) for name, why in lacking.items()}
    if not tried:
        return Candidates(_in_order(found), None, None)
    risk = (1 - confidence) / len(tried)
    paid = [name for name in tried if name in FROM_REWARDS]
    if paid:
        assert evidence.rewards is not None
        returns = return_lower_bounds(
            evidence.rewards, evidence.log_policy, evidence.log_data_policy, discount=evidence.discount,
            reward_low=evidence.reward_low, reward_high=evidence.reward_high, confidence=1 - risk * len(paid),
            valid=evidence.valid, tail="absorbing" if evidence.absorbing else "worst",
            critic=critic_values(evidence) if "control-variate" in paid else None,
        )  # fmt: skip
        found |= {bound.name: bound for bound in returns}
    samples = losses = None
    later = evidence.reward_low * evidence.tail_weight
    if "theorem-5" in tried or "theorem-4" in tried:
        samples, losses = Samples.of(evidence), losses_of(evidence)
    if "theorem-5" in tried and losses is not None:
        found["theorem-5"] = _with_tail(lower_bound_by_overlap(evidence, losses, 1 - risk), later)
    if "theorem-4" in tried and samples is not None:
        found["theorem-4"] = _with_tail(lower_bound_by_profiles(evidence, samples, 1 - risk), later)
    return Candidates(_in_order(found), samples, losses)


def _with_tail(bound: LowerBound, later: float) -> LowerBound:
    assert bound.value is not None
    assert bound.estimate is not None
    return replace(bound, value=bound.value + later, estimate=bound.estimate + later)


def _in_order(found: dict[Name, LowerBound]) -> tuple[LowerBound, ...]:
    return tuple(found[name] for name in (*FROM_REWARDS, *FROM_MODEL))
