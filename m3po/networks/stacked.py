"""Stacked feed-forward networks: several networks of one shape evaluated as batched matrix products.

In front of the shapes given here may stand the run axis: see ``m3po.networks.run_axis``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate, chain, pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from m3po.networks.units import UNITS, HiddenUnits, SwishGate, Units

# Matrix kernels work along rows, several registers at a time: a product of fewer columns is computed transposed.
NARROW = 48


def product(left: Tensor, right: Tensor) -> Tensor:
    """A B, in the order that suits the kernels. Shapes [C, N, I], [C, I, O] -> [C, N, O]."""
    _, rows, inner = left.shape
    if inner == 1:
        return left * right
    if right.shape[-1] < min(NARROW, rows):
        return torch.bmm(right.mT, left.mT).mT
    return torch.bmm(left, right)


def affine(inputs: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """x W + c, in the order that suits the kernels. Shapes [C, N, I], [C, I, O], [C, 1, O] -> [C, N, O]."""
    if weight.shape[-1] < min(NARROW, inputs.shape[-2]):
        return torch.baddbmm(bias.mT, weight.mT, inputs.mT).mT
    return torch.baddbmm(bias, inputs, weight)


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


class Gated(nn.Module):
    """Swish-gated units: swish(u) * v with [u, v] an affine map of x.

    The paper's networks use swish. The gate lets a layer multiply its inputs, which is what "how did the body react to
    that action" is made of.
    """

    def __init__(self, linear: nn.Module) -> None:
        super().__init__()
        self.linear = linear

    def forward(self, inputs: Tensor) -> Tensor:
        return SwishGate.apply(self.linear(inputs))


class StackedMLP(nn.Module):
    """``count`` networks with ``layers`` hidden layers of ``width`` units, and affine outputs.

    Inputs may come in parts that stand side by side, I = sum_i I_i.
    Shapes: [N, I_i] each (the same for every network) or [count, N, I_i] -> [count, N, outputs].
    """

    def __init__(
        self, count: int, inputs: int, width: int, layers: int, outputs: int, *, units: HiddenUnits = "gated"
    ) -> None:
        super().__init__()
        self.units = UNITS[units]
        sizes = [inputs] + [width] * layers
        hidden: list[nn.Module] = []
        for size, following in pairwise(sizes):
            linear = StackedLinear(count, size, self.units.inputs * following)
            after: dict[HiddenUnits, type[nn.Module]] = {"rectified": nn.ReLU, "swish": nn.SiLU}
            hidden += [Gated(linear)] if units == "gated" else [linear, after[units]()]
        # The networks layer by layer, which ``StackedPass`` evaluates at once.
        self.layers = nn.Sequential(*hidden, StackedLinear(count, sizes[-1], outputs))
        self.linear = [each for each in self.modules() if isinstance(each, StackedLinear)]

    def affine_maps(self) -> list[Tensor]:
        """W and c of every layer in turn, [*R, count, I, O] and [*R, count, 1, O]."""
        return [each for layer in self.linear for each in (layer.weight, layer.bias)]

    def forward(self, *inputs: Tensor) -> Tensor:
        parameters = self.affine_maps()
        if torch.is_grad_enabled():
            return StackedPass.apply(self.units, len(inputs), *inputs, *parameters)
        stack = parameters[0].shape[:-2]
        return unstacked(evaluated(self.units, joint(inputs, stack), parameters), stack)


def unstacked(values: Tensor, stack: torch.Size) -> Tensor:
    """[R * count, N, O] -> [*R, count, N, O]."""
    return values.view(*stack, *values.shape[1:])


def joint(inputs: Sequence[Tensor], stack: torch.Size) -> Tensor:
    """The parts of what the networks get, [*R, N, I_i] or [*R, count, N, I_i], as one [R * count, N, I]."""
    values = inputs[0] if len(inputs) == 1 else torch.cat(list(inputs), dim=-1)
    if values.dim() == len(stack) + 1:
        values = values.unsqueeze(-3).expand(*stack, *values.shape[-2:])
    return values.flatten(0, -3)


def evaluated(
    units: Units, values: Tensor, parameters: Sequence[Tensor], kept: list[tuple[Tensor, ...]] | None = None
) -> Tensor:
    """The networks of ``parameters``, W and c of every layer in turn. Shapes [R * count, N, I] -> [R * count, N, O].

    In ``kept`` is left of every layer what it was given, its W, and what ``units.evaluate`` returned.
    """
    *hidden, weight, bias = [each.flatten(0, -3) for each in parameters]
    for before, after in zip(hidden[::2], hidden[1::2], strict=True):
        evaluation = units.evaluate(affine(values, before, after))
        if kept is not None:
            kept.append((values, before, *evaluation))
        values = evaluation[0]
    if kept is not None:
        kept.append((values, weight))
    return affine(values, weight, bias)


class StackedPass(torch.autograd.Function):
    """``StackedMLP`` as one node in the graph of gradients: nothing is computed or copied that nobody asks for.

    apply(units, count of parts, *parts, *parameters).
    """

    @staticmethod
    def forward(ctx: Any, units: Units, count: int, *tensors: Tensor) -> Tensor:
        parts, parameters = tensors[:count], tensors[count:]
        stack = parameters[0].shape[:-2]
        kept: list[tuple[Tensor, ...]] = []
        result = evaluated(units, joint(parts, stack), parameters, kept)
        ctx.units, ctx.stack, ctx.shapes = units, stack, [each.shape for each in parts]
        ctx.layers, ctx.each = len(kept), len(kept[0])
        ctx.save_for_backward(*chain(*kept))
        return unstacked(result, stack)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        saved, each, count = ctx.saved_tensors, ctx.each, len(ctx.shapes)
        wanted = ctx.needs_input_grad[2 : 2 + count]
        learning = any(ctx.needs_input_grad[2 + count :])
        gradient = gradient.flatten(0, -3)
        found: list[Tensor | None] = []
        for place in range((ctx.layers - 1) * each, -1, -each):
            values, weight = saved[place : place + 2]
            if learning:
                of_weight, of_bias = product(values.mT, gradient), gradient.sum(dim=-2, keepdim=True)
                found += [unstacked(of_bias, ctx.stack), unstacked(of_weight, ctx.stack)]
            if place > 0:
                gradient = ctx.units.derive(product(gradient, weight.mT), *saved[place - each + 2 : place])
        of_parts = for_parts(gradient, weight, ctx.shapes, ctx.stack, wanted)
        return None, None, *of_parts, *(reversed(found) if learning else [None] * (2 * ctx.layers))


def for_parts(
    gradient: Tensor, weight: Tensor, shapes: Sequence[torch.Size], stack: torch.Size, wanted: Sequence[bool]
) -> list[Tensor | None]:
    """The gradients with respect to the ``wanted`` parts of what the networks get; None for the others.

    Args:
        gradient: with respect to what the first layer makes of them, [R * count, N, O].
        weight: of the first layer, [R * count, I, O].
        shapes: of the parts.
        stack: [*R, count].
    """
    if not any(wanted):
        return [None] * len(shapes)
    ends = list(accumulate(shape[-1] for shape in shapes))
    starts = [0, *ends[:-1]]
    low = starts[wanted.index(True)]
    high = max(end for end, is_wanted in zip(ends, wanted, strict=True) if is_wanted)
    found = unstacked(product(gradient, weight[:, low:high].mT), stack)
    if found.dim() > len(shapes[0]):
        found = found.sum(dim=-3)
    return [
        found[..., start - low : end - low] if is_wanted else None
        for is_wanted, start, end in zip(wanted, starts, ends, strict=True)
    ]
