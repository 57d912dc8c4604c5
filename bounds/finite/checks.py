"""The theorems held against exact instances: how much of each discrepancy the measured gap uses up.

A ratio gap/discrepancy above 1 refutes a bound. All functions are pure; ``analysis.verify_theory`` and the tests call
them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from bounds.catalogue import ALL_BOUNDS
from bounds.certificate import Certificate, certificate
from bounds.finite.instance import Instance, Rollout
from bounds.finite.process import Array, ErrorProfiles, Layers, reward_error_profile
from bounds.finite.random_instances import FAMILIES, ROLLOUTS
from bounds.finite.worst_case import attaining_instance

ROLLOUT_OF_SCHEME: dict[str, Rollout] = {"full": "full", "branched": "averaged", "branched-exact": "exact"}
CERTIFIED_ROLLOUTS: dict[Rollout, str] = {"full": "full", "averaged": "branched"}
CertificateFunction: TypeAlias = Callable[..., Certificate]
TOLERANCE = 1e-9


class AnyBound(Protocol):
    """What a check needs of a bound; ``bounds.Bound`` has it, and so has a deliberately broken copy of one."""

    @property
    def name(self) -> str: ...

    @property
    def scheme(self) -> str: ...

    def evaluate(
        self,
        *,
        discount: npt.ArrayLike,
        model_error: npt.ArrayLike = ...,
        policy_divergence: npt.ArrayLike = ...,
        rollout_length: npt.ArrayLike = ...,
        reward_max: npt.ArrayLike = ...,
    ) -> npt.NDArray[np.float64] | np.float64: ...


@dataclass(frozen=True)
class TheoremReport:
    """One theorem over many instances.

    Attributes:
        name: the bound; ``certificate-full`` or ``certificate-branched`` is Theorem 4, ``certificate-reward-*`` the
            same with a learned reward.
        largest_ratio: max of |gap| / discrepancy.
        family: the family of the instance that reached it.
        instances: how many were checked.
    """

    name: str
    largest_ratio: float
    family: str
    instances: int

    @property
    def holds(self) -> bool:
        """No gap above the discrepancy, beyond rounding."""
        return self.largest_ratio <= 1.0 + TOLERANCE


def rounding_allowance(instance: Instance, discount: float) -> float:
    """How far apart two equal returns may be computed: 64 units in the last place of ``r_max sum_t discount^t``."""
    process = instance.process
    largest = max(abs(process.reward_low), abs(process.reward_high))
    horizon_sum = float(np.sum(discount ** np.arange(process.horizon + 1)))
    return 64.0 * float(np.finfo(float).eps) * largest * horizon_sum


def gap_ratio(gap: float, discrepancy: float, allowance: float) -> float:
    """``max(|gap| - allowance, 0) / discrepancy``; infinite when a real gap meets a discrepancy of 0."""
    excess = max(abs(gap) - allowance, 0.0)
    if excess == 0.0:
        return 0.0
    return float(excess / discrepancy) if discrepancy > 0.0 else float("inf")


@dataclass(frozen=True, eq=False)
class Measured:
    """What one instance shows at one discount and rollout length; every bound is held against the same numbers.

    Attributes:
        discount, rollout_length: gamma and k.
        reward_range: R.
        profiles: the errors on real data.
        current_policy_profiles: the errors on the current policy's own distribution (MBPO 4.3).
        gaps: ``J - J_model`` for each rollout.
        allowance: rounding of a gap, see ``rounding_allowance``.
    """

    discount: float
    rollout_length: int
    reward_range: float
    profiles: ErrorProfiles
    current_policy_profiles: ErrorProfiles
    gaps: dict[Rollout, float]
    allowance: float


def measure(instance: Instance, discount: float, rollout_length: int) -> Measured:
    """The errors and the three gaps of ``instance``, exactly."""
    return Measured(
        discount,
        rollout_length,
        instance.reward_range,
        instance.profiles(),
        instance.current_policy_profiles(),
        {rollout: instance.return_gap(discount, rollout, rollout_length) for rollout in ROLLOUTS},
        rounding_allowance(instance, discount),
    )


def bound_ratio(bound: AnyBound, measured: Measured) -> float:
    """|gap| / discrepancy of ``bound`` at the measured errors.

    MBPO 4.3 is given ``eps_m' = max_t E_{h_t ~ (policy, p), a_t ~ policy}[TV(p, model)]``, the others Definition 1.
    (The display of 4.3 takes the states from the data policy, against the source's own words; that version is false
    from k = 3 on, as a test shows.)
    r_max is taken as R/2: both returns shift alike with the reward, so the theorems hold with half the range, and the
    check is sharper than with ``max(|reward_low|, |reward_high|)``.
    """
    half_range = 0.5 * measured.reward_range
    if half_range == 0.0:
        return 0.0
    profiles = measured.current_policy_profiles if bound.name == "mbpo-4.3" else measured.profiles
    discrepancy = bound.evaluate(
        discount=measured.discount,
        model_error=profiles.model_error_max,
        policy_divergence=measured.profiles.policy_divergence_sup,
        rollout_length=measured.rollout_length,
        reward_max=half_range,
    )
    return gap_ratio(measured.gaps[ROLLOUT_OF_SCHEME[bound.scheme]], float(discrepancy), measured.allowance)


def certificate_ratio(measured: Measured, rollout: Rollout, evaluate: CertificateFunction = certificate) -> float:
    """|gap| / ``plain_discrepancy``."""
    return gap_ratio(measured.gaps[rollout], plain_discrepancy(measured, rollout, evaluate), measured.allowance)


def plain_discrepancy(
    measured: Measured,
    rollout: Rollout,
    evaluate: CertificateFunction = certificate,
    reward_errors: Array | None = None,
) -> float:
    """Theorem 4's certificate for the "full" or the "averaged" rollout, from the measured profiles.

    The episode ends at T, so the certificate's tail is "absorbing". ``evaluate`` is ``bounds.certificate``, or a broken
    copy of it. ``reward_errors`` [T+1] are those of a learned reward.
    """
    return evaluate(
        measured.profiles.model_error,
        measured.profiles.policy_divergence,
        discount=measured.discount,
        reward_range=measured.reward_range,
        rollout_length=None if rollout == "full" else measured.rollout_length,
        reward_error_profile=reward_errors,
        tail="absorbing",
    ).value


def learned_reward_ratio(
    instance: Instance,
    measured: Measured,
    rollout: Rollout,
    model_reward: Layers,
    evaluate: CertificateFunction = certificate,
) -> float:
    """|gap| / ``learned_reward_discrepancy``."""
    value = learned_reward_discrepancy(instance, measured, rollout, model_reward, evaluate)
    gap = instance.return_gap(measured.discount, rollout, measured.rollout_length, model_reward=model_reward)
    return gap_ratio(gap, value, measured.allowance)


def learned_reward_discrepancy(
    instance: Instance,
    measured: Measured,
    rollout: Rollout,
    model_reward: Layers,
    evaluate: CertificateFunction = certificate,
) -> float:
    """Theorem 4's certificate when the model return is computed with the learned reward ``model_reward``."""
    errors = reward_error_profile(instance.process, model_reward, instance.data_policy)
    return plain_discrepancy(measured, rollout, evaluate, np.minimum(errors, measured.reward_range))


