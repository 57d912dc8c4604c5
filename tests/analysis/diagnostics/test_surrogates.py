"""Surrogates against closed forms: a telescoped gap that is known, calibrated and miscalibrated densities, k steps."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm
from torch import Tensor

from analysis.diagnostics.calibration import LEVELS, calibration, episode_means, log_densities, pit
from analysis.diagnostics.open_loop import k_step, open_loop_errors
from analysis.diagnostics.telescoping import rollout_values, telescoped_gap, value_steps_for
from bounds.finite import FiniteProcess, true_return
from bounds.finite.random_instances import random_mdp
from m3po.data.types import Windows
from m3po.episodes import Trajectories
from m3po.errors import EncodedTrajectories
from m3po.networks.context_encoder import ContextEncoder
from m3po.networks.model import EnsembleModel
from m3po.networks.policy import HistoryPolicy

CPU = torch.device("cpu")
DISCOUNT = 0.9


# The identity itself, exactly, on finite processes


def model_values(process, model, model_reward, policy, discount: float, steps: int) -> list[np.ndarray]:
    """W_t(s) = E[sum_{i < min(C, H - t)} gamma^i r_theta], by walking forward from every state at every time."""
    layers = process.horizon + 1
    values = []
    for t in range(layers):
        law = np.eye(process.reward.shape[1])
        value = np.zeros(len(law))
        for i in range(min(steps, layers - t)):
            flow = law[:, :, None] * policy[t + i][None]
            value += discount**i * (flow * model_reward[t + i]).sum(axis=(1, 2))
            if t + i < process.horizon:
                law = np.einsum("xsa,sab->xb", flow, model[t + i])
        values.append(value)
    return values


def state_laws(process, kernels, policy) -> list[np.ndarray]:
    laws = [process.initial]
    for t in range(process.horizon):
        laws.append(np.einsum("s,sa,sab->b", laws[-1], policy[t], kernels[t]))
    return laws


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 9), st.floats(0.0, 0.99))
def test_the_telescoped_sum_is_the_gap_and_what_it_leaves_out_is_the_remainder(seed, steps, discount):
    rng = np.random.default_rng(seed)
    instance = random_mdp(rng, horizon=7, states=4, actions=3)
    process, model, policy = instance.process, np.asarray(instance.model), np.asarray(instance.policy)
    assert isinstance(process, FiniteProcess)
    low, high = process.reward_low, process.reward_high
    model_reward = rng.uniform(low, high, process.reward.shape)
    gap = true_return(process, policy, discount) - true_return(
        FiniteProcess(process.initial, model, model_reward, low, high), policy, discount
    )
    values = model_values(process, model, model_reward, policy, discount, steps)
    real, imagined = state_laws(process, process.transition, policy), state_laws(process, model, policy)
    total, remainder = 0.0, 0.0
    for t in range(process.horizon + 1):
        flow = real[t][:, None] * policy[t]
        total += discount**t * (flow * (process.reward[t] - model_reward[t])).sum()
        if t < process.horizon:
            moved = np.einsum("sa,sab->b", flow, process.transition[t] - model[t])
            total += discount ** (t + 1) * moved @ values[t + 1]
        if t + steps <= process.horizon:
            ahead = np.eye(len(real[t]))
            for i in range(steps):
                ahead = np.einsum("xs,sa,sab->xb", ahead, policy[t + i], model[t + i])
            later = ahead @ (policy[t + steps] * model_reward[t + steps]).sum(axis=1)
            remainder += discount ** (t + steps) * (real[t] - imagined[t]) @ later
    assert total + remainder == pytest.approx(gap, abs=1e-10 * max(1.0, abs(low), abs(high)))
    assert abs(remainder) <= discount**steps * (high - low) / (1 - discount) + 1e-12
    if steps >= process.horizon:
        assert remainder == pytest.approx(0.0, abs=1e-12 * max(1.0, abs(low), abs(high)))


# The estimator, on a process whose expectations are known


class Memoryless:
    history_length = 1

    def __call__(self, windows: Windows) -> Tensor:
        return windows.observation


class LinearModel:
    """o' = slope o + drift + push a + noise, r_theta = pay o: one coordinate."""

    def __init__(self, slope: float, drift: float, push: float, pay: float, noise: float = 0.3) -> None:
        self.slope, self.drift, self.push, self.pay, self.noise = slope, drift, push, pay, noise
        self.encoder = Memoryless()

    def sample(self, features: Tensor, observation: Tensor, action: Tensor, generator: torch.Generator) -> Any:
        noise = self.noise * torch.randn(observation.shape, generator=generator)
        return self.slope * observation + self.drift + self.push * action + noise, observation[:, 0]

    def expected_reward(self, features: Tensor, action: Tensor, low: float, high: float) -> Tensor:
        return (self.pay * features[:, 0]).clamp(low, high)


