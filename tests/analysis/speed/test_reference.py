"""What the benchmark compares with is the same computation: same weights, same noise, same numbers."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from analysis.speed.reference import Network, PlainActorCritic, PlainBatch, PlainEnsemble
from m3po.agents.agent_data import OwnEncodings
from m3po.agents.sac import SoftActorCritic, SoftActorCriticSettings
from m3po.data.replay_buffer import ModelBuffer, ModelBuffers
from m3po.data.types import Segments, Windows
from m3po.networks.context_encoder import ContextEncoder
from m3po.networks.model import EnsembleModel
from m3po.networks.policy import GaussianPolicy
from m3po.networks.stacked import StackedMLP

OBSERVATION, ACTION, HISTORY, CONTEXT, WIDTH, LAYERS, COUNT = 3, 2, 4, 5, 6, 2, 30
TOKEN = 2 * OBSERVATION + ACTION
SETTINGS = SoftActorCriticSettings(discount=0.9, target_rate=0.1, target_entropy=-2.0, learning_rate=1e-2)
TEMPERATURE = 0.3

Tensors = dict[str, Tensor]


def drawn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def segments() -> Segments:
    """Windows of every length 0..L; a third of the transitions are terminal."""
    lengths = torch.arange(COUNT) % (HISTORY + 1)
    used = torch.arange(HISTORY) >= HISTORY - lengths[:, None]
    tokens = drawn(COUNT, HISTORY + 1, TOKEN, seed=0)
    tokens[:, :-1][~used] = 0.0
    tokens[:, -1, OBSERVATION:-OBSERVATION].tanh_()
    return Segments(tokens, lengths, drawn(COUNT, seed=1), (torch.arange(COUNT) % 3 > 0).double())


def encoder(seed: int) -> ContextEncoder:
    torch.manual_seed(seed)
    built = ContextEncoder(OBSERVATION, ACTION, HISTORY, CONTEXT)
    nn.init.normal_(built.initial_context)
    return built.double()


def ours() -> OwnEncodings:
    own = encoder(0)
    policy = GaussianPolicy(own.feature_size, ACTION, WIDTH, LAYERS).double()
    critics = StackedMLP(2, own.feature_size + ACTION, WIDTH, LAYERS, 1).double()
    built = SoftActorCritic(policy, critics, SETTINGS, TEMPERATURE, own)
    slow = StackedMLP(2, own.feature_size + ACTION, WIDTH, LAYERS, 1).double()
    built.target_critics.load_state_dict(slow.state_dict())
    return OwnEncodings(built, own, ModelBuffers([ModelBuffer(COUNT)]))


def weights(module: nn.Module) -> Tensors:
    return {name: parameter.detach() for name, parameter in module.named_parameters()}


def as_theirs(encoder: Tensors, stack: Tensors, index: int) -> Tensors:
    """Our encoder and network ``index`` of our stack (weights or gradients) by the names of one reference network."""
    found = {
        "initial_context": encoder["initial_context"],
        "embed.linear.weight": encoder["embed.linear.weight"],
        "embed.linear.bias": encoder["embed.linear.bias"],
        "gru.weight_ih_l0": encoder["gru.input_weight"],
        "gru.weight_hh_l0": encoder["gru.recurrent_weight"],
        "gru.bias_ih_l0": encoder["gru.input_bias"],
        "gru.bias_hh_l0": encoder["gru.recurrent_bias"],
    }
    assert len(found) == len(encoder)
    places = {f"hidden.{place}.linear": f"layers.{place}.linear" for place in range(LAYERS)}
    for theirs, own in (places | {"output": f"layers.{LAYERS}"}).items():
        found[f"{theirs}.weight"] = stack[f"{own}.weight"][index].T
        found[f"{theirs}.bias"] = stack[f"{own}.bias"][index, 0]
    assert len(found) == len(encoder) + len(stack)
    return found


def of_the_head(tensors: Tensors) -> Tensors:
    """What is not the encoder's."""
    return {name: value for name, value in tensors.items() if name.startswith(("hidden", "output"))}


def of_the_encoder(tensors: Tensors) -> Tensors:
    return {name: value for name, value in tensors.items() if name not in of_the_head(tensors)}


def copy_weights(network: Network, encoder: ContextEncoder, stack: StackedMLP, index: int) -> None:
    network.double().load_state_dict(as_theirs(weights(encoder), weights(stack), index))


def reference(data: OwnEncodings) -> PlainActorCritic:
    """The reference with the weights of the agent, its one encoder in all five networks."""
    agent = data.agent
    built = PlainActorCritic(
        OBSERVATION, ACTION, CONTEXT, WIDTH, LAYERS, discount=SETTINGS.discount, target_rate=SETTINGS.target_rate,
        target_entropy=-2.0, learning_rate=SETTINGS.learning_rate, temperature=TEMPERATURE,
    )  # fmt: skip
    copy_weights(built.policy, data.encoder, agent.policy.network, 0)
    for index in range(2):
        copy_weights(built.critics[index], data.encoder, agent.critics, index)
        copy_weights(built.targets[index], data.encoder, agent.target_critics, index)
    return built


