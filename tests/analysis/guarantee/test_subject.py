"""What is measured: whose data, whose return, and that "no divergence" is said and not guessed."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from analysis.guarantee.audit import CheckConfig, audit
from analysis.guarantee.estimates import Estimates, measure
from analysis.guarantee.guarantee import Guarantee
from analysis.guarantee.subject import ReturnRange, Subject
from analysis.guarantee.surrogates import surrogates
from analysis.guarantee.verdicts import Verdicts, verdicts_of
from analysis.studies.planted_faults import ContractingModel
from bounds.confidence import Interval


@pytest.fixture(scope="module")
def subject(tiny_run: Path) -> Subject:
    return Subject.restored(tiny_run)


def measured(subject: Subject, count: int = 10) -> Estimates:
    generator = torch.Generator().manual_seed(0)
    return measure(subject, subject.episodes(count, seed=1, generator=generator), 0.9, generator)


def verdicts(subject: Subject) -> Verdicts:
    return verdicts_of(subject, measured(subject), Interval(0.0, -1.0, 1.0, 0.99, 10))


def test_a_restored_subject_is_judged_by_the_policy_that_collected_its_last_data(subject: Subject) -> None:
    assert subject.data_policy is not None
    assert subject.on_own_data().data_policy is None
    assert subject.steps == 600
    assert subject.rollout_length == 1
    assert (subject.returns.reward_low, subject.returns.reward_high) == (-0.1, 1.0)

    def actions(who: Subject) -> np.ndarray:
        return who.episodes(3, seed=1, generator=torch.Generator().manual_seed(0)).actions

    collector = dataclasses.replace(subject.on_own_data(), policy=subject.data_policy)
    assert np.array_equal(actions(subject), actions(collector))
    assert not np.array_equal(actions(subject), actions(subject.on_own_data()))


def test_only_own_data_have_no_divergence_whatever_the_policies_are(subject: Subject) -> None:
    """A copy that is said to be another policy has divergence 0 as measured, with an interval that is not 0."""
    own, copied = subject.on_own_data(), dataclasses.replace(subject, data_policy=subject.policy.snapshot())
    same = dataclasses.replace(subject, data_policy=subject.policy)
    assert np.all(measured(own).policy_divergence.upper == 0)
    for other in (copied, same):
        found = measured(other).policy_divergence
        assert np.all(found.estimate == 0)
        assert np.all(found.upper > 0)
    reasons = {each.name: each.reason for each in verdicts(same).bounds}
    assert "mbpo-4.3" not in reasons
    assert all("supremum over histories" in each for each in reasons.values())
    assert not any("supremum over histories" in each.reason for each in verdicts(own).bounds)


def test_the_certificate_is_found_by_name(tiny_run: Path) -> None:
    found = audit(CheckConfig(run_dir=tiny_run, episodes=10))
    assert isinstance(found, Guarantee)
    certificate = found.certificate
    assert (certificate.name, certificate.scheme, certificate.learned_reward) == ("certificate", "branched", True)
    assert found.own.full_certificate.scheme == "full"
    assert certificate.discrepancy <= found.own.estimates.summed["branched"]
    gap = found.true_return.estimate - found.promise.estimate
    assert certificate.gap.estimate == pytest.approx(gap)
    assert found.promise is found.own.estimates.model_returns["branched", True]
    record = found.record()
    assert record["verdict"] == certificate.verdict
    assert record["data_policies"]["current"]["checks"][0] == dataclasses.asdict(certificate)
    assert set(record["data_policies"]) == {"current", "previous"}


def test_without_a_density_no_error_is_measured(subject: Subject) -> None:
    unknown = dataclasses.replace(subject.on_own_data(), dynamics=None, obstacle="Wrapper")
    with pytest.raises(ValueError, match=r"SwitchingPointMass-v0: .* Wrapper may change the observations"):
        measured(unknown)
    with pytest.raises(ValueError, match=r"the one-step density of this environment is not known"):
        _ = dataclasses.replace(unknown, obstacle=None).density


def test_surrogates_need_an_ensemble(subject: Subject) -> None:
    broken = dataclasses.replace(subject.on_own_data(), model=ContractingModel(subject.model))
    generator = torch.Generator().manual_seed(0)
    with pytest.raises(ValueError, match="ensemble, got a ContractingModel"):
        surrogates(broken, broken.episodes(2, seed=0, generator=generator), generator, 0.9)


def test_the_range_of_returns() -> None:
    returns = ReturnRange(discount=0.9, horizon=3, reward_low=-1.0, reward_high=2.0)
    assert returns.lowest == pytest.approx(-(1 + 0.9 + 0.81))
    assert returns.highest == pytest.approx(2 * (1 + 0.9 + 0.81))
    assert returns.trivial_gap(learned_reward=True) == pytest.approx(3 * (1 + 0.9 + 0.81))
    assert returns.trivial_gap(learned_reward=False) == pytest.approx(3 * (0.9 + 0.81))
    assert returns.weight_after_the_horizon == pytest.approx(0.9**3 / 0.1)
