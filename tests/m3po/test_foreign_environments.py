"""Environments that others wrote: whatever would corrupt a training or a guarantee is mended or refused in one line."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.envs.registration import WrapperSpec
from gymnasium.spaces import Box
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.wrappers import (
    ClipReward,
    NormalizeObservation,
    NormalizeReward,
    RecordEpisodeStatistics,
    RescaleAction,
    TimeLimit,
    TransformObservation,
    TransformReward,
)
from gymnasium.wrappers.vector import NormalizeObservation as NormalizeVector

from m3po.agents.m3po import M3PO
from m3po.agents.training import training_of
from m3po.config import Config
from m3po.data.types import Windows
from m3po.envs.body_rules import rule_of_body
from m3po.envs.switching_point_mass import SwitchingPointMass, SwitchingPointMassVector
from m3po.episodes import Trajectories, run_episodes
from m3po.errors import EncodedTrajectories, error_metrics, model_log_density
from m3po.foreign.checked_environment import change_of, task_of, tasks_of, to_environment, to_tensor
from m3po.foreign.environment import make_environment, offers_of
from m3po.networks.policy import HistoryPolicy
from m3po.runs.health import DivergenceError, check_row, unresolved_coordinates
from m3po.runs.run_directory import RunDirectory
from m3po.train import train
from tests.m3po.small import encoder, model, policy_network

NAME = "test/Foreign-v0"
register: Any = gym.register


class Foreign(gym.Env[Any, Any]):
    """Three numbers that drift, two actions; what a test changes is a subclass."""

    observation_space: Any = Box(-np.inf, np.inf, (3,), np.float64)
    action_space: Any = Box(-1.0, 1.0, (2,), np.float32)

    def __init__(self, **_: Any) -> None:
        self.x = np.zeros(3)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.x = self.np_random.normal(size=3)
        return self.x.copy(), {}

    def step(self, action: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        self.x = 0.9 * self.x + 0.1 * self.np_random.normal(size=3)
        self.x[0] += 0.1 * float(np.sum(action))
        return self.x.copy(), -float(self.x[0] ** 2), False, False, {}


@pytest.fixture(autouse=True)
def _clean_registry() -> Iterator[None]:
    yield
    gym.registry.pop(NAME, None)


def registered(entry: Callable[..., Any], steps: int = 20, **more: Any) -> str:
    register(NAME, entry_point=entry, max_episode_steps=steps, disable_env_checker=True, **more)
    return NAME


def tiny(run_dir: Path, **changes: Any) -> Config:
    settings: dict[str, Any] = {
        "env_id": NAME, "total_steps": 60, "initial_random_steps": 30, "epoch_steps": 30, "rollout_interval": 10,
        "model_updates": 5, "measure_episodes": 2, "evaluation_episodes": 2, "width": 8, "context_size": 4,
        "ensemble_size": 2, "updates_per_step": 1, "batch_size": 16, "rollouts_per_step": 2, "model_batch_size": 16,
        "device": "cpu",
    }  # fmt: skip
    return Config(run_dir=run_dir, **{**settings, **changes})


def refusal(run_dir: Path, **changes: Any) -> str:
    """The one line with which a training is refused, before its directory is made."""
    with pytest.raises((ValueError, DivergenceError)) as caught:
        train(tiny(run_dir, **changes))
    assert not run_dir.exists()
    assert "\n" not in str(caught.value)
    return str(caught.value)


class Uniform:
    """Random actions, for run_episodes."""

    history_length, device = 2, torch.device("cpu")

    def __init__(self, size: int = 2) -> None:
        self.size = size

    def act(self, windows: Windows, generator: torch.Generator, *, deterministic: bool = False) -> Any:
        action = 2 * torch.rand(len(windows.lengths), self.size, generator=generator) - 1
        return action, action


def episodes(count: int = 3, size: int = 2) -> Trajectories:
    return run_episodes(NAME, Uniform(size), count, seed=0, generator=torch.Generator().manual_seed(0))


# Observations are copied


class InPlace(Foreign):
    """One array for ever, and one info."""

    observation_space: Any = Box(-np.inf, np.inf, (3,), np.float32)

    def __init__(self, dtype: Any = np.float32, **_: Any) -> None:
        self.seen = np.zeros(3, dtype)
        self.info = {"task": np.zeros((), np.int64)}

    def reset(self, **given: Any) -> Any:
        self.seen[:] = super().reset(**given)[0]
        self.info["task"][...] = 0
        return self.seen, self.info

    def step(self, action: Any) -> Any:
        self.seen[:], *rest, _ = super().step(action)
        self.info["task"][...] += 1
        return self.seen, *rest, self.info


class InPlaceVector(VectorEnv[Any, Any, Any]):
    """The same for N episodes of four steps, with flags that are whole numbers."""

    metadata: Any = {"autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012

    def __init__(self, num_envs: int, **_: Any) -> None:
        self.num_envs = num_envs
        self.single_observation_space, self.single_action_space = InPlace.observation_space, InPlace.action_space
        self.seen, self.task = np.zeros((num_envs, 3), np.float32), np.zeros(num_envs, np.int64)

    def reset(self, **_: Any) -> Any:
        self.seen[:], self.task[:] = 0, 0
        return self.seen, {"task": self.task}

    def step(self, actions: Any) -> Any:
        self.seen += 1
        self.task += 1
        flags = (self.task % 4 == 0).astype(np.int8)
        return self.seen, self.seen[:, 0], flags, 0.0 * flags, {"task": self.task}


@pytest.mark.parametrize(
    ("algorithm", "dtype"), [("m3po", np.float32), ("m3po", np.float64), ("grbal", np.float32), ("pearl", np.float64)]
)
def test_an_environment_that_changes_its_array_in_place_moves(tmp_path: Path, algorithm: str, dtype: Any) -> None:
    registered(lambda **_: InPlace(dtype))
    settings = {"planner_candidates": 4, "planner_horizon": 2, "planner_iterations": 1} if algorithm == "grbal" else {}
    stored = train(tiny(tmp_path / "run", algorithm=algorithm, **settings)).load_checkpoint()["environment_buffer"]
    tokens, first = stored["tokens"], stored["first"]
    follows = (first[1:] == first[:-1]).nonzero()[:, 0]
    assert (tokens[:, -3:] != 0).all(dim=1).float().mean() > 0.9
    torch.testing.assert_close((tokens[:, :3] + tokens[:, -3:])[follows], tokens[follows + 1, :3], rtol=0, atol=1e-6)


def test_tensors_share_no_memory_with_what_they_are_made_of() -> None:
    values = np.zeros(3, np.float32)
    tensor = to_tensor(values, torch.device("cpu"))
    values += 1
    assert (tensor == 0).all()


def test_trajectories_keep_what_was_seen_at_each_step() -> None:
    registered(InPlace)
    found = episodes()
    assert (np.diff(found.observations, axis=1) != 0).all()
    np.testing.assert_array_equal(found.tasks, np.tile(np.arange(20), (3, 1)))
    gym.registry.pop(NAME)
    registered(InPlace, vector_entry_point=InPlaceVector)
    found = episodes()
    np.testing.assert_array_equal(found.observations[:, :5, 0], np.tile(np.arange(5.0), (3, 1)))
    np.testing.assert_array_equal(found.tasks[:, :4], np.tile(np.arange(4), (3, 1)))
    np.testing.assert_array_equal(found.valid.sum(axis=1), 4)


# Wrappers count


def ten(observation: Any) -> Any:
    return 10 * observation


class HalfReward(gym.RewardWrapper[Any, Any]):
    def reward(self, reward: Any) -> Any:
        return 0.5 * float(reward)


WRAPPERS: dict[str, Callable[[Any], Any]] = {
    "TransformObservation": lambda each: TransformObservation(each, ten, each.observation_space),
    "RescaleAction": lambda each: RescaleAction(each, np.float32(-0.5), np.float32(0.5)),
    "TransformReward": lambda each: TransformReward(each, lambda reward: 2 * float(reward)),
    "HalfReward": HalfReward,
}


@pytest.mark.parametrize("name", list(WRAPPERS))
def test_a_density_below_a_wrapper_is_not_used(name: str) -> None:
    registered(lambda **given: RecordEpisodeStatistics(WRAPPERS[name](SwitchingPointMass(**given))))
    offers = offers_of(make_environment(NAME), NAME)
    assert offers.dynamics is None
    assert offers.obstacle == name
    assert offers.planning_reward is None


def test_the_wrapper_may_come_with_the_registration_or_with_the_vector() -> None:
    wrapper = WrapperSpec("ClipReward", "gymnasium.wrappers:ClipReward", {"min_reward": 0.0, "max_reward": 0.5})
    registered(SwitchingPointMass, additional_wrappers=(wrapper,))
    assert offers_of(make_environment(NAME), NAME).obstacle == "ClipReward"
    gym.registry.pop(NAME)

    class OtherVector(SwitchingPointMassVector):
        def __init__(self, num_envs: int, **given: Any) -> None:
            super().__init__(num_envs, **given)
            del self.dynamics

    registered(SwitchingPointMass, vector_entry_point=OtherVector)
    offers = offers_of(make_environment(NAME), NAME)
    assert (offers.dynamics, offers.obstacle) == (None, "OtherVector")
    gym.registry.pop(NAME)

    registered(SwitchingPointMass, vector_entry_point=SwitchingPointMassVector)
    offers = offers_of(make_environment(NAME), NAME)
    assert offers.dynamics is not None
    assert offers.obstacle is None


def test_a_wrapper_that_offers_a_density_of_its_own_is_believed() -> None:
    class Own(TransformObservation[Any, Any, Any]):
        def __init__(self, environment: Any) -> None:
            super().__init__(environment, ten, environment.observation_space)
            self.dynamics = environment.dynamics

    registered(lambda **given: Own(SwitchingPointMass(**given)))
    assert offers_of(make_environment(NAME), NAME).dynamics is not None  # and refuted by the trial: next test


class Scaled(SwitchingPointMass):
    """A subclass, not a wrapper."""

    def _observe(self, reward: Any) -> Any:
        return 10 * super()._observe(reward)


class Reversed(SwitchingPointMass):
    def step(self, action: Any) -> Any:
        return super().step(-np.asarray(action))


class PaysMore(SwitchingPointMass):
    def step(self, action: Any) -> Any:
        observation, reward, *rest = super().step(action)
        return observation, reward + 3.0, *rest


class PaysOther(SwitchingPointMass):
    def step(self, action: Any) -> Any:
        observation, reward, *rest = super().step(action)
        return observation, 0.5 * reward, *rest


class NoTask(SwitchingPointMass):
    def step(self, action: Any) -> Any:
        return *super().step(action)[:4], {"task": "left"}


class CutsOff(SwitchingPointMass):
    def step(self, action: Any) -> Any:
        observation, reward, terminated, _, info = super().step(action)
        return observation, reward, terminated, self._episodes.steps[0] == 7, info


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (Scaled, "not that of its observations"),
        (Reversed, "not that of its observations"),
        (PaysMore, "rewards are in"),
        (PaysOther, "does not pay"),
        (NoTask, "whole number in info"),
        (CutsOff, "cuts an episode off after 7 steps"),
    ],
)
def test_a_density_that_is_not_that_of_what_happens_is_refused(tmp_path: Path, kind: Any, reason: str) -> None:
    registered(kind)
    assert reason in refusal(tmp_path / "run")


# Attributes are checked


class Ends(Foreign):
    def step(self, action: Any) -> Any:
        observation, reward, _, cut, info = super().step(action)
        return observation, reward, bool(observation[0] > 0.5), cut, info


class EndsTelling(Ends):
    def terminated(self, observations: Any) -> Any:
        return observations[:, 0] > 0.5


class Flag(Foreign):
    terminated: Any = False


class Property(Foreign):
    @property
    def terminated(self) -> Any:
        return np.bool_(False)


class Status(Foreign):
    def terminated(self) -> bool:
        return False


class EndsFlag(Ends):
    terminated: Any = True


class Single(Foreign):
    """A rule for one observation."""

    def terminated(self, observation: Any) -> Any:
        return observation[0] > 1e9


class Whole(Foreign):
    def terminated(self, observations: Any) -> Any:
        return (observations[:, 0] > 1e9).astype(int)


class Fails(Foreign):
    def terminated(self, observations: Any) -> Any:
        raise RuntimeError("not today")


class Wrong(Ends):
    def terminated(self, observations: Any) -> Any:
        return observations[:, 0] > 0.8


class TooEarly(Foreign):
    def terminated(self, observations: Any) -> Any:
        return observations[:, 0] > 0.5


class Beyond(Foreign):
    """Ends by a draw that nobody sees."""

    def step(self, action: Any) -> Any:
        *rest, info = super().step(action)
        rest[2] = bool(self.np_random.random() < 0.02)
        return *rest, info


@pytest.mark.parametrize("kind", [Flag, Property, Status, EndsTelling])
def test_something_else_of_the_name_terminated_does_no_harm(tmp_path: Path, kind: Any) -> None:
    registered(kind)
    assert train(tiny(tmp_path / "run")).complete


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (Ends, "has no method terminated"),
        (EndsFlag, "has no method terminated"),
        (Beyond, "has no method terminated"),
        (Wrong, "ended an episode where its method terminated says that it goes on"),
        (TooEarly, "went on an episode where"),
        (Single, "must return"),
        (Whole, "must return"),
        (Fails, "not today"),
    ],
)
def test_an_environment_that_ends_otherwise_than_it_says_is_refused(tmp_path: Path, kind: Any, reason: str) -> None:
    registered(kind)
    assert reason in refusal(tmp_path / "run")


def test_a_rule_below_a_wrapper_that_changes_observations_is_none() -> None:
    registered(lambda **_: TransformObservation(EndsTelling(), ten, EndsTelling.observation_space))
    offers = offers_of(make_environment(NAME), NAME)
    assert (offers.rule, offers.rule_obstacle) == (None, "TransformObservation")
    gym.registry.pop(NAME)
    registered(lambda **_: ClipReward(EndsTelling(), 0.0, 1.0))
    assert offers_of(make_environment(NAME), NAME).rule is not None


@pytest.mark.parametrize("kind", [Ends, Beyond, Wrong])
def test_pearl_needs_no_rule(tmp_path: Path, kind: Any) -> None:
    registered(kind)
    assert train(tiny(tmp_path / "run", algorithm="pearl")).complete


def test_an_end_that_no_trial_met_stops_the_run_and_says_how_it_goes_on(tmp_path: Path) -> None:
    class Late(Ends):
        ends = False

        def step(self, action: Any) -> Any:
            *rest, info = super().step(action)
            rest[2] = rest[2] and Late.ends
            return *rest, info

    registered(Late)
    train(tiny(tmp_path / "run", total_steps=30))
    (tmp_path / "run" / "COMPLETE").unlink()
    Late.ends = True
    training = training_of(tiny(tmp_path / "run"))

    def collect() -> None:
        for _ in range(60):
            training.group.collect_step(random=True)

    with pytest.raises(ValueError, match=r"ended an episode but has no method terminated.* --resume continues it"):
        collect()


@pytest.mark.parametrize("task", ["reach", None, 1.0, np.zeros(2), True, [1, [2]], {"goal": 1}])
def test_a_task_that_is_no_whole_number_is_not_told(tmp_path: Path, task: Any) -> None:
    class Tasked(Foreign):
        def step(self, action: Any) -> Any:
            return *super().step(action)[:4], {"task": task}

    registered(Tasked)
    assert (episodes().tasks == -1).all()
    assert task_of({"task": task}) == -1


def test_tasks_of_many() -> None:
    assert task_of({"task": np.int32(3)}) == 3
    assert task_of({}) == -1
    np.testing.assert_array_equal(tasks_of({"task": np.array([1, 2]), "_task": np.array([True, False])}, 2), [1, -1])
    np.testing.assert_array_equal(tasks_of({"task": np.array([1.0, 2.0])}, 2), [-1, -1])
    np.testing.assert_array_equal(tasks_of({"task": "ab"}, 3), [-1, -1, -1])


class Ranged(Foreign):
    def __init__(self, reward_range: Any = None, **_: Any) -> None:
        super().__init__()
        self.reward_range = reward_range


@pytest.mark.parametrize("value", [None, "wide", (1.0,), (2.0, 1.0), np.array([0.0, 1.0, 2.0]), (np.nan, 1.0), 3])
def test_a_reward_range_that_is_none_counts_as_no_range(value: Any) -> None:
    registered(Ranged)
    offers = offers_of(make_environment(NAME, reward_range=value), NAME)
    assert offers.reward_range == (-np.inf, np.inf)
    assert offers_of(make_environment(NAME, reward_range=[-1, 2]), NAME).reward_range == (-1.0, 2.0)


@pytest.mark.parametrize("value", ["text", lambda action: action, 3])
def test_dynamics_of_another_kind_are_no_density(value: Any) -> None:
    class Odd(Foreign):
        def __init__(self, **_: Any) -> None:
            self.dynamics = value

    registered(Odd)
    assert offers_of(make_environment(NAME), NAME).dynamics is None


# Answers of the wrong kind


class Answers(Foreign):
    def __init__(self, change: Callable[[list[Any]], Any], **_: Any) -> None:
        super().__init__()
        self.change = change

    def step(self, action: Any) -> Any:
        return self.change(list(super().step(action)))


def replaced(place: int, value: Any) -> Callable[[list[Any]], Any]:
    return lambda answer: (*answer[:place], value, *answer[place + 1 :])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (replaced(0, np.zeros(4)), "shape"),
        (replaced(0, np.zeros((3, 1))), "shape"),
        (replaced(0, None), "observation"),
        (replaced(0, "abc"), "observation"),
        (replaced(0, np.array([1.0, np.nan, 0.0])), "nan"),
        (replaced(0, np.array([1e39, 0.0, 0.0])), "1.e+39"),
        (replaced(1, None), "reward"),
        (replaced(1, np.zeros(2)), "reward"),
        (replaced(1, float("inf")), "reward inf"),
        (replaced(1, -1e39), "reward -1e+39"),
        (replaced(2, "no"), "terminated"),
        (replaced(2, None), "terminated"),
        (replaced(3, 2), "truncated"),
        (lambda answer: tuple(answer[:4]), "expected 5, got 4"),
    ],
)
def test_an_answer_of_the_wrong_kind_is_refused(tmp_path: Path, change: Any, reason: str) -> None:
    registered(lambda **_: Answers(change))
    message = refusal(tmp_path / "run")
    assert NAME in message
    assert reason in message
    with pytest.raises((ValueError, DivergenceError)):
        episodes()


@pytest.mark.parametrize("change", [replaced(2, 0), replaced(2, np.float64(0)), replaced(1, np.ones(1, np.float32))])
def test_flags_and_rewards_of_other_types_are_read(tmp_path: Path, change: Any) -> None:
    registered(lambda **_: Answers(change))
    assert train(tiny(tmp_path / "run")).complete


@pytest.mark.parametrize("part", ["measure", "evaluation", "reset"])
def test_numbers_are_finite_in_held_out_and_evaluation_episodes_too(
    tmp_path: Path, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Bad(Foreign):
        bad = ""

        def reset(self, **given: Any) -> Any:
            observation, info = super().reset(**given)
            return observation * (np.nan if Bad.bad == "reset" else 1.0), info

        def step(self, action: Any) -> Any:
            observation, reward, *rest = super().step(action)
            return observation, float("nan") if Bad.bad == "step" else reward, *rest

    registered(Bad)
    training = M3PO(tiny(tmp_path / "run"))
    Bad.bad = "reset" if part == "reset" else "step"
    if part == "evaluation":  # the held-out episodes are sound
        errors = training.errors

        def and_then_bad(*given: Any) -> dict[str, Any]:
            Bad.bad = "step"
            return errors(*given)

        Bad.bad = ""
        monkeypatch.setattr(training, "errors", and_then_bad)
    where = "from reset" if part == "reset" else "and reward nan at step 1 of episode 1"
    with pytest.raises(DivergenceError, match=f"Foreign-v0 returned .*{where}"):
        training.measure()


def test_a_row_of_metrics_is_finite_and_strict_json(tmp_path: Path) -> None:
    with pytest.raises(DivergenceError, match="nll is inf at real step 7"):
        check_row({"step": 7, "nll": float("inf")})
    with pytest.raises(DivergenceError, match="profile is nan"):
        check_row({"step": 7, "profile": [0.0, float("nan")]})
    registered(Foreign)
    run = RunDirectory.create(tiny(tmp_path / "run"))
    with pytest.raises(ValueError, match="JSON"):
        run.append_metrics({"step": 0, "nll": float("nan")})
    run.append_metrics({"step": 0, "nll": 1.0})
    run.release()
    assert [json.loads(line)["nll"] for line in (run.path / "metrics.jsonl").read_text().splitlines()] == [1.0]


# Actions


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int64, np.bool_])
def test_whole_number_actions_are_refused(dtype: Any) -> None:
    registered(lambda **_: with_actions(Box(0, 1, (2,), dtype)))
    with pytest.raises(ValueError, match="not continuous"):
        make_environment(NAME)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_bounds_of_the_type_are_none(dtype: Any) -> None:
    most = float(np.finfo(dtype).max)
    registered(lambda **_: with_actions(Box(-most, most, (2,), dtype)))
    with pytest.raises(ValueError, match="without finite bounds"):
        make_environment(NAME)


def with_actions(space: Box) -> Foreign:
    built = Foreign()
    built.action_space = space
    return built


BOXES = [
    Box(-1.0, 1.0, (2,), np.float32),
    Box(-0.4, 0.4, (2,), np.float32),
    Box(-0.1, 0.1, (2,), np.float64),  # float32(0.1) > 0.1
    Box(np.array([-1e8, 0.3]), np.array([1e8, 0.7]), dtype=np.float64),
    Box(1 / 3, 2 / 3, (2,), np.float16),
    Box(np.array([16777217.0, 5.0]), np.array([16777219.0, 5.0]), dtype=np.float64),
]


@pytest.mark.parametrize("box", BOXES)
def test_actions_are_always_in_the_box_and_reach_its_ends(box: Box) -> None:
    generator = torch.Generator().manual_seed(0)
    actions = 2 * torch.rand(2000, 2, generator=generator) - 1
    actions[0], actions[1] = -1.0, 1.0
    sent = to_environment(actions, box)
    assert sent.dtype == box.dtype
    assert all(box.contains(each) for each in sent)
    np.testing.assert_array_equal(sent[0], box.low)
    np.testing.assert_array_equal(sent[1], box.high)
    exact = box.low + (actions.double().numpy() + 1) / 2 * (box.high.astype(float) - box.low)
    width = box.high.astype(float) - box.low
    spacing = np.spacing(np.maximum(np.abs(box.low), np.abs(box.high)))
    assert (np.abs(sent - exact) <= 1e-7 * width + spacing).all()


@pytest.mark.parametrize("scale", [0.5, 1.0, 2.0])
def test_unit_boxes_get_the_same_bits_as_ever(scale: float) -> None:
    actions = 2 * torch.rand(5000, 2, generator=torch.Generator().manual_seed(1)) - 1
    low, high = np.float32(-scale), np.float32(scale)
    before = np.clip(low + np.float32(0.5) * (actions.numpy() + np.float32(1)) * (high - low), low, high)
    np.testing.assert_array_equal(to_environment(actions, Box(-scale, scale, (2,), np.float32)), before)


# Vector environments


class Clock(Foreign):
    """Shows the time; lasts as many steps as were drawn."""

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        gym.Env.reset(self, seed=seed)
        self.time, self.length = 0, int(self.np_random.integers(2, 9))
        return np.array([0.0, self.length, 0.0]), {}

    def step(self, action: Any) -> Any:
        self.time += 1
        return np.array([self.time, self.length, 0.0]), 1.0, self.time == self.length, False, {}

    def terminated(self, observations: Any) -> Any:
        return observations[:, 0] == observations[:, 1]


def clocks(mode: Any, change: Callable[[Any], Any] = lambda vector: vector) -> Callable[..., Any]:
    def make(num_envs: int, max_episode_steps: int, **_: Any) -> Any:
        return change(
            SyncVectorEnv([lambda: TimeLimit(Clock(), max_episode_steps)] * num_envs, autoreset_mode=mode, copy=False)
        )

    return make


def without_final(vector: Any) -> Any:
    step = vector.step

    def forgetful(actions: Any) -> Any:
        *answer, info = step(actions)
        return *answer, {name: value for name, value in info.items() if "final" not in name}

    vector.step = forgetful
    return vector


@pytest.mark.parametrize("mode", [*AutoresetMode, None])
def test_every_mode_of_starting_anew_gives_the_whole_of_uneven_episodes(mode: AutoresetMode | None) -> None:
    if mode is None:
        registered(Clock, 6)
    else:
        registered(Clock, 6, vector_entry_point=clocks(mode))
    found = episodes(20)
    lengths = np.minimum(found.observations[:, 0, 1], 6)
    assert len(set(lengths)) == 5
    np.testing.assert_array_equal(found.valid.sum(axis=1), lengths)
    expected = np.where(np.arange(7) <= lengths[:, None], np.arange(7), 0)
    np.testing.assert_array_equal(found.observations[:, :, 0], expected)


def test_a_vector_without_last_observations_is_refused() -> None:
    registered(Clock, 6, vector_entry_point=clocks(AutoresetMode.SAME_STEP, without_final))
    with pytest.raises(ValueError, match="no last observation in info"):
        episodes(20)


def test_a_vector_of_another_kind_than_the_single_environment_is_not_used_or_refused() -> None:
    def other(num_envs: int, **_: Any) -> Any:
        vector: Any = InPlaceVector(num_envs)
        vector.single_action_space = Box(-2.0, 2.0, (2,), np.float32)
        return vector

    registered(InPlace, vector_entry_point=other)
    with pytest.raises(ValueError, match="vector implementation with the space"):
        episodes()
    gym.registry.pop(NAME)
    registered(
        lambda **_: TransformObservation(InPlace(), ten, InPlace.observation_space), vector_entry_point=InPlaceVector
    )
    assert not np.array_equal(episodes().observations[:, :5, 0], np.tile(np.arange(5.0), (3, 1)))


# Far from 0


class Far(Foreign):
    """UTM metres, and the time of day of a clock that counts from 1970."""

    def reset(self, **given: Any) -> Any:
        observation, info = super().reset(**given)
        self.time = 1.7e9
        return self._far(observation), info

    def step(self, action: Any) -> Any:
        observation, *rest = super().step(action)
        self.time += 0.02
        return self._far(observation), *rest

    def _far(self, observation: Any) -> Any:
        return np.array([5.4e6 + observation[0], observation[1], self.time])


@pytest.mark.parametrize("algorithm", ["m3po", "pearl"])
def test_changes_are_kept_however_far_from_0(tmp_path: Path, algorithm: str) -> None:
    registered(Far)
    run = train(tiny(tmp_path / "run", algorithm=algorithm))
    changes = run.load_checkpoint()["environment_buffer"]["tokens"][:, -3:]
    np.testing.assert_allclose(changes[:, 2], 0.02, rtol=1e-4)
    ratio = changes[:, 0].std() / changes[:, 1].std()
    assert 0.5 < ratio < 2
    assert len(np.unique(changes[:, 0].numpy())) > 50
    warnings = run.metrics()[-1]["warnings"]
    assert any("coordinate 0 is around 5.4e+06" in each for each in warnings)
    assert any("coordinate 2 is around 1.7e+09" in each for each in warnings)
    assert not any("coordinate 1" in each for each in warnings)


def test_held_out_trajectories_keep_their_changes_too() -> None:
    registered(Far)
    found = episodes()
    data = EncodedTrajectories.of(found, 2, torch.device("cpu"))
    true = np.diff(found.observations, axis=1).reshape(-1, 3)
    np.testing.assert_allclose(data.changes.numpy(), true, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(data.windows.tokens[1, -1, -3:].numpy(), data.changes[0].numpy())
    built = model(encoder(2))
    features = torch.randn(len(true), built.encoder.feature_size, generator=torch.Generator().manual_seed(0))
    arguments = (features, data.windows.observation, data.actions, data.next_observations)
    exact = built.observation_log_density(*arguments, data.changes)
    assert not torch.equal(exact, built.observation_log_density(*arguments))
    data._features[built.encoder] = features
    np.testing.assert_allclose(model_log_density(built, data).reshape(-1), exact.detach().numpy(), rtol=1e-6)
    shifted = data.windows.observation * 0
    near = built.observation_log_density(features, shifted, data.actions, shifted + data.changes)
    torch.testing.assert_close(exact, near)


def test_near_0_a_change_is_the_difference_of_what_is_seen() -> None:
    generator = np.random.default_rng(0)
    before, after = generator.normal(size=(2, 500, 3)) * 100
    expected = after.astype(np.float32) - before.astype(np.float32)
    np.testing.assert_array_equal(change_of(before, after), expected)
    far = change_of(before + 1e6, after + 1e6)
    np.testing.assert_allclose(far, after - before, rtol=1e-6, atol=1e-8)


def test_coordinates_that_float32_cannot_resolve_are_named() -> None:
    observations = torch.tensor([[1000.0, 0.5, 1e6], [1000.0, 0.6, 1e6]])
    changes = torch.tensor([[1e-5, 0.1, 0.0], [1e-5, -0.1, 0.0]])
    (warning,) = unresolved_coordinates(observations, changes)
    assert "coordinate 0" in warning


# Nearly constant


def test_a_coordinate_that_jitters_and_then_switches_is_named(tmp_path: Path) -> None:
    torch.manual_seed(0)
    built = model(encoder(2))
    generator = np.random.default_rng(0)
    targets = generator.normal(size=(500, 4)) * [0.1, 0.1, 2e-6, 1.0]
    built.target_normaliser.fit(torch.tensor(targets, dtype=torch.float32))
    steps = np.cumsum(generator.normal(size=(3, 21, 3)) * [0.1, 0.1, 2e-6], axis=1)
    policy = HistoryPolicy(built.encoder, policy_network(built.encoder))

    def row(observations: Any) -> dict[str, Any]:
        count, length = 3, 20
        zeros = np.zeros((count, length, 2), np.float32)
        found = Trajectories(
            observations, zeros, zeros, np.zeros((count, length)), np.zeros((count, length), np.int64),
            np.ones((count, length), bool),
        )  # fmt: skip
        return error_metrics(
            built, policy, None, found, None, confidence=0.9, generator=torch.Generator().manual_seed(0)
        )

    assert "warnings" not in row(steps)
    switched = steps.copy()
    switched[:, 10:, 2] += 1.0
    (warning,) = row(switched)["warnings"]
    assert "coordinate 2 changed by 1" in warning
    switched[:, 10:, 2] += 1e20  # its square is beyond float32
    assert np.isfinite(row(switched)["nll"])


# Wrappers with a memory


@pytest.mark.parametrize("wrapper", [NormalizeObservation, NormalizeReward])
def test_running_statistics_are_refused(wrapper: Any, tmp_path: Path) -> None:
    registered(lambda **_: TimeLimit(wrapper(Foreign()), 20))
    assert wrapper.__name__ in refusal(tmp_path / "run")


def test_running_statistics_of_ones_own_wrapper_and_of_a_vector_are_refused() -> None:
    class RunningMeanStd:
        pass

    class Mine(gym.Wrapper[Any, Any, Any, Any]):
        def __init__(self, environment: Any) -> None:
            super().__init__(environment)
            self.statistics = RunningMeanStd()

    registered(lambda **_: Mine(Foreign()))
    with pytest.raises(ValueError, match=r"Mine.*statistics"):
        make_environment(NAME)
    gym.registry.pop(NAME)
    registered(Clock, vector_entry_point=clocks(AutoresetMode.NEXT_STEP, NormalizeVector))
    with pytest.raises(ValueError, match="running statistics"):
        episodes()


def test_a_memory_from_episode_to_episode_is_warned_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Drifts(Foreign):
        def __init__(self, **_: Any) -> None:
            super().__init__()
            self.count = 0

        def reset(self, **given: Any) -> Any:
            observation, info = super().reset(**given)
            self.count += 1
            return observation / self.count, info

    registered(Drifts)
    train(tiny(tmp_path / "run"))
    assert "keeps something from episode to episode" in capsys.readouterr().err
    gym.registry.pop(NAME)
    registered(Foreign)
    train(tiny(tmp_path / "other"))
    assert "keeps something" not in capsys.readouterr().err


# Checkpoints of another kind of device


def test_a_checkpoint_of_a_gpu_is_read_and_continued_on_a_cpu(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    registered(Foreign)
    run = train(tiny(tmp_path / "run"))
    state = run.load_checkpoint()
    state["generators"][0] = torch.zeros(16, dtype=torch.uint8)
    state["steps"], state["measured_at"] = 60, 60
    reading = M3PO(run.config.on_cpu())
    reading.load_state(state)
    assert reading.new_generator
    again = M3PO(run.config.on_cpu())
    again.load_state(state)
    assert torch.equal(reading.generator.get_state(), again.generator.get_state())
    run.save_checkpoint(state)
    (run.path / "COMPLETE").unlink()
    resumed = train(tiny(tmp_path / "run", resume=True))
    assert "device of another kind" in capsys.readouterr().err
    assert resumed.provenance()[-1]["new_generator_at_step"] == 60
    assert tiny(tmp_path, cuda_graphs=True).on_cpu().cuda_graphs is False


# gymnasium's own bodies

RULED = [
    ("Hopper-v5", {}),
    ("Hopper-v5", {"healthy_state_range": (-2.0, 2.0), "exclude_current_positions_from_observation": False}),
    ("Walker2d-v5", {"exclude_current_positions_from_observation": False}),
    ("Ant-v5", {"healthy_z_range": (0.5, 0.8), "exclude_current_positions_from_observation": False}),
    ("Ant-v5", {"healthy_z_range": (0.5, 0.8)}),
    ("Humanoid-v5", {}),
    ("Humanoid-v5", {"terminate_when_unhealthy": False}),
    ("InvertedPendulum-v5", {}),
    ("InvertedDoublePendulum-v5", {}),
    ("MountainCarContinuous-v0", {}),
    ("Hopper-v4", {}),
    ("Walker2d-v4", {}),
    ("Ant-v4", {"healthy_z_range": (0.5, 0.8)}),
    ("InvertedPendulum-v4", {}),
]


@pytest.mark.parametrize(("env_id", "options"), RULED)
def test_the_rules_say_when_gymnasiums_bodies_end(env_id: str, options: dict[str, Any]) -> None:
    steps = 600 if env_id.startswith(("Humanoid", "Ant")) else 2000
    environment = make_environment(env_id, **options)
    rule = rule_of_body(environment.unwrapped)
    assert rule is not None
    environment.action_space.seed(0)
    seen, ended = [], []
    environment.reset(seed=0)
    action = environment.action_space.sample()
    for step in range(steps):
        if env_id.startswith("MountainCar"):
            velocity = cast(Any, environment.unwrapped).state[1]
            action = np.array([1.0 if velocity >= 0 else -1.0], np.float32)
        elif step % 10 == 0:
            action = environment.action_space.sample()
        observation, _, terminated, truncated, _ = environment.step(action)
        seen.append(observation)
        ended.append(bool(terminated))
        if terminated or truncated:
            environment.reset()
    wrong = rule.ends(np.array(seen)) != np.array(ended)
    assert any(ended) != (options.get("terminate_when_unhealthy") is False)
    assert wrong.sum() <= (0 if rule.exact else 0.01 * sum(ended))


def test_subclasses_of_bodies_and_bodies_that_never_end_have_no_rule() -> None:
    for env_id in ("HalfCheetah-v5", "Swimmer-v5", "Reacher-v5", "Pusher-v5", "Pendulum-v1"):
        environment = make_environment(env_id)
        assert rule_of_body(environment.unwrapped) is None
    body = type(make_environment("Hopper-v5").unwrapped)
    assert rule_of_body(type("Mine", (body,), {})()) is None


SMALL_BODIES = ["Pendulum-v1", "InvertedPendulum-v5"]
BODIES = [
    "Hopper-v5", "Walker2d-v5", "Ant-v5", "Humanoid-v5", "HalfCheetah-v5", "Swimmer-v5", "Reacher-v5", "Pusher-v5",
    "InvertedDoublePendulum-v5", "MountainCarContinuous-v0",
]  # fmt: skip


@pytest.mark.parametrize("env_id", [*SMALL_BODIES, *(pytest.param(each, marks=pytest.mark.slow) for each in BODIES)])
def test_gymnasiums_bodies_train_out_of_the_box(tmp_path: Path, env_id: str) -> None:
    config = tiny(tmp_path / "run", env_id=env_id, total_steps=300, initial_random_steps=200, epoch_steps=100)
    rows = train(config).metrics()
    assert rows[-1]["step"] == 300
    assert np.isfinite([rows[-1]["return"], rows[-1]["nll"]]).all()
