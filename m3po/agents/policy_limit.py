"""Keeping a policy near what it was: a penalty while it learns, and the way back where that was not enough.

Distances are total variations between the policies' distributions of the next action, or divergences that bound them:
TV <= sqrt(KL/2) (Pinsker), and the mean over histories of TV is at most sqrt(mean KL/2) (Jensen).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from m3po.data.types import Windows, mean_of, stacked_tensors
from m3po.errors import gaussian_tv_samples
from m3po.networks.policy import GaussianPolicy, HistoryPolicy
from m3po.networks.run_axis import stacked

# Change of the penalty's log weight per update, at most.
WEIGHT_RATE = 0.02

# Of the way back: halvings of the share; gradient steps between two measurements, most steps, histories per step.
BISECTIONS = 10
STEPS_PER_CHECK = 10
MOST_STEPS = 1000
BATCH_SIZE = 256
LEARNING_RATE = 1e-3


class MovePenalty:
    """weight * E_h KL(reference(.|h) || policy(.|h)), with the weight that keeps that mean near ``divergence``.

    log weight <- log weight + WEIGHT_RATE * clip(KL/divergence - 1, -1, 1) after every update.

    Args:
        policy: its reference is what it was when ``follow`` was called last.
        divergence: wanted mean KL, > 0, in nats.
    """

    def __init__(self, policy: GaussianPolicy, divergence: float) -> None:
        self.reference = copy.deepcopy(policy).requires_grad_(False)
        self.log_weight = torch.zeros((), device=next(policy.parameters()).device)
        self._divergence = divergence

    @staticmethod
    def of_runs(penalties: Sequence[MovePenalty]) -> MovePenalty:
        """The penalties of several runs side by side; they stay what they are and become views."""
        joint = copy.copy(penalties[0])
        joint.reference = stacked([each.reference for each in penalties])
        joint.log_weight = stacked_tensors([each.log_weight for each in penalties])
        return joint

    @staticmethod
    def within(policy: GaussianPolicy, limit: float) -> MovePenalty:
        """A penalty for moves of a mean total variation of ``limit``: KL = 2 limit^2."""
        return MovePenalty(policy, 2 * limit**2)

    def follow(self, policy: GaussianPolicy) -> None:
        """From now on the policy is kept near what it is now."""
        self.reference.load_state_dict(policy.state_dict())

    def __call__(self, policy: GaussianPolicy, features: Tensor, valid: Tensor | None = None) -> Tensor:
        """The penalty on features [N, F], all or the ``valid`` [N] ones, that both networks read: a scalar (of every
        run one); adapts the weight."""
        with torch.no_grad():
            reference = self.reference(features)
        divergence = mean_of(gaussian_divergence(*reference, *policy(features)), valid)
        penalty = self.log_weight.exp() * divergence
        with torch.no_grad():
            self.log_weight += WEIGHT_RATE * (divergence / self._divergence - 1).clamp(-1, 1)
        return penalty


@dataclass(frozen=True)
class Move:
    """How far a policy has moved from its reference, in mean total variation per step on held-out histories.

    Attributes:
        wanted: what learning had made of it.
        taken: what was left of that.
        share: how far along the way from the reference's weights to the learned ones it stopped, in [0, 1].
        steps: gradient steps that made up for what the encoder had moved before; mostly 0.
    """

    wanted: float
    taken: float
    share: float
    steps: int


def limit_move(
    policy: HistoryPolicy,
    reference: HistoryPolicy,
    histories: Windows,
    held_out: Windows,
    limit: float,
    generator: torch.Generator,
) -> Move:
    """Take the policy's network back towards the reference's until E_h TV(reference(.|h), policy(.|h)) <= limit.

    The weights are w_reference + share (w_learned - w_reference), with the largest share that a bisection finds. Where
    the encoder has moved so far that even share 0 is too far, the weights first descend
    E_h KL(reference(.|h) || policy(.|h)) from there on ``histories``, MOST_STEPS at most.

    Args:
        policy: its ``network`` is changed in place; its encoder is left alone.
        reference: left alone.
        histories: N >= 1 real histories.
        held_out: others, to measure on.
        limit: in (0, 1].
        generator: of the histories' order and of the measurement's draws.
    """
    with torch.no_grad():
        target = reference.distribution(histories)
        features = policy.encoder(histories)
        held_out_target = reference.distribution(held_out)
        held_out_features = policy.encoder(held_out)
    seed = int(torch.randint(2**31, (), generator=generator, device=features.device))

    @torch.no_grad()
    def distance() -> float:
        same_draws = torch.Generator(features.device).manual_seed(seed)
        found = gaussian_tv_samples(held_out_target, policy.network(held_out_features), same_draws)
        return found.mean().item()

    wanted = distance()
    if wanted <= limit:
        return Move(wanted, wanted, 1.0, 0)
    learned = copy.deepcopy(policy.network.state_dict())
    near = copy.deepcopy(reference.network.state_dict())
    policy.network.load_state_dict(near)
    taken, steps = distance(), 0
    if taken > limit:
        optimiser = torch.optim.Adam(policy.network.parameters(), lr=LEARNING_RATE, fused=True)
        while taken > limit and steps < MOST_STEPS:
            for _ in range(STEPS_PER_CHECK):
                rows = torch.randint(len(features), (BATCH_SIZE,), generator=generator, device=features.device)
                loss = gaussian_divergence(*(each[rows] for each in target), *policy.network(features[rows])).mean()
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
            steps += STEPS_PER_CHECK
            taken = distance()
        policy.network.zero_grad()
        near = copy.deepcopy(policy.network.state_dict())
    share, width = 0.0, 1.0
    for _ in range(BISECTIONS if taken <= limit else 0):
        width /= 2
        policy.network.load_state_dict({name: torch.lerp(near[name], learned[name], share + width) for name in near})
        found = distance()
        if found <= limit:
            share, taken = share + width, found
    policy.network.load_state_dict({name: torch.lerp(near[name], learned[name], share) for name in near})
    return Move(wanted, taken, share, steps)


def gaussian_divergence(mean: Tensor, log_std: Tensor, other_mean: Tensor, other_log_std: Tensor) -> Tensor:
    """KL(N(mean, diag std^2) || N(other_mean, diag other_std^2)), in nats. Shapes [N, A] -> [N]."""
    variance_ratio = torch.exp(2 * (log_std - other_log_std))
    distance = ((mean - other_mean) * torch.exp(-other_log_std)) ** 2
    return (0.5 * (variance_ratio + distance - 1) + other_log_std - log_std).sum(dim=-1)
