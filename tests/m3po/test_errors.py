"""Measured errors against closed forms, other Monte Carlo and exact filters; returns against a literal reference."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from scipy.special import erf, logsumexp
from torch import Tensor, nn

from analysis.guarantee.returns import model_return_samples
from bounds.divergence import diagonal_gaussian_tv_bounds, gaussian_tv
from m3po.data.types import Windows
from m3po.envs.switching import SwitchingRule
from m3po.envs.switching_point_mass import PointMassDynamics, PointMassTask, SwitchingPointMass
from m3po.episodes import Trajectories, run_episodes
from m3po.errors import (
    EncodedTrajectories,
    error_metrics,
    history_log_density,
    largest,
    model_error_samples,
    model_log_density,
    policy_divergence_samples,
    profile,
    reward_error_samples,
    task_log_density,
)
from m3po.networks.context_encoder import ContextEncoder
from m3po.networks.model import EnsembleModel
from m3po.networks.policy import GaussianPolicy, HistoryPolicy

CPU = torch.device("cpu")
HORIZON = 6
DISCOUNT = 0.9
TASKS = (
    PointMassTask(angle=0.3, gain=2.5, wind=(0.2, -0.4)),
    PointMassTask(angle=-1.9, gain=2.0, wind=(0.0, 0.5)),
    PointMassTask(angle=2.5, gain=3.0, wind=(-0.3, 0.1)),
)
NOISE = (0.05, 0.08, 0.06, 0.1)
RULE = SwitchingRule(probability=0.3)
DYNAMICS = PointMassDynamics(TASKS, NOISE, RULE)
ONE_TASK = PointMassDynamics(TASKS[:1], NOISE, SwitchingRule())


@pytest.fixture(scope="module", autouse=True)
def _environments() -> Iterator[None]:
    before = set(gym.registry)
    register: Any = gym.register
    options: dict[str, Any] = {"process_noise": NOISE, "first_task": None}
    fast = "m3po.envs.switching_point_mass:SwitchingPointMassVector"
    for name, tasks, probability in (("Three", TASKS, RULE.probability), ("One", TASKS[:1], 0.0)):
        register(
            f"tests/{name}-v0", SwitchingPointMass, vector_entry_point=fast, max_episode_steps=HORIZON,
            kwargs={**options, "tasks": tasks, "switch_probability": probability},
        )  # fmt: skip
    yield
    for name in set(gym.registry) - before:
        del gym.registry[name]


class FilterEncoder:
    """Windows -> (o_t, belief about the task): the exact filter, restarted at the start of the window."""

    def __init__(self, dynamics: PointMassDynamics, history_length: int) -> None:
        self.dynamics, self.history_length = dynamics, history_length

    def __call__(self, windows: Windows) -> Tensor:
        count, tasks = len(windows.lengths), len(self.dynamics.tasks)
        belief = np.full((count, tasks), 1 / tasks)
        tokens, lengths = windows.tokens.double().numpy(), windows.lengths.numpy()
        for place in range(tokens.shape[1]):
            used = place >= tokens.shape[1] - lengths
            observation, action, change = np.split(tokens[:, place], [4, 6], axis=1)
            log_likelihoods = np.stack(
                [
                    self.dynamics.log_density(observation + change, observation, action, np.full(count, task))
                    for task in range(tasks)
                ],
                axis=-1,
            )
            updated = self.dynamics.update_belief(belief, log_likelihoods, 1)
            belief = np.where(used[:, None], updated, belief)
        return torch.cat([windows.observation.double(), torch.as_tensor(belief)], dim=1)


class FilterModel:
    """The best model there is: next observations have the predictive density of the filter, moved by ``shift``."""

    def __init__(self, dynamics: PointMassDynamics, history_length: int, shift: float = 0.0) -> None:
        self.dynamics = dynamics
        self.encoder = FilterEncoder(dynamics, history_length)
        self.shift = np.array([0, 0, shift, 0])

    def observation_log_density(
        self, features: Tensor, observation: Tensor, action: Tensor, following: Tensor
    ) -> Tensor:
        belief = features[:, 4:].numpy()
        o, a, moved = observation.double().numpy(), action.double().numpy(), following.double().numpy() - self.shift
        densities = [
            self.dynamics.log_density(moved, o, a, np.full(len(belief), task)) for task in range(belief.shape[1])
        ]
        return torch.as_tensor(logsumexp(np.stack(densities, axis=-1), axis=-1, b=belief))

    def sample(
        self, features: Tensor, observation: Tensor, action: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        task = torch.multinomial(features[:, 4:], 1, generator=generator)[:, 0].numpy()
        mean = self.dynamics.mean(observation.double().numpy(), action.double().numpy(), task) + self.shift
        noise = torch.randn(observation.shape, generator=generator)
        return torch.as_tensor(mean).float() + torch.as_tensor(self.dynamics.process_noise).float() * noise, noise[:, 0]

    def expected_reward(self, features: Tensor, action: Tensor, low: float, high: float) -> Tensor:
        return torch.as_tensor(self.dynamics.reward(features[:, :4].numpy(), action.double().numpy())).clamp(low, high)


class BeliefNetwork(nn.Module):
    """Pushes against the position with a sign that hangs on the belief, so that returns depend on the history."""

    def __init__(self, gain: float = 1.0) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(gain))

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        mean = -self.gain * features[:, :2].float() * (2 * features[:, 4:5].float() - 0.5)
        return mean, torch.full_like(mean, -0.7)


def belief_policy(encoder: Any, gain: float = 1.0) -> HistoryPolicy:
    return HistoryPolicy(encoder, BeliefNetwork(gain))  # type: ignore[arg-type]


def torch_generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_policy(seed: int, history_length: int = 3, action_size: int = 2) -> HistoryPolicy:
    torch.manual_seed(seed)
    encoder = ContextEncoder(4, action_size, history_length, 5)
    return HistoryPolicy(encoder, GaussianPolicy(encoder.feature_size, action_size, 16, 1))


def episodes_of(env_id: str, policy: HistoryPolicy, episodes: int, seed: int = 0) -> Trajectories:
    return run_episodes(env_id, policy, episodes, seed=seed, generator=torch_generator(seed))


def shortened(trajectories: Trajectories, lengths: Any) -> Trajectories:
    """The same episodes, ended after ``lengths`` steps: zero and invalid from there on."""
    valid = np.arange(trajectories.rewards.shape[1]) < np.asarray(lengths)[:, None]
    seen = np.concatenate([np.ones((len(valid), 1), dtype=bool), valid], axis=1)
    return Trajectories(
        observations=np.where(seen[..., None], trajectories.observations, 0),
        actions=np.where(valid[..., None], trajectories.actions, 0),
        raw_actions=np.where(valid[..., None], trajectories.raw_actions, 0),
        rewards=np.where(valid, trajectories.rewards, 0),
        tasks=np.where(valid, trajectories.tasks, -1),
        valid=valid,
    )


def within_standard_errors(differences: np.ndarray, count: float = 4.0) -> bool:
    """Whether the mean of independent rows is zero to within ``count`` standard errors, in every column."""
    rows = differences.reshape(len(differences), -1)
    return bool(np.all(np.abs(rows.mean(axis=0)) <= count * rows.std(axis=0, ddof=1) / math.sqrt(len(rows)) + 1e-12))


# Model error


def test_the_true_predictive_as_a_model_has_no_error():
    model: Any = FilterModel(DYNAMICS, HORIZON)
    trajectories = episodes_of("tests/Three-v0", belief_policy(model.encoder), 200)
    data = EncodedTrajectories.of(trajectories, HORIZON, CPU)
    truth = history_log_density(DYNAMICS, trajectories)
    np.testing.assert_allclose(model_log_density(model, data), truth, atol=2e-4)  # windows are float32
    assert model_error_samples(truth, model_log_density(model, data), trajectories.valid).max() < 2e-4
    # against the true task even the perfect model of the history errs: it cannot know the task
    task = task_log_density(DYNAMICS, trajectories)
    assert model_error_samples(task, model_log_density(model, data), trajectories.valid).mean() > 0.1


@pytest.mark.parametrize("shift", [0.02, 0.1, 0.3])
def test_a_model_with_one_task_and_a_shifted_mean_has_the_closed_form_error(shift):
    model: Any = FilterModel(ONE_TASK, 1, shift)
    trajectories = episodes_of("tests/One-v0", belief_policy(model.encoder), 1500, seed=1)
    data = EncodedTrajectories.of(trajectories, 1, CPU)
    exact = erf(shift / NOISE[2] / (2 * math.sqrt(2)))
    for truth in (history_log_density(ONE_TASK, trajectories), task_log_density(ONE_TASK, trajectories)):
        samples = model_error_samples(truth, model_log_density(model, data), trajectories.valid)
        assert ((samples >= 0) & (samples <= 1)).all()
        assert within_standard_errors(samples - exact)
        interval = profile(samples, 0.999)
        assert ((interval.lower <= exact) & (exact <= interval.upper)).all()
        assert (interval.upper - interval.lower).max() < 0.15


def random_model(trajectories: Trajectories, history_length: int = 3) -> EnsembleModel:
    """Untrained members around the marginal of the data: a total variation well inside (0, 1)."""
    torch.manual_seed(1)
    encoder = ContextEncoder(4, 2, history_length, 5)
    model = EnsembleModel(encoder, 2, 3, 16, 1)
    changes = np.diff(trajectories.observations, axis=1)
    targets = np.concatenate([changes, trajectories.rewards[..., None]], axis=2).reshape(-1, 5)
    model.target_normaliser.fit(torch.as_tensor(targets).float())
    return model


def truth_given_history(trajectories: Trajectories) -> np.ndarray:
    """P(task_t | h_t) by a forward recursion in plain probabilities, written apart from the module. [N, H, 3]."""
    episodes = len(trajectories.rewards)
    beliefs = np.zeros((episodes, HORIZON, 3))
    for n in range(episodes):
        belief: Any = np.full(3, 1 / 3)
        for t in range(HORIZON):
            beliefs[n, t] = belief
            o, a, following = (
                trajectories.observations[n, t], trajectories.actions[n, t].astype(float),
                trajectories.observations[n, t + 1],
            )  # fmt: skip
            means = [DYNAMICS.mean(o, a, np.array(task)) for task in range(3)]
            likelihoods = [np.exp(-0.5 * np.sum(((following - mean) / NOISE) ** 2)) for mean in means]
            posterior = belief * likelihoods
            belief = 0.7 * posterior / posterior.sum() + 0.1
    return beliefs


def test_eps_m_of_a_random_model_agrees_with_draws_from_the_model():
    """E_{o' ~ p_theta} max(0, 1 - p/p_theta) is the same TV from the other side: other draws, other integrand."""
    policy = random_policy(0)
    trajectories = episodes_of("tests/Three-v0", policy, 400, seed=2)
    model = random_model(trajectories)
    data = EncodedTrajectories.of(trajectories, 3, CPU)
    log_model = model_log_density(model, data)
    samples = model_error_samples(history_log_density(DYNAMICS, trajectories), log_model, trajectories.valid)
    informed = model_error_samples(task_log_density(DYNAMICS, trajectories), log_model, trajectories.valid)

    beliefs = truth_given_history(trajectories).reshape(-1, 3)
    rows = len(beliefs)
    o, a = trajectories.observations[:, :-1].reshape(rows, 4), trajectories.actions.reshape(rows, 2).astype(float)
    tasks = trajectories.tasks.reshape(rows)
    generator = torch_generator(3)
    direct: Any = np.zeros(rows)
    direct_informed: Any = np.zeros(rows)
    draws = 40
    with torch.no_grad():
        features = model.encoder(data.windows)
        for _ in range(draws):
            drawn, _ = model.sample(features, data.windows.observation, data.actions, generator)
            log_q = model.observation_log_density(features, data.windows.observation, data.actions, drawn)
            each = [DYNAMICS.log_density(drawn.double().numpy(), o, a, np.full(rows, task)) for task in range(3)]
            log_p = logsumexp(np.stack(each, axis=1), axis=1, b=beliefs)
            log_p_task = np.stack(each, axis=1)[np.arange(rows), tasks]
            direct += np.maximum(0, 1 - np.exp(log_p - log_q.double().numpy())) / draws
            direct_informed += np.maximum(0, 1 - np.exp(log_p_task - log_q.double().numpy())) / draws
    direct, direct_informed = direct.reshape(samples.shape), direct_informed.reshape(samples.shape)
    assert 0.2 < direct.mean() < 0.9
    assert within_standard_errors((samples - direct).mean(axis=1))
    assert within_standard_errors(samples - direct, 4.5)
    assert within_standard_errors((informed - direct_informed).mean(axis=1))
    interval = profile(samples, 0.999)
    assert ((interval.lower <= direct.mean(axis=0)) & (direct.mean(axis=0) <= interval.upper)).all()
    # joint convexity of TV, step by step of the profile
    gaps = informed - samples
    assert (gaps.mean(axis=0) > -4 * gaps.std(axis=0) / math.sqrt(len(gaps))).all()
    assert gaps.mean() > 4 * gaps.mean(axis=1).std() / math.sqrt(len(gaps))


def test_invalid_steps_carry_no_error_whatever_their_densities_are():
    valid = np.array([[True, False]])
    samples = model_error_samples(np.zeros((1, 2)), np.array([[-1.0, -50.0]]), valid)
    np.testing.assert_allclose(samples, [[1 - math.exp(-1), 0]])


def test_per_step_puts_episodes_in_rows_and_clears_what_is_over():
    policy = random_policy(0)
    trajectories = shortened(episodes_of("tests/One-v0", policy, 3), [6, 2, 4])
    data = EncodedTrajectories.of(trajectories, 3, CPU)
    grid = data.per_step(torch.arange(18.0) + 1)
    np.testing.assert_array_equal(grid, np.where(trajectories.valid, np.arange(1, 19).reshape(3, 6), 0))
    np.testing.assert_array_equal(data.windows.lengths.reshape(3, 6), [[0, 1, 2, 3, 3, 3]] * 3)
    np.testing.assert_allclose(
        data.windows.tokens[4, -3], np.r_[
            trajectories.observations[0, 1], trajectories.actions[0, 1],
            trajectories.observations[0, 2] - trajectories.observations[0, 1],
        ], rtol=1e-6, atol=1e-6,
    )  # fmt: skip


# Policy divergence


class GivenMoments:
    """A policy whose mean and log std at every history are given."""

    def __init__(self, mean: np.ndarray, std: np.ndarray) -> None:
        self.mean, self.std = mean, std

    @staticmethod
    def encoder(windows: Windows) -> Tensor:
        return windows.observation

    def network(self, features: Tensor) -> tuple[Tensor, Tensor]:
        rows = features[:, 0].long()
        return torch.as_tensor(self.mean).float()[rows], torch.as_tensor(np.log(self.std)).float()[rows]


def given_moments(rows: int, actions: int, seed: int) -> list[np.ndarray]:
    """Means and standard deviations of two policies: m1, s1, m2, s2."""
    generator = np.random.default_rng(seed)
    size = (rows, actions)
    return [part for _ in range(2) for part in (generator.normal(size=size), generator.uniform(0.3, 2.0, size))]


def blank_data(episodes: int, actions: int = 1) -> EncodedTrajectories:
    """Histories of which only the number of the row matters: it is the observation."""
    shape = (episodes, HORIZON)
    numbers = np.arange(episodes)[:, None] * HORIZON + np.arange(HORIZON + 1)
    return EncodedTrajectories.of(
        Trajectories(
            numbers[..., None].astype(np.float64), np.zeros((*shape, actions), np.float32),
            np.zeros((*shape, actions), np.float32), np.zeros(shape), np.zeros(shape, dtype=np.int64),
            np.ones(shape, dtype=bool),
        ),
        0, CPU,
    )  # fmt: skip


def test_in_one_dimension_samples_average_to_the_closed_form_and_the_maximum_is_exact():
    data = blank_data(1500)
    m1, s1, m2, s2 = given_moments(1500 * HORIZON, 1, seed=0)
    exact = np.asarray(gaussian_tv(m1, s1, m2, s2))[:, 0]
    first: Any = GivenMoments(m1, s1)
    second: Any = GivenMoments(m2, s2)
    samples, largest_lower = policy_divergence_samples(first, second, data, torch_generator())
    assert ((samples >= 0) & (samples <= 1)).all()
    assert within_standard_errors((samples.reshape(-1) - exact)[:, None])
    assert within_standard_errors(samples - exact.reshape(samples.shape), 4.5)
    assert largest_lower == pytest.approx(exact.max(), rel=1e-5)


def test_a_known_pair_of_policies():
    """Far apart: the samples are 1. One draw per policy is enough for an unbiased estimate."""
    data = blank_data(2000)
    rows = 2000 * HORIZON
    near: Any = GivenMoments(np.zeros((rows, 1)), np.ones((rows, 1)))
    far: Any = GivenMoments(np.full((rows, 1), 60.0), np.ones((rows, 1)))
    wide: Any = GivenMoments(np.zeros((rows, 1)), np.full((rows, 1), 2.0))
    samples, largest_lower = policy_divergence_samples(near, far, data, torch_generator())
    np.testing.assert_allclose(samples, 1)
    assert largest_lower == pytest.approx(1)
    for pair in ((near, wide), (wide, near)):
        samples, largest_lower = policy_divergence_samples(*pair, data, torch_generator(), draws=1)
        assert within_standard_errors(samples - 0.32267456883)  # erf at the crossings x^2 = (8/3) log 2
        assert largest_lower == pytest.approx(0.32267456883, rel=1e-6)


def test_in_two_dimensions_samples_agree_with_another_monte_carlo():
    data = blank_data(800, 2)
    rows = 800 * HORIZON
    m1, s1, m2, s2 = given_moments(rows, 2, seed=1)
    first: Any = GivenMoments(m1, s1)
    second: Any = GivenMoments(m2, s2)
    samples, largest_lower = policy_divergence_samples(first, second, data, torch_generator())
    draws = np.random.default_rng(4).standard_normal((60, rows, 2)) * s1 + m1
    log_p = (-0.5 * ((draws - m1) / s1) ** 2 - np.log(s1)).sum(-1)
    log_q = (-0.5 * ((draws - m2) / s2) ** 2 - np.log(s2)).sum(-1)
    direct = np.maximum(0, 1 - np.exp(log_q - log_p))
    assert within_standard_errors((samples.reshape(-1) - direct.mean(axis=0))[:, None])
    # the reported maximum stays below the largest TV, of which the Monte Carlo knows every entry to a standard error
    slack = 4 * direct.std(axis=0) / math.sqrt(60)
    assert 0.5 < largest_lower <= (direct.mean(axis=0) + slack).max()


def test_the_reported_maximum_is_certain_not_estimated():
    """Where the closed bounds around the TV are apart, the lower one is reported."""
    data = blank_data(500, 2)
    rows = 500 * HORIZON
    m1, s1, m2, s2 = (np.tile(pair, (rows, 1)) for pair in ([0.0, 0.0], [1.0, 1.0], [0.8, 0.4], [1.8, 0.5]))
    first: Any = GivenMoments(m1, s1)
    second: Any = GivenMoments(m2, s2)
    samples, reported = policy_divergence_samples(first, second, data, torch_generator())
    lower, upper = diagonal_gaussian_tv_bounds(m1[0], s1[0], m2[0], s2[0])
    assert reported == pytest.approx(lower, rel=1e-6)
    error = samples.std() / math.sqrt(rows)
    assert reported < samples.mean() - 4 * error < samples.mean() + 4 * error < upper


def test_the_maximum_ignores_histories_after_the_end_of_an_episode():
    data = blank_data(2)
    valid = np.arange(HORIZON) < np.array([[3], [1]])
    data = replace(data, trajectories=replace(data.trajectories, valid=valid))
    mean = np.where(valid, 0.5, 60.0).reshape(-1, 1)
    first: Any = GivenMoments(np.zeros_like(mean), np.ones_like(mean))
    second: Any = GivenMoments(mean, np.ones_like(mean))
    samples, largest_lower = policy_divergence_samples(first, second, data, torch_generator())
    assert largest_lower == pytest.approx(erf(0.5 / (2 * math.sqrt(2))), rel=1e-6)
    assert (samples[~valid] == 0).all()
    assert (samples[valid] > 0).all()


def test_a_policy_does_not_differ_from_itself_or_its_snapshot():
    policy = random_policy(0)
    data = EncodedTrajectories.of(episodes_of("tests/One-v0", policy, 20), 3, CPU)
    for same in (None, policy, policy.snapshot()):
        samples, largest_lower = policy_divergence_samples(same, policy, data, torch_generator())
        assert (samples == 0).all()
        assert largest_lower == 0
    other, _ = policy_divergence_samples(random_policy(1), policy, data, torch_generator())
    assert (other > 0).all()


# Reward error


class GivenReward:
    """A model that promises the reward in its features."""

    def __init__(self, promised: np.ndarray) -> None:
        self.promised = torch.as_tensor(promised.reshape(-1))

    def encoder(self, windows: Windows) -> Tensor:
        return self.promised[windows.observation[:, 0].long()]

    def expected_reward(self, features: Tensor, action: Tensor, low: float, high: float) -> Tensor:
        return features.clamp(low, high)


def test_reward_errors_by_hand():
    data = blank_data(2)
    valid = np.arange(HORIZON) < np.array([[3], [1]])
    rewards = np.where(valid, [[0.5, 0.2, -0.1, 9, 9, 9], [1.0, 9, 9, 9, 9, 9]], 0.0)
    data = replace(data, trajectories=replace(data.trajectories, valid=valid, rewards=rewards))
    promised = np.array([[0.4, 7.0, -3.0, 5, 5, 5], [0.25, 5, 5, 5, 5, 5]])
    model: Any = GivenReward(promised)
    found = reward_error_samples(model, data, -0.1, 1.0)
    np.testing.assert_allclose(found, [[0.1, 0.8, 0, 0, 0, 0], [0.75, 0, 0, 0, 0, 0]], atol=1e-15)


def test_reward_errors_of_an_ensemble():
    policy = random_policy(0)
    trajectories = episodes_of("tests/Three-v0", policy, 10)
    model = random_model(trajectories)
    data = EncodedTrajectories.of(trajectories, 3, CPU)
    with torch.no_grad():
        moments, _ = model.normalised_moments(model.encoder(data.windows), data.actions)
    normaliser = model.target_normaliser
    members = (moments[..., -1] * normaliser.std[-1] + normaliser.mean[-1]).double().numpy()
    low, high = float(np.quantile(members, 0.3)), float(np.quantile(members, 0.7))  # narrow, so that clipping matters
    expected = np.abs(trajectories.rewards.reshape(-1) - np.clip(members, low, high).mean(axis=0))
    np.testing.assert_allclose(reward_error_samples(model, data, low, high).reshape(-1), expected, atol=1e-6)


# Returns in the model


class CountingEncoder:
    """Windows -> (o, sum of a weighted past, length): a deterministic summary that every mistake in a window moves."""

    history_length = 2

    def __call__(self, windows: Windows) -> Tensor:
        weights = torch.tensor([0.3, -0.7, 0.2])
        limit = windows.tokens.shape[1]
        places = 1.0 + torch.arange(limit) - (limit - windows.lengths[:, None])  # the oldest used counts once
        past = (windows.tokens @ weights * places).sum(dim=1, keepdim=True)
        return torch.cat([windows.observation, past, windows.lengths[:, None].float()], dim=1)


class DeterministicModel:
    """o' = 0.8 o + 0.5 a + 0.1 past, with promised reward o a + 0.2 past - 0.1 length, clipped."""

    def __init__(self) -> None:
        self.encoder = CountingEncoder()

    def sample(self, features: Tensor, observation: Tensor, action: Tensor, generator: Any) -> tuple[Tensor, Tensor]:
        return 0.8 * observation + 0.5 * action + 0.1 * features[:, 1:2], observation[:, 0]

    def expected_reward(self, features: Tensor, action: Tensor, low: float, high: float) -> Tensor:
        return (features[:, 0] * action[:, 0] + 0.2 * features[:, 1] - 0.1 * features[:, 2]).clamp(low, high)


class DeterministicNetwork(nn.Module):
    """a = tanh(o - 0.5 past + 0.1 length), without noise."""

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        mean = features[:, :1] - 0.5 * features[:, 1:2] + 0.1 * features[:, 2:3]
        return mean, torch.full_like(mean, -math.inf)


class LinearReward:
    """r(o, a) = o - 0.3 a; its clip range bites on the learned reward."""

    reward_low, reward_high = -0.4, 0.5

    def log_density(self, *_: Any) -> Any:
        raise NotImplementedError

    def reward(self, observation: Any, action: Any) -> Any:
        return observation[..., 0] - 0.3 * action[..., 0]


def literal_returns(
    trajectories: Trajectories, discount: float, length: int | None, scheme: str, threshold: float
) -> np.ndarray:
    """Section 1 of the theory as it stands there: a sum over t, an average over i, each rollout from its own start."""

    def summary(past: list[tuple[float, float, float]]) -> float:
        kept = past[-2:]
        return sum((place + 1) * (0.3 * o - 0.7 * a + 0.2 * d) for place, (o, a, d) in enumerate(kept))

    def act(past: list[tuple[float, float, float]], o: float) -> float:
        return math.tanh(o - 0.5 * summary(past) + 0.1 * min(len(past), 2))

    def paid(past: list[tuple[float, float, float]], o: float) -> np.ndarray:
        a = act(past, o)
        learned = o * a + 0.2 * summary(past) - 0.1 * min(len(past), 2)
        return np.array([min(max(learned, -0.4), 0.5), o - 0.3 * a])

    def after(n: int, t: int, i: int) -> np.ndarray:
        """Reward at t after i model steps from the real history at t - i; nothing where the episode is over."""
        start = t - i
        if not trajectories.valid[n, start]:
            return np.zeros(2)
        seen = trajectories.observations[n, :, 0]
        past = [(seen[s], float(trajectories.actions[n, s, 0]), seen[s + 1] - seen[s]) for s in range(start)]
        o = seen[start]
        for _ in range(i):
            a = act(past, o)
            following = 0.8 * o + 0.5 * a + 0.1 * summary(past)
            if following > threshold:
                return np.zeros(2)
            past, o = [*past, (o, a, following - o)], following
        return paid(past, o)

    episodes, horizon = trajectories.rewards.shape
    totals = np.zeros((episodes, 2))
    for n in range(episodes):
        for t in range(horizon):
            longest = t if length is None else min(t, length)
            steps = [longest] if length is None or scheme == "exact" or t == 0 else list(range(1, longest + 1))
            totals[n] += discount**t * sum(after(n, t, i) for i in steps) / len(steps)
    return totals


@pytest.mark.parametrize("scheme", ["averaged", "exact"])
@pytest.mark.parametrize("length", [1, 2, 3, 5, 9, None])
@pytest.mark.parametrize("threshold", [math.inf, 0.9])
def test_returns_equal_the_literal_double_sum(length, scheme, threshold):
    generator = np.random.default_rng(7)
    shape = (12, HORIZON)
    whole = Trajectories(
        generator.normal(size=(12, HORIZON + 1, 1)), generator.uniform(-1, 1, (*shape, 1)).astype(np.float32),
        np.zeros((*shape, 1), np.float32), generator.normal(size=shape), np.zeros(shape, dtype=np.int64),
        np.ones(shape, dtype=bool),
    )  # fmt: skip
    trajectories = shortened(whole, [6, 6, 6, 6, 6, 6, 1, 2, 3, 4, 5, 6])
    model: Any = DeterministicModel()
    dynamics: Any = LinearReward()
    policy = HistoryPolicy(model.encoder, DeterministicNetwork())  # type: ignore[arg-type]
    found = model_return_samples(
        model, policy, EncodedTrajectories.of(trajectories, 2, CPU), discount=DISCOUNT, rollout_length=length,
        scheme=scheme, dynamics=dynamics, generator=torch_generator(),
        terminated=lambda observation: observation[:, 0] > threshold,
    )  # fmt: skip
    expected = literal_returns(trajectories, DISCOUNT, length, scheme, threshold)
    np.testing.assert_allclose(found.learned_reward, expected[:, 0], atol=2e-6)
    assert found.known_reward is not None
    np.testing.assert_allclose(found.known_reward, expected[:, 1], atol=2e-6)
    if threshold < math.inf:  # the case is a case: some rollouts do end
        assert np.abs(expected - literal_returns(trajectories, DISCOUNT, length, scheme, math.inf)).max() > 0.05


def test_without_a_known_reward_there_is_only_the_learned_one():
    model: Any = DeterministicModel()
    dynamics: Any = type("Unknown", (), {"reward_low": -1.0, "reward_high": 1.0, "log_density": None})()
    policy = HistoryPolicy(model.encoder, DeterministicNetwork())  # type: ignore[arg-type]
    found = model_return_samples(
        model, policy, blank_data(2), discount=0.5, rollout_length=1, dynamics=dynamics, generator=torch_generator()
    )
    assert found.known_reward is None
    assert found.learned_reward.shape == (2,)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rollout_length": 0}, "rollout_length must be >= 1 or None, got 0"),
        ({"rollout_length": -2}, "rollout_length must be >= 1 or None, got -2"),
        ({"rollout_length": 1, "scheme": "best"}, "scheme must be 'averaged' or 'exact', got 'best'"),
    ],
)
def test_bad_schemes_are_named(options, message):
    model: Any = DeterministicModel()
    dynamics: Any = LinearReward()
    policy = HistoryPolicy(model.encoder, DeterministicNetwork())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=message):
        model_return_samples(
            model, policy, blank_data(2), discount=0.5, dynamics=dynamics, generator=torch_generator(), **options
        )


