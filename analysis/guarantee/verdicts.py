"""Every bound and both certificates held against a measured gap."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import bounds
from analysis.diagnostics.intervals import Ends
from analysis.guarantee.estimates import Estimates
from analysis.guarantee.subject import ReturnRange, Subject
from bounds.confidence import Interval

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
        gap: true return - model return.
        tightness: |gap estimate| / discrepancy.
        verdict, reason: holds: the measured return is certainly above model return - discrepancy. violated: certainly
            below. surrogate: one of its inputs is not certified, or the intervals do not decide.
    """

    name: str
    scheme: str
    learned_reward: bool
    discrepancy: float
    vacuous: bool
    gap: Ends
    tightness: float
    verdict: Verdict
    reason: str

    @property
    def outcome(self) -> str:
        """The verdict, and whether it says nothing."""
        return "holds, vacuously" if self.vacuous and self.verdict == "holds" else self.verdict


@dataclass(frozen=True)
class Verdicts:
    """What fresh episodes of one data policy say.

    Attributes:
        estimates: the errors and the model returns.
        certificate: Theorem 4 for branched rollouts that the model's own reward pays: what a guarantee is made of.
        full_certificate: the same for full rollouts.
        bounds: the catalogue, each for the return that it speaks of, paid by the known reward.
    """

    estimates: Estimates
    certificate: Check
    full_certificate: Check
    bounds: tuple[Check, ...]

    @property
    def checks(self) -> tuple[Check, ...]:
        """All of them, the certificates first."""
        return (self.certificate, self.full_certificate, *self.bounds)


def verdict_on(gap: Ends, discrepancy: float, *, two_sided: bool, certified: str | None) -> tuple[Verdict, str]:
    """The verdict on ``gap >= -discrepancy`` (two-sided: |gap| <= discrepancy) and the reason for it.

    Args:
        gap: true return - model return.
        discrepancy: at the upper ends of the errors, so that a gap beyond it refutes the inequality itself.
        two_sided: whether the theorem bounds the gap from both sides.
        certified: None, or why the discrepancy is not certified.
    """
    if certified is not None:
        return "surrogate", certified
    if gap.upper < -discrepancy or (two_sided and gap.lower > discrepancy):
        return "violated", "the measured gap is certainly larger than the discrepancy"
    if gap.lower >= -discrepancy and (not two_sided or gap.upper <= discrepancy):
        return "holds", "the measured gap is certainly within the discrepancy"
    return "surrogate", "the intervals are too wide to decide; measure more episodes"


def gap_of(true_return: Interval, model_return: Interval) -> Ends:
    """True return - model return; the ends hold whenever both intervals do."""
    return Ends(
        estimate=float(true_return.estimate - model_return.estimate),
        lower=float(true_return.lower - model_return.upper),
        upper=float(true_return.upper - model_return.lower),
    )


def stated_with_range(name: str) -> bool:
    """Whether a bound of the catalogue is the project's own: stated with the reward range R, and two-sided."""
    return name.startswith(("linear", "optimal"))


def reward_max_of(name: str, low: float, high: float) -> float:
    """What a bound of the catalogue takes as r_max for rewards in [low, high]; R/2 where it is stated with R."""
    return (high - low) / 2 if stated_with_range(name) else max(abs(low), abs(high))


def theorem_4(
    measured: Estimates,
    end: Literal["estimate", "upper"],
    returns: ReturnRange,
    *,
    rollout_length: int | None,
    learned_reward: bool = True,
) -> bounds.Certificate:
    """Theorem 4 at the estimates of the measured error profiles, or at their upper ends.

    Args:
        rollout_length: k; None for full rollouts.
        learned_reward: whether the model's return is paid by its own reward, which then costs its error too.
    """
    return bounds.certificate(
        getattr(measured.model_error, end),
        getattr(measured.policy_divergence, end),
        discount=returns.discount,
        reward_range=returns.reward_range,
        rollout_length=rollout_length,
        reward_error_profile=getattr(measured.reward_error, end) if learned_reward else None,
        tail="absorbing",
    )


def check_of(
    name: str,
    scheme: str,
    discrepancy: float,
    subject: Subject,
    measured: Estimates,
    true_return: Interval,
    *,
    learned_reward: bool,
    two_sided: bool,
    certified: str | None = None,
) -> Check:
    """One inequality against the measured gap of the model return that it speaks of."""
    gap = gap_of(true_return, measured.model_returns[scheme, learned_reward])
    verdict, reason = verdict_on(gap, discrepancy, two_sided=two_sided, certified=certified)
    vacuous = discrepancy >= VACUOUS_SHARE * subject.returns.trivial_gap(learned_reward=learned_reward)
    tightness = abs(gap.estimate) / discrepancy if discrepancy > 0 else math.inf
    return Check(name, scheme, learned_reward, discrepancy, vacuous, gap, tightness, verdict, reason)


def certificate_of(
    subject: Subject, measured: Estimates, true_return: Interval, *, full: bool = False, learned_reward: bool = True
) -> Check:
    """The certificate against the measurement.

    With the learned reward it is the smaller of Theorem 4 at the upper ends of the profiles and of the summed errors,
    which include the reward's.
    """
    length = None if full else subject.rollout_length
    scheme = "full" if full else "branched"
    value = theorem_4(measured, "upper", subject.returns, rollout_length=length, learned_reward=learned_reward).value
    if learned_reward:
        value = min(value, measured.summed[scheme])
    return check_of(
        "certificate", scheme, value, subject, measured, true_return, learned_reward=learned_reward, two_sided=True
    )


def verdicts_of(subject: Subject, measured: Estimates, true_return: Interval) -> Verdicts:
    """Every bound of the catalogue and both certificates against the measurement.

    Args:
        measured: on fresh episodes of the subject's data policy.
        true_return: of the subject's policy.
    """
    on_policy = subject.data_policy is None
    divergence = 0.0 if on_policy else measured.policy_divergence_sample_max
    why = None if on_policy else "eps_pi is a sample maximum: the supremum over histories cannot be certified"
    rows: list[Check] = []
    for bound in bounds.ALL_BOUNDS:
        if bound.name == "mbpo-4.3" and not on_policy:
            continue  # its model error is the one under the current policy
        if (bound.scheme, False) not in measured.model_returns:
            continue
        value = bound.evaluate(
            discount=subject.discount,
            model_error=measured.largest_model_error.upper,
            policy_divergence=divergence,
            rollout_length=subject.rollout_length,
            reward_max=reward_max_of(bound.name, subject.reward_low, subject.reward_high),
        )
        rows.append(
            check_of(
                bound.name,
                bound.scheme,
                float(value),
                subject,
                measured,
                true_return,
                learned_reward=False,
                two_sided=stated_with_range(bound.name),
                certified=why,
            )
        )
    return Verdicts(
        measured,
        certificate_of(subject, measured, true_return),
        certificate_of(subject, measured, true_return, full=True),
        tuple(rows),
    )
