"""A point robot whose push is turned by a hidden task that switches mid-episode. Certifiable: its noise is known.

This environment is this project's own. The robot is pushed towards the origin against a spring, drag and a wind; the
hidden task rotates and scales the push and sets the wind. The default tasks differ only in the *sign* of the push, so
an agent without memory cannot know which way a push goes, while the reaction to its last few pushes gives it away.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space
from numpy.typing import ArrayLike, NDArray
from scipy.special import logsumexp, softmax

from m3po.envs.protocol import Array, Tasks
from m3po.envs.shown_task import as_flag, observation_box, one_hot
from m3po.envs.switching import SwitchingRule
from m3po.envs.vector_options import autoreset_mode_of, episodes_to_reset, has_ended, whole_number

STATE_SIZE = 4
ACTION_SIZE = 2
START_RADIUS = 1.0
REWARD_WIDTH = 0.4
ACTION_COST = 0.05

PICTURE_SIZE = 240
PICTURE_EXTENT = 2.0
ROBOT_RADIUS = 0.12
TASK_COLOURS = ((0, 114, 178), (213, 94, 0), (0, 158, 115), (204, 121, 167))


@dataclass(frozen=True)
class PointMassTask:
    """One hidden task.

    Attributes:
        angle: rotation of the push, radians.
        gain: acceleration per unit of action.
        wind: constant acceleration (x, y).

    Raises:
        ValueError: when a number is not finite.
    """

    angle: float
    gain: float
    wind: tuple[float, float]

    def __post_init__(self) -> None:
        if not np.isfinite([self.angle, self.gain, *self.wind]).all():
            raise ValueError(f"every number of a task must be finite, got {self}")


DEFAULT_PROCESS_NOISE = 0.05
DEFAULT_SWITCH_PROBABILITY = 0.04

# A full push moves the velocity by 2.5 standard deviations of its noise: a few steps settle the task, and a model that
# does not know it yet is wrong by a bounded amount (docs/environments/switching_point_mass.md has what was tried).
DEFAULT_TASKS = (
    PointMassTask(angle=0.0, gain=1.25, wind=(0.4, 0.0)),
    PointMassTask(angle=math.pi, gain=1.25, wind=(0.4, 0.0)),
)


class PointMassDynamics:
    """o_{t+1} = A o_t + B_task a_t + c_task + process_noise * xi_t, with xi_t standard normal on all four coordinates.

    The observation is (position x, y, velocity x, y). With time step dt = 0.1, drag 1 and spring 0.5: position moves by
    dt * velocity and velocity by dt * (gain * Rotation(angle) action + wind - drag * velocity - spring * position).
    All methods are batched: leading dimensions [...] are shared by their arguments.

    Args:
        tasks: the finite task distribution, uniform.
        process_noise: standard deviation of the noise per coordinate and step, > 0.
        switching: when the task is redrawn; the filter of ``history_log_density`` knows it.
        first_task: the task every episode starts with; None draws it uniformly.

    Attributes:
        reward_low, reward_high: range of the reward, [-0.1, 1].
    """

    reward_low = -ACTION_COST * ACTION_SIZE
    reward_high = 1.0
    time_step = 0.1
    drag = 1.0
    spring = 0.5

    def __init__(
        self,
        tasks: Sequence[PointMassTask],
        process_noise: ArrayLike,
        switching: SwitchingRule,
        first_task: int | None = None,
    ) -> None:
        if not tasks:
            raise ValueError("tasks must name at least one task, got none")
        noise = np.asarray(process_noise, dtype=np.float64)
        if noise.shape not in ((), (STATE_SIZE,)) or not (np.isfinite(noise) & (noise > 0)).all():
            raise ValueError(f"process_noise must be one or {STATE_SIZE} finite numbers > 0, got {process_noise!r}")
        self.tasks = tuple(tasks)
        self.process_noise: Array = np.broadcast_to(noise, (STATE_SIZE,)).copy()
        self.switching = switching
        self.first_task = None if first_task is None else self.check_task("first_task", first_task)
        dt, identity = self.time_step, np.eye(2)
        self.state_matrix: Array = np.block(
            [[identity, dt * identity], [-self.spring * dt * identity, (1 - self.drag * dt) * identity]]
        )
        self.push_matrices: Array = np.zeros((len(tasks), STATE_SIZE, ACTION_SIZE))
        self.drifts: Array = np.zeros((len(tasks), STATE_SIZE))
        for index, task in enumerate(tasks):
            cosine, sine = math.cos(task.angle), math.sin(task.angle)
            self.push_matrices[index, 2:] = dt * task.gain * np.array([[cosine, -sine], [sine, cosine]])
            self.drifts[index, 2:] = dt * np.asarray(task.wind)

    def check_task(self, name: str, task: object) -> int:
        """``task`` as a task index.

        Raises:
            ValueError: when it is none, naming it ``name``.
        """
        if isinstance(task, int | np.integer) and not isinstance(task, bool) and 0 <= task < len(self.tasks):
            return int(task)
        raise ValueError(f"{name} must be a task index in 0..{len(self.tasks) - 1}, got {task!r}")

    def mean(self, observation: Array, action: Array, task: Tasks) -> Array:
        """E[o_{t+1} | task_t, o_t, a_t] = A o + B_task a + c_task. Shapes [..., 4], [..., 2], [...] -> [..., 4]."""
        push = np.einsum("...ij,...j->...i", self.push_matrices[task], action)
        return np.asarray(observation @ self.state_matrix.T + push + self.drifts[task])

    def sample(self, observation: Array, action: Array, task: Tasks, generator: np.random.Generator) -> Array:
        """Draw o_{t+1}. Shapes [..., 4], [..., 2], [...] -> [..., 4]."""
        noise = generator.standard_normal(observation.shape)
        return self.mean(observation, action, task) + self.process_noise * noise

    def log_density(self, next_observation: Array, observation: Array, action: Array, task: Tasks) -> Array:
        """log p(o_{t+1} | task_t, o_t, a_t), in nats. Shapes [..., 4], [..., 4], [..., 2], [...] -> [...]."""
        residual = (next_observation - self.mean(observation, action, task)) / self.process_noise
        log_normaliser = np.sum(np.log(self.process_noise)) + 0.5 * STATE_SIZE * math.log(2 * math.pi)
        return np.asarray(-0.5 * np.sum(residual**2, axis=-1) - log_normaliser)

    def reward(self, observation: Array, action: Array) -> Array:
        """exp(-|position|^2 / (2 * 0.4^2)) - 0.05 |action|^2, the same in every task. [..., 4], [..., 2] -> [...]."""
        distance_squared = np.sum(observation[..., :2] ** 2, axis=-1)
        effort = np.sum(action**2, axis=-1)
        return np.asarray(np.exp(-distance_squared / (2 * REWARD_WIDTH**2)) - ACTION_COST * effort)

    def redraw_probability(self, step: int) -> float:
        """Chance that the task is redrawn after step number ``step`` (1, 2, ...) of an episode."""
        if self.switching.period is not None:
            return float(step % self.switching.period == 0)
        return self.switching.probability

    def update_belief(self, belief: Array, log_likelihoods: Array, step: int) -> Array:
        """Bayes' rule, then the chance q of a switch: b'_j = (1-q) b_j p_j / sum(b p) + q / K. [..., K] -> [..., K].

        Args:
            belief: P(task_t | h_t).
            log_likelihoods: log p(o_{t+1} | task, o_t, a_t) for every task.
            step: t + 1, the number of steps of the episode taken once o_{t+1} is seen.
        """
        with np.errstate(divide="ignore"):
            posterior = softmax(np.log(belief) + log_likelihoods, axis=-1)
        redraw = self.redraw_probability(step)
        return np.asarray((1 - redraw) * posterior + redraw / len(self.tasks))

    def history_log_density(self, observations: Array, actions: Array, window: int | None = None) -> Array:
        """log sum_j P(task_t = j | h_t) p(o_{t+1} | j, o_t, a_t). Shapes [N, T+1, 4], [N, T, 2] -> [N, T].

        With ``window`` L the belief at t restarts from P(task) at step max(t - L, 0), before anything is seen.

        Raises:
            ValueError: when ``window`` is negative.
        """
        if window is not None and window < 0:
            raise ValueError(f"window must be >= 0, got {window}")
        episodes, horizon = actions.shape[:2]
        count = len(self.tasks)
        log_likelihoods = np.stack(
            [
                self.log_density(observations[:, 1:], observations[:, :-1], actions, np.full((episodes, horizon), task))
                for task in range(count)
            ],
            axis=-1,
        )
        result = np.empty((episodes, horizon))
        belief = np.tile(self.prior(0), (episodes, 1))
        for t in range(horizon):
            if window is not None:
                start = max(t - window, 0)
                belief = np.tile(self.prior(start), (episodes, 1))
                for s in range(start, t):
                    belief = self.update_belief(belief, log_likelihoods[:, s], s + 1)
            result[:, t] = logsumexp(log_likelihoods[:, t], axis=-1, b=belief)
            if window is None:
                belief = self.update_belief(belief, log_likelihoods[:, t], t + 1)
        return result

    def prior(self, step: int) -> Array:
        """P(task_step) before anything is seen. Shape [K]."""
        kept = math.prod(1 - self.redraw_probability(s) for s in range(1, step + 1))
        uniform = np.full(len(self.tasks), 1.0 / len(self.tasks))
        if self.first_task is None:
            return uniform
        return (1 - kept) * uniform + kept * np.eye(len(self.tasks))[self.first_task]

    def initial_observation(self, episodes: int, generator: np.random.Generator) -> Array:
        """At rest, uniformly on the circle of radius 1 around the origin. Shape [episodes, 4]."""
        angle = generator.uniform(0.0, 2 * math.pi, episodes)
        still = np.zeros(episodes)
        return START_RADIUS * np.stack([np.cos(angle), np.sin(angle), still, still], axis=-1)


def _switching_rule(probability: float | None, period: int | None) -> SwitchingRule:
    """The default probability gives way to a period when only that is asked for."""
    if probability is None:
        probability = DEFAULT_SWITCH_PROBABILITY if period is None else 0.0
    return SwitchingRule(probability=probability, period=period)


def _observation_space(observe_reward: bool, tasks_shown: int) -> gym.Space[Array]:
    space: Any = observation_box(STATE_SIZE + observe_reward, tasks_shown)
    return cast(gym.Space[Array], space)


def _action_space() -> gym.Space[NDArray[np.float32]]:
    space: Any = gym.spaces.Box(-1.0, 1.0, (ACTION_SIZE,), np.float32)
    return cast(gym.Space[NDArray[np.float32]], space)


class _Episodes:
    """The state of N episodes that run side by side; both environment classes below are thin shells around it."""

    def __init__(self, dynamics: PointMassDynamics, count: int, observe_reward: bool, observe_task: bool) -> None:
        self.dynamics = dynamics
        self.observe_reward = as_flag("observe_reward", observe_reward)
        self.observe_task = as_flag("observe_task", observe_task)
        self.observation_space = _observation_space(self.observe_reward, self.observe_task * len(dynamics.tasks))
        self.certifiable: Any = None if self.observe_reward or self.observe_task else dynamics
        self.state: Array = np.zeros((count, STATE_SIZE))
        self.task: Tasks = np.zeros(count, dtype=np.int64)
        self.steps: NDArray[np.int64] = np.zeros(count, dtype=np.int64)

    def reset(self, which: NDArray[np.bool_], generator: np.random.Generator, options: dict[str, Any] | None) -> None:
        count = int(which.sum())
        pinned = (options or {}).get("task")
        first = self.dynamics.first_task if pinned is None else self.dynamics.check_task("options['task']", pinned)
        self.task[which] = generator.integers(len(self.dynamics.tasks), size=count) if first is None else first
        self.state[which] = self.dynamics.initial_observation(count, generator)
        self.steps[which] = 0

    def step(self, actions: ArrayLike, generator: np.random.Generator) -> Array:
        """Advance every episode under its present task, then let tasks switch; returns the rewards [N]."""
        action = np.clip(np.asarray(actions, dtype=np.float64), -1.0, 1.0)
        reward = self.dynamics.reward(self.state, action)
        self.state = self.dynamics.sample(self.state, action, self.task, generator)
        self.steps += 1
        redraw = self.dynamics.switching.redraws(self.steps, generator)
        self.task = np.where(redraw, generator.integers(len(self.dynamics.tasks), size=len(redraw)), self.task)
        return reward

    def observe(self, reward: Array) -> Array:
        parts = [self.state]
        if self.observe_reward:
            parts.append(reward[:, None])
        if self.observe_task:
            parts.append(one_hot(self.task, len(self.dynamics.tasks)))
        return np.concatenate(parts, axis=1)


def picture(state: Array, task: int) -> NDArray[np.uint8]:
    """The robot in the colour of the task, the reward around the origin in grey. [>= 2], () -> [240, 240, 3]."""
    axis = np.linspace(-PICTURE_EXTENT, PICTURE_EXTENT, PICTURE_SIZE)
    x, y = np.meshgrid(axis, -axis)
    reward = np.exp(-(x**2 + y**2) / (2 * REWARD_WIDTH**2))
    drawn = np.repeat((255 - 70 * reward[..., None]).astype(np.uint8), 3, axis=2)
    position = np.clip(state[:2], -PICTURE_EXTENT, PICTURE_EXTENT)
    robot = (x - position[0]) ** 2 + (y - position[1]) ** 2 < ROBOT_RADIUS**2
    drawn[robot] = TASK_COLOURS[task % len(TASK_COLOURS)]
    return drawn


class SwitchingPointMass(gym.Env[Array, NDArray[np.float32]]):
    """Push a point to the origin although the meaning of a push keeps changing (one episode).

    Args:
        switch_probability: chance per step that the task is redrawn; DEFAULT_SWITCH_PROBABILITY when neither rule is
            given.
        switch_period: redraw after every so many steps instead.
        process_noise: standard deviation of the noise on each coordinate and step.
        first_task: every episode starts with this task, "as built"; None draws it uniformly, which hides it at first.
        observe_reward: append the previous reward to the observation. Given the step it is a point mass, so there is no
            density to certify against and ``dynamics`` is None.
        observe_task: end the observation with the task that rules the next step, one-hot (m3po.envs.shown_task), for
            agents that are told it. ``dynamics`` is None, as with a reward.
        tasks: the task distribution, uniform over these.

    Observation: (position x, y, velocity x, y), float64. Action: [-1, 1]^2, clipped to it. ``info["task"]`` is the
    index of the task that rules the *next* step; it is for evaluation only. ``reset(options={"task": j})`` pins the
    first task. Episodes never terminate; gymnasium's TimeLimit truncates them after 100 steps.

    Raises:
        ValueError: on a bad switching rule, noise, task or flag.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012 (gymnasium's own contract)

    def __init__(
        self,
        *,
        switch_probability: float | None = None,
        switch_period: int | None = None,
        process_noise: float | Sequence[float] = DEFAULT_PROCESS_NOISE,
        observe_reward: bool = False,
        observe_task: bool = False,
        first_task: int | None = 0,
        tasks: Sequence[PointMassTask] = DEFAULT_TASKS,
        render_mode: str | None = None,
    ) -> None:
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f"render_mode must be None or 'rgb_array', got {render_mode!r}")
        dynamics = PointMassDynamics(
            tasks, process_noise, _switching_rule(switch_probability, switch_period), first_task
        )
        self.render_mode = render_mode
        self._episodes = _Episodes(dynamics, 1, observe_reward, observe_task)
        self.observe_reward, self.observe_task = self._episodes.observe_reward, self._episodes.observe_task
        self.observation_space = self._episodes.observation_space
        self.action_space = _action_space()
        self.dynamics = self._episodes.certifiable

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Array, dict[str, Any]]:
        super().reset(seed=seed)
        self._episodes.reset(np.ones(1, dtype=bool), self.np_random, options)
        return self._observe(np.zeros(1)), {"task": int(self._episodes.task[0])}

    def step(self, action: NDArray[np.float32]) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        reward = self._episodes.step(np.asarray(action)[None], self.np_random)
        return self._observe(reward), float(reward[0]), False, False, {"task": int(self._episodes.task[0])}

    def render(self) -> NDArray[np.uint8] | None:
        """The robot in the colour of the present task, the reward in grey; None without render_mode "rgb_array"."""
        if self.render_mode is None:
            return None
        return picture(self._episodes.state[0], int(self._episodes.task[0]))

    def _observe(self, reward: Array) -> Array:
        return np.asarray(self._episodes.observe(reward)[0])


