"""Every trajectory of a small instance with its probability: expectations over episodes without sampling.

What Theorem 5 and importance weights are made of are functions of a whole episode, not of its last state; on a finite
process they are enumerated.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bounds.finite.instance import Instance, Rollout
from bounds.finite.process import Array, FiniteProcess, Kernels, Process
from bounds.overlap import Form, OverlapLosses, overlap_losses
from bounds.readable import readable

LARGEST_COUNT = 1_000_000


@dataclass(frozen=True, eq=False)
class Trajectories:
    """All P trajectories that (data policy, p) can take, H = T + 1 reward times.

    Attributes:
        states, actions: [P, H].
        probability: [P], > 0; sums to 1.
        log_data_policy, log_policy: [P, H], log densities of the actions.
        log_density, log_model_density: [P, H], of the transitions t -> t+1; 0 in the last column.
        rewards: [P, H], expected rewards rbar.
    """

    states: NDArray[np.int64]
    actions: NDArray[np.int64]
    probability: Array
    log_data_policy: Array
    log_policy: Array
    log_density: Array
    log_model_density: Array
    rewards: Array

    __repr__ = readable

    def mean(self, values: Array) -> float:
        """E[values], [P], over the data."""
        return float(self.probability @ values)


def _successors(
    process: Process, time: int, states: NDArray[np.int64], actions: NDArray[np.int64]
) -> NDArray[np.int64]:
    """[P, B], the states that the slots of a kernel's last axis stand for."""
    if isinstance(process, FiniteProcess):
        size = process.transition.shape[-1]
        return np.broadcast_to(np.arange(size), (len(states), size))
    return np.asarray(process.successors[time][states, actions], dtype=np.int64)


def count_trajectories(instance: Instance) -> int:
    """How many trajectories (data policy, p) can take."""
    process = instance.process
    data = process.check_policy(instance.data_policy, "data_policy")
    ways = (process.initial > 0).astype(np.float64)
    for time in range(process.horizon):
        flow = ways[:, None] * (data[time] > 0)
        ways = process.step(time, (process.kernels[time] > 0).astype(np.float64), flow)
    return int((ways[:, None] * (data[-1] > 0)).sum())


def enumerate_trajectories(instance: Instance, *, largest_count: int = LARGEST_COUNT) -> Trajectories:
    """Every trajectory that (data policy, p) can take, with its probability.

    Args:
        instance: a process with a model and two policies.
        largest_count: P must not exceed it. Memory: about 64 P H bytes.

    Raises:
        ValueError: more trajectories than ``largest_count``; counted before anything is built.
    """
    count = count_trajectories(instance)
    if count > largest_count:
        raise ValueError(f"the instance must have at most {largest_count} trajectories, got {count}")
    process = instance.process
    data = process.check_policy(instance.data_policy, "data_policy")
    policy, model = process.check_policy(instance.policy), process.check_model(instance.model)
    horizon = process.horizon + 1
    states = np.flatnonzero(process.initial > 0)[:, None]
    actions = np.zeros((len(states), 0), dtype=np.int64)
    probability = process.initial[states[:, 0]]
    slots = np.zeros((len(states), 0), dtype=np.int64)
    for time in range(horizon):
        row, action = np.nonzero(data[time][states[:, -1]] > 0)
        probability = probability[row] * data[time][states[row, -1], action]
        states, slots = states[row], slots[row]
        actions = np.concatenate([actions[row], action[:, None]], axis=1)
        if time == horizon - 1:
            break
        chances = process.kernels[time][states[:, -1], action]
        row, slot = np.nonzero(chances > 0)
        probability = probability[row] * chances[row, slot]
        following = _successors(process, time, states[:, -1], action)[row, slot]
        states = np.concatenate([states[row], following[:, None]], axis=1)
        actions, slots = actions[row], np.concatenate([slots[row], slot[:, None]], axis=1)

    def along(layers: Kernels, *, transitions: bool) -> Array:
        steps = horizon - 1 if transitions else horizon
        values = np.ones((len(states), horizon))
        for time in range(steps):
            here = (states[:, time], actions[:, time])
            values[:, time] = layers[time][(*here, slots[:, time])] if transitions else layers[time][here]
        return values

    with np.errstate(divide="ignore"):
        logs = [
            np.log(along(layers, transitions=transitions))
            for layers, transitions in ((data, False), (policy, False), (process.kernels, True), (model, True))
        ]
    return Trajectories(
        states, actions, probability, logs[0], logs[1], logs[2], logs[3], along(process.rewards, transitions=False)
    )


def overlap_discrepancy(
    instance: Instance,
    trajectories: Trajectories,
    discount: float,
    rollout: Rollout,
    rollout_length: int = 1,
    *,
    form: Form = "overlap",
    model_reward: Kernels | None = None,
    evaluate: Callable[..., OverlapLosses] = overlap_losses,
) -> float:
    """What Theorem 5 subtracts, exactly: R E[loss] over all trajectories of an episode that ends at T.

    Args:
        rollout: "full", "averaged" or "exact".
        model_reward: a learned reward of the process's shape and range, used in place of the true one.
        evaluate: ``bounds.overlap_losses``, or a broken copy of it.
    """
    predicted = None
    if model_reward is not None:
        layers = instance.process.check_reward(model_reward)
        times = range(instance.process.horizon + 1)
        predicted = np.stack([layers[t][trajectories.states[:, t], trajectories.actions[:, t]] for t in times], axis=1)
    losses = evaluate(
        trajectories.log_density,
        trajectories.log_model_density,
        trajectories.log_data_policy,
        trajectories.log_policy,
        discount=discount,
        rollout_length=None if rollout == "full" else rollout_length,
        scheme="exact" if rollout == "exact" else "averaged",
        form=form,
        rewards=None if predicted is None else trajectories.rewards,
        predicted_rewards=predicted,
        reward_range=instance.reward_range,
    )
    return instance.reward_range * trajectories.mean(losses.values)
