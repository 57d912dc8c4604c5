"""The true return bounded from below, with confidence, from evidence alone; or why not."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from analysis.guarantee.evidence import Evidence, honesty_of, refuse_dishonest
from analysis.guarantee.lacking import what_is_lacking
from analysis.guarantee.lower_bounds import LEAST_SHARE, Samples, _returns_interval, best_lower_bound, estimated_parts
from bounds.certificate import Tail

Verdict = Literal["certified", "violated", "not certifiable"]


@dataclass(frozen=True)
class Certification:
    """The answer.

    Attributes:
        verdict: certified: with the stated confidence the true return is at least ``lower_bound``. violated: the
            measured true return is certainly below it, so some input is not what it claims to be. not certifiable: see
            the reason.
        reason: one sentence.
        confidence: of the lower bound; a measured true return has another 1 - confidence of error probability.
        candidates: how many certificates made from the same evidence hold together with that confidence.
        tail: what the lower bound speaks of. absorbing: the return of the H steps, which is all there is. worst: the
            return of all time, with the least reward from H on.
        lower_bound: on the true return; None where nothing can be said.
        method: which of the two estimates gave it.
        model_return: mean of the model's returns over H steps, what the model promises.
        trivial: the least return that the reward range allows; a bound has to beat it.
        discrepancy: at the estimated errors: policy, model, reward and tail part.
        true_return: estimate, lower, upper, where it was measured.
        episodes, horizon: N and H.
        episodes_needed: about how many episodes like these would be certified, where only their number is lacking.
        honesty: log capital of the e-test of each pair of densities (``bounds.honesty``); it refutes from 7.6 on.
    """

    verdict: Verdict
    reason: str
    confidence: float
    candidates: int
    tail: Tail
    lower_bound: float | None
    method: str | None
    model_return: float
    trivial: float
    discrepancy: dict[str, float]
    true_return: dict[str, float] | None
    episodes: int
    horizon: int
    episodes_needed: int | None = None
    honesty: dict[str, float] = field(default_factory=dict)


def certify(evidence: Evidence, confidence: float = 0.95, candidates: int = 1) -> Certification:
    """Bound the true return from below, J >= lower_bound with probability >= ``confidence``, or say why not.

    Two estimates of Theorem 4 share the error probability, and the better one is taken: weighted sums per episode (one
    interval, no caps) and profiles over time (an interval at every time, with caps).

    Args:
        candidates: how many models, checkpoints, rollout lengths or discounts are certified with the same episodes, of
            which the best is then chosen, >= 1: each gets that share of the error probability.

    Raises:
        ValueError: when ``confidence`` is not in (0, 1) or ``candidates`` not >= 1; and when the evidence cannot be
            honest (``bounds.honesty``), at level ``analysis.guarantee.evidence.HONESTY_LEVEL``.
    """
    check_sharing(confidence, candidates)
    shared = 1 - (1 - confidence) / candidates
    tail = 0.0 if evidence.absorbing else evidence.discount**evidence.horizon / (1 - evidence.discount)
    trivial = evidence.reward_low * (evidence.horizon_weight + tail)
    span = (evidence.reward_high - evidence.reward_low) * (evidence.horizon_weight + tail)
    tests = honesty_of(evidence)
    refuse_dishonest(tests)
    common: dict[str, Any] = {
        "confidence": confidence, "candidates": candidates, "tail": "absorbing" if evidence.absorbing else "worst",
        "model_return": float(evidence.model_returns.mean()), "trivial": trivial, "episodes": evidence.episodes,
        "horizon": evidence.horizon, "honesty": {name: test.log_capital for name, test in tests.items()},
    }  # fmt: skip
    true_return = None
    if evidence.true_returns is not None:
        interval = _returns_interval(evidence, evidence.true_returns, shared, "two")
        true_return = {name: float(getattr(interval, name)) for name in ("estimate", "lower", "upper")}
    why = not_certifiable(evidence)
    if why is not None:
        return Certification(
            "not certifiable", why, lower_bound=None, method=None, discrepancy={}, true_return=true_return, **common
        )

    samples = Samples.of(evidence)
    method, found = best_lower_bound(evidence, samples, shared)
    lower_bound = found + evidence.reward_low * tail
    discrepancy = estimated_parts(evidence, samples) | {"tail": (evidence.reward_high - evidence.reward_low) * tail}
    verdict: Verdict = "certified"
    reason = f"with confidence {confidence:g} the true return is at least {lower_bound:.4g}" + (
        f" (over {evidence.horizon} steps, with nothing after them)"
        if evidence.absorbing
        else f" (over all time, with the least reward after {evidence.horizon} steps)"
    )
    needed = None
    if lower_bound < trivial + LEAST_SHARE * span:
        verdict = "not certifiable"
        lacking = what_is_lacking(evidence, samples, shared, tail)
        needed = lacking.episodes
        reason = (
            f"the bound {lower_bound:.4g} says nothing beyond the least possible return {trivial:.4g}: {lacking.reason}"
        )
    elif true_return is not None and not evidence.absorbing:
        reason += "; the measured true return covers the first steps only and is not held against it"
    elif true_return is not None and true_return["upper"] < lower_bound:
        verdict = "violated"
        reason = (
            f"the true return is at most {true_return['upper']:.4g} and the certificate says at least "
            f"{lower_bound:.4g}: a density, a reward or a return in the evidence is not what it claims to be"
        )
    return Certification(verdict, reason, lower_bound=lower_bound, method=method, discrepancy=discrepancy,
                  true_return=true_return, episodes_needed=needed, **common)  # fmt: skip


def check_sharing(confidence: float, candidates: int) -> None:
    """Raises:
    ValueError: when ``confidence`` is not in (0, 1) or ``candidates`` not a whole number >= 1.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be in (0, 1), got {confidence}")
    if isinstance(candidates, bool) or int(candidates) != candidates or candidates < 1:
        raise ValueError(f"candidates must be a whole number >= 1, got {candidates}")


def not_certifiable(evidence: Evidence) -> str | None:
    """Why total variation cannot be measured at all, or what it would speak of is not said; or None."""
    if evidence.log_density is None:
        return "the environment's one-step density is unknown, so no total variation can be measured"
    if evidence.log_model_density is None:
        return "the model has no density at the real observations, so no total variation can be measured"
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