def gradients_at_step(
    monkeypatch: pytest.MonkeyPatch, optimiser: torch.optim.Optimizer, *modules: nn.Module, alone: Tensor | None = None
) -> list[Tensors]:
    """Filled with the gradients of modules and of a tensor when the optimiser should step; nothing moves any more."""
    seen: list[Tensors] = [{} for _ in range(len(modules) + (alone is not None))]

    def step() -> None:
        assert not any(seen), "one step, please"
        for gradients, module in zip(seen, modules, strict=alone is None):
            gradients |= gradients_of(module)
        if alone is not None and alone.grad is not None:
            seen[-1]["alone"] = alone.grad.clone()

    monkeypatch.setattr(optimiser, "step", step)
    return seen


def gradients_of(module: nn.Module) -> Tensors:
    found = {name: parameter.grad for name, parameter in module.named_parameters()}
    return {name: gradient.clone() for name, gradient in found.items() if gradient is not None}


def assert_same(theirs: Tensors, own: Tensors) -> None:
    assert theirs.keys() == own.keys()
    for name, value in theirs.items():
        np.testing.assert_allclose(value, own[name], rtol=1e-10, atol=1e-12, err_msg=name)


def noise_of(seed: int) -> Tensor:
    """What m3po.agents.sac draws from a generator with this seed."""
    return torch.randn(2, COUNT, ACTION, generator=torch.Generator().manual_seed(seed))


def test_windows_move_to_the_left_and_keep_their_order() -> None:
    """By hand, with L = 3; the letters are tokens, the last of each row is the step itself."""
    step = [1.0, 2.0, 0.5, 10.0, 20.0]  # o_t (two numbers), a_t, o_{t+1} - o_t

    def token(value: float) -> list[float]:
        return [value] * 5

    zero = token(0.0)
    a, b, c = token(7.0), token(8.0), token(9.0)
    batch = Segments(
        torch.tensor([[zero, zero, zero, step], [zero, zero, c, step], [zero, b, c, step], [a, b, c, step]]),
        torch.tensor([0, 1, 2, 3]),
        torch.tensor([1.0, 2.0, 3.0, 4.0]),
        torch.tensor([1.0, 0.0, 1.0, 1.0]),
    )
    plain = PlainBatch.of(batch, 2)
    assert plain.tokens.tolist() == [[zero, zero, zero], [c, zero, zero], [b, c, zero], [a, b, c]]
    assert plain.next_tokens.tolist() == [[step, zero, zero], [c, step, zero], [b, c, step], [b, c, step]]
    assert plain.lengths.tolist() == [0, 1, 2, 3]
    assert plain.next_lengths.tolist() == [1, 2, 3, 3]
    assert plain.observation.tolist() == [[1.0, 2.0]] * 4
    assert plain.action.tolist() == [[0.5]] * 4
    assert plain.next_observation.tolist() == [[11.0, 22.0]] * 4
    assert plain.reward.tolist() == [1.0, 2.0, 3.0, 4.0]
    assert plain.not_terminal.tolist() == [1.0, 0.0, 1.0, 1.0]


def test_padding_that_is_not_zero_stays_out() -> None:
    batch = Segments(torch.ones(1, 4, 3), torch.tensor([1]), torch.zeros(1), torch.ones(1))
    plain = PlainBatch.of(batch, 1)
    assert plain.tokens[0, :, 0].tolist() == [1.0, 0.0, 0.0]
    assert plain.next_tokens[0, :, 0].tolist() == [1.0, 1.0, 0.0]


