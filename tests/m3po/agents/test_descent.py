"""Steps taken directly are those of torch's optimisers, bit for bit."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from m3po.agents.descent import descend, take_step

SHAPES = [(2, 3, 4), (2, 1, 4), (5,), ()]


def parameters() -> list[Tensor]:
    torch.manual_seed(0)
    return [torch.randn(shape).requires_grad_() for shape in SHAPES]


def loss_of(moved: list[Tensor], step: int) -> Tensor:
    """Another one at every step; the last parameter is not in it."""
    return sum((((step + 1.3) * each).sin().sum() for each in moved[:-1]), start=torch.zeros(()))


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.AdamW])
@pytest.mark.parametrize(
    "options", [{}, {"weight_decay": 0.1}, {"eps": 1e-3, "betas": (0.5, 0.7)}, {"maximize": True}, {"fused": False}]
)
def test_a_step_is_that_of_torch(kind: type[torch.optim.Adam], options: dict[str, Any]) -> None:
    ours, theirs = parameters(), parameters()
    options = {"fused": True} | options
    our, their = kind(ours, lr=0.01, **options), kind(theirs, lr=0.01, **options)
    for step in range(4):
        our.param_groups[0]["lr"] = their.param_groups[0]["lr"] = 0.01 / (step + 1)
        descend(our, loss_of(ours, step))
        their.zero_grad()
        loss_of(theirs, step).backward()
        their.step()
        assert all(torch.equal(*pair) for pair in zip(ours, theirs, strict=True))
        assert all(each.grad is None for each in ours)
    assert torch.equal(ours[-1], parameters()[-1])
    states = [optimiser.state_dict()["state"] for optimiser in (our, their)]
    assert states[0].keys() == states[1].keys() == {0, 1, 2}
    for place, state in states[0].items():
        assert all(torch.equal(value, states[1][place][name]) for name, value in state.items())


def test_gradients_may_lie_in_memory_in_any_order() -> None:
    """The kernel reads them one after another."""
    ours = [torch.zeros(4, 3).requires_grad_()]
    theirs = copy.deepcopy(ours)
    our, their = (torch.optim.Adam(each, lr=0.1, fused=True) for each in (ours, theirs))
    gradient = torch.arange(12.0).view(3, 4)
    for step in range(3):
        take_step(our, [(gradient - step).T])
        take_step(their, [(gradient - step).T.contiguous()])
    assert torch.equal(ours[0], theirs[0])
    assert ours[0].unique().numel() > 3
