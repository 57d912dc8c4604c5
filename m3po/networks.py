"""Stacked feed-forward networks: several networks of one shape evaluated as batched matrix products."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn


class StackedLinear(nn.Module):
    """``count`` independent affine maps: y_b = x_b W_b + c_b. Shapes [count, N, inputs] -> [count, N, outputs]."""

    def __init__(self, count: int, inputs: int, outputs: int) -> None:
        super().__init__()
        limit = 1 / math.sqrt(inputs)
        self.weight = nn.Parameter(torch.empty(count, inputs, outputs).uniform_(-limit, limit))
        self.bias = nn.Parameter(torch.empty(count, 1, outputs).uniform_(-limit, limit))

    def forward(self, inputs: Tensor) -> Tensor:
        return torch.baddbmm(self.bias, inputs, self.weight)


class Gated(nn.Module):
    """Swish-gated units: swish(u) * v with [u, v] an affine map of x.

    The paper's networks use swish. The gate lets a layer multiply its inputs, which is what "how did the body react to
    that action" is made of; with plain swish layers the model did not find the task (docs/algorithm.md has figures).
    """

    def __init__(self, linear: nn.Module) -> None:
        super().__init__()
        self.linear = linear

    def forward(self, inputs: Tensor) -> Tensor:
        gate, value = self.linear(inputs).chunk(2, dim=-1)
        return nn.functional.silu(gate) * value


class StackedMLP(nn.Module):
    """``count`` networks with ``layers`` hidden layers of ``width`` gated units.

    Shapes: [N, inputs] (the same input for every network) or [count, N, inputs] -> [count, N, outputs].
    """

    def __init__(self, count: int, inputs: int, width: int, layers: int, outputs: int) -> None:
        super().__init__()
        sizes = [inputs] + [width] * layers
        hidden = [Gated(StackedLinear(count, size, 2 * following)) for size, following in pairwise(sizes)]
        self.layers = nn.Sequential(*hidden, StackedLinear(count, sizes[-1], outputs))
        self.count = count

    def forward(self, inputs: Tensor) -> Tensor:
        if inputs.dim() == 2:
            inputs = inputs.expand(self.count, *inputs.shape)
        return self.layers(inputs)
