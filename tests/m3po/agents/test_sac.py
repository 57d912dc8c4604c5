"""Soft actor-critic losses on linear networks small enough to compute with numpy."""

from __future__ import annotations

import copy
import dataclasses
import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from m3po.agents.agent_data import OwnEncodings
from m3po.agents.policy_limit import MovePenalty
from m3po.agents.sac import (
    SoftActorCritic,
    SoftActorCriticSettings,
    critic_loss,
    critic_values,
    policy_loss,
    soft_target,
    temperature_loss,
)
from m3po.data.replay_buffer import ModelBuffer, ModelBuffers
from m3po.data.types import Segments, Transitions, rows_of, side_by_side
from m3po.networks.policy import GaussianPolicy
from m3po.networks.stacked import StackedMLP
from tests.m3po.small import (
    ACTION,
    OBSERVATION,
    encoder,
    first_gradient,
    output_layer,
    policy_network,
    random_actions,
    random_windows,
)

SETTINGS = SoftActorCriticSettings(discount=0.9, target_rate=0.1, target_entropy=-1.0, learning_rate=1e-2)

# Q_i(h, a) = weights_i . (h, a) + bias_i with two features and one action.
CRITIC_WEIGHTS = np.array([[1.0, -2.0, 0.5], [0.5, 1.0, -1.0]])
CRITIC_BIASES = np.array([0.1, -0.2])
TARGET_WEIGHTS = np.array([[0.3, 0.2, 1.5], [-0.4, 0.6, -0.5]])
TARGET_BIASES = np.array([0.0, 0.4])
# mean = MEAN . h + 0.2; the log standard deviation is -1 for every history.
MEAN = np.array([0.7, -0.3])
FEATURES = np.array([[1.0, 2.0], [0.5, -1.0], [-0.2, 0.3]])
NEXT_FEATURES = np.array([[0.1, -0.4], [2.0, 1.0], [-1.5, 0.8]])
ACTIONS = np.array([0.2, -0.6, 0.9])
REWARDS = np.array([1.0, -0.5, 0.25])
NOT_TERMINAL = np.array([1.0, 0.0, 1.0])
NOISE = np.array([0.4, -1.2, 2.0])


def critics(weights: NDArray, biases: NDArray) -> StackedMLP:
    built = StackedMLP(2, 3, 1, 0, 1).double()
    with torch.no_grad():
        output_layer(built).weight.copy_(torch.as_tensor(weights)[..., None])
        output_layer(built).bias.copy_(torch.as_tensor(biases)[:, None, None])
    return built


def policy() -> GaussianPolicy:
    built = GaussianPolicy(2, 1, 1, 0).double()
    layer = output_layer(built.network)
    with torch.no_grad():
        layer.weight.zero_()
        layer.weight[0, :, 0] = torch.as_tensor(MEAN)
        layer.bias[0, 0] = torch.tensor([0.2, math.atanh(1 / 3)], dtype=torch.float64)  # -5 + 3 (1/3 + 1) = -1
    return built


def batch() -> Transitions:
    return Transitions(
        features=torch.as_tensor(FEATURES),
        action=torch.as_tensor(ACTIONS)[:, None],
        reward=torch.as_tensor(REWARDS),
        next_features=torch.as_tensor(NEXT_FEATURES),
        not_terminal=torch.as_tensor(NOT_TERMINAL),
    )


def q_by_hand(weights: NDArray, biases: NDArray, features: NDArray, action: NDArray) -> NDArray:
    return weights[:, :2] @ features.T + weights[:, 2:] * action + biases[:, None]


def policy_by_hand(features: NDArray, noise: NDArray) -> tuple[NDArray, NDArray]:
    """Actions and their log density, the naive way."""
    raw = features @ MEAN + 0.2 + math.exp(-1) * noise
    action = np.tanh(raw)
    log_gaussian = -0.5 * noise**2 + 1 - 0.5 * math.log(2 * math.pi)
    return action, log_gaussian - np.log(1 - action**2)


