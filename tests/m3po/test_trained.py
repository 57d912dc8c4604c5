"""``m3po.load``: what a user does with a run is what the project itself does with it."""

from __future__ import annotations

import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from scipy import integrate, stats

import m3po
from analysis.certify import collect
from analysis.collecting.episodes import Episodes
from analysis.collecting.episodes import run as run_episodes_of
from analysis.collecting.policies import acting_of
from m3po.action_density import GaussianActions
from m3po.agents.grbal import Grbal
from m3po.agents.m3po import M3PO
from m3po.agents.training import restored
from m3po.config import Config
from m3po.data.types import newest
from m3po.episodes import Trajectories, run_episodes
from m3po.errors import EncodedTrajectories, action_log_density, model_log_density
from m3po.foreign.checked_environment import to_environment
from m3po.runs.run_directory import RunDirectory
from m3po.seeds import Purpose, torch_generator
from m3po.train import train
from m3po.trained import Trained
from tests.m3po.small import TINY

SEED, EPISODES, HORIZON = 5, 3, 20
ALGORITHMS = ("m3po", "pearl", "grbal")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One short run of every algorithm on an environment whose box is not [-1, 1]. Read only."""
    found = {}
    small = TINY | {
        "env_id": "Pendulum-v1", "env_options": f'{{"max_episode_steps": {HORIZON}}}', "total_steps": 60,
        "initial_random_steps": 40, "epoch_steps": 20,
    }  # fmt: skip
    of: dict[str, dict[str, Any]] = {
        "m3po": {"context_size": 4, "ensemble_size": 2, "model_batch_size": 32, "model_updates": 20,
                 "rollouts_per_step": 4, "measure_episodes": 2},
        "grbal": {"planner_candidates": 8, "planner_horizon": 2, "planner_iterations": 1, "meta_batch_size": 4},
    }  # fmt: skip
    for algorithm in ALGORITHMS:
        path = tmp_path_factory.mktemp("trained") / algorithm
        settings: dict[str, Any] = small | of.get(algorithm, {}) | {"algorithm": algorithm}
        train(Config(run_dir=path, **settings))
        found[algorithm] = path
    return found


def evaluation(path: Path, *, deterministic: bool = True) -> Trajectories:
    """Episodes as ``analysis.evaluation`` runs them."""
    training = restored(RunDirectory.read(path))
    return run_episodes(
        training.config.env_id, training.policy, EPISODES, seed=SEED,
        generator=torch_generator(Purpose.EVALUATION, SEED), deterministic=deterministic, options=training.options,
    )  # fmt: skip


def played(run: Trained, *, deterministic: bool = True) -> list[tuple[np.ndarray, Any, np.ndarray]]:
    """Actions, states and next observations of the same episodes, by ``predict`` alone."""
    environments = [run.env() for _ in range(EPISODES)]
    observation = np.stack([each.reset(seed=SEED + i)[0] for i, each in enumerate(environments)])
    state, steps = None, []
    for _ in range(HORIZON):
        action, state = run.policy.predict(observation, state, deterministic=deterministic)
        observation = np.stack([each.step(a)[0] for each, a in zip(environments, action, strict=True)])
        steps.append((action, state, observation))
    return steps


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("deterministic", [True, False])
def test_predict_acts_as_the_evaluation_does(runs: dict[str, Path], algorithm: str, deterministic: bool) -> None:
    run = m3po.load(runs[algorithm], seed=SEED)
    expected = evaluation(run.path, deterministic=deterministic)
    steps = played(run, deterministic=deterministic)
    space = run.policy.action_space
    assert isinstance(space, gym.spaces.Box)
    for t, (action, _, observation) in enumerate(steps):
        sent = to_environment(torch.as_tensor(expected.actions[:, t]), space)
        np.testing.assert_array_equal(action, sent)
        assert action.dtype == space.dtype
        np.testing.assert_array_equal(observation, expected.observations[:, t + 1])
    assert not np.array_equal(expected.actions[:, 0], expected.actions[:, 1])


def test_one_observation_is_a_batch_of_one_and_an_episode_starts_anew(runs: dict[str, Path]) -> None:
    run = m3po.load(runs["m3po"])
    steps = played(run)
    observations = [np.stack([each.reset(seed=SEED + i)[0] for i, each in enumerate([run.env() for _ in range(3)])])]
    observations += [each[2] for each in steps]
    state = None
    for t in range(5):
        action, state = run.policy.predict(observations[t][1], state)
        np.testing.assert_allclose(action, steps[t][0][1], rtol=0, atol=1e-5)
        assert action.shape == (1,)
    # The middle episode starts anew: it forgets, its neighbours do not.
    state = steps[3][1]
    again, following = run.policy.predict(observations[4], state, episode_start=np.array([False, True, False]))
    fresh, _ = run.policy.predict(observations[4])
    np.testing.assert_array_equal(again[[0, 2]], steps[4][0][[0, 2]])
    np.testing.assert_allclose(again[1], fresh[1], rtol=0, atol=1e-6)
    assert following.lengths.tolist() == [3, 0, 3]
    of_zero = [run.policy.log_prob(each, np.zeros((3, 1))) for each in (following, steps[4][1])]
    np.testing.assert_array_equal(of_zero[0][[0, 2]], of_zero[1][[0, 2]])
    assert of_zero[0][1] != of_zero[1][1]
    copied = pickle.loads(pickle.dumps(state))
    np.testing.assert_array_equal(run.policy.predict(observations[4], copied)[0], steps[4][0])


def test_log_prob_is_the_density_that_the_guarantee_uses(runs: dict[str, Path]) -> None:
    run = m3po.load(runs["m3po"], seed=SEED)
    training = restored(RunDirectory.read(run.path), M3PO)
    data = EncodedTrajectories.of(evaluation(run.path, deterministic=False), run.config.history_length,
                                  torch.device("cpu"))  # fmt: skip
    of_model, of_policy = model_log_density(training.model, data), action_log_density(training.policy, data)
    compared = 0
    for t, (_, state, following) in enumerate(played(run, deterministic=False)):
        np.testing.assert_allclose(run.model.log_prob(state, following), of_model[:, t], rtol=1e-5, atol=1e-4)
        # The guarantee's is of the action before tanh: inside the box the two differ by a change of variables.
        unit = state.action.astype(np.float64)
        inside = (np.abs(unit) < 0.99).all(axis=1)
        compared += int(inside.sum())
        found = run.policy.log_prob(state)[inside] + np.log(2 * (1 - unit[inside] ** 2)).sum(axis=1)
        np.testing.assert_allclose(found, of_policy[inside, t], rtol=1e-5, atol=1e-3)
    assert compared > 10


def test_samples_have_the_density_of_the_model(runs: dict[str, Path]) -> None:
    run = m3po.load(runs["m3po"])
    state = played(run)[7][1]
    many = type(state)(*(np.repeat(each[:1], 4000, axis=0) for each in state))
    following, reward = run.model.sample(many)
    assert following.shape == (4000, 3)
    assert reward.shape == (4000,)
    # E[q(o')/p(o')] = 1 for any density q; here a Gaussian of the samples' own moments, narrower.
    mean, std = following.mean(axis=0), 0.7 * following.std(axis=0)
    log_q = stats.norm.logpdf(following, mean, std).sum(axis=1)
    ratio = np.exp(log_q - run.model.log_prob(many, following))
    assert abs(ratio.mean() - 1) < 4 * ratio.std() / 4000**0.5 + 0.02
    mean_following, mean_reward = (each[0] for each in run.model.predict(many))
    close = 5 * np.append(following.std(axis=0), reward.std()) / 4000**0.5
    assert (np.abs(np.append(following.mean(axis=0) - mean_following, reward.mean() - mean_reward)) < close).all()
    other = run.model.sample(many, np.full((4000, 1), 2.0))[0]
    assert not np.allclose(other.mean(axis=0), following.mean(axis=0), atol=1e-4)


def test_another_action_can_be_taken(runs: dict[str, Path]) -> None:
    """What follows in the history, and the densities, are those of the action that was taken."""
    run = m3po.load(runs["m3po"])
    environment = run.env()
    observation, _ = environment.reset(seed=1)
    _, state = run.policy.predict(observation)
    action = np.array([1.5], dtype=np.float32)
    following = environment.step(action)[0]
    taken = run.policy.took(state, action)
    np.testing.assert_allclose(taken.action, [0.75])
    assert run.model.log_prob(taken, following) == run.model.log_prob(state, following, action)
    assert run.model.log_prob(taken, following) != run.model.log_prob(state, following)
    assert run.policy.log_prob(taken) == run.policy.log_prob(state, action)
    _, after = run.policy.predict(following, taken)
    np.testing.assert_allclose(after.tokens[-1, 3], 0.75)


def test_a_run_can_be_certified_by_collect(runs: dict[str, Path]) -> None:
    """The same policy twice, loaded apart: its weights are one, through histories of what was taken."""
    first, again = m3po.load(runs["m3po"]), m3po.load(runs["m3po"])
    known: dict[str, Any] = {"episodes": 5, "reward_low": -17.0, "reward_high": 0.0, "seed": 3}
    evidence = collect(first.env, first, data_policy=again, **known)
    assert evidence.log_policy is not None
    assert evidence.log_data_policy is not None
    assert evidence.horizon == HORIZON
    assert evidence.discount == first.config.discount
    np.testing.assert_allclose(evidence.log_policy, evidence.log_data_policy, atol=1e-6)
    assert evidence.log_policy.std() > 0
    acting = acting_of(first, deterministic=False, seed=3)
    found = run_episodes_of([first.env() for _ in range(3)], "", acting, 3, HORIZON, range(3), np.random.default_rng(0))
    episodes = Episodes.of(found, HORIZON)
    seeds = [episodes.log_densities(acting_of(first, deterministic=False, seed=seed)) for seed in (1, 2)]
    np.testing.assert_allclose(seeds[0], seeds[1], atol=1e-6)
    pearl = collect(m3po.load(runs["pearl"]).env, m3po.load(runs["pearl"]), **known)
    assert pearl.rewards is not None
    with pytest.raises(ValueError, match="PEARL has no density given the history"):
        collect(first.env, m3po.load(runs["pearl"]), data_policy=first, **known)


def test_what_an_algorithm_has_not_is_said(runs: dict[str, Path]) -> None:
    pearl, grbal = m3po.load(runs["pearl"]), m3po.load(runs["grbal"])
    observation = np.zeros(3)
    for run in (pearl, grbal):
        _, state = run.policy.predict(observation)
        with pytest.raises(ValueError, match="no density given the history"):
            run.policy.log_prob(state)
    with pytest.raises(ValueError, match="PEARL, which learns no model"):
        _ = pearl.model
    with pytest.raises(ValueError, match="use predict"):
        grbal.model.sample(state)
    with pytest.raises(ValueError, match="use predict"):
        grbal.model.log_prob(state, observation)


def test_the_adapted_model_predicts_as_it_adapted(runs: dict[str, Path]) -> None:
    run = m3po.load(runs["grbal"])
    training = restored(RunDirectory.read(run.path), Grbal)
    state = played(run)[9][1]
    following, reward = run.model.predict(state)
    assert following.shape == (3, 3)
    assert reward.shape == (3,)
    windows, model = state.windows(), training.model
    used = newest(windows.lengths, training.config.history_length)
    adapted = model.adapt(model.weights(3), windows.tokens, used, training.config.adaptation_rate)
    expected = model.predict(adapted, windows.observation[:, None], torch.as_tensor(state.action)[:, None])[:, 0]
    bounded = expected.clamp(*training.reach).detach().double().numpy()
    np.testing.assert_allclose(np.column_stack([following, reward]), bounded, rtol=1e-6)
    unadapted = model.predict(model.weights(3), windows.observation[:, None], torch.as_tensor(state.action)[:, None])
    assert not np.allclose(unadapted[:, 0].detach().numpy(), bounded, rtol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"observation": np.zeros(4)}, r"observation must have shape \[3\] or \[N, 3\], got \[4\]"),
        ({"observation": np.full(3, np.nan)}, "observation must hold finite numbers, got nan"),
        ({"observation": ["a", "b", "c"]}, "observation must be an array of numbers"),
        ({"observation": np.zeros(3), "state": "no"}, "state must be what predict returned, got str"),
    ],
)
def test_wrong_input_is_named(runs: dict[str, Path], arguments: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        m3po.load(runs["m3po"]).policy.predict(**arguments)


def test_more_wrong_input_is_named(runs: dict[str, Path], tmp_path: Path) -> None:
    run = m3po.load(runs["m3po"])
    _, state = run.policy.predict(np.zeros((2, 3)))
    with pytest.raises(ValueError, match="state is of 2 observations, got 3"):
        run.policy.predict(np.zeros((3, 3)), state)
    with pytest.raises(ValueError, match="action must lie in the box"):
        run.policy.took(state, [[2.5], [0.0]])
    with pytest.raises(ValueError, match="one row for each of 2 histories, got 3"):
        run.policy.log_prob(state, np.zeros((3, 1)))
    with pytest.raises(ValueError, match="next_observation must have 2 rows"):
        run.model.log_prob(state, np.zeros((3, 3)))
    with pytest.raises(ValueError, match="no run directory at"):
        m3po.load(tmp_path / "none")
    with pytest.raises(ValueError, match="does not take the options"):
        run.env(colour="red")


def test_the_package_is_light_until_something_is_loaded() -> None:
    code = "import sys, m3po; assert 'load' in m3po.__all__; assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0
    with pytest.raises(AttributeError, match="has no attribute 'lode'"):
        _ = m3po.lode


def gaussian(mean: float, std: float, *, squashed: bool) -> GaussianActions:
    return GaussianActions(
        np.array([mean]), np.array([std]), np.array([-1.0]), np.array([1.0]), squashed, np.dtype(np.float32)
    )


@pytest.mark.parametrize("squashed", [True, False])
@pytest.mark.parametrize(("mean", "std"), [(0.3, 0.5), (2.8, 1.5), (-9.0, 1.0), (12.0, 0.5)])
def test_the_density_of_actions_adds_up_to_one(mean: float, std: float, squashed: bool) -> None:
    """Probabilities of the two ends, of every number that a computer has close to them, and an integral between."""
    actions = gaussian(mean, std, squashed=squashed)
    step = 2.0**-23
    close = np.arange(1, 8388) * step
    ends = np.exp([actions.log_density(np.array([each])) for each in (-1.0, 1.0)]).sum()
    near = sum(np.exp(actions.log_density(np.array(each)[:, None])).sum() * step for each in (close - 1, 1 - close))
    edge = 1 - close[-1] - step / 2
    inside = np.tanh(np.linspace(-np.arctanh(edge), np.arctanh(edge), 100_001))
    between = integrate.trapezoid(np.exp(actions.log_density(inside[:, None])), inside)
    assert ends + near + between == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("squashed", [True, False])
def test_ratios_of_densities_are_importance_weights(squashed: bool) -> None:
    """Their mean over drawn actions is one, where the ends have most of the probability too."""
    generator = np.random.default_rng(0)
    for mean, std in ((0.3, 0.5), (7.8, 1.0), (2.0, 0.8)):
        data, policy = gaussian(mean, std, squashed=squashed), gaussian(mean + 0.4, std, squashed=squashed)
        many = replace(data, mean=np.full((20_000, 1), mean), std=np.full((20_000, 1), std))
        drawn = many.draw(generator)
        weights = np.exp(policy.log_density(drawn) - data.log_density(drawn))
        assert abs(weights.mean() - 1) < 5 * weights.std() / len(weights) ** 0.5 + 1e-5


def test_actions_that_arrive_as_the_same_are_the_same() -> None:
    """Policies that both press against the end of the box take the same action there."""
    data, policy = gaussian(14.0, 0.5, squashed=True), gaussian(18.0, 0.5, squashed=True)
    drawn = data.draw(np.random.default_rng(0))
    assert drawn == np.float32(1.0)
    assert policy.log_density(drawn) - data.log_density(drawn) == pytest.approx(0.0, abs=1e-6)
