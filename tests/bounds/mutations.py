"""Every bound with a constant broken on purpose, and which of the suite's checks notice.

``python -m tests.bounds.mutations`` prints the table mutant x check; a mutant that no check notices is a hole in the
suite.

The checks are those that the other tests make: *valid* (no gap of a panel of exact instances exceeds it), *attained*
(it is the known multiple of the gap of the worst instances), *table* (values worked out independently), *derived*
(equal to its sum over time). A loosened bound stays valid, which is why validity alone is not enough.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np

import bounds
from bounds.bound import Arguments, Bound
from bounds.certificate import Certificate
from bounds.finite import Instance, attaining_instance, finite_horizon_discrepancy, profile_attaining_instance
from bounds.finite.checks import (
    CERTIFIED_ROLLOUTS,
    ROLLOUT_OF_SCHEME,
    TOLERANCE,
    CertificateFunction,
    Measured,
    bound_ratio,
    certificate_ratio,
    draw_discount,
    learned_reward_ratio,
    measure,
    noisy_reward,
)
from bounds.finite.process import Layers
from bounds.finite.random_instances import FAMILIES
from bounds.finite.worst_case import with_true_action
from tests.bounds.data_mutations import SourceMutant, source_mutants, unbroken_modules

CHECKS = ("valid", "attained", "table", "derived")


@dataclass(frozen=True)
class Mutant:
    """A changed copy of a bound, or of the certificate, and what was changed."""

    name: str
    change: str
    bound: Bound | None = None
    certificate: CertificateFunction | None = None


def _scaled(factor: float) -> Callable[[Bound], Bound]:
    return lambda bound: replace(bound, formula=lambda x: factor * bound.formula(x))


def _with_argument(change: Callable[[Arguments], Arguments]) -> Callable[[Bound], Bound]:
    return lambda bound: replace(bound, formula=lambda x: bound.formula(change(x)))


def _shifted(steps: int) -> Callable[[Arguments], Arguments]:
    return lambda x: replace(x, k=np.maximum(x.k + steps, 1.0))


CHANGES: dict[str, Callable[[Bound], Bound]] = {
    "x 0.5": _scaled(0.5),
    "x 0.75": _scaled(0.75),
    "x 1.25": _scaled(1.25),
    "eps_m terms x 0.5": _with_argument(lambda x: replace(x, eps_m=0.5 * x.eps_m)),
    "eps_m terms x 0.75": _with_argument(lambda x: replace(x, eps_m=0.75 * x.eps_m)),
    "eps_pi terms x 0.5": _with_argument(lambda x: replace(x, eps_pi=0.5 * x.eps_pi)),
    "eps_pi terms x 0.75": _with_argument(lambda x: replace(x, eps_pi=0.75 * x.eps_pi)),
    "times (1 - gamma)": lambda bound: replace(bound, formula=lambda x: (1 - x.gamma) * bound.formula(x)),
    "over (1 - gamma)": lambda bound: replace(bound, formula=lambda x: bound.formula(x) / (1 - x.gamma)),
    "k -> k - 1": _with_argument(_shifted(-1)),
    "k -> k + 1": _with_argument(_shifted(1)),
}


def bound_mutants(bound: Bound) -> list[Mutant]:
    """Every change that touches ``bound``."""
    return [
        Mutant(bound.name, change, bound=mutate(bound))
        for change, mutate in CHANGES.items()
        if bound.uses_rollout_length or not change.startswith("k ->")
    ]


def certificate_mutants() -> list[Mutant]:
    """Theorem 4 with a factor, a window, a cap or a policy term broken."""

    def with_value(change: Callable[[float], float]) -> CertificateFunction:
        def broken(*arguments: Any, **keywords: Any) -> Certificate:
            true = bounds.certificate(*arguments, **keywords)
            return replace(true, value=change(true.value))

        return broken

    def shorter(m: Any, d: Any, **keywords: Any) -> Certificate:
        k = keywords.pop("rollout_length")
        return bounds.certificate(m, d, rollout_length=None if k is None else max(k - 1, 1), **keywords)

    def scaled_profile(model: float, policy: float) -> CertificateFunction:
        return lambda m, d, **keywords: bounds.certificate(model * np.asarray(m), policy * np.asarray(d), **keywords)

    def late_policy(m: Any, d: Any, **keywords: Any) -> Certificate:
        return bounds.certificate(m, np.concatenate([[0.0], np.asarray(d)[:-1]]), **keywords)

    def reward_without_last_action(m: Any, d: Any, **keywords: Any) -> Certificate:
        errors = keywords.pop("reward_error_profile", None)
        plain = bounds.certificate(m, d, **keywords)
        if errors is None:
            return plain
        weights = keywords["discount"] ** np.arange(len(d))
        return replace(plain, value=plain.value + float(np.sum(weights * np.asarray(errors))))

    broken = {
        "x 0.5": with_value(lambda value: 0.5 * value),
        "x 0.75": with_value(lambda value: 0.75 * value),
        "x 1.25": with_value(lambda value: 1.25 * value),
        "model errors x 0.75": scaled_profile(0.75, 1.0),
        "policy divergences x 0.75": scaled_profile(1.0, 0.75),
        "k -> k - 1": shorter,
        "policy divergence one step late": late_policy,
        "learned reward: the action at t not counted": reward_without_last_action,
    }
    return [Mutant("certificate", change, certificate=function) for change, function in broken.items()]


@dataclass(frozen=True, eq=False)
class Case:
    """One instance of the panel, measured, with a learned reward for it."""

    instance: Instance
    measured: Measured
    reward: Layers


@cache
def panel() -> tuple[Case, ...]:
    """Random instances of every family and hand-made hard ones, at several discounts and rollout lengths."""
    cases = []

    def add(instance: Instance, discount: float, k: int, rng: np.random.Generator) -> None:
        cases.append(Case(instance, measure(instance, discount, k), noisy_reward(rng, instance)))

    for n in range(90):
        rng = np.random.default_rng([17, n])
        instance = list(FAMILIES.values())[n % len(FAMILIES)](rng)
        add(instance, draw_discount(rng), int(rng.integers(1, 6)), rng)
    rng = np.random.default_rng(18)
    for discount, horizon in ((0.5, 30), (0.9, 150)):
        for k in (1, 2, 4):
            for model_error, divergence in ((1e-3, 0.0), (0.0, 1e-3), (0.1, 0.0), (0.0, 0.1), (0.05, 0.05), (0.3, 0.2)):
                instance = attaining_instance(model_error, divergence, horizon)
                add(instance, discount, k, rng)
                if divergence > 0.0:
                    add(with_true_action(instance), discount, k, rng)
    return tuple(cases)


def is_valid(bound: Bound) -> bool:
    """No gap of the panel exceeds the bound."""
    return all(bound_ratio(bound, case.measured) <= 1.0 + TOLERANCE for case in panel())


# gap / discrepancy of the attaining instance as both errors vanish, at k = 1 and discount g: (only eps_m, only eps_pi).
# 1 where the bound is tight, and otherwise exactly how loose it is: the sum over time that was bounded, over its bound.
FIRST_ORDER_SHARE: dict[str, Callable[[float], tuple[float, float]]] = {
    "m3po-th1": lambda g: (1.0, g / 2),
    "m3po-th2": lambda g: (1.0, g / (1 + g)),
    "mbpo-4.1": lambda g: (1.0, g / 2),
    "mbpo-4.2": lambda g: (g, g / (g**2 + (g + 4) * (1 - g))),
    "mbpo-4.3": lambda g: (g, g),
    "linear-full": lambda g: (1.0, 1.0),
    "linear-branched": lambda g: (1.0, 1.0),
    "optimal-full": lambda g: (1.0, 1.0),
    "optimal-branched": lambda g: (1.0, 1.0),
}


@cache
def small_error_cases(discount: float, horizon: int) -> tuple[Measured, Measured, Measured]:
    """Attaining instances with a tiny model error, a tiny policy divergence, and the latter with a true model."""
    tiny = 1e-6
    by_model, by_policy = (
        attaining_instance(*errors, horizon, reward_low=0.0, reward_high=2.0) for errors in ((tiny, 0.0), (0.0, tiny))
    )
    return (
        measure(by_model, discount, 1),
        measure(by_policy, discount, 1),
        measure(with_true_action(by_policy), discount, 1),
    )


def is_attained(bound: Bound) -> bool:
    """The worst instances use up the known share of the bound; all of it, at any error, for the optimal ones."""
    for discount, horizon in ((0.3, 30), (0.6, 60)):
        model_share, policy_share = FIRST_ORDER_SHARE[bound.name](discount)
        by_model, by_policy, by_policy_alone = small_error_cases(discount, horizon)
        # Under 4.3's eps_m' the model must be right where the policy acts, or the case has a total model error.
        measured = by_policy_alone if bound.name == "mbpo-4.3" else by_policy
        if not np.isclose(bound_ratio(bound, by_model), model_share, rtol=1e-4):
            return False
        if not np.isclose(bound_ratio(bound, measured), policy_share, rtol=1e-4):
            return False
    if bound.name.startswith("optimal"):
        for k in (1, 3):
            gap = -attaining_instance(0.2, 0.1, 60, reward_low=0.0, reward_high=2.0).return_gap(
                0.6, ROLLOUT_OF_SCHEME[bound.scheme], k
            )
            value = bound.evaluate(discount=0.6, model_error=0.2, policy_divergence=0.1, rollout_length=k)
            if not np.isclose(gap, value, rtol=1e-10):
                return False
    return True


TABLE_NAMES = ("m3po-th1", "m3po-th2", "linear-branched", "linear-full", "optimal-branched", "optimal-full")
TABLE_ROWS = (
    ((0.95, 1, 0.1, 0.1), (236, 159.8, 79.8, 152, 29.152219504202, 33.694440952830)),
    ((0.95, 5, 0.1, 0.1), (236, 173.19264875, 86.496324375, 152, 31.652761276829, 33.694440952830)),
    ((0.9, 1, 0.2, 0.0), (36, 3.6, 3.6, 36, 3.6, 14.74236)),
    ((0.9, 10, 0.05, 0.02), (17, 11.973325827370, 6.980947019550, 12.6, 6.273443375473, 9.356868120240)),
    ((0.99, 1, 0.01, 0.01), (598, 399.98, 199.98, 396, 101.467537521858, 149.246072705275)),
)
# discount, k, eps_m, eps_pi -> value for r_max = 1. mbpo-4.1 is m3po-th1's expression. The last row by hand:
# 4.2: 2 (.1 + .9 + 2.8), 4.3: 2 (.1 + .1 + 1.2), linear-branched: f(2) eps_m + 4 eps_pi with f(2) = 2.5.
TABLE: tuple[tuple[tuple[float, int, float, float], dict[str, float]], ...] = (
    *((at, dict(zip(TABLE_NAMES, values, strict=True)) | {"mbpo-4.1": values[0]}) for at, values in TABLE_ROWS),
    ((0.5, 2, 0.3, 0.2), {"mbpo-4.2": 7.6, "mbpo-4.3": 2.8, "linear-branched": 1.55}),
)


def matches_table(bound: Bound) -> bool:
    """The values of the table, to ten digits."""
    return all(
        np.isclose(_value(bound, parameters), row[bound.name], rtol=1e-10, atol=0.0)
        for parameters, row in TABLE
        if bound.name in row
    )


def _value(bound: Bound, parameters: tuple[float, int, float, float]) -> float:
    discount, k, model_error, divergence = parameters
    return float(
        bound.evaluate(discount=discount, rollout_length=k, model_error=model_error, policy_divergence=divergence)
    )


# The summand at time t of each bound for r_max = 1, before any geometric sum was closed.
PER_STEP: dict[str, Callable[[np.ndarray, int, float, float], np.ndarray]] = {
    "m3po-th1": lambda t, k, m, p: 2 * t * (m + 2 * p) + 4 * p,
    "m3po-th2": lambda t, k, m, p: (
        np.where(t >= 1, np.minimum(t, k) + 1, 0) * (m + p) + 2 * p * (t + 1 + np.maximum(t - 1, 0))
    ),
    "mbpo-4.1": lambda t, k, m, p: 2 * (t * (m + 2 * p) + 2 * p),
    "mbpo-4.2": lambda t, k, m, p: 2 * (np.maximum(t - k + 1, 0) * p + k * (m + 2 * p) + 2 * p),
    "mbpo-4.3": lambda t, k, m, p: 2 * (np.maximum(t - k + 1, 0) * p + k * m),
    "linear-full": lambda t, k, m, p: 2 * t * (m + p),
    "linear-branched": lambda t, k, m, p: np.where(t >= 1, 2 * t * p + (np.minimum(t, k) + 1) * m, 0),
}
DERIVED_AT = ((0.5, 1, 0.1, 0.3), (0.8, 3, 0.2, 0.0), (0.9, 7, 0.0, 0.15), (0.7, 2, 0.03, 0.02), (0.0, 2, 0.1, 0.1))


def is_derived(bound: Bound) -> bool:
    """Equal to its sum over time, term by term."""
    times = np.arange(500)
    for discount, k, m, p in DERIVED_AT:
        if bound.name in PER_STEP:
            total = float(np.sum(discount**times * PER_STEP[bound.name](times, k, m, p)))
        else:
            total = finite_horizon_discrepancy(discount, k if bound.scheme == "branched" else None, m, p, 500, 2.0)
        if not np.isclose(_value(bound, (discount, k, m, p)), total, rtol=1e-11, atol=0.0):
            return False
    return True


def certificate_is_valid(function: CertificateFunction) -> bool:
    """No gap of the panel exceeds it, with the true reward and with a learned one."""
    for case in panel():
        for rollout in CERTIFIED_ROLLOUTS:
            ratios = (
                certificate_ratio(case.measured, rollout, function),
                learned_reward_ratio(case.instance, case.measured, rollout, case.reward, function),
            )
            if max(ratios) > 1.0 + TOLERANCE:
                return False
    return True


PROFILES = (np.array([0.1, 0.02, 0.07, 0.04]), np.array([0.05, 0.1, 0.0, 0.02, 0.03]))


def certificate_is_attained(function: CertificateFunction) -> bool:
    """The gap of the instance with given profiles is the certificate."""
    m, d = PROFILES
    instance = profile_attaining_instance(m, d, reward_low=0.0, reward_high=2.0)
    for k in (1, 2, 3):
        measured = measure(instance, 0.7, k)
        shares = [certificate_ratio(measured, rollout, function) for rollout in CERTIFIED_ROLLOUTS]
        if not np.allclose(shares, 1.0, rtol=1e-10):
            return False
    return True


def certificate_matches_table(function: CertificateFunction) -> bool:
    """Worked out by hand: discount 1/2, R = 2, m = (.2, .4), d = (.1, .3, .1), e = (.01, .02, .04), k = 2."""
    m, d, e = [0.2, 0.4], [0.1, 0.3, 0.1], [0.01, 0.02, 0.04]
    settings: dict[str, Any] = {"discount": 0.5, "reward_range": 2.0, "rollout_length": 2, "tail": "absorbing"}
    # t = 1: .1 + .2; t = 2: the mean of .4 + .4 and min(1, .4 + .6).
    plain = 2 * (0.5 * 0.3 + 0.25 * 0.9)
    # The action at t counts too: t = 0: .1; t = 1: .4 + .2; t = 2: the mean of .5 + .4 and min(1, .5 + .6).
    learned = 2 * (0.1 + 0.5 * 0.6 + 0.25 * 0.95) + 0.01 + 0.5 * 0.02 + 0.25 * 0.04
    return bool(
        np.isclose(function(m, d, **settings).value, plain, rtol=1e-12)
        and np.isclose(function(m, d, reward_error_profile=e, **settings).value, learned, rtol=1e-12)
    )


def certificate_is_derived(function: CertificateFunction) -> bool:
    """Equal to the plain double loop over t and i."""
    rng = np.random.default_rng(19)
    for _ in range(20):
        horizon, k = int(rng.integers(1, 8)), int(rng.integers(1, 6))
        m, d = rng.uniform(0, 0.2, horizon), rng.uniform(0, 0.1, horizon + 1)
        total = 0.0
        for t in range(1, horizon + 1):
            steps = range(1, min(t, k) + 1)
            total += 0.8**t * sum(min(1.0, sum(d[:t]) + sum(m[t - i : t])) for i in steps) / len(steps)
        value = function(m, d, discount=0.8, reward_range=3.0, rollout_length=k, tail="absorbing").value
        if not np.isclose(value, 3.0 * total, rtol=1e-11, atol=0.0):
            return False
    return True


def noticed_by(mutant: Mutant | SourceMutant) -> dict[str, bool]:
    """Check -> whether it fails on the mutant, which is what it should do."""
    if isinstance(mutant, SourceMutant):
        passed = mutant.passed()
    elif mutant.bound is not None:
        passed = [check(mutant.bound) for check in (is_valid, is_attained, matches_table, is_derived)]
    else:
        assert mutant.certificate is not None
        passed = [
            check(mutant.certificate)
            for check in (
                certificate_is_valid,
                certificate_is_attained,
                certificate_matches_table,
                certificate_is_derived,
            )
        ]
    return {name: not good for name, good in zip(CHECKS, passed, strict=True)}


def unbroken() -> list[Mutant | SourceMutant]:
    """The bounds and the certificates as they are: no check may fail on them."""
    originals = [Mutant(bound.name, "none", bound=bound) for bound in bounds.ALL_BOUNDS]
    return [*originals, Mutant("certificate", "none", certificate=bounds.certificate), *unbroken_modules()]


def all_mutants() -> list[Mutant | SourceMutant]:
    """Every mutant of every bound, of the certificate, and of the modules of Theorem 5 and the off-policy bounds."""
    catalogue = (m for bound in bounds.ALL_BOUNDS for m in bound_mutants(bound))
    return [*catalogue, *certificate_mutants(), *source_mutants()]


def table(mutants: Iterable[Mutant | SourceMutant]) -> tuple[str, int]:
    """The table mutant x check as text, and how many mutants went unnoticed."""
    lines, missed = [f"{'bound':<17} {'change':<44} " + " ".join(f"{name:<9}" for name in CHECKS)], 0
    for mutant in mutants:
        noticed = noticed_by(mutant)
        missed += not any(noticed.values())
        marks = " ".join(f"{'caught' if noticed[name] else '-':<9}" for name in CHECKS)
        lines.append(f"{mutant.name:<17} {mutant.change:<44} {marks}".rstrip())
    return "\n".join(lines), missed


def main() -> int:
    """Print the table; 1 when a mutant goes unnoticed or an unbroken bound is refused."""
    text, missed = table(all_mutants())
    refused = [mutant.name for mutant in unbroken() if any(noticed_by(mutant).values())]
    print(text)
    print(f"\n{len(all_mutants())} mutants, {missed} unnoticed; unbroken bounds refused: {refused or 'none'}")
    return int(missed > 0 or bool(refused))


if __name__ == "__main__":
    sys.exit(main())
