"""The loop that every algorithm here runs in: real steps, epochs, evaluation, and what a checkpoint holds of them.

An algorithm is a subclass that says how it builds its networks, what it learns from one real step, and what it measures
of itself.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from m3po.agents.rollout import termination_by
from m3po.config import MODEL_FREE, Config
from m3po.data.replay_buffer import EnvironmentBuffer
from m3po.data.types import Windows, token_of
from m3po.envs.protocol import Array
from m3po.episodes import run_episodes
from m3po.foreign.checked_environment import CheckedEnvironment, Step, change_of, to_tensor
from m3po.networks.policy import Policy
from m3po.runs.allocation import keep_freed_memory
from m3po.runs.health import check_row, check_updates, unresolved_coordinates, warnings_of
from m3po.runs.stopwatch import Stopwatch
from m3po.seeds import Purpose, environment_seeds, torch_generator


class TrainingLoop(ABC):
    """Everything a run holds in memory but what it learns, in units of one real step.

    Attributes:
        policy: acts, here and in evaluations.
        steps: real environment steps so far.
        measured_at: steps at the last row of metrics.
        dynamics: the environment's one-step density, None where none can be used; ``offers`` says why.
        new_generator: whether the state of the device's random numbers could not be taken from the checkpoint, which
            was written on a device of another kind.
    """

    algorithms: tuple[str, ...]
    policy: Policy

    def __init__(self, config: Config) -> None:
        if config.algorithm not in self.algorithms:
            raise ValueError(
                f"a run of --algorithm {config.algorithm} has no model with a density, which this needs "
                f"(runs of {', '.join(self.algorithms)} have one)"
            )
        self.config = config
        self.device = choose_device(config.device, cuda_graphs=config.cuda_graphs)
        torch.set_num_threads(config.threads)
        keep_freed_memory()
        self.options = config.environment_options()
        self._checked = CheckedEnvironment(config.env_id, self.options)
        self.environment = self._checked.environment
        self.observation_size = self._checked.observation_size
        self.action_size = self._checked.action_size
        self.horizon = self._checked.horizon
        self.offers = self._checked.offers
        self.dynamics: Any = self.offers.dynamics
        self.terminated = termination_by(self.offers.rule)
        self.new_generator = False

        self.generator = torch.Generator(self.device).manual_seed(config.seed)
        self.collection_generator = torch.Generator().manual_seed(config.seed + 1)
        with torch.random.fork_rng():
            torch.manual_seed(config.seed)  # initial weights come from torch's own generator
            self.build(self.observation_size)
        self.environment_buffer = EnvironmentBuffer(
            config.total_steps,
            self.observation_size,
            self.action_size,
            history_length=config.history_length,
            members=config.ensemble_size,
            holdout=config.holdout,
            device=self.device,
        )
        self.steps = 0
        self.episodes = 0
        self.measured_at = -1
        self.seconds = 0.0
        self.stopwatch = Stopwatch()
        self._epoch_step: int | None = None  # None between epochs
        self._sums: dict[str, Tensor] = {}  # of what the updates of this epoch reported
        self._updates = 0
        self._collected = 0.0
        self._windows: Windows | None = None  # None between episodes
        self._observation: Array = np.zeros(self.observation_size)  # what the environment showed last
        self._episode_to_resume = False

    # What an algorithm is

    @abstractmethod
    def build(self, observation_size: int) -> None:
        """Make all networks and ``policy``."""

    @abstractmethod
    def begin_epoch(self) -> None:
        """Before the first real step of an epoch."""

    @abstractmethod
    def learn(self, epoch_step: int) -> tuple[Sequence[Mapping[str, Tensor]], Sequence[Any]]:
        """After real step ``epoch_step`` >= 1 of the epoch: what each update reports, and the batch it was given."""

    def learned_metrics(self, means: Mapping[str, float]) -> dict[str, Any]:
        """The algorithm's part of a row of metrics, beyond the ``means`` of what the epoch's updates reported."""
        return {}

    def measure_errors(self, seed: int, generator: torch.Generator) -> dict[str, Any]:
        """Errors of model and policy on fresh episodes, whose environments are seeded by ``seed``."""
        return {}

    @abstractmethod
    def learned_state(self) -> dict[str, Any]:
        """What a checkpoint stores of the algorithm, as tensors and plain values."""

    @abstractmethod
    def load_learned_state(self, state: dict[str, Any]) -> None:
        """Inverse of ``learned_state``."""

    def epoch_state(self) -> dict[str, Any]:
        """What a checkpoint within an epoch stores of the algorithm besides."""
        return {}

    def load_epoch_state(self, state: dict[str, Any]) -> None:
        """Inverse of ``epoch_state``."""
        del state  # nothing besides

    def agent_warnings(self, means: Mapping[str, float], target_entropy: float) -> dict[str, Any]:
        """``warnings`` about what the updates of a soft actor-critic reported; nothing when there were none."""
        if not means:
            return {}
        return {
            "warnings": warnings_of(
                means,
                largest_reward=self.environment_buffer.rewards[: self.steps].abs().max().item(),
                discount=self.config.discount,
                target_entropy=target_entropy,
            )
        }

    # The loop: a run can be stopped and continued between any two calls.

    @property
    def finished(self) -> bool:
        """Whether the last epoch is over."""
        return self.steps >= self.config.total_steps and self._epoch_step is None and self.measured_at == self.steps

    @property
    def epoch_begins(self) -> bool:
        """Whether the next real step is the first of an epoch, before which the model is fitted."""
        return self._epoch_step is None and self.steps >= self.config.initial_random_steps

    @property
    def fitted(self) -> bool:
        """Whether there is a model: it is first fitted when the first epoch begins."""
        return self._epoch_step is not None or self.measured_at > 0

    def check_fitted(self) -> None:
        """There is a model to measure.

        Raises:
            ValueError: when it was never fitted.
        """
        if not self.fitted:
            raise ValueError(
                f"{self.config.run_dir} has no model yet: at step {self.steps}, and the model is first fitted after "
                f"{self.config.initial_random_steps} steps (--initial-random-steps)"
            )

    def advance(self) -> dict[str, Any] | None:
        """The next real step with all that belongs to it; a row of metrics when it completed an epoch.

        Raises:
            DivergenceError: when a loss, an observation or a reward is not a finite number.
        """
        began = time.perf_counter()
        row: dict[str, Any] | None = None
        if self.steps < self.config.initial_random_steps:
            self.collect_step(random=True)
        else:
            if self.epoch_begins:
                self.begin_epoch()
                self._epoch_step, self._sums, self._updates, self._collected = 0, {}, 0, 0.0
            if self.steps < self.config.total_steps:
                self._step_of_epoch()
            if self._epoch_step == self.config.epoch_steps or self.steps == self.config.total_steps:
                row = self._end_epoch()
        self.seconds += time.perf_counter() - began
        return None if row is None else row | {"seconds": self.seconds}

    def _step_of_epoch(self) -> None:
        assert self._epoch_step is not None
        self._collected += self.collect_step(random=False)
        self._epoch_step += 1
        metrics, batches = self.learn(self._epoch_step)
        with self.stopwatch.measure("update"):
            if metrics:
                check_updates(metrics, batches, step=self.steps)
            for each in metrics:
                self._sums = {name: self._sums.get(name, 0.0) + value.double() for name, value in each.items()}
            self._updates += len(metrics)

    def _end_epoch(self) -> dict[str, Any]:
        assert self._epoch_step is not None
        means = {name: value.item() / self._updates for name, value in self._sums.items()}
        row: dict[str, Any] = {"step": self.steps, **means, **self.learned_metrics(means)}
        row["collected_reward"] = self._collected / max(self._epoch_step, 1)
        with self.stopwatch.measure("measure"):
            row = joined_warnings(row, self.measure(), {"warnings": self.data_warnings()})
        row |= {f"{name}_seconds": seconds for name, seconds in self.stopwatch.seconds.items()}
        self.stopwatch = Stopwatch()
        self._epoch_step, self.measured_at = None, self.steps
        check_row(row)
        return row

    def collect_step(self, *, random: bool) -> float:
        """One real step, stored in D_env; starts a new episode when the last one ended. Returns the reward.

        Raises:
            DivergenceError: when the environment returns a number that is not finite.
            ValueError: when it returns what it should not, or ends an episode where its method ``terminated`` does not
                (PEARL needs none).
        """
        starts = self._windows is None
        windows = self._windows if self._windows is not None else self._start_episode()
        with self.stopwatch.measure("acting"):
            if random:
                action = 2 * torch.rand(1, self.action_size, generator=self.collection_generator).to(self.device) - 1
            else:
                action, _ = self.policy.act(windows, self.generator)
        step = self._act(action)
        next_observation, change = self._seen(step.observation)
        self.environment_buffer.add(
            windows.observation[0],
            action[0],
            step.reward,
            next_observation[0],
            change=change[0],
            terminated=step.terminated,
            starts_episode=starts,
            generator=self.collection_generator,
        )
        over = step.terminated or step.truncated
        self._windows = None if over else windows.push(action, next_observation, change)
        self.steps += 1
        return step.reward

    def _start_episode(self) -> Windows:
        # Each episode has its own seed, so a resumed run meets the same episodes without storing the simulator.
        self.episodes += 1
        return Windows.initial(self._reset(), self.config.history_length, self.action_size)

    def _episode_seed(self) -> int:
        return environment_seeds(Purpose.TRAINING_EPISODE, self.config.seed, self.episodes - 1, count=1)[0]

    def _reset(self) -> Tensor:
        """o_0 [1, O] of the present episode."""
        with self.stopwatch.measure("environment"):
            self._observation, _ = self._checked.reset(self._episode_seed(), f"in episode {self.episodes}")
        return to_tensor(self._observation, self.device)[None]

    def _act(self, action: Tensor) -> Step:
        """The environment's answer to ``action`` [1, A]."""
        where = f"at real step {self.steps + 1}"
        with self.stopwatch.measure("environment"):
            step = self._checked.step(action, where)
        if self.config.algorithm not in MODEL_FREE:
            try:
                self._checked.check_end(step, where)
            except ValueError as error:
                raise ValueError(
                    f"{error}. What was trained until the last checkpoint is in {self.config.run_dir}; --resume "
                    "continues it once the environment has that method"
                ) from error
        return step

    def _seen(self, following: Array) -> tuple[Tensor, Tensor]:
        """o_{t+1} and its difference from what was shown last, each [1, O]; it is then what was shown last."""
        change = to_tensor(change_of(self._observation, following), self.device)[None]
        self._observation = following
        return to_tensor(following, self.device)[None], change

    def data_warnings(self) -> list[str]:
        """What a reader should know about the real data, in words."""
        buffer = self.environment_buffer
        size = self.observation_size
        return unresolved_coordinates(buffer.observations[: buffer.size], buffer.tokens[: buffer.size, -size:])

    def measure(self) -> dict[str, Any]:
        """Errors on fresh episodes, and the return of the deterministic policy."""
        config = self.config
        # Seeds of its own: looking at a run must not change it.
        seeds = environment_seeds(Purpose.TRAINING_MEASUREMENT, config.seed, self.steps, count=3)
        generator = torch.Generator(self.device).manual_seed(seeds[2])
        errors = self.measure_errors(seeds[0], generator)
        evaluation = run_episodes(
            config.env_id,
            self.policy,
            config.evaluation_episodes,
            seed=seeds[1],
            generator=generator,
            deterministic=True,
            options=self.options,
        ).returns()
        return errors | {
            "return": float(evaluation.mean()),
            "return_standard_error": float(evaluation.std(ddof=1) / len(evaluation) ** 0.5),
        }

    def state(self) -> dict[str, Any]:
        """Everything a resumed run needs, as tensors and plain values."""
        return {
            "steps": self.steps,
            "episodes": self.episodes,
            "episode_under_way": self._windows is not None,
            "measured_at": self.measured_at,
            "seconds": self.seconds,
            **self.learned_state(),
            "environment_buffer": self.environment_buffer.state(),
            "generators": [self.generator.get_state(), self.collection_generator.get_state()],
            # What an epoch under way has so far.
            "epoch": None
            if self._epoch_step is None
            else {
                "step": self._epoch_step,
                "sums": self._sums,
                "updates": self._updates,
                "collected": self._collected,
                "stopwatch": self.stopwatch.seconds,
                **self.epoch_state(),
            },
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Inverse of ``state``, but for an episode that was under way: see ``resume_episode``."""
        self.steps, self.episodes, self.seconds = state["steps"], state["episodes"], state["seconds"]
        self.measured_at = state["measured_at"]
        self.load_learned_state(state)
        self.environment_buffer.load_state(state["environment_buffer"])
        self.load_generator(state["generators"][0].cpu())
        self.collection_generator.set_state(state["generators"][1].cpu())
        self._windows = None
        self._episode_to_resume = state["episode_under_way"]
        epoch = state["epoch"]
        self._epoch_step = None
        if epoch is not None:
            self._epoch_step, self._sums, self._updates = epoch["step"], epoch["sums"], epoch["updates"]
            self._collected = epoch["collected"]
            self.stopwatch.seconds = epoch["stopwatch"]
            self.load_epoch_state(epoch)

    def load_generator(self, stored: Tensor) -> None:
        """Take the random numbers of the device on from ``stored``; new ones where a device of another kind wrote it.

        The new ones are a function of the run's seed and step.
        """
        self.new_generator = len(stored) != len(self.generator.get_state())
        if self.new_generator:
            self.generator = torch_generator(Purpose.NEW_GENERATOR, self.config.seed, self.steps, device=self.device)
        else:
            self.generator.set_state(stored)

    def resume_episode(self) -> bool:
        """Bring the environment to where the checkpoint was: same seed, same actions, so the same state.

        Returns:
            False when the environment did not repeat itself bit for bit; the episode is then given up and the next
            step starts a new one.
        """
        if not self._episode_to_resume:
            return True
        buffer, last = self.environment_buffer, self.steps - 1
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
        self._windows = buffer.windows(torch.tensor([last], device=self.device)).push(action, current, change)
        return True


def joined_warnings(*parts: Mapping[str, Any]) -> dict[str, Any]:
    """The parts of a row after one another, with the ``warnings`` of all."""
    warnings = [warning for part in parts for warning in part.get("warnings", ())]
    row = {name: value for part in parts for name, value in part.items() if name != "warnings"}
    given = any("warnings" in part for part in parts[:-1])
    return row | {"warnings": warnings} if warnings or given else row


def choose_device(name: str, *, cuda_graphs: bool = False) -> torch.device:
    """auto, cpu or cuda -> a device.

    Raises:
        ValueError: when cuda, or what needs it, is asked for and there is none.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: no CUDA device is available")
    device = torch.device("cuda" if name == "cuda" or (name == "auto" and torch.cuda.is_available()) else "cpu")
    if cuda_graphs and device.type != "cuda":
        raise ValueError(f"--cuda-graphs needs a CUDA device, and this run is on the {device.type}")
    return device
