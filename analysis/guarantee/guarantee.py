"""What an audit found: a guarantee with its certificate, or why there is none. Dictionaries only in ``record``."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

from analysis.diagnostics.intervals import Ends
from analysis.guarantee.returns_alone import ReturnsAlone
from analysis.guarantee.subject import ReturnRange
from analysis.guarantee.verdicts import Check, Verdict, Verdicts
from bounds.confidence import Interval

DataPolicy = Literal["current", "previous"]


@dataclass(frozen=True)
class Audit:
    """Which run was looked at, and how.

    Attributes:
        run_dir, env_id: the run and its environment.
        steps: real steps behind its last checkpoint.
        complete: whether its training is over.
        rollout_length: k of the branched rollouts.
        episodes: fresh ones per data policy.
        confidence: of everything said about one data policy.
        candidates: how many models or policies it is shared between.
        seed: of the fresh episodes.
        returns: the discounted returns that there can be.
        alone: what real returns say without the model.
    """

    run_dir: str
    env_id: str
    steps: int
    complete: bool
    rollout_length: int
    episodes: int
    confidence: float
    candidates: int
    seed: int
    returns: ReturnRange
    alone: ReturnsAlone

    @property
    def verdict(self) -> Verdict:
        """surrogate where nothing can be certified."""
        return "surrogate"

    def record(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "run_dir": self.run_dir,
            "env_id": self.env_id,
            "steps": self.steps,
            "complete": self.complete,
            "gamma": self.returns.discount,
            "k": self.rollout_length,
            "horizon": self.returns.horizon,
            "episodes": self.episodes,
            "confidence": self.confidence,
            "candidates": self.candidates,
            "seed": self.seed,
            "without_a_model": self.alone.record(),
        }


@dataclass(frozen=True)
class Uncertifiable(Audit):
    """Nothing can be certified in this environment.

    Attributes:
        reason: why.
        surrogates: what can be said instead (``analysis.guarantee.surrogates``).
    """

    reason: str
    surrogates: dict[str, Any]

    def record(self) -> dict[str, Any]:
        return super().record() | {
            "verdict": self.verdict,
            "reason": self.reason,
            "nll": self.surrogates["nll"]["estimate"],
            "true_return": self.surrogates["return_gap"]["true_return"],
            "surrogates": self.surrogates,
            "data_policies": {},
        }


@dataclass(frozen=True)
class Guarantee(Audit):
    """What a model's return, its errors and Theorem 4 guarantee about the true return.

    Attributes:
        true_return: as measured, of an episode's steps.
        own: verdicts from fresh data of the policy itself, which the guarantee is made of.
        previous: verdicts from fresh data of the policy one epoch ago.
    """

    true_return: Interval
    own: Verdicts
    previous: Verdicts

    @property
    def by_data_policy(self) -> dict[DataPolicy, Verdicts]:
        """The verdicts by whose data they are from."""
        return {"current": self.own, "previous": self.previous}

    @property
    def certificate(self) -> Check:
        """Theorem 4 for branched rollouts, from the policy's own data."""
        return self.own.certificate

    @property
    def promise(self) -> Interval:
        """The model's return that the certificate is about: branched, with the learned reward, from own data."""
        return self.own.estimates.promise

    @property
    def verdict(self) -> Verdict:
        """Of the certificate against the measured gap."""
        return self.certificate.verdict

    @property
    def trivial(self) -> float:
        """The gap that any model at all can have."""
        return self.returns.trivial_gap(learned_reward=True)

    @property
    def tail(self) -> float:
        """What the rest is worth, more or less, should the process go on after the steps of an episode."""
        returns = self.returns
        return returns.reward_range * returns.discount**returns.horizon / (1 - returns.discount)

    @property
    def at_least(self) -> float | None:
        """What the true return over the steps of an episode is at least, with ``confidence``: lower end of the promise
        - certificate.

        None where that says nothing: the certificate is vacuous, or any policy's return is at least that.
        """
        value = float(self.promise.lower - self.certificate.discrepancy)
        return None if value <= self.returns.lowest or self.certificate.vacuous else value

    def conclusion(self) -> str:
        """The answer in a sentence or two."""
        opening = "At these errors nothing is guaranteed about the real return"
        if self.at_least is not None:
            discrepancy = self.certificate.discrepancy
            opening = (
                f"The model promises {self.promise.estimate:.2f}; with confidence {self.confidence} the real return "
                f"over {self.returns.horizon} steps is at least {self.at_least:.2f} (certificate {discrepancy:.2f}, "
                f"{discrepancy / self.trivial:.0%} of the trivial discrepancy)"
            )
        return f"{opening}; measured: {Ends.of(self.true_return)}. Verdict: {self.verdict}."

    def record(self) -> dict[str, Any]:
        at_least, returns = self.at_least, self.returns
        return super().record() | {
            "reward_low": returns.reward_low,
            "reward_high": returns.reward_high,
            "trivial": self.trivial,
            "tail_if_the_process_went_on": self.tail,
            "true_return": _record_of(self.true_return),
            "data_policies": {name: _verdicts_record(each) for name, each in self.by_data_policy.items()},
            "verdict": self.verdict,
            "reason": f"certificate, branched: {self.certificate.reason}",
            "guaranteed": at_least,
            "guaranteed_should_it_go_on": (
                None if at_least is None else at_least + returns.reward_low * returns.weight_after_the_horizon
            ),
        }


def _record_of(interval: Interval) -> dict[str, float]:
    return dataclasses.asdict(Ends.of(interval))


def _verdicts_record(found: Verdicts) -> dict[str, Any]:
    measured = found.estimates
    profiles = {name: getattr(measured, name) for name in ("model_error", "policy_divergence", "reward_error")}
    return {
        "eps_m": dataclasses.asdict(measured.largest_model_error),
        "eps_pi_sample_max": measured.policy_divergence_sample_max,
        "profiles": {
            name: {"estimate": each.estimate.tolist(), "upper": each.upper.tolist()} for name, each in profiles.items()
        },
        "model_returns": {name: _record_of(interval) for name, interval in measured.named_returns.items()},
        "summed_errors": measured.summed,
        "checks": [dataclasses.asdict(each) for each in found.checks],
    }