@pytest.mark.parametrize(("length", "scheme"), [(1, "averaged"), (3, "averaged"), (3, "exact"), (None, "averaged")])
def test_a_perfect_model_under_the_data_policy_promises_the_true_return(length, scheme):
    model: Any = FilterModel(DYNAMICS, HORIZON)
    policy = belief_policy(model.encoder)
    trajectories = episodes_of("tests/Three-v0", policy, 3000, seed=5)
    data = EncodedTrajectories.of(trajectories, HORIZON, CPU)
    found = model_return_samples(
        model, policy, data, discount=DISCOUNT, rollout_length=length, scheme=scheme, dynamics=DYNAMICS,
        generator=torch_generator(6),
    )  # fmt: skip
    assert found.known_reward is not None
    np.testing.assert_allclose(found.learned_reward, found.known_reward, atol=1e-5)
    differences = found.known_reward - trajectories.returns(DISCOUNT)
    assert within_standard_errors(differences)
    # sharp enough to see a single forgotten or doubled reward at the last step
    at_last = DISCOUNT ** (HORIZON - 1) * trajectories.rewards[:, -1].mean()
    assert 4 * differences.std() / math.sqrt(len(differences)) < at_last


def test_a_wrong_model_is_told_from_the_true_one():
    right: Any = FilterModel(DYNAMICS, HORIZON)
    policy = belief_policy(right.encoder)
    trajectories = episodes_of("tests/Three-v0", policy, 800, seed=5)
    data = EncodedTrajectories.of(trajectories, HORIZON, CPU)
    wrong: Any = FilterModel(DYNAMICS, HORIZON, shift=1.0)
    wrong.encoder = right.encoder
    found = model_return_samples(
        wrong, policy, data, discount=DISCOUNT, rollout_length=None, dynamics=DYNAMICS, generator=torch_generator()
    )
    assert found.known_reward is not None
    assert not within_standard_errors(found.known_reward - trajectories.returns(DISCOUNT))


