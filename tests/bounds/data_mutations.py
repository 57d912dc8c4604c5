"""One-line faults in the modules of Theorem 5 and the off-policy bounds, and which checks notice them.

Each mutant is the module's own source with one passage replaced, executed as another module.
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Any

import numpy as np

from bounds import nonnegative, off_policy, overlap
from bounds.finite import enumerate_trajectories, profile_attaining_instance
from bounds.finite.checks import TOLERANCE, Measured, draw_discount, gap_ratio, measure, noisy_reward
from bounds.finite.instance import Instance, Rollout
from bounds.finite.process import Layers
from bounds.finite.trajectories import Trajectories, overlap_discrepancy
from bounds.finite.trajectory_checks import (
    OVERLAP_ROLLOUTS,
    SMALL_FAMILIES,
    UNBIASED,
    Critic,
    covers,
    draw_small_history,
    estimate_error,
    random_critic,
    trajectory_control_variate,
    trajectory_weighted_returns,
)
from bounds.overlap import FORMS
from tests.bounds.definitions import slow_control_variate, slow_losses


@dataclass(frozen=True)
class SourceMutant:
    """``old`` replaced by ``new`` in the source of a module; equal strings leave it as it is."""

    module: ModuleType
    old: str
    new: str

    @property
    def name(self) -> str:
        """The module's last name."""
        return self.module.__name__.rpartition(".")[2]

    @property
    def change(self) -> str:
        """What was replaced by what, shortened."""
        return "none" if self.old == self.new else f"{self.old} -> {self.new}".replace("\n", " ")

    def passed(self) -> list[bool]:
        """What the four checks say, in the order of ``mutations.CHECKS``; an error is a failed check."""
        source = inspect.getsource(self.module)
        if source.count(self.old) != 1:
            raise ValueError(f"{self.old!r} must occur once in {self.module.__name__}, occurs {source.count(self.old)}")
        changed = ModuleType(f"changed_{self.name}")
        changed.__dict__["__name__"] = self.module.__name__  # dataclasses look their module up
        exec(compile(source.replace(self.old, self.new), f"changed {self.name}", "exec"), changed.__dict__)

        def good(check: Callable[[Any], bool]) -> bool:
            try:
                with np.errstate(all="ignore"):
                    return check(changed)
            except (ValueError, IndexError, TypeError):
                return False

        return [good(check) for check in CHECKS_OF[self.module]]


@dataclass(frozen=True, eq=False)
class Case:
    """An enumerated instance, measured, with a learned reward and a critic for it."""

    instance: Instance
    trajectories: Trajectories
    measured: Measured
    reward: Layers
    critic: Critic


@cache
def panel() -> tuple[Case, ...]:
    """Instances of the three small families."""
    cases = []
    for n in range(24):
        rng = np.random.default_rng([23, n])
        instance = list(SMALL_FAMILIES.values())[n % 3](rng)
        measured = measure(instance, draw_discount(rng), int(rng.integers(1, 4)))
        critic = random_critic(rng, instance, measured.discount)
        cases.append(Case(instance, enumerate_trajectories(instance), measured, noisy_reward(rng, instance), critic))
    return tuple(cases)


# Theorem 5


def overlap_is_valid(changed: Any) -> bool:
    """No gap of the panel exceeds any form, with the true and a learned reward."""
    for case in panel():
        for rollout, reward, form in itertools.product(OVERLAP_ROLLOUTS, (None, case.reward), FORMS):
            arguments = (case.measured.discount, rollout, case.measured.rollout_length)
            value = overlap_discrepancy(
                case.instance, case.trajectories, *arguments, form=form, model_reward=reward,
                evaluate=changed.overlap_losses,
            )  # fmt: skip
            gap = case.instance.return_gap(*arguments, model_reward=reward)
            if not gap_ratio(gap, value, case.measured.allowance) <= 1.0 + TOLERANCE:
                return False
    return True


