"""Finite processes with known truth, simulated as evidence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis.guarantee.evidence import Evidence
from bounds.finite import FiniteProcess
from bounds.finite.instance import Instance
from bounds.finite.random_instances import disturbed, random_distributions

Array = NDArray[np.float64]

DISCOUNT = 0.9

TIMES = 12

REWARD_LOW, REWARD_HIGH = -0.5, 1.0

REWARD_SPAN = REWARD_HIGH - REWARD_LOW

# Processes with known truth


def random_instance(seed: int, *, model_error: float, policy_change: float) -> Instance:
    """Four states, two actions, TIMES reward times, and the reward that is the hardest for branches of one step."""
    rng = np.random.default_rng(seed)
    transition = random_distributions(rng, (TIMES - 1, 4, 2, 4))
    data_policy = random_distributions(rng, (TIMES, 4, 2))
    process = FiniteProcess(
        random_distributions(rng, (4,)), transition, np.zeros((TIMES, 4, 2)), REWARD_LOW, REWARD_HIGH
    )
    policy = disturbed(rng, data_policy, policy_change) if policy_change > 0 else data_policy
    model = disturbed(rng, transition, model_error)
    return Instance(process, model, data_policy, policy).with_hardest_reward("averaged", 1)


def tight_instance(model_error: float) -> Instance:
    """Own data, one action: the gap for k = 1 is R sum_{t>=1} gamma^t ``model_error``, all that Theorem 4 subtracts.

    State 0 pays the least, 1 and 2 the most. The truth goes to 0 or 1 and never to 2; the model sends ``model_error``
    of what goes to 0 to 2 instead.
    """
    transition = np.tile([0.6, 0.4, 0.0], (TIMES - 1, 3, 1, 1))
    model = np.tile([0.6 - model_error, 0.4, model_error], (TIMES - 1, 3, 1, 1))
    reward = np.tile(np.array([REWARD_LOW, REWARD_HIGH, REWARD_HIGH])[:, None], (TIMES, 1, 1))
    policy = np.ones((TIMES, 3, 1))
    process = FiniteProcess(np.array([0.5, 0.5, 0.0]), transition, reward, REWARD_LOW, REWARD_HIGH)
    return Instance(process, model, policy, policy)


def draw(rng: np.random.Generator, law: Array) -> NDArray[np.int64]:
    """One index per row of ``law`` [N, K]."""
    return np.asarray((law.cumsum(axis=1) < rng.uniform(size=(len(law), 1))).sum(axis=1).clip(max=law.shape[1] - 1))


@dataclass(frozen=True, eq=False)
class Episodes:
    """Real episodes: states and actions [N, TIMES], and the log densities along them (0 after the last transition)."""

    states: NDArray[np.int64]
    actions: NDArray[np.int64]
    log_density: Array
    log_model_density: Array
    log_data_policy: Array
    log_policy: Array


def simulate(instance: Instance, policy: Array, episodes: int, rng: np.random.Generator) -> Episodes:
    """Episodes of ``policy`` in the true process."""
    process: Any = instance.process
    behaviour, certified, model = (np.asarray(each) for each in (policy, instance.policy, instance.model))
    states, actions = np.zeros((episodes, TIMES), dtype=np.int64), np.zeros((episodes, TIMES), dtype=np.int64)
    log_p, log_q, log_d, log_pi = (np.zeros((episodes, TIMES)) for _ in range(4))
    states[:, 0] = draw(rng, np.tile(process.initial, (episodes, 1)))
    with np.errstate(divide="ignore"):
        for t in range(TIMES):
            actions[:, t] = draw(rng, behaviour[t, states[:, t]])
            here = (t, states[:, t], actions[:, t])
            log_d[:, t], log_pi[:, t] = np.log(behaviour[here]), np.log(certified[here])
            if t < TIMES - 1:
                states[:, t + 1] = draw(rng, process.transition[here])
                log_p[:, t] = np.log(process.transition[(*here, states[:, t + 1])])
                log_q[:, t] = np.log(model[(*here, states[:, t + 1])])
    return Episodes(states, actions, log_p, log_q, log_d, log_pi)


def model_returns(instance: Instance, real: Episodes, rollout_length: int | None, rng: np.random.Generator) -> Array:
    """One unbiased sample of the model return per real episode: at every t the number of model steps is drawn."""
    process: Any = instance.process
    policy, model = np.asarray(instance.policy), np.asarray(instance.model)
    count = len(real.states)
    returns = np.zeros(count)
    if rollout_length is None:  # one rollout from the real start
        current = real.states[:, 0]
        for t in range(TIMES):
            action = draw(rng, policy[t, current])
            returns += DISCOUNT**t * process.reward[t, current, action]
            if t < TIMES - 1:
                current = draw(rng, model[t, current, action])
        return returns
    for t in range(TIMES):
        limit = min(t, rollout_length)
        steps = rng.integers(1, limit + 1, count) if limit else np.zeros(count, dtype=np.int64)
        current = real.states[np.arange(count), t - steps]
        for back in range(limit, 0, -1):
            action = draw(rng, policy[t - back, current])
            current = np.where(steps >= back, draw(rng, model[t - back, current, action]), current)
        action = draw(rng, policy[t, current])
        returns += DISCOUNT**t * process.reward[t, current, action]
    return returns


def model_critic(instance: Instance) -> Array:
    """Q_t(s, a) [TIMES, S, A] of the policy in the model, what is paid above the least: what a critic fitted on
    rollouts aims at."""
    process: Any = instance.process
    policy, model = np.asarray(instance.policy), np.asarray(instance.model)
    values = process.reward - REWARD_LOW
    for t in reversed(range(TIMES - 1)):
        values[t] += DISCOUNT * model[t] @ (policy[t + 1] * values[t + 1]).sum(axis=-1)
    return np.asarray(values)


# Draws of the policy for the critic's mean.
DRAWS = 3


def rewards_of(instance: Instance, real: Episodes, data_policy: Array, rng: np.random.Generator) -> dict[str, Array]:
    """What the episodes were paid, the critic there, and its draws."""
    process: Any = instance.process
    policy, critic = np.asarray(instance.policy), model_critic(instance)
    times = np.arange(TIMES)
    here = (times, real.states, real.actions)
    drawn = np.zeros((*real.states.shape, DRAWS), dtype=np.int64)
    for t in times:
        for index in range(DRAWS):
            drawn[:, t, index] = draw(rng, policy[t, real.states[:, t]])
    at = (times[:, None], real.states[:, :, None], drawn)
    with np.errstate(divide="ignore"):
        return {
            "rewards": process.reward[here], "critic": critic[here], "critic_draws": critic[at],
            "log_policy_draws": np.log(policy[at]), "log_data_policy_draws": np.log(data_policy[at]),
        }  # fmt: skip


def evidence_of(
    instance: Instance, episodes: int, rollout_length: int | None, own_data: bool, rng: np.random.Generator,
    *, rewards: bool = False,
) -> Evidence:  # fmt: skip
    """What a user would collect; ``own_data``: no policy densities, since the data policy is the policy."""
    acting = np.asarray(instance.policy if own_data else instance.data_policy)
    real = simulate(instance, acting, episodes, rng)
    entries: dict[str, Any] = {
        "log_density": real.log_density, "log_model_density": real.log_model_density,
        "model_returns": model_returns(instance, real, rollout_length, rng), "reward_low": REWARD_LOW,
        "reward_high": REWARD_HIGH, "discount": DISCOUNT, "rollout_length": rollout_length, "absorbing": True,
    }  # fmt: skip
    if not own_data:
        entries |= {"log_data_policy": real.log_data_policy, "log_policy": real.log_policy}
    if rewards:
        entries |= rewards_of(instance, real, acting, rng)
    if own_data:
        entries = {name: value for name, value in entries.items() if not name.endswith("policy_draws")}
    return Evidence(**entries)
