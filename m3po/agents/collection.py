"""Line 5 of Algorithm 2: real steps with a policy, one episode after another, kept in D_env."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from m3po.config import MODEL_FREE, Config
from m3po.data.replay_buffer import EnvironmentBuffer
from m3po.data.types import Windows, token_of
from m3po.envs.protocol import Array
from m3po.foreign.checked_environment import CheckedEnvironment, Step, change_of, to_tensor
from m3po.runs.stopwatch import Stopwatch
from m3po.seeds import Purpose, environment_seeds


class Collection:
    """The environment, the episode that is under way in it, and D_env.

    Args:
        config: of the run.
        device: where D_env is kept.
        stopwatch: is told what the environment takes.

    Attributes:
        checked: the environment behind its checks.
        buffer: D_env.
        generator: of random actions, and of each transition's part in bootstrap and holdout.
        episodes: begun so far.
    """

    def __init__(self, config: Config, device: torch.device, stopwatch: Stopwatch) -> None:
        self.config = config
        self.device = device
        self.stopwatch = stopwatch
        self.checked = CheckedEnvironment(config.env_id, config.environment_options())
        self.generator = torch.Generator().manual_seed(config.seed + 1)
        self.buffer = EnvironmentBuffer(
            config.total_steps,
            self.checked.observation_size,
            self.checked.action_size,
            history_length=config.history_length,
            members=config.ensemble_size,
            holdout=config.holdout,
            device=device,
        )
        self.episodes = 0
        self.windows: Windows | None = None  # None between episodes
        self._shown: Array = np.zeros(self.checked.observation_size)  # by the environment, last
        self._starts = False  # whether no step of the present episode has been taken
        self._to_resume = False

    def present(self) -> Windows:
        """The history h_{L:t} before the next real step, one window; starts a new episode when the last one ended.

        Raises:
            DivergenceError, ValueError: as ``step``.
        """
        if self.windows is None:
            # Each episode has its own seed, so a resumed run meets the same episodes without storing the simulator.
            self.episodes += 1
            self.windows = Windows.initial(self._reset(), self.config.history_length, self.checked.action_size)
            self._starts = True
        return self.windows

    def random_action(self) -> Tensor:
        """Uniform on [-1, 1]^A: [1, A]."""
        return 2 * torch.rand(1, self.checked.action_size, generator=self.generator).to(self.device) - 1

    def step(self, action: Tensor) -> float:
        """One real step with ``action`` [1, A], stored in D_env. Returns the reward.

        Raises:
            DivergenceError: when the environment returns a number that is not finite.
            ValueError: when it returns what it should not, or ends an episode where its method ``terminated`` does not
                (PEARL needs none).
        """
        windows, starts = self.present(), self._starts
        step = self._act(action)
        next_observation, change = self._seen(step.observation)
        self.buffer.add(
            windows.observation[0],
            action[0],
            step.reward,
            next_observation[0],
            change=change[0],
            terminated=step.terminated,
            starts_episode=starts,
            generator=self.generator,
        )
        self._starts = False
        over = step.terminated or step.truncated
        self.windows = None if over else windows.push(action, next_observation, change)
        return step.reward

    def _episode_seed(self) -> int:
        return environment_seeds(Purpose.TRAINING_EPISODE, self.config.seed, self.episodes - 1, count=1)[0]

    def _reset(self) -> Tensor:
        """o_0 [1, O] of the present episode."""
        with self.stopwatch.measure("environment"):
            self._shown, _ = self.checked.reset(self._episode_seed(), f"in episode {self.episodes}")
        return to_tensor(self._shown, self.device)[None]

    def _act(self, action: Tensor) -> Step:
        """The environment's answer to ``action`` [1, A]."""
        where = f"at real step {self.buffer.size + 1}"
        with self.stopwatch.measure("environment"):
            step = self.checked.step(action, where)
        if self.config.algorithm not in MODEL_FREE:
            try:
                self.checked.check_end(step, where)
            except ValueError as error:
                raise ValueError(
                    f"{error}. What was trained until the last checkpoint is in {self.config.run_dir}; --resume "
                    "continues it once the environment has that method"
                ) from error
        return step

    def _seen(self, following: Array) -> tuple[Tensor, Tensor]:
        """o_{t+1} and its difference from what was shown last, each [1, O]; it is then what was shown last."""
        change = to_tensor(change_of(self._shown, following), self.device)[None]
        self._shown = following
        return to_tensor(following, self.device)[None], change

    def load(self, buffer: dict[str, Tensor], generator: Tensor, episodes: int, *, under_way: bool) -> None:
        """Take over D_env and all else from a checkpoint, but for an episode ``under_way``: see ``resume_episode``."""
        self.buffer.load_state(buffer)
        self.generator.set_state(generator)
        self.episodes = episodes
        self.windows, self._starts = None, False
        self._to_resume = under_way

    def resume_episode(self) -> bool:
        """Bring the environment to where the checkpoint was: same seed, same actions, so the same state.

        Returns:
            False when the environment did not repeat itself bit for bit; the episode is then given up and the next
            step starts a new one.
        """
        if not self._to_resume:
            return True
        buffer, last = self.buffer, self.buffer.size - 1
        current = self._reset()
        for index in range(int(buffer.first[last]), last + 1):
            action = buffer.actions(torch.tensor([index], device=self.device))
            step = self._act(action)
            following, change = self._seen(step.observation)
            happened = (
                torch.equal(current[0], buffer.observations[index])
                and torch.equal(token_of(current, action, following, change)[0], buffer.tokens[index])
                and torch.equal(to_tensor(step.reward, self.device), buffer.rewards[index])
            )
            if step.terminated or step.truncated or not happened:
                return False
            current = following
        self.windows = buffer.windows(torch.tensor([last], device=self.device)).push(action, current, change)
        return True
