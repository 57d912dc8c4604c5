"""The one door to a running environment: actions reach its box, and its answers are copied and checked.

An environment may reuse its arrays and return what it likes. Whatever would corrupt a training is refused in one line.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AutoresetMode
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from m3po.envs.protocol import Array
from m3po.envs.vector_options import ThreadedVector
from m3po.foreign.answers import flags, numbers
from m3po.foreign.environment import Offers, contradicts, make_environment, offers_of, rule_complaint, vector_of
from m3po.runs.health import DivergenceError

# From here on float32 numbers are more than 1e-4 apart, and a difference of two of them may be nothing but rounding.
FAR = 1024.0

# Actions


def to_environment(action: Tensor, space: gym.spaces.Box) -> NDArray[np.floating]:
    """[-1, 1] -> the bounds of the action space, coordinate by coordinate, in its type; rounding never leaves the box.

    Raises:
        ValueError: when an action is not a number.
    """
    low, high = space.low.astype(np.float64), space.high.astype(np.float64)
    # Policies act on the grid of float32(a + 1); the environments' own dynamics count on it.
    shifted = (action.cpu().numpy() + np.float32(1)).astype(np.float64)
    rescaled = np.clip(low + 0.5 * shifted * (high - low), low, high).astype(space.dtype)
    inside = np.clip(rescaled, space.low, space.high)
    if not np.isfinite(inside).all():
        raise ValueError(f"an action is not a number: {action.tolist()}")
    return np.asarray(inside)


# Answers


def to_tensor(values: ArrayLike, device: torch.device) -> Tensor:
    """A float32 copy."""
    return torch.as_tensor(np.array(values, dtype=np.float32), device=device)


def change_of(before: ArrayLike, after: ArrayLike) -> NDArray[np.float32]:
    """o' - o in float32, whatever the magnitude of o. Shapes [..., O] twice -> [..., O].

    Near 0 it is the difference of the float32 observations, which is what a policy sees; where these are far from 0 and
    too coarse for their difference to mean anything, that of the numbers as they are.
    """
    first, second = np.asarray(before, dtype=np.float64), np.asarray(after, dtype=np.float64)
    rounded = second.astype(np.float32) - first.astype(np.float32)
    far = np.maximum(np.abs(first), np.abs(second)) >= FAR
    return np.asarray(np.where(far, (second - first).astype(np.float32), rounded) if far.any() else rounded)


def finite(values: Array) -> NDArray[np.bool_]:
    """Which numbers are finite, in float32 too."""
    with np.errstate(over="ignore", invalid="ignore"):
        return np.isfinite(values.astype(np.float32))


def task_of(info: Any) -> int:
    """``info["task"]`` as a task index, -1 where it tells none.

    A task that is no whole number (a name, a goal, a flag) is not one of ours, and counts as not told.
    """
    told = info.get("task") if isinstance(info, Mapping) else None
    if isinstance(told, np.ndarray) and told.shape == ():
        told = told[()]
    return int(told) if isinstance(told, int | np.integer) and not isinstance(told, bool) else -1


def tasks_of(info: Any, count: int) -> NDArray[np.int64]:
    """``task_of`` for a vector environment's ``info``, [count]."""
    told = info.get("task") if isinstance(info, Mapping) else None
    given = np.broadcast_to(info.get("_task", True), count) if told is not None else ()
    if told is None or np.shape(told)[:1] != (count,):
        return np.full(count, -1, dtype=np.int64)
    return np.array([task_of({"task": each}) if is_told else -1 for each, is_told in zip(told, given, strict=True)])


@dataclass(frozen=True)
class Step:
    """An environment's answer, copied and checked: o_{t+1} [O] float64, r_t, how the episode ended, and the task."""

    observation: Array
    reward: float
    terminated: bool
    truncated: bool
    task: int


