"""Theorem 5 and the off-policy estimators held against small instances with every trajectory enumerated."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from bounds.finite.checks import (
    CERTIFIED_ROLLOUTS,
    Measured,
    TheoremReport,
    draw_discount,
    drawn_instances,
    gap_ratio,
    learned_reward_discrepancy,
    measure,
    noisy_reward,
    plain_discrepancy,
    reports_of,
)
from bounds.finite.instance import Instance, Rollout
from bounds.finite.process import Array, Layers, true_return
from bounds.finite.random_instances import adversarial_instance, random_history_instance, random_mdp
from bounds.finite.trajectories import Trajectories, enumerate_trajectories, overlap_discrepancy
from bounds.off_policy import WeightedReturns, control_variate_returns, importance_weighted_returns
from bounds.overlap import FORMS, OverlapLosses, overlap_losses
from bounds.readable import readable

OverlapFunction: TypeAlias = Callable[..., OverlapLosses]
OVERLAP_ROLLOUTS: dict[Rollout, str] = {"full": "full", "averaged": "branched", "exact": "exact"}
# Expectations are sums of up to 1e5 products; their rounding stays below this share of the largest return.
UNBIASED = 1e-12


def draw_small_mdp(rng: np.random.Generator) -> Instance:
    """``random_mdp`` with at most a few thousand trajectories."""
    horizon, states, actions = [(1, 3, 3), (2, 3, 2), (3, 2, 2), (3, 3, 1), (4, 2, 2)][rng.integers(5)]
    return random_mdp(rng, horizon=horizon, states=states, actions=actions)


def draw_small_history(rng: np.random.Generator) -> Instance:
    """``random_history_instance`` with at most a few thousand trajectories."""
    horizon, observations, actions = [(1, 3, 3), (2, 3, 2), (3, 2, 2), (4, 2, 2), (4, 3, 1)][rng.integers(5)]
    return random_history_instance(
        rng, horizon=horizon, tasks=int(rng.integers(1, 4)), observations=observations, actions=actions
    )


def draw_small_adversarial(rng: np.random.Generator) -> Instance:
    """``adversarial_instance`` with at most a few thousand trajectories."""
    return adversarial_instance(rng, horizon=int(rng.integers(1, 4)))


SMALL_FAMILIES: dict[str, Callable[[np.random.Generator], Instance]] = {
    "mdp": draw_small_mdp,
    "history": draw_small_history,
    "adversarial": draw_small_adversarial,
}


def overlap_ratios(
    instance: Instance,
    trajectories: Trajectories,
    measured: Measured,
    model_reward: Layers | None = None,
    evaluate: OverlapFunction = overlap_losses,
) -> Iterator[tuple[str, float]]:
    """(statement, left side / right side), at most 1 where it holds.

    "overlap-full", "-branched" and "-exact": |gap| / the smallest form, "uncapped", with a learned reward
    "overlap-reward-*". "uncapped <= overlap" and so on: each form over the next one, and the last over Theorem 4; the
    discrepancies are those of an episode that ends at T.
    """
    prefix = "overlap-" if model_reward is None else "overlap-reward-"
    for rollout, suffix in OVERLAP_ROLLOUTS.items():
        k = measured.rollout_length
        forms: dict[str, float] = {
            form: overlap_discrepancy(
                instance,
                trajectories,
                measured.discount,
                rollout,
                k,
                form=form,
                model_reward=model_reward,
                evaluate=evaluate,
            )
            for form in FORMS
        }
        gap = instance.return_gap(measured.discount, rollout, k, model_reward=model_reward)
        yield prefix + suffix, gap_ratio(gap, forms["uncapped"], measured.allowance)
        if rollout in CERTIFIED_ROLLOUTS:
            forms["certificate"] = (
                plain_discrepancy(measured, rollout)
                if model_reward is None
                else learned_reward_discrepancy(instance, measured, rollout, model_reward)
            )
        names = list(forms)
        for smaller, larger in itertools.pairwise(names):
            yield f"{smaller} <= {larger}", gap_ratio(forms[smaller], forms[larger], measured.allowance)


@dataclass(frozen=True, eq=False)
class Critic:
    """Any function of state and action for the control variate, with its cap and budget.

    Attributes:
        values: Q_t, T+1 arrays [N_t, A] in [0, largest_t].
        largest: [T+1], q_t.
        ratio_cap: c.
        budget: L.
    """

    values: Layers
    largest: Array
    ratio_cap: float
    budget: float

    __repr__ = readable


def random_critic(rng: np.random.Generator, instance: Instance, discount: float) -> Critic:
    """Noise, the constant q_t, or 0; small and large caps and budgets."""
    times = instance.process.horizon + 1
    largest = np.array(
        [max(instance.reward_range, 1e-3) * (discount ** np.arange(times - t)).sum() for t in range(times)]
    )
    share = rng.integers(4) / 3.0
    values = tuple(
        limit * share * rng.uniform(size=np.shape(layer)) ** rng.integers(2)
        for limit, layer in zip(largest, instance.process.rewards, strict=True)
    )
    return Critic(
        values, largest, float(rng.choice([1.0, 1.5, 3.0])), float(largest[0] * 10.0 ** rng.uniform(-2.0, 1.0))
    )


def trajectory_weighted_returns(
    instance: Instance,
    trajectories: Trajectories,
    discount: float,
    evaluate: Callable[..., WeightedReturns] = importance_weighted_returns,
) -> WeightedReturns:
    """``importance_weighted_returns`` of every trajectory, of an episode that ends at T."""
    return evaluate(
        trajectories.rewards,
        trajectories.log_policy,
        trajectories.log_data_policy,
        discount=discount,
        reward_low=instance.process.reward_low,
        reward_high=instance.process.reward_high,
        tail="absorbing",
    )


def trajectory_control_variate(
    instance: Instance,
    trajectories: Trajectories,
    discount: float,
    critic: Critic,
    evaluate: Callable[..., WeightedReturns] = control_variate_returns,
) -> WeightedReturns:
    """``control_variate_returns`` of every trajectory with the exact U_t, of an episode that ends at T."""
    process = instance.process
    policy, data = process.check_policy(instance.policy), process.check_policy(instance.data_policy)
    expected = [
        (np.minimum(own, critic.ratio_cap * other) * values).sum(axis=-1)
        for own, other, values in zip(policy, data, critic.values, strict=True)
    ]
    times = range(process.horizon + 1)
    states, actions = trajectories.states, trajectories.actions
    return evaluate(
        trajectories.rewards,
        trajectories.log_policy,
        trajectories.log_data_policy,
        np.stack([critic.values[t][states[:, t], actions[:, t]] for t in times], axis=1),
        np.stack([expected[t][states[:, t]] for t in times], axis=1),
        discount=discount,
        reward_low=process.reward_low,
        reward_high=process.reward_high,
        budget=critic.budget,
        ratio_cap=critic.ratio_cap,
        critic_max=critic.largest,
        tail="absorbing",
    )


def covers(instance: Instance) -> bool:
    """Whether the data policy takes every action that the policy takes, everywhere."""
    return all(
        bool(np.all((np.asarray(data) > 0) | (np.asarray(policy) == 0)))
        for data, policy in zip(instance.data_policy, instance.policy, strict=True)
    )


@dataclass(frozen=True)
class TrajectoryReport:
    """What the enumerated instances show.

    Attributes:
        reports: of Theorem 5 and of the order of its forms.
        weighted_error: largest |E X + offset - J|, and where the data policy does not cover the policy the largest
            E X + offset - J, in shares of the largest return in absolute value.
        variate_error: the same of the budgeted control variate.
        least_left: smallest Z + L over all trajectories of all instances, in shares of L; not below 0.
        instances: how many were enumerated.
    """

    reports: tuple[TheoremReport, ...]
    weighted_error: float
    variate_error: float
    least_left: float
    instances: int

    @property
    def holds(self) -> bool:
        """Nothing exceeds its bound, both estimators are unbiased, and no path overspends."""
        return (
            all(report.holds for report in self.reports)
            and max(self.weighted_error, self.variate_error) <= UNBIASED
            and self.least_left >= 0.0
        )


def check_trajectories(
    instances: int, *, seed: int = 0, progress: Callable[[int], object] = lambda done: None
) -> TrajectoryReport:
    """Theorem 5, its forms and both estimators on ``instances`` enumerated instances, from three families in turn.

    Args:
        instances: how many, >= 1. Instance n is drawn from ``numpy.random.default_rng([seed, 5, n])``.
        seed: a natural number.
        progress: called with the number of instances done.

    Raises:
        ValueError: instances < 1.
    """
    found: list[tuple[str, str, float]] = []
    errors, least_left = np.zeros(2), np.inf
    for rng, family, instance in drawn_instances(instances, [seed, 5], SMALL_FAMILIES, progress):
        trajectories = enumerate_trajectories(instance)
        measured = measure(instance, draw_discount(rng), int(rng.integers(1, instance.process.horizon + 2)))
        for reward in (None, noisy_reward(rng, instance)):
            ratios = overlap_ratios(instance, trajectories, measured, reward)
            found += [(statement, family, ratio) for statement, ratio in ratios]
        critic = random_critic(rng, instance, measured.discount)
        variate = trajectory_control_variate(instance, trajectories, measured.discount, critic)
        weighted = trajectory_weighted_returns(instance, trajectories, measured.discount)
        errors = np.maximum(errors, [estimate_error(instance, trajectories, measured, x) for x in (weighted, variate)])
        least_left = min(least_left, float(variate.values.min()) / critic.budget)
    reports = reports_of(found, instances)
    return TrajectoryReport(reports, float(errors[0]), float(errors[1]), float(least_left), instances)


def estimate_error(
    instance: Instance, trajectories: Trajectories, measured: Measured, returns: WeightedReturns
) -> float:
    """|E values + offset - J|, or without cover what exceeds J, in shares of the largest return in absolute value."""
    process = instance.process
    largest = max(abs(process.reward_low), abs(process.reward_high))
    scale = largest * float((measured.discount ** np.arange(process.horizon + 1)).sum())
    error = (
        trajectories.mean(returns.values) + returns.offset - true_return(process, instance.policy, measured.discount)
    )
    error /= max(scale, abs(returns.offset))
    return abs(error) if covers(instance) else error
