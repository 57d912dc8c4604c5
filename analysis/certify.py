"""``python -m analysis.certify EVIDENCE.npz``: how far your own model's promise can be trusted, from your own data.

Nothing here knows how the model was trained: evidence is arrays, one row per episode of the data policy. The statement
is Theorem 4 (docs/theory.md); what it needs of a model is its density at the real next observations, and returns of
rollouts in it. docs/certify.md says how to fill the arrays and works an example.
"""

from __future__ import annotations

import dataclasses
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro
from numpy.typing import ArrayLike, NDArray

from bounds import Certificate, certificate, linear_weights
from bounds.confidence import Interval, betting, simultaneous
from bounds.divergence import one_sample_tv
from m3po.command_line import json_of, run
from m3po.flag_checks import Confidence, check_fields

Array = NDArray[np.float64]
Verdict = Literal["certified", "violated", "not certifiable"]
# A lower bound that keeps less than this share of the range of returns guarantees nothing worth the name.
LEAST_SHARE = 0.01


@dataclass(frozen=True, eq=False)
class Evidence:
    """N episodes of the data policy in the real environment, and returns of rollouts in the model.

    Rows are episodes, independent of each other and of what trained the model; columns are the times 0 .. H - 1. An
    episode that ended early has ``valid`` False from its end on.

    Attributes:
        log_density: [N, H] log p(o_{t+1} | h_t, a_t) of the *environment* at what happened, in nats. Given the true
            hidden task it certifies too (it then bounds the error from above). None where it is unknown.
        log_model_density: [N, H] log p_theta(o_{t+1} | h_t, a_t) of the model at the same points; of an ensemble, that
            of its mixture.
        model_returns: [M] discounted returns over H steps of the policy in the model, one per independent rollout. With
            M = N both are bounded together, which is sharper; row n must then be made from episode n of the data (as
            branched returns are), or from none of them.
        reward_low, reward_high: the expected reward lies between them whatever happens.
        discount: gamma in [0, 1).
        rollout_length: k when the returns are branched (model steps averaged over 1 .. k); None when they are full
            rollouts from the start.
        log_data_policy, log_policy: [N, H] log densities of the data's actions under the policy that took them and
            under the policy that is to be certified. Both None: it is the same policy.
        rewards, predicted_rewards: [N, H] what was paid and what the model predicts there, clipped to the range. Both
            None: the model's returns were paid by the environment's own reward function.
        true_returns: [K] discounted returns over H steps of the policy in the real environment, to hold the guarantee
            against; not needed for it.
        valid: [N, H] booleans; all True when None.
        absorbing: whether nothing is paid after H steps (an episode that ends). Else the rest is bounded by its worst.

    Raises:
        ValueError: naming the array or number that does not fit.
    """

    log_density: Array | None
    log_model_density: Array | None
    model_returns: Array
    reward_low: float
    reward_high: float
    discount: float
    rollout_length: int | None = 1
    log_data_policy: Array | None = None
    log_policy: Array | None = None
    rewards: Array | None = None
    predicted_rewards: Array | None = None
    true_returns: Array | None = None
    valid: NDArray[np.bool_] | None = None
    absorbing: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.discount < 1:
            raise ValueError(f"discount must be in [0, 1), got {self.discount}")
        if not (np.isfinite([self.reward_low, self.reward_high]).all() and self.reward_low < self.reward_high):
            raise ValueError(f"reward_low must be < reward_high, got {self.reward_low} and {self.reward_high}")
        if self.rollout_length is not None and self.rollout_length < 1:
            raise ValueError(f"rollout_length must be >= 1 or None, got {self.rollout_length}")
        for first, second in (("log_data_policy", "log_policy"), ("rewards", "predicted_rewards")):
            if (getattr(self, first) is None) != (getattr(self, second) is None):
                raise ValueError(f"{first} and {second} go together: give both or neither")
        shape: tuple[int, ...] | None = None
        for name in PER_STEP:
            values = getattr(self, name)
            if values is None:
                continue
            if values.ndim != 2 or 0 in values.shape:
                raise ValueError(f"{name} must have two axes, episodes and times, got shape {values.shape}")
            shape = values.shape if shape is None else shape
            if values.shape != shape:
                raise ValueError(f"{name} must have shape {shape} like the others, got {values.shape}")
        for name in ("model_returns", "true_returns"):
            values = getattr(self, name)
            if values is None:
                continue
            if values.ndim != 1 or len(values) < 2:
                raise ValueError(f"{name} must be a list of at least 2 returns, got shape {values.shape}")
            low, high = (bound * self.horizon_weight for bound in (self.reward_low, self.reward_high))
            slack = 1e-6 * (high - low)
            if not ((values >= low - slack) & (values <= high + slack)).all():
                odd = values[~((values >= low - slack) & (values <= high + slack))][0]
                raise ValueError(f"{name} must lie in [{low:g}, {high:g}], which the reward range allows, got {odd}")
        if self.valid is not None and not self.valid.all() and not self.reward_low <= 0 <= self.reward_high:
            raise ValueError(
                "an ended episode is paid 0, so the reward range must include 0 where some episodes end early, "
                f"got [{self.reward_low:g}, {self.reward_high:g}]"
            )
        for name in ("rewards", "predicted_rewards"):
            values = getattr(self, name)
            if values is not None and not self._within(values[self._mask(values)]):
                raise ValueError(f"{name} must lie in the reward range [{self.reward_low:g}, {self.reward_high:g}]")

    def _within(self, values: Array) -> bool:
        return bool(((values >= self.reward_low) & (values <= self.reward_high)).all())

    def _mask(self, like: Array) -> NDArray[np.bool_]:
        return np.ones(like.shape, dtype=bool) if self.valid is None else self.valid

    @property
    def horizon(self) -> int:
        """H, the number of times."""
        values = next((getattr(self, name) for name in PER_STEP if getattr(self, name) is not None), None)
        if values is None:
            raise ValueError("at least one array with episodes and times is needed")
        return int(values.shape[1])

    @property
    def horizon_weight(self) -> float:
        """sum_{t<H} gamma^t."""
        return float(np.power(self.discount, np.arange(self.horizon)).sum())


