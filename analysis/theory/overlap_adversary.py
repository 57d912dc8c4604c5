"""The discrepancy of Theorem 5 in torch, from every trajectory, which the ascent can follow."""

from __future__ import annotations

from typing import TypeAlias

import torch

from analysis.theory.targets import OverlapTarget
from bounds.overlap import Form

Tensor: TypeAlias = torch.Tensor


def log_discrepancy(target: OverlapTarget, distributions: tuple[Tensor, Tensor, Tensor, Tensor, Tensor]) -> Tensor:
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
        longest = t if target.rollout == "full" else min(t, target.rollout_length)
        steps = range(1, longest + 1) if target.rollout == "averaged" else [longest]
        overlaps = [_overlap(rho[:t], x[:t], t - i, target.form) for i in steps]
        shared = (probability * torch.stack(overlaps).mean(0)).sum(-1)
        total = total + target.discount**t * (1 - shared)
    return total.clamp_min(1e-300).log()


def _overlap(rho: list[Tensor], x: list[Tensor], start: int, form: Form) -> Tensor:
    """b min(a, X) of the branch that starts at ``start``, in the form, [B, P]."""
    one = torch.ones_like(rho[0])

    def product(ratios: list[Tensor]) -> Tensor:
        return torch.stack([one, *ratios]).prod(0)

    before, after = product(rho[:start]), product(rho[start:])
    overlap = after * torch.minimum(before, product(x[start:]))
    return overlap if form == "uncapped" else overlap.clamp_max(1.0)
