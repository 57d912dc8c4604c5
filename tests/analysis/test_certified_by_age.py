"""Bounds by the age of their data: whose episodes certify whose return, which density is whose, what the table says."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from analysis.certified_by_age import cli, text
from analysis.guarantee.evidence import Evidence
from analysis.guarantee.evidence_of_subject import evidence_of
from analysis.guarantee.model_critic import ModelCritic
from analysis.guarantee.subject import Subject
from analysis.runs.resumable_table import ResumableTable
from analysis.studies import certified_by_age as study
from analysis.studies import through_training
from analysis.studies.certified_by_age import (
    BOUNDS,
    CertifiedByAgeConfig,
    CertifiedRow,
    measure_ages,
    measure_all,
    summarise,
    trained,
)
from m3po.errors import EncodedTrajectories
from m3po.networks.policy import HistoryPolicy
from tests.analysis.conftest import tiny_config
from tests.command_errors import refusal
from tests.m3po.small import output_layer

EPISODES = 60


def config_at(directory: Path, **changes: Any) -> CertifiedByAgeConfig:
    values: dict[str, Any] = {
        "out": directory / "rows.csv", "seeds": (0,), "total_steps": 600, "ages": (0, 1, 5), "episodes": EPISODES,
        "critic_episodes": 4, "truth_episodes": EPISODES,
    }  # fmt: skip
    return CertifiedByAgeConfig(**{**values, **changes})


@pytest.fixture(scope="module")
def subject(tiny_run: Path) -> Subject:
    return dataclasses.replace(Subject.restored(tiny_run).on_own_data(), rollout_length=1)


def moved(policy: HistoryPolicy, by: float) -> HistoryPolicy:
    """A policy whose means before tanh are larger by ``by``."""
    other = policy.snapshot()
    with torch.no_grad():
        bias = output_layer(other.network.network).bias
        bias.view(-1)[: bias.numel() // 2] += by
    return other


def measured(
    subject: Subject, episodes: int = EPISODES, critic: ModelCritic | None = None
) -> tuple[EncodedTrajectories, Evidence]:
    """Evidence from fresh episodes of the subject's data policy."""
    generator = torch.Generator().manual_seed(1)
    if critic is None:
        critic = ModelCritic.fit(subject, subject.episodes(4, seed=2, generator=generator), generator)
    trajectories = subject.episodes(episodes, seed=3, generator=generator)
    data = EncodedTrajectories.of(trajectories, subject.model.encoder.history_length, subject.policy.device)
    return data, evidence_of(subject, data, critic, generator)


def given(values: NDArray[np.float64] | None) -> NDArray[np.float64]:
    assert values is not None
    return values


def test_each_density_is_that_of_the_policy_it_is_named_after(subject: Subject) -> None:
    """By Gibbs' inequality the one that drew beats the other on average, by the KL divergence that is known here."""
    older = moved(subject.policy, 0.25)
    data, evidence = measured(dataclasses.replace(subject, data_policy=older))
    _, log_std = subject.policy.network(data.features(subject.policy.encoder))
    divergence = float((0.5 * (0.25 / log_std.detach().exp()) ** 2).sum(dim=1).mean())
    actions = given(evidence.log_data_policy) - given(evidence.log_policy)
    draws = given(evidence.log_policy_draws) - given(evidence.log_data_policy_draws)
    for ratio in (actions, draws):
        assert ratio.mean() == pytest.approx(divergence, abs=5 * ratio.std() / np.sqrt(ratio.size))
    assert divergence > 0.01


