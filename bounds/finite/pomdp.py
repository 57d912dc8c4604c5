"""A finite task-POMDP, whose hidden task may switch within an episode, and its exact history process.

History ``h_t = (o_0, a_0, ..., o_t)`` has index ``h_{t+1} = (h_t * A + a_t) * O + o_{t+1}`` in layer t+1, and ``h_0 =
o_0``: layer t holds all ``O (A O)^t`` histories, possible or not, because a model may think an impossible one possible.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from bounds.finite.process import (
    Array,
    FiniteProcess,
    Kernels,
    Layers,
    SparseProcess,
    check_distributions,
    check_reward_range,
    check_rewards,
)
from bounds.readable import readable

_DENSE_LIMIT = 2**30  # bytes of one dense transition tensor


def _posterior(joint: Array, otherwise: Array) -> Array:
    """``joint`` divided by its sum over the last axis, ``otherwise`` where that sum is 0."""
    evidence = joint.sum(axis=-1, keepdims=True)
    impossible = evidence == 0.0
    return np.where(impossible, otherwise, joint / np.where(impossible, 1.0, evidence))


@dataclass(frozen=True, eq=False)
class FiniteTaskPOMDP:
    """M tasks, O observations, A actions; the task is hidden and may switch at every step.

    From (tau, o, a) the next observation is drawn from ``observation_kernel``, then the next task from
    ``task_transition``.

    Attributes:
        initial_task: [M], p(tau_0).
        initial_observation: [M, O], p(o_0 | tau_0).
        task_transition: p(tau' | ...) of shape [M, M] (given tau), [M, O, A, M] (given tau, o, a) or [M, O, A, O, M]
            (given tau, o, a, o'), the last of which makes the joint law of (tau', o') arbitrary.
        observation_kernel: [M, O, A, O], p(o' | tau, o, a).
        reward: [M, O, A], r(tau, o, a) within [reward_low, reward_high].

    Raises:
        ValueError: on a wrong shape, a row that is no distribution, or a reward outside its range.
    """

    initial_task: Array
    initial_observation: Array
    task_transition: Array
    observation_kernel: Array
    reward: Array
    reward_low: float
    reward_high: float

    __repr__ = readable

    def __post_init__(self) -> None:
        kernel_shape = np.shape(self.observation_kernel)
        if len(kernel_shape) != 4 or kernel_shape[1] != kernel_shape[3] or 0 in kernel_shape:
            raise ValueError(f"observation_kernel must have shape [M, O, A, O], got {kernel_shape}")
        tasks, observations, actions, _ = kernel_shape
        low, high = check_reward_range(self.reward_low, self.reward_high)
        switch_shapes = {
            2: (tasks, tasks),
            4: (tasks, observations, actions, tasks),
            5: (tasks, observations, actions, observations, tasks),
        }
        rank = np.ndim(self.task_transition)
        if rank not in switch_shapes:
            raise ValueError(f"task_transition must have 2, 4 or 5 axes, got {rank}")
        checked = {
            "initial_task": check_distributions(self.initial_task, (tasks,), "initial_task"),
            "initial_observation": check_distributions(
                self.initial_observation, (tasks, observations), "initial_observation"
            ),
            "task_transition": check_distributions(self.task_transition, switch_shapes[rank], "task_transition"),
            "observation_kernel": check_distributions(self.observation_kernel, kernel_shape, "observation_kernel"),
            "reward": check_rewards(self.reward, (tasks, observations, actions), low, high, "reward"),
        }
        for name, value in checked.items():
            object.__setattr__(self, name, value)
        object.__setattr__(self, "reward_low", low)
        object.__setattr__(self, "reward_high", high)

    @property
    def tasks(self) -> int:
        """M, the number of tasks."""
        return int(np.shape(self.observation_kernel)[0])

    @property
    def observations(self) -> int:
        """O, the number of observations."""
        return int(np.shape(self.observation_kernel)[1])

    @property
    def actions(self) -> int:
        """A, the number of actions."""
        return int(np.shape(self.observation_kernel)[2])

    def _switch(self) -> Array:
        """p(tau' | tau, o, a, o') in its fullest shape [M, O, A, O, M]."""
        m, o, a = self.tasks, self.observations, self.actions
        switch = self.task_transition
        if switch.ndim == 2:
            switch = switch[:, None, None, None, :]
        elif switch.ndim == 4:
            switch = switch[:, :, :, None, :]
        return np.asarray(np.broadcast_to(switch, (m, o, a, o, m)), dtype=np.float64)

    def history_count(self, time: int) -> int:
        """The number of histories of layer ``time``."""
        return int(self.observations * (self.actions * self.observations) ** time)

    def history_index(self, history: Sequence[int]) -> int:
        """The index, in its layer, of the history (o_0, a_0, o_1, ..., o_t).

        Raises:
            ValueError: it does not end in an observation, or an entry is out of range.
        """
        if len(history) % 2 == 0:
            raise ValueError(f"a history ends in an observation, got {len(history)} entries")
        index = 0
        for position, value in enumerate(history):
            size = self.actions if position % 2 else self.observations
            if not 0 <= value < size:
                raise ValueError(f"history entry {position} must be in [0, {size}), got {value}")
            index = index * size + int(value)
        return index

    def task_beliefs(self, horizon: int) -> Layers:
        """``P(tau_t | h_t)`` for t = 0..horizon: arrays [N_t, M].

        On a history of probability zero, where Bayes' rule says nothing, the belief moves by the task transition alone.
        """
        beliefs, _ = self._filter(horizon)
        return beliefs

    def _filter(self, horizon: int) -> tuple[Layers, Layers]:
        """Beliefs [N_t, M] for t = 0..horizon and p(o' | h, a) [N_t, A, O] for t < horizon."""
        if int(horizon) != horizon or horizon < 0:
            raise ValueError(f"horizon must be an integer >= 0, got {horizon}")
        m, o_count, a_count = self.tasks, self.observations, self.actions
        switch = self._switch()
        joint = self.observation_kernel[..., None] * switch
        prior = np.tile(self.initial_task, (o_count, 1))
        belief = _posterior(prior * self.initial_observation.T, prior)
        beliefs, kernels = [belief], []
        for _ in range(int(horizon)):
            size = belief.shape[0]
            kernel = np.empty((size, a_count, o_count))
            following = np.empty((size, a_count, o_count, m))
            for o in range(o_count):  # the histories that end in observation o are o, o + O, o + 2 O, ...
                own = belief[o::o_count]
                kernel[o::o_count] = np.tensordot(own, self.observation_kernel[:, o], axes=1)
                following[o::o_count] = _posterior(
                    np.tensordot(own, joint[:, o], axes=1), np.tensordot(own, switch[:, o], axes=1)
                )
            kernels.append(kernel)
            belief = following.reshape(-1, m)
            beliefs.append(belief)
        return tuple(beliefs), tuple(kernels)

    def sparse_history_process(self, horizon: int) -> SparseProcess:
        """The history process with ``rbar(h, a) = sum_tau P(tau | h) r(tau, o, a)`` and p(o' | h, a), stored sparsely.

        A model of it is, per layer, an array [N_t, A, O] of p_theta(o' | a, h). A million histories (M = O = 3, A = 2,
        horizon 7: 1 007 769 of them), a model, two policies, their branched return at k = 3 and their error profiles
        took at most 110 MB at any time; a test measures it.

        Raises:
            ValueError: horizon is no integer >= 0.
        """
        beliefs, kernels = self._filter(horizon)
        o_count = self.observations
        rewards = []
        for belief in beliefs:
            reward = np.empty((belief.shape[0], self.actions))
            for o in range(o_count):
                reward[o::o_count] = belief[o::o_count] @ self.reward[:, o]
            # A convex combination of rewards can leave their range by one rounding.
            rewards.append(np.clip(reward, self.reward_low, self.reward_high))
        successors = tuple(np.arange(kernel.size, dtype=np.int32).reshape(kernel.shape) for kernel in kernels)
        initial = self.initial_task @ self.initial_observation
        return SparseProcess(initial, successors, kernels, tuple(rewards), self.reward_low, self.reward_high)

    def history_process(self, horizon: int) -> FiniteProcess:
        """The history process as dense arrays: S is the number of full-length histories, the rows of layer t beyond its
        ``layer_sizes[t]`` are padding.

        ``dense_policy`` and ``dense_model`` of ``sparse_history_process(horizon)`` turn lifted layers into its arrays.

        Raises:
            ValueError: horizon is no integer >= 0, or the tensor would exceed 1 GiB (use ``sparse_history_process``).
        """
        needed = 8 * horizon * self.actions * self.history_count(horizon) ** 2
        if needed > _DENSE_LIMIT:
            raise ValueError(
                f"horizon {horizon} needs {needed / 2**30:.1f} GiB for {self.history_count(horizon)} histories; "
                "sparse_history_process holds them sparsely"
            )
        return self.sparse_history_process(horizon).dense()

    def lift(self, tables: Sequence[ArrayLike], horizon: int) -> Layers:
        """A policy or model that sees only the last L steps -> layers over whole histories, for t = 0..horizon.

        Args:
            tables: L+1 arrays; ``tables[j]`` has one row per window ``(o_{t-j}, a_{t-j}, ..., o_t)``, indexed like a
                history of layer j, and serves time t = j; the last one serves every t >= L. Rows are [A] for a policy
                and [A, O] for a model.
            horizon: T for a policy of the process with T transitions, T-1 for a model of it.

        Raises:
            ValueError: no table, or a table with a wrong number of rows.
        """
        layers = [np.asarray(table, dtype=np.float64) for table in tables]
        if not layers:
            raise ValueError("tables must hold at least one array, got none")
        for j, layer in enumerate(layers):
            if layer.shape[0] != self.history_count(j):
                raise ValueError(f"tables[{j}] must have {self.history_count(j)} rows, got {layer.shape[0]}")
        window = len(layers) - 1
        lifted = []
        for t in range(horizon + 1):
            j = min(t, window)
            # Dropping the oldest steps of a history is a remainder of its index.
            lifted.append(layers[j][np.arange(self.history_count(t)) % self.history_count(j)])
        return tuple(lifted)

    def best_window_model(self, process: SparseProcess, data_policy: Kernels, window: int) -> Layers:
        """``p(o' | h_{t-L:t}, a)`` under (data policy, p) at each t: the best prediction with a memory of L steps.

        Its only error is what it forgets. Returns T arrays [N_t, A, O]; a window that real data never show keeps
        the plain average over its histories.
        """
        layers = process.check_policy(data_policy, "data_policy")
        law, model = process.initial, []
        for t, kernel in enumerate(process.probabilities):
            flow = law[:, None] * layers[t]
            rows = self.history_count(min(t, window))
            # Windows are remainders of the history index, so the histories that share one are one column here.
            weight = (flow + 1e-300).reshape(-1, rows, self.actions, 1)
            pooled = (weight * kernel.reshape(-1, rows, *kernel.shape[1:])).sum(axis=0) / weight.sum(axis=0)
            pooled /= pooled.sum(axis=-1, keepdims=True)
            model.append(np.tile(pooled, (kernel.shape[0] // rows, 1, 1)))
            law = process.step(t, kernel, flow)
        return tuple(model)
