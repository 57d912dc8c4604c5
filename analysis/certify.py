"""``python -m analysis.certify EVIDENCE.npz``: how far your own model's promise can be trusted, from your own data.

Nothing here knows how the model was trained: evidence is arrays, one row per episode of the data policy. The statement
is Theorem 4 (docs/theory.md); what it needs of a model is its density at the real next observations, and returns of
rollouts in it. docs/certify.md says how to fill the arrays and works an example.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro
from numpy.typing import ArrayLike, NDArray

from analysis.evidence import Evidence, honesty_of, load, refuse_dishonest
from bounds import Certificate, certificate, linear_weights
from bounds.certificate import Tail
from bounds.confidence import Interval, betting, simultaneous
from bounds.divergence import one_sample_tv
from m3po.command_line import json_of, run
from m3po.flag_checks import Confidence, Count, check_fields

Array = NDArray[np.float64]
Verdict = Literal["certified", "violated", "not certifiable"]
# A lower bound that keeps less than this share of the range of returns guarantees nothing worth the name.
LEAST_SHARE = 0.01


@dataclass(frozen=True, eq=False)
class Samples:
    """Per-step samples in their ranges, whose means over episodes are the profiles of Theorem 4. Each [N, H]."""

    model_error: Array
    policy_divergence: Array
    reward_error: Array | None

    @staticmethod
    def of(evidence: Evidence) -> Samples:
        """Z = max(0, 1 - q/p) of model and policy, and |r - r_theta|; zero after an episode's end.

        Raises:
            ValueError: when a log density of the data is -inf or NaN where something happened.
        """
        assert evidence.log_density is not None
        assert evidence.log_model_density is not None
        mask = evidence.happened

        def total_variation(log_p: Array, log_q: Array) -> Array:
            return np.where(mask, one_sample_tv(np.where(mask, log_p, 0.0), np.where(mask, log_q, 0.0)), 0.0)

        divergence = np.zeros(mask.shape)
        if evidence.log_data_policy is not None and evidence.log_policy is not None:
            divergence = total_variation(evidence.log_data_policy, evidence.log_policy)
        reward_error = None
        if evidence.rewards is not None and evidence.predicted_rewards is not None:
            reward_error = np.where(mask, np.abs(evidence.rewards - evidence.predicted_rewards), 0.0)
        return Samples(total_variation(evidence.log_density, evidence.log_model_density), divergence, reward_error)


def summed_errors(
    model_error: Array,
    policy_divergence: Array | None,
    reward_error: Array | None,
    *,
    discount: float,
    reward_range: float,
    rollout_length: int | None,
) -> tuple[Array, float]:
    """Each episode's weighted sum of errors, whose mean bounds the discrepancy, and the largest such sum there can be.

    Args:
        model_error, policy_divergence, reward_error: per-step samples [N, H] in [0, 1], [0, 1], [0, reward_range]; None
            for a divergence that is 0 (the data policy itself) and for a known reward.
        discount, reward_range, rollout_length: as ``bounds.certificate``.

    Returns:
        [N] sums, in units of return, and their least upper bound.
    """
    weights = linear_weights(
        model_error.shape[1],
        discount=discount,
        rollout_length=rollout_length,
        learned_reward=reward_error is not None,
    )
    sums, largest = model_error @ weights.model_error, weights.model_error.sum()
    if policy_divergence is not None:
        sums, largest = sums + policy_divergence @ weights.policy_divergence, largest + weights.policy_divergence.sum()
    sums, largest = reward_range * sums, reward_range * largest
    if reward_error is not None:
        sums, largest = sums + reward_error @ weights.reward_error, largest + reward_range * weights.reward_error.sum()
    return sums, float(largest)


def summed_discrepancies(evidence: Evidence, samples: Samples) -> tuple[Array, float]:
    """``summed_errors`` of the evidence."""
    return summed_errors(
        samples.model_error,
        None if evidence.log_policy is None else samples.policy_divergence,
        samples.reward_error,
        discount=evidence.discount,
        reward_range=evidence.reward_high - evidence.reward_low,
        rollout_length=evidence.model_steps,
    )


def returns_lower(evidence: Evidence, returns: Array, confidence: float) -> float:
    """A lower confidence bound of the mean of discounted returns over H steps."""
    return float(_returns_interval(evidence, returns, confidence, "lower").lower)


def _returns_interval(
    evidence: Evidence, returns: Array, confidence: float, sides: Literal["two", "lower", "upper"]
) -> Interval:
    low, high = (bound * evidence.horizon_weight for bound in (evidence.reward_low, evidence.reward_high))
    return betting(np.clip(returns, low, high), confidence, sides=sides, low=low, high=high)


def lower_bound_by_sums(evidence: Evidence, samples: Samples, confidence: float) -> float:
    """J over H steps >= mean of (model return - weighted errors), by one interval where returns pair with episodes.

    Without pairing: two intervals, each with half of the error probability.
    """
    sums, largest = summed_discrepancies(evidence, samples)
    returns = evidence.model_returns
    if len(returns) == len(sums):
        low, high = (bound * evidence.horizon_weight for bound in (evidence.reward_low, evidence.reward_high))
        differences = np.clip(returns, low, high) - sums
        return float(betting(differences, confidence, sides="lower", low=low - largest, high=high).lower)
    half = 1 - (1 - confidence) / 2
    error = float(betting(sums, half, sides="upper", high=largest).upper) if largest > 0 else 0.0
    return returns_lower(evidence, returns, half) - error


def lower_bound_by_profiles(evidence: Evidence, samples: Samples, confidence: float) -> float:
    """J over H steps >= model return - certificate at the profiles' upper ends, which knows the caps of Theorem 4.

    The error probability is shared equally by the model return and each profile that was measured.
    """
    span = evidence.reward_high - evidence.reward_low
    measured = 2 + (evidence.log_policy is not None) + (samples.reward_error is not None)
    each = 1 - (1 - confidence) / measured
    found = certificate_of(
        evidence,
        simultaneous(betting, samples.model_error, each, "upper").upper,
        simultaneous(betting, samples.policy_divergence, each, "upper").upper
        if evidence.log_policy is not None
        else np.zeros(evidence.horizon),
        None
        if samples.reward_error is None
        else simultaneous(betting, samples.reward_error, each, "upper", high=span).upper,
    )
    return returns_lower(evidence, evidence.model_returns, each) - found.value


SUMS, PROFILES = "sums per episode", "profiles over time"
METHODS = {SUMS: lower_bound_by_sums, PROFILES: lower_bound_by_profiles}


def best_lower_bound(
    evidence: Evidence, samples: Samples, confidence: float, methods: Sequence[str] = (SUMS, PROFILES)
) -> tuple[str, float]:
    """The method that gives the larger lower bound of J over H steps, and that; both hold together."""
    half = 1 - (1 - confidence) / 2
    bounds = {name: METHODS[name](evidence, samples, half) for name in methods}
    method = max(bounds, key=lambda name: bounds[name])
    return method, bounds[method]


def certificate_of(
    evidence: Evidence, model_error: ArrayLike, policy_divergence: ArrayLike, reward_error: ArrayLike | None
) -> Certificate:
    """Theorem 4 over the H steps of the evidence."""
    return certificate(
        model_error,
        policy_divergence,
        discount=evidence.discount,
        reward_range=evidence.reward_high - evidence.reward_low,
        rollout_length=evidence.model_steps,
        reward_error_profile=reward_error,
        tail="absorbing",
    )


def estimated_parts(evidence: Evidence, samples: Samples) -> dict[str, float]:
    """Policy, model and reward part of Theorem 4 at the means of the samples, in units of return."""
    found = certificate_of(
        evidence,
        samples.model_error.mean(axis=0),
        samples.policy_divergence.mean(axis=0),
        None if samples.reward_error is None else samples.reward_error.mean(axis=0),
    )
    return {"policy": found.policy_part, "model": found.model_part, "reward": found.reward_part}


@dataclass(frozen=True)
class Report:
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


def certify(evidence: Evidence, confidence: float = 0.95, candidates: int = 1) -> Report:
    """Bound the true return from below, J >= lower_bound with probability >= ``confidence``, or say why not.

    Two estimates of Theorem 4 share the error probability, and the better one is taken: weighted sums per episode (one
    interval, no caps) and profiles over time (an interval at every time, with caps).

    Args:
        candidates: how many models, checkpoints, rollout lengths or discounts are certified with the same episodes, of
            which the best is then chosen, >= 1: each gets that share of the error probability.

    Raises:
        ValueError: when ``confidence`` is not in (0, 1) or ``candidates`` not >= 1; and when the evidence cannot be
            honest (``bounds.honesty``), at level ``analysis.evidence.HONESTY_LEVEL``.
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
        return Report("not certifiable", why, lower_bound=None, method=None, discrepancy={}, true_return=true_return,
                      **common)  # fmt: skip

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
    return Report(verdict, reason, lower_bound=lower_bound, method=method, discrepancy=discrepancy,
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


@dataclass(frozen=True)
class CertifyConfig:
    """Certify the return that a model promises from your own data: a lower bound on the true return with confidence, or
    an honest "not certifiable" and why. docs/certify.md says how to make the file."""

    evidence: tyro.conf.Positional[Path]
    """.npz file with the arrays of analysis.certify.Evidence."""
    confidence: Confidence = 0.95
    """Probability with which the lower bound holds, in (0, 1)."""
    candidates: Count = 1
    """How many models, checkpoints, rollout lengths or discounts you certify with the same episodes to choose the best,
    >= 1: each certificate gets that share of the error probability."""
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False
    """Print one JSON object instead of text."""

    def __post_init__(self) -> None:
        check_fields(self)


def text(report: Report) -> str:
    """The report for people, the answer first."""
    lines = [f"{report.verdict}: {report.reason}"]
    lines.append(
        f"  the model promises  {report.model_return:.4g} over {report.horizon} steps ({report.episodes} episodes)"
    )
    if report.lower_bound is not None:
        lines.append(
            f"  lower bound         {report.lower_bound:.4g}, by {report.method}; trivial {report.trivial:.4g}"
        )
        parts = ", ".join(f"{name} {value:.4g}" for name, value in report.discrepancy.items())
        lines.append(f"  discrepancy         {sum(report.discrepancy.values()):.4g} at the estimated errors ({parts})")
    if report.true_return is not None:
        measured = report.true_return
        lines.append(
            f"  measured            {measured['estimate']:.4g} [{measured['lower']:.4g}, {measured['upper']:.4g}]"
        )
    return "\n".join(lines)


def main(config: CertifyConfig) -> int:
    report = certify(load(config.evidence), config.confidence, config.candidates)
    print(json_of(dataclasses.asdict(report)) if config.as_json else text(report))
    return 0 if report.verdict == "certified" else 1


def cli(arguments: Sequence[str] | None = None) -> None:
    run(main, CertifyConfig, arguments, prog="python -m analysis.certify")


if __name__ == "__main__":
    cli()