def noisy_reward(rng: np.random.Generator, instance: Instance) -> Layers:
    """A learned reward within the range, layer by layer, wrong in one of three ways.

    Noise of both signs; noise of one sign, so that errors do not cancel; or an error only where the policy acts more
    often than the data policy does, which real data hardly show.
    """
    process, size = instance.process, instance.reward_range * 10.0 ** rng.uniform(-3.0, 0.0)
    way = rng.integers(3)
    wrong = []
    for layer, data, learner in zip(process.rewards, instance.data_policy, instance.policy, strict=True):
        noise = size * rng.uniform(-1.0 if way == 0 else 0.0, 1.0, layer.shape)
        if way == 2:
            noise = instance.reward_range * (np.asarray(learner) > np.asarray(data))
        wrong.append(np.clip(layer + noise, process.reward_low, process.reward_high))
    return tuple(wrong)


def draw_discount(rng: np.random.Generator) -> float:
    """0 now and then, otherwise ``1 - 10^-u`` with u uniform in [0, 2.5]."""
    return 0.0 if rng.uniform() < 0.02 else float(1.0 - 10.0 ** -rng.uniform(0.0, 2.5))


def instance_ratios(
    rng: np.random.Generator, instance: Instance, bounds: Sequence[AnyBound] = ALL_BOUNDS, *, certificates: bool = True
) -> Iterator[tuple[str, float]]:
    """(theorem, ratio) of every bound and certificate on one instance, at a random discount and rollout length."""
    measured = measure(instance, draw_discount(rng), int(rng.integers(1, instance.process.horizon + 3)))
    for bound in bounds:
        yield bound.name, bound_ratio(bound, measured)
    if certificates:
        reward = noisy_reward(rng, instance)
        for rollout, suffix in CERTIFIED_ROLLOUTS.items():
            yield f"certificate-{suffix}", certificate_ratio(measured, rollout)
            yield f"certificate-reward-{suffix}", learned_reward_ratio(instance, measured, rollout, reward)


