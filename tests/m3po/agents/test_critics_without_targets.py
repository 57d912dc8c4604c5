"""The soft actor-critic whose critics have batch norm and no target networks."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from m3po.agents.sac import (
    SoftActorCritic,
    SoftActorCriticSettings,
    critic_loss_without_targets,
    policy_loss,
)
from m3po.data.types import Transitions
from m3po.networks.batch_normalised import BatchNorm, BatchNormalisedMLP
from m3po.networks.policy import GaussianPolicy
from m3po.networks.stacked import StackedMLP

SETTINGS = SoftActorCriticSettings(discount=0.9, target_rate=0.1, target_entropy=-2.0, learning_rate=1e-2)
TEMPERATURE = torch.tensor(0.3)


def critics(seed: int = 0) -> BatchNormalisedMLP:
    torch.manual_seed(seed)
    return BatchNormalisedMLP(2, 5, 8, 1, 1, units="rectified")


def policy(seed: int = 1) -> GaussianPolicy:
    torch.manual_seed(seed)
    return GaussianPolicy(3, 2, 8, 1, units="rectified")


def batch() -> Transitions:
    generator = torch.Generator().manual_seed(2)
    draw = [torch.randn(16, size, generator=generator) for size in (3, 2, 1, 3)]
    not_terminal = (torch.arange(16) % 5 > 0).float()
    return Transitions(draw[0], torch.tanh(draw[1]), draw[2][:, 0], 2 + draw[3], not_terminal)


def noise() -> Tensor:
    return torch.randn(16, 2, generator=torch.Generator().manual_seed(3))


def statistics(network: BatchNormalisedMLP) -> list[Tensor]:
    return [value.clone() for each in network.modules() if isinstance(each, BatchNorm) for value in each.buffers()]


def test_both_ends_are_normalised_together_and_only_the_first_is_learned_from() -> None:
    given, twins = batch(), critics()
    by_hand = copy.deepcopy(twins)
    loss, target = critic_loss_without_targets(twins, given, policy(), TEMPERATURE, 0.9, noise())
    loss.backward()

    with torch.no_grad():
        action, log_density = policy().sample(given.next_features, noise())
    rows = torch.cat(
        [torch.cat([given.features, given.action], dim=1), torch.cat([given.next_features, action], dim=1)]
    )
    values = by_hand.with_batch_statistics(rows)[..., 0]
    here, following = values[:, :16], values[:, 16:].detach()
    expected = given.reward + 0.9 * given.not_terminal * (following.min(dim=0).values - 0.3 * log_density)
    torch.testing.assert_close(target, expected)
    assert not target.requires_grad
    own = 0.5 * ((here - expected) ** 2).mean(dim=1).sum()
    own.backward()
    torch.testing.assert_close(loss, own)
    for mine, other in zip(twins.parameters(), by_hand.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad)
    # Apart from each other the two ends would have other statistics, and other values.
    apart = critics().with_batch_statistics(rows[:16])[..., 0]
    assert (apart - here).abs().max() > 0.05


def test_an_update_judges_the_policy_by_running_statistics_which_follow_the_critics_batch_alone() -> None:
    twins = critics()
    agent = SoftActorCritic(policy(), twins, SETTINGS, 0.3)
    generator = torch.Generator().manual_seed(4)
    draws = torch.randn(2, 16, 2, generator=torch.Generator().manual_seed(4))
    alone = critics()
    critic_loss_without_targets(alone, batch(), policy(), TEMPERATURE, 0.9, draws[0])
    metrics = agent.update(batch(), generator)
    for mine, other in zip(statistics(twins), statistics(alone), strict=True):
        torch.testing.assert_close(mine, other)
    expected, _ = policy_loss(policy(), twins, batch().features, TEMPERATURE, draws[1])
    torch.testing.assert_close(metrics["policy_loss"], expected.detach())


def test_there_are_no_target_networks_to_follow_or_to_save() -> None:
    agent = SoftActorCritic(policy(), critics(), SETTINGS, 0.3)
    assert agent.target_critics is agent.critics
    assert set(agent.modules()) == {"policy", "critics"}
    for _ in range(3):
        agent.update(batch(), torch.Generator().manual_seed(5))
    other = SoftActorCritic(policy(7), critics(8), SETTINGS, 0.1)
    other.load_state(copy.deepcopy(agent.state()))
    for mine, theirs in zip(statistics(agent.critics), statistics(other.critics), strict=True):  # type: ignore[arg-type]
        assert torch.equal(mine, theirs)
    continued = [each.update(batch(), torch.Generator().manual_seed(6)) for each in (agent, other)]
    assert all(torch.equal(continued[0][name], continued[1][name]) for name in continued[0])


def test_gradients_are_averaged_over_fewer_steps_than_where_targets_are_slow() -> None:
    """And of several runs side by side as of one."""
    without = SoftActorCritic(policy(), critics(), SETTINGS, 0.1)
    slow = SoftActorCritic(policy(), StackedMLP(2, 5, 8, 1, 1, units="rectified"), SETTINGS, 0.1)
    for agents, beta_1 in (([without], 0.5), ([slow], 0.9)):
        for agent in (*agents, SoftActorCritic.of_runs([copy.deepcopy(agents[0]), *agents])):
            for optimiser in agent.optimisers().values():
                assert [group["betas"] for group in optimiser.param_groups] == [(beta_1, 0.999)]


def test_critics_learn_the_values_of_a_chain_without_targets() -> None:
    """r = o, o' = -o, gamma .9: Q = o / 1.9 for every action, and rewards that end are their own value."""
    torch.manual_seed(0)
    twins = BatchNormalisedMLP(2, 5, 32, 1, 1, units="rectified")
    agent = SoftActorCritic(policy(), twins, SoftActorCriticSettings(0.9, 0.1, None, 3e-3), 1e-6)
    generator = torch.Generator().manual_seed(0)
    for _ in range(1000):
        features = 2 * torch.rand(128, 3, generator=generator) - 1
        action = 2 * torch.rand(128, 2, generator=generator) - 1
        transitions = Transitions(features, action, features[:, 0], -features, torch.ones(128))
        agent.update(transitions, generator)
    features = 2 * torch.rand(64, 3, generator=generator) - 1
    with torch.no_grad():
        values = twins(torch.cat([features, torch.zeros(64, 2)], dim=1))[..., 0]
    error = (values - features[:, 0] / 1.9).abs().mean()
    assert error < 0.06  # of values whose mean magnitude is 0.26
