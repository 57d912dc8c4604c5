"""Finite layered processes: exact returns under the truth, a model and branched rollouts, and exact error profiles.

Times are t = 0..T with T = ``horizon``: a reward is paid at each of the T+1 layers and there are T transitions, so a
return is the sum over t = 0..T of ``discount**t * r_t``. After T the episode is over, for the true process and the
model alike.

Two types share every function here. ``FiniteProcess`` is dense and suits small state sets. ``SparseProcess`` stores
only the successors of each (state, action), layer by layer, and holds millions of histories. The state may be a whole
history: the theorems of ``bounds`` are stated on that process.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from bounds.readable import readable

Array: TypeAlias = NDArray[np.float64]
Layers: TypeAlias = tuple[Array, ...]
# A policy, a model or a reward: one array with a leading time axis, or one array per time.
Kernels: TypeAlias = Array | Sequence[Array]
Scheme: TypeAlias = Literal["averaged", "exact"]

_PROBABILITY_TOLERANCE = 1e-9


def check_distributions(values: Any, shape: tuple[int, ...], name: str) -> Array:
    """``values`` as float64 of ``shape`` whose last axis holds probability distributions, or ValueError."""
    array = np.asarray(values, dtype=np.float64)
    if array.shape != shape:
        raise ValueError(f"{name} must have shape {shape}, got {array.shape}")
    if not np.all(np.isfinite(array)) or np.any(array < 0):
        raise ValueError(f"{name} must hold finite probabilities >= 0, its smallest entry is {array.min()}")
    sums = array.sum(axis=-1)
    worst = float(np.abs(sums - 1.0).max(initial=0.0))
    if worst > _PROBABILITY_TOLERANCE:
        raise ValueError(f"{name} must sum to 1 over its last axis, one sum is off by {worst:g}")
    return array


def check_rewards(values: Any, shape: tuple[int, ...], low: float, high: float, name: str) -> Array:
    array = np.asarray(values, dtype=np.float64)
    if array.shape != shape:
        raise ValueError(f"{name} must have shape {shape}, got {array.shape}")
    slack = 1e-12 * max(1.0, abs(low), abs(high))
    if not np.all((array >= low - slack) & (array <= high + slack)):
        raise ValueError(f"{name} must lie in [{low}, {high}], got values in [{array.min()}, {array.max()}]")
    return array


def check_reward_range(low: float, high: float) -> tuple[float, float]:
    if not (np.isfinite(low) and np.isfinite(high) and low <= high):
        raise ValueError(f"reward_low <= reward_high must be finite, got {low} and {high}")
    return float(low), float(high)


@dataclass(frozen=True, eq=False)
class FiniteProcess:
    """A dense layered process with S states and A actions at each of its T+1 layers.

    A policy of it is an array [T+1, S, A] and a model of it another transition tensor [T, S, A, S].

    Attributes:
        initial: [S], law of the first state.
        transition: [T, S, A, S], ``transition[t, s, a, s']`` = p(s' | s, a) at time t.
        reward: [T+1, S, A], expected reward rbar, within [reward_low, reward_high].
        reward_low, reward_high: the range R = reward_high - reward_low that the theorems use.
        layer_sizes: the number of states that exist at each layer, ``states 0..layer_sizes[t]-1``; None when all S
            exist everywhere. A history process has fewer histories at early layers; the rows beyond are padding.

    Raises:
        ValueError: on a wrong shape, a row that is no distribution, or a reward outside its range.
    """

    initial: Array
    transition: Array
    reward: Array
    reward_low: float
    reward_high: float
    layer_sizes: tuple[int, ...] | None = None

    __repr__ = readable

    def __post_init__(self) -> None:
        transition = np.asarray(self.transition, dtype=np.float64)
        if transition.ndim != 4 or transition.shape[1] != transition.shape[3] or 0 in transition.shape[1:]:
            raise ValueError(f"transition must have shape [T, S, A, S], got {transition.shape}")
        horizon, states, actions, _ = transition.shape
        low, high = check_reward_range(self.reward_low, self.reward_high)
        sizes = (states,) * (horizon + 1) if self.layer_sizes is None else tuple(int(n) for n in self.layer_sizes)
        if len(sizes) != horizon + 1 or not all(1 <= n <= states for n in sizes):
            raise ValueError(f"layer_sizes must be {horizon + 1} numbers in [1, {states}], got {self.layer_sizes}")
        object.__setattr__(self, "initial", check_distributions(self.initial, (states,), "initial"))
        shape = (horizon, states, actions, states)
        object.__setattr__(self, "transition", check_distributions(transition, shape, "transition"))
        reward = check_rewards(self.reward, (horizon + 1, states, actions), low, high, "reward")
        object.__setattr__(self, "reward", reward)
        object.__setattr__(self, "reward_low", low)
        object.__setattr__(self, "reward_high", high)
        object.__setattr__(self, "layer_sizes", sizes)

    @property
    def horizon(self) -> int:
        """T, the number of transitions."""
        return int(np.shape(self.transition)[0])

    @property
    def sizes(self) -> tuple[int, ...]:
        """The number of states that exist at each of the T+1 layers."""
        assert self.layer_sizes is not None
        return self.layer_sizes

    @property
    def kernels(self) -> Layers:
        """The T transition layers, [S, A, S] each."""
        return tuple(self.transition)

    @property
    def rewards(self) -> Layers:
        """The T+1 reward layers, [S, A] each."""
        return tuple(self.reward)

    def check_model(self, model: Kernels, name: str = "model") -> Layers:
        """``model`` [T, S, A, S] as T validated arrays [S, A, S]."""
        _, states, actions, _ = np.shape(self.transition)
        return tuple(check_distributions(model, (self.horizon, states, actions, states), name))

    def check_policy(self, policy: Kernels, name: str = "policy") -> Layers:
        """``policy`` [T+1, S, A] as T+1 validated arrays [S, A]."""
        _, states, actions, _ = np.shape(self.transition)
        return tuple(check_distributions(policy, (self.horizon + 1, states, actions), name))

    def check_reward(self, reward: Kernels, name: str = "model_reward") -> Layers:
        """``reward`` [T+1, S, A] as T+1 validated arrays [S, A] within the reward range."""
        return tuple(check_rewards(reward, self.reward.shape, self.reward_low, self.reward_high, name))

    def step(self, time: int, kernel: Array, flow: Array) -> Array:
        """The law at ``time + 1`` of mass ``flow`` [..., S, A] that moves by ``kernel`` [S, A, S]."""
        return np.asarray(np.tensordot(flow, kernel, axes=([-2, -1], [0, 1])), dtype=np.float64)

    def with_reward(self, reward: Kernels) -> FiniteProcess:
        """The same process with another reward."""
        return FiniteProcess(
            self.initial,
            self.transition,
            np.asarray(reward, dtype=np.float64),
            self.reward_low,
            self.reward_high,
            self.layer_sizes,
        )


@dataclass(frozen=True, eq=False)
class SparseProcess:
    """A layered process that stores, for each (state, action), only its B_t possible successors.

    Layer t has N_t states. A policy of it is T+1 arrays [N_t, A]; a model of it is T arrays [N_t, A, B_t] over the same
    successors. Successors of probability zero are kept where a model may go there.

    Attributes:
        initial: [N_0], law of the first state.
        successors: T integer arrays [N_t, A, B_t] into layer t+1, without repetition for one (state, action).
        probabilities: T arrays [N_t, A, B_t], p of each successor.
        reward: T+1 arrays [N_t, A], within [reward_low, reward_high].

    Raises:
        ValueError: on a wrong shape, a row that is no distribution, a repeated successor, or a reward outside its
        range.
    """

    initial: Array
    successors: tuple[NDArray[np.int32], ...]
    probabilities: Layers
    reward: Layers
    reward_low: float
    reward_high: float

    __repr__ = readable

    def __post_init__(self) -> None:
        low, high = check_reward_range(self.reward_low, self.reward_high)
        if len(self.reward) != len(self.successors) + 1:
            raise ValueError(f"reward must have {len(self.successors) + 1} layers, got {len(self.reward)}")
        sizes = tuple(np.shape(layer)[0] for layer in self.reward)
        actions = np.shape(self.reward[0])[1]
        for t, successors in enumerate(self.successors):
            if successors.ndim != 3 or successors.shape[:2] != (sizes[t], actions):
                raise ValueError(f"successors[{t}] must have shape [{sizes[t]}, {actions}, B], got {successors.shape}")
            if successors.min() < 0 or successors.max() >= sizes[t + 1]:
                raise ValueError(f"successors[{t}] must lie in [0, {sizes[t + 1]}), got {successors.max()}")
            if np.any(np.diff(np.sort(successors, axis=-1), axis=-1) == 0):
                raise ValueError(f"successors[{t}] repeats a successor of one state and action")
        object.__setattr__(self, "reward_low", low)
        object.__setattr__(self, "reward_high", high)
        object.__setattr__(self, "initial", check_distributions(self.initial, (sizes[0],), "initial"))
        object.__setattr__(self, "reward", self.check_reward(self.reward, "reward"))
        object.__setattr__(self, "probabilities", self.check_model(self.probabilities, "probabilities"))

    @property
    def horizon(self) -> int:
        """T, the number of transitions."""
        return len(self.successors)

    @property
    def sizes(self) -> tuple[int, ...]:
        """N_t, the number of states at each of the T+1 layers."""
        return tuple(layer.shape[0] for layer in self.reward)

    @property
    def kernels(self) -> Layers:
        """The T transition layers, [N_t, A, B_t] each."""
        return self.probabilities

    @property
    def rewards(self) -> Layers:
        """The T+1 reward layers, [N_t, A] each."""
        return self.reward

    def check_model(self, model: Kernels, name: str = "model") -> Layers:
        """``model`` as T validated arrays [N_t, A, B_t]."""
        layers = list(model)
        if len(layers) != self.horizon:
            raise ValueError(f"{name} must have {self.horizon} layers, got {len(layers)}")
        return tuple(
            check_distributions(layer, successors.shape, f"{name}[{t}]")
            for t, (layer, successors) in enumerate(zip(layers, self.successors, strict=True))
        )

    def check_policy(self, policy: Kernels, name: str = "policy") -> Layers:
        """``policy`` as T+1 validated arrays [N_t, A]."""
        layers = list(policy)
        if len(layers) != self.horizon + 1:
            raise ValueError(f"{name} must have {self.horizon + 1} layers, got {len(layers)}")
        return tuple(check_distributions(layer, self.reward[t].shape, f"{name}[{t}]") for t, layer in enumerate(layers))

    def check_reward(self, reward: Kernels, name: str = "model_reward") -> Layers:
        """``reward`` as T+1 validated arrays [N_t, A] within the reward range."""
        layers = list(reward)
        if len(layers) != len(self.reward):
            raise ValueError(f"{name} must have {len(self.reward)} layers, got {len(layers)}")
        low, high = self.reward_low, self.reward_high
        return tuple(
            check_rewards(layer, np.shape(own), low, high, f"{name}[{t}]")
            for t, (layer, own) in enumerate(zip(layers, self.reward, strict=True))
        )

    def step(self, time: int, kernel: Array, flow: Array) -> Array:
        """The law at ``time + 1`` of mass ``flow`` [..., N_t, A] that moves by ``kernel`` [N_t, A, B_t]."""
        targets, size = self.successors[time].ravel(), self.sizes[time + 1]
        rows = [
            np.bincount(targets, weights=(row[..., None] * kernel).ravel(), minlength=size).astype(
                np.float64, copy=False
            )
            for row in flow.reshape(-1, *flow.shape[-2:])
        ]
        return np.stack(rows).reshape(*flow.shape[:-2], size)

    def with_reward(self, reward: Kernels) -> SparseProcess:
        """The same process with another reward."""
        layers = tuple(np.asarray(layer, dtype=np.float64) for layer in reward)
        return SparseProcess(
            self.initial, self.successors, self.probabilities, layers, self.reward_low, self.reward_high
        )

    def dense(self) -> FiniteProcess:
        """The same process as a ``FiniteProcess`` with S = max N_t; the rows that do not exist are padding."""
        states = max(self.sizes)
        rewards = np.full((self.horizon + 1, states, self.reward[0].shape[1]), self.reward_low)
        for t, layer in enumerate(self.reward):
            rewards[t, : len(layer)] = layer
        initial = np.zeros(states)
        initial[: self.sizes[0]] = self.initial
        return FiniteProcess(
            initial,
            self.dense_model(self.probabilities),
            rewards,
            self.reward_low,
            self.reward_high,
            self.sizes,
        )

    def dense_model(self, model: Kernels) -> Array:
        """A model of this process -> the tensor [T, S, A, S] for ``dense()``; padding rows move to state 0."""
        layers = self.check_model(model)
        states, actions = max(self.sizes), self.reward[0].shape[1]
        tensor = np.zeros((self.horizon, states, actions, states))
        tensor[..., 0] = 1.0
        for t, (layer, successors) in enumerate(zip(layers, self.successors, strict=True)):
            tensor[t, : len(layer), :, 0] = 0.0
            rows, columns = np.ogrid[: layer.shape[0], :actions]
            tensor[t, rows[..., None], columns[..., None], successors] = layer
        return tensor

    def dense_policy(self, policy: Kernels) -> Array:
        """A policy of this process -> the array [T+1, S, A] for ``dense()``; padding rows are uniform."""
        layers = self.check_policy(policy)
        actions = self.reward[0].shape[1]
        tensor = np.full((self.horizon + 1, max(self.sizes), actions), 1.0 / actions)
        for t, layer in enumerate(layers):
            tensor[t, : len(layer)] = layer
        return tensor


Process: TypeAlias = FiniteProcess | SparseProcess


@dataclass(frozen=True, eq=False)
class ErrorProfiles:
    """The errors of Definitions 1 and 2 of the paper, per step, all in [0, 1].

    Attributes:
        model_error: [T], m_t = E over (data policy, p) of TV(p, model) at (h_t, a_t).
        policy_divergence: [T+1], d_t = E over (data policy, p) of TV(data policy, policy) at h_t.
        policy_divergence_sup: max over every layer and state of TV(data policy, policy).
    """

    model_error: Array
    policy_divergence: Array
    policy_divergence_sup: float

    __repr__ = readable

    @property
    def model_error_max(self) -> float:
        """eps_m = max_t m_t; 0 when there is no transition."""
        return float(self.model_error.max(initial=0.0))


def _check_discount(discount: float) -> float:
    if not 0.0 <= discount < 1.0:
        raise ValueError(f"discount must be in [0, 1), got {discount}")
    return float(discount)


def _check_rollout(rollout_length: int, scheme: str) -> int:
    if int(rollout_length) != rollout_length or rollout_length < 1:
        raise ValueError(f"rollout_length must be an integer >= 1, got {rollout_length}")
    if scheme not in ("averaged", "exact"):
        raise ValueError(f"scheme must be 'averaged' or 'exact', got {scheme!r}")
    return int(rollout_length)


def _laws(process: Process, kernels: Sequence[Array], policy: Sequence[Array]) -> Iterator[Array]:
    law = process.initial
    yield law
    for t in range(process.horizon):
        law = process.step(t, kernels[t], law[:, None] * policy[t])
        yield law


def state_laws(process: Process, policy: Kernels, model: Kernels | None = None) -> Layers:
    """The law of the state at t = 0..T under ``policy`` and ``model`` (the true process when None)."""
    kernels = process.kernels if model is None else process.check_model(model)
    return tuple(_laws(process, kernels, process.check_policy(policy)))


def _discounted(laws: Iterator[Array], policy: Sequence[Array], rewards: Sequence[Array], discount: float) -> float:
    total, weight = 0.0, 1.0
    for t, law in enumerate(laws):
        total += weight * float(np.sum(law[:, None] * policy[t] * rewards[t]))
        weight *= discount
    return total


def true_return(process: Process, policy: Kernels, discount: float) -> float:
    """The discounted return of the policy in the true process, exactly.

    ``J = sum_{t=0..T} discount^t E_{policy, p}[rbar(h_t, a_t)]``.

    Raises:
        ValueError: a wrong policy, or a discount outside [0, 1).
    """
    checked = process.check_policy(policy)
    return _discounted(_laws(process, process.kernels, checked), checked, process.rewards, _check_discount(discount))


def full_model_return(
    process: Process, model: Kernels, policy: Kernels, discount: float, *, model_reward: Kernels | None = None
) -> float:
    """The discounted return of the policy in the model, exactly.

    ``J_full = sum_{t=0..T} discount^t E_{policy, model}[rbar(h_t, a_t)]``: the model from the first step on.

    ``model_reward`` replaces rbar by a learned reward r_theta of the same shape and range.

    Raises:
        ValueError: a wrong model, policy or reward, or a discount outside [0, 1).
    """
    checked, kernels = process.check_policy(policy), process.check_model(model)
    rewards = process.rewards if model_reward is None else process.check_reward(model_reward)
    return _discounted(_laws(process, kernels, checked), checked, rewards, _check_discount(discount))


def branched_laws(
    process: Process,
    model: Kernels,
    data_policy: Kernels,
    policy: Kernels,
    rollout_length: int,
    scheme: Scheme = "averaged",
) -> Iterator[Array]:
    """The law of the state at t = 0..T in branched rollouts of ``rollout_length`` k.

    With ``rho^(i)_t`` = (data policy, p) up to time t-i, then i steps of (policy, model): the average of rho^(i)_t over
    i = 1..min(t, k) (scheme "averaged", the definition under which the paper's Table 1 sums) or rho^(min(t, k))_t alone
    (scheme "exact", Janner et al. 2019). At t = 0 it is the true initial law.
    """
    k = _check_rollout(rollout_length, scheme)
    kernels = process.check_model(model)
    data, learner = process.check_policy(data_policy, "data_policy"), process.check_policy(policy)
    return _branched(process, kernels, data, learner, k, scheme)


def _branched(
    process: Process, kernels: Sequence[Array], data: Sequence[Array], learner: Sequence[Array], k: int, scheme: Scheme
) -> Iterator[Array]:
    data_law = process.initial
    yield data_law
    branches = np.empty((0, data_law.shape[0]))  # row i-1 is rho^(i)_t
    for t in range(process.horizon):
        starts = np.concatenate([data_law[None], branches[: k - 1]])
        branches = process.step(t, kernels[t], starts[..., None] * learner[t])
        data_law = process.step(t, process.kernels[t], data_law[:, None] * data[t])
        yield branches.mean(axis=0) if scheme == "averaged" else branches[-1]


def branched_return(
    process: Process,
    model: Kernels,
    data_policy: Kernels,
    policy: Kernels,
    discount: float,
    rollout_length: int,
    scheme: Scheme = "averaged",
    *,
    model_reward: Kernels | None = None,
) -> float:
    """The discounted return of the policy in rollouts of k model steps from the data policy's states, exactly.

    ``J_branch(k) = sum_{t=0..T} discount^t E_{h_t ~ branched law, a_t ~ policy}[rbar(h_t, a_t)]``.

    The branched law is that of ``branched_laws``. ``model_reward`` replaces rbar by a learned reward r_theta of the
    same shape and range.

    Raises:
        ValueError: a wrong model, policy or reward, a discount outside [0, 1), rollout_length < 1, an unknown scheme.
    """
    discount = _check_discount(discount)
    laws = branched_laws(process, model, data_policy, policy, rollout_length, scheme)
    rewards = process.rewards if model_reward is None else process.check_reward(model_reward)
    return _discounted(laws, process.check_policy(policy), rewards, discount)


def error_profiles(process: Process, model: Kernels, data_policy: Kernels, policy: Kernels) -> ErrorProfiles:
    """Model error and policy divergence at every step, exactly.

    ``m_t`` and ``d_t`` exactly, and ``sup_h TV(data_policy, policy)``; TV is half the L1 distance.

    The model error *under the current policy*, which MBPO 4.3 uses, is ``error_profiles(process, model, policy,
    policy)``.
    """
    kernels = process.check_model(model)
    data, learner = process.check_policy(data_policy, "data_policy"), process.check_policy(policy)
    model_error, policy_divergence, largest = [], [], 0.0
    for t, law in enumerate(_laws(process, process.kernels, data)):
        divergence = 0.5 * np.abs(data[t] - learner[t]).sum(axis=-1)
        policy_divergence.append(float(law @ divergence))
        largest = max(largest, float(divergence[: process.sizes[t]].max()))
        if t < process.horizon:
            distance = 0.5 * np.abs(process.kernels[t] - kernels[t]).sum(axis=-1)
            model_error.append(float(np.sum(law[:, None] * data[t] * distance)))
    # Rounding can lift a distance of exactly 1 above 1, which the bounds would refuse.
    return ErrorProfiles(
        np.minimum(np.array(model_error), 1.0), np.minimum(np.array(policy_divergence), 1.0), min(largest, 1.0)
    )


def reward_error_profile(process: Process, model_reward: Kernels, data_policy: Kernels) -> Array:
    """The mean error of a learned reward at every step, exactly.

    ``e_t = E over (data policy, p) of |rbar - model_reward|`` at (h_t, a_t), t = 0..T: [T+1], in reward units.
    """
    rewards, data = process.check_reward(model_reward), process.check_policy(data_policy, "data_policy")
    return np.array(
        [
            float(np.sum(law[:, None] * data[t] * np.abs(process.rewards[t] - rewards[t])))
            for t, law in enumerate(_laws(process, process.kernels, data))
        ]
    )
