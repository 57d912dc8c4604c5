"""The candidates of a certificate: each holds at its level, and what keeps one from being tried is said."""

from __future__ import annotations

import dataclasses
from functools import cache
from typing import Any

import numpy as np
import pytest
from scipy import stats

from analysis.certify import cli, text
from analysis.guarantee.candidates import FROM_MODEL, FROM_REWARDS, candidates_of
from analysis.guarantee.certification import certify
from analysis.guarantee.evidence import Evidence
from analysis.guarantee.evidence_file import load
from analysis.studies import known_processes
from analysis.studies.known_processes import DISCOUNT, TIMES, evidence_of, random_instance
from bounds import LowerBound, importance_weighted_returns, off_policy
from bounds.finite import true_return
from bounds.finite.instance import Instance
from tests.command_errors import refusal

ALL = (*FROM_REWARDS, *FROM_MODEL)


@cache
def instance(policy_change: float = 0.1) -> Instance:
    return random_instance(1, model_error=0.05, policy_change=policy_change)


def made(episodes: int = 200, seed: int = 0, *, own: bool = False, change: float = 0.1, **changes: Any) -> Evidence:
    found = evidence_of(instance(change), episodes, 1, own, np.random.default_rng(seed), rewards=True)
    return dataclasses.replace(found, **changes) if changes else found


def truth(change: float = 0.1) -> float:
    return float(true_return(instance(change).process, instance(change).policy, DISCOUNT))


def values(evidence: Evidence, confidence: float = 0.95) -> dict[str, float | None]:
    return {each.name: each.value for each in candidates_of(evidence, confidence).bounds}


def reasons(evidence: Evidence) -> dict[str, str]:
    return {each.name: each.reason for each in candidates_of(evidence, 0.95).bounds}


def test_the_evidence_estimates_the_true_return() -> None:
    """Both estimators are unbiased, so a weight, a reward or a draw in the wrong place shows."""
    for own in (False, True):
        many = candidates_of(made(8_000, 3, own=own), 0.95).bounds
        for each in many:
            if each.name in FROM_REWARDS and each.value is not None:
                assert each.estimate == pytest.approx(truth(), abs=0.1), each.name


