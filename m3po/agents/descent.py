"""Steps of Adam and AdamW, without what ``backward``, ``step`` and ``zero_grad`` do besides: small networks feel it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.optim.adam import adam
from torch.optim.adamw import adamw


def descend(optimiser: torch.optim.Adam, loss: Tensor) -> None:
    """One step down ``loss``, a scalar; what it does not depend on stays."""
    parameters = optimiser.param_groups[0]["params"]
    take_step(optimiser, torch.autograd.grad(loss, parameters, allow_unused=True))


@torch.no_grad()
def take_step(optimiser: torch.optim.Adam, gradients: Sequence[Tensor | None]) -> None:
    """What ``optimiser.step()`` does where its parameters have these gradients; None leaves a parameter as it is.

    Args:
        optimiser: with one group of parameters.
        gradients: in their order.
    """
    (group,) = optimiser.param_groups
    # torch's fused kernel goes through memory and does not look at strides.
    moved = [
        (each, found.contiguous()) for each, found in zip(group["params"], gradients, strict=True) if found is not None
    ]
    if any(each not in optimiser.state for each, _ in moved):
        for each, found in moved:
            each.grad = found
        optimiser.step()
        optimiser.zero_grad()
        return
    states = [optimiser.state[each] for each, _ in moved]
    beta1, beta2 = group["betas"]
    function = adamw if isinstance(optimiser, torch.optim.AdamW) else adam
    function(
        [each for each, _ in moved],
        [found for _, found in moved],
        [state["exp_avg"] for state in states],
        [state["exp_avg_sq"] for state in states],
        [],
        [state["step"] for state in states],
        foreach=group["foreach"],
        capturable=group["capturable"],
        fused=group["fused"],
        amsgrad=group["amsgrad"],
        beta1=beta1,
        beta2=beta2,
        lr=group["lr"],
        weight_decay=group["weight_decay"],
        eps=group["eps"],
        maximize=group["maximize"],
    )
