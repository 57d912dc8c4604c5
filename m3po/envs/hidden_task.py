"""What the MuJoCo meta-environments share: a hidden task that switches, an observed reward, process noise.

``HiddenTask`` is a mixin in front of one of gymnasium's v5 bodies. A subclass names its tasks by integers and says what
a task does to the model or to the reward; everything random comes from the environment's own generator.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self, TypedDict, TypeVar, cast

import gymnasium as gym
import mujoco
import numpy as np
from gymnasium.envs.mujoco import MujocoEnv
from numpy.typing import ArrayLike, NDArray

from m3po.envs.protocol import Array
from m3po.envs.shown_task import as_flag, centred, observation_box, one_hot
from m3po.envs.simulated_dynamics import SimulatedDynamics
from m3po.envs.switching import SwitchingRule

# Ours: five switches in an episode of 1000 steps, on average. The paper's rule is in an appendix we could not get.
DEFAULT_SWITCH_PROBABILITY = 0.005
# Tasks drawn from a continuum are named by the integers below this one (``uniform_draws``).
CONTINUUM = 2**31
# All that the next step depends on; and what gymnasium's ant and humanoid take velocities from, one substep late.
STATE = mujoco.mjtState.mjSTATE_INTEGRATION
LAGGING = ("xpos", "xipos")
# One number, or one for each of N environments.
Values = TypeVar("Values", float, Array)


class BodyOptions(TypedDict, total=False):
    """Options of gymnasium's v5 bodies that every environment here passes on."""

    reset_noise_scale: float
    render_mode: str | None
    width: int
    height: int
    camera_id: int | None
    camera_name: str | None
    default_camera_config: dict[str, Any]
    max_geom: int
    visual_options: dict[int, bool]


class TaskOptions(TypedDict, total=False):
    """Options of every environment here about its hidden task; ``HiddenTask.hide_task`` has the defaults."""

    switch_probability: float | None
    switch_period: int | None
    tasks: Sequence[int] | None
    observe_reward: bool
    observe_task: bool
    process_noise: ArrayLike
    reward_range: tuple[float, float] | None


class EnvironmentOptions(TaskOptions, BodyOptions, total=False):
    """What every environment here takes."""


def split_options(options: EnvironmentOptions) -> tuple[TaskOptions, BodyOptions]:
    """The options about the task, and the rest, which are for gymnasium's body; it refuses those it does not know."""
    of_task = {name: value for name, value in options.items() if name in TaskOptions.__annotations__}
    of_body = {name: value for name, value in options.items() if name not in of_task}
    return cast(TaskOptions, of_task), cast(BodyOptions, of_body)


def uniform_draws(task: int, count: int) -> Array:
    """``count`` independent numbers, uniform in [0, 1), that are a fixed function of the task's name. Shape [count].

    The first numbers of the counter-based generator Philox with the name as its key, 53 bits each: numpy guarantees
    that bit stream, so a name means the same task everywhere.
    """
    return np.asarray((np.random.Philox(key=task).random_raw(count) >> 11) * 2.0**-53)


