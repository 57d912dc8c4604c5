"""A search for instances whose return gap uses up, or exceeds, a discrepancy.

Gradient ascent in torch over every part of a small layered process (initial law, true kernel, model, both policies),
all restarts at once. The reward needs no search: at given laws the hardest one is known in closed form, and the gap
under it is ``R sum_t discount^t TV(true law of h_t, model's law of h_t)``. Hand-made hard instances compete with what
the ascent finds. Every ratio that is reported is recomputed by the exact numpy engine; torch only proposes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch

from analysis.theory.hard_instances import Candidate, best_first, effective_horizon, hardest_handmade
from analysis.theory.overlap_adversary import log_discrepancy
from analysis.theory.targets import BoundTarget, OverlapTarget, Target
from bounds.finite.instance import Instance
from bounds.finite.process import Array, FiniteProcess

Tensor: TypeAlias = torch.Tensor

Progress: TypeAlias = Callable[[float], object]

_SHARPNESS = 40.0  # of the soft maximum over times and states: relative to the maximum itself

_STEP = 1e-4  # relative step of the difference quotients of a discrepancy


@dataclass(frozen=True)
class _Laws:
    """What one evaluation of a batch of processes shows, differentiably: all [B] but the profiles."""

    gap: Tensor
    model_errors: Tensor  # [B, T]
    divergences: Tensor  # [B, T+1]
    row_divergences: Tensor  # [B, T * S]


class ProcessFamily:
    """A batch of layered processes with model and policies, as unconstrained parameters.

    The true kernel is ``(1-w) c + w x`` and the model ``(1-w) c + w y`` with softmax rows c, x, y and a sigmoid weight
    w per (t, s, a); likewise the two policies, their weight also scaled by one number per process, so that the
    supremum over histories is one parameter. Every pair of kernels can be written like this.
    """

    def __init__(self, batch: int, horizon: int, states: int, actions: int, generator: torch.Generator) -> None:
        def parameter(*shape: int, spread: float, centre: float = 0.0) -> Tensor:
            values = torch.randn(batch, *shape, dtype=torch.float64, generator=generator)
            return (centre + spread * values).requires_grad_()

        self.horizon, self.states, self.actions = horizon, states, actions
        kernel, rows = (horizon, states, actions, states), (horizon, states, actions)
        self.initial = parameter(states, spread=1.0)
        self.kernel = [parameter(*kernel, spread=2.0) for _ in range(3)]
        self.kernel_weight = parameter(*rows, spread=1.0, centre=-2.0)
        self.policies = [parameter(*rows, spread=2.0) for _ in range(3)]
        self.policy_weight = parameter(horizon, states, spread=1.0, centre=1.0)
        self.divergence = parameter(spread=1.5, centre=-3.0)

    @property
    def parameters(self) -> list[Tensor]:
        """Everything the ascent moves."""
        return [
            self.initial,
            *self.kernel,
            self.kernel_weight,
            *self.policies,
            self.policy_weight,
            self.divergence,
        ]

    def distributions(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """initial [B, S], transition and model [B, T, S, A, S], data policy and policy [B, T, S, A]."""
        common, mine, theirs = (logits.softmax(-1) for logits in self.kernel)
        weight = self.kernel_weight.sigmoid()[..., None]
        shared, data, learner = (logits.softmax(-1) for logits in self.policies)
        share = (self.policy_weight.sigmoid() * self.divergence.sigmoid()[:, None, None])[..., None]
        return (
            self.initial.softmax(-1),
            (1 - weight) * common + weight * mine,
            (1 - weight) * common + weight * theirs,
            (1 - share) * shared + share * data,
            (1 - share) * shared + share * learner,
        )

    def laws(self, target: Target) -> _Laws:
        """The gap under the hardest reward (R = 1) and the error profiles of every process of the batch."""
        initial, transition, model, data, learner = self.distributions()
        truth_step = torch.einsum("btsa,btsaz->btsz", learner, transition)
        model_step = torch.einsum("btsa,btsaz->btsz", learner, model)
        data_step = torch.einsum("btsa,btsaz->btsz", data, transition)
        distance = 0.5 * (transition - model).abs().sum(-1)
        divergence = 0.5 * (data - learner).abs().sum(-1)
        rollout, k = target.rollout, target.rollout_length
        truth = data_law = initial
        branches = initial[:, None]
        gap = torch.zeros_like(initial[:, 0])
        errors, divergences = [], []
        for t in range(self.horizon):
            on_policy = target.errors_under_policy
            flow = (truth[:, :, None] * learner[:, t]) if on_policy else (data_law[:, :, None] * data[:, t])
            errors.append((flow * distance[:, t]).sum((-2, -1)))
            divergences.append((data_law * divergence[:, t]).sum(-1))
            if rollout == "full":
                starts = branches
            else:
                starts = data_law[:, None] if t == 0 else torch.cat([data_law[:, None], branches[:, : k - 1]], dim=1)
            branches = starts @ model_step[:, t]
            truth = (truth[:, None] @ truth_step[:, t])[:, 0]
            data_law = (data_law[:, None] @ data_step[:, t])[:, 0]
            modelled = branches.mean(1) if rollout == "averaged" else branches[:, -1]
            gap = gap + target.discount ** (t + 1) * 0.5 * (modelled - truth).abs().sum(-1)
        divergences.append(torch.zeros_like(divergences[0]))  # the policies agree at the last layer
        return _Laws(gap, torch.stack(errors, 1), torch.stack(divergences, 1), divergence.flatten(1))

    @torch.no_grad()
    def instance(self, index: int, target: Target, low: float = -1.0, high: float = 1.0) -> Instance:
        """Process ``index`` as an exact instance with the hardest reward in [low, high]."""
        initial, transition, model, data, learner = (part[index].numpy() for part in self.distributions())
        uniform = np.full((1, self.states, self.actions), 1.0 / self.actions)
        reward = np.full((self.horizon + 1, self.states, self.actions), low)
        process = FiniteProcess(initial, transition, reward, low, high)
        found = Instance(
            process, model, np.concatenate([data, uniform]), np.concatenate([learner, uniform]), "gradient ascent"
        )
        return found.with_hardest_reward(target.rollout, target.rollout_length)


def _soft_maximum(values: Tensor) -> Tensor:
    """A smooth stand-in for ``values.max(1)``, whose gradient reaches every entry near the maximum."""
    sharpness = _SHARPNESS / values.detach().amax(1, keepdim=True).clamp_min(1e-12)
    return (sharpness * values).logsumexp(1) / sharpness[:, 0]


def _log_discrepancy(target: Target, family: ProcessFamily, laws: _Laws) -> tuple[Tensor, Array]:
    """A tensor with the gradient of log discrepancy in the parameters, and the discrepancy itself [B].

    The discrepancy is any numpy function; its dependence on the errors enters by difference quotients.
    """
    if isinstance(target, OverlapTarget):
        logarithm = log_discrepancy(target, family.distributions())
        return logarithm, logarithm.detach().exp().numpy()
    errors, divergences = laws.model_errors.detach().numpy(), laws.divergences.detach().numpy()
    largest = laws.row_divergences.detach().amax(1).numpy()
    value = np.maximum(target.discrepancy(errors, divergences, largest), 1e-300)

    def slope(changed: Callable[[Array], Array], at: Array) -> Tensor:
        step = _STEP * np.maximum(at, 1e-6)
        ends = np.clip(at - step, 0.0, 1.0), np.clip(at + step, 0.0, 1.0)
        low, high = (np.maximum(changed(end), 1e-300) for end in ends)
        return torch.from_numpy((np.log(high) - np.log(low)) / (ends[1] - ends[0]))

    if isinstance(target, BoundTarget):
        in_error = slope(lambda x: target.discrepancy(x[:, None], divergences, largest), errors.max(1))
        in_divergence = slope(lambda x: target.discrepancy(errors, divergences, x), largest)
        surrogate = in_error * _soft_maximum(laws.model_errors) + in_divergence * _soft_maximum(laws.row_divergences)
        return surrogate, value
    surrogate = torch.zeros_like(laws.gap)

    def with_column(profile: Array, column: int, x: Array) -> Array:
        changed = profile.copy()
        changed[:, column] = x
        return changed

    def slopes_at(s: int) -> tuple[Tensor, Tensor]:
        in_error = slope(lambda x: target.discrepancy(with_column(errors, s, x), divergences, largest), errors[:, s])
        in_divergence = slope(
            lambda x: target.discrepancy(errors, with_column(divergences, s, x), largest), divergences[:, s]
        )
        return in_error, in_divergence

    for s in range(errors.shape[1]):
        in_error, in_divergence = slopes_at(s)
        surrogate = surrogate + in_error * laws.model_errors[:, s] + in_divergence * laws.divergences[:, s]
    return surrogate, value


def ascend(
    target: Target,
    *,
    restarts: int,
    steps: int,
    horizon: int,
    states: int,
    actions: int,
    seed: int,
    progress: Progress = lambda ratio: None,
) -> list[Candidate]:
    """Adam on ``log gap - log discrepancy`` from ``restarts`` random processes; one candidate per restart, best first.

    ``progress`` is called after each step with the best ratio so far.
    """
    family = ProcessFamily(restarts, horizon, states, actions, torch.Generator().manual_seed(seed))
    parameters = family.parameters
    optimiser = torch.optim.Adam(parameters, lr=0.1)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps, eta_min=0.005)
    best_ratio = np.full(restarts, -np.inf)
    best = [parameter.detach().clone() for parameter in parameters]
    for _ in range(steps):
        laws = family.laws(target)
        surrogate, discrepancy = _log_discrepancy(target, family, laws)
        ratio = laws.gap.detach().numpy() / discrepancy
        improved = torch.from_numpy(ratio > best_ratio)
        best_ratio = np.maximum(ratio, best_ratio)
        for kept, parameter in zip(best, parameters, strict=True):
            kept[improved] = parameter.detach()[improved]
        loss = -(laws.gap.clamp_min(1e-300).log() - surrogate).sum()
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        optimiser.step()
        schedule.step()
        progress(float(best_ratio.max()))
    with torch.no_grad():
        for kept, parameter in zip(best, parameters, strict=True):
            parameter.copy_(kept)
    found = [family.instance(index, target) for index in range(restarts)]
    candidates = [Candidate(instance, target.ratio(instance), "gradient ascent") for instance in found]
    return best_first(candidates)


def search(
    target: Target,
    *,
    restarts: int = 8,
    steps: int = 300,
    horizon: int | None = None,
    states: int = 4,
    actions: int = 3,
    seed: int = 0,
    handmade: bool = True,
    progress: Progress = lambda ratio: None,
) -> list[Candidate]:
    """Instances by decreasing exact ratio gap/discrepancy: ``restarts`` found by ascent, and the hand-made ones.

    Args:
        target: what to attack.
        restarts: random starting processes, >= 1, ascended together.
        steps: of Adam, >= 1.
        horizon: T of the processes; by default ``effective_horizon``.
        states, actions: the size of each layer of the ascended processes.
        seed: of the starting processes.
        handmade: whether the hand-made hard instances compete.
        progress: called after each step with the best ratio so far.
    """
    length = effective_horizon(target, 60) if horizon is None else horizon
    found = ascend(
        target,
        restarts=restarts,
        steps=steps,
        horizon=length,
        states=states,
        actions=actions,
        seed=seed,
        progress=progress,
    )
    return best_first([*found, *(hardest_handmade(target, horizon) if handmade else ())])