def constant_policy(model: Any, mean: float, std: float) -> HistoryPolicy:
    def network(features: Tensor) -> tuple[Tensor, Tensor]:
        return torch.full((len(features), 1), mean), torch.full((len(features), 1), math.log(std))

    return HistoryPolicy(model.encoder, network)  # type: ignore[arg-type]


def mean_action(mean: float, std: float) -> float:
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    return float(weights @ np.tanh(mean + std * nodes) / weights.sum())


def episodes_of(truth: LinearModel, policy: HistoryPolicy, episodes: int, horizon: int, seed: int) -> Trajectories:
    generator = torch.Generator().manual_seed(seed)
    observation = 1 + torch.randn(episodes, 1, generator=generator)
    observations, actions, raws, rewards = [observation], [], [], []
    for _ in range(horizon):
        action, raw = policy.act(Windows.initial(observation, 1, 1), generator)
        rewards.append(truth.expected_reward(observation, action, -math.inf, math.inf))
        observation, _ = truth.sample(observation, observation, action, generator)
        observations.append(observation)
        actions.append(action)
        raws.append(raw)
    return Trajectories(
        torch.stack(observations, dim=1).double().numpy(), torch.stack(actions, dim=1).numpy(),
        torch.stack(raws, dim=1).numpy(), torch.stack(rewards, dim=1).double().numpy(),
        np.zeros((episodes, horizon), dtype=np.int64), np.ones((episodes, horizon), dtype=bool),
    )  # fmt: skip


def mean_observations(model: LinearModel, action: float, horizon: int, start: float = 1.0) -> np.ndarray:
    means = [start]
    for _ in range(horizon - 1):
        means.append(model.slope * means[-1] + model.drift + model.push * action)
    return np.array(means)


TRUTH = LinearModel(0.95, 0.1, 0.5, 1.0, noise=0.01)
MODEL = LinearModel(0.9, 0.2, 0.3, 0.8, noise=0.01)
HORIZON, EPISODES = 20, 8000


def parts_by_hand(horizon: int, value_steps: int, action: float) -> tuple[float, float]:
    """Reward and dynamics part, for means that evolve linearly."""
    real = mean_observations(TRUTH, action, horizon)
    powers = DISCOUNT ** np.arange(horizon)
    reward = float(powers @ ((TRUTH.pay - MODEL.pay) * real))
    dynamics = 0.0
    for t in range(horizon - 1):
        predicted = MODEL.slope * real[t] + MODEL.drift + MODEL.push * action
        steps = min(value_steps, horizon - 1 - t)
        from_real, from_model = (
            float(DISCOUNT ** np.arange(steps) @ (MODEL.pay * mean_observations(MODEL, action, steps, start)))
            for start in (real[t + 1], predicted)
        )
        dynamics += DISCOUNT ** (t + 1) * (from_real - from_model)
    return reward, dynamics


def within(samples: np.ndarray, truth: float, errors: float = 4.5) -> bool:
    return bool(abs(samples.mean() - truth) <= errors * samples.std(ddof=1) / math.sqrt(len(samples)) + 1e-9)


@pytest.mark.parametrize(("horizon", "value_steps", "strata"), [(20, 20, 6), (20, 3, 1), (4, 4, 3)])
def test_the_telescoped_gap_of_a_linear_process_is_the_one_by_hand(horizon, value_steps, strata):
    model: Any = MODEL
    policy = constant_policy(model, 0.4, 0.2)
    action = mean_action(0.4, 0.2)
    data = EncodedTrajectories.of(episodes_of(TRUTH, policy, EPISODES, horizon, 0), 1, CPU)
    found = telescoped_gap(
        model, policy, data, torch.Generator().manual_seed(1), discount=DISCOUNT, value_steps=value_steps, strata=strata
    )
    reward, dynamics = parts_by_hand(horizon, value_steps, action)
    assert within(found.reward.sum(axis=1), reward)
    assert within(found.dynamics.sum(axis=1), dynamics)
    spread = found.dynamics.sum(axis=1).std(ddof=1) / math.sqrt(EPISODES)
    assert 4.5 * spread < (0.05 if horizon == HORIZON else 0.1) * abs(dynamics)  # so a factor gamma = 0.9 is seen
    powers = DISCOUNT ** np.arange(horizon)
    gap = powers @ (mean_observations(TRUTH, action, horizon) - 0.8 * mean_observations(MODEL, action, horizon))
    if value_steps >= horizon - 1:
        assert reward + dynamics == pytest.approx(gap, rel=1e-12)
    else:
        assert abs(reward + dynamics - gap) > 10 * spread  # short values leave something out, and it shows