def target_by_hand(temperature: float = 0.3) -> NDArray:
    action, log_density = policy_by_hand(NEXT_FEATURES, NOISE)
    values = q_by_hand(TARGET_WEIGHTS, TARGET_BIASES, NEXT_FEATURES, action)
    assert {int(i) for i in values.argmin(axis=0)} == {0, 1}, "the minimum must not be one critic's throughout"
    return REWARDS + 0.9 * NOT_TERMINAL * (values.min(axis=0) - temperature * log_density)


def noise_tensor() -> torch.Tensor:
    return torch.as_tensor(NOISE)[:, None]


def test_critic_values_are_those_of_both_critics() -> None:
    result = critic_values(critics(CRITIC_WEIGHTS, CRITIC_BIASES), batch().features, batch().action)
    expected = q_by_hand(CRITIC_WEIGHTS, CRITIC_BIASES, FEATURES, ACTIONS)
    np.testing.assert_allclose(result.detach(), expected, rtol=1e-12)


def test_soft_target_takes_the_smaller_target_critic_and_the_entropy_and_stops_at_terminals() -> None:
    result = soft_target(
        batch(),
        policy(),
        critics(TARGET_WEIGHTS, TARGET_BIASES),
        torch.tensor(0.3, dtype=torch.float64),
        0.9,
        noise_tensor(),
    )
    np.testing.assert_allclose(result, target_by_hand(), rtol=1e-7)
    assert result[1] == REWARDS[1]
    assert not result.requires_grad


def test_critic_loss_is_half_the_squared_error_of_each_critic() -> None:
    target = target_by_hand()
    result = critic_loss(critics(CRITIC_WEIGHTS, CRITIC_BIASES), batch(), torch.as_tensor(target))
    values = q_by_hand(CRITIC_WEIGHTS, CRITIC_BIASES, FEATURES, ACTIONS)
    expected = sum(0.5 * np.mean((values[i] - target) ** 2) for i in range(2))
    assert result.item() == pytest.approx(expected, rel=1e-12)


def test_policy_loss_is_that_of_the_smaller_critic_and_the_entropy() -> None:
    action, log_density = policy_by_hand(FEATURES, NOISE)
    values = q_by_hand(CRITIC_WEIGHTS, CRITIC_BIASES, FEATURES, action)
    assert {int(i) for i in values.argmin(axis=0)} == {0, 1}
    loss, mean_log_density = policy_loss(
        policy(),
        critics(CRITIC_WEIGHTS, CRITIC_BIASES),
        batch().features,
        torch.tensor(0.3, dtype=torch.float64),
        noise_tensor(),
    )
    assert loss.item() == pytest.approx(np.mean(0.3 * log_density - values.min(axis=0)), rel=1e-6)
    assert mean_log_density.item() == pytest.approx(log_density.mean(), rel=1e-6)
    assert not mean_log_density.requires_grad


def test_policy_gradient_goes_through_the_action() -> None:
    """The derivative of the loss in the mean's bias, by central differences of the same loss."""
    built, twin = policy(), critics(CRITIC_WEIGHTS, CRITIC_BIASES)
    temperature = torch.tensor(0.3, dtype=torch.float64)
    bias = output_layer(built.network).bias
    policy_loss(built, twin, batch().features, temperature, noise_tensor())[0].backward()
    assert bias.grad is not None
    for index in range(2):
        step = 1e-6
        ends = []
        for sign in (1, -1):
            moved = copy.deepcopy(built)
            with torch.no_grad():
                output_layer(moved.network).bias[0, 0, index] += sign * step
            ends.append(policy_loss(moved, twin, batch().features, temperature, noise_tensor())[0].item())
        assert bias.grad[0, 0, index].item() == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-5)


