"""Theorem 5 as something to attack: its discrepancy in torch, from every trajectory, which the ascent can follow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import torch

from bounds.finite.checks import Measured, gap_ratio, measure
from bounds.finite.instance import Instance, Rollout
from bounds.finite.trajectories import enumerate_trajectories, overlap_discrepancy
from bounds.finite.trajectory_checks import OverlapFunction
from bounds.overlap import Form, overlap_losses

Tensor: TypeAlias = torch.Tensor


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

    def log_discrepancy(self, distributions: tuple[Tensor, Tensor, Tensor, Tensor, Tensor]) -> Tensor:
        """log of the discrepancy of each process, for R = 1, [B].

        Args:
            distributions: initial [B, S], transition and model [B, T, S, A, S], data policy and policy [B, T, S, A].
        """
        initial, transition, model, data, policy = distributions
        batch, horizon, states, actions, _ = transition.shape
        state = torch.arange(states)
        probability = initial
        rho: list[Tensor] = []
        x: list[Tensor] = []
        for t in range(horizon):
            paths = len(state)
            # each path goes on with every action and every next state
            rows = torch.arange(paths).repeat_interleave(actions * states)
            action = torch.arange(actions).repeat_interleave(states).repeat(paths)
            following = torch.arange(states).repeat(paths * actions)
            here = (slice(None), t, state[rows], action)
            chance = transition[(*here, following)]
            probability = probability[:, rows] * data[here] * chance
            rho = [ratio[:, rows] for ratio in rho] + [policy[here] / data[here]]
            x = [ratio[:, rows] for ratio in x] + [model[(*here, following)] / chance]
            state = following
        total = torch.zeros(batch, dtype=transition.dtype)
        for t in range(1, horizon + 1):
            longest = t if self.rollout == "full" else min(t, self.rollout_length)
            steps = range(1, longest + 1) if self.rollout == "averaged" else [longest]
            overlaps = [self._overlap(rho[:t], x[:t], t - i) for i in steps]
            shared = (probability * torch.stack(overlaps).mean(0)).sum(-1)
            total = total + self.discount**t * (1 - shared)
        return total.clamp_min(1e-300).log()

    def _overlap(self, rho: list[Tensor], x: list[Tensor], start: int) -> Tensor:
        """b min(a, X) of the branch that starts at ``start``, in the target's form, [B, P]."""
        one = torch.ones_like(rho[0])

        def product(ratios: list[Tensor]) -> Tensor:
            return torch.stack([one, *ratios]).prod(0)

        before, after = product(rho[:start]), product(rho[start:])
        overlap = after * torch.minimum(before, product(x[start:]))
        return overlap if self.form == "uncapped" else overlap.clamp_max(1.0)
