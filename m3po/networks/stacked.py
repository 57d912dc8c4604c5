"""Stacked feed-forward networks: several networks of one shape evaluated as batched matrix products.

In front of the shapes given here may stand the run axis: see ``m3po.networks.run_axis``.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class StackedLinear(nn.Module):
    """``count`` independent affine maps: y_b = x_b W_b + c_b. Shapes [count, N, inputs] -> [count, N, outputs]."""

    def __init__(self, count: int, inputs: int, outputs: int) -> None:
        super().__init__()
        limit = 1 / math.sqrt(inputs)
        self.weight = nn.Parameter(torch.empty(count, inputs, outputs).uniform_(-limit, limit))
        self.bias = nn.Parameter(torch.empty(count, 1, outputs).uniform_(-limit, limit))

    def forward(self, inputs: Tensor) -> Tensor:
        # Those of all runs in a row: [R * count, N, inputs].
        return torch.baddbmm(self.bias.flatten(0, -3), inputs, self.weight.flatten(0, -3))


class SwishGate(torch.autograd.Function):
    """[..., 2 W] = [u, v] -> swish(u) * v, swish(u) = u sigmoid(u). Shape [..., W].

    Autograd would take the derivatives of the two halves into two arrays of zeros and add them up.
    """

    @staticmethod
    def forward(ctx: Any, inputs: Tensor) -> Tensor:
        ctx.save_for_backward(inputs)
        gate, value = inputs.chunk(2, dim=-1)
        return nn.functional.silu(gate).mul_(value)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (inputs,) = ctx.saved_tensors
        gate, value = inputs.chunk(2, dim=-1)
        result = torch.empty_like(inputs)
        for_gate, for_value = result.chunk(2, dim=-1)
        torch.mul(gradient, nn.functional.silu(gate), out=for_value)
        for_gate.copy_(torch.ops.aten.silu_backward(gradient * value, gate))
        return result


class Gated(nn.Module):
    """Swish-gated units: swish(u) * v with [u, v] an affine map of x.

    The paper's networks use swish. The gate lets a layer multiply its inputs, which is what "how did the body react to
    that action" is made of; with plain swish layers the model did not find the task (docs/algorithm.md has figures).
    """

    def __init__(self, linear: nn.Module) -> None:
        super().__init__()
        self.linear = linear

    def forward(self, inputs: Tensor) -> Tensor:
        return SwishGate.apply(self.linear(inputs))


class StackedMLP(nn.Module):
    """``count`` networks with ``layers`` hidden layers of ``width`` units: gated, or rectified if ``gated`` is false.

    Shapes: [N, inputs] (the same input for every network) or [count, N, inputs] -> [count, N, outputs].
    """

    def __init__(self, count: int, inputs: int, width: int, layers: int, outputs: int, *, gated: bool = True) -> None:
        super().__init__()
        sizes = [inputs] + [width] * layers
        hidden: list[nn.Module] = []
        for size, following in pairwise(sizes):
            if gated:
                hidden.append(Gated(StackedLinear(count, size, 2 * following)))
            else:
                hidden += [StackedLinear(count, size, following), nn.ReLU()]
        self.layers = nn.Sequential(*hidden, StackedLinear(count, sizes[-1], outputs))

    def forward(self, inputs: Tensor) -> Tensor:
        *stack, _, _ = next(self.parameters()).shape  # [*R, count]
        if inputs.dim() == len(stack) + 1:
            inputs = inputs.unsqueeze(-3).expand(*stack, *inputs.shape[-2:])
        return self.layers(inputs.flatten(0, -3)).unflatten(0, stack)
