"""Certificates from arrays: they hold on processes whose truth is known, and refuse what they cannot know."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from analysis.certify import cli
from analysis.guarantee.certification import certify
from analysis.guarantee.evidence import Evidence
from analysis.guarantee.evidence_file import load
from analysis.guarantee.lower_bounds import Samples, summed_discrepancies
from bounds import certificate
from bounds.finite import FiniteProcess, true_return
from bounds.finite.instance import Instance
from bounds.finite.random_instances import disturbed, random_distributions
from tests.command_errors import refusal

DISCOUNT = 0.9


def bound(evidence: Evidence, name: str) -> float:
    """The value of one candidate."""
    value = next(each.value for each in certify(evidence).lower_bounds if each.name == name)
    assert value is not None
    return value


def known_instance(seed: int, *, model_error: float, policy_change: float) -> Instance:
    """Six reward times, four states, two actions; the reward is the hardest for the branched return with k = 2."""
    rng = np.random.default_rng(seed)
    transition = random_distributions(rng, (5, 4, 2, 4))
    data_policy = random_distributions(rng, (6, 4, 2))
    process = FiniteProcess(random_distributions(rng, (4,)), transition, np.zeros((6, 4, 2)), -0.5, 1.0)
    model, policy = disturbed(rng, transition, model_error), disturbed(rng, data_policy, policy_change)
    return Instance(process, model, data_policy, policy).with_hardest_reward("averaged", 2)


def draw(rng: np.random.Generator, law: np.ndarray) -> np.ndarray:
    """One index per row of ``law`` [N, K]."""
    return (law.cumsum(axis=1) < rng.uniform(size=(len(law), 1))).sum(axis=1).clip(max=law.shape[1] - 1)


def evidence_of(instance: Instance, episodes: int, seed: int, rollout_length: int | None, **changes: Any) -> Evidence:
    """What a user would collect: real episodes of the data policy, densities along them, and one model return each."""
    rng = np.random.default_rng(seed)
    process: Any = instance.process
    model, behaviour, policy = (np.asarray(each) for each in (instance.model, instance.data_policy, instance.policy))
    horizon = process.horizon + 1
    states = np.zeros((episodes, horizon), dtype=int)
    actions = np.zeros_like(states)
    states[:, 0] = draw(rng, np.tile(process.initial, (episodes, 1)))
    log_p, log_q, log_d, log_pi = (np.zeros((episodes, horizon)) for _ in range(4))
    for t in range(horizon):
        actions[:, t] = draw(rng, behaviour[t, states[:, t]])
        here = (t, states[:, t], actions[:, t])
        log_d[:, t], log_pi[:, t] = np.log(behaviour[here]), np.log(policy[here])
        if t < process.horizon:
            states[:, t + 1] = draw(rng, process.transition[here])
            log_p[:, t] = np.log(process.transition[(*here, states[:, t + 1])])
            log_q[:, t] = np.log(model[(*here, states[:, t + 1])])
    returns = np.zeros(episodes)
    for t in range(horizon):
        limit = t if rollout_length is None else min(t, rollout_length)
        steps = np.full(episodes, limit) if rollout_length is None or t == 0 else rng.integers(1, limit + 1, episodes)
        current = states[np.arange(episodes), t - steps]
        for back in range(limit, 0, -1):
            moves = steps >= back
            action = draw(rng, policy[t - back, current])
            current = np.where(moves, draw(rng, model[t - back, current, action]), current)
        action = draw(rng, policy[t, current])
        returns += DISCOUNT**t * process.reward[t, current, action]
    values: dict[str, Any] = {
        "log_density": log_p, "log_model_density": log_q, "log_data_policy": log_d, "log_policy": log_pi,
        "model_returns": returns, "reward_low": -0.5, "reward_high": 1.0, "discount": DISCOUNT,
        "rollout_length": rollout_length, "absorbing": True,
    }  # fmt: skip
    return Evidence(**{**values, **changes})


@pytest.mark.parametrize("rollout_length", [1, 2, None])
def test_the_simulated_evidence_is_about_the_return_it_claims_to_be(rollout_length: int | None) -> None:
    instance = known_instance(0, model_error=0.3, policy_change=0.3)
    found = evidence_of(instance, 40_000, 1, rollout_length).model_returns
    assert found is not None
    scheme: Any = "full" if rollout_length is None else "averaged"
    exact = instance.model_return(DISCOUNT, scheme, rollout_length or 1)
    assert abs(found.mean() - exact) < 4 * found.std() / 200


@pytest.mark.parametrize("rollout_length", [2, None])
def test_mean_samples_are_the_exact_profiles_and_mean_sums_the_linear_certificate(rollout_length: int | None) -> None:
    instance = known_instance(1, model_error=0.2, policy_change=0.05)
    evidence = evidence_of(instance, 40_000, 2, rollout_length)
    samples, exact = Samples.of(evidence), instance.profiles()
    for found, expected in (
        (samples.model_error[:, :-1], exact.model_error),
        (samples.policy_divergence, exact.policy_divergence),
    ):
        assert (np.abs(found.mean(axis=0) - expected) < 4.5 * found.std(axis=0) / 200).all()
    sums, largest = summed_discrepancies(evidence, samples)
    capless = certificate(
        exact.model_error, exact.policy_divergence, discount=DISCOUNT, reward_range=1.5, rollout_length=rollout_length,
        tail="absorbing",
    ).value  # fmt: skip
    assert abs(sums.mean() - capless) < 4 * sums.std() / 200
    assert sums.min() >= 0
    assert sums.max() <= largest


def coverage(data_sets: int, first_seed: int) -> tuple[int, int]:
    """How many of so many certificates at level 0.9 were false, and how many said something."""
    failures = informative = 0
    for number in range(data_sets):
        instance = known_instance(number % 7, model_error=0.1, policy_change=0.05)
        evidence = evidence_of(instance, 300, first_seed + number, (1, 2, None)[number % 3])
        report = certify(evidence, 0.9)
        assert report.lower_bound is not None
        informative += report.verdict == "certified"
        failures += report.lower_bound > true_return(instance.process, instance.policy, DISCOUNT)
    return failures, informative


@pytest.mark.parametrize("data_sets", [90, pytest.param(1000, marks=pytest.mark.slow)])
def test_certificates_hold_at_their_level_and_say_something(data_sets: int) -> None:
    failures, informative = coverage(data_sets, 100)
    assert failures <= stats.binom.isf(1e-3, data_sets, 0.1)
    assert informative == data_sets


def test_a_certificate_that_ignored_the_errors_would_be_false() -> None:
    """So the test of coverage can fail: with the hardest reward the model return alone is above the truth."""
    instance = known_instance(2, model_error=1.0, policy_change=0.0)
    evidence = evidence_of(instance, 3000, 5, 2)
    blind = dataclasses.replace(evidence, log_model_density=evidence.log_density)
    truth = true_return(instance.process, instance.policy, DISCOUNT)
    seeing, careless = certify(evidence).lower_bound, certify(blind).lower_bound
    assert seeing is not None
    assert careless is not None
    assert seeing < truth < careless


def test_a_learned_reward_costs_its_error() -> None:
    instance = known_instance(3, model_error=0.05, policy_change=0.0)
    evidence = evidence_of(instance, 400, 5, 1, log_data_policy=None, log_policy=None)
    paid = np.random.default_rng(0).uniform(
        -0.5, 1.0, evidence.log_policy.shape if evidence.log_policy is not None else (400, 6)
    )
    exact = dataclasses.replace(evidence, rewards=paid, predicted_rewards=paid)
    wrong = dataclasses.replace(evidence, rewards=paid, predicted_rewards=np.clip(paid + 0.2, -0.5, 1.0))
    assert certify(exact).discrepancy["reward"] == 0
    error = np.abs(np.clip(paid + 0.2, -0.5, 1.0) - paid).mean(axis=0) @ DISCOUNT ** np.arange(6)
    assert certify(wrong).discrepancy["reward"] == pytest.approx(error)
    for name in ("theorem-4", "theorem-5"):
        assert bound(wrong, name) < bound(exact, name) < bound(evidence, name)


def test_pairing_returns_with_episodes_is_sharper_than_two_intervals() -> None:
    evidence = evidence_of(known_instance(4, model_error=0.1, policy_change=0.05), 400, 3, 1)
    assert evidence.model_returns is not None
    alone = dataclasses.replace(evidence, model_returns=evidence.model_returns[:-1])
    assert bound(evidence, "theorem-5") > bound(alone, "theorem-5")


def test_the_tail_is_paid_for_unless_the_episode_is_over() -> None:
    evidence = evidence_of(known_instance(4, model_error=0.1, policy_change=0.0), 400, 3, 1)
    going_on = certify(dataclasses.replace(evidence, absorbing=False))
    over = certify(evidence)
    assert going_on.lower_bound == pytest.approx(over.lower_bound - 0.5 * DISCOUNT**6 / (1 - DISCOUNT))  # type: ignore[operator]
    assert over.discrepancy["tail"] == 0
    assert going_on.discrepancy["tail"] == pytest.approx(1.5 * DISCOUNT**6 / (1 - DISCOUNT))


def small(**changes: Any) -> Evidence:
    shape = (50, 4)
    values: dict[str, Any] = {
        "log_density": np.zeros(shape), "log_model_density": np.full(shape, -0.01), "model_returns": np.full(50, 1.0),
        "reward_low": 0.0, "reward_high": 1.0, "discount": 0.5, "rollout_length": 1, "absorbing": True,
    }  # fmt: skip
    return Evidence(**{**values, **changes})


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"log_density": None}, "one-step density is unknown"),
        ({"log_model_density": None}, "model has no density"),
        ({"log_density": np.full((50, 4), np.inf)}, "the environment is deterministic"),
        ({"log_density": np.full((50, 4), -np.inf)}, "cannot happen"),
        ({"rollout_length": "not said"}, "rollout_length must be k or 'full'"),
        ({"log_model_density": np.full((50, 4), -50.0)}, "the model part alone is about"),
        (
            {"log_data_policy": np.zeros((50, 4)), "log_policy": np.full((50, 4), -9.0)},
            "the policy part alone is about",
        ),
    ],
)
def test_what_cannot_be_certified_is_said_with_its_reason(changes: dict[str, Any], reason: str) -> None:
    report = certify(small(**changes))
    assert report.verdict == "not certifiable"
    assert reason in report.reason


def test_what_happened_after_the_end_of_an_episode_does_not_count() -> None:
    valid = np.tile([True, True, False, False], (50, 1))
    spoiled = small(log_density=np.where(valid, 0.0, np.nan), valid=valid, termination_modelled=True)
    clean = small(log_model_density=np.where(valid, -0.01, 0.0))
    assert certify(spoiled).lower_bound == certify(clean).lower_bound


def test_a_promise_that_the_truth_breaks_is_a_violation() -> None:
    honest = small(model_returns=np.linspace(1.4, 1.6, 50), true_returns=np.linspace(1.3, 1.7, 200))
    assert certify(honest).verdict == "certified"
    broken = dataclasses.replace(honest, true_returns=np.full(2000, 0.1))
    report = certify(broken)
    assert report.verdict == "violated"
    assert "is not what it claims to be" in report.reason


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"discount": 1.0}, "discount must be in [0, 1), got 1.0"),
        ({"reward_low": 2.0}, "reward_low must be < reward_high, got 2.0 and 1.0"),
        ({"rollout_length": 0}, "rollout_length must be a whole number >= 1, or 'full', got 0"),
        ({"log_policy": np.zeros((50, 4))}, "log_data_policy and log_policy go together"),
        ({"log_model_density": np.zeros((50, 3))}, "log_model_density must have shape (50, 4) like the others"),
        ({"log_density": np.zeros(4)}, "log_density must have two axes"),
        ({"model_returns": np.array([1.0])}, "model_returns must be a list of at least 2 returns"),
        ({"model_returns": np.array([1.0, 7.5])}, "must lie in [0, 1.875], which the reward range allows, got 7.5"),
        ({"rewards": np.full((50, 4), 2.0), "predicted_rewards": np.zeros((50, 4))}, "rewards must lie in the reward"),
        (
            {
                "reward_low": 0.5,
                "model_returns": np.full(50, 1.5),
                "valid": np.tile([True, False, False, False], (50, 1)),
            },
            "the reward range must include 0",
        ),
    ],
)
def test_evidence_that_does_not_fit_is_refused(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError) as caught:
        small(**changes)
    assert named in str(caught.value)


def test_a_file_says_what_the_arrays_say(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evidence = evidence_of(known_instance(4, model_error=0.1, policy_change=0.05), 200, 3, None)
    file = tmp_path / "evidence.npz"
    entries = {name: value for name, value in vars(evidence).items() if value is not None}
    np.savez(file, **entries, rollout_length="full")
    assert certify(load(file)) == certify(evidence)
    with pytest.raises(SystemExit) as stop:
        cli([str(file), "--json"])
    assert stop.value.code == 0
    assert json.loads(capsys.readouterr().out) == dataclasses.asdict(certify(evidence))
    with pytest.raises(SystemExit) as stop:
        cli([str(file)])
    assert stop.value.code == 0
    assert capsys.readouterr().out.startswith("certified: with confidence 0.95 the true return is at least ")
    np.savez(file, **entries, rollout_length=0)  # of files made before there was a word for it
    assert certify(load(file)) == certify(evidence)


def test_bad_files_are_one_line_and_exit_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text.npz").write_text("no archive")
    np.savez(tmp_path / "odd.npz", log_densities=np.zeros((2, 2)))
    np.savez(tmp_path / "short.npz", log_density=np.zeros((2, 2)))
    for words, named in (
        ([tmp_path / "missing.npz"], "cannot be read"),
        ([tmp_path / "text.npz"], "cannot be read as .npz"),
        ([tmp_path / "odd.npz"], "unknown entry 'log_densities'"),
        ([tmp_path / "short.npz"], "has no entry 'model_returns'"),
        ([tmp_path / "short.npz", "--confidence", "1"], "--confidence must be in (0, 1), got 1.0"),
    ):
        assert named in refusal(cli, words, capsys)