class CheckedEnvironment:
    """One environment whose every answer is copied and checked.

    Args:
        env_id, options: see ``make_environment``.
    """

    def __init__(self, env_id: str, options: Mapping[str, Any]) -> None:
        self.env_id = env_id
        self.environment = make_environment(env_id, **options)
        space: Any = self.environment.action_space
        self.action_space: gym.spaces.Box = space
        self.observation_size: int = self.environment.observation_space.shape[0]  # type: ignore[index]
        self.action_size: int = self.action_space.shape[0]
        self.horizon: int = self.environment.spec.max_episode_steps  # type: ignore[union-attr,assignment]

    @cached_property
    def offers(self) -> Offers:
        """What the environment offers beyond gymnasium (``offers_of``)."""
        return offers_of(self.environment, self.env_id)

    def reset(self, seed: int, where: str) -> tuple[Array, int]:
        """o_0 [O] and its task.

        Args:
            seed: of the episode.
            where: for messages, such as "in episode 3".

        Raises:
            ValueError: when the answer is not of the right kind.
            DivergenceError: when a number of it is not finite.
        """
        answer = self.environment.reset(seed=seed)
        if not (isinstance(answer, tuple) and len(answer) == 2):
            raise ValueError(f"{self.env_id} returned {answer!r} from reset, expected (observation, info)")
        observation = numbers(self.env_id, "an observation", answer[0], (self.observation_size,))
        if not finite(observation).all():
            raise DivergenceError(f"{self.env_id} returned observation {observation} from reset {where}")
        return observation, task_of(answer[1])

    def step(self, action: Tensor, where: str) -> Step:
        """The answer to an action [1, A] in [-1, 1].

        Raises:
            ValueError: when the answer is not of the right kind.
            DivergenceError: when a number of it is not finite.
        """
        answer = self.environment.step(to_environment(action, self.action_space)[0])
        step = self.read(answer)
        if not (finite(step.observation).all() and finite(np.array(step.reward))):
            raise DivergenceError(
                f"{self.env_id} returned observation {step.observation} and reward {step.reward} {where}, for action "
                f"{action[0].tolist()}"
            )
        return step

    def read(self, answer: Any) -> Step:
        """What the environment's method ``step`` returned, copied; its numbers may still be infinite.

        Raises:
            ValueError: when the answer is not of the right kind.
        """
        if not (isinstance(answer, tuple) and len(answer) == 5):
            raise ValueError(f"{self.env_id} returned {answer!r} from step, expected five values")
        following, reward, terminated, truncated, info = answer
        if np.size(reward) != 1:
            raise ValueError(f"{self.env_id} returned reward {reward!r}, expected one number")
        return Step(
            numbers(self.env_id, "an observation", following, (self.observation_size,)),
            float(numbers(self.env_id, "a reward", reward, np.shape(reward)).sum()),
            bool(flags(self.env_id, "terminated", terminated, 1)[0]),
            bool(flags(self.env_id, "truncated", truncated, 1)[0]),
            task_of(info),
        )

    def check_end(self, step: Step, where: str) -> None:
        """The rule says of this step what the environment did.

        Raises:
            ValueError: when it does not.
        """
        offers = self.offers
        if step.truncated and not step.terminated:
            return
        if offers.rule is None and not step.terminated:
            return
        if contradicts(offers.rule, step.observation[None], np.array([step.terminated]))[0]:
            complaint = rule_complaint(self.env_id, offers.rule, offers.rule_obstacle, step.terminated)
            raise ValueError(f"{complaint} ({where}, observation {step.observation})")


# Many episodes side by side


@dataclass(frozen=True)
class Steps:
    """The answers to N actions: observations [N, O] float64, copied, and [N] rewards, ends and tasks.

    The observation of an episode that has just ended is its last.
    """

    observations: Array
    rewards: Array
    terminated: NDArray[np.bool_]
    truncated: NDArray[np.bool_]
    tasks: NDArray[np.int64]


