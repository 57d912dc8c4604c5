"""Populations with known means that intervals are tried on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from analysis.guarantee.lower_bounds import Samples, summed_discrepancies
from analysis.studies.known_processes import (
    DISCOUNT,
    REWARD_HIGH,
    REWARD_LOW,
    REWARD_SPAN,
    TIMES,
    Array,
    evidence_of,
    random_instance,
    simulate,
)
from bounds import certificate
from bounds.finite import true_return
from bounds.finite.instance import Instance
from bounds.finite.process import state_laws

# (i) Intervals


@dataclass(frozen=True, eq=False)
class Population:
    """Samples with a known range and a known mean.

    Attributes:
        name: for tables.
        low, high: the range.
        mean: exact; a scalar, or [T] for a profile over time.
        sample: (n, generator) -> [n] or [n, T], iid rows.
    """

    name: str
    low: float
    high: float
    mean: Array
    sample: Callable[[int, np.random.Generator], Array]

    @property
    def binary(self) -> bool:
        return self.name.startswith("Bernoulli")


def populations() -> tuple[Population, ...]:
    """What is averaged in this project, on a process with known truth: errors near 0 and not, events, returns, sums."""
    near, far = (random_instance(3, model_error=each, policy_change=0.05) for each in (0.02, 0.6))
    time = TIMES // 2

    def errors(instance: Instance) -> Callable[[int, np.random.Generator], Array]:
        def sample(n: int, rng: np.random.Generator) -> Array:
            return _samples(instance, n, rng)[0].model_error[:, time]

        return sample

    def divergence(n: int, rng: np.random.Generator) -> Array:
        return _samples(near, n, rng)[0].policy_divergence[:, time]

    def visited(when: int, state: int) -> Callable[[int, np.random.Generator], Array]:
        def sample(n: int, rng: np.random.Generator) -> Array:
            return (simulate(near, np.asarray(near.policy), n, rng).states[:, when] == state).astype(np.float64)

        return sample

    def returns(n: int, rng: np.random.Generator) -> Array:
        real = simulate(near, np.asarray(near.policy), n, rng)
        process: Any = near.process
        paid = process.reward[np.arange(TIMES), real.states, real.actions]
        return np.asarray(paid @ DISCOUNT ** np.arange(TIMES))

    def sums(n: int, rng: np.random.Generator) -> Array:
        return _samples(far, n, rng)[1]

    laws = np.array(state_laws(near.process, near.policy))
    events = [np.unravel_index(np.argmin(np.abs(laws - chance)), laws.shape) for chance in (0.05, 0.4)]
    profiles = [each.profiles() for each in (near, far)]
    weight = float((DISCOUNT ** np.arange(TIMES)).sum())
    evidence = evidence_of(far, 2, 1, True, np.random.default_rng(0))
    _, largest = summed_discrepancies(evidence, Samples.of(evidence))
    exact = far.current_policy_profiles()
    summed = certificate(
        exact.model_error, np.zeros(TIMES), discount=DISCOUNT, reward_range=REWARD_SPAN, rollout_length=1,
        tail="absorbing",
    ).value  # fmt: skip
    return (
        Population("error samples near 0", 0.0, 1.0, profiles[0].model_error[time], errors(near)),
        Population("error samples, large", 0.0, 1.0, profiles[1].model_error[time], errors(far)),
        Population("policy divergence", 0.0, 1.0, profiles[0].policy_divergence[time], divergence),
        *(
            Population(f"Bernoulli {laws[at]:.2f}", 0.0, 1.0, laws[at], visited(int(at[0]), int(at[1])))
            for at in events
        ),
        Population(
            "returns", REWARD_LOW * weight, REWARD_HIGH * weight,
            np.asarray(true_return(near.process, near.policy, DISCOUNT)), returns,
        ),
        Population("weighted sums of errors", 0.0, largest, np.asarray(summed), sums),
    )  # fmt: skip


def _samples(instance: Instance, n: int, rng: np.random.Generator) -> tuple[Samples, Array]:
    """Per-step samples of the data policy's episodes, and the weighted sums of the policy's own episodes."""
    other = evidence_of(instance, n, 1, False, rng)
    own = evidence_of(instance, n, 1, True, rng)
    return Samples.of(other), summed_discrepancies(own, Samples.of(own))[0]


def profile_populations() -> tuple[Population, ...]:
    """Error profiles over time, whose entries depend on each other."""
    made = []
    for name, model_error in (("error profile near 0", 0.02), ("error profile, large", 0.6)):
        instance = random_instance(3, model_error=model_error, policy_change=0.05)

        def sample(n: int, rng: np.random.Generator, instance: Instance = instance) -> Array:
            real = simulate(instance, np.asarray(instance.data_policy), n, rng)
            unit = np.where(np.isfinite(real.log_model_density), real.log_model_density - real.log_density, -np.inf)
            return np.asarray(-np.expm1(np.minimum(unit[:, :-1], 0.0)))

        made.append(Population(name, 0.0, 1.0, np.asarray(instance.profiles().model_error), sample))
    return tuple(made)
