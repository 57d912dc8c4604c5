"""GrBAL in the training loop: what it plans with, what it learns from, and that it can be interrupted."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import Tensor

import m3po.envs  # noqa: F401 (registers the environments)
from m3po.agents.adaptive_model import AdaptiveModel
from m3po.agents.grbal import Grbal, GrbalGroup, PlanningPolicy, reward_function_of
from m3po.agents.m3po import M3PO
from m3po.agents.planner import PlannerSettings, plan
from m3po.agents.rollout import never_terminated
from m3po.agents.training import training_of
from m3po.config import Config
from m3po.data.types import newest, run_of
from m3po.foreign.checked_environment import to_environment
from m3po.foreign.environment import offers_of
from m3po.train import train
from tests.m3po import small
from tests.m3po.small import ACTION, OBSERVATION, random_windows

LIMIT = 3
# Environment, and the mean error of the reward from observed speeds as a share of the best constant's, at most. The
# cheetah's speed turns around within a step of 0.05 s, so the mean of its ends says half of it.
REWARDS = [
    ("m3po/SwitchingPointMass-v0", 1e-5),
    ("m3po/HalfCheetahPier-v0", 0.55),
    ("m3po/AntCrippledLeg-v0", 0.2),
    ("m3po/Walker2dRandomParams-v0", 0.1),
]


@pytest.mark.parametrize(("env_id", "share"), REWARDS)
def test_the_planning_reward_is_nearly_the_paid_one(env_id: str, share: float) -> None:
    environment = gym.make(env_id)
    function = reward_function_of(offers_of(environment, env_id).planning_reward)
    assert function is not None
    box: Any = environment.action_space
    generator = np.random.default_rng(0)
    rows: list[tuple[Any, Any, Any]] = []
    paid = []
    observation, _ = environment.reset(seed=0)
    for _ in range(300):
        action = generator.uniform(-1, 1, box.shape).astype(np.float32)
        following, reward, terminated, truncated, _ = environment.step(to_environment(torch.tensor(action), box))
        rows.append((observation, action, following))
        paid.append(float(reward))
        observation = following
        if terminated or truncated:
            observation, _ = environment.reset()
    stacked = [torch.tensor(np.array(column), dtype=torch.float32) for column in zip(*rows, strict=True)]
    error = (function(*stacked).numpy() - np.array(paid)).astype(float)
    assert np.abs(error).mean() < share * np.abs(np.array(paid) - np.mean(paid)).mean()
    assert abs(error.mean()) < 0.05


@pytest.mark.parametrize("env_id", ["m3po/HalfCheetahFwdBwd-v0", "m3po/AntFwdBwd-v0", "m3po/HumanoidDirec-v0"])
def test_where_the_task_is_in_the_reward_the_model_predicts_it(env_id: str) -> None:
    assert offers_of(gym.make(env_id), env_id).planning_reward is None


def adaptive_model(seed: int = 0) -> AdaptiveModel:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AdaptiveModel(OBSERVATION, ACTION, 16, 1)
        model.fit(torch.randn(40, 2 * OBSERVATION + ACTION), torch.randn(40))
    return model


def policy(**changes: Any) -> PlanningPolicy:
    reach = torch.tensor([[-50.0], [50.0]]).repeat(1, OBSERVATION + 1)
    settings: dict[str, Any] = {
        "model": adaptive_model(), "settings": PlannerSettings(64, 4, 2), "adaptation_rate": 0.5,
        "history_length": LIMIT, "reach": reach, "reward_function": None, "terminated": never_terminated,
    }  # fmt: skip
    return PlanningPolicy(**{**settings, **changes})


def test_it_plans_in_the_model_as_adapted_to_each_window() -> None:
    """Against the plan of each window alone, adapted by hand; without adaptation the plan is another."""
    acting, windows = policy(), random_windows(5, LIMIT)
    for row in range(5):
        window = windows.select(torch.tensor([row]))
        action, raw = acting.act(window, torch.Generator().manual_seed(row))
        torch.testing.assert_close(action, raw, rtol=0, atol=0)
        model = acting.model
        weights = [parameter.detach().clone().requires_grad_() for parameter in model.layers.parameters()]
        if window.lengths[0] > 0:
            used = newest(window.lengths, LIMIT)
            loss = model.change_losses(tuple(weights), window.tokens, used).sum()
            gradients = torch.autograd.grad(loss, weights)
            weights = [w - 0.5 * g for w, g in zip(weights, gradients, strict=True)]

        def step(state: Tensor, chosen: Tensor, weights: Any = tuple(weights)) -> tuple[Tensor, Tensor]:
            outcome = acting.model.predict(weights, state, chosen)
            return outcome[..., :-1], outcome[..., -1]

        expected = plan(step, window.observation, ACTION, acting.settings, torch.Generator().manual_seed(row))
        torch.testing.assert_close(action, expected, rtol=1e-4, atol=1e-4)
        unadapted, _ = policy(adaptation_rate=0.0).act(window, torch.Generator().manual_seed(row))
        assert torch.allclose(action, unadapted, atol=1e-4) == (window.lengths[0] == 0)


def test_nothing_is_earned_after_a_predicted_end() -> None:
    """Later rewards would ask for another action than the first one; when all futures end at once they do not count."""
    windows = random_windows(3, LIMIT)
    seen: list[Tensor] = []

    def reward_function(observation: Tensor, action: Tensor, following: Tensor) -> Tensor:
        return 20 * observation.sum(dim=-1) - ((action - 0.5) ** 2).sum(dim=-1)

    def ended(observation: Tensor) -> Tensor:
        seen.append(observation)
        return torch.ones(len(observation), dtype=torch.bool)

    settings = PlannerSettings(400, 6, 6)
    ending = policy(reward_function=reward_function, terminated=ended, settings=settings)
    action, _ = ending.act(windows, torch.Generator().manual_seed(0))
    torch.testing.assert_close(action, torch.full_like(action, 0.5), rtol=0, atol=0.1)
    assert len(seen) == 6 * 6
    endless = policy(reward_function=reward_function, settings=settings)
    action, _ = endless.act(windows, torch.Generator().manual_seed(0))
    assert (action - 0.5).abs().max() > 0.3


def test_predictions_stay_within_reach() -> None:
    reach = torch.tensor([[-0.5], [0.5]]).repeat(1, OBSERVATION + 1)
    seen: list[Tensor] = []

    def reward_function(observation: Tensor, action: Tensor, following: Tensor) -> Tensor:
        seen.append(following)
        return following.sum(dim=-1)

    policy(reach=reach, reward_function=reward_function).act(random_windows(3, LIMIT), torch.Generator())
    assert torch.cat(seen).abs().max() <= 0.5


TINY = small.TINY | {
    "algorithm": "grbal", "total_steps": 230, "epoch_steps": 70, "evaluation_episodes": 2, "planner_candidates": 8,
    "planner_horizon": 2, "planner_iterations": 1, "adaptation_steps": 4, "adaptation_rate": 0.1,
}  # fmt: skip


def after_random_steps(*seeds: int) -> tuple[list[Grbal], GrbalGroup]:
    """Runs with 100 real steps, and their group."""
    runs = [Grbal(Config(run_dir=Path("unused"), seed=seed, **TINY)) for seed in seeds]
    group = GrbalGroup(runs)
    for _ in range(100):
        group.collect_step(random=True)
    return runs, group


def test_an_update_is_adams_step_along_the_meta_gradient() -> None:
    (training,), group = after_random_steps(0)
    group.begin_epoch()
    together = group.drawn_batch()
    batch = run_of(together, 0)
    assert batch.reward.shape == (10, 4)
    model = training.model
    after = (batch.tokens[:, 3:], batch.reward, batch.used[:, 3:])
    loss = model.meta_loss(batch.tokens[:, :3], batch.used[:, :3], *after, 0.1)
    unadapted = model.losses(model.weights(10), *after).mean()
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    before = [parameter.detach().clone() for parameter in model.parameters()]
    report = group.update(together)
    assert report["model_loss"].item() == pytest.approx(loss.item(), rel=1e-6)
    assert report["unadapted_model_loss"].item() == pytest.approx(unadapted.item(), rel=1e-6)
    assert loss.item() != pytest.approx(unadapted.item(), rel=1e-4)
    rate = training.config.model_learning_rate
    for parameter, old, gradient in zip(model.parameters(), before, gradients, strict=True):
        expected = old - rate * gradient / (gradient.abs() + 1e-8)  # Adam's first step
        torch.testing.assert_close(parameter.detach(), expected, atol=2e-6, rtol=1e-4)


def test_the_first_step_after_the_past_is_any_real_step() -> None:
    (training,), group = after_random_steps(0)
    splits = torch.cat([group.drawn_batch().reward[0, :, 0] for _ in range(100)])
    counts = (splits[:, None] == training.environment_buffer.rewards[:100]).sum(dim=0)
    # 1,000 draws of 100 steps: chi-square with 99 degrees of freedom, standard deviation 14.1.
    assert (counts - 10).square().sum() / 10 < 99 + 4 * 14.1


def test_the_reach_is_the_seen_range_widened_by_its_width() -> None:
    runs, group = after_random_steps(0, 1)
    group.begin_epoch()
    for training, reach in zip(runs, group.policy.reach, strict=True):
        buffer = training.environment_buffer
        outcomes = torch.cat([buffer.observations[:100] + buffer.tokens[:100, -4:], buffer.rewards[:100, None]], dim=1)
        low, high = outcomes.amin(dim=0), outcomes.amax(dim=0)
        torch.testing.assert_close(reach, torch.stack([2 * low - high, 2 * high - low]))
        assert torch.equal(training.policy.reach, reach)


def test_a_training_interrupted_within_an_epoch_is_the_uninterrupted_one() -> None:
    config = Config(run_dir=Path("unused"), **TINY)
    rows, whole = small.advanced(Grbal, config, None)
    again, same = small.advanced(Grbal, config, 140)
    assert rows == again
    pairs = zip(whole.model.parameters(), same.model.parameters(), strict=True)
    assert all(torch.equal(first, second) for first, second in pairs)
    assert [row["step"] for row in rows] == [170, 230]
    assert all(math.isfinite(row[name]) for row in rows for name in ("model_loss", "return"))


def test_it_runs_behind_the_command(tmp_path: Path) -> None:
    directory = train(Config(run_dir=tmp_path / "run", **TINY))
    assert directory.complete
    assert {"return", "model_loss", "unadapted_model_loss"} <= set(directory.metrics()[-1])


def test_every_algorithm_has_its_training_and_no_other(tmp_path: Path) -> None:
    for algorithm in ("m3po", "m3po-h", "m3po-full", "pearl", "grbal"):
        config = Config(run_dir=tmp_path, **{**TINY, "algorithm": algorithm})
        training = training_of(config)
        assert algorithm in training.algorithms
    with pytest.raises(ValueError, match="--algorithm grbal has no model with a density"):
        M3PO(Config(run_dir=tmp_path, **TINY))


def test_a_memoryless_grbal_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--history-length must be >= 1 for grbal"):
        Grbal(Config(run_dir=tmp_path, **{**TINY, "history_length": 0}))
