"""Random instances of three families, from easy to hard, on which the theorems are checked.

"mdp": dense layered processes whose kernels, policies and model range from nearly deterministic to nearly uniform, with
errors from tiny to total. "history": histories of a task-POMDP whose task switches within the episode, with policies
and models of limited memory. "adversarial": the attaining instances, disturbed, with the hardest reward.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from bounds.finite.instance import Instance, Rollout
from bounds.finite.pomdp import FiniteTaskPOMDP
from bounds.finite.process import Array, FiniteProcess, Layers, SparseProcess
from bounds.finite.worst_case import attaining_instance, profile_attaining_instance

ROLLOUTS: tuple[Rollout, ...] = ("full", "averaged", "exact")


def random_distributions(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Distributions over the last axis of ``shape``; one random concentration decides how deterministic they are."""
    weights = rng.gamma(10.0 ** rng.uniform(-1.5, 1.0), size=shape) + 1e-12
    return np.asarray(weights / weights.sum(axis=-1, keepdims=True))


def disturbed(rng: np.random.Generator, kernel: Array, amount: float) -> Array:
    """``(1 - w) kernel + w q`` with q random and w in [0, amount], different in every row."""
    weight = amount * rng.uniform(size=(*kernel.shape[:-1], 1))
    return np.asarray((1.0 - weight) * kernel + weight * random_distributions(rng, kernel.shape))


def _amount(rng: np.random.Generator) -> float:
    """How wrong: exactly nothing, completely, or anything between on a logarithmic scale."""
    return float(rng.choice([0.0, 1.0, 10.0 ** rng.uniform(-3.0, 0.0)], p=[0.1, 0.1, 0.8]))


def _reward_range(rng: np.random.Generator) -> tuple[float, float]:
    low = float(rng.uniform(-2.0, 1.0))
    return low, low + float(10.0 ** rng.uniform(-1.0, 1.0))


def random_mdp(rng: np.random.Generator, *, horizon: int, states: int, actions: int) -> Instance:
    """A dense layered process with a disturbed model and a disturbed policy; T = ``horizon``."""
    low, high = _reward_range(rng)
    homogeneous = rng.uniform() < 0.5

    def layers(layer_count: int, *shape: int) -> Array:
        if homogeneous:
            return np.repeat(random_distributions(rng, (1, *shape)), layer_count, axis=0)
        return random_distributions(rng, (layer_count, *shape))

    transition = layers(horizon, states, actions, states)
    data_policy = layers(horizon + 1, states, actions)
    process = FiniteProcess(
        random_distributions(rng, (states,)),
        transition,
        rng.uniform(low, high, (horizon + 1, states, actions)),
        low,
        high,
    )
    model = disturbed(rng, transition, _amount(rng))
    policy = disturbed(rng, data_policy, _amount(rng))
    return _maybe_hardest(rng, Instance(process, model, data_policy, policy, "mdp"))


def random_task_pomdp(rng: np.random.Generator, *, tasks: int, observations: int, actions: int) -> FiniteTaskPOMDP:
    """A task-POMDP whose task switches by a rule that ignores, or follows, the observation and action."""
    low, high = _reward_range(rng)
    stay = rng.uniform()
    switch_shape = [
        (tasks, tasks),
        (tasks, observations, actions, tasks),
        (tasks, observations, actions, observations, tasks),
    ][rng.integers(3)]
    identity = np.eye(tasks).reshape(tasks, *(1,) * (len(switch_shape) - 2), tasks)
    return FiniteTaskPOMDP(
        random_distributions(rng, (tasks,)),
        random_distributions(rng, (tasks, observations)),
        stay * identity + (1.0 - stay) * random_distributions(rng, switch_shape),
        random_distributions(rng, (tasks, observations, actions, observations)),
        rng.uniform(low, high, (tasks, observations, actions)),
        low,
        high,
    )