@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_a_perfect_model_has_no_dynamics_part_and_common_noise_keeps_it_quiet(noise):
    truth: Any = LinearModel(0.95, 0.1, 0.5, 1.0, noise=noise)
    policy = constant_policy(truth, 0.0, 1.0)
    data = EncodedTrajectories.of(episodes_of(truth, policy, 1000, HORIZON, 3), 1, CPU)
    found = telescoped_gap(
        truth, policy, data, torch.Generator().manual_seed(4), discount=DISCOUNT, value_steps=HORIZON
    )
    assert np.abs(found.reward).max() < 1e-6
    assert within(found.dynamics.sum(axis=1), 0.0)
    if noise == 0:  # both rollouts start from the same state and meet the same actions
        assert np.abs(found.dynamics).max() < 1e-4
        assert data.trajectories.returns(DISCOUNT).std() > 1
    else:
        assert found.dynamics.std() > 0.1


def test_strata_reach_over_all_times_and_nothing_is_counted_after_an_end():
    model: Any = MODEL
    policy = constant_policy(model, 0.4, 0.2)
    trajectories = episodes_of(TRUTH, policy, 200, HORIZON, 5)
    trajectories.valid[:, 1:] = False
    data = EncodedTrajectories.of(trajectories, 1, CPU)
    keywords: Any = {"discount": DISCOUNT, "value_steps": HORIZON, "strata": 5}
    found = telescoped_gap(model, policy, data, torch.Generator().manual_seed(6), **keywords)
    assert found.borders[0] == 0
    assert found.borders[-1] == HORIZON - 2
    assert (np.diff(found.borders) >= 0).all()
    assert (found.reward[:, 1:] == 0).all()
    # only time 0 happened, its real next state is an end worth 0, and the model goes on
    assert (found.dynamics[:, 2:] == 0).all()
    action = mean_action(0.4, 0.2)
    paid = MODEL.pay * mean_observations(MODEL, action, HORIZON - 1, 0.9 + 0.2 + 0.3 * action)
    expected = -DISCOUNT * float(DISCOUNT ** np.arange(HORIZON - 1) @ paid)
    assert within(found.dynamics.sum(axis=1), expected)
    # a model that knows of the end is right
    ended = telescoped_gap(
        model, policy, data, torch.Generator().manual_seed(6), **keywords,
        terminated=lambda observation: torch.ones(len(observation), dtype=torch.bool),
    )  # fmt: skip
    assert (ended.dynamics == 0).all()


def test_rollout_values_pay_so_many_steps_and_no_more():
    model: Any = LinearModel(1.0, 1.0, 0.0, 1.0, noise=0.0)
    policy = constant_policy(model, 0.0, 1.0)
    windows = Windows.initial(torch.tensor([[0.0], [0.0], [5.0], [2.0]]), 1, 1)
    steps = torch.tensor([0, 1, 3, 2])
    values = rollout_values(model, policy, windows, steps, 0.5, torch.Generator())
    np.testing.assert_allclose(values, [0, 0, 5 + 0.5 * 6 + 0.25 * 7, 2 + 0.5 * 3], rtol=1e-6)
    clipped = rollout_values(model, policy, windows, steps, 0.5, torch.Generator(), low=0.0, high=5.5)
    np.testing.assert_allclose(clipped, [0, 0, 5 + 0.5 * 5.5 + 0.25 * 5.5, 2 + 0.5 * 3], rtol=1e-6)
    ends_at_6 = rollout_values(
        model, policy, windows, steps, 0.5, torch.Generator(), terminated=lambda observation: observation[:, 0] >= 6
    )
    np.testing.assert_allclose(ends_at_6, [0, 0, 5, 2 + 0.5 * 3], rtol=1e-6)