@pytest.mark.parametrize(("mean_log_density", "rises"), [(3.0, True), (-3.0, False)])
def test_temperature_rises_while_the_entropy_is_below_its_target(mean_log_density: float, rises: bool) -> None:
    """Entropy is -mean log density; the target is 1 nat, so an entropy of -3 is too low and one of 3 is not."""
    log_temperature = torch.tensor(math.log(0.2), requires_grad=True)
    loss = temperature_loss(log_temperature, torch.tensor(mean_log_density), 1.0)
    assert loss.item() == pytest.approx(-math.log(0.2) * (mean_log_density + 1.0))
    loss.backward()
    assert log_temperature.grad is not None
    assert (log_temperature.grad < 0) == rises


def agent(settings: SoftActorCriticSettings = SETTINGS) -> SoftActorCritic:
    built = SoftActorCritic(policy(), critics(CRITIC_WEIGHTS, CRITIC_BIASES), settings, 0.3)
    built.target_critics.load_state_dict(critics(TARGET_WEIGHTS, TARGET_BIASES).state_dict())
    built.log_temperature.data = built.log_temperature.data.double()
    return built


def test_target_critics_start_as_copies() -> None:
    built = SoftActorCritic(policy(), critics(CRITIC_WEIGHTS, CRITIC_BIASES), SETTINGS, 0.3)
    pairs = zip(built.target_critics.parameters(), built.critics.parameters(), strict=True)
    assert all(torch.equal(target, critic) and target is not critic for target, critic in pairs)
    assert built.log_temperature.exp().item() == pytest.approx(0.3)


def test_update_reports_the_losses_computed_by_hand() -> None:
    """Same generator, so the same noise: first of the critics' target, then of the policy."""
    noise = torch.randn(2, 3, 1, generator=torch.Generator().manual_seed(0)).double().numpy()[..., 0]
    built = agent()
    before = copy.deepcopy(built.critics)
    metrics = built.update(batch(), torch.Generator().manual_seed(0))

    action, log_density = policy_by_hand(NEXT_FEATURES, noise[0])
    value = q_by_hand(TARGET_WEIGHTS, TARGET_BIASES, NEXT_FEATURES, action).min(axis=0) - 0.3 * log_density
    target = REWARDS + 0.9 * NOT_TERMINAL * value
    loss_q = critic_loss(before, batch(), torch.as_tensor(target))
    loss_q.backward()
    assert metrics["critic_loss"].item() == pytest.approx(loss_q.item(), rel=1e-6)
    assert metrics["q_mean"].item() == pytest.approx(target.mean(), rel=1e-6)
    assert metrics["temperature"].item() == pytest.approx(0.3, rel=1e-6)

    # The first step of Adam is the learning rate times the sign of the gradient.
    for parameter, old in zip(built.critics.parameters(), before.parameters(), strict=True):
        assert old.grad is not None
        torch.testing.assert_close(parameter.data, old.data - 1e-2 * old.grad.sign(), rtol=0, atol=1e-6)

    # The policy is judged by the critics after their step.
    weights = output_layer(built.critics).weight.detach().numpy()[..., 0]
    biases = output_layer(built.critics).bias.detach().numpy()[:, 0, 0]
    action, log_density = policy_by_hand(FEATURES, noise[1])
    expected = np.mean(0.3 * log_density - q_by_hand(weights, biases, FEATURES, action).min(axis=0))
    assert metrics["policy_loss"].item() == pytest.approx(expected, rel=1e-6)
    assert metrics["entropy"].item() == pytest.approx(-log_density.mean(), rel=1e-6)
    assert set(metrics) == {"critic_loss", "policy_loss", "q_mean", "entropy", "temperature"}
    assert not any(value.requires_grad for value in metrics.values())


def test_update_moves_target_critics_by_the_target_rate_after_the_critics() -> None:
    built = agent()
    old = [parameter.clone() for parameter in built.target_critics.parameters()]
    built.update(batch(), torch.Generator().manual_seed(0))
    triples = zip(built.target_critics.parameters(), old, built.critics.parameters(), strict=True)
    for target, before, critic in triples:
        torch.testing.assert_close(target, 0.9 * before + 0.1 * critic.detach(), rtol=1e-9, atol=1e-12)
        assert not target.requires_grad