def test_the_control_variate_has_mean_zero(subject: Subject) -> None:
    """E_D[min(rho, c) Q] = E_pi[min(1, c/rho) Q] at every history, here for Q = w_t (1 + a)/2: exchanged densities, or
    a critic at other actions, break it."""
    size = subject.model.encoder.feature_size
    form = torch.zeros(size + 3, size + 3, dtype=torch.float64)
    form[size, -1] = form[-1, -1] = 0.5
    critic = ModelCritic(form, np.cumsum(1.1 * 0.95 ** np.arange(100, dtype=np.float64))[::-1])
    _, evidence = measured(dataclasses.replace(subject, data_policy=moved(subject.policy, 0.5)), 300, critic)
    rho = np.exp(given(evidence.log_policy) - given(evidence.log_data_policy))
    back = np.exp(given(evidence.log_data_policy_draws) - given(evidence.log_policy_draws))
    taken = np.minimum(rho, 2) * given(evidence.critic)
    expected = (np.minimum(1, 2 * back) * given(evidence.critic_draws)).mean(axis=2)
    per_episode = (taken - expected).mean(axis=1)
    assert abs(per_episode.mean()) < 4 * per_episode.std() / np.sqrt(len(per_episode))
    assert per_episode.std() / np.sqrt(len(per_episode)) < 0.02 * expected.mean()


def test_data_of_a_policy_that_is_the_same_have_weights_of_one(subject: Subject) -> None:
    _, evidence = measured(dataclasses.replace(subject, data_policy=subject.policy.snapshot()), 5)
    assert np.array_equal(given(evidence.log_policy), given(evidence.log_data_policy))
    assert np.array_equal(given(evidence.log_policy_draws), given(evidence.log_data_policy_draws))
    _, own = measured(subject, 5)
    assert (own.log_policy, own.log_data_policy, own.log_policy_draws) == (None, None, None)


