"""What a run has learned, to be used from Python: ``m3po.load(run_dir)``. Plain numpy goes in and comes out."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from m3po.action_density import GaussianActions
from m3po.agents.grbal import Grbal, PlanningPolicy
from m3po.agents.loop import TrainingLoop
from m3po.agents.m3po import M3PO
from m3po.agents.training import restored
from m3po.config import Config
from m3po.data.types import Windows, newest
from m3po.envs.protocol import Array
from m3po.foreign.checked_environment import change_of, to_environment, to_tensor
from m3po.foreign.environment import make_environment
from m3po.foreign.origin import nothing_from_here
from m3po.networks.model import EnsembleModel
from m3po.networks.policy import HistoryPolicy, Policy
from m3po.runs.run_directory import RunDirectory
from m3po.seeds import Purpose, torch_generator

CPU = torch.device("cpu")


class State(NamedTuple):
    """What a policy remembers: the history h_t it acted on, and its action a_t.

    Of a batch of N observations every array has a first axis of length N; of a single observation there is none.

    Attributes:
        tokens: [N, L, 2 O + A], the last L steps before o_t.
        lengths: [N], how many of them there were.
        observation: [N, O], o_t.
        action: [N, A], a_t in [-1, 1].
    """

    tokens: NDArray[np.float32]
    lengths: NDArray[np.int64]
    observation: Array
    action: NDArray[np.float32]

    @property
    def single(self) -> bool:
        """Whether it is of one observation without a batch."""
        return self.observation.ndim == 1

    def rows(self) -> State:
        """The same with an axis of rows."""
        return State._make(each[None] for each in self) if self.single else self

    def windows(self) -> Windows:
        """h_t, with an axis of rows."""
        state = self.rows()
        return Windows(torch.as_tensor(state.tokens), torch.as_tensor(state.lengths), to_tensor(state.observation, CPU))


class _Space:
    """The environment's observations and actions, as they come from users."""

    def __init__(self, training: TrainingLoop) -> None:
        space: Any = training.environment.action_space
        self.actions: gym.spaces.Box = space
        self.observation_size, self.action_size = training.observation_size, training.action_size

    def observation(self, name: str, value: ArrayLike) -> tuple[Array, bool]:
        """[N, O], and whether it was [O].

        Raises:
            ValueError: on another shape, and on numbers that are not finite.
        """
        array = self._numbers(name, value, self.observation_size)
        return np.atleast_2d(array), array.ndim == 1

    def unit(self, action: ArrayLike, rows: int) -> Tensor:
        """An action in the environment's units, in [-1, 1]. [A] or [N, A] -> [N, A].

        Raises:
            ValueError: on another shape, and on an action outside of the box.
        """
        array = np.atleast_2d(self._numbers("action", action, self.action_size))
        low, high = self.actions.low.astype(np.float64), self.actions.high.astype(np.float64)
        slack = 1e-6 * np.maximum(np.maximum(np.abs(low), np.abs(high)), 1.0)
        outside = ((array < low - slack) | (array > high + slack)).any(axis=1)
        if outside.any():
            raise ValueError(f"action must lie in the box of the environment, {self.actions}, got {array[outside][0]}")
        if len(array) != rows:
            raise ValueError(f"action must have one row for each of {rows} histories, got {len(array)}")
        width = np.where(high > low, high - low, 1.0)
        return torch.as_tensor(np.clip(2 * (array - low) / width - 1, -1, 1).astype(np.float32))

    @staticmethod
    def _numbers(name: str, value: ArrayLike, size: int) -> Array:
        try:
            array = np.array(value, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{name} must be an array of numbers, got {value!r}: {error}") from error
        if array.ndim not in (1, 2) or array.shape[-1] != size or 0 in array.shape:
            raise ValueError(f"{name} must have shape [{size}] or [N, {size}], got {list(array.shape)}")
        if not np.isfinite(array).all():
            raise ValueError(f"{name} must hold finite numbers, got {array[~np.isfinite(array)][0]}")
        return array


class TrainedPolicy:
    """A run's policy, which remembers the last L steps of the episode in the ``state`` it returns.

    Attributes:
        action_space, observation_space: the environment's.
    """

    def __init__(self, training: TrainingLoop, seed: int) -> None:
        self.action_space = training.environment.action_space
        self.observation_space = training.environment.observation_space
        self._algorithm = training.config.algorithm
        self._policy: Policy = training.policy
        self._space = _Space(training)
        self.seed(seed)

    def seed(self, seed: int) -> None:
        """Begin the random numbers of the policy anew: those of ``analysis.evaluation --seed``."""
        self._generator = torch_generator(Purpose.EVALUATION, seed)

    def predict(
        self,
        observation: ArrayLike,
        state: State | None = None,
        episode_start: ArrayLike | None = None,
        deterministic: bool = True,
    ) -> tuple[NDArray[np.floating], State]:
        """The action for ``observation``, and what to hand over with the next one.

        Called as sb3-contrib's recurrent policies are; only there ``deterministic`` is False by default.

        Args:
            observation: o_t, [O] or [N, O] of N episodes side by side.
            state: what the call before returned; None at the start of an episode.
            episode_start: [N] booleans, True where ``observation`` is the first of a new episode.
            deterministic: take the mean of the policy; else draw an action. (L2A plans with random numbers always.)

        Returns:
            a_t in the environment's box and type, [A] or [N, A]; and the state.

        Raises:
            ValueError: when shapes do not fit, or a number is not finite.
        """
        rows, single = self._space.observation("observation", observation)
        windows = self._history(rows, state)
        if episode_start is not None and state is not None:
            started = np.broadcast_to(np.asarray(episode_start).astype(bool), len(rows))
            windows = windows.forget(torch.as_tensor(np.where(started, 0, windows.lengths.numpy())))
        action, _ = self._policy.act(windows, self._generator, deterministic=deterministic)
        sent = to_environment(action, self._space.actions)
        found = State(windows.tokens.numpy(), windows.lengths.numpy(), rows, action.numpy())
        if single:
            return sent[0], State._make(each[0] for each in found)
        return sent, found

    def _history(self, observation: Array, state: State | None) -> Windows:
        if state is None:
            return Windows.initial(to_tensor(observation, CPU), self._policy.history_length, self._space.action_size)
        if not isinstance(state, State):
            raise ValueError(f"state must be what predict returned, got {type(state).__name__}")
        before = state.rows()
        if before.observation.shape != observation.shape:
            raise ValueError(f"state is of {len(before.observation)} observations, got {len(observation)}")
        change = to_tensor(change_of(before.observation, observation), CPU)
        return state.windows().push(torch.as_tensor(before.action), to_tensor(observation, CPU), change)

    def took(self, state: State, action: ArrayLike) -> State:
        """``state`` where another action was taken than the one ``predict`` returned with it.

        Args:
            action: in the environment's units, [A] or [N, A].

        Raises:
            ValueError: when it does not fit.
        """
        unit = self._space.unit(action, len(state.rows().observation)).numpy()
        return state._replace(action=unit[0] if state.single else unit)

    def log_prob(self, state: State, action: ArrayLike | None = None) -> Array:
        """log pi(a_t | h_t) of the history in ``state``, in nats, for actions in the environment's units: see
        ``m3po.action_density`` for what that is on the ends of the box. Of the action in ``state`` when None.

        Returns:
            [N], or () of a single observation.

        Raises:
            ValueError: for PEARL and L2A, whose policies have no density given the history.
        """
        policy = self._policy
        if not isinstance(policy, HistoryPolicy):
            raise ValueError(f"the policy of {NAMES[self._algorithm]} has no density given the history: "
                             f"{NO_POLICY_DENSITY[self._algorithm]}")  # fmt: skip
        mean, log_std = (each.double().numpy() for each in policy.distribution(state.windows()))
        unit = state.rows().action if action is None else self._space.unit(action, len(mean)).numpy()
        box: Any = self._space.actions
        low, high = (each.astype(np.float64) for each in (box.low, box.high))
        actions = GaussianActions(mean, np.exp(log_std), low, high, True, box.dtype)
        sent = to_environment(torch.as_tensor(unit), box)
        found = actions.log_density(sent)
        return found[0] if state.single else found


NAMES = {"m3po": "M3PO", "m3po-h": "M3PO-h", "m3po-full": "M3PO", "pearl": "PEARL", "grbal": "L2A (GrBAL)"}
NO_POLICY_DENSITY = {
    "pearl": "it draws a latent task at every step, and the density is an integral over all of them",
    "grbal": "its actions come from a planner",
}


class TrainedModel:
    """The model that a run of M3PO has learned: p_theta(r_t, o_{t+1} | h_t, a_t)."""

    def __init__(self, training: M3PO, seed: int) -> None:
        training.check_fitted()
        self._model: EnsembleModel = training.model
        self._space = _Space(training)
        self.seed(seed)

    def seed(self, seed: int) -> None:
        """Begin the random numbers of the model anew."""
        self._generator = torch_generator(Purpose.MODEL_SAMPLES, seed)

    @torch.no_grad()
    def sample(self, state: State, action: ArrayLike | None = None) -> tuple[Array, Array]:
        """(o_{t+1}, r_t) ~ p_theta( | h_t, a_t).

        Args:
            state: holds h_t, and the a_t that is taken when ``action`` is None.
            action: in the environment's units, [A] or [N, A].

        Returns:
            [N, O] and [N], or [O] and () of a single observation.
        """
        windows, unit = state.windows(), self._unit(state, action)
        features = self._model.encoder(windows)
        following, reward = self._model.sample(features, windows.observation, unit, self._generator)
        found = following.double().numpy(), reward.double().numpy()
        return (found[0][0], found[1][0]) if state.single else found

    @torch.no_grad()
    def predict(self, state: State, action: ArrayLike | None = None) -> tuple[Array, Array]:
        """The means of o_{t+1} and r_t; arguments and shapes as of ``sample``."""
        windows, unit = state.windows(), self._unit(state, action)
        mean, _ = self._model.elite_moments(self._model.encoder(windows), unit)
        normaliser = self._model.target_normaliser
        change = (mean.mean(dim=-3) * normaliser.std + normaliser.mean).double().numpy()
        following, reward = state.rows().observation + change[:, :-1], change[:, -1]
        return (following[0], reward[0]) if state.single else (following, reward)

    @torch.no_grad()
    def log_prob(self, state: State, next_observation: ArrayLike, action: ArrayLike | None = None) -> Array:
        """log p_theta(o_{t+1} | h_t, a_t) of the ensemble's mixture, in nats and in the environment's units: what
        ``analysis.check_guarantee`` measures the model by. Of the action in ``state`` when None.

        Returns:
            [N], or () of a single observation.
        """
        windows, unit = state.windows(), self._unit(state, action)
        following, _ = self._space.observation("next_observation", next_observation)
        observation = state.rows().observation
        if following.shape != observation.shape:
            raise ValueError(f"next_observation must have {len(observation)} rows like state, got {len(following)}")
        change = to_tensor(change_of(observation, following), CPU)
        found = self._model.observation_log_density(
            self._model.encoder(windows), windows.observation, unit, to_tensor(following, CPU), change
        )
        return found.double().numpy()[0] if state.single else found.double().numpy()

    def _unit(self, state: State, action: ArrayLike | None) -> Tensor:
        rows = state.rows()
        return torch.as_tensor(rows.action) if action is None else self._space.unit(action, len(rows.observation))


class AdaptedModel:
    """The model that a run of L2A (GrBAL) has learned: one prediction of o_{t+1} and r_t, adapted to the last L steps.

    It is no distribution, so that it has neither samples nor a density.
    """

    def __init__(self, training: Grbal) -> None:
        training.check_fitted()
        self._policy: PlanningPolicy = training.policy
        self._space = _Space(training)

    def predict(self, state: State, action: ArrayLike | None = None) -> tuple[Array, Array]:
        """o_{t+1} and r_t as the planner sees them, [N, O] and [N], or [O] and () of a single observation.

        Args:
            state: holds h_t, and the a_t that is taken when ``action`` is None.
            action: in the environment's units, [A] or [N, A].
        """
        policy, windows, rows = self._policy, state.windows(), state.rows()
        count = len(rows.observation)
        unit = torch.as_tensor(rows.action) if action is None else self._space.unit(action, count)
        used = newest(windows.lengths, policy.history_length)
        weights = policy.model.adapt(policy.model.weights(count), windows.tokens, used, policy.adaptation_rate)
        with torch.no_grad():
            outcome = policy.model.predict(weights, windows.observation[:, None], unit[:, None])[:, 0]
        found = outcome.clamp(*policy.reach).double().numpy()
        return (found[0, :-1], found[0, -1]) if state.single else (found[:, :-1], found[:, -1])

    def sample(self, state: State, action: ArrayLike | None = None) -> tuple[Array, Array]:
        """Raises:
        ValueError: always.
        """
        raise ValueError("the model of L2A (GrBAL) is one prediction and no distribution to sample from: use predict")

    def log_prob(self, state: State, next_observation: ArrayLike, action: ArrayLike | None = None) -> Array:
        """Raises:
        ValueError: always.
        """
        raise ValueError("the model of L2A (GrBAL) is one prediction and has no density: use predict")


class Trained:
    """A run as its last checkpoint has it, on the CPU.

    Attributes:
        path: of the run directory.
        config: its settings.
        steps: real steps so far.
        policy: of every algorithm.
    """

    def __init__(self, directory: RunDirectory, training: TrainingLoop, seed: int, *, trust_env: bool) -> None:
        self.path: Path = directory.path
        self.config: Config = directory.config
        self.steps: int = training.steps
        self.policy = TrainedPolicy(training, seed)
        self._training, self._seed, self._trust_env = training, seed, trust_env

    def __repr__(self) -> str:
        return f"<{NAMES[self.config.algorithm]} on {self.config.env_id}, {self.steps} steps, {self.path}>"

    @cached_property
    def model(self) -> TrainedModel | AdaptedModel:
        """M3PO's has ``sample``, ``log_prob`` and ``predict``, L2A's only ``predict``.

        Raises:
            ValueError: for PEARL, which learns none; and when it was never fitted.
        """
        training = self._training
        if isinstance(training, M3PO):
            return TrainedModel(training, self._seed)
        if isinstance(training, Grbal):
            return AdaptedModel(training)
        raise ValueError(f"{self.path} is a run of {NAMES[self.config.algorithm]}, which learns no model")

    def env(self, **options: Any) -> gym.Env[Any, Any]:
        """A new environment as in the training, but for the ``options`` given here.

        Raises:
            ValueError: as ``m3po.foreign.environment.make_environment``.
        """
        guard: AbstractContextManager[None] = nullcontext() if self._trust_env else nothing_from_here()
        with guard:
            return make_environment(self.config.env_id, **(self._training.options | options))


def load(run_dir: str | Path, *, seed: int = 0, trust_env: bool = False) -> Trained:
    """What a run has learned, from its last checkpoint, whichever device wrote it.

    Args:
        run_dir: of ``m3po.train``, finished or not.
        seed: of the random numbers of policy and model.
        trust_env: build its environment even if that imports a module or reads files that the run names.

    Raises:
        ValueError: when it is no run directory, or its checkpoint is missing or damaged.
    """
    directory = RunDirectory.read(Path(run_dir))
    return Trained(directory, restored(directory, trust_env=trust_env), seed, trust_env=trust_env)
