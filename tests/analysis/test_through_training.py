"""Certificates through a training: whose data they come from, what is planted, and what the confidence covers."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from analysis.guarantee import estimates
from analysis.runs.resumable_table import ResumableTable
from analysis.studies import through_training
from analysis.studies.planted_faults import CONTRACTION, ContractingModel
from analysis.studies.through_training import (
    BROKEN,
    CASES,
    CLAIMED,
    KNOWN,
    SHIFTED,
    TRAINED,
    CertificateRow,
    Snapshots,
    ThroughTrainingConfig,
    measure_all,
    measure_checkpoint,
    sound,
)
from analysis.through_training import cli, text
from m3po.agents.m3po import M3PO
from m3po.envs.switching_point_mass import PointMassDynamics
from m3po.errors import EncodedTrajectories, history_log_density, model_log_density
from m3po.foreign.checked_environment import CheckedEnvironment
from m3po.networks.model import EnsembleModel
from m3po.networks.policy import HistoryPolicy
from tests.analysis.conftest import tiny_config
from tests.m3po import small


def config_at(directory: Path, **changes: Any) -> ThroughTrainingConfig:
    values: dict[str, Any] = {
        "out": directory / "rows.csv", "seeds": (0,), "total_steps": 440, "every": 440, "ages": (0, 1), "episodes": 100,
        "stale_episodes": 20,
    }  # fmt: skip
    return ThroughTrainingConfig(**{**values, **changes})


@pytest.fixture(scope="module", autouse=True)
def good_model() -> Iterator[None]:
    """After 440 steps no model is good enough for its certificate to refute anything: the trained model's density is
    made 2% smaller than the truth's. The broken model's own density stays honest."""

    def log_density(model: EnsembleModel, data: EncodedTrajectories) -> Any:
        if isinstance(model, ContractingModel) and not model.overclaims:
            return model_log_density(model, data)
        dynamics = CheckedEnvironment("m3po/SwitchingPointMass-v0", {}).offers.dynamics
        assert isinstance(dynamics, PointMassDynamics)
        return history_log_density(dynamics, data.trajectories) + math.log(0.98)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(estimates, "model_log_density", log_density)
        yield


@pytest.fixture(scope="module")
def measured(
    good_model: None, tmp_path_factory: pytest.TempPathFactory
) -> tuple[ThroughTrainingConfig, list[CertificateRow]]:
    """One short training with the default networks, looked at once."""
    config = config_at(tmp_path_factory.mktemp("through"))
    return config, measure_all(config)


def test_the_certificate_of_the_trained_model_holds_and_the_planted_faults_are_flagged(measured) -> None:
    _, rows = measured
    verdicts = {(row.age, row.case): row.verdict for row in rows}
    assert verdicts == {
        (0, TRAINED): "holds", (0, KNOWN): "holds", (1, TRAINED): "holds", (0, SHIFTED): "violated",
        (0, BROKEN): "holds", (0, CLAIMED): "violated",
    }  # fmt: skip
    assert sound(rows)


def test_an_honest_density_of_the_broken_model_makes_its_certificate_vacuous(measured) -> None:
    rows = {row.case: row for row in measured[1] if row.age == 0}
    assert rows[BROKEN].vacuous
    assert rows[BROKEN].model_error > 0.999
    assert rows[BROKEN].model_return == pytest.approx(rows[CLAIMED].model_return, abs=0.5)
    assert rows[CLAIMED].model_error == pytest.approx(rows[KNOWN].model_error)
    assert rows[CLAIMED].certificate == pytest.approx(rows[KNOWN].certificate)


def test_a_row_adds_up(measured) -> None:
    for row in measured[1]:
        parts = row.policy_part + row.model_part + row.reward_part
        assert row.certificate_at_estimates == pytest.approx(parts, rel=1e-6)
        assert row.gap == pytest.approx(row.true_return - row.model_return, abs=1e-6)
        assert row.tightness == pytest.approx(abs(row.gap) / row.certificate, rel=1e-6)
        assert row.flagged_from == pytest.approx(row.certificate + row.true_upper - row.model_lower, rel=1e-6)
        assert (row.policy_part > 0) == (row.policy_divergence > 0) == (row.age > 0)
        assert (row.reward_part > 0) == (row.case in (TRAINED, SHIFTED))
        first = 0 if row.case in (TRAINED, SHIFTED) else 1
        assert row.trivial == pytest.approx(1.1 * sum(0.95**t for t in range(first, 100)), rel=1e-6)


def test_the_known_reward_certificate_is_theorem_4_without_rewards(measured) -> None:
    """k = 1 and own data: R sum_{t>=1} gamma^t m_{t-1}, here with m = 0.02 at every time."""
    row = next(row for row in measured[1] if row.case == KNOWN)
    assert row.model_error == pytest.approx(0.02, rel=1e-6)
    assert row.certificate_at_estimates == pytest.approx(0.02 * row.trivial, rel=1e-6)
    assert row.certificate_at_estimates == row.model_part < row.certificate < row.trivial


def test_a_finished_file_is_not_measured_again_and_a_missing_row_comes_back_the_same(
    measured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, rows = measured
    copied = dataclasses.replace(config, out=tmp_path / "rows.csv")
    whole = config.out.read_text()
    copied.out.write_text(whole)
    monkeypatch.setattr(through_training, "M3PO", None)  # would be called if anything were trained
    assert [row.certificate for row in measure_all(copied)] == pytest.approx([row.certificate for row in rows])
    monkeypatch.undo()
    copied.out.write_text("".join(whole.splitlines(keepends=True)[:-1]))
    again = measure_all(copied)
    for found, row in zip(again, rows, strict=True):
        for name, value in dataclasses.asdict(row).items():
            assert getattr(found, name) == (pytest.approx(value, rel=1e-6) if isinstance(value, float) else value), name
    other = dataclasses.replace(copied, episodes=101)
    with pytest.raises(ValueError, match="not measured with these settings"):
        measure_all(other)


def test_a_snapshot_is_the_policy_that_took_the_step(tmp_path: Path) -> None:
    """Also where an epoch begins and the model's training moves the encoder between two steps."""
    settings = dataclasses.replace(tiny_config(tmp_path), total_steps=420, initial_random_steps=100, epoch_steps=40)
    training = M3PO(settings)
    acted: dict[int, list[torch.Tensor]] = {}
    group = training.group
    honest = group.collect_step

    def watched(*, random: bool) -> dict[Any, float]:
        modules = (training.policy.encoder, training.policy.network)
        acted[training.steps] = [each.detach().clone() for part in modules for each in part.state_dict().values()]
        return honest(random=random)

    group.collect_step = watched  # type: ignore[method-assign]
    config = config_at(tmp_path, total_steps=420, every=140, ages=(0, 1, 20, 40, 120, 260))
    snapshots = Snapshots(config)
    kept: dict[int, HistoryPolicy] = {}
    while not training.finished:
        snapshots.advance(training)
        kept |= snapshots.policies
        if training.steps in config.checkpoints:
            snapshots.forget(training.steps)
            assert all(step + max(config.ages) > training.steps for step in snapshots.policies)
    assert sorted(kept) == [20, 100, 120, 139, 160, 240, 260, 279, 300, 380, 400, 419]
    for step, policy in kept.items():
        values = [each for part in (policy.encoder, policy.network) for each in part.state_dict().values()]
        for one, other in zip(values, acted[step], strict=True):
            assert torch.equal(one, other), step
    assert any(not torch.equal(a, b) for a, b in zip(acted[139], acted[140], strict=True))