# The logged row


def test_the_floor_is_the_error_of_the_filter_with_the_models_window():
    model: Any = FilterModel(DYNAMICS, 2)
    trajectories = episodes_of("tests/Three-v0", belief_policy(model.encoder), 300, seed=8)
    policy = random_policy(0)
    row = error_metrics(
        model, policy, None, trajectories, DYNAMICS, confidence=0.95, generator=torch_generator()
    )  # fmt: skip
    assert row["eps_m"] == pytest.approx(row["bayes_eps_m"], abs=2e-4)
    assert row["eps_m_mean"] == pytest.approx(row["bayes_eps_m_mean"], abs=2e-4)
    assert row["eps_m_task"] == pytest.approx(row["bayes_eps_m_task"], abs=2e-4)
    # nothing is forgotten before step 3, and something afterwards
    np.testing.assert_allclose(row["eps_m_profile"][:3], 0, atol=2e-4)
    assert min(row["eps_m_profile"][3:]) > 0.003
    assert row["reward_error"] == pytest.approx(0, abs=1e-6)
    assert row["nll"] == pytest.approx(-history_log_density(DYNAMICS, trajectories, 2).mean(), abs=1e-4)
    assert row["eps_pi_sample_max"] == row["eps_pi_mean"] == 0.0
    whole = error_metrics(
        FilterModel(DYNAMICS, HORIZON), policy, None, trajectories, DYNAMICS,  # type: ignore[arg-type]
        confidence=0.95, generator=torch_generator(),
    )  # fmt: skip
    assert whole["bayes_eps_m"] == 0.0
    assert whole["bayes_eps_m_task_mean"] < row["bayes_eps_m_task_mean"]


