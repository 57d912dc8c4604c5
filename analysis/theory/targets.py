"""What the adversary can attack: a bound of the catalogue, Theorem 4's certificate, or Theorem 5."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from bounds import certificate
from bounds.finite.checks import (
    ROLLOUT_OF_SCHEME,
    AnyBound,
    CertificateFunction,
    Measured,
    bound_ratio,
    certificate_ratio,
    gap_ratio,
    measure,
)
from bounds.finite.instance import Instance, Rollout
from bounds.finite.process import Array
from bounds.finite.trajectories import enumerate_trajectories, overlap_discrepancy
from bounds.finite.trajectory_checks import OverlapFunction
from bounds.overlap import Form, overlap_losses


@dataclass(frozen=True)
class BoundTarget:
    """A bound of the catalogue, or a broken copy of one, as something to attack at one discount and rollout length."""

    bound: AnyBound
    discount: float
    rollout_length: int

    @property
    def rollout(self) -> Rollout:
        """The model return the bound speaks about."""
        return ROLLOUT_OF_SCHEME[self.bound.scheme]

    @property
    def errors_under_policy(self) -> bool:
        """Whether its model error is the one under the current policy."""
        return self.bound.name == "mbpo-4.3"

    @property
    def longest_episode(self) -> int | None:
        """How long an episode needs to be if the discrepancy counts only its own steps; None: as the discount says."""
        return None

    def value(self, instance: Instance, measured: Measured) -> float:
        """The discrepancy by the exact engine."""
        return _value(self, instance, measured)

    def ratio(self, instance: Instance) -> float:
        """gap / discrepancy by the exact engine."""
        return bound_ratio(self.bound, measure(instance, self.discount, self.rollout_length))

    def discrepancy(self, model_errors: Array, divergences: Array, largest_divergence: Array) -> Array:
        """The discrepancy of each row, for R = 1: profiles [B, T] and [B, T+1], sup [B] -> [B]."""
        value = self.bound.evaluate(
            discount=self.discount,
            model_error=np.clip(model_errors.max(axis=1), 0.0, 1.0),
            policy_divergence=np.clip(largest_divergence, 0.0, 1.0),
            rollout_length=self.rollout_length,
            reward_max=0.5,
        )
        return np.asarray(value, dtype=np.float64)


@dataclass(frozen=True)
class CertificateTarget:
    """Theorem 4's certificate, or a broken copy of it; ``rollout`` is "averaged" or "full"."""

    discount: float
    rollout_length: int
    rollout: Rollout = "averaged"
    evaluate: CertificateFunction = certificate
    errors_under_policy: bool = False
    longest_episode: int = 12

    def value(self, instance: Instance, measured: Measured) -> float:
        """The certificate by the exact engine."""
        return _value(self, instance, measured)

    def ratio(self, instance: Instance) -> float:
        """gap / certificate by the exact engine."""
        return certificate_ratio(measure(instance, self.discount, self.rollout_length), self.rollout, self.evaluate)

    def discrepancy(self, model_errors: Array, divergences: Array, largest_divergence: Array) -> Array:
        """The certificate of each row, for R = 1: profiles [B, T] and [B, T+1] -> [B]."""
        return np.array(
            [
                self.evaluate(
                    np.clip(m, 0.0, 1.0),
                    np.clip(d, 0.0, 1.0),
                    discount=self.discount,
                    reward_range=1.0,
                    rollout_length=None if self.rollout == "full" else self.rollout_length,
                    tail="absorbing",
                ).value
                for m, d in zip(model_errors, divergences, strict=True)
            ]
        )


@dataclass(frozen=True)
class OverlapTarget:
    """Theorem 5, or a broken copy of it; ``rollout`` is "averaged", "full" or "exact".

    ``form`` is the smallest, and hence the easiest to refute, by default.
    """

    discount: float
    rollout_length: int
    rollout: Rollout = "averaged"
    form: Form = "uncapped"
    evaluate: OverlapFunction = overlap_losses
    errors_under_policy: bool = False
    longest_episode: int = 3

    def value(self, instance: Instance, measured: Measured) -> float:
        """The discrepancy by the exact engine."""
        del measured
        return overlap_discrepancy(
            instance,
            enumerate_trajectories(instance),
            self.discount,
            self.rollout,
            self.rollout_length,
            form=self.form,
            evaluate=self.evaluate,
        )

    def ratio(self, instance: Instance) -> float:
        """gap / discrepancy by the exact engine."""
        measured = measure(instance, self.discount, self.rollout_length)
        return gap_ratio(measured.gaps[self.rollout], self.value(instance, measured), measured.allowance)


Target: TypeAlias = BoundTarget | CertificateTarget | OverlapTarget


def _value(target: BoundTarget | CertificateTarget, instance: Instance, measured: Measured) -> float:
    profiles = measured.current_policy_profiles if target.errors_under_policy else measured.profiles
    largest = np.array([measured.profiles.policy_divergence_sup])
    unit = target.discrepancy(profiles.model_error[None], measured.profiles.policy_divergence[None], largest)
    return measured.reward_range * float(unit[0])