def test_looking_does_not_change_the_training(tmp_path: Path) -> None:
    settings = dataclasses.replace(tiny_config(tmp_path), total_steps=125, initial_random_steps=100, epoch_steps=40)
    ends = []
    for looks in (True, False):
        training = M3PO(settings)
        config = config_at(tmp_path, total_steps=125, every=120, episodes=4, stale_episodes=3)
        snapshots, table = Snapshots(config), ResumableTable(tmp_path / f"{looks}.csv", CertificateRow, {})
        while not training.finished:
            snapshots.advance(training)
            if looks and training.steps == 120:
                measure_checkpoint(training, snapshots.policies, config, table)
        assert len(table.rows) == (6 if looks else 0)
        ends.append(training)
    assert ends[0].policy.network.state_dict().keys() == ends[1].policy.network.state_dict().keys()
    for module_of in (lambda each: each.policy.network, lambda each: each.model):
        for one, other in zip(*(module_of(each).state_dict().values() for each in ends), strict=True):
            assert torch.equal(one, other)
    assert torch.equal(ends[0].environment_buffer.tokens, ends[1].environment_buffer.tokens)


def test_the_broken_model_has_the_density_of_what_it_samples() -> None:
    """One member: N(c mean, c^2 variance), from which a fifth of the samples' spread would differ visibly."""
    model = small.model(small.encoder(), members=1)
    broken = ContractingModel(model)
    windows, actions = small.random_windows(1, 3), small.random_actions(1)
    n = 4000
    with torch.no_grad():
        features = model.encoder(windows).expand(n, -1)
        observation, action = windows.observation.expand(n, -1), actions.expand(n, -1)
        drawn, _ = broken.sample(features, observation, action, torch.Generator().manual_seed(0))
        mean, log_variance = model.elite_moments(features[:1], action[:1])
        size = observation.shape[1]
        scale = model.target_normaliser.std[:size]
        centre = CONTRACTION * (observation[0] + mean[0, 0, :size] * scale + model.target_normaliser.mean[:size])
        std = CONTRACTION * torch.exp(0.5 * log_variance[0, 0, :size]) * scale
        expected = torch.distributions.Normal(centre, std).log_prob(drawn).sum(dim=1)
        found = broken.observation_log_density(features, observation, action, drawn)
        claimed = ContractingModel(model, overclaims=True)
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=2e-2)
        assert ((drawn.mean(dim=0) - centre).abs() < 5 * std / math.sqrt(n)).all()
        assert torch.equal(
            claimed.observation_log_density(features, observation, action, drawn),
            model.observation_log_density(features, observation, action, drawn),
        )


