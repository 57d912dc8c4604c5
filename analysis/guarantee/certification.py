"""The true return bounded from below, with confidence, from evidence alone; or why not."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from analysis.guarantee.candidates import FROM_MODEL, Candidates, candidates_of, no_total_variation
from analysis.guarantee.dependence import assumed
from analysis.guarantee.evidence import Evidence, honesty_of, refuse_dishonest
from analysis.guarantee.lacking import Lacking, returns_lacking, what_is_lacking
from analysis.guarantee.lower_bounds import _returns_interval, estimated_parts
from bounds import LowerBound, effective_sample_sizes
from bounds.certificate import Tail
from bounds.return_bounds import LEAST_SHARE, Name

Verdict = Literal["certified", "violated", "not certifiable"]

METHODS: dict[Name, str] = {
    "own-returns": "the returns of its own episodes", "importance-weights": "importance weights",
    "control-variate": "importance weights with the critic as control variate",
    "theorem-5": "overlap per episode (Theorem 5)", "theorem-4": "profiles over time (Theorem 4)",
}  # fmt: skip


@dataclass(frozen=True)
class DataPolicy:
    """What one data policy's episodes are worth.

    Attributes:
        label: as in ``Evidence.data_policy``; 0 where there is but one.
        episodes: how many.
        effective_sample_size: how many episodes of the certified policy they are worth.
    """

    label: int
    episodes: int
    effective_sample_size: float


@dataclass(frozen=True)
class Certification:
    """The answer.

    Attributes:
        verdict: certified: with the stated confidence the true return is at least ``lower_bound``. violated: the
            measured true return is certainly below it, so some input is not what it claims to be. not certifiable: see
            the reason.
        reason: one sentence.
        confidence: of the lower bound; a measured true return has another 1 - confidence of error probability.
        candidates: how many policies, models, checkpoints, rollout lengths or discounts, certified with the same
            evidence, hold together with that confidence.
        tail: what the lower bound speaks of. absorbing: the return of the H steps, which is all there is. worst: the
            return of all time, with the least reward from H on.
        lower_bound: on the true return; None where nothing can be said.
        method: how it was found, in words.
        model_return: mean of the model's returns over H steps, what the model promises; None without a model.
        trivial: the least return that the reward range allows; a bound has to beat it.
        discrepancy: Theorem 4's at the estimated errors: policy, model, reward and tail part; empty without a density.
        true_return: estimate, lower, upper, where it was measured.
        episodes, horizon: N and H.
        episodes_needed: about how many episodes like these would be certified, where only their number is lacking.
        honesty: log capital of the e-test of each pair of densities (``bounds.honesty``); it refutes from 7.6 on.
        answer: the name of the lower bound that is taken, the largest.
        lower_bounds: every way to a bound, tried or not, with its value, share of confidence, effective sample size and
            the reason where it has none. Those with a value hold together.
        data: what each data policy's episodes are worth to the certified policy.
        promised: what the bound is a part of: the model's promise, or without a model the answer's estimate.
        assumed_independent: of policy, model and critic, what the evidence does not say it was fitted on.
        more: what would make more of it certain, in one sentence.
    """

    verdict: Verdict
    reason: str
    confidence: float
    candidates: int
    tail: Tail
    lower_bound: float | None
    method: str | None
    model_return: float | None
    trivial: float
    discrepancy: dict[str, float]
    true_return: dict[str, float] | None
    episodes: int
    horizon: int
    episodes_needed: int | None = None
    honesty: dict[str, float] = field(default_factory=dict)
    answer: Name | None = None
    lower_bounds: list[LowerBound] = field(default_factory=list)
    data: list[DataPolicy] = field(default_factory=list)
    promised: float | None = None
    assumed_independent: list[str] = field(default_factory=list)
    more: str = ""


def certify(evidence: Evidence, confidence: float = 0.95, candidates: int = 1) -> Certification:
    """Bound the true return from below, J >= lower_bound with probability >= ``confidence``, or say why not.

    The ways to a bound that the evidence allows (``analysis.guarantee.candidates``) share the error probability
    equally, and the largest bound is taken: from rewards alone, by importance weights, and with a critic as control
    variate; through a model, by Theorem 5's overlap per episode and Theorem 4's profiles over time.

    Args:
        candidates: how many policies, models, checkpoints, rollout lengths or discounts are certified with the same
            episodes, of which the best is then chosen, >= 1: each gets that share of the error probability.

    Raises:
        ValueError: when ``confidence`` is not in (0, 1) or ``candidates`` not >= 1; and when the evidence cannot be
            honest (``bounds.honesty``), at level ``analysis.guarantee.evidence.HONESTY_LEVEL``.
    """
    check_sharing(confidence, candidates)
    shared = 1 - (1 - confidence) / candidates
    trivial = evidence.reward_low * (evidence.horizon_weight + evidence.tail_weight)
    span = evidence.reward_high - evidence.reward_low
    least = trivial + LEAST_SHARE * span * (evidence.horizon_weight + evidence.tail_weight)
    tests = honesty_of(evidence)
    refuse_dishonest(tests)
    true_return = None
    if evidence.true_returns is not None:
        interval = _returns_interval(evidence, evidence.true_returns, shared, "two")
        true_return = {name: float(getattr(interval, name)) for name in ("estimate", "lower", "upper")}
    found = candidates_of(evidence, shared)
    best = found.best
    promised = None if evidence.model_returns is None else float(evidence.model_returns.mean())
    common: dict[str, Any] = {
        "confidence": confidence, "candidates": candidates, "tail": "absorbing" if evidence.absorbing else "worst",
        "model_return": promised, "trivial": trivial, "true_return": true_return, "episodes": evidence.episodes,
        "horizon": evidence.horizon, "honesty": {name: test.log_capital for name, test in tests.items()},
        "lower_bounds": list(found.bounds), "data": data_policies_of(evidence),
        "assumed_independent": not_said(evidence), "discrepancy": {},
    }  # fmt: skip
    if found.samples is not None:
        common["discrepancy"] = estimated_parts(evidence, found.samples) | {"tail": span * evidence.tail_weight}
    if best is None:
        why = no_total_variation(evidence) or found.bounds[-1].reason
        return Certification("not certifiable", why, lower_bound=None, method=None, promised=promised, **common)
    assert best.value is not None
    common |= {
        "lower_bound": best.value, "method": METHODS[best.name], "answer": best.name,
        "promised": promised if promised is not None else best.estimate, "more": more_of(evidence, found, best),
    }  # fmt: skip
    if best.value < least:
        lacking = _lacking(evidence, found, best, least)
        reason = f"the bound {best.value:.4g} says nothing beyond the least possible return {trivial:.4g}: "
        return Certification(
            "not certifiable", reason + lacking.reason, episodes_needed=lacking.episodes, **common | {"more": ""}
        )
    reason = f"with confidence {confidence:g} the true return is at least {best.value:.4g}" + (
        f" (over {evidence.horizon} steps, with nothing after them)"
        if evidence.absorbing
        else f" (over all time, with the least reward after {evidence.horizon} steps)"
    )
    if true_return is not None and not evidence.absorbing:
        reason += "; the measured true return covers the first steps only and is not held against it"
    elif true_return is not None and true_return["upper"] < best.value:
        reason = (
            f"the true return is at most {true_return['upper']:.4g} and the certificate says at least "
            f"{best.value:.4g}: a density, a reward or a return in the evidence is not what it claims to be"
        )
        return Certification("violated", reason, **common)
    return Certification("certified", reason, **common)


def _lacking(evidence: Evidence, found: Candidates, best: LowerBound, least: float) -> Lacking:
    """What the most promising way would need: rewards where there are any, else the model."""
    paid = [bound for bound in found.bounds if bound.value is not None and bound.name not in FROM_MODEL]
    if paid:
        return returns_lacking(max(paid, key=lambda bound: bound.value or 0.0), evidence.episodes, least)
    assert found.losses is not None
    assert best.confidence is not None
    return what_is_lacking(evidence, found.losses, best.confidence)


def more_of(evidence: Evidence, found: Candidates, best: LowerBound) -> str:
    """What would make more of the return certain."""
    if best.name in FROM_MODEL:
        if evidence.rewards is None:
            return "the rewards of these episodes bound the return without a model: add `rewards`"
        return "episodes of the policy itself, or of one closer to it"
    size = best.effective_sample_size
    if size is not None and size < evidence.episodes / 2:
        return f"a data policy closer to the policy: these {evidence.episodes} episodes are worth {size:.0f} of its own"
    distance = (best.estimate or 0.0) - (best.value or 0.0)
    return f"more episodes: four times as many bring the bound about {distance / 2:.2g} closer to what they estimate"


def data_policies_of(evidence: Evidence) -> list[DataPolicy]:
    """What each data policy's episodes are worth."""
    labels = np.zeros(evidence.episodes, dtype=np.int64) if evidence.data_policy is None else evidence.data_policy
    found = []
    for label in np.unique(labels):
        rows = labels == label
        worth = float(rows.sum())
        if evidence.log_policy is not None and evidence.log_data_policy is not None:
            worth = effective_sample_sizes(
                evidence.log_policy[rows], evidence.log_data_policy[rows], discount=evidence.discount,
                valid=evidence.happened[rows],
            ).overall  # fmt: skip
        found.append(DataPolicy(int(label), int(rows.sum()), worth))
    return found


def not_said(evidence: Evidence) -> list[str]:
    """What the evidence uses and does not say the fitting of."""
    used = {"policy": evidence.policy_dependence}
    if evidence.model_returns is not None:
        used["model"] = evidence.model_dependence
    if evidence.critic is not None:
        used["critic"] = evidence.critic_dependence
    return assumed(used)


def check_sharing(confidence: float, candidates: int) -> None:
    """Raises:
    ValueError: when ``confidence`` is not in (0, 1) or ``candidates`` not a whole number >= 1.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be in (0, 1), got {confidence}")
    if isinstance(candidates, bool) or int(candidates) != candidates or candidates < 1:
        raise ValueError(f"candidates must be a whole number >= 1, got {candidates}")
