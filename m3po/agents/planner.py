"""Model-predictive path integral control: actions by exponentially weighted averages of imagined futures.

In front of the shapes given here may stand the run axis: the candidates of all runs and problems are one batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from m3po.data.draws import Generators, normal

# (o [N, C, O], a [N, C, A]) -> (o' [N, C, O], r [N, C]): C imagined steps in each of N problems.
Step = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class PlannerSettings:
    """How much and how widely to search."""

    candidates: int = 500
    """C, action sequences tried per iteration, >= 2."""
    horizon: int = 10
    """H, steps ahead, >= 1."""
    iterations: int = 5
    """Improvements of the mean sequence, >= 1."""
    temperature: float = 0.05
    """Relative to the spread of returns: a candidate as far below the best as the median is weighs exp(-1/temperature)
    of the best; > 0."""
    noise: float = 1.0
    """Standard deviation of the candidates around their mean in the first iteration, > 0; actions span 2."""
    noise_decay: float = 0.7
    """What it is multiplied by after each iteration, in (0, 1]."""

    def __post_init__(self) -> None:
        for name, least in (("candidates", 2), ("horizon", 1), ("iterations", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be >= {least}, got {getattr(self, name)}")
        for name in ("temperature", "noise"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be a finite number > 0, got {getattr(self, name)}")
        if not 0 < self.noise_decay <= 1:
            raise ValueError(f"noise_decay must be in (0, 1], got {self.noise_decay}")


@torch.no_grad()
def plan(step: Step, observation: Tensor, action_size: int, settings: PlannerSettings, generator: Generators) -> Tensor:
    """The first action of a sequence a_1..a_H in [-1, 1] with a large sum of rewards under ``step``.

    Starts from the mean sequence 0 and improves it with ``improved``, with new noise each time. Nothing is carried
    over from earlier calls, unlike in the source, so that the action's distribution depends on the arguments alone.

    Args:
        step: one step of C imagined futures in each of the N problems. What follows an end of the episode is its
            business (rewards 0).
        observation: [N, O], where each problem starts.
        action_size: A >= 1.
        settings: the sizes of the search.
        generator: source of all randomness; the N problems get independent noise.

    Returns:
        [N, A] in [-1, 1].

    Raises:
        ValueError: when ``action_size`` < 1 or the shapes that ``step`` returns are wrong.
    """
    if action_size < 1:
        raise ValueError(f"action_size must be >= 1, got {action_size}")
    problems = observation.shape[:-1]
    mean = observation.new_zeros(*problems, settings.horizon, action_size)
    shape = (*problems, settings.candidates, settings.horizon, action_size)
    for iteration in range(settings.iterations):
        noise = normal(shape, generator, observation.device, observation.dtype)
        scale = settings.noise * settings.noise_decay**iteration
        mean = improved(step, observation, mean, noise.mul_(scale), settings.temperature)
    return mean[..., 0, :]


def improved(step: Step, observation: Tensor, mean: Tensor, noise: Tensor, temperature: float) -> Tensor:
    """sum_c w_c a^c with a^c = clip(mean + noise^c, -1, 1) and w = ``candidate_weights`` of the candidates' returns.

    Problems where every candidate is lost keep their mean.

    Args:
        step: as in ``plan``.
        observation: [N, O].
        mean: [N, H, A] in [-1, 1].
        noise: [N, C, H, A].
        temperature: as in ``PlannerSettings``.

    Returns:
        [N, H, A].
    """
    actions = (mean.unsqueeze(-3) + noise).clamp(-1.0, 1.0)
    weights = candidate_weights(returns_of(step, observation, actions), temperature).to(mean.dtype)
    averages = torch.einsum("...c,...cha->...ha", weights, actions).clamp(-1.0, 1.0)
    return torch.where(weights.any(dim=-1)[..., None, None], averages, mean)


def returns_of(step: Step, observation: Tensor, actions: Tensor) -> Tensor:
    """r_1 + ... + r_H along each action sequence; -inf where this or the sum over some observation is not finite.

    Such a future is one in which the model has run away: it loses against every other, however large its rewards.
    Finite predictions count as they are, so that keeping those within reason is for ``step`` to do.
    Shapes [N, O], [N, C, H, A] -> [N, C].

    Raises:
        ValueError: when the shapes that ``step`` returns are wrong.
    """
    *problems, candidates, horizon, _ = actions.shape
    current = observation.unsqueeze(-2).expand(*problems, candidates, -1)
    shape = current.shape
    total = observation.new_zeros(*problems, candidates)
    finite = torch.ones_like(total, dtype=torch.bool)
    for t in range(horizon):
        current, reward = step(current, actions[..., t, :])
        if current.shape != shape or reward.shape != total.shape:
            raise ValueError(
                f"step must return shapes {list(shape)} and {list(total.shape)}, "
                f"got {list(current.shape)} and {list(reward.shape)}"
            )
        total = total + reward
        finite &= current.sum(dim=-1).isfinite()
    return torch.where(finite & total.isfinite(), total, -torch.inf)


def candidate_weights(returns: Tensor, temperature: float) -> Tensor:
    """w_c proportional to exp((R_c - best) / (temperature (best - median))), sum 1, per row of returns [N, C].

    Best and median are those of the finite returns; -inf gets weight 0, and a row of nothing else only zeros. Measuring
    in units of best - median makes the weights those of a R + b for every a > 0 and b. Unlike the standard deviation,
    it does not care how low the worst half falls, which in a poor model is without limit. Where best = median the
    candidates that reach it share the weight.
    """
    returns = returns.double()
    lost = returns.isinf()
    best = returns.max(dim=-1, keepdim=True).values
    median = returns.masked_fill(lost, torch.nan).nanmedian(dim=-1, keepdim=True).values
    scale = (temperature * (best - median)).clamp(min=torch.finfo(returns.dtype).tiny)
    exponents = ((returns - best) / scale).masked_fill(lost, -torch.inf)
    return torch.softmax(exponents, dim=-1).masked_fill(lost, 0.0)