def test_a_broken_model_differs_from_the_trained_one_in_its_fault_alone() -> None:
    model = small.model(small.encoder(), members=1)
    broken = ContractingModel(model)
    assert broken.encoder is model.encoder  # whose encodings the policy shares
    features, actions = torch.randn(5, model.encoder.feature_size), small.random_actions(5)
    with torch.no_grad():
        one, other = (each.expected_reward(features, actions, -0.1, 1.0) for each in (broken, model))
    assert torch.equal(one, other)


def test_the_union_bound_covers_every_measurement_of_a_seed(tmp_path: Path) -> None:
    config = config_at(tmp_path, total_steps=3000, every=1000, ages=(0, 25, 2000), confidence=0.9)
    # ages 0 and 25, at 2000 and 3000 also 2000; and two broken models at each of three checkpoints
    assert config.measurements_per_seed == 2 + 3 + 3 + 2 * 3
    assert config.row_confidence == pytest.approx(1 - 0.1 / config.measurements_per_seed)
    assert dataclasses.replace(config, together="row").row_confidence == 0.9
    assert config.rows_per_seed == 8 + 3 * (len(CASES) - 1)


def test_the_tables_say_what_is_covered(measured) -> None:
    config, rows = measured
    printed = text(rows, config)
    assert "all rows of a seed hold together with probability 0.95" in printed
    assert "each row holds with probability 0.95" in text(rows, dataclasses.replace(config, together="row"))
    assert "violated at 1 of 1 checkpoints" in printed


@pytest.mark.parametrize(("case", "verdict", "expected"), [
    (TRAINED, "violated", False), (TRAINED, "surrogate", True), (SHIFTED, "surrogate", False),
    (BROKEN, "violated", False), (CLAIMED, "holds", False),
])  # fmt: skip
def test_what_makes_the_exit_code(measured, case: str, verdict: str, expected: bool) -> None:
    rows = [dataclasses.replace(row, verdict=verdict) if row.case == case else row for row in measured[1]]
    assert sound(rows) is expected


def test_a_fault_smaller_than_what_can_be_flagged_need_not_be(measured) -> None:
    honest = next(row for row in measured[1] if row.case == KNOWN)
    for fault, expected in ((0.99, True), (1.01, False)):
        promise = honest.model_return + fault * honest.flagged_from
        rows = [
            dataclasses.replace(row, verdict="surrogate", model_return=promise) if row.case == CLAIMED else row
            for row in measured[1]
        ]
        assert sound(rows) is expected


def test_json_of_a_finished_file(measured, capsys: pytest.CaptureFixture[str]) -> None:
    config, rows = measured
    flags = ["--out", str(config.out), "--seeds", "0", "--total-steps", "440", "--every", "440", "--ages", "0", "1",
             "--episodes", "100", "--stale-episodes", "20", "--json"]  # fmt: skip
    with pytest.raises(SystemExit) as stop:
        cli(flags)
    assert stop.value.code == 0
    assert len(json.loads(capsys.readouterr().out)) == len(rows) == 6
    assert np.isfinite([row.certificate for row in rows]).all()


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--every", "9000"], "--every must be from 1 to 7000 (by --total-steps), got 9000"),
        (["--ages", "5", "10"], "--ages must have 0 among them, got 5 10"),
        (["--seeds", "1", "1"], "--seeds must be different values, got 1 1"),
        (["--episodes", "1"], "--episodes must be >= 2, got 1"),
        (["--confidence", "0"], "--confidence must be in (0, 1), got 0.0"),
    ],
)
def test_bad_flags_exit_2_and_name_it(
    flags: list[str], named: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        cli(["--out", str(tmp_path / "rows.csv"), *flags])
    captured = capsys.readouterr()
    assert stop.value.code == 2
    assert captured.out == ""
    assert named in captured.err
