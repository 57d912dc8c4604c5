"""Every bound and both certificates held against a measured gap."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

import bounds
from analysis.guarantee.estimates import Estimates, trivial_gap
from bounds.confidence import Interval
from m3po.agents.m3po import M3PO

Verdict = Literal["holds", "violated", "surrogate"]

# A discrepancy beyond this share of what any model satisfies guarantees nothing worth the name.
VACUOUS_SHARE = 0.99


@dataclass(frozen=True)
class Check:
    """One inequality held against the measurement.

    Attributes:
        name: of the bound, or "certificate".
        scheme: which model return it speaks of.
        learned_reward: whether that return is paid by the model's own reward (else by the environment's).
        discrepancy: the bound at the upper ends of the measured errors, in units of return.
        vacuous: it is not below 99% of the gap that any model at all can have.
        gap: true return - model return: estimate, lower, upper.
        tightness: |gap estimate| / discrepancy.
        verdict, reason: holds: the measured return is certainly above model return - discrepancy. violated: certainly
            below. surrogate: one of its inputs is not certified, or the intervals do not decide.
    """

    name: str
    scheme: str
    learned_reward: bool
    discrepancy: float
    vacuous: bool
    gap: dict[str, float]
    tightness: float
    verdict: Verdict
    reason: str


def verdict_on(
    gap: dict[str, float], discrepancy: float, *, two_sided: bool, certified: str | None
) -> tuple[Verdict, str]:
    """The verdict on ``gap >= -discrepancy`` (two-sided: |gap| <= discrepancy) and the reason for it.

    Args:
        gap: estimate, lower, upper.
        discrepancy: at the upper ends of the errors, so that a gap beyond it refutes the inequality itself.
        two_sided: whether the theorem bounds the gap from both sides.
        certified: None, or why the discrepancy is not certified.
    """
    if certified is not None:
        return "surrogate", certified
    if gap["upper"] < -discrepancy or (two_sided and gap["lower"] > discrepancy):
        return "violated", "the measured gap is certainly larger than the discrepancy"
    if gap["lower"] >= -discrepancy and (not two_sided or gap["upper"] <= discrepancy):
        return "holds", "the measured gap is certainly within the discrepancy"
    return "surrogate", "the intervals are too wide to decide; measure more episodes"


def gap_of(true_return: Interval, model_return: Interval) -> dict[str, float]:
    """True return - model return; the ends hold whenever both intervals do."""
    return {
        "estimate": float(true_return.estimate - model_return.estimate),
        "lower": float(true_return.lower - model_return.upper),
        "upper": float(true_return.upper - model_return.lower),
    }


def ends(interval: Interval) -> dict[str, float]:
    return {name: float(getattr(interval, name)) for name in ("estimate", "lower", "upper")}


def stated_with_range(name: str) -> bool:
    """Whether a bound of the catalogue is the project's own: stated with the reward range R, and two-sided."""
    return name.startswith(("linear", "optimal"))


def reward_max_of(name: str, low: float, high: float) -> float:
    """What a bound of the catalogue takes as r_max for rewards in [low, high]; R/2 where it is stated with R."""
    return (high - low) / 2 if stated_with_range(name) else max(abs(low), abs(high))


def checks_of(
    training: M3PO, measured: Estimates, true_return: Interval, on_policy: bool, branched: int
) -> list[Check]:
    """Every bound of the catalogue and both certificates against the measurement."""
    config = training.config
    dynamics = training.dynamics
    low, high = dynamics.reward_low, dynamics.reward_high
    trivial = {
        paid: trivial_gap(dynamics, config.discount, training.horizon, learned_reward=paid) for paid in (True, False)
    }
    # No transition after the last reward time H - 1 is ever paid for.
    model_error = float(np.max(measured.model_error.upper[:-1], initial=0.0))
    divergence = 0.0 if on_policy else measured.policy_divergence_sample_max
    rows: list[Check] = []

    def add(name: str, scheme: str, learned: bool, discrepancy: float, two_sided: bool, certified: str | None) -> None:
        if (scheme, learned) not in measured.model_returns:
            return
        gap = gap_of(true_return, measured.model_returns[scheme, learned])
        verdict, reason = verdict_on(gap, discrepancy, two_sided=two_sided, certified=certified)
        tightness = abs(gap["estimate"]) / discrepancy if discrepancy > 0 else math.inf
        vacuous = discrepancy >= VACUOUS_SHARE * trivial[learned]
        rows.append(Check(name, scheme, learned, discrepancy, vacuous, gap, tightness, verdict, reason))

    for length, scheme in ((branched, "branched"), (None, "full")):
        value = bounds.certificate(
            measured.model_error.upper,
            measured.policy_divergence.upper,
            discount=config.discount,
            reward_range=high - low,
            rollout_length=length,
            reward_error_profile=measured.reward_error.upper,
            tail="absorbing",
        ).value
        add("certificate", scheme, True, min(value, measured.summed[scheme]), True, None)
    why = None if on_policy else "eps_pi is a sample maximum: the supremum over histories cannot be certified"
    for bound in bounds.ALL_BOUNDS:
        if bound.name == "mbpo-4.3" and not on_policy:
            continue  # its model error is the one under the current policy
        value = float(
            bound.evaluate(
                discount=config.discount,
                model_error=model_error,
                policy_divergence=divergence,
                rollout_length=branched,
                reward_max=reward_max_of(bound.name, low, high),
            )
        )
        add(bound.name, bound.scheme, False, value, stated_with_range(bound.name), why)
    return rows
