"""N episodes of a MuJoCo meta-environment, whose bodies are simulated in threads and whose rewards are arrays."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from m3po.envs.body_steps import BodySteps, Info
from m3po.envs.hidden_task import HiddenTask, as_executed
from m3po.envs.protocol import Array
from m3po.envs.vector_options import (
    ThreadedVector,
    autoreset_mode_of,
    chosen_episodes,
    episode_seeds,
    episodes_to_reset,
    has_ended,
    one_for_each,
    usable_threads,
    whole_number,
)

Booleans = NDArray[np.bool_]


class BodyVector(ThreadedVector):
    """``num_envs`` episodes of ``environment``, each with its own task, noise and random generator.

    For the same seeds and actions every episode is that of the single environment, bit for bit, and what ``step`` and
    ``reset`` return is what gymnasium.vector.SyncVectorEnv returns. The simulation runs in threads, since mj_step lets
    go of Python's lock; each body keeps its own MjData, of which mujoco.rollout would forget the contact solver's
    memory and the contact forces.

    Args:
        num_envs: N.
        max_episode_steps: truncates episodes, as gymnasium's TimeLimit does.
        autoreset_mode: what happens after an episode ends, as gymnasium defines it. NEXT_STEP: the next ``step`` resets
            it and ignores its action. SAME_STEP: it is reset at once, its last observation and info are in
            ``info["final_obs"]`` and ``info["final_info"]``. DISABLED: ``reset(options={"reset_mask": ...})`` must
            come before its next step.
        threads: of the simulation; None takes all processors that the process may use. May be changed at any time.
        options: the single environment's.

    Raises:
        ValueError: on a bad number, mode or option.

    Attributes:
        envs: the single environments, N, to look at: what is changed in them goes unnoticed.
        dynamics: the density to certify against, as the single environment's.
    """

    environment: ClassVar[type[HiddenTask]]
    steps: ClassVar[type[BodySteps]]

    def __init__(
        self,
        num_envs: int = 1,
        *,
        max_episode_steps: int = 1000,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        threads: int | None = None,
        **options: Any,
    ) -> None:
        self.num_envs = whole_number("num_envs", num_envs)
        self.max_episode_steps = whole_number("max_episode_steps", max_episode_steps)
        self.autoreset_mode = autoreset_mode_of(autoreset_mode)
        self.threads = usable_threads() if threads is None else threads
        self.envs: list[Any] = self.environment.side_by_side(self.num_envs, options)
        first = self.envs[0]
        self.metadata = {**first.metadata, "autoreset_mode": self.autoreset_mode}
        self.render_mode = first.render_mode
        self.single_observation_space = first.observation_space
        self.single_action_space = first.action_space
        self.observation_space = batch_space(first.observation_space, self.num_envs)
        self.action_space = batch_space(first.action_space, self.num_envs)
        self.dynamics: Any = first.dynamics
        self._bodies = self.steps(self.envs)
        self._noise = first.process_noise
        self._normals = np.zeros((self.num_envs, 0 if self._noise is None else len(self._noise)))
        self._chances = np.zeros(self.num_envs)
        self._tasks = np.full(self.num_envs, -1)
        self._tasks_shown: Array = np.zeros((self.num_envs, len(first.task_shown)))
        self._generators = [each.np_random for each in self.envs]
        self._observations: Array = np.zeros(self.observation_space.shape)  # type: ignore[arg-type]
        self._all, self._none = np.ones(self.num_envs, dtype=bool), np.zeros(self.num_envs, dtype=bool)
        self._indices = list(range(self.num_envs))
        self._elapsed = np.full(self.num_envs, -1)  # -1: never reset
        self._ended = np.zeros(self.num_envs, dtype=bool)
        self._all_go_on = False

    @property
    def threads(self) -> int:
        return self._threads

    @threads.setter
    def threads(self, threads: int) -> None:
        self._threads = whole_number("threads", threads)
        self._close_pool()

    @property  # type: ignore[misc]
    def np_random(self) -> Any:
        """The episodes' random generators, [N], as SyncVectorEnv has them."""
        return tuple(each.np_random for each in self.envs)

    @property
    def np_random_seed(self) -> Any:
        return tuple(each.np_random_seed for each in self.envs)

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Array, dict[str, Any]]:
        """Start every episode, or those of ``options["reset_mask"]`` [N], and return what all of them show.

        Args:
            seed: episode i gets seed + i, or the i-th of N seeds.
            options: "task" pins the first task, one for all or [N] (None in it: drawn).

        Raises:
            ValueError: on a bad seed, mask or task, or another number of them.
        """
        options = options or {}
        which = episodes_to_reset(options, self.num_envs)
        seeds = episode_seeds(seed, self.num_envs)
        tasks = one_for_each("options['task']", options.get("task"), self.num_envs)
        for task in tasks:
            if task is not None:
                self.envs[0].check_task("options['task']", task)
        infos: dict[str, Any] = {}
        for i in np.flatnonzero(which).tolist():
            infos = self._reset_one(i, infos, seeds[i], tasks[i])
        self._note_who_goes_on()
        return self._observations.copy(), infos

    def _note_who_goes_on(self) -> None:
        self._all_go_on = not (self._ended | (self._elapsed < 0)).any()

    def _reset_one(self, i: int, infos: dict[str, Any], seed: int | None = None, task: Any = None) -> dict[str, Any]:
        options = None if task is None else {"task": task}
        self._observations[i], info = self.envs[i].reset(seed=seed, options=options)
        self._bodies.read(i)
        self._elapsed[i], self._ended[i] = 0, False
        self._generators[i] = self.envs[i].np_random
        self._note_task(i)
        return self._add_info(infos, info, i)

    def step(
        self, actions: NDArray[np.floating], *, which: Booleans | None = None
    ) -> tuple[Array, Array, Booleans, Booleans, dict[str, Any]]:
        """A step of every episode, or of those in ``which`` [N]: the others stand still, with reward 0 and no info.

        Raises:
            gymnasium.error.ResetNeeded: before the first ``reset``.
            ValueError: on actions of another shape than [N, A], a bad ``which``, and with DISABLED for an episode that
                has ended.
        """
        actions = np.ascontiguousarray(actions)
        if actions.shape != self.action_space.shape:
            raise ValueError(f"actions must have shape {self.action_space.shape}, got {actions.shape}")
        moving, again, all_go_on = self._all, self._none, which is None and self._all_go_on
        if not all_go_on:
            moving, again = self._who_moves(which)
        infos: dict[str, Any] = {}
        if all_go_on or moving.any():
            rewards, terminated, info = self._move(actions, moving)
            truncated = self._elapsed >= self.max_episode_steps
            if moving is not self._all:
                truncated &= moving
            over = terminated | truncated
            if not np.count_nonzero(over):
                infos = self._told(info, moving)
            elif self.autoreset_mode is AutoresetMode.SAME_STEP:
                infos = self._start_anew(np.flatnonzero(over).tolist(), info, self._told(info, moving & ~over))
            else:
                infos = self._told(info, moving)
                self._ended |= over
                self._all_go_on = False
        else:
            rewards, terminated, truncated = np.zeros(self.num_envs), self._none.copy(), self._none.copy()
        if not all_go_on:
            for i in np.flatnonzero(again).tolist():
                infos = self._reset_one(i, infos)
            self._note_who_goes_on()
        return self._observations.copy(), rewards, terminated, truncated, infos

    def _who_moves(self, which: Booleans | None) -> tuple[Booleans, Booleans]:
        """Of those in ``which``, the episodes that this step moves, and those that it resets."""
        chosen = self._all if which is None else chosen_episodes("which", which, self.num_envs)
        if (self._elapsed[chosen] < 0).any():
            raise gym.error.ResetNeeded("Cannot call env.step() before calling env.reset()")
        again = chosen & self._ended
        if self.autoreset_mode is AutoresetMode.DISABLED and again.any():
            raise ValueError(has_ended(again))
        moving = chosen & ~again
        return self._all if moving.all() else moving, again

    def render(self) -> tuple[Any, ...] | None:
        """A picture of every episode."""
        return tuple(each.render() for each in self.envs)

    def close_extras(self, **kwargs: Any) -> None:
        self._close_pool()
        for each in self.envs:
            each.close()

    # A step

    def _move(self, actions: NDArray[np.floating], moving: Booleans) -> tuple[Array, Booleans, Info]:
        """The single environments' ``step`` for those that are ``moving``: rewards, terminations and info."""
        first, everything = self.envs[0], moving is self._all
        indices = self._indices if everything else np.flatnonzero(moving).tolist()
        if self._noise is None:
            rewards, terminated, info = self._outcomes(actions, indices)
            observations = self._with_rewards(rewards)
            if terminated is None:
                terminated = first.terminated(observations)
        else:
            observations, rewards, info = self._noisy_outcomes(as_executed(actions), indices, self._noise)
            terminated = first.terminated(observations)
        self._elapsed += moving
        self._switch(moving)
        if first.observe_task:
            observations = np.concatenate((observations, self._tasks_shown), axis=1)
        if everything:
            self._observations = observations
        else:
            self._observations[moving] = observations[moving]
            rewards, terminated = np.where(moving, rewards, 0.0), terminated & moving
        info["task"] = self._tasks.copy()
        if first.render_mode == "human":
            self.render()
        return rewards, terminated, info

    def _outcomes(self, actions: NDArray[np.floating], indices: Sequence[int]) -> tuple[Array, Booleans | None, Info]:
        first = self.envs[0]
        self._bodies.before()
        self._simulate(np.asarray(actions, dtype=np.float64), indices)
        paid, terminated, info = self._bodies.outcomes(actions)
        rewards = first.task_reward(paid, info, self._tasks)
        if first.reward_range is not None:
            low, high = first.reward_range
            rewards = np.where(low > rewards, low, rewards)
            rewards = np.where(high < rewards, high, rewards)
        return rewards, terminated, info

    def _noisy_outcomes(
        self, actions: NDArray[np.floating], indices: Sequence[int], noise: Array
    ) -> tuple[Array, Array, Info]:
        """As HiddenTask._noisy_outcome; returns observations, rewards and info."""
        first, bodies = self.envs[0], self._bodies
        shifts = np.zeros(self.num_envs)
        if first.observation_is_state:
            for i in indices:
                shifts[i] = self.envs[i].take_as_observed()
                bodies.read(i)
        rewards, _, info = self._outcomes(actions, indices)
        positions, velocities, disturbances = bodies.positions, bodies.velocities, noise * self._normals
        positions[:, 0] += shifts
        info["x_position"] = np.where(shifts != 0, positions[:, 0], info["x_position"])
        size = positions[:, first.observed_positions].shape[1]
        state = size + velocities[:, first.observed_velocities].shape[1]
        positions[:, first.observed_positions] += disturbances[:, :size]
        velocities[:, first.observed_velocities] += disturbances[:, size:state]
        for i in indices:
            bodies.write(i)
            self.envs[i].settle()
            bodies.read(i)
        return self._with_rewards(rewards + disturbances[:, -1]), rewards, info

    def _with_rewards(self, rewards: Array) -> Array:
        """What is seen of the bodies' states, and of these rewards."""
        first = self.envs[0]
        seen = first.observed(self._bodies.positions, self._bodies.velocities)
        return np.concatenate((seen, rewards[:, None]), axis=1) if first.observe_reward else seen

    def _switch(self, moving: Booleans) -> None:
        redraws = self.envs[0].switching.redraws_given(self._elapsed, self._chances) & moving
        if np.count_nonzero(redraws):
            for i in np.flatnonzero(redraws).tolist():
                self.envs[i].set_task(self.envs[i].draw_task())
                self._note_task(i)

    def _note_task(self, i: int) -> None:
        self._tasks[i], self._tasks_shown[i] = self.envs[i].task, self.envs[i].task_shown

    # Threads

    def _simulate(self, actions: Array, indices: Sequence[int]) -> None:
        """Step these bodies and draw their own random numbers: the noise first, then whether the task switches."""
        advance, normals, chances, generators = self._bodies.advance, self._normals, self._chances, self._generators
        noise, random = normals.shape[1], self.envs[0].switching.is_random
        controls, size, waiting = actions.reshape(-1).data, actions.shape[1], deque(indices)

        def work() -> None:
            while waiting:
                try:
                    i = waiting.popleft()
                except IndexError:  # another thread took it
                    return
                advance(i, controls[i * size : (i + 1) * size])
                if noise:
                    normals[i] = generators[i].standard_normal(noise)
                if random:
                    chances[i] = generators[i].random()

        others = min(self._threads, len(indices)) - 1
        if others and self._pool is None:
            self._pool = ThreadPoolExecutor(self._threads - 1, thread_name_prefix=type(self).__name__)
        helping = [self._pool.submit(work) for _ in range(others)] if self._pool is not None else []
        try:
            work()
        finally:
            for each in helping:
                each.result()

    _pool: ThreadPoolExecutor | None = None

    def _close_pool(self) -> None:
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None

    # What is told

    def _told(self, info: Info, which: Booleans) -> dict[str, Any]:
        """gymnasium's vector info of the episodes in ``which``: arrays, each with its mask; nothing for the others."""
        everything = which is self._all
        if not (everything or which.any()):
            return {}
        infos: dict[str, Any] = {}
        for name, values in info.items():
            if not everything:
                values = values.copy()
                values[~which] = 0
            infos[name], infos[f"_{name}"] = values, which.copy()
        return infos

    def _start_anew(self, indices: list[int], info: Info, infos: dict[str, Any]) -> dict[str, Any]:
        """Reset episodes that have just ended, and tell their last observations and infos."""
        for i in indices:
            last = {name: values[i].copy() for name, values in info.items()}
            infos = self._add_info(infos, {"final_obs": self._observations[i].copy(), "final_info": last}, i)
            infos = self._reset_one(i, infos)
        return infos