class SwitchingPointMassVector(gym.vector.VectorEnv[Array, NDArray[np.float32], Any]):
    """``num_envs`` episodes of SwitchingPointMass in one array, with the same options and ``max_episode_steps``.

    ``autoreset_mode`` says what happens after an episode ends, as gymnasium defines it (see
    m3po.envs.body_vector.BodyVector). One random generator serves all episodes, so there is one seed for all.
    """

    metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP, "render_modes": []}  # noqa: RUF012

    def __init__(
        self,
        num_envs: int = 1,
        *,
        max_episode_steps: int = 100,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        switch_probability: float | None = None,
        switch_period: int | None = None,
        process_noise: float | Sequence[float] = DEFAULT_PROCESS_NOISE,
        observe_reward: bool = False,
        observe_task: bool = False,
        first_task: int | None = 0,
        tasks: Sequence[PointMassTask] = DEFAULT_TASKS,
        render_mode: str | None = None,
    ) -> None:
        if render_mode is not None:
            raise ValueError(f"render_mode must be None, got {render_mode!r}")
        dynamics = PointMassDynamics(
            tasks, process_noise, _switching_rule(switch_probability, switch_period), first_task
        )
        self.num_envs = whole_number("num_envs", num_envs)
        self.max_episode_steps = whole_number("max_episode_steps", max_episode_steps)
        self.autoreset_mode = autoreset_mode_of(autoreset_mode)
        self.metadata = {**type(self).metadata, "autoreset_mode": self.autoreset_mode}
        self.render_mode = render_mode
        self._episodes = _Episodes(dynamics, self.num_envs, observe_reward, observe_task)
        self.observe_reward, self.observe_task = self._episodes.observe_reward, self._episodes.observe_task
        self.single_observation_space = self._episodes.observation_space
        self.single_action_space = _action_space()
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.dynamics = self._episodes.certifiable
        self._ended = np.zeros(num_envs, dtype=bool)
        self._rewards: Array = np.zeros(num_envs)

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Array, dict[str, Any]]:
        if isinstance(seed, list):
            raise ValueError(f"one seed for the whole vector is supported, got a list of {len(seed)}")
        which = episodes_to_reset(options or {}, self.num_envs)
        super().reset(seed=seed)
        self._episodes.reset(which, self.np_random, options)
        self._ended &= ~which
        self._rewards[which] = 0.0
        return self._episodes.observe(self._rewards), self._info(which)

    def step(
        self, actions: NDArray[np.float32]
    ) -> tuple[Array, Array, NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]:
        again = self._ended
        if self.autoreset_mode is AutoresetMode.DISABLED and again.any():
            raise ValueError(has_ended(again))
        self._rewards = np.where(again, 0.0, self._episodes.step(actions, self.np_random))
        if again.any():
            self._episodes.reset(again, self.np_random, None)
        truncated = self._episodes.steps >= self.max_episode_steps
        observation = self._episodes.observe(self._rewards)
        everything = np.ones(self.num_envs, dtype=bool)
        last: dict[str, Any] = {}
        rewards = self._rewards.copy()
        if self.autoreset_mode is not AutoresetMode.SAME_STEP:
            self._ended = truncated.copy()
        elif truncated.any():
            final = np.full(self.num_envs, None, dtype=object)
            for i in np.flatnonzero(truncated):
                final[i] = observation[i].copy()
            last = {
                "final_obs": final,
                "_final_obs": truncated.copy(),
                "final_info": self._info(truncated),
                "_final_info": truncated.copy(),
            }
            self._episodes.reset(truncated, self.np_random, None)
            self._rewards[truncated] = 0.0
            observation = self._episodes.observe(self._rewards)
        return observation, rewards, np.zeros(self.num_envs, dtype=bool), truncated, self._info(everything) | last

    def _info(self, which: NDArray[np.bool_]) -> dict[str, Any]:
        return {"task": np.where(which, self._episodes.task, 0), "_task": which.copy()}