class SideBySide:
    """N episodes of one environment, by its own vector implementation where that says how it starts anew after an end.

    Args:
        env_id, options: see ``make_environment``.
        count: N.
        threads: of the simulation, where the vector implementation has threads; None: as many as it takes by itself.
    """

    def __init__(self, env_id: str, options: Mapping[str, Any], count: int, threads: int | None = None) -> None:
        self.env_id = env_id
        self.count = count
        first = CheckedEnvironment(env_id, options)
        self.horizon, self.action_space, self.observation_size = (
            first.horizon, first.action_space, first.observation_size,
        )  # fmt: skip
        self._vector = vector_of(first.environment, count)
        if threads is not None and isinstance(self._vector, ThreadedVector):
            self._vector.threads = threads
        if self._vector is None:
            self._single = [first, *(CheckedEnvironment(env_id, options) for _ in range(count - 1))]
        else:
            self._single = [first]

    def close(self) -> None:
        for each in self._single:
            each.environment.close()
        if self._vector is not None:
            self._vector.close()

    def reset(self, seed: int) -> tuple[Array, NDArray[np.int64]]:
        """o_0 [N, O] and the tasks [N]; episode i has seed ``seed`` + i, unless its own vector seeds otherwise.

        Raises:
            ValueError, DivergenceError: as ``CheckedEnvironment.reset``.
        """
        if self._vector is None:
            answers = [each.reset(seed + i, f"in episode {i + 1}") for i, each in enumerate(self._single)]
            return np.stack([each[0] for each in answers]), np.array([each[1] for each in answers])
        observation, info = self._vector.reset(seed=seed)
        observations = numbers(self.env_id, "observations", observation, (self.count, self.observation_size))
        if not finite(observations).all():
            raise DivergenceError(f"{self.env_id} returned observations {observations} from reset")
        return observations, tasks_of(info, self.count)

    def step(self, actions: Tensor, alive: NDArray[np.bool_], t: int) -> Steps:
        """The answers to actions [N, A] in [-1, 1] at time ``t``; only those of episodes that are ``alive`` [N] count.

        Raises:
            ValueError, DivergenceError: as ``CheckedEnvironment.step``.
        """
        found = self._step_single(actions, alive) if self._vector is None else self._step_vector(actions, alive, t)
        bad = alive & ~(finite(found.observations).all(axis=1) & finite(found.rewards))
        if bad.any():
            i = int(bad.argmax())
            raise DivergenceError(
                f"{self.env_id} returned observation {found.observations[i]} and reward {found.rewards[i]} at step "
                f"{t + 1} of episode {i + 1}, for action {actions[i].tolist()}"
            )
        return found

    def _step_single(self, actions: Tensor, alive: NDArray[np.bool_]) -> Steps:
        result = _no_steps(self.count, self.observation_size)
        sent = to_environment(actions, self.action_space)
        for i in np.flatnonzero(alive):
            each = self._single[i]
            step = each.read(each.environment.step(sent[i]))
            result.observations[i], result.rewards[i], result.tasks[i] = step.observation, step.reward, step.task
            result.terminated[i], result.truncated[i] = step.terminated, step.truncated
        return result

    def _step_vector(self, actions: Tensor, alive: NDArray[np.bool_], t: int) -> Steps:
        vector: Any = self._vector
        sent = to_environment(actions, self.action_space)
        answer = vector.step(sent, which=alive) if isinstance(vector, ThreadedVector) else vector.step(sent)
        observation, reward, terminated, truncated, info = answer
        observations = numbers(self.env_id, "observations", observation, (self.count, self.observation_size))
        rewards = numbers(self.env_id, "rewards", reward, (self.count,))
        ended = flags(self.env_id, "terminated", terminated, self.count)
        cut = flags(self.env_id, "truncated", truncated, self.count)
        over = np.flatnonzero(alive & (ended | cut))
        if vector.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP and len(over):
            last = info.get("final_obs", [None] * self.count)
            if any(last[i] is None for i in over):
                raise ValueError(
                    f"{self.env_id} starts anew in the step that ends an episode (SAME_STEP), and at step {t + 1} gave "
                    'no last observation in info["final_obs"]'
                )
            for i in over:
                observations[i] = numbers(self.env_id, "a last observation", last[i], (self.observation_size,))
        return Steps(observations, rewards, ended, cut, tasks_of(info, self.count))


def _no_steps(count: int, observation_size: int) -> Steps:
    nothing = np.zeros(count, dtype=bool)
    return Steps(
        np.zeros((count, observation_size)), np.zeros(count), nothing, nothing.copy(), np.full(count, -1, np.int64)
    )
