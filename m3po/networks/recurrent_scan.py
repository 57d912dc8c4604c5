"""A GRU over many short windows: forward and backward as few, large matrix products.

torch.nn.GRU keeps an autograd graph of every elementary operation of every step, and cannot skip padding in front of a
window. Here a step costs one matrix product and a handful of operations in place, in each direction, and the derivative
of the weights is one product over all steps. In front of the shapes given here may stand the run axis.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from m3po.networks.run_axis import linear, plus_product


def run_scan(
    gates: Sequence[Tensor], initial: Tensor, weight: Tensor, bias: Tensor, padding: Sequence[Tensor]
) -> tuple[Tensor, list[Tensor]]:
    """The recurrence of ``GRU``: the last state, and what a derivative needs of every step (four tensors each).

    Args:
        gates: T times [N, 3 H], the inputs' part.
        initial: [N, H].
        weight, bias: [3 H, H], [3 H].
        padding: T times [N, 1], 1 where a step does not count and 0 where it does.
    """
    size = initial.shape[-1]
    bias, weight = bias.unsqueeze(-2), weight.mT
    hidden = initial
    saved: list[Tensor] = []
    for gate, skipped in zip(gates, padding, strict=True):
        product = plus_product(bias, hidden, weight)
        recurrent = product[..., 2 * size :]
        reset_update = product[..., : 2 * size].add_(gate[..., : 2 * size]).sigmoid()
        update = reset_update[..., size:]
        torch.maximum(update, skipped, out=update)  # an update gate of 1 keeps the state
        candidate = torch.addcmul(gate[..., 2 * size :], reset_update[..., :size], recurrent)
        # tanh(x) = 2 sigmoid(2 x) - 1; torch's sigmoid is several times faster than its tanh on a CPU.
        candidate.mul_(2).sigmoid_().mul_(2).sub_(1)
        saved += hidden, reset_update, candidate, recurrent
        hidden = torch.lerp(candidate, hidden, update)
    return hidden, saved


class GatedScan(torch.autograd.Function):
    """``run_scan`` with its derivative."""

    @staticmethod
    def forward(ctx: Any, gates: Tensor, initial: Tensor, weight: Tensor, bias: Tensor, padding: Tensor) -> Tensor:
        hidden, saved = run_scan(gates.unbind(-3), initial, weight, bias, padding.unbind(-3))
        ctx.save_for_backward(weight, *saved)
        return hidden

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, None]:
        weight, *saved = ctx.saved_tensors
        hiddens, reset_updates, candidates, recurrent = (saved[i::4] for i in range(4))
        steps = len(hiddens)
        *runs, count, size = gradient.shape
        recurrent_gradient = gradient.new_empty(*runs, steps, count, 3 * size)
        candidate_gradient = gradient.new_empty(*runs, steps, count, size)
        for t in reversed(range(steps)):
            reset, update = reset_updates[t][..., :size], reset_updates[t][..., size:]
            kept = 1 - update
            here, through = candidate_gradient[..., t, :, :], recurrent_gradient[..., t, :, :]
            torch.mul(gradient * kept, 1 - candidates[t] ** 2, out=here)
            torch.mul(here * recurrent[t], reset * (1 - reset), out=through[..., :size])
            torch.mul(gradient * (hiddens[t] - candidates[t]), update * kept, out=through[..., size : 2 * size])
            torch.mul(here, reset, out=through[..., 2 * size :])
            gradient = plus_product(gradient * update, through, weight)
        flat = recurrent_gradient.flatten(-3, -2)
        weight_gradient = flat.mT @ torch.cat(hiddens, dim=-2)
        bias_gradient = flat.sum(dim=-2)
        gates_gradient = recurrent_gradient
        gates_gradient[..., 2 * size :] = candidate_gradient
        return gates_gradient, gradient, weight_gradient, bias_gradient, None


class GRU(nn.Module):
    """h_t = u_t * h_{t-1} + (1 - u_t) * n_t, with r, u = sigmoid(W x_t + U h_{t-1} + b) and
    n_t = tanh(W_n x_t + c_n + r_t * (U_n h_{t-1} + b_n)): torch.nn.GRU's equations and initialisation.

    Args:
        inputs, size: of x_t and of h_t.
    """

    def __init__(self, inputs: int, size: int) -> None:
        super().__init__()
        limit = 1 / math.sqrt(size)
        self.input_weight = nn.Parameter(torch.empty(3 * size, inputs).uniform_(-limit, limit))
        self.recurrent_weight = nn.Parameter(torch.empty(3 * size, size).uniform_(-limit, limit))
        self.input_bias = nn.Parameter(torch.empty(3 * size).uniform_(-limit, limit))
        self.recurrent_bias = nn.Parameter(torch.empty(3 * size).uniform_(-limit, limit))

    def gates(self, inputs: Tensor) -> Tensor:
        """The inputs' part W x + b of every gate. Shapes [T, N, inputs] -> [T, N, 3 size]."""
        return linear(inputs, self.input_weight, self.input_bias)

    def scan(self, gates: Tensor | Sequence[Tensor], initial: Tensor, lengths: Tensor) -> Tensor:
        """The last hidden state after the ``lengths`` newest steps.

        Shapes T times [N, 3 size], [N, size], [N] (0 <= lengths <= T) -> [N, size]. Only gates in one tensor
        [T, N, 3 size] carry gradients.
        """
        steps = gates.shape[-3] if isinstance(gates, Tensor) else len(gates)
        places = torch.arange(steps, device=lengths.device)[:, None]
        padding = (places < steps - lengths.unsqueeze(-2)).to(initial.dtype).unsqueeze(-1)
        if isinstance(gates, Tensor) and torch.is_grad_enabled():
            return GatedScan.apply(gates, initial, self.recurrent_weight, self.recurrent_bias, padding)
        each = gates.unbind(-3) if isinstance(gates, Tensor) else gates
        with torch.no_grad():
            return run_scan(each, initial, self.recurrent_weight, self.recurrent_bias, padding.unbind(-3))[0]
