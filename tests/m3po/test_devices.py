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
from m3po.networks.batch_normalised import BatchNormalisedMLP
from m3po.networks.context_encoder import ContextEncoder
from m3po.networks.model import EnsembleModel
from m3po.networks.policy import GaussianPolicy, HistoryPolicy
from m3po.networks.run_axis import stacked
from m3po.networks.stacked import StackedMLP
from tests.m3po.small import ACTION, OBSERVATION, episodes_of, filled_buffer

META = torch.device("meta")  # knows shapes and devices and has no numbers to read
TOKEN = 2 * OBSERVATION + ACTION


def agent_on(
    device: torch.device,
    own_encoder: bool,
    *,
    runs: int | None = None,
    critics: type[StackedMLP] = StackedMLP,
    captured: bool = False,
    capturable: bool = False,
) -> StoredEncodings | OwnEncodings:
    """Of so many runs side by side; None: of one, without a run axis."""
    torch.manual_seed(0)
    settings = SoftActorCriticSettings(0.9, 0.1, -2.0, 1e-3, capturable=capturable)
    encoders, agents = [], []
    for _ in range(runs or 1):
        encoder = ContextEncoder(OBSERVATION, ACTION, 3, 5).to(device)
        policy = GaussianPolicy(encoder.feature_size, ACTION, 8, 1).to(device)
        twins = critics(2, encoder.feature_size + ACTION, 8, 1, 1).to(device)
        encoders.append(encoder)
        agents.append(SoftActorCritic(policy, twins, settings, 0.1, encoder if own_encoder else None))
    encoder, agent = encoders[0], agents[0]
    if runs is not None:
        encoder = stacked(encoders)
        agent = SoftActorCritic.of_runs(agents, encoder if own_encoder else None)
    kind = OwnEncodings if own_encoder else StoredEncodings
    return kind(agent, encoder, ModelBuffers([ModelBuffer(100) for _ in encoders]), captured=captured)


def segments_on(device: torch.device, *runs: int) -> Segments:
    return Segments(
        torch.randn(*runs, 6, 4, TOKEN, device=device),
        torch.full((*runs, 6), 2, device=device),
        torch.randn(*runs, 6, device=device),
        torch.ones(*runs, 6, device=device),
    )


@pytest.mark.parametrize("critics", [StackedMLP, BatchNormalisedMLP])
@pytest.mark.parametrize("runs", [None, 12])
@pytest.mark.parametrize("own_encoder", [True, False])
def test_an_update_stays_on_its_device_and_reads_nothing_back(
    own_encoder: bool, runs: int | None, critics: type[StackedMLP]
) -> None:
    data = agent_on(META, own_encoder, runs=runs, critics=critics)
    agent = data.agent
    # The fused Adam has no meta kernel; what is checked is everything else.
    agent.critic_optimiser = torch.optim.SGD(agent.critic_optimiser.param_groups[0]["params"], lr=0.1)  # type: ignore[assignment]
    agent.policy_optimiser = torch.optim.SGD(agent.policy_optimiser.param_groups[0]["params"], lr=0.1)  # type: ignore[assignment]
    axis = () if runs is None else (runs,)
    batch: Any = data.real(segments_on(META, *axis))
    generators: Any = None if runs is None else [None] * runs
    metrics = data.update(batch, generators)
    assert {value.device for value in metrics.values()} == {META}
    assert {value.shape for value in metrics.values()} == {torch.Size(axis)}


@torch.no_grad()
@pytest.mark.parametrize("runs", [None, 12])
def test_rollouts_that_never_terminate_stay_on_their_device_and_read_nothing_back(runs: int | None) -> None:
    data = agent_on(META, False, runs=runs)
    axis = () if runs is None else (runs,)
    models = [
        EnsembleModel(ContextEncoder(OBSERVATION, ACTION, 3, 5), ACTION, 3, 8, 1, elites=2).to(META)
        for _ in range(runs or 1)
    ]
    model = models[0] if runs is None else stacked(models)
    starts = Windows(
        torch.randn(*axis, 6, 3, TOKEN, device=META),
        torch.full((*axis, 6), 2, device=META),
        torch.randn(*axis, 6, OBSERVATION, device=META),
    )
    generators: Any = None if runs is None else [None] * runs
    steps = list(model_steps(model, HistoryPolicy(model.encoder, data.agent.policy), starts, 3, generators))
    assert len(steps) == 3
    assert {step.next_observation.device for step in steps} == {META}
    assert {step.next_observation.shape for step in steps} == {torch.Size((*axis, 6, OBSERVATION))}


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
