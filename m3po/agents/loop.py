"""One run of any algorithm: its parts, what an epoch measures of it, and what a checkpoint holds.

``m3po.agents.group`` has the loop of real steps, in which one or several runs advance.

An algorithm is a subclass that says how it builds its networks and what it measures of itself, and a subclass of
``Group`` that says what such runs learn from one real step.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from m3po.agents.collection import Collection
from m3po.agents.group import Group
from m3po.agents.measuring import measured
from m3po.agents.rollout import termination_by
from m3po.config import Config
from m3po.episodes import Trajectories
from m3po.networks.policy import Policy
from m3po.runs.health import check_row, unresolved_coordinates, warnings_of
from m3po.runs.stopwatch import Stopwatch
from m3po.seeds import Purpose, torch_generator


class TrainingLoop(ABC):
    """A run, which advances by one real step at a time, in epochs that end with a row of metrics.

    Attributes:
        collection: the environment, its episodes, and D_env, which is ``environment_buffer``.
        policy: acts, here and in evaluations.
        steps: real environment steps so far.
        measured_at: steps at the last row of metrics.
        epoch_step: real steps of the epoch under way.
        updates: gradient updates in it, and ``update_sums`` what they have reported, added up.
        seconds: spent on it; of what several runs did together, each has its share.
        dynamics: the environment's one-step density, None where none can be used; ``offers`` says why.
        reward_range: (low, high) that all rewards lie in, by the environment's word; infinite where it gives none.
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
        self.stopwatch = Stopwatch()
        self.collection = Collection(config, self.device, self.stopwatch)
        self.environment_buffer = self.collection.buffer
        checked = self.collection.checked
        self.environment = checked.environment
        self.observation_size = checked.observation_size
        self.action_size = checked.action_size
        self.horizon = checked.horizon
        self.offers = checked.offers
        self.dynamics: Any = self.offers.dynamics
        self.options = config.environment_options()
        dynamics = self.dynamics
        self.reward_range = (
            self.offers.reward_range if dynamics is None else (dynamics.reward_low, dynamics.reward_high)
        )
        self.terminated = termination_by(self.offers.rule)

        self.generator = torch.Generator(self.device).manual_seed(config.seed)
        self.new_generator = False
        with torch.random.fork_rng():
            torch.manual_seed(config.seed)  # initial weights come from torch's own generator
            self.build(self.observation_size)
        self.steps = 0
        self.measured_at = -1
        self.seconds = 0.0
        self._epoch_step: int | None = None  # None between epochs
        self.update_sums: dict[str, Tensor] = {}
        self.updates = 0
        self._collected = 0.0
        self._group: Group[Any] | None = None

    # Where it runs

    @classmethod
    @abstractmethod
    def side_by_side(cls, runs: Sequence[Any]) -> Group[Any]:
        """Runs of this class, and of equal settings but for their seeds, as a group."""

    def join(self, group: Group[Any]) -> None:
        """From now on the run advances in ``group``."""
        if self._group is not None and self._group is not group:
            self._group.hand_out()
        self._group = group

    @property
    def group(self) -> Group[Any]:
        """That it advances in: of its own, where no other was made."""
        if self._group is None:
            self.side_by_side([self])
            assert self._group is not None
        return self._group

    def advance(self) -> dict[str, Any] | None:
        """``Group.advance`` of a run on its own; a row of metrics when the step completed an epoch.

        Raises:
            DivergenceError: when a loss, an observation or a reward is not a finite number.
        """
        return self.group.advance().get(self)

    # What an algorithm is

    @abstractmethod
    def build(self, observation_size: int) -> None:
        """Make all networks and ``policy``."""

    def finish_epoch(self) -> dict[str, Any]:
        """What an algorithm does after the last real step of an epoch that it learns from, and reports of that."""
        return {}

    def learned_metrics(self, means: Mapping[str, float]) -> dict[str, Any]:
        """The algorithm's part of a row of metrics, beyond the ``means`` of what the epoch's updates reported."""
        return {}

    @property
    def held_out_policy(self) -> Policy | None:
        """Whose fresh episodes ``errors`` are measured on; None where an algorithm measures none."""
        return None

    def errors(self, held_out: Trajectories, generator: torch.Generator) -> dict[str, Any]:
        """Errors of model and policy on fresh episodes of ``held_out_policy``."""
        raise NotImplementedError

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

    def updates_with(self, name: str) -> int:
        """How many of the epoch's updates have reported ``name``."""
        del name
        return self.updates

    def agent_warnings(self, means: Mapping[str, float], target_entropy: float) -> dict[str, Any]:
        """``warnings`` about what the updates of a soft actor-critic reported; nothing when there were none."""
        if not means:
            return {}
        return {
            "warnings": warnings_of(
                means,
                largest_reward=self.environment_buffer.rewards[: self.training_steps].abs().max().item(),
                discount=self.config.discount,
                target_entropy=target_entropy,
            )
        }

    # Where it is

    @property
    def finished(self) -> bool:
        """Whether the last epoch is over."""
        return self.steps >= self.config.total_steps and self._epoch_step is None and self.measured_at == self.steps

    @property
    def training_steps(self) -> int:
        """Real steps that the run has learned from."""
        return self.environment_buffer.size

    @property
    def training_budget(self) -> int:
        """Real steps that it will have learned from in the end."""
        return self.config.total_steps

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

    @property
    def epoch_step(self) -> int:
        assert self._epoch_step is not None
        return self._epoch_step

    @property
    def epoch_is_over(self) -> bool:
        """Whether the epoch under way has had its last real step."""
        return self._epoch_step == self.config.epoch_steps or self.training_steps == self.training_budget

    # What its group does with it

    def start_epoch(self) -> None:
        """Nothing of the new epoch has happened yet."""
        self._epoch_step, self.update_sums, self.updates, self._collected = 0, {}, 0, 0.0

    def take(self, action: Tensor) -> float:
        """A real step with ``action`` [1, A]; its reward."""
        reward = self.collection.step(action)
        self.steps += 1
        return reward

    def count_step(self, reward: float) -> None:
        """The step just taken was one of the epoch."""
        self._epoch_step = self.epoch_step + 1
        self._collected += reward

    def close_epoch(self) -> dict[str, Any]:
        """What there is to say of the epoch's learning, after its last real step."""
        means = {name: value.item() / self.updates_with(name) for name, value in self.update_sums.items()}
        last = self.finish_epoch()
        row: dict[str, Any] = {"step": self.steps, **means, **self.learned_metrics(means), **last}
        row["collected_reward"] = self._collected / max(self.epoch_step, 1)
        return row

    def end_epoch(self, learned: dict[str, Any], found: dict[str, Any]) -> dict[str, Any]:
        """The row of metrics of the epoch: what ``close_epoch`` says, and what was then ``measured``."""
        row = joined_warnings(learned, found, {"warnings": self.data_warnings()})
        row |= {f"{name}_seconds": seconds for name, seconds in self.stopwatch.seconds.items()}
        self.stopwatch.seconds = {}
        self._epoch_step, self.measured_at = None, self.steps
        check_row(row)
        return row

    def data_warnings(self) -> list[str]:
        """What a reader should know about the real data, in words."""
        buffer = self.environment_buffer
        size = self.observation_size
        return unresolved_coordinates(buffer.observations[: buffer.size], buffer.tokens[: buffer.size, -size:])

    def measure(self) -> dict[str, Any]:
        """``measured`` of this run."""
        return measured(self.group)[self]

    def state(self) -> dict[str, Any]:
        """Everything a resumed run needs, as tensors and plain values."""
        if self._group is not None:
            self._group.hand_out()
        return own_tensors(
            {
                "steps": self.steps,
                "episodes": self.collection.episodes,
                "episode_under_way": self.collection.windows is not None,
                "measured_at": self.measured_at,
                "seconds": self.seconds,
                **self.learned_state(),
                "environment_buffer": self.environment_buffer.state(),
                "generators": [self.generator.get_state(), self.collection.generator.get_state()],
                # What an epoch under way has so far.
                "epoch": None
                if self._epoch_step is None
                else {
                    "step": self._epoch_step,
                    "sums": self.update_sums,
                    "updates": self.updates,
                    "collected": self._collected,
                    "stopwatch": self.stopwatch.seconds,
                    **self.epoch_state(),
                },
            }
        )

    def load_state(self, state: dict[str, Any]) -> None:
        """Inverse of ``state``, but for an episode that was under way: see ``Collection.resume_episode``."""
        self._group = None  # what it shares with others is not this run's any more
        self.steps, self.measured_at, self.seconds = state["steps"], state["measured_at"], state["seconds"]
        self.load_learned_state(state)
        device_generator, collection_generator = (each.cpu() for each in state["generators"])
        self.load_generator(device_generator)
        self.collection.load(
            state["environment_buffer"],
            collection_generator,
            state["episodes"],
            under_way=state["episode_under_way"],
        )
        epoch = state["epoch"]
        self._epoch_step = None
        if epoch is not None:
            self._epoch_step, self.update_sums, self.updates = epoch["step"], epoch["sums"], epoch["updates"]
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


def own_tensors(state: Any) -> Any:
    """The same nested dicts and lists, with no tensor that is a part of a larger one: files hold tensors whole."""
    if isinstance(state, Tensor):
        return state if state.untyped_storage().nbytes() == state.nbytes else state.clone()
    if isinstance(state, dict):
        return {name: own_tensors(value) for name, value in state.items()}
    return [own_tensors(value) for value in state] if isinstance(state, list) else state


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