def random_history_instance(
    rng: np.random.Generator, *, horizon: int, tasks: int, observations: int, actions: int
) -> Instance:
    """Histories of a switching-task POMDP; policies and model remember L steps, drawn in 0..horizon.

    The model is the best one with that memory, disturbed: it errs by forgetting and by misfitting.
    """
    pomdp = random_task_pomdp(rng, tasks=tasks, observations=observations, actions=actions)
    process = pomdp.sparse_history_process(horizon)
    window = int(rng.integers(0, horizon + 1))
    shapes = [(pomdp.history_count(j), actions) for j in range(window + 1)]
    tables = [random_distributions(rng, shape) for shape in shapes]
    amount = _amount(rng)
    data_policy = pomdp.lift(tables, horizon)
    policy = pomdp.lift([disturbed(rng, table, amount) for table in tables], horizon)
    best = pomdp.best_window_model(process, data_policy, window)
    amount = _amount(rng)
    model = tuple(disturbed(rng, layer, amount) for layer in best)
    return _maybe_hardest(rng, Instance(process, model, data_policy, policy, "history"))


def adversarial_instance(rng: np.random.Generator, *, horizon: int) -> Instance:
    """An attaining instance of Theorem 3 or 4, half of the time disturbed."""
    low, high = _reward_range(rng)
    if rng.uniform() < 0.7:
        # One of the errors is often 0: that is where most bounds are closest to their limit.
        model_error, divergence = (float(10.0 ** rng.uniform(-4.0, 0.0)) * (rng.uniform() < 0.8) for _ in range(2))
        instance = attaining_instance(model_error, divergence, horizon, reward_low=low, reward_high=high)
    else:
        shares = rng.dirichlet(np.full(2 * horizon + 2, 0.5)) * rng.uniform()
        instance = profile_attaining_instance(shares[:horizon], shares[horizon + 1 :], reward_low=low, reward_high=high)
    amount = 0.0 if rng.uniform() < 0.5 else float(10.0 ** rng.uniform(-4.0, -0.5))
    process = instance.process
    assert isinstance(process, SparseProcess)

    def shaken(layers: Array | Layers) -> Layers:
        return tuple(disturbed(rng, layer, amount) for layer in layers)

    if amount > 0.0:
        process = SparseProcess(
            process.initial, process.successors, shaken(process.probabilities), process.reward, low, high
        )
        instance = Instance(process, shaken(instance.model), shaken(instance.data_policy), shaken(instance.policy))
        return _maybe_hardest(
            rng, Instance(process, instance.model, instance.data_policy, instance.policy, "adversarial")
        )
    return Instance(process, instance.model, instance.data_policy, instance.policy, "adversarial")


def _maybe_hardest(rng: np.random.Generator, instance: Instance) -> Instance:
    """Half of the time the hardest reward for a random rollout; a random reward averages most of the gap away."""
    if rng.uniform() < 0.5:
        return instance
    return instance.with_hardest_reward(ROLLOUTS[rng.integers(len(ROLLOUTS))], int(rng.integers(1, 6)))


def draw_mdp(rng: np.random.Generator) -> Instance:
    """``random_mdp`` of a random small size."""
    horizon, states, actions = (int(rng.integers(*ends)) for ends in ((1, 16), (2, 7), (1, 4)))
    return random_mdp(rng, horizon=horizon, states=states, actions=actions)


def draw_history(rng: np.random.Generator) -> Instance:
    """``random_history_instance`` of a random size of at most a few hundred histories."""
    tasks, actions = int(rng.integers(2, 4)), int(rng.integers(1, 4))
    observations = int(rng.integers(2, 4))
    largest = int(np.log(500.0) / np.log(actions * observations))
    horizon = int(rng.integers(1, max(largest, 1) + 1))
    return random_history_instance(rng, horizon=horizon, tasks=tasks, observations=observations, actions=actions)


def draw_adversarial(rng: np.random.Generator) -> Instance:
    """``adversarial_instance`` of a random horizon."""
    return adversarial_instance(rng, horizon=int(rng.integers(1, 25)))


FAMILIES: dict[str, Callable[[np.random.Generator], Instance]] = {
    "mdp": draw_mdp,
    "history": draw_history,
    "adversarial": draw_adversarial,
}
