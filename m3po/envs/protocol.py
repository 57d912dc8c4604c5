"""What an environment offers beyond gymnasium, so that guarantees can be checked in it."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Tasks = NDArray[np.int64]


@runtime_checkable
class CertifiableDynamics(Protocol):
    """Dynamics whose one-step density given the true task is known, which is what the model error is measured against.

    Actions are the policy's, in [-1, 1]^A, here and in the protocols below: where the environment's box is another one,
    the dynamics rescale them first, as m3po.episodes.to_environment does.

    Attributes:
        reward_low, reward_high: the expected reward lies in [reward_low, reward_high] for every observation and action.
    """

    reward_low: float
    reward_high: float

    def log_density(self, next_observation: Array, observation: Array, action: Array, task: Tasks) -> Array:
        """log p(o_{t+1} | task_t, o_t, a_t), in nats. Shapes [..., O], [..., O], [..., A], [...] -> [...].

        A negative task marks a row after the end of its episode, which gets any finite number.
        """
        ...


@runtime_checkable
class FilteredDynamics(CertifiableDynamics, Protocol):
    """Certifiable dynamics over finitely many tasks, with a known density given the *history* too: the exact filter."""

    def history_log_density(self, observations: Array, actions: Array, window: int | None = None) -> Array:
        """log p(o_{t+1} | h_t, a_t), in nats. Shapes [N, T+1, O], [N, T, A] -> [N, T].

        Args:
            observations: o_0 .. o_T of N episodes.
            actions: a_0 .. a_{T-1}.
            window: when given, the belief about the task at t starts from the task prior at step max(t - window, 0):
                the predictive of a filter that is restarted there. (What the first observation of the window, and
                actions chosen with a longer memory, give away about earlier steps is not used.)
        """
        ...


@runtime_checkable
class KnownReward(Protocol):
    """Dynamics whose reward is one known function of observation and action in every task."""

    def reward(self, observation: Array, action: Array) -> Array:
        """r(o_t, a_t). Shapes [..., O], [..., A] -> [...]."""
        ...