@torch.no_grad()
def test_a_network_reads_a_window_as_our_encoder_does() -> None:
    data = ours()
    agent, plain = data.agent, reference(data)
    batch = segments()
    moved = PlainBatch.of(batch, OBSERVATION)
    encoded = data.encoder.transitions(batch)
    for features, window, observation in (
        (encoded.features, (moved.tokens, moved.lengths), moved.observation),
        (encoded.next_features, (moved.next_tokens, moved.next_lengths), moved.next_observation),
    ):
        result = plain.policy(*window, observation)
        torch.testing.assert_close(result, agent.policy.network(features)[0], rtol=1e-12, atol=1e-13)
        both = torch.stack([critic(*window, observation, moved.action)[:, 0] for critic in plain.critics])
        expected = agent.critics(torch.cat([features, moved.action], dim=1))[..., 0]
        torch.testing.assert_close(both, expected, rtol=1e-12, atol=1e-13)
    assert moved.lengths.bincount().tolist() == [COUNT // (HISTORY + 1)] * (HISTORY + 1)


def test_the_first_update_has_the_same_critic_loss_and_target() -> None:
    data = ours()
    agent, plain = data.agent, reference(data)
    theirs = plain.update(PlainBatch.of(segments(), OBSERVATION), noise_of(7))
    own = data.update(segments(), torch.Generator().manual_seed(7))
    for name in ("critic_loss", "q_mean"):
        torch.testing.assert_close(theirs[name], own[name], rtol=1e-12, atol=0)
    # The temperature's step depends on the policy's entropy, which no step of the critics touches.
    assert plain.log_temperature.item() == pytest.approx(agent.log_temperature.item(), rel=1e-6)
    assert abs(agent.log_temperature.exp().item() - TEMPERATURE) > 1e-3


def test_losses_and_gradients_agree_while_the_critics_stand_still(monkeypatch: pytest.MonkeyPatch) -> None:
    """In ours the policy reads encodings from before the critics' step, so that step is left out.

    Ours has one encoder: its gradient is the sum of the gradients of the critics' two copies.
    """
    data = ours()
    agent, plain = data.agent, reference(data)
    their_critics = [
        gradients_at_step(monkeypatch, optimiser, critic)[0]
        for optimiser, critic in zip(plain.critic_optimisers, plain.critics, strict=True)
    ]
    (their_policy,) = gradients_at_step(monkeypatch, plain.policy_optimiser, plain.policy)
    our_critics, our_encoder = gradients_at_step(monkeypatch, agent.critic_optimiser, agent.critics, data.encoder)
    our_policy, our_temperature = gradients_at_step(
        monkeypatch, agent.policy_optimiser, agent.policy.network, alone=agent.log_temperature
    )
    (their_temperature,) = gradients_at_step(monkeypatch, plain.temperature_optimiser, alone=plain.log_temperature)
    losses = plain.update(PlainBatch.of(segments(), OBSERVATION), noise_of(8))
    metrics = data.update(segments(), torch.Generator().manual_seed(8))
    for name in ("critic_loss", "q_mean", "policy_loss"):
        torch.testing.assert_close(losses[name], metrics[name], rtol=1e-12, atol=0)

    for index, gradients in enumerate(their_critics):
        assert_same(of_the_head(gradients), of_the_head(as_theirs(our_encoder, our_critics, index)))
    parts = [of_the_encoder(gradients) for gradients in their_critics]
    summed = {name: parts[0][name] + parts[1][name] for name in parts[0]}
    assert_same(summed, of_the_encoder(as_theirs(our_encoder, our_critics, 0)))
    assert all(gradient.abs().max() > 0 for gradient in summed.values())
    assert_same(of_the_head(their_policy), of_the_head(as_theirs(our_encoder, our_policy, 0)))
    assert their_temperature["alone"].item() == pytest.approx(our_temperature["alone"].item(), rel=1e-6)


def test_target_networks_follow_at_the_same_rate() -> None:
    data = ours()
    agent, plain = data.agent, reference(data)
    before = [weights(copy.deepcopy(target)) for target in plain.targets]
    plain.update(PlainBatch.of(segments(), OBSERVATION), noise_of(9))
    data.update(segments(), torch.Generator().manual_seed(9))
    for index in range(2):
        critic, target = weights(plain.critics[index]), weights(plain.targets[index])
        assert_same(target, {name: 0.9 * before[index][name] + 0.1 * critic[name] for name in critic})
        # Ours too, but for the encoder: its critics share one.
        own = of_the_head(as_theirs(weights(data.encoder), weights(agent.target_critics), index))
        for name, value in own.items():
            torch.testing.assert_close(target[name], value, rtol=0, atol=1e-7)
            assert (value - before[index][name]).abs().max() > 1e-3


def test_members_of_the_plain_ensemble_learn_from_the_same_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the learned bounds of the log variance far away: the reference leaves them out."""
    own = encoder(3)
    model = EnsembleModel(own, ACTION, 3, WIDTH, LAYERS).double()
    with torch.no_grad():
        model.log_variance_high.fill_(100.0)
        model.log_variance_low.fill_(-100.0)
    plain = PlainEnsemble(3, OBSERVATION, ACTION, CONTEXT, WIDTH, LAYERS)
    for index, member in enumerate(plain.members):
        copy_weights(member, own, model.heads, index)
    theirs = [
        gradients_at_step(monkeypatch, optimiser, member)[0]
        for optimiser, member in zip(plain.optimisers, plain.members, strict=True)
    ]
    batch, target, counts = segments(), drawn(COUNT, OBSERVATION + 1, seed=4), drawn(COUNT, 3, seed=5).exp()
    moved = PlainBatch.of(batch, OBSERVATION)
    plain.update(moved, target, counts)

    windows = Windows(batch.tokens[:, :-1], batch.lengths, moved.observation)
    (model.member_losses(own(windows), moved.action, target) * counts.T).mean(dim=1).sum().backward()
    our_encoder, our_heads = gradients_of(own), gradients_of(model.heads)
    for index, gradients in enumerate(theirs):
        assert_same(of_the_head(gradients), of_the_head(as_theirs(our_encoder, our_heads, index)))
    parts = [of_the_encoder(gradients) for gradients in theirs]
    summed = {name: parts[0][name] + parts[1][name] + parts[2][name] for name in parts[0]}
    assert_same(summed, of_the_encoder(as_theirs(our_encoder, our_heads, 0)))
