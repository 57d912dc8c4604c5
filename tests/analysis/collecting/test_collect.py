"""From environments and recordings to evidence: what is certified, and what is refused in one line."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete
from gymnasium.wrappers import NormalizeObservation, TimeLimit

from analysis.certify import certify, collect, from_dataset
from tests.analysis.collecting.strange import DISCOUNT, HORIZON, Gains, Line, Recorded, played

KNOWN: dict[str, Any] = {"reward_low": 0.0, "reward_high": 1.0, "discount": DISCOUNT, "absorbing": True}


def of_line(policy: Any = None, **changes: Any) -> Any:
    settings = KNOWN | {"horizon": HORIZON, "episodes": 20} | changes
    return collect(settings.pop("env", Line()), policy or Gains(0.5), **settings)


def truth(gain: float, count: int = 20_000) -> float:
    """The return of the policy, by simulating the line's formula."""
    generator = np.random.default_rng(0)
    state, total = generator.standard_normal(count), np.zeros(count)
    for t in range(HORIZON):
        total += DISCOUNT**t * np.exp(-(state**2))
        action = -gain * state + 0.3 * generator.standard_normal(count)
        state = 0.8 * state + 0.5 * action + 0.1 * generator.standard_normal(count)
    return float(total.mean())


def test_own_episodes_are_what_happened() -> None:
    """The environment shows one array again and again: every row must hold its own."""
    evidence = of_line(episodes=200)
    assert evidence.rewards.shape == (200, HORIZON)
    assert evidence.valid is None
    assert evidence.log_policy is None
    assert np.unique(evidence.rewards[:, 0]).size == 200
    mean = (evidence.rewards @ DISCOUNT ** np.arange(HORIZON)).mean()
    assert mean == pytest.approx(truth(0.5), abs=0.17)
    found = certify(evidence)
    assert found.verdict == "certified"
    assert found.answer == "own-returns"
    assert found.assumed_independent == []


def test_an_older_policys_episodes_are_weighed() -> None:
    evidence = of_line(Gains(0.6), data_policy=Gains(0.4), episodes=300)
    own, theirs = evidence.log_policy, evidence.log_data_policy
    assert own is not None
    assert theirs is not None
    weights = np.exp((own - theirs).cumsum(axis=1))
    mean = (evidence.rewards * weights) @ DISCOUNT ** np.arange(HORIZON)
    assert mean.mean() == pytest.approx(truth(0.6), abs=4 * mean.std() / 300**0.5)
    # What is paid must not depend on which is which: the other way round it is another number.
    wrong = (evidence.rewards / weights) @ DISCOUNT ** np.arange(HORIZON)
    assert abs(wrong.mean() - mean.mean()) > 0.01
    assert np.abs(weights[:, -1].mean() - 1) < 4 * weights[:, -1].std() / 300**0.5
    found = certify(evidence)
    assert found.answer == "importance-weights"
    assert 0 < (found.lower_bound or 0.0) < truth(0.6)


def test_the_same_policy_twice_is_its_own_data() -> None:
    policy = Gains(0.5)
    assert of_line(policy, data_policy=policy).log_policy is None


def test_the_seed_decides_and_copies_side_by_side_are_independent() -> None:
    first, again, other = (of_line(Gains(0.5), seed=seed).rewards for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    copies = of_line(Gains(0.5), env=Line).rewards
    np.testing.assert_array_equal(copies, first)


class Predicting:
    """sb3-contrib's ``predict``: acts by the number of steps of the episode that its state has counted."""

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = False
    ) -> Any:
        count = np.zeros(len(observation)) if state is None else np.where(episode_start, 0.0, state)
        self.seen = (count.copy(), np.array(episode_start))
        return (0.1 * count[:, None]).astype(np.float32), count + 1


def test_states_are_handed_on_and_begin_with_every_episode() -> None:
    episodes: list[list[float]] = []

    class Noted(Line):
        def reset(self, **arguments: Any) -> Any:
            episodes.append([])
            return super().reset(**arguments)

        def step(self, action: Any) -> Any:
            episodes[-1].append(round(float(action[0]), 3))
            return super().step(action)

    of_line(Predicting(), env=Noted(), episodes=3)
    assert episodes == [[0.0, 0.1, 0.2, 0.3, 0.4]] * 3