@cache
def tight_cases() -> tuple[tuple[Instance, Trajectories, Any, int, tuple[Any, ...]], ...]:
    """(instance, its trajectories, rollout, k, forms that are attained)."""
    cases: list[Any] = []
    for k in (1, 2, 3):
        instance = profile_attaining_instance([0.1, 0.02, 0.07], [0.05, 0.1, 0.0, 0.02])
        cases += [(instance, enumerate_trajectories(instance), rollout, k, FORMS) for rollout in ("full", "averaged")]
        hardest: tuple[Rollout, ...] = ("full", "exact")
        for seed, rollout in itertools.product(range(3), hardest):
            hard = draw_small_history(np.random.default_rng([24, seed])).with_hardest_reward(rollout, k)
            cases.append((hard, enumerate_trajectories(hard), rollout, k, ("uncapped",)))
    return tuple(cases)


def overlap_is_attained(changed: Any) -> bool:
    """Equal to the gap where it is tight."""
    for instance, trajectories, rollout, k, forms in tight_cases():
        gap = -instance.return_gap(0.7, rollout, k)
        for form in forms:
            value = overlap_discrepancy(
                instance, trajectories, 0.7, rollout, k, form=form, evaluate=changed.overlap_losses
            )
            if not np.isclose(value, gap, rtol=1e-9, atol=1e-13):
                return False
    return True


def overlap_matches_table(changed: Any) -> bool:
    """Worked out by hand: gamma = 1/2, k = 2, rho = (1/2, 2, 1), x = (1/4, 1/2, .); then R = 2, the mean of two losses.

    t = 1: v = b min(a, X) = 1/8. t = 2: i = 1: a = 1/2, b = 2, X = 1/2: v = 1; i = 2: a = 1, b = 1, X = 1/8: v = 1/8.
    With reward errors 1/2 of R everywhere: t = 0: v = 1/2; t = 1, b = 1: v = 1/4; t = 2 as before; v counts half.
    """
    steps = {
        "log_density": np.zeros((1, 3)), "log_model_density": np.log([[0.25, 0.5, 7.0]]),
        "log_data_policy": np.zeros((1, 3)), "log_policy": np.log([[0.5, 2.0, 1.0]]),
    }  # fmt: skip
    known = changed.overlap_losses(**steps, discount=0.5, rollout_length=2)
    learned = changed.overlap_losses(
        **steps, discount=0.5, rollout_length=2, rewards=np.ones((1, 3)), predicted_rewards=np.zeros((1, 3)),
        reward_range=2.0,
    )  # fmt: skip
    expected = [0.5 * 7 / 8 + 0.25 * (7 / 8) / 2, (1 - 0.25) + 0.5 * (1 - 0.125) + 0.25 * (1 - 0.5 * 9 / 16)]
    good = np.allclose([known.values[0], learned.values[0]], expected, rtol=1e-13)
    good &= np.allclose([known.largest, learned.largest], [0.75, 1.75], rtol=1e-14)
    losses = overlap.OverlapLosses(np.array([0.25, 0.75] * 500), 1.0, "overlap", 3, 0.5)
    found = changed.overlap_certificate(losses, reward_range=2.0)
    good &= bool(np.isclose(found.estimate, 1.0 + 0.5) and np.isclose(found.tail_part, 0.5))
    good &= bool(1.5 < found.value < 1.56)
    loose = overlap.OverlapLosses(1 - 2 * np.array([0.25, 0.75] * 500), 1.0, "uncapped", 3, 0.5)
    return bool(good and 0.5 < changed.overlap_certificate(loose, reward_range=2.0).value < 0.65)


def overlap_is_derived(changed: Any) -> bool:
    """Equal to the plain loop over branches, also with episodes that end early."""
    rng = np.random.default_rng(25)
    rho, x = (np.exp(0.7 * rng.standard_normal((3, 5))) for _ in range(2))
    rewards = rng.uniform(size=(2, 3, 5))
    mask = np.arange(5) < np.array([[5], [3], [1]])
    for form, scheme, k, learned in itertools.product(FORMS, ("averaged", "exact"), (None, 1, 3), (False, True)):
        error = np.where(mask, np.abs(rewards[0] - rewards[1]), 0.0) if learned else None
        extra = {"rewards": rewards[0], "predicted_rewards": rewards[1], "reward_range": 1.0} if learned else {}
        found = changed.overlap_losses(
            np.zeros((3, 5)), np.log(x), np.zeros((3, 5)), np.log(rho), discount=0.9, rollout_length=k, scheme=scheme,
            form=form, valid=mask, **extra,
        ).values  # fmt: skip
        slow = slow_losses(np.where(mask, rho, 1.0), np.where(mask, x, 1.0), 0.9, k, scheme, form, error)
        if not np.allclose(found, slow, rtol=1e-10):
            return False
    return True


