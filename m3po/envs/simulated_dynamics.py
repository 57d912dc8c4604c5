"""One-step densities of simulated bodies with Gaussian process noise on every observed coordinate."""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np

from m3po.envs.protocol import Array, Tasks


class Simulator(Protocol):
    """A deterministic one-step map."""

    def outcome(self, observation: Array, action: Array, task: int) -> Array:
        """f_task(o, a). Shapes [O], [A], () -> [O]."""
        ...


class SimulatedDynamics:
    """o_{t+1} = f_task(o_t, a_t) + process_noise * xi_t, with xi_t standard normal on every coordinate.

    f is the simulator's step from the observed state. All methods are batched: leading dimensions [...] are shared.

    Args:
        simulator: the deterministic map; it must be no environment that is in use.
        process_noise: [O] standard deviations, > 0.
        reward_low, reward_high: the reward, given task, observation and action, lies between them.
    """

    def __init__(self, simulator: Simulator, process_noise: Array, reward_low: float, reward_high: float) -> None:
        self.reward_low = reward_low
        self.reward_high = reward_high
        self.process_noise = process_noise
        self._simulator = simulator

    def mean(self, observation: Array, action: Array, task: Tasks) -> Array:
        """f_task(o, a), one simulation for each row. Shapes [..., O], [..., A], [...] -> [..., O].

        Rows whose task is negative (no step was taken there: the padding after an episode's end) are NaN.
        """
        observation, action, task = np.asarray(observation), np.asarray(action), np.asarray(task)
        shape = np.broadcast_shapes(observation.shape[:-1], action.shape[:-1], task.shape)
        size = observation.shape[-1]
        observations = np.broadcast_to(observation, (*shape, size)).reshape(-1, size)
        actions = np.broadcast_to(action, (*shape, action.shape[-1])).reshape(-1, action.shape[-1])
        tasks = np.broadcast_to(task, shape).reshape(-1)
        result = np.full(observations.shape, np.nan)
        # Changing the task costs more than a step: one task after the other.
        for row in np.argsort(tasks, kind="stable"):
            if tasks[row] >= 0:
                result[row] = self._simulator.outcome(observations[row], actions[row], int(tasks[row]))
        return result.reshape(*shape, size)

    def log_density(self, next_observation: Array, observation: Array, action: Array, task: Tasks) -> Array:
        """log p(o_{t+1} | task_t, o_t, a_t), in nats. Shapes [..., O], [..., O], [..., A], [...] -> [...].

        Rows whose task is negative are no steps and get 0, as m3po.errors fills them.
        """
        residual = (next_observation - self.mean(observation, action, task)) / self.process_noise
        log_normaliser = np.sum(np.log(self.process_noise)) + 0.5 * len(self.process_noise) * math.log(2 * math.pi)
        log_density = -0.5 * np.sum(residual**2, axis=-1) - log_normaliser
        return np.where(np.asarray(task) < 0, 0.0, log_density)