def test_the_row_is_made_of_the_samples():
    policy, other = random_policy(0), random_policy(1)
    trajectories = shortened(episodes_of("tests/Three-v0", other, 60, seed=9), np.arange(60) % HORIZON + 1)
    model = random_model(trajectories)
    row = error_metrics(
        model, policy, other, trajectories, DYNAMICS, confidence=0.9, generator=torch_generator(2)
    )  # fmt: skip
    data = EncodedTrajectories.of(trajectories, 3, CPU)
    log_model, valid = model_log_density(model, data), trajectories.valid
    assert row["nll"] == pytest.approx(-log_model[valid].mean())
    for name, truth in (
        ("eps_m", history_log_density(DYNAMICS, trajectories)),
        ("eps_m_task", task_log_density(DYNAMICS, trajectories)),
    ):
        samples = model_error_samples(truth, log_model, valid)
        np.testing.assert_allclose(row[f"{name}_profile"], samples.mean(axis=0))
        assert row[name] == pytest.approx(samples.mean(axis=0).max())
        assert row[f"{name}_mean"] == pytest.approx(samples.sum() / valid.sum())
        interval = profile(samples, 0.9, order=None)
        assert row[f"{name}_lower"] == interval.lower.max()
        assert row[f"{name}_upper"] == interval.upper.max()
        assert row[f"{name}_profile_upper"] == interval.upper.tolist()
    divergence, lower = policy_divergence_samples(other, policy, data, torch_generator(2))
    np.testing.assert_allclose(row["policy_divergence_profile"], divergence.mean(axis=0))
    assert row["policy_divergence_upper"] == profile(divergence, 0.9, order=None).upper.tolist()
    assert row["eps_pi_mean"] == pytest.approx(divergence.sum() / valid.sum())
    assert row["eps_pi_sample_max"] == lower
    rewards = reward_error_samples(model, data, DYNAMICS.reward_low, DYNAMICS.reward_high)
    assert row["reward_error"] == pytest.approx(rewards.sum() / valid.sum())


