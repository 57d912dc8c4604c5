"""Hidden units: what stands between two affine maps, and its derivative.

swish(u) = u s(u), s the logistic function, has the derivative swish + s (1 - swish): what the forward pass has computed
serves the backward pass, which needs no exponential of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

HiddenUnits = Literal["gated", "rectified", "swish"]


class Units(NamedTuple):
    """A kind of hidden units, W of them.

    Attributes:
        inputs: how many outputs of the affine map each unit takes.
        evaluate: [..., inputs * W] -> [..., W], and behind it what ``derive`` needs besides; it may write over its
            argument.
        derive: the gradient with respect to the units [..., W], which it may write over, and what ``evaluate`` returned
            -> the gradient with respect to what they took [..., inputs * W].
    """

    inputs: int
    evaluate: Callable[[Tensor], tuple[Tensor, ...]]
    derive: Callable[..., Tensor]


def _rectified(values: Tensor) -> tuple[Tensor, ...]:
    return (values.relu_(),)


def _rectified_gradient(gradient: Tensor, result: Tensor) -> Tensor:
    return torch.ops.aten.threshold_backward.grad_input(gradient, result, 0, grad_input=gradient)


def _swish(values: Tensor) -> tuple[Tensor, ...]:
    sigmoid = torch.sigmoid(values)
    return values.mul_(sigmoid), sigmoid


def _swish_gradient(gradient: Tensor, swish: Tensor, sigmoid: Tensor) -> Tensor:
    return gradient.mul_(_swish_derivative(swish, sigmoid))


def _swish_derivative(swish: Tensor, sigmoid: Tensor) -> Tensor:
    return (1 - swish).mul_(sigmoid).add_(swish)


def _gated(values: Tensor) -> tuple[Tensor, ...]:
    gate, value = values.chunk(2, dim=-1)
    sigmoid = torch.sigmoid(gate)
    swish = gate * sigmoid
    return swish * value, swish, sigmoid, values


def _gated_gradient(gradient: Tensor, _: Tensor, swish: Tensor, sigmoid: Tensor, values: Tensor) -> Tensor:
    value = values.chunk(2, dim=-1)[1]
    # Autograd would take the derivatives of the two halves into two arrays of zeros and add them up.
    result = torch.empty_like(values)
    for_gate, for_value = result.chunk(2, dim=-1)
    torch.mul(gradient, swish, out=for_value)
    torch.mul(_swish_derivative(swish, sigmoid).mul_(gradient), value, out=for_gate)
    return result


UNITS: dict[HiddenUnits, Units] = {
    "rectified": Units(1, _rectified, _rectified_gradient),
    "swish": Units(1, _swish, _swish_gradient),
    "gated": Units(2, _gated, _gated_gradient),
}


class SwishGate(torch.autograd.Function):
    """[..., 2 W] = [u, v] -> swish(u) * v. Shape [..., W]."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor) -> Tensor:
        result, *kept = _gated(inputs)
        ctx.save_for_backward(*kept)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _gated_gradient(gradient, gradient, *ctx.saved_tensors)
