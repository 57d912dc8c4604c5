"""Feed-forward networks with batch norm before every affine map, for critics that need no target networks.

Source: CrossQ (Bhatt et al., ICLR 2024). In front of the shapes given here may stand the run axis.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from m3po.networks.stacked import StackedLinear, StackedMLP, affine, joint, unstacked
from m3po.networks.units import HiddenUnits, SwishGate

# Added to every variance.
LEAST_VARIANCE = 1e-3

# Step of the running statistics towards those of a batch.
RATE = 0.01


class Standardise(torch.autograd.Function):
    """x -> (x - mean_n x) / sqrt(var_n x + LEAST_VARIANCE), over the rows n. Shape [..., N, W].

    Rows have the ``shares`` [..., N, 1] in mean and variance, which sum to 1; None: equal ones. Also returns mean and
    variance, [..., 1, W], which carry no gradient.
    """

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, shares: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        if shares is None:
            variance, mean = torch.var_mean(inputs, dim=-2, keepdim=True, correction=0)
        else:
            mean = (shares * inputs).sum(dim=-2, keepdim=True)
            variance = (shares * (inputs - mean) ** 2).sum(dim=-2, keepdim=True)
        scale = torch.rsqrt(variance + LEAST_VARIANCE)
        result = torch.sub(inputs, mean).mul_(scale)
        ctx.save_for_backward(result, scale, shares)
        ctx.mark_non_differentiable(mean, variance)
        return result, mean, variance

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor, None]:
        result, scale, shares = ctx.saved_tensors
        if shares is None:
            along = (gradient * result).mean(dim=-2, keepdim=True)
            centred = torch.sub(gradient, gradient.mean(dim=-2, keepdim=True))
            return centred.addcmul_(result, along, value=-1).mul_(scale), None
        along = (gradient * result).sum(dim=-2, keepdim=True)
        centred = torch.sub(gradient, shares * gradient.sum(dim=-2, keepdim=True))
        return centred.addcmul_(shares * result, along, value=-1).mul_(scale), None


class BatchNorm(nn.Module):
    """y = scale * (x - mean) / sqrt(variance + LEAST_VARIANCE) + shift of ``count`` networks. Shape [count, N, W].

    Attributes:
        scale, shift: learned.
        mean, variance: running statistics, which ``follow`` those of batches.
    """

    def __init__(self, count: int, width: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(count, 1, width))
        self.shift = nn.Parameter(torch.zeros(count, 1, width))
        self.register_buffer("mean", torch.zeros(count, 1, width))
        self.register_buffer("variance", torch.ones(count, 1, width))
        self.mean: Tensor
        self.variance: Tensor

    @torch.no_grad()
    def follow(self, mean: Tensor, variance: Tensor) -> None:
        """A step of the running statistics towards those of a batch, [R * count, 1, W] each."""
        self.mean.lerp_(mean.view_as(self.mean), RATE)
        self.variance.lerp_(variance.view_as(self.variance), RATE)

    def joined(self, linear: StackedLinear) -> tuple[Tensor, Tensor]:
        """Weight and bias of (scale * z + shift) W + c as a map of the standardised z."""
        return _before(linear, self.scale, self.shift)

    def joined_as_it_runs(self, linear: StackedLinear) -> tuple[Tensor, Tensor]:
        """Weight and bias of the norm with its running statistics and ``linear`` behind it, as one affine map."""
        factor = self.scale * torch.rsqrt(self.variance + LEAST_VARIANCE)
        return _before(linear, factor, self.shift - self.mean * factor)


def _before(linear: StackedLinear, scale: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
    """Weight and bias of (scale * x + shift) W + c as a map of x."""
    return scale.mT * linear.weight, linear.bias + shift @ linear.weight


class BatchNormalisedMLP(StackedMLP):
    """``StackedMLP`` with a batch norm before every affine map, so of the inputs too.

    What it returns goes by its running statistics; ``with_batch_statistics`` is for learning.
    """

    def __init__(
        self, count: int, inputs: int, width: int, layers: int, outputs: int, *, units: HiddenUnits = "gated"
    ) -> None:
        super().__init__(count, inputs, width, layers, outputs, units=units)
        self.norms = nn.ModuleList(BatchNorm(count, each.weight.shape[-2]) for each in self.linear)
        self._after = {"gated": SwishGate.apply, "rectified": torch.relu, "swish": nn.functional.silu}[units]

    def pairs(self) -> list[tuple[BatchNorm, StackedLinear]]:
        """Every affine map behind its norm."""
        norms = [each for each in self.norms if isinstance(each, BatchNorm)]
        return list(zip(norms, self.linear, strict=True))

    def affine_maps(self) -> list[Tensor]:
        return [each for norm, linear in self.pairs() for each in norm.joined_as_it_runs(linear)]

    def with_batch_statistics(self, *inputs: Tensor, valid: Tensor | None = None) -> Tensor:
        """The outputs with mean and variance of these N rows, which the running ones then follow.

        ``valid``: [R, N] booleans, the rows of each run that count; None: all.
        """
        stack = self.linear[0].weight.shape[:-2]
        shares = None
        if valid is not None:
            of_each = (valid / valid.sum(dim=-1, keepdim=True))[..., None]
            shares = of_each.repeat_interleave(stack[-1], dim=0)
        values = joint(inputs, stack)
        for norm, linear in self.pairs():
            values, mean, variance = Standardise.apply(values, shares)
            norm.follow(mean, variance)
            weight, bias = norm.joined(linear)
            values = affine(values, weight.flatten(0, -3), bias.flatten(0, -3))
            if linear is not self.linear[-1]:
                values = self._after(values)
        return unstacked(values, stack)