# Importance weights and the control variate


def estimators(changed: Any, case: Case) -> tuple[Any, Any]:
    """The weighted returns and the control variate of every trajectory of a case, by the changed module."""
    arguments = (case.instance, case.trajectories, case.measured.discount)
    return (
        trajectory_weighted_returns(*arguments, changed.importance_weighted_returns),
        trajectory_control_variate(*arguments, case.critic, changed.control_variate_returns),
    )


def returns_are_valid(changed: Any) -> bool:
    """Nothing is negative, and no mean exceeds the true return."""
    for case in panel():
        for found in estimators(changed, case):
            error = estimate_error(case.instance, case.trajectories, case.measured, found)
            if not (found.values.min() >= 0 and error * (1 if covers(case.instance) else 0) <= UNBIASED):
                return False
    return True


def returns_are_attained(changed: Any) -> bool:
    """Both means are the true return where the data policy covers the policy, and the critic's are finite."""
    for case in panel():
        for found in estimators(changed, case):
            error = estimate_error(case.instance, case.trajectories, case.measured, found)
            if covers(case.instance) and not error <= UNBIASED:
                return False
    return True


def returns_match_table(changed: Any) -> bool:
    """Worked out by hand: gamma = 1/2, rho = (2, 1/2), rewards (1, 0) in [-1, 1]; tail, early end; draws; Kish."""
    steps: dict[str, Any] = {
        "rewards": np.array([[1.0, 0.0]]), "log_policy": np.log([[2.0, 0.5]]), "log_data_policy": np.zeros((1, 2)),
        "discount": 0.5, "reward_low": -1.0, "reward_high": 1.0,
    }  # fmt: skip
    worst = changed.importance_weighted_returns(**steps)
    ended = changed.importance_weighted_returns(**steps, valid=np.array([[True, False]]))
    absorbed = changed.importance_weighted_returns(**steps, tail="absorbing")
    # 2 * 2 + .5 * 1 * 1; ended at once: 2 * (2 + .5 + .5), the later times paying 0, which is 1 above the least
    good = np.allclose([worst.values[0], worst.offset], [4.5, -2.0])
    good &= np.allclose([ended.values[0], ended.offset], [6.0, -2.0])
    good &= np.allclose([absorbed.values[0], absorbed.offset], [4.5, -1.5])
    # c = 1.5, q = (3, 2): beta_0 w = min(1, .9/4.5) = .2, Z_0 = 4 - .2 (1.5 * 2 - 1) = 3.6;
    # beta_1 .5 * 2 = min(1, 4.5/3) = 1, Z_1 = 3.6 + .5 - (.5 * 1 - .25)
    variate = changed.control_variate_returns(
        **steps, critic=[[2.0, 1.0]], critic_mean=[[1.0, 0.25]], budget=0.9, ratio_cap=1.5, tail="absorbing"
    )
    good &= np.allclose([variate.values[0], variate.offset], [3.85 + 0.9, -1.5 - 0.9])
    draws = changed.critic_mean_of_draws([2.0, 4.0], np.log([0.5, 0.5]), np.log([0.1, 0.9]))
    good &= np.isclose(draws, (0.8 + 4.0) / 2)
    sizes = changed.effective_sample_sizes(np.log([[1.0, 1.0], [3.0, 1 / 3]]), np.zeros((2, 2)), discount=0.5)
    good &= np.allclose([*sizes.per_time, sizes.overall], [1.6, 2.0, 5**2 / (1.5**2 + 3.5**2)])
    return bool(good)


def returns_are_derived(changed: Any) -> bool:
    """Equal to the plain loops."""
    rng = np.random.default_rng(26)
    rho, r, q, u = (rng.uniform(0, 2.5, (6, 5)), *(rng.uniform(size=(6, 5)) for _ in range(3)))
    steps: dict[str, Any] = {
        "rewards": r, "log_policy": np.log(rho), "log_data_policy": np.zeros((6, 5)), "discount": 0.8,
        "reward_low": 0.0, "reward_high": 1.0,
    }  # fmt: skip
    weighted = changed.importance_weighted_returns(**steps).values
    if not np.allclose(weighted, (0.8 ** np.arange(5) * np.cumprod(rho, axis=1) * r).sum(axis=1), rtol=1e-12):
        return False
    for cap, budget in ((1.0, 0.1), (2.0, 1.0)):
        path = slow_control_variate(rho, r, q, u, np.ones(5), 0.8, cap, budget)
        found = changed.control_variate_returns(
            **steps, critic=q, critic_mean=u, budget=budget, ratio_cap=cap, critic_max=1.0
        )
        if not np.allclose(found.values + found.offset, path[:, -1], rtol=1e-11):
            return False
    return True