class TaskDensityOnly:
    """Certifiable dynamics without a filter."""

    reward_low, reward_high = DYNAMICS.reward_low, DYNAMICS.reward_high
    log_density = staticmethod(DYNAMICS.log_density)


def test_without_a_filter_eps_m_is_the_task_informed_bound_and_without_a_density_there_is_none():
    policy = random_policy(0)
    trajectories = episodes_of("tests/Three-v0", policy, 20)
    model = random_model(trajectories)
    rows = [
        error_metrics(model, policy, None, trajectories, known, confidence=0.9, generator=torch_generator())
        for known in (DYNAMICS, TaskDensityOnly(), None)
    ]
    assert {key for key in rows[0] if not key.startswith("bayes")} == set(rows[1])
    for ending in ("", "_lower", "_upper", "_mean", "_profile", "_profile_upper"):
        assert rows[1]["eps_m" + ending] == rows[0]["eps_m_task" + ending] == rows[1]["eps_m_task" + ending]
    assert set(rows[2]) == {
        "nll", "eps_pi_mean", "eps_pi_sample_max", "policy_divergence_profile", "policy_divergence_upper",
    }  # fmt: skip


def test_the_largest_of_a_profile():
    samples = np.zeros((400, 3))
    samples[::4, 1] = 1.0
    found = largest(profile(samples, 0.95))
    assert found["estimate"] == 0.25
    assert 0.15 < found["lower"] < 0.25 < found["upper"] < 0.35


def test_profiles_hold_for_all_steps_at_once():
    """Simultaneous intervals are those of one step at the confidence that a union bound leaves."""
    samples = np.random.default_rng(0).uniform(size=(50, 5))
    together, alone = profile(samples, 0.9), profile(samples[:, :1], 0.98)
    assert together.upper[0] == pytest.approx(alone.upper[0], rel=1e-9)
    wide = profile(3 * samples, 0.9, high=3.0)
    np.testing.assert_allclose(wide.upper, 3 * together.upper, rtol=1e-9)
