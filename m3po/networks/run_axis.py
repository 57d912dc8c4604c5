"""The run axis: R networks of one shape as one network whose parameters and buffers are [R, ...].

Every network of this room computes on inputs [R, N, ...] with the same lines as on inputs [N, ...]: what is written
over the last axes does not care whether a run axis stands in front.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from m3po.data.types import stacked_tensors

Module = TypeVar("Module", bound=nn.Module)


def stacked(modules: Sequence[Module]) -> Module:
    """One module whose every parameter and buffer is that of ``modules`` along a new first axis.

    The given modules stay what they are and become views: what is written to one side, in place, is seen on the other.

    Raises:
        ValueError: when they have not equally many parts.
        RuntimeError: when the shapes of a part differ.
    """
    joint = copy.deepcopy(modules[0])
    for owner, *parts in zip(joint.modules(), *(module.modules() for module in modules), strict=True):
        for name, parameter in list(owner.named_parameters(recurse=False)):
            values = stacked_tensors([getattr(part, name) for part in parts])
            setattr(owner, name, nn.Parameter(values, requires_grad=parameter.requires_grad))
        for name, _ in list(owner.named_buffers(recurse=False)):
            setattr(owner, name, stacked_tensors([getattr(part, name) for part in parts]))
    return joint


def join_states(joint: torch.optim.Optimizer, optimisers: Sequence[torch.optim.Optimizer]) -> None:
    """Give the optimiser of stacked parameters the states of those of the runs, which become views.

    The learning rate is the first run's; so is the count of steps, which is the same for all.
    """
    for group, own in zip(joint.param_groups, optimisers[0].param_groups, strict=True):
        group["lr"] = own["lr"]
    parameters = joint.param_groups[0]["params"]
    parts = [optimiser.param_groups[0]["params"] for optimiser in optimisers]
    for place, parameter in enumerate(parameters):
        states = [optimiser.state[part[place]] for optimiser, part in zip(optimisers, parts, strict=True)]
        if not states[0]:
            for state, part in zip(states, parts, strict=True):
                zeros = torch.zeros_like(part[place].detach())
                state |= {"step": torch.zeros((), device=zeros.device), "exp_avg": zeros, "exp_avg_sq": zeros.clone()}
        step = states[0]["step"]
        joint.state[parameter] = {
            "step": step,
            **{name: stacked_tensors([state[name] for state in states]) for name in ("exp_avg", "exp_avg_sq")},
        }
        for state in states:
            state["step"] = step


def own_copy(module: Module) -> Module:
    """A copy that later training leaves alone, and that holds nothing of other runs."""
    result = copy.deepcopy(module)
    for tensor in (*result.parameters(), *result.buffers()):
        tensor.data = tensor.data.clone()
    return result


def aligned(per_run: Tensor, values: Tensor) -> Tensor:
    """[*R, D] as [*R, 1, ..., 1, D], with as many axes as ``values`` [*R, ..., D] has."""
    return per_run.reshape(*per_run.shape[:-1], *[1] * (values.dim() - per_run.dim()), per_run.shape[-1])


def linear(inputs: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """x W^T + b. Shapes [*R, ..., I], [*R, O, I], [*R, O] -> [*R, ..., O]."""
    if weight.dim() == 2:
        return nn.functional.linear(inputs, weight, bias)
    rows = inputs.flatten(1, -2)
    return torch.baddbmm(bias.unsqueeze(-2), rows, weight.mT).unflatten(1, inputs.shape[1:-1])


def plus_product(added: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """c + A B. Shapes [*R, N or 1, O], [*R, N, I], [*R, I, O] -> [*R, N, O]."""
    return torch.addmm(added, left, right) if right.dim() == 2 else torch.baddbmm(added, left, right)


class Linear(nn.Linear):
    """``torch.nn.Linear``, of every run."""

    def forward(self, inputs: Tensor) -> Tensor:
        return linear(inputs, self.weight, self.bias)