@pytest.mark.parametrize(
    ("discount", "horizon", "steps"), [(0.95, 100, 90), (0.99, 1000, 459), (0.5, 3, 2), (0.0, 5, 1)]
)
def test_values_look_as_far_as_one_percent(discount, horizon, steps):
    assert value_steps_for(discount, horizon) == steps
    assert discount**steps <= 0.01 or steps == horizon - 1


# One-step densities


UNIT_MEAN, UNIT = 0.1, 1.5  # of the normaliser inside the model


def gaussian_model(centre: float, scale: float) -> EnsembleModel:
    """Two members with the same N(o + centre, scale^2) for each of two coordinates, whatever the action."""
    model = EnsembleModel(ContextEncoder(2, 1, 0, 1), 1, 2, 4, 1)
    for parameter in model.heads.parameters():
        torch.nn.init.zeros_(parameter)
    with torch.no_grad():
        model.log_variance_high.fill_(60.0)
        model.log_variance_low.fill_(-60.0)
        bias = output_bias(model)
        bias[..., :3] = (centre - UNIT_MEAN) / UNIT
        bias[..., 3:] = 2 * math.log(scale / UNIT)
    model.target_normaliser.mean.fill_(UNIT_MEAN)
    model.target_normaliser.std.fill_(UNIT)
    return model


def output_bias(model: EnsembleModel) -> Tensor:
    """[members, 1, 6]: means and log variances of (o' - o, r), in the normaliser's units."""
    return [parameter for parameter in model.heads.parameters() if parameter.shape == (2, 1, 6)][-1]


def walk(episodes: int, horizon: int, seed: int) -> Trajectories:
    """Standard normal changes of both coordinates."""
    rng = np.random.default_rng(seed)
    observations = np.cumsum(rng.normal(size=(episodes, horizon + 1, 2)), axis=1)
    shape = (episodes, horizon)
    return Trajectories(
        observations, np.zeros((*shape, 1), np.float32), np.zeros((*shape, 1), np.float32), np.zeros(shape),
        np.zeros(shape, dtype=np.int64), np.ones(shape, dtype=bool),
    )  # fmt: skip


@pytest.mark.parametrize(("centre", "scale"), [(0.0, 1.0), (0.5, 1.0), (0.0, 2.0), (0.0, 0.5)])
def test_the_pit_curve_is_the_closed_form_and_only_a_wrong_model_is_certainly_miscalibrated(centre, scale):
    trajectories = walk(150, 40, 7)
    data = EncodedTrajectories.of(trajectories, 0, CPU)
    found = calibration(pit(gaussian_model(centre, scale), data), trajectories.valid, 0.95)
    exact = norm.cdf(centre + scale * norm.ppf(LEVELS))
    coverage, lower, upper = (np.array(found[name]) for name in ("coverage", "lower", "upper"))
    assert coverage.shape == (19, 2)
    assert np.abs(coverage - exact[:, None]).max() < 4.5 * 0.5 / math.sqrt(150 * 40)
    assert ((lower <= exact[:, None]) & (exact[:, None] <= upper)).all()
    distance = found["distance"]
    largest = float(np.abs(exact - LEVELS).max())
    for coordinate in range(2):
        assert distance["lower"][coordinate] <= largest <= distance["upper"][coordinate]
        assert (distance["lower"][coordinate] > 0) == ((centre, scale) != (0.0, 1.0))


def test_the_mixture_is_calibrated_where_no_member_is():
    """Changes are -2 or 2 plus small noise; each member knows one of the two."""
    rng = np.random.default_rng(8)
    trajectories = walk(100, 20, 9)
    changes = rng.choice([-2.0, 2.0], size=(100, 20, 2)) + 0.5 * rng.normal(size=(100, 20, 2))
    trajectories.observations[:, 1:] = np.cumsum(changes, axis=1)
    trajectories.observations[:, 0] = 0.0
    data = EncodedTrajectories.of(trajectories, 0, CPU)
    model = gaussian_model(0.0, 0.5)
    with torch.no_grad():
        for member, centre in enumerate((-2.0, 2.0)):
            output_bias(model)[member, 0, :2] = (centre - UNIT_MEAN) / UNIT
    both = calibration(pit(model, data), trajectories.valid, 0.95)
    assert max(both["distance"]["lower"]) == 0.0
    model.elite = torch.tensor([0])
    one = calibration(pit(model, data), trajectories.valid, 0.95)
    assert min(one["distance"]["lower"]) > 0.3