def test_a_critic_of_a_model_that_pays_the_same_everywhere_is_that(
    subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = type(subject.model).sample

    def sample(*arguments: Any) -> tuple[torch.Tensor, torch.Tensor]:
        following, reward = honest(*arguments)
        return following, torch.full_like(reward, 0.3)

    monkeypatch.setattr(type(subject.model), "sample", sample)
    data, evidence = measured(subject, 5)
    remaining = (1 - 0.95 ** (100 - np.arange(100))) / 0.05
    np.testing.assert_allclose(
        given(evidence.critic), np.tile((0.3 - subject.reward_low) * remaining, (5, 1)), rtol=1e-3
    )
    assert len(data.trajectories.rewards) == 5


@pytest.fixture(scope="module")
def rows(subject: Subject, tmp_path_factory: pytest.TempPathFactory) -> tuple[CertifiedByAgeConfig, list[CertifiedRow]]:
    """The policy with its own data, with data of one that is nearly the same, and of one that pushes to a corner."""
    config = config_at(tmp_path_factory.mktemp("by_age"))
    policies = {599: moved(subject.policy, 0.01), 595: moved(subject.policy, 3.0)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(study, "trained", lambda config, seed: (subject, policies))
        return config, measure_all(config)


def test_the_right_policies_are_measured(rows, subject: Subject) -> None:
    near, corner = rows[1][1], rows[1][2]
    own = rows[1][0]
    fresh = subject.episodes(400, seed=9, generator=torch.Generator().manual_seed(9)).returns(subject.discount)
    for row in rows[1]:
        assert row.true_return == pytest.approx(fresh.mean(), abs=5 * row.standard_error)
        assert not any(row.missed(name) for name in (*BOUNDS, "certified"))
        assert row.trivial == pytest.approx(-0.1 * (1 - 0.95**100) / 0.05)
    pushing = dataclasses.replace(subject, policy=moved(subject.policy, 3.0))
    other = pushing.episodes(400, seed=9, generator=torch.Generator().manual_seed(9)).returns(subject.discount)
    assert abs(other.mean() - fresh.mean()) > 10 * own.standard_error  # or nothing above could tell them apart
    assert own.total_variation == 0 < near.total_variation < 0.1 < corner.total_variation
    assert own.effective == EPISODES > near.effective > 0.9 * EPISODES > 5 > corner.effective
    assert own.direct == pytest.approx(near.direct, abs=1.0)
    assert own.share("direct") > 0.5


def test_all_bounds_together_say_less_than_the_best_alone(rows) -> None:
    for row in rows[1][:2]:
        assert row.certified < max(getattr(row, name) for name in BOUNDS)
        assert getattr(row, study.NAMES[row.answer]) > row.certified > row.trivial


def test_a_finished_file_is_not_measured_again_and_a_missing_row_comes_back_the_same(
    rows, subject: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, found = rows
    copied = dataclasses.replace(config, out=tmp_path / "rows.csv")
    copied.out.write_text(config.out.read_text())
    monkeypatch.setattr(study, "trained", None)  # would be called if anything were trained
    assert [row.certified for row in measure_all(copied)] == pytest.approx([row.certified for row in found])
    table = ResumableTable(tmp_path / "again.csv", CertifiedRow, {})
    table.rows.extend(found[:1] + found[2:])
    measure_ages(subject, {599: moved(subject.policy, 0.01)}, 0, config, table)
    for name, value in dataclasses.asdict(found[1]).items():
        again = getattr(table.rows[-1], name)
        assert again == (pytest.approx(value, rel=1e-6) if isinstance(value, float) else value), name
    with pytest.raises(ValueError, match="not measured with these settings"):
        measure_all(dataclasses.replace(copied, episodes=61))


def test_a_training_gives_its_end_and_the_policies_of_its_past(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def small(**settings: Any) -> Any:
        return dataclasses.replace(tiny_config(tmp_path), initial_random_steps=100, epoch_steps=40, **settings)

    monkeypatch.setattr(through_training, "Config", small)
    subject, policies = trained(config_at(tmp_path, total_steps=125, ages=(0, 1, 20)), 0)
    assert subject.steps == 125
    assert sorted(policies) == [105, 124]
    now = [*subject.policy.network.state_dict().values()]
    earlier = {step: [*policy.network.state_dict().values()] for step, policy in policies.items()}
    far = {
        step: sum(float((a - b).abs().sum()) for a, b in zip(now, past, strict=True)) for step, past in earlier.items()
    }
    assert 0 < far[124] < far[105]


def test_a_summary_is_of_medians_and_a_bound_below_the_least_return_is_worth_that(rows) -> None:
    first = dataclasses.replace(rows[1][0], true_return=10.0, trivial=-2.0, standard_error=0.1)
    found = [
        dataclasses.replace(first, seed=seed, theorem_4=-9.0, theorem_5=value, direct=8.0, control_variate=miss)
        for seed, value, miss in ((0, 1.0, 9.0), (1, 4.0, 10.2), (2, 3.0, 10.4))
    ]
    (summary,) = summarise([dataclasses.replace(row, certified=7.0) for row in found])
    assert summary.shares["theorem_4"] == (-0.2, -0.2, -0.2)
    assert summary.shares["theorem_5"] == (0.3, 0.1, 0.4)
    assert summary.missed == 1


def test_the_table_and_the_json(rows, capsys: pytest.CaptureFixture[str]) -> None:
    config, found = rows
    printed = text(found, config)
    assert "0 of 15 bounds are above the true return" in printed
    assert "age" in printed.splitlines()[3]
    flags = ["--out", str(config.out), "--seeds", "0", "--total-steps", "600", "--ages", "0", "1", "5", "--episodes",
             "60", "--critic-episodes", "4", "--truth-episodes", "60", "--json"]  # fmt: skip
    with pytest.raises(SystemExit) as stop:
        cli(flags)
    assert stop.value.code == 0
    assert [row["age"] for row in json.loads(capsys.readouterr().out)] == [0, 1, 5]


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--ages", "0", "8000"], "--ages must be at most --total-steps 7000, got 8000"),
        (["--ages", "1", "1"], "--ages must be different values, got 1 1"),
        (["--episodes", "1"], "--episodes must be >= 2, got 1"),
    ],
)
def test_bad_flags_exit_2_and_name_it(
    flags: list[str], named: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert named in refusal(cli, ["--out", tmp_path / "rows.csv", *flags], capsys)