PER_STEP = (
    "log_density", "log_model_density", "log_data_policy", "log_policy", "rewards", "predicted_rewards", "valid",
)  # fmt: skip


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
        mask = evidence._mask(evidence.log_density)

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
        rollout_length=evidence.rollout_length,
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


def certificate_of(
    evidence: Evidence, model_error: ArrayLike, policy_divergence: ArrayLike, reward_error: ArrayLike | None
) -> Certificate:
    """Theorem 4 over the H steps of the evidence."""
    return certificate(
        model_error,
        policy_divergence,
        discount=evidence.discount,
        reward_range=evidence.reward_high - evidence.reward_low,
        rollout_length=evidence.rollout_length,
        reward_error_profile=reward_error,
        tail="absorbing",
    )


@dataclass(frozen=True)
class Report:
    """The answer.

    Attributes:
        verdict: certified: with the stated confidence the true return is at least ``lower_bound``. violated: the
            measured true return is certainly below it, so some input is not what it claims to be. not certifiable: see
            the reason.
        reason: one sentence.
        confidence: of the lower bound; a measured true return has another 1 - confidence of error probability.
        lower_bound: on the true return; None where nothing can be said.
        method: which of the two estimates gave it.
        model_return: mean of the model's returns over H steps, what the model promises.
        trivial: the least return that the reward range allows; a bound has to beat it.
        discrepancy: at the estimated errors: policy, model, reward and tail part.
        true_return: estimate, lower, upper, where it was measured.
        episodes, horizon: N and H.
    """

    verdict: Verdict
    reason: str
    confidence: float
    lower_bound: float | None
    method: str | None
    model_return: float
    trivial: float
    discrepancy: dict[str, float]
    true_return: dict[str, float] | None
    episodes: int
    horizon: int


