"""Actions of a tanh-squashed Gaussian and their log densities, with the derivatives written out."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

LOG_STD_LOW, LOG_STD_HIGH = -5.0, 1.0
LOG_STD_CENTRE, LOG_STD_RADIUS = 0.5 * (LOG_STD_HIGH + LOG_STD_LOW), 0.5 * (LOG_STD_HIGH - LOG_STD_LOW)


class SquashedSample(torch.autograd.Function):
    """a = tanh(u), u = mean + std n with noise n, and log pi(a) = log N(u; mean, diag std^2) - sum_j log(1 - a_j^2).

    A network's outputs [mean, l] have log std = -2 + 3 tanh(l), in [-5, 1]. With log(1 - a^2) as
    2 (log 2 - u - softplus(-2 u)), which does not lose digits for large |u|,

        log pi(a) = sum_j 2 u_j + 2 softplus(-2 u_j) - n_j^2/2 - log std_j - log(2 pi)/2 - 2 log 2,

    and the derivatives in u, n fixed, are 1 - a^2 and 2 a. There is none in n.
    Shapes [N, 2 A], [N, A] -> [N, A], [N].
    """

    @staticmethod
    def forward(ctx: Any, outputs: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        mean, raw = outputs.chunk(2, dim=-1)
        bounded = torch.tanh(raw)
        log_std = bounded.mul(LOG_STD_RADIUS).add_(LOG_STD_CENTRE)
        deviation = torch.exp(log_std).mul_(noise)
        before = mean + deviation
        action = torch.tanh(before)
        # torch's softplus(u, beta=-2) is -softplus(-2 u)/2.
        half = torch.sub(before, nn.functional.softplus(before, beta=-2), alpha=2)
        without_constant = torch.addcmul(log_std, noise, noise, value=0.5).sub_(half, alpha=2).sum(dim=-1)
        constant = noise.shape[-1] * (0.5 * math.log(2 * math.pi) + 2 * math.log(2))
        ctx.save_for_backward(bounded, deviation, action)
        return action, without_constant.neg_().sub_(constant)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, for_action: Tensor, for_log_density: Tensor) -> tuple[Tensor, None]:
        bounded, deviation, action = ctx.saved_tensors
        for_log_density = for_log_density.unsqueeze(-1)
        # g (1 - a^2) + 2 h a = g + 2 a (h - g a/2)
        inner = torch.sub(for_log_density, for_action * action, alpha=0.5)
        for_mean = torch.addcmul(for_action, action, inner, value=2)
        for_log_std = (for_mean * deviation).sub_(for_log_density)
        for_raw = torch.ops.aten.tanh_backward(for_log_std, bounded).mul_(LOG_STD_RADIUS)
        return torch.cat([for_mean, for_raw], dim=-1), None