def test_an_end_is_an_end_and_a_cut_is_refused() -> None:
    ended = of_line(env=Line(ends_at=3))
    assert ended.valid is not None
    assert ended.valid.sum(axis=1).tolist() == [3] * 20
    assert (ended.rewards[:, 3:] == 0).all()
    with pytest.raises(ValueError, match=r"episode 0 was cut off after 3 of 5 steps .* give horizon=3"):
        of_line(env=Line(cut_at=3))
    assert of_line(env=Line(cut_at=3), horizon=3).valid is None
    assert of_line(env=TimeLimit(Line(), HORIZON)).valid is None


class Bad(Line):
    """Does ``fault`` in its second step."""

    def __init__(self, fault: Callable[[tuple[Any, ...]], Any]) -> None:
        super().__init__()
        self.fault = fault

    def step(self, action: Any) -> Any:
        answer = super().step(action)
        return answer if self.steps == 1 else self.fault(answer)


def failing(answer: Any) -> Any:
    raise RuntimeError("the arm is stuck")


@pytest.mark.parametrize(
    ("fault", "match"),
    [
        (lambda a: (a[0], float("nan"), *a[2:]), "reward nan at step 1 of episode 0, expected one finite"),
        (lambda a: (a[0], [1.0, 2.0], *a[2:]), r"returned reward \[1.0, 2.0\] at step 1 of episode 0"),
        (lambda a: (a[0], "much", *a[2:]), "a reward at step 1 of episode 0 'much', which is no array of numbers"),
        (lambda a: (np.array([np.inf]), *a[1:]), r"observation array\(\[inf\]\) at step 1 of episode 0"),
        (lambda a: (None, *a[1:]), "observation None at step 1 of episode 0"),
        (lambda a: (a[0], a[1], "no", *a[3:]), "returned terminated='no', which is neither true nor false"),
        (lambda a: a[:4], "at step 1 of episode 0, expected 5 values"),
        (failing, "failed at step 1 of episode 0: RuntimeError: the arm is stuck"),
        (lambda a: (a[0], 1.5, *a[2:]), r"rewards must lie in the reward range \[0, 1\], got 1.5"),
    ],
)  # fmt: skip
def test_what_an_environment_does_wrong_is_named(fault: Any, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        of_line(env=Bad(fault))


class Whole(Line):
    def __init__(self) -> None:
        super().__init__()
        self.action_space = Box(-3, 3, (1,), np.int8)


class Chosen(Line):
    def __init__(self) -> None:
        super().__init__()
        self.action_space = Discrete(2)

    def step(self, action: Any) -> Any:
        assert isinstance(action, np.int64)
        self.action_space = Box(-2, 2, (1,), np.float32)
        answer = super().step(np.array([action], np.float32))
        self.action_space = Discrete(2)
        return answer


def test_actions_have_the_form_of_their_space() -> None:
    assert of_line(lambda o: np.array([1.0]), env=Whole()).rewards.shape == (20, HORIZON)
    assert of_line(lambda o: int(o[0] > 0), env=Chosen()).rewards.shape == (20, HORIZON)
    with pytest.raises(ValueError, match="the space holds whole numbers"):
        of_line(lambda o: np.array([0.5]), env=Whole())
    with pytest.raises(ValueError, match=r"the action np.int64\(7\), which is not in Discrete\(2\)"):
        of_line(lambda o: 7, env=Chosen())
    with pytest.raises(ValueError, match=r"returned an action of shape \[3\]"):
        of_line(lambda o: np.zeros(3))
    with pytest.raises(ValueError, match="the action array\\(\\[nan\\]\\), which is no array of finite numbers"):
        of_line(lambda o: np.array([np.nan]))


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        (
            {"env": gym.make_vec("CartPole-v1", 2)},
            "env must be one gymnasium environment, .* got SyncVectorEnv|env must be",
        ),
        ({"env": "Nothing-v0"}, "env cannot be made"),
        ({"env": lambda: 3}, "env must make a gymnasium environment, it made int"),
        ({"env": NormalizeObservation(Line())}, r"NormalizeObservation, whose statistics \(obs_rms\) change"),
        ({"horizon": None}, "Line has no time limit: give horizon"),
        ({"horizon": 0}, "horizon must be a whole number >= 1, got 0"),
        ({"episodes": 1}, "episodes must be a whole number >= 2, got 1"),
        ({"episodes": True}, "episodes must be a whole number >= 2, got True"),
        ({"discount": None}, "discount is needed: Gains does not say"),
        ({"discount": 1.0}, r"discount must be in \[0, 1\), got 1.0"),
        ({"reward_low": None}, "reward_low and reward_high are needed: Line does not say"),
        ({"policy": 3}, "policy must be one of Stable-Baselines3"),
        ({"data_policy": lambda o: o}, "<lambda> has no density of its actions here"),
        ({"data_policy": Gains(0.4), "deterministic": True}, "deterministic=True: a policy without a choice"),
        ({"model": object()}, "model must have a method sample, got object"),
    ],
)
def test_what_a_user_does_wrong_is_named(changes: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        of_line(**changes)


def test_the_range_of_rewards_may_be_the_environments_own() -> None:
    environment = Line()
    environment.reward_range = (-1.0, 2.0)  # type: ignore[attr-defined]
    found = of_line(env=environment, reward_low=None, reward_high=None)
    assert (found.reward_low, found.reward_high) == (-1.0, 2.0)
    mass = collect("m3po/SwitchingPointMass-v0", lambda o: np.zeros(2), episodes=2, discount=0.95)
    assert mass.reward_low < 0 < mass.reward_high
    assert mass.horizon == 100


def test_a_dataset_is_certified_for_a_newer_policy() -> None:
    data, older, newer = played(Gains(0.4), 150), Gains(0.4), Gains(0.5)
    found = from_dataset(data, newer, older, policy_dependence="independent", **KNOWN)
    live = of_line(newer, data_policy=older, episodes=150)
    assert certify(found).lower_bound == pytest.approx(certify(live).lower_bound, abs=0.5)
    assert certify(found).assumed_independent == []
    assert certify(from_dataset(data, newer, older, **KNOWN)).assumed_independent == ["policy"]
    given = [[older.log_prob(o, a) for o, a in zip(each.observations, each.actions, strict=False)] for each in data]
    again = from_dataset(data, newer, given, **KNOWN)
    assert again.log_data_policy is not None
    assert found.log_data_policy is not None
    np.testing.assert_allclose(again.log_data_policy, found.log_data_policy)
    own = from_dataset(data, older, older, **KNOWN)
    assert own.log_policy is None
    shorter = from_dataset(data, newer, older, horizon=2, **KNOWN)
    assert found.rewards is not None
    np.testing.assert_array_equal(shorter.rewards, found.rewards[:, :2])
    with pytest.raises(ValueError, match="the policy was fitted on 150 of these"):
        from_dataset(data, newer, older, policy_dependence=np.ones(150, dtype=bool), **KNOWN)


def of_dataset(**changes: Any) -> Any:
    data = played(Gains(0.4), 2)
    return from_dataset([data[0], replace(data[1], **changes)], Gains(0.5), Gains(0.4), **KNOWN)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"observations": np.zeros((5, 1))}, "episode 1 has 5 rewards and 5 observations, expected 6"),
        ({"actions": np.zeros((4, 1))}, "episode 1 has 5 rewards and 4 actions, expected 5"),
        ({"rewards": np.full(5, np.nan)}, "episode 1 must have one finite reward for each step"),
        ({"terminations": np.array([0, 1, 0, 0, 0], bool)}, "episode 1 goes on after it ended at step 1"),
        ({"terminations": np.full(5, 7.0)}, "returned terminations="),
        ({"observations": np.zeros((4, 1)), "actions": np.zeros((3, 1)), "rewards": np.zeros(3),
          "terminations": np.zeros(3, bool), "truncations": np.zeros(3, bool)},
         "episode 1 was cut off after 3 of 5 steps"),
    ],
)  # fmt: skip
def test_what_is_wrong_in_a_dataset_is_named(changes: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        of_dataset(**changes)


def test_more_that_is_wrong_in_a_dataset_is_named() -> None:
    with pytest.raises(ValueError, match="there are no episodes"):
        from_dataset([], Gains(0.5), Gains(0.4), **KNOWN)
    with pytest.raises(ValueError, match="episode 0 has no observations: it is dict"):
        from_dataset([{"observations": 1}], Gains(0.5), Gains(0.4), **KNOWN)
    with pytest.raises(ValueError, match="log densities of 1 episodes, got 2 episodes"):
        from_dataset(played(Gains(0.4), 2), Gains(0.5), [np.zeros(5)], **KNOWN)
    with pytest.raises(ValueError, match="for each of 5 steps of episode 1"):
        from_dataset(played(Gains(0.4), 2), Gains(0.5), [np.zeros(5), np.zeros(3)], **KNOWN)
    assert Recorded(1, 2, 3, 4, 5).infos == {}