def certify(evidence: Evidence, confidence: float = 0.95) -> Report:
    """Bound the true return from below, J >= lower_bound with probability >= ``confidence``, or say why not.

    Two estimates of Theorem 4 share the error probability, and the better one is taken: weighted sums per episode (one
    interval, no caps) and profiles over time (an interval at every time, with caps).

    Raises:
        ValueError: when ``confidence`` is not in (0, 1).
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be in (0, 1), got {confidence}")
    tail = 0.0 if evidence.absorbing else evidence.discount**evidence.horizon / (1 - evidence.discount)
    trivial = evidence.reward_low * (evidence.horizon_weight + tail)
    span = (evidence.reward_high - evidence.reward_low) * (evidence.horizon_weight + tail)
    common: dict[str, Any] = {
        "confidence": confidence, "model_return": float(evidence.model_returns.mean()), "trivial": trivial,
        "horizon": evidence.horizon,
    }  # fmt: skip
    true_return = None
    if evidence.true_returns is not None:
        interval = _returns_interval(evidence, evidence.true_returns, confidence, "two")
        true_return = {name: float(getattr(interval, name)) for name in ("estimate", "lower", "upper")}
    why = not_certifiable(evidence)
    if why is not None:
        episodes = 0 if evidence.log_model_density is None else len(evidence.log_model_density)
        return Report("not certifiable", why, lower_bound=None, method=None, discrepancy={}, true_return=true_return,
                      episodes=episodes, **common)  # fmt: skip

    samples = Samples.of(evidence)
    half = 1 - (1 - confidence) / 2
    candidates = {
        "sums per episode": lower_bound_by_sums(evidence, samples, half),
        "profiles over time": lower_bound_by_profiles(evidence, samples, half),
    }
    method = max(candidates, key=lambda name: candidates[name])
    lower_bound = candidates[method] + evidence.reward_low * tail
    estimated = certificate_of(
        evidence,
        samples.model_error.mean(axis=0),
        samples.policy_divergence.mean(axis=0),
        None if samples.reward_error is None else samples.reward_error.mean(axis=0),
    )
    discrepancy = {
        "policy": estimated.policy_part, "model": estimated.model_part, "reward": estimated.reward_part,
        "tail": (evidence.reward_high - evidence.reward_low) * tail,
    }  # fmt: skip
    verdict: Verdict = "certified"
    reason = f"with confidence {confidence:g} the true return is at least {lower_bound:.4g}"
    if lower_bound < trivial + LEAST_SHARE * span:
        verdict = "not certifiable"
        reason = f"the bound {lower_bound:.4g} says nothing beyond the least possible return {trivial:.4g}: " + blame(
            discrepancy, len(samples.model_error)
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
                  true_return=true_return, episodes=len(samples.model_error), **common)  # fmt: skip


def not_certifiable(evidence: Evidence) -> str | None:
    """Why total variation cannot be measured at all, or None."""
    if evidence.log_density is None:
        return "the environment's one-step density is unknown, so no total variation can be measured"
    if evidence.log_model_density is None:
        return "the model has no density at the real observations, so no total variation can be measured"
    happened = evidence.log_density[evidence._mask(evidence.log_density)]
    if np.isposinf(happened).any():
        return "the environment is deterministic: its total variation to every density is 1"
    if not np.isfinite(happened).all():
        return "log_density says that something that happened cannot happen: it is -inf or not a number"
    return None


def blame(discrepancy: dict[str, float], episodes: int) -> str:
    """What a vacuous certificate suffers from most."""
    name, value = max(discrepancy.items(), key=lambda item: item[1])
    cure = {
        "policy": "collect data with the policy itself, or move it less between collections",
        "model": "improve the model, or shorten its rollouts",
        "reward": "improve the reward model, or pay the model's rollouts with the known reward",
        "tail": "lengthen the episodes",
    }[name]
    return f"the {name} part alone is about {value:.3g} ({cure}; {episodes} episodes were measured)"


def load(path: Path) -> Evidence:
    """Read an .npz whose entries are named like the fields of ``Evidence`` (numbers as 0-d arrays).

    A ``rollout_length`` of 0 stands for None, full rollouts.

    Raises:
        ValueError: when it cannot be read, an entry is unknown or missing, or the values do not fit.
    """
    fields = {field.name: field for field in dataclasses.fields(Evidence)}
    try:
        with np.load(path, allow_pickle=False) as archive:
            values: dict[str, Any] = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} cannot be read as .npz: {error}") from error
    for name in values:
        if name not in fields:
            raise ValueError(f"{path} has an unknown entry {name!r}; known are {', '.join(fields)}")
    for name in ("log_density", "log_model_density"):
        values.setdefault(name, None)
    for name, field in fields.items():
        if name not in values and field.default is dataclasses.MISSING:
            raise ValueError(f"{path} has no entry {name!r}")
    for name, value in values.items():
        if value is not None and value.ndim == 0:
            values[name] = value.item()
        elif value is not None:
            values[name] = value.astype(bool if name == "valid" else np.float64)
    if values.get("rollout_length") == 0:
        values["rollout_length"] = None
    return Evidence(**values)


@dataclass(frozen=True)
class CertifyConfig:
    """Certify the return that a model promises from your own data: a lower bound on the true return with confidence, or
    an honest "not certifiable" and why. docs/certify.md says how to make the file."""

    evidence: tyro.conf.Positional[Path]
    """.npz file with the arrays of analysis.certify.Evidence."""
    confidence: Confidence = 0.95
    """Probability with which the lower bound holds, in (0, 1)."""
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
    report = certify(load(config.evidence), config.confidence)
    print(json_of(dataclasses.asdict(report)) if config.as_json else text(report))
    return 1 if report.verdict == "violated" else 0


def cli(arguments: Sequence[str] | None = None) -> None:
    run(main, CertifyConfig, arguments, prog="python -m analysis.certify")


if __name__ == "__main__":
    cli()