# The lower bound without a range


def bound_is_valid(changed: Any) -> bool:
    """All sequences of eight draws of two values: it misses with at most the probability allowed, at every n."""
    for chance in (0.05, 0.3, 0.8):
        sequences = np.array(list(itertools.product([0, 1], repeat=8)))
        probability = (chance**sequences * (1 - chance) ** (1 - sequences)).prod(axis=1)
        for running in (False, True):
            lower = changed.nonnegative_lower(sequences.T.astype(float), 0.8, bets=[0.3, 0.9], running=running)
            missed = (lower[-1] if running else lower) > chance
            if float(probability[missed].sum()) > 0.2:
                return False
    return True


def bound_is_attained(changed: Any) -> bool:
    """The capital at the bound is 1/delta, and below it just above it."""
    samples = np.random.default_rng(27).exponential(size=50)
    lower, bets = float(changed.nonnegative_lower(samples, 0.9)), np.asarray(nonnegative.BETS)[:, None]
    capital = [float(np.prod(1 - bets + bets * samples / m, axis=1).mean()) for m in (lower, lower * (1 + 1e-11))]
    return capital[0] >= 10 * (1 - 1e-11) and capital[1] < 10


def bound_matches_table(changed: Any) -> bool:
    """(1/2 + X/(2 m))^n = 10 at constant X = 3, n = 7; the running bound falls back to no earlier one."""
    known = 3.0 / (2 * 10 ** (1 / 7) - 1)
    fixed = changed.nonnegative_lower(np.full(7, 3.0), 0.9, bets=[0.5])
    running = changed.nonnegative_lower([*np.full(7, 3.0), 0.0, 0.0], 0.9, bets=[0.5], running=True)
    return bool(np.isclose(fixed, known, rtol=1e-11) and np.allclose(running[-3:], known, rtol=1e-9))


def bound_is_derived(changed: Any) -> bool:
    """The root found by halving."""
    samples = np.random.default_rng(28).lognormal(size=30)
    bets, low, high = np.asarray(nonnegative.BETS)[:, None], 0.0, float(samples.mean())
    for _ in range(100):
        middle = (low + high) / 2
        rejected = np.prod(1 - bets + bets * samples / middle, axis=1).mean() >= 20
        low, high = (middle, high) if rejected else (low, middle)
    return bool(np.isclose(changed.nonnegative_lower(samples, 0.95), low, rtol=1e-11))


CHECKS_OF: dict[ModuleType, tuple[Callable[[Any], bool], ...]] = {
    overlap: (overlap_is_valid, overlap_is_attained, overlap_matches_table, overlap_is_derived),
    off_policy: (returns_are_valid, returns_are_attained, returns_match_table, returns_are_derived),
    nonnegative: (bound_is_valid, bound_is_attained, bound_matches_table, bound_is_derived),
}