class HiddenTask(MujocoEnv):
    """A gymnasium v5 body whose hidden task rules its reward or its physics and is redrawn while an episode runs.

    A step runs in this order: the body's step under the present task, which pays the reward; the process noise, which
    moves the state; termination, judged by what is observed; the switch. ``info["task"]`` names the task that rules the
    *next* step, after ``reset`` too; it is for evaluation only.

    Attributes:
        task_count: the tasks are 0 .. task_count - 1.
        default_tasks, train_tasks, test_tasks: what episodes draw from by default, and the sources' splits.
        observed_positions, observed_velocities: the parts of qpos and qvel that make up the observation.
        edited_fields: the fields of the MuJoCo model that a task changes.
        reward_observed: whether ``observe_reward`` is on by default.
        observation_is_state: whether, with process noise, the next observation depends on nothing but task, observation
            and action.
        switching: the rule of the switches.
        tasks: what this environment draws from, uniformly.
        drawn_numbers: how many numbers a task out of a continuum is drawn with; 0 where tasks are finitely many.
        observe_reward: whether the observation goes on with the previous reward (0 after ``reset``).
        observe_task: whether the observation ends with the task that rules the next step (m3po.envs.shown_task).
        process_noise: [O] standard deviations, or None without noise; O does not count a shown task, which has none.
        reward_range: rewards are clipped to it; None leaves them alone.
        task: the present task; -1 before the first ``reset``.
    """

    task_count: ClassVar[int]
    default_tasks: ClassVar[Sequence[int]]
    train_tasks: ClassVar[Sequence[int]]
    test_tasks: ClassVar[Sequence[int]]
    edited_fields: ClassVar[tuple[str, ...]] = ()
    reward_observed: ClassVar[bool] = False
    observed_positions: slice
    observed_velocities: slice = slice(None)
    observation_is_state: bool = False
    drawn_numbers: int = 0
    _given_model: Any = None

    @classmethod
    def side_by_side(cls, count: int, options: Mapping[str, Any]) -> list[Self]:
        """``count`` environments with the same options; they have one MuJoCo model together unless tasks edit it."""
        first = cls(**options)
        found = [first]
        for _ in range(count - 1):
            other = cls.__new__(cls)
            other._given_model = copy.copy(first.model) if cls.edited_fields else first.model
            cls.__init__(other, **options)
            found.append(other)
        return found

    def build_model(self) -> Any:
        """The MuJoCo model, as no task has edited it."""
        return mujoco.MjModel.from_xml_path(self.fullpath)

    def _initialize_simulation(self) -> tuple[Any, Any]:
        model = self.build_model() if self._given_model is None else self._given_model
        model.vis.global_.offwidth = max(model.vis.global_.offwidth, self.width)
        model.vis.global_.offheight = max(model.vis.global_.offheight, self.height)
        return model, mujoco.MjData(model)

    def hide_task(
        self,
        arguments: Mapping[str, Any],
        *,
        switch_probability: float | None = None,
        switch_period: int | None = None,
        tasks: Sequence[int] | None = None,
        observe_reward: bool | None = None,
        observe_task: bool = False,
        process_noise: ArrayLike = 0.0,
        reward_range: tuple[float, float] | None = None,
    ) -> None:
        """To be called once the body is built. ``arguments``: all that the constructor was given, to build a twin.

        Raises:
            ValueError: on a bad switching rule, task, flag, noise or reward range.
        """
        default = DEFAULT_SWITCH_PROBABILITY if switch_period is None else 0.0
        probability = default if switch_probability is None else switch_probability
        self.switching = SwitchingRule(probability=probability, period=switch_period)
        self.tasks: Sequence[int] = self._check_tasks(self.default_tasks if tasks is None else tasks)
        self.observe_reward = self.reward_observed
        if observe_reward is not None:
            self.observe_reward = as_flag("observe_reward", observe_reward)
        self.observe_task = as_flag("observe_task", observe_task)
        state_size = len(self._get_obs())
        size = state_size + self.observe_reward
        self.task_shown: Array = np.zeros(self.observe_task * (self.drawn_numbers or self.task_count))
        self.observation_space = observation_box(size, len(self.task_shown), -1.0 if self.drawn_numbers else 0.0)
        self.process_noise = _check_noise(process_noise, size)
        self.reward_range = _check_range(reward_range)
        self.task = -1  # the model is as built
        self._state_size = state_size
        self._arguments = dict(arguments)
        self._steps = 0
        self._dynamics: SimulatedDynamics | None = None
        self._original = {name: getattr(self.model, name).copy() for name in self.edited_fields}

    # What a subclass says about its tasks

    def task_parameters(self, task: int) -> dict[str, Any]:
        """What a task means, in numbers."""
        raise NotImplementedError

    def task_coordinates(self, task: int) -> Array:
        """How a task is shown, whether or not it is. Shape [C]."""
        if self.drawn_numbers:
            return centred(uniform_draws(task, self.drawn_numbers))
        return one_hot(task, self.task_count)

    def edit_model(self, task: int) -> None:
        """Change ``edited_fields`` of the model, which are as built, to those of ``task``."""

    def task_reward(self, reward: Values, info: dict[str, Any], task: Any) -> Values:
        """The reward of ``task``, given that of gymnasium's body; ``info`` is kept in agreement. [N] or () each."""
        return reward

    def observed(self, positions: Array, velocities: Array) -> Array:
        """What is seen of the state, without reward and task. Shapes [..., nq], [..., nv] -> [..., O]."""
        seen = positions[..., self.observed_positions], velocities[..., self.observed_velocities]
        return np.concatenate(seen, axis=-1)

    def terminated(self, observation: NDArray[np.floating]) -> NDArray[np.bool_]:
        """Which observations end an episode, here none (reward and task may follow the state). [N, O] -> [N]."""
        return np.zeros(len(observation), dtype=bool)

    def forward_velocity(self, observation: Array, next_observation: Array) -> Array:
        """The root's speed over a step, as the mean of its observed speeds before and after. [N, O] twice -> [N]."""
        place = len(self.data.qpos[self.observed_positions])
        return np.asarray(0.5 * (observation[:, place] + next_observation[:, place]))

    # The episode

    def check_task(self, name: str, task: object) -> int:
        """``task`` as a task of this environment.

        Raises:
            ValueError: when it is none, naming it ``name``.
        """
        if isinstance(task, int | np.integer) and not isinstance(task, bool) and 0 <= task < self.task_count:
            return int(task)
        raise ValueError(f"{name} must be a task in 0..{self.task_count - 1}, got {task!r}")

    def _check_tasks(self, tasks: Sequence[int]) -> Sequence[int]:
        if not len(tasks):
            raise ValueError("tasks must name at least one task, got none")
        if isinstance(tasks, range):  # possibly a very long one
            self.check_task("tasks", tasks[0])
            self.check_task("tasks", tasks[-1])
            return tasks
        return tuple(self.check_task("tasks", task) for task in tasks)

    def set_task(self, task: int) -> None:
        """Make ``task`` rule the next step; the state stays as it is."""
        self.restore_model()
        self.edit_model(task)
        self.task = task
        if self.observe_task:
            self.task_shown = self.task_coordinates(task)

    def restore_model(self) -> None:
        """Every field of the model that tasks edit gets the value it was built with."""
        for name, value in self._original.items():
            getattr(self.model, name)[...] = value

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Array, dict[str, Any]]:
        """Start an episode. ``options={"task": j}`` pins its first task; the start does not depend on the task."""
        pinned = (options or {}).get("task")
        first = None if pinned is None else self.check_task("options['task']", pinned)
        gym.Env.reset(self, seed=seed)
        drawn = self.draw_task()  # drawn even if pinned: the rest of the episode is then the same
        self.set_task(drawn if first is None else first)
        self._steps = 0
        observation, info = super().reset()
        info["task"] = self.task
        return self._with_task(self._with_reward(observation, 0.0)), info

    def step(self, action: ArrayLike) -> tuple[Array, float, bool, bool, dict[str, Any]]:  # type: ignore[override]
        if self.process_noise is None:
            observation, reward, terminated, info = self._outcome(action)
            observation = self._with_reward(observation, reward)
        else:
            observation, reward, terminated, info = self._noisy_outcome(action, self.process_noise)
        self._steps += 1
        if self.switching.redraws(np.array([self._steps]), self.np_random)[0]:
            self.set_task(self.draw_task())
        info["task"] = self.task
        return self._with_task(observation), reward, terminated, False, info

    def outcome(self, observation: Array, action: Array, task: int) -> Array:
        """f_task(o, a): the next observation before its noise, by simulating from ``observation``. [O], [A], () -> [O].

        Where the task is shown it is ``task``: the step has no switch.
        Exact, to the bit, where ``observation_is_state`` and there is process noise. Loses the present episode.
        """
        if task != self.task:
            self.set_task(task)
        positions = self.data.qpos[self.observed_positions]
        self.data.qpos[0] = 0.0
        positions[:] = observation[: len(positions)]
        self.data.qvel[self.observed_velocities] = observation[len(positions) : self._state_size]
        self._forget_solver()
        following, reward, *_ = self._outcome(as_executed(action))
        return self._with_task(self._with_reward(following, reward))

    @property
    def dynamics(self) -> SimulatedDynamics | None:
        """The density of the next observation given the true task; None where there is none, or no reward range.

        There is one when the observation is the state, every coordinate of it (an observed reward too) has noise,
        ``reward_range`` bounds the rewards, and the task, which has no noise, is not shown.
        """
        noise, reward_range = self.process_noise, self.reward_range
        if self.observe_task or not self.observation_is_state:
            return None
        if noise is None or not noise.all() or reward_range is None:
            return None
        if self._dynamics is None:
            self._dynamics = SimulatedDynamics(self._twin(), noise, *reward_range)
        return self._dynamics

    def _twin(self) -> HiddenTask:
        return type(self)(**{name: value for name, value in self._arguments.items() if name != "render_mode"})

    def draw_task(self) -> int:
        """One of ``tasks``, from the environment's own generator."""
        return int(self.tasks[int(self.np_random.integers(len(self.tasks)))])

    def _get_obs(self) -> Array:
        return self.observed(self.data.qpos, self.data.qvel)

    def _with_reward(self, observation: Array, reward: float) -> Array:
        if not self.observe_reward:
            return observation
        extended = np.empty(len(observation) + 1)
        extended[:-1] = observation
        extended[-1] = reward
        return extended

    def _with_task(self, observation: Array) -> Array:
        return np.concatenate((observation, self.task_shown)) if self.observe_task else observation

    def _outcome(self, action: ArrayLike) -> tuple[Array, float, bool, dict[str, Any]]:
        """The body's step under the present task: next observation (without reward), reward, terminated, info."""
        observation, paid, terminated, _, info = super().step(np.asarray(action))
        reward = float(self.task_reward(float(paid), info, self.task))
        if self.reward_range is not None:
            reward = min(max(reward, self.reward_range[0]), self.reward_range[1])
        return observation, reward, bool(terminated), info

    def _noisy_outcome(self, action: ArrayLike, noise: Array) -> tuple[Array, float, bool, dict[str, Any]]:
        """As ``_outcome``, from a state that is exactly what was observed, and with noise on all that is observed."""
        data: Any = self.data
        shift = self.take_as_observed() if self.observation_is_state else 0.0
        _, reward, _, info = self._outcome(as_executed(action))
        data.qpos[0] += shift
        if shift:
            info["x_position"] = float(data.qpos[0])
        disturbance = noise * self.np_random.standard_normal(len(noise))
        positions = data.qpos[self.observed_positions]
        positions += disturbance[: len(positions)]
        data.qvel[self.observed_velocities] += disturbance[len(positions) : self._state_size]
        self.settle()
        seen_reward = reward + float(disturbance[-1]) if self.observe_reward else 0.0
        observation = self._with_reward(self._get_obs(), seen_reward)
        return observation, reward, bool(self.terminated(observation[None])[0]), info

    def take_as_observed(self) -> float:
        """Make the state exactly what was observed; returns by how much the root's x was moved."""
        self._forget_solver()
        shift = 0.0
        if self.observed_positions.start == 1:  # the floor is the same everywhere; rounding is not
            shift, self.data.qpos[0] = float(self.data.qpos[0]), 0.0
        return shift

    def settle(self) -> None:
        """After noise on the state: orientations are unit quaternions, and no velocity counts what the noise moved."""
        mujoco.mj_normalizeQuat(self.model, self.data.qpos)
        mujoco.mj_kinematics(self.model, self.data)  # which the humanoid's next velocity is taken from

    def _forget_solver(self) -> None:
        """The contact solver would start from its last solution, which is no part of the observation."""
        self.data.qacc_warmstart[:] = 0.0

    # Copies go on where the original was

    def __getstate__(self) -> dict[str, Any]:
        physics = np.empty(mujoco.mj_stateSize(self.model, STATE))
        mujoco.mj_getState(self.model, self.data, physics, STATE)
        return {
            "arguments": self._arguments,
            "attributes": {name: getattr(self, name) for name in ("spec", "_np_random", "_np_random_seed", "_steps")},
            "task": self.task,
            "physics": physics,
            "kinematics": {name: getattr(self.data, name).copy() for name in LAGGING},
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(type(self)(**state["arguments"]).__dict__)
        self.__dict__.update(state["attributes"])
        if state["task"] >= 0:
            self.set_task(state["task"])
        mujoco.mj_setState(self.model, self.data, state["physics"], STATE)
        mujoco.mj_forward(self.model, self.data)
        for name, value in state["kinematics"].items():
            getattr(self.data, name)[...] = value


def as_executed(action: ArrayLike) -> NDArray[np.float32]:
    """Actions in [-1, 1] as the environment gets them from m3po.episodes.to_environment: float32(a + 1) - 1, clipped.

    Doing it again changes nothing, so an action means the same however it came here.
    """
    shifted = np.asarray(action, dtype=np.float32) + np.float32(1)
    return np.asarray(np.clip(shifted - np.float32(1), np.float32(-1), np.float32(1)))


def _check_noise(process_noise: ArrayLike, size: int) -> Array | None:
    noise = np.asarray(process_noise, dtype=np.float64)
    if noise.shape not in ((), (size,)) or not (np.isfinite(noise) & (noise >= 0)).all():
        raise ValueError(f"process_noise must be one or {size} finite numbers >= 0, got {process_noise!r}")
    return np.broadcast_to(noise, (size,)).copy() if noise.any() else None


def _check_range(reward_range: tuple[float, float] | None) -> tuple[float, float] | None:
    if reward_range is None:
        return None
    low, high = (float(end) for end in reward_range)
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError(f"reward_range must be two finite numbers, low < high, or None, got {reward_range!r}")
    return low, high