def drawn_instances(
    instances: int,
    stream: Sequence[int],
    families: Mapping[str, Callable[[np.random.Generator], Instance]],
    progress: Callable[[int], object],
) -> Iterator[tuple[np.random.Generator, str, Instance]]:
    """(generator of ``[*stream, n]``, family, instance drawn with it), from the families in turn."""
    if instances < 1:
        raise ValueError(f"instances must be >= 1, got {instances}")
    for n, family in zip(range(instances), itertools.cycle(families), strict=False):
        rng = np.random.default_rng([*stream, n])
        yield rng, family, families[family](rng)
        progress(n + 1)


def reports_of(found: Iterable[tuple[str, str, float]], instances: int) -> tuple[TheoremReport, ...]:
    """The largest of the (theorem, family, ratio) of each theorem; of equal ones the first."""
    largest: dict[str, tuple[float, str]] = {}
    for theorem, family, ratio in found:
        if theorem not in largest or ratio > largest[theorem][0]:
            largest[theorem] = (ratio, family)
    return tuple(TheoremReport(name, ratio, family, instances) for name, (ratio, family) in largest.items())


def check_instances(
    instances: int,
    *,
    seed: int = 0,
    bounds: Sequence[AnyBound] = ALL_BOUNDS,
    certificates: bool = True,
    progress: Callable[[int], object] = lambda done: None,
) -> tuple[TheoremReport, ...]:
    """Every theorem on ``instances`` exact instances, shared evenly among the families; one report per theorem.

    Args:
        instances: how many, >= 1. Instance n is drawn from ``numpy.random.default_rng([seed, n])``.
        seed: a natural number.
        bounds: the bounds to check.
        certificates: whether to check Theorem 4 as well (full and branched, with the true and a learned reward).
        progress: called with the number of instances done.

    Raises:
        ValueError: instances < 1.
    """
    return reports_of(
        (
            (theorem, family, ratio)
            for rng, family, instance in drawn_instances(instances, [seed], FAMILIES, progress)
            for theorem, ratio in instance_ratios(rng, instance, bounds, certificates=certificates)
        ),
        instances,
    )


OPTIMAL_BOUNDS: dict[Rollout, str] = {"full": "optimal-full", "averaged": "optimal-branched"}
LARGEST_ATTAINING_DISCOUNT = 0.6


def long_enough(discount: float) -> int:
    """Transitions after which what is still to come weighs less than rounding: T gamma^T/(1 - gamma)^2 <= 1e-17."""
    horizon = 2
    while horizon * discount**horizon / (1 - discount) ** 2 > 1e-17:
        horizon += 1
    return horizon


def attaining_error(
    discount: float,
    rollout_length: int,
    model_error: float,
    policy_divergence: float,
    bounds: Sequence[AnyBound] = ALL_BOUNDS,
) -> float:
    """Largest relative error of the attaining instance's measured gaps against the catalogue's optimal bounds.

    The episode is so long (``long_enough``) that the bounds, which sum over all times, cannot tell it from an endless
    one. The reward lies in [0, 2], so that the true return is 0 and a tiny gap is not lost against it. 0 when a bound
    is 0 and so is the gap.

    Args:
        discount: in [0, ``LARGEST_ATTAINING_DISCOUNT``], where the episode has 91 steps.
        bounds: where ``optimal-full`` and ``optimal-branched`` are taken from.
    """
    horizon = long_enough(discount)
    instance = attaining_instance(model_error, policy_divergence, horizon, reward_low=0.0, reward_high=2.0)
    named = {bound.name: bound for bound in bounds}
    worst = 0.0
    for rollout, name in OPTIMAL_BOUNDS.items():
        expected = float(
            named[name].evaluate(
                discount=discount,
                model_error=model_error,
                policy_divergence=policy_divergence,
                rollout_length=rollout_length,
                reward_max=1.0,
            )
        )
        gap = -instance.return_gap(discount, rollout, rollout_length)
        worst = max(worst, abs(gap - expected) / expected if expected > 0.0 else (0.0 if gap == 0.0 else np.inf))
    return float(worst)


def check_attaining(parameters: int, *, seed: int = 0, bounds: Sequence[AnyBound] = ALL_BOUNDS) -> float:
    """The largest ``attaining_error`` over random (discount, k, eps_m, eps_pi), corners 0 and 1 included.

    Raises:
        ValueError: parameters < 1.
    """
    if parameters < 1:
        raise ValueError(f"parameters must be >= 1, got {parameters}")
    rng = np.random.default_rng(seed)
    worst = 0.0
    for _ in range(parameters):
        model_error, divergence = (
            float(rng.choice([0.0, 1.0, 10.0 ** rng.uniform(-6.0, 0.0)], p=[0.1, 0.05, 0.85])) for _ in range(2)
        )
        discount = float(rng.uniform(0.0, LARGEST_ATTAINING_DISCOUNT))
        worst = max(worst, attaining_error(discount, int(rng.integers(1, 20)), model_error, divergence, bounds))
    return worst