CHANGES: dict[ModuleType, tuple[tuple[str, str], ...]] = {
    overlap: (
        ("log_b + np.minimum(log_a, model)", "log_b + model"),
        ("log_b + np.minimum(log_a, model)", "np.minimum(log_a, model)"),
        ("log_b + np.minimum(log_a, model)", "np.minimum(log_a + log_b, model)"),
        ("np.minimum(log_a, 0.0) + np.minimum(log_b, 0.0)", "np.minimum(log_a + log_b, 0.0)"),
        ("np.minimum(1.0, lost_policy[:, times] + model)", "(lost_policy[:, times] + model)"),
        ('"product": np.minimum(log_x, 0.0)', '"product": log_x'),
        ("own = log_rho if learned else", "own = 0 * log_rho if learned else"),
        ("    if not learned:\n        lost_policy", "    if learned:\n        lost_policy"),
        ("log_b = log_b[:, 1:] +", "log_b = log_b[:, :-1] +"),
        (
            "model = model[:, 1:] + increments[:, : horizon - i]",
            "model = model[:, 1:] + increments[:, 1 : horizon - i + 1]",
        ),
        ("min(rollout_length, horizon - 1) + 1", "min(rollout_length - 1, horizon - 1) + 1"),
        ("elif i == rollout_length:", "elif i == rollout_length - 1:"),
        ("result /= np.clip(np.arange(horizon), 1, rollout_length)", "result /= rollout_length"),
        ("steps + (1 - steps) * wrong", "steps + 0 * wrong"),
        ("steps + (1 - steps) * wrong", "steps + wrong"),
        ("weights[0] = 0.0", "weights[0] = 1.0"),
        ("np.power(float(discount), np.arange(shape[1]))", "np.power(float(discount), np.arange(shape[1]) + 1)"),
        ("-np.expm1(np.minimum(log_v, 0.0))", "-0.75 * np.expm1(np.minimum(log_v, 0.0))"),
        ("tail_part = reward_range * tail_weight", "tail_part = 0 * tail_weight"),
        ('sides="upper"', 'sides="lower"'),
        ("upper = largest - float(nonnegative_lower(", "upper = largest - 0.5 * float(nonnegative_lower("),
        ("np.where(mask, observed, 0.0)", "observed"),
    ),
    off_policy: (
        ("    log_weight = np.cumsum(log_rho, axis=1)\n    later", "    log_weight = log_rho\n    later"),
        ("(float(np.exp(log_discount).sum()) + later)", "float(np.exp(log_discount).sum())"),
        ("np.where(mask[:, -1], 0.0, -reward_low * later)", "0.0 * mask[:, -1]"),
        ("np.where(mask[:, -1], 0.0, -reward_low * later)", "-reward_low * later + 0.0 * mask[:, -1]"),
        ("steps.offset - budget)", "steps.offset)"),
        ("budget + total, log_before", "budget + total + earned[:, time], log_before"),
        ("log_before[:, time], ratio_cap * largest", "log_before[:, time], largest"),
        ("np.where(log_weight < np.log(afforded),", "np.where(True, np.exp(log_weight),"),
        (" - expected[:, time]) + earned", " - 0.9 * expected[:, time]) + earned"),
        ("np.minimum(steps.log_rho, np.log(ratio_cap))", "steps.log_rho"),
        ("steps.log_weight[:, :-1]], axis=1) + steps.log_discount", "steps.log_weight[:, :-1]], axis=1)"),
        ("log_scale = steps.log_weight + steps.log_discount", "log_scale = steps.log_weight"),
        ("np.minimum(0.0, np.log(ratio_cap) + data - own)", "np.minimum(0.0, data - own)"),
        ("np.square(scaled.sum(axis=0))", "scaled.sum(axis=0)"),
        ("later = np.arange(1, horizon) *", "later = np.arange(0, horizon - 1) *"),
    ),
    nonnegative: (
        ("return log_total - np.log(len(shares)), slope", "return log_total, slope"),
        ("target = -np.log1p(-confidence)", "target = -np.log(confidence)"),
        ("target = -np.log1p(-confidence)", "target = -np.log1p(-confidence) / 2"),
        ("np.exp(log_mean - 4 * _PRECISION)", "np.exp(log_mean + 1e-9)"),
        ("np.exp(log_mean - 4 * _PRECISION)", "np.exp(log_mean - 1e-9)"),
        ("np.logaddexp(np.log1p(-shares)[:, None, None], log_gain)", "np.logaddexp(0.0, log_gain)"),
        ("np.log(shares)[:, None, None] + (log_scaled - log_mean)", "(log_scaled - log_mean)"),
        ("improved[known] = capital > target", "improved[known] = False"),
        ("bounds[n - 1] = best", "bounds[n - 1] = np.where(improved, best, 0.0)"),
    ),
}


def source_mutants() -> list[SourceMutant]:
    """Every change of every module."""
    return [SourceMutant(module, old, new) for module, changes in CHANGES.items() for old, new in changes]


def unbroken_modules() -> list[SourceMutant]:
    """The modules as they are."""
    first = "from __future__ import annotations"
    return [SourceMutant(module, first, first) for module in CHANGES]
