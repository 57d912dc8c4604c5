"""The worked example: what it computes is what it says, and its certificate is informative and true."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from analysis.certify_example import cli
from analysis.guarantee.certification import certify
from analysis.guarantee.evidence_file import load
from analysis.studies.certify_example import ExampleConfig, RidgeModel, evidence, gaussian_log_density, policy_mean


def test_the_ridge_model_is_least_squares() -> None:
    rng = np.random.default_rng(0)
    observations, actions = rng.normal(size=(30, 8, 4)), rng.uniform(-1, 1, (30, 7, 2))
    model = RidgeModel.fit(observations, actions)
    inputs = np.concatenate([observations[:, :-1], actions, np.ones((30, 7, 1))], axis=2).reshape(-1, 7)
    targets = (observations[:, 1:] - observations[:, :-1]).reshape(-1, 4)
    expected, *_ = np.linalg.lstsq(inputs, targets, rcond=None)
    np.testing.assert_allclose(model.weights, expected.T, atol=1e-4)
    np.testing.assert_allclose(model.std, (targets - inputs @ expected).std(axis=0), rtol=1e-4)
    np.testing.assert_allclose(
        model.mean(observations[0, :-1], actions[0]), observations[0, :-1] + inputs[:7] @ expected, atol=1e-3
    )


def test_densities_and_policies_are_what_they_say() -> None:
    assert policy_mean(np.array([1.0, -2.0, 3.0, 4.0]), (0.5, 0.1)).tolist() == pytest.approx([-0.8, 0.6])
    grid = np.linspace(-12, 12, 24001)[:, None]
    density = np.exp(gaussian_log_density(grid, np.array([0.7]), 1.3))
    assert np.trapezoid(density, grid[:, 0]) == pytest.approx(1.0, abs=1e-9)
    assert np.trapezoid(density * grid[:, 0], grid[:, 0]) == pytest.approx(0.7, abs=1e-9)


def test_the_same_policy_is_certified_and_so_is_a_changed_one(tmp_path: Path) -> None:
    file = tmp_path / "evidence.npz"
    np.savez(file, **evidence(ExampleConfig(same_policy=True, episodes=300)))  # type: ignore[arg-type]
    own = certify(load(file))
    np.savez(file, **evidence(ExampleConfig(episodes=300)))  # type: ignore[arg-type]
    other = certify(load(file))
    for report in (own, other):
        assert report.verdict == "certified"
        assert report.model_return is not None
        assert report.lower_bound is not None
        assert report.true_return is not None
        # Informative: four fifths of what is promised, and true.
        assert 0.8 * report.model_return < report.lower_bound < report.true_return["upper"]
    assert (own.answer, other.answer) == ("control-variate", "control-variate")
    values = {each.name: each.value for each in other.lower_bounds}
    assert values["own-returns"] is None
    order = [values[name] for name in ("theorem-4", "theorem-5", "importance-weights", "control-variate")]
    assert all(low < high for low, high in pairwise(order))  # type: ignore[operator]


def test_without_rewards_the_model_is_all_there_is(tmp_path: Path) -> None:
    file = tmp_path / "evidence.npz"
    np.savez(file, **evidence(ExampleConfig(episodes=300, rewards=False, reveal_truth=False)))  # type: ignore[arg-type]
    report = certify(load(file))
    assert report.answer == "theorem-5"
    assert "add `rewards`" in report.more
    assert report.true_return is None
    assert report.assumed_independent == ["policy", "model"]


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--episodes", "1"], "--episodes must be >= 2, got 1"),
        (["--training-episodes", "0"], "--training-episodes must be >= 1, got 0"),
        (["--out", "no/where.npz"], "--out: no directory no"),
    ],
)
def test_bad_values_are_one_line_and_exit_2(words: list[str], named: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli(words)
    assert stop.value.code == 2
    assert capsys.readouterr().err == f"error: {named}\n"
