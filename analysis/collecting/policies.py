"""Policies that others wrote, as distributions of actions given what happened so far in an episode.

``Acting`` is all that is asked of one. Stable-Baselines3's and sb3-contrib's, those of ``m3po.load``, whatever is
called as their ``predict`` is, and plain functions of an observation are brought into this form by ``acting_of``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from m3po.action_density import GaussianActions

Array = NDArray[np.float64]


class Actions(Protocol):
    """What N histories make a policy do."""

    def draw(self, generator: np.random.Generator) -> NDArray[Any]:
        """[N, ...]."""
        ...

    def log_density(self, actions: NDArray[Any]) -> Array:
        """[N], with respect to one measure for all policies (``m3po.action_density``).

        Raises:
            ValueError: when it is not known.
        """
        ...


class Acting(Protocol):
    """A policy in N episodes side by side.

    Attributes:
        name: for messages.
        discount: that it was trained for; None where it does not say.
    """

    name: str
    discount: float | None

    def actions(self, observations: Any, memory: Any) -> tuple[Actions, Any]:
        """The distributions of the next actions, and the memory with these observations in it; None: episodes begin."""
        ...

    def took(self, memory: Any, actions: NDArray[Any]) -> Any:
        """The memory, once these actions were taken."""
        ...


def acting_of(policy: Any, *, deterministic: bool, seed: int) -> Acting:
    """``policy`` in the form above.

    Args:
        deterministic: act by the mode of its actions where it has one, not by draws.
        seed: of the random numbers that it keeps itself.

    Raises:
        ValueError: when it is nothing that acts.
    """
    if (base := _loaded("stable_baselines3.common.base_class", "BaseAlgorithm")) and isinstance(policy, base):
        return BaselinesPolicy(policy.policy, policy, deterministic)
    if (base := _loaded("stable_baselines3.common.policies", "BasePolicy")) and isinstance(policy, base):
        return BaselinesPolicy(policy, None, deterministic)
    trained, loaded = _loaded("m3po.trained", "TrainedPolicy"), _loaded("m3po.trained", "Trained")
    if loaded and isinstance(policy, loaded):
        return OwnPolicy(policy.policy, policy.config.discount, deterministic, seed)
    if trained and isinstance(policy, trained):
        return OwnPolicy(policy, None, deterministic, seed)
    if callable(getattr(policy, "predict", None)):
        return PredictingPolicy(policy, deterministic)
    if callable(policy):
        return FunctionPolicy(policy)
    raise ValueError(
        f"policy must be one of Stable-Baselines3 or m3po.load, or a function of an observation, got {policy!r}"
    )


def _loaded(module: str, name: str) -> Any:
    """A class of a library that may not be there: nothing is of it unless it was imported already."""
    return getattr(sys.modules.get(module), name, None)


# Stable-Baselines3


class BaselinesPolicy:
    """A policy of Stable-Baselines3 or sb3-contrib, recurrent or not.

    Args:
        network: its ``policy``.
        algorithm: what it belongs to, whose discount and normalisation of observations are taken over; None: unknown.
    """

    def __init__(self, network: Any, algorithm: Any, deterministic: bool) -> None:
        self.name = type(network if algorithm is None else algorithm).__name__
        gamma = getattr(algorithm, "gamma", None)
        self.discount = float(gamma) if isinstance(gamma, float | int) else None
        self._network, self._deterministic = network, deterministic
        self._normaliser = None if algorithm is None else algorithm.get_vec_normalize_env()
        self._recurrent = hasattr(network, "lstm_hidden_state_shape")
        noise = getattr(network, "use_sde", False) or getattr(getattr(network, "actor", None), "use_sde", False)
        if noise and not deterministic:
            raise ValueError(
                f"{self.name} explores with use_sde: its noise is the same function for many steps, so that its "
                "actions are not independent given the observations; give deterministic=True, or train without it"
            )

    def check_observations(self, space: Any) -> None:
        """Raises:
        ValueError: when the policy was trained on other observations.
        """
        own = self._network.observation_space
        if getattr(own, "shape", None) != getattr(space, "shape", None):
            raise ValueError(f"{self.name} acts on observations {own}, and the environment shows {space}")

    def actions(self, observations: Any, memory: Any) -> tuple[Actions, Any]:
        import torch

        network = self._network
        network.set_training_mode(False)
        if self._normaliser is not None:
            observations = self._normaliser.normalize_obs(observations)
        with torch.no_grad():
            seen, _ = network.obs_to_tensor(observations)
            if self._recurrent:
                count = next(iter(seen.values())).shape[0] if isinstance(seen, dict) else seen.shape[0]
                layers, _, size = network.lstm_hidden_state_shape
                if memory is None:
                    memory = tuple(torch.zeros(layers, count, size, device=network.device) for _ in range(2))
                going_on = torch.zeros(count, device=network.device)
                found, memory = network.get_distribution(seen, memory, going_on)
                return self._of(found), memory
            if hasattr(network, "get_distribution"):
                return self._of(network.get_distribution(seen)), None
            actor: Any = getattr(network, "actor", None)
            if hasattr(actor, "get_action_dist_params"):
                mean, log_std, _ = actor.get_action_dist_params(seen)
                return self._gaussian(mean, log_std.exp()), None
            return Point(self._in_box(network._predict(seen, deterministic=True)), self.name), None

    def took(self, memory: Any, actions: NDArray[Any]) -> Any:
        return memory

    def _of(self, distribution: Any) -> Actions:
        inner = distribution.distribution
        if hasattr(inner, "loc"):
            return self._gaussian(inner.loc, inner.scale)
        if isinstance(inner, list):
            return self._final(Choices([_numbers(each.probs) for each in inner], flat=False))
        if hasattr(inner, "logits") and inner.logits.ndim == 2 and type(inner).__name__ == "Categorical":
            return self._final(Choices([_numbers(inner.probs)], flat=True))
        yes = _numbers(inner.probs)
        return self._final(Choices([np.stack([1 - each, each], axis=-1) for each in yes.T], flat=False))

    def _gaussian(self, mean: Any, std: Any) -> Actions:
        space = self._network.action_space
        box = [np.asarray(each, dtype=np.float64).reshape(-1) for each in (space.low, space.high)]
        squashed = bool(self._network.squash_output)
        found = GaussianActions(_numbers(mean), _numbers(std), box[0], box[1], squashed, space.dtype)
        return self._final(Shaped(found, space.shape))

    def _final(self, actions: Any) -> Actions:
        return Point(actions.mode(), self.name) if self._deterministic else actions

    def _in_box(self, actions: Any) -> NDArray[Any]:
        space = self._network.action_space
        found = actions.cpu().numpy().reshape(-1, *space.shape)
        if not hasattr(space, "low"):
            return np.asarray(found)
        return np.asarray(self._network.unscale_action(found) if self._network.squash_output else
                          np.clip(found, space.low, space.high))  # fmt: skip


def _numbers(values: Any) -> Array:
    return np.asarray(values.detach().double().cpu().numpy())


class Shaped:
    """Gaussian actions in a box of any shape."""

    def __init__(self, actions: GaussianActions, shape: tuple[int, ...]) -> None:
        self._actions, self._shape = actions, shape

    def draw(self, generator: np.random.Generator) -> NDArray[Any]:
        return self._actions.draw(generator).reshape(-1, *self._shape)

    def mode(self) -> NDArray[Any]:
        return self._actions.mode().reshape(-1, *self._shape)

    def log_density(self, actions: NDArray[Any]) -> Array:
        return self._actions.log_density(np.asarray(actions).reshape(len(self._actions.mean), -1))


class Choices:
    """Independent choices among finitely many. ``flat``: a single one, which is a number and no list."""

    def __init__(self, probabilities: Sequence[Array], *, flat: bool) -> None:
        self._cumulative = [np.cumsum(each, axis=-1) for each in probabilities]
        with np.errstate(divide="ignore"):
            self._logs = [np.log(each / each.sum(axis=-1, keepdims=True)) for each in probabilities]
        self._flat = flat

    def draw(self, generator: np.random.Generator) -> NDArray[Any]:
        found = []
        for each in self._cumulative:
            place = generator.random((len(each), 1)) * each[:, -1:]
            found.append((place >= each).sum(axis=-1).clip(max=each.shape[-1] - 1))
        return found[0] if self._flat else np.stack(found, axis=-1)

    def mode(self) -> NDArray[Any]:
        found = [each.argmax(axis=-1) for each in self._logs]
        return np.asarray(found[0] if self._flat else np.stack(found, axis=-1))

    def log_density(self, actions: NDArray[Any]) -> Array:
        taken = np.asarray(actions).astype(np.int64).reshape(len(self._logs[0]), -1)
        parts = [np.take_along_axis(each, taken[:, [i]], axis=-1)[:, 0] for i, each in enumerate(self._logs)]
        return np.asarray(np.sum(parts, axis=0))


class Point:
    """Actions without a choice."""

    def __init__(self, actions: NDArray[Any], name: str) -> None:
        self._actions, self._name = actions, name

    def draw(self, generator: np.random.Generator) -> NDArray[Any]:
        return self._actions

    def log_density(self, actions: NDArray[Any]) -> Array:
        raise no_density(self._name)


def no_density(name: str) -> ValueError:
    return ValueError(
        f"{name} has no density of its actions here, so that episodes of another policy say nothing about it (nor its "
        "episodes about another): certify it from its own episodes, without data_policy; or let it draw its actions, "
        "or give it a method log_prob(observation, action)"
    )


# Ours, and others


class OwnPolicy:
    """The policy of a run."""

    def __init__(self, policy: Any, discount: float | None, deterministic: bool, seed: int) -> None:
        self.name, self.discount = "the policy of m3po.load", discount
        self._policy, self._deterministic = policy, deterministic
        policy.seed(seed)

    def actions(self, observations: Any, memory: Any) -> tuple[Actions, Any]:
        action, memory = self._policy.predict(observations, memory, deterministic=self._deterministic)
        if self._deterministic:
            return Point(action, self.name), memory
        return _Drawn(action, lambda actions: self._policy.log_prob(memory, actions)), memory

    def took(self, memory: Any, actions: NDArray[Any]) -> Any:
        return self._policy.took(memory, actions)


class _Drawn:
    """Actions that were drawn when the policy was asked."""

    def __init__(self, actions: NDArray[Any], log_density: Callable[[NDArray[Any]], Array]) -> None:
        self._actions, self.log_density = actions, log_density

    def draw(self, generator: np.random.Generator) -> NDArray[Any]:
        return self._actions


class PredictingPolicy:
    """Whatever has sb3-contrib's ``predict(observation, state, episode_start, deterministic)`` and no density."""

    discount: float | None = None

    def __init__(self, policy: Any, deterministic: bool) -> None:
        self.name, self._policy, self._deterministic = type(policy).__name__, policy, deterministic

    def actions(self, observations: Any, memory: Any) -> tuple[Actions, Any]:
        state, starts = (None, True) if memory is None else (memory[0], False)
        count = len(next(iter(observations.values())) if isinstance(observations, dict) else observations)
        action, state = self._policy.predict(
            observations, state=state, episode_start=np.full(count, starts), deterministic=self._deterministic
        )
        return Point(np.asarray(action), self.name), (state,)

    def took(self, memory: Any, actions: NDArray[Any]) -> Any:
        return memory


