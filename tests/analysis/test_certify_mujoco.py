"""The MuJoCo demonstration: densities and critic are what they say, and a small run certifies what it should."""

from __future__ import annotations

import json

import gymnasium
import numpy as np
import pytest

from analysis.certify_mujoco import cli
from analysis.studies.certify_mujoco import (
    DISCOUNT,
    POLICY_STD,
    REWARD_LOW,
    Episodes,
    GaussianPolicy,
    LinearCritic,
    episodes_of,
)
from bounds import importance_weighted_returns


def test_a_moved_policy_is_as_far_as_it_says() -> None:
    rng = np.random.default_rng(0)
    policy, observations = GaussianPolicy(0.1 * rng.normal(size=(2, 4))), rng.normal(size=(5, 7, 3))
    moved = policy.moved(observations, 0.05, rng)
    away = (moved.mean(observations) - policy.mean(observations)) / POLICY_STD
    assert np.sqrt(np.mean(away**2)) == pytest.approx(0.05, rel=0.01)
    action = rng.normal(size=(5, 7, 2))
    expected = -0.5 * ((action - policy.mean(observations)) / POLICY_STD) ** 2 - np.log(POLICY_STD * np.sqrt(2 * np.pi))
    np.testing.assert_allclose(policy.log_density(observations, action), expected.sum(axis=-1))


def test_the_density_is_that_of_the_action_before_it_is_clipped() -> None:
    """With it importance weights are unbiased, also where the environment clips: their mean is 1 (rewards of 1)."""
    environment = gymnasium.make("Pendulum-v1", max_episode_steps=6)
    rng = np.random.default_rng(1)
    data = GaussianPolicy(np.array([[0.4, -0.3, 0.1, 0.2]]))
    made = episodes_of(environment, data, 1500, 4, iter(range(10_000)), rng)
    target = data.moved(made.observations, 0.4, rng)
    found = importance_weighted_returns(
        np.ones((1500, 4)), target.log_density(made.observations, made.actions),
        data.log_density(made.observations, made.actions), discount=DISCOUNT, reward_low=0.0, reward_high=1.0,
        tail="absorbing",
    )  # fmt: skip
    error = found.values.std() / np.sqrt(1500)
    assert abs(found.estimate - (DISCOUNT ** np.arange(4)).sum()) < 4.5 * error


def test_the_critic_of_a_constant_reward_is_what_remains() -> None:
    rng = np.random.default_rng(2)
    made = Episodes(
        rng.normal(size=(4, 9, 3)), rng.normal(size=(4, 9, 2)), np.full((4, 9), -7.0), np.ones((4, 9), dtype=bool)
    )
    values = LinearCritic.fit(made).values(made.observations, made.actions)
    remaining = [(DISCOUNT ** np.arange(9 - t)).sum() for t in range(9)]
    np.testing.assert_allclose(values, np.tile((-7.0 - REWARD_LOW) * np.array(remaining), (4, 1)), rtol=1e-8)


def test_a_small_run_tells_near_from_far(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--environments", "HalfCheetah-v5", "--episodes", "60", "--horizon", "60"]
    words += ["--truth-episodes", "8", "--critic-episodes", "6"]
    with pytest.raises(SystemExit) as stop:
        cli([*words, "--json"])
    near, far = json.loads(capsys.readouterr().out)
    assert stop.value.code in (0, 1)
    assert near["report"]["answer"] in ("importance-weights", "control-variate")
    assert near["total_variation"] < 0.06 < 0.8 < far["total_variation"]
    trivial = near["report"]["trivial"]
    assert near["report"]["lower_bound"] > 0.7 * trivial > 0.9 * trivial > far["report"]["lower_bound"]
    assert near["report"]["lower_bound"] < near["truth"][0]
    assert [each["label"] for each in near["report"]["data"]] == [0, 1]
    reasons = {each["name"]: each["reason"] for each in near["report"]["lower_bounds"]}
    assert "density is unknown" in reasons["theorem-5"]


@pytest.mark.parametrize(
    ("words", "named"),
    [(["--episodes", "1"], "--episodes must be >= 2, got 1"), (["--near", "-1"], "--near must be in [0.0, 10.0]")],
)
def test_bad_flags_are_one_line(words: list[str], named: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli(words)
    assert stop.value.code == 2
    assert capsys.readouterr().err.startswith(f"error: {named}")