def test_the_nll_is_the_closed_form_and_episodes_weigh_equally():
    trajectories = walk(300, 30, 10)
    trajectories.valid[:150, 2:] = False
    data = EncodedTrajectories.of(trajectories, 0, CPU)
    found = log_densities(gaussian_model(0.5, 2.0), data, 0.999)
    exact = 2 * (0.5 * math.log(2 * math.pi) + math.log(2.0) + (1 + 0.25) / 8)
    assert found["lower"] < exact < found["upper"]
    assert found["upper"] - found["lower"] < 0.2
    ignorant = 2 * (0.5 * math.log(2 * math.pi) + math.log(UNIT) + (1 + UNIT_MEAN**2) / (2 * UNIT**2))
    assert found["baseline"] == pytest.approx(ignorant, abs=0.05)
    np.testing.assert_allclose(
        episode_means(np.array([[1.0, 3.0], [5.0, 9.0]]), np.array([[True, True], [True, False]])), [2.0, 5.0]
    )


# k steps


def test_open_loop_errors_are_the_bias_of_the_mean_and_not_its_noise():
    """The walk drifts by 0 and the model by 0.5 a step: E error^2 = k + (0.5 k)^2, and k for nothing changes."""
    trajectories = walk(1500, 12, 11)
    data = EncodedTrajectories.of(trajectories, 0, CPU)
    squares, unchanged = open_loop_errors(
        gaussian_model(0.5, 3.0), data, torch.Generator().manual_seed(0), longest=6, starts=4, draws=4
    )
    assert squares.shape == (1500, 6, 2)
    for k in range(1, 7):
        for coordinate in range(2):
            assert within(squares[:, k - 1, coordinate], k + (0.5 * k) ** 2)
            assert within(unchanged[:, k - 1, coordinate], k)


def test_k_step_errors_follow_the_real_actions_and_are_normalised():
    model: Any = LinearModel(1.0, 0.0, 2.0, 1.0, noise=0.0)
    policy = constant_policy(model, 0.0, 1.0)
    trajectories = episodes_of(model, policy, 50, 10, 12)
    data = EncodedTrajectories.of(trajectories, 1, CPU)
    found = k_step(model, data, torch.Generator().manual_seed(1), 0.95, longest=5)
    assert max(found["model_all"][-1].values()) < 1e-5  # exact dynamics, exact actions
    assert found["unchanged_all"][-1] > 0.3
    stretched = Trajectories(
        10 * trajectories.observations, 10 * trajectories.actions, trajectories.raw_actions, trajectories.rewards,
        trajectories.tasks, trajectories.valid,
    )  # fmt: skip
    wrong: Any = LinearModel(1.0, 0.0, 1.0, 1.0, noise=0.0)
    one, ten = (
        k_step(wrong, EncodedTrajectories.of(each, 1, CPU), torch.Generator().manual_seed(1), 0.95, longest=5)
        for each in (trajectories, stretched)
    )
    np.testing.assert_allclose(one["model"], ten["model"], rtol=1e-4)
    np.testing.assert_allclose(ten["scale"], 10 * np.array(one["scale"]), rtol=1e-9)
    # half of every push is missed
    np.testing.assert_allclose(one["model"], 0.5 * np.array(one["unchanged"]), rtol=1e-4)


def test_episodes_too_short_are_left_out_and_said():
    trajectories = walk(10, 8, 13)
    trajectories.valid[:7, 4:] = False
    data = EncodedTrajectories.of(trajectories, 0, CPU)
    model = gaussian_model(0.0, 1.0)
    assert k_step(model, data, torch.Generator(), 0.95)["k"] == list(range(1, 9))
    assert k_step(model, data, torch.Generator(), 0.95)["episodes"] == 3
    with pytest.raises(ValueError, match="no episode lasts 9 steps"):
        open_loop_errors(model, data, torch.Generator(), longest=9)
    with pytest.raises(ValueError, match="draws must be >= 2, got 1"):
        open_loop_errors(model, data, torch.Generator(), longest=2, draws=1)


def test_bad_arguments_are_named():
    model: Any = MODEL
    policy = constant_policy(model, 0.0, 1.0)
    data = EncodedTrajectories.of(episodes_of(TRUTH, policy, 3, 4, 0), 1, CPU)
    keywords: Any = {"discount": 0.9, "value_steps": 2}
    for wrong in ({"discount": 1.0}, {"value_steps": 0}, {"strata": 0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            telescoped_gap(model, policy, data, torch.Generator(), **(keywords | wrong))