class FunctionPolicy:
    """observation -> action, for one observation at a time; its ``log_prob(observation, action)`` where it has one."""

    discount: float | None = None

    def __init__(self, policy: Callable[[Any], Any]) -> None:
        self.name, self._policy = getattr(policy, "__name__", type(policy).__name__), policy

    def actions(self, observations: Any, memory: Any) -> tuple[Actions, Any]:
        return _OfFunction(self.name, self._policy, observations), None

    def took(self, memory: Any, actions: NDArray[Any]) -> Any:
        return memory


class _OfFunction:
    def __init__(self, name: str, policy: Any, observations: Any) -> None:
        self._name, self._policy, self._observations = name, policy, observations

    def _each(self) -> list[Any]:
        seen = self._observations
        if isinstance(seen, dict):
            return [{key: value[i] for key, value in seen.items()} for i in range(len(next(iter(seen.values()))))]
        return list(seen)

    def draw(self, generator: np.random.Generator) -> NDArray[Any]:
        return np.stack([np.asarray(self._policy(each)) for each in self._each()])

    def log_density(self, actions: NDArray[Any]) -> Array:
        log_prob = getattr(self._policy, "log_prob", None)
        if log_prob is None:
            raise no_density(self._name)
        found = [
            np.asarray(log_prob(seen, action), dtype=np.float64)
            for seen, action in zip(self._each(), actions, strict=True)
        ]
        for each in found:
            if each.size != 1:
                raise ValueError(f"log_prob of {self._name} must return one number, got shape {each.shape}")
        return np.array([each.item() for each in found])