def test_update_moves_policy_and_temperature_downhill() -> None:
    built = agent()
    noise = torch.randn(2, 3, 1, generator=torch.Generator().manual_seed(0)).double()
    built.update(batch(), torch.Generator().manual_seed(0))
    twin = policy()
    loss, mean_log_density = policy_loss(
        twin, copy.deepcopy(built.critics), batch().features, torch.tensor(0.3, dtype=torch.float64), noise[1]
    )
    loss.backward()
    for parameter, old in zip(built.policy.parameters(), twin.parameters(), strict=True):
        assert old.grad is not None
        torch.testing.assert_close(parameter.data, old.data - 1e-2 * old.grad.sign(), rtol=0, atol=1e-6)
    direction = 1 if mean_log_density - 1.0 > 0 else -1
    moved = built.log_temperature.item() - math.log(0.3)
    assert moved == pytest.approx(direction * 1e-2, rel=1e-4)
    # The policy's loss leaves the critics trainable and without its gradient.
    assert all(parameter.requires_grad for parameter in built.critics.parameters())
    before = critics(CRITIC_WEIGHTS, CRITIC_BIASES)
    target = soft_target(
        batch(), policy(), critics(TARGET_WEIGHTS, TARGET_BIASES), torch.tensor(0.3, dtype=torch.float64), 0.9, noise[0]
    )
    critic_loss(before, batch(), target).backward()
    for parameter, old in zip(built.critics.parameters(), before.parameters(), strict=True):
        torch.testing.assert_close(first_gradient(built.critic_optimiser, parameter), old.grad, rtol=1e-6, atol=1e-9)


def test_the_learning_rate_is_set_for_every_optimiser() -> None:
    built = agent()
    built.set_learning_rate(1e-4)
    before = [*built.policy.parameters(), *built.critics.parameters(), built.log_temperature]
    values = [parameter.detach().clone() for parameter in before]
    built.update(batch(), torch.Generator().manual_seed(0))
    for parameter, value in zip(before, values, strict=True):
        # The first step of Adam is the learning rate, but for coordinates without a gradient.
        assert (parameter.detach() - value).abs().max().item() == pytest.approx(1e-4, rel=1e-2)


def test_repeated_updates_learn_the_reward_of_a_bandit() -> None:
    """One history, terminal steps, reward -(a - 0.5)^2: the policy's mean goes to 0.5, the critics to the reward."""
    torch.manual_seed(0)
    settings = SoftActorCriticSettings(discount=0.9, target_rate=0.1, target_entropy=-2.0, learning_rate=3e-3)
    built = SoftActorCritic(GaussianPolicy(1, 1, 16, 1), StackedMLP(2, 2, 32, 2, 1), settings, 0.1)
    generator = torch.Generator().manual_seed(0)
    ones = torch.ones(64, 1)
    for _ in range(500):
        action = 2 * torch.rand(64, 1, generator=generator) - 1
        reward = -((action[:, 0] - 0.5) ** 2)
        built.update(Transitions(ones, action, reward, ones, torch.zeros(64)), generator)
    mean, _ = built.policy(torch.ones(1, 1))
    assert torch.tanh(mean).item() == pytest.approx(0.5, abs=0.1)
    grid = torch.linspace(-0.9, 0.9, 19)[:, None]
    values = critic_values(built.critics, torch.ones(19, 1), grid).detach()
    assert (values + (grid[:, 0] - 0.5) ** 2).abs().max() < 0.1


