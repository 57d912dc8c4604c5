"""What a GPU needs and a machine without one can check: no mixed devices, no number read back within an update."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from m3po.agents.agent_data import OwnEncodings, StoredEncodings
from m3po.agents.rollout import model_steps
from m3po.agents.sac import SoftActorCritic, SoftActorCriticSettings
from m3po.data.replay_buffer import ModelBuffer, ModelBuffers
from m3po.data.types import Segments, Windows
from m3po.networks.context_encoder import ContextEncoder
from m3po.networks.model import EnsembleModel
from m3po.networks.policy import GaussianPolicy, HistoryPolicy
from m3po.networks.stacked import StackedMLP
from tests.m3po.small import ACTION, OBSERVATION, episodes_of, filled_buffer

META = torch.device("meta")  # knows shapes and devices and has no numbers to read
TOKEN = 2 * OBSERVATION + ACTION


def agent_on(
    device: torch.device, own_encoder: bool, *, captured: bool = False, capturable: bool = False
) -> StoredEncodings | OwnEncodings:
    torch.manual_seed(0)
    encoder = ContextEncoder(OBSERVATION, ACTION, 3, 5).to(device)
    policy = GaussianPolicy(encoder.feature_size, ACTION, 8, 1).to(device)
    critics = StackedMLP(2, encoder.feature_size + ACTION, 8, 1, 1).to(device)
    settings = SoftActorCriticSettings(0.9, 0.1, -2.0, 1e-3, capturable=capturable)
    agent = SoftActorCritic(policy, critics, settings, 0.1, encoder if own_encoder else None)
    kind = OwnEncodings if own_encoder else StoredEncodings
    return kind(agent, encoder, ModelBuffers([ModelBuffer(100)]), captured=captured)


def segments_on(device: torch.device) -> Segments:
    return Segments(
        torch.randn(6, 4, TOKEN, device=device), torch.full((6,), 2, device=device), torch.randn(6, device=device),
        torch.ones(6, device=device),
    )  # fmt: skip


@pytest.mark.parametrize("own_encoder", [True, False])
def test_an_update_stays_on_its_device_and_reads_nothing_back(own_encoder: bool) -> None:
    data = agent_on(META, own_encoder)
    agent = data.agent
    # The fused Adam has no meta kernel; what is checked is everything else.
    agent.critic_optimiser = torch.optim.SGD(agent.critic_optimiser.param_groups[0]["params"], lr=0.1)  # type: ignore[assignment]
    agent.policy_optimiser = torch.optim.SGD(agent.policy_optimiser.param_groups[0]["params"], lr=0.1)  # type: ignore[assignment]
    batch: Any = data.real(segments_on(META))
    generator: Any = None
    metrics = data.update(batch, generator)
    assert {value.device for value in metrics.values()} == {META}


@torch.no_grad()
def test_rollouts_that_never_terminate_stay_on_their_device_and_read_nothing_back() -> None:
    data = agent_on(META, False)
    model = EnsembleModel(data.encoder, ACTION, 3, 8, 1, elites=2).to(META)
    starts = Windows(
        torch.randn(6, 3, TOKEN, device=META),
        torch.full((6,), 2, device=META),
        torch.randn(6, OBSERVATION, device=META),
    )
    generator: Any = None
    steps = list(model_steps(model, HistoryPolicy(data.encoder, data.agent.policy), starts, 3, generator))
    assert len(steps) == 3
    assert {step.next_observation.device for step in steps} == {META}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("own_encoder", [True, False])
def test_captured_updates_are_the_eager_ones(own_encoder: bool) -> None:
    device = torch.device("cuda")
    results = []
    for capture in (False, True):
        data = agent_on(device, own_encoder, captured=capture, capturable=True)
        generator = torch.Generator(device).manual_seed(0)
        buffer = filled_buffer(episodes_of([40], seed=0), 3)
        for number in range(8):
            segments = buffer.segments(torch.arange(4 * number, 4 * number + 6))
            batch: Any = data.real(Segments(**{name: value.to(device) for name, value in vars(segments).items()}))
            data.agent.set_learning_rate(1e-3 / (1 + number))
            data.update(batch, generator)
        results.append([parameter.detach().cpu() for parameter in data.agent.critics.parameters()])
    for eager, captured in zip(*results, strict=True):
        torch.testing.assert_close(captured, eager, rtol=1e-5, atol=1e-6)