@pytest.mark.parametrize("data_sets", [40, pytest.param(1000, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("own", "stacked"), [(False, False), (True, False), (False, True)])
def test_every_candidate_and_the_answer_hold_at_the_promised_level(data_sets: int, own: bool, stacked: bool) -> None:
    """At level .8, of which each candidate gets a share; several data policies are stacked in order."""
    missed: dict[str, int] = {"answer": 0}
    for number in range(data_sets):
        evidence = stack(60, number) if stacked else made(60, 1000 + number, own=own)
        report = certify(evidence, 0.8)
        assert report.lower_bound is not None
        missed["answer"] += report.lower_bound > truth()
        for each in report.lower_bounds:
            if each.value is not None:
                missed[each.name] = missed.get(each.name, 0) + (each.value > truth())
    for name, count in missed.items():
        assert count <= stats.binom.isf(1e-4, data_sets, 0.2), name
    assert set(missed) >= {"theorem-5", "control-variate"}


def stack(episodes: int, seed: int) -> Evidence:
    """Episodes of three data policies, the farthest first; the certified policy is that of ``instance()``."""
    parts = []
    rng = np.random.default_rng([7, seed])
    target = instance()
    for step in (8.0, 3.0, 0.5):
        mixed = np.asarray(target.policy) + step * (np.asarray(target.data_policy) - np.asarray(target.policy))
        mixed = np.clip(mixed, 0.01, None)
        data = mixed / mixed.sum(axis=-1, keepdims=True)
        parts.append(
            evidence_of(dataclasses.replace(target, data_policy=data), episodes // 3, 1, False, rng, rewards=True)
        )
    names = [
        field.name for field in dataclasses.fields(Evidence) if isinstance(getattr(parts[0], field.name), np.ndarray)
    ]
    joined: dict[str, Any] = {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
    labels = np.repeat([10, 20, 30], episodes // 3)
    return dataclasses.replace(parts[0], **joined, data_policy=labels)


def test_several_data_policies_are_told_apart() -> None:
    evidence = stack(300, 0)
    report = certify(evidence)
    assert [(each.label, each.episodes) for each in report.data] == [(10, 100), (20, 100), (30, 100)]
    worth = [each.effective_sample_size for each in report.data]
    assert worth == sorted(worth)
    assert reasons(evidence)["theorem-4"] == "its profiles are of one data policy, and here are 3"
    assert report.model_return is not None
    assert evidence.model_returns is not None
    unpaired = dataclasses.replace(evidence, model_returns=evidence.model_returns[:-1])
    assert "need one for each episode" in reasons(unpaired)["theorem-5"]
    assert "100 of data policy 10" in text(report)


def test_rewards_alone_need_no_density_and_get_the_whole_level() -> None:
    evidence = made(log_density=None, log_model_density=None, model_returns=None, critic=None, critic_draws=None,
                    log_policy_draws=None, log_data_policy_draws=None)  # fmt: skip
    report = certify(evidence)
    assert report.verdict == "certified"
    assert (report.answer, report.model_return, report.discrepancy) == ("importance-weights", None, {})
    assert evidence.rewards is not None
    assert evidence.log_policy is not None
    assert evidence.log_data_policy is not None
    alone = importance_weighted_returns(
        evidence.rewards, evidence.log_policy, evidence.log_data_policy, discount=DISCOUNT, reward_low=-0.5,
        reward_high=1.0, tail="absorbing",
    )  # fmt: skip
    assert report.lower_bound == alone.lower(0.95)
    assert report.promised == alone.estimate
    assert "one-step density is unknown" in reasons(evidence)["theorem-5"]
    shared = certify(evidence, candidates=4)
    assert shared.lower_bound == pytest.approx(alone.lower(1 - 0.05 / 4), rel=1e-12)


def test_a_deterministic_environment_is_certified_by_its_rewards() -> None:
    evidence = made(log_density=np.full((200, TIMES), np.inf))
    report = certify(evidence)
    assert report.verdict == "certified"
    assert report.answer in FROM_REWARDS
    assert reasons(evidence)["theorem-4"].startswith("the environment is deterministic")


@pytest.mark.parametrize(
    ("changes", "name", "reason"),
    [
        ({"critic": None, "critic_draws": None, "log_policy_draws": None, "log_data_policy_draws": None},
         "control-variate", "no critic in the evidence"),
        ({"critic_dependence": np.arange(200) == 7}, "control-variate",
         "the critic was fitted on 1 of these 200 episodes (the first is 7)"),
        ({"model_dependence": np.arange(200) >= 150}, "theorem-5",
         "the model was fitted on 50 of these 200 episodes (the first is 150)"),
        ({"model_returns": None}, "theorem-5", "no model_returns in the evidence"),
        ({}, "own-returns", "another policy acted"),
    ],
)  # fmt: skip
def test_what_keeps_a_candidate_from_being_tried_is_said(changes: dict[str, Any], name: str, reason: str) -> None:
    evidence = made(**changes)
    assert reason in reasons(evidence)[name]
    assert values(evidence)[name] is None
    # What is not tried has no share of the error probability.
    tried = [each for each in candidates_of(evidence, 0.9).bounds if each.value is not None]
    for each in tried:
        assert each.confidence == pytest.approx(1 - 0.1 / len(tried))


def test_a_policy_fitted_on_these_episodes_is_refused(tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="the policy was fitted on 2 of these 200 episodes \\(the first is 3\\)"):
        made(policy_dependence=np.isin(np.arange(200), [3, 9]))
    plain = made()
    entries = {
        field.name: getattr(plain, field.name)
        for field in dataclasses.fields(Evidence)
        if getattr(plain, field.name) is not None
    }
    file = tmp_path / "evidence.npz"
    np.savez(file, **entries | {"policy_dependence": np.ones(200, dtype=bool)})
    refusal(cli, [file], capsys)
    np.savez(file, **entries | {"policy_dependence": "independent", "model_dependence": np.zeros(200, dtype=bool)})
    report = certify(load(file))
    assert report.assumed_independent == ["critic"]
    assert "critic fitted on other episodes: the evidence does not say" in text(report)


def test_a_far_policy_fails_for_its_weights() -> None:
    """The data policy nearly never does what the policy always does."""
    far = Instance(
        instance().process, instance().model, np.tile([0.97, 0.03], (TIMES, 4, 1)), np.tile([0.03, 0.97], (TIMES, 4, 1))
    )
    evidence = evidence_of(far, 200, 1, False, np.random.default_rng(0), rewards=True)
    report = certify(evidence)
    assert report.verdict == "not certifiable"
    assert "weights too heavy: 200 episodes are worth" in report.reason
    assert "collect data with the policy itself" in report.reason
    nothing = dataclasses.replace(evidence, log_policy=np.full((200, TIMES), -np.inf))
    assert "no support" in reasons(nothing)["importance-weights"]


def test_a_policy_denser_than_the_data_policy_is_refused_without_any_environment_density() -> None:
    evidence = made(log_density=None)
    assert evidence.log_policy is not None
    with pytest.raises(ValueError, match="the policy's density of the data's actions beats"):
        certify(dataclasses.replace(evidence, log_policy=evidence.log_policy + 0.9))


def test_draws_of_the_data_policy_instead_of_the_policy_are_refused() -> None:
    far = Instance(
        instance().process, instance().model, np.tile([0.7, 0.3], (TIMES, 4, 1)), np.tile([0.3, 0.7], (TIMES, 4, 1))
    )
    evidence = evidence_of(far, 200, 1, False, np.random.default_rng(0), rewards=True)
    certify(evidence)
    swapped = dataclasses.replace(
        evidence, log_policy_draws=evidence.log_data_policy_draws, log_data_policy_draws=evidence.log_policy_draws
    )
    with pytest.raises(ValueError, match="the data policy's density of the critic's draws beats"):
        certify(swapped)


BAD: dict[str, dict[str, Any]] = {
    "predicted_rewards needs rewards": {"rewards": None, "critic": None, "critic_draws": None, "log_policy_draws": None,
                                        "log_data_policy_draws": None, "predicted_rewards": np.zeros((200, TIMES))},
    "critic needs rewards": {"rewards": None},
    "evidence needs rewards, or model_returns, or both": {"rewards": None, "model_returns": None},
    "critic_draws needs critic": {"critic": None},
    "critic needs critic_mean or critic_draws": {"log_policy_draws": None},
    "critic_draws must have three axes": {"critic_draws": np.zeros((200, TIMES))},
    "log_policy_draws must have shape (200, 12, 3) like the others": {"log_policy_draws": np.zeros((200, TIMES, 2))},
    "critic_draws must be a number, got nan": {"critic_draws": np.full((200, TIMES, 3), np.nan)},
    "budget must be positive and finite, got 0.0": {"budget": 0},
    "budget must be one number, got 'big'": {"budget": "big"},
    "ratio_cap must be finite and at least 1, got 0.5": {"ratio_cap": 0.5},
    "data_policy must be a list of whole numbers": {"data_policy": np.zeros(200)},
    "data_policy must have one entry for each of 200 episodes, got 3": {"data_policy": [1, 2, 3]},
    "policy_dependence must be 'independent' or booleans": {"policy_dependence": "yes"},
    "model_dependence must be 'independent' or booleans, one for each of 200 episodes, got int64": {
        "model_dependence": np.zeros(200, dtype=int)},
}  # fmt: skip


@pytest.mark.parametrize("named", BAD)
def test_entries_that_do_not_fit_are_named(named: str) -> None:
    with pytest.raises(ValueError) as caught:
        made(**BAD[named])
    assert named in str(caught.value)


def test_the_critic_must_stay_in_its_range() -> None:
    with pytest.raises(ValueError, match="critic must lie in"):
        certify(made(critic=np.full((200, TIMES), 99.0)))


def test_a_control_variate_that_knows_its_draws_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """The trap of docs/theory.md, section 9: a scale that knows the draw of the mean is biased upwards, and its bounds
    are false. The critic likes the first action and one draw of it is taken, so that the draw matters."""
    process: Any = instance().process
    largest = 1.5 * np.cumsum(DISCOUNT ** np.arange(TIMES))[::-1]
    liking = largest[:, None, None] * np.array([1.0, 0.0]) * np.ones_like(process.reward)
    monkeypatch.setattr(known_processes, "model_critic", lambda _: liking)
    monkeypatch.setattr(known_processes, "DRAWS", 1)
    evidence = made(4_000, 5, budget=0.3)

    def found() -> LowerBound:
        return next(each for each in candidates_of(evidence, 0.95).bounds if each.name == "control-variate")

    def knowing(steps: Any, taken: Any, expected: Any, largest: Any, budget: float, cap: float) -> Any:
        """beta = min(1, (L + Z)/(gamma^t w (c q - U~))): nonnegative too, but it knows U~."""
        path, total = np.zeros_like(taken), np.zeros(len(taken))
        earned = np.exp(steps.log_weight + steps.log_discount) * steps.rewards
        before = np.concatenate([np.zeros((len(taken), 1)), steps.log_weight[:, :-1]], axis=1) + steps.log_discount
        for t in range(taken.shape[1]):
            room = np.maximum(cap * largest[t] - expected[:, t], 1e-12)
            scale = np.minimum(np.exp(before[:, t]), np.maximum(budget + total, 0) / room)
            clipped = np.exp(np.minimum(steps.log_rho[:, t], np.log(cap)))
            total = total - scale * (clipped * taken[:, t] - expected[:, t]) + earned[:, t]
            path[:, t] = total
        return path

    honest = found()
    monkeypatch.setattr(off_policy, "_control_variate_path", knowing)
    biased = found()
    assert honest.value is not None
    assert biased.value is not None
    assert honest.value < truth() < biased.value


def test_the_candidates_share_the_error_probability() -> None:
    for evidence in (made(), made(own=True), stack(60, 0)):
        risk = sum(1 - (each.confidence or 1) for each in candidates_of(evidence, 0.9).bounds if each.value is not None)
        assert risk == pytest.approx(0.1)


def test_own_rewards_beat_every_certificate_through_the_model() -> None:
    """What docs/theory.md says of the policy's own data, on 300 episodes."""
    found = values(made(300, own=True))
    assert found["own-returns"] is not None
    assert found["own-returns"] > max(found["theorem-4"] or -9, found["theorem-5"] or -9)