def test_a_fixed_temperature_stays_and_the_rest_of_the_update_is_the_same() -> None:
    fixed = agent(dataclasses.replace(SETTINGS, target_entropy=None))
    tuned = agent()
    before = fixed.log_temperature.detach().clone()
    first = [built.update(batch(), torch.Generator().manual_seed(0)) for built in (fixed, tuned)]
    assert first[0].keys() == first[1].keys()
    for name, value in first[0].items():
        assert torch.equal(value, first[1][name]), name
    for name, module in fixed.modules().items():
        for parameter, other in zip(module.parameters(), tuned.modules()[name].parameters(), strict=True):
            assert torch.equal(parameter, other), name
    assert not torch.equal(tuned.log_temperature, before)
    for seed in range(1, 5):
        metrics = fixed.update(batch(), torch.Generator().manual_seed(seed))
        assert metrics["temperature"].item() == pytest.approx(0.3, rel=1e-6)
    assert torch.equal(fixed.log_temperature.detach(), before)


def segments(count: int = 12) -> Segments:
    """Transitions with pasts of every length, two of them terminal."""
    windows = random_windows(count, 3)
    assert set(windows.lengths.tolist()) == {0, 1, 2, 3}
    generator = torch.Generator().manual_seed(5)
    following = windows.observation + torch.randn(count, OBSERVATION, generator=generator)
    not_terminal = torch.ones(count)
    not_terminal[[2, 7]] = 0.0
    reward = torch.randn(count, generator=generator)
    return Segments.of(windows, random_actions(count), following, reward, not_terminal)


def agent_with_encoder() -> OwnEncodings:
    own = encoder(3)
    with torch.random.fork_rng():
        torch.manual_seed(6)
        twins = StackedMLP(2, own.feature_size + ACTION, 8, 1, 1)
        slow = StackedMLP(2, own.feature_size + ACTION, 8, 1, 1)
    built = SoftActorCritic(policy_network(own), twins, SETTINGS, 0.3, own)
    built.target_critics.load_state_dict(slow.state_dict())
    return OwnEncodings(built, own, ModelBuffers([ModelBuffer(12)]))


def critics_only_step(data: OwnEncodings, noise: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Critics and encoder one Adam step down the critics' loss; the loss and the target."""
    built = data.agent
    encoded = data.encoder.transitions(segments())
    target = soft_target(encoded, built.policy, built.target_critics, torch.tensor(0.3), 0.9, noise)
    loss = critic_loss(built.critics, encoded, target)
    parameters = [*built.critics.parameters(), *data.encoder.parameters()]
    optimiser = torch.optim.Adam(parameters, lr=1e-2)
    loss.backward()
    optimiser.step()
    return loss.detach(), target


def test_an_encoder_of_its_own_learns_from_the_critics_and_from_nothing_else() -> None:
    built, by_hand = agent_with_encoder(), agent_with_encoder()
    before = [parameter.detach().clone() for parameter in built.encoder.parameters()]
    noise = torch.randn(2, 12, ACTION, generator=torch.Generator().manual_seed(0))
    metrics = built.update(segments(), torch.Generator().manual_seed(0))
    loss, target = critics_only_step(by_hand, noise[0])
    torch.testing.assert_close(metrics["critic_loss"], loss, rtol=1e-6, atol=0)
    torch.testing.assert_close(metrics["q_mean"], target.mean(), rtol=1e-6, atol=0)

    moved = zip(built.encoder.parameters(), by_hand.encoder.parameters(), before, strict=True)
    for parameter, expected, old in moved:
        assert (parameter - old).abs().max().item() == pytest.approx(1e-2, rel=1e-3)  # Adam's first step
        torch.testing.assert_close(parameter, expected, rtol=0, atol=1e-6)
        # Were the policy's loss to reach the encoder, its gradient would have been added here.
        found = first_gradient(built.agent.critic_optimiser, parameter)
        torch.testing.assert_close(found, expected.grad, rtol=1e-5, atol=1e-7)
    for parameter, expected in zip(built.agent.critics.parameters(), by_hand.agent.critics.parameters(), strict=True):
        torch.testing.assert_close(parameter, expected, rtol=0, atol=1e-6)


def test_the_policy_reads_the_encodings_from_before_the_critics_step() -> None:
    """One encoding per window serves all networks of an update."""
    data = agent_with_encoder()
    built = data.agent
    network = copy.deepcopy(built.policy)
    features = data.encoder.transitions(segments()).features.detach()
    noise = torch.randn(2, 12, ACTION, generator=torch.Generator().manual_seed(0))
    metrics = data.update(segments(), torch.Generator().manual_seed(0))
    loss, mean_log_density = policy_loss(network, built.critics, features, torch.tensor(0.3), noise[1])
    torch.testing.assert_close(metrics["policy_loss"], loss.detach(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(metrics["entropy"], -mean_log_density, rtol=1e-5, atol=1e-6)
    after = data.encoder.transitions(segments()).features.detach()
    other, _ = policy_loss(network, built.critics, after, torch.tensor(0.3), noise[1])
    assert abs(other.item() - loss.item()) > 1e-3


def test_an_encoder_of_its_own_is_part_of_the_checkpoint_and_of_the_critics_optimiser() -> None:
    data = agent_with_encoder()
    built = data.agent
    assert set(built.modules()) == {"policy", "critics", "target_critics", "encoder"}
    assert built.modules()["encoder"] is built.encoder is data.encoder
    assert set(agent().modules()) == {"policy", "critics", "target_critics"}
    (group,) = built.critic_optimiser.param_groups
    learned = {id(parameter) for parameter in group["params"]}
    assert learned == {id(each) for module in (built.critics, data.encoder) for each in module.parameters()}


def test_batches_of_runs_that_are_not_equally_long_teach_each_what_its_own_would() -> None:
    """What fills them up takes no part, and no random numbers are drawn for it."""

    def agents() -> list[SoftActorCritic]:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            networks = [(GaussianPolicy(3, ACTION, 8, 1), StackedMLP(2, 3 + ACTION, 8, 1, 1)) for _ in range(2)]
        penalties = [MovePenalty(copy.deepcopy(network), 0.1) for network, _ in networks]
        for penalty in penalties:
            torch.nn.init.constant_(output_layer(penalty.reference.network).bias, 0.3)
        return [
            SoftActorCritic(*pair, SETTINGS, 0.3, move_penalty=penalty)
            for pair, penalty in zip(networks, penalties, strict=True)
        ]

    def noise(seed: int) -> torch.Generator:
        return torch.Generator().manual_seed(seed)

    source, whole = noise(9), []
    for _ in range(2):
        rows = torch.randn(12, 3 + ACTION + 1 + 3, generator=source).split((3, ACTION, 1, 3), dim=1)
        whole.append(Transitions(rows[0], rows[1].tanh(), rows[2][:, 0], rows[3], torch.ones(12)))
    counts = (12, 7)
    own = [rows_of(each, slice(count)) for each, count in zip(whole, counts, strict=True)]
    for value in vars(whole[1]).values():
        value[7:] = 1e3
    valid = torch.arange(12) < torch.tensor(counts)[:, None]

    joined, alone = agents(), agents()
    group = SoftActorCritic.of_runs(joined)
    generators = [noise(run) for run in range(2)]
    together = group.update(side_by_side(whole), generators, valid=valid)
    for run in range(2):
        generator = noise(run)
        expected = alone[run].update(own[run], generator)
        for name, value in together.items():
            torch.testing.assert_close(value[run], expected[name], rtol=1e-5, atol=1e-6, msg=name)
        assert torch.equal(generators[run].get_state(), generator.get_state())
        for name, module in joined[run].modules().items():
            for value, other in zip(module.parameters(), alone[run].modules()[name].parameters(), strict=True):
                torch.testing.assert_close(value, other, rtol=0, atol=1e-6, msg=name)
        penalties = [each[run].move_penalty for each in (joined, alone)]
        assert penalties[0] is not None
        assert penalties[1] is not None
        torch.testing.assert_close(penalties[0].log_weight, penalties[1].log_weight)
