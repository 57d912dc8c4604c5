"""Soft actor-critic: the three losses as functions of everything they need, and the update that applies them.

In front of the shapes given here may stand the run axis; a scalar is then one of every run.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from m3po.agents.descent import descend
from m3po.agents.policy_limit import MovePenalty
from m3po.data.draws import Generators, normal_rows
from m3po.data.types import Transitions, mean_of, stacked_tensors
from m3po.networks.batch_normalised import BatchNormalisedMLP
from m3po.networks.policy import GaussianPolicy
from m3po.networks.run_axis import join_states, stacked
from m3po.networks.stacked import StackedMLP
from m3po.networks.units import HiddenUnits
from m3po.settings import AgentSettings, CriticKind, NetworkSettings

# Adam's, where critics follow their own values: CrossQ's.
BETA_1_WITHOUT_TARGETS = 0.5

# What an update of the policy reports.
POLICY_REPORTS = ("policy_loss", "entropy")


def updates_with(name: str, updates: int, interval: int) -> int:
    """How many of an epoch's ``updates`` report ``name``, where those of number 0, ``interval``, ... are of the policy
    too."""
    return -(-updates // interval) if name in POLICY_REPORTS else updates


def critic_values(critics: StackedMLP, features: Tensor, action: Tensor) -> Tensor:
    """Q_i(h, a) of both critics. Shapes [N, F], [N, A] -> [2, N]."""
    return critics(features, action).squeeze(-1)


@torch.no_grad()
def soft_target(
    batch: Transitions,
    policy: GaussianPolicy,
    target_critics: StackedMLP,
    temperature: Tensor,
    discount: float,
    noise: Tensor,
) -> Tensor:
    """y = r + gamma * not_terminal * (min_i Qbar_i(h', a') - temperature * log pi(a'|h')), a' ~ pi. Shape [N]."""
    action, log_density = policy.sample(batch.next_features, noise)
    next_values = critic_values(target_critics, batch.next_features, action)
    return soft_return(batch, next_values, log_density, temperature, discount)


def critic_loss(critics: StackedMLP, batch: Transitions, target: Tensor, valid: Tensor | None = None) -> Tensor:
    """sum_i mean_n (Q_i(h_n, a_n) - y_n)^2 / 2. Scalar."""
    return half_squares(critic_values(critics, batch.features, batch.action), target, valid)


def half_squares(values: Tensor, target: Tensor, valid: Tensor | None = None) -> Tensor:
    """sum_i mean_n (Q_in - y_n)^2 / 2. Shapes [2, N], [N] -> scalar."""
    squares = nn.functional.mse_loss(values, target.unsqueeze(-2).expand_as(values), reduction="none")
    return 0.5 * mean_of(squares.sum(dim=-2), valid)


def critic_loss_without_targets(
    critics: BatchNormalisedMLP,
    batch: Transitions,
    policy: GaussianPolicy,
    temperature: Tensor,
    discount: float,
    noise: Tensor,
    valid: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """``critic_loss`` for a ``soft_target`` that the critics themselves set, and that target. Scalar and [N].

    Both ends of the transitions go through the critics as one batch, so that they are normalised alike: the actions
    a' ~ pi are distributed otherwise than those of the data (CrossQ, section 3).
    """
    with torch.no_grad():
        next_action, log_density = policy.sample(batch.next_features, noise)
    here = torch.cat([batch.features, batch.action], dim=-1)
    there = torch.cat([batch.next_features, next_action], dim=-1)
    both = None if valid is None else torch.cat([valid, valid], dim=-1)
    outputs = critics.with_batch_statistics(torch.cat([here, there], dim=-2), valid=both)
    values, following = outputs.squeeze(-1).chunk(2, dim=-1)
    target = soft_return(batch, following.detach(), log_density, temperature, discount)
    return half_squares(values, target, valid), target


def soft_return(
    batch: Transitions, next_values: Tensor, log_density: Tensor, temperature: Tensor, discount: float
) -> Tensor:
    """y = r + gamma * not_terminal * (min_i Q_i(h', a') - temperature * log pi(a'|h')). Shapes [2, N], [N] -> [N]."""
    value = torch.addcmul(next_values.amin(dim=-2), temperature.unsqueeze(-1), log_density, value=-1)
    return torch.addcmul(batch.reward, batch.not_terminal, value, value=discount)


def policy_loss(
    policy: GaussianPolicy,
    critics: StackedMLP,
    features: Tensor,
    temperature: Tensor,
    noise: Tensor,
    valid: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """mean_n [temperature * log pi(a_n|h_n) - min_i Q_i(h_n, a_n)], a_n ~ pi reparametrised; and detached mean log pi.

    This is the paper's E[D_KL(pi || exp(Q - V))] up to a constant and the factor temperature.
    """
    action, log_density = policy.sample(features, noise)
    value = critic_values(critics, features, action).min(dim=-2).values
    loss = mean_of(temperature.unsqueeze(-1) * log_density - value, valid)
    return loss, mean_of(log_density.detach(), valid)


def temperature_loss(log_temperature: Tensor, mean_log_density: Tensor, target_entropy: float) -> Tensor:
    """-log temperature * (mean log pi + target entropy): raises the temperature while the entropy is too low."""
    return -log_temperature * (mean_log_density + target_entropy)


@dataclass(frozen=True)
class SoftActorCriticSettings:
    """What one update needs besides networks and data.

    Attributes:
        discount: gamma in [0, 1).
        target_rate: step of the target critics towards the critics, in (0, 1].
        target_entropy: in nats; None keeps the temperature fixed.
        learning_rate: of Adam, for policy, critics, temperature and an encoder trained by the critics.
        capturable: keep step counts and learning rates on the (CUDA) device, so that a graph can hold an update.
    """

    discount: float
    target_rate: float
    target_entropy: float | None
    learning_rate: float
    capturable: bool = False


def agent_settings(
    config: AgentSettings, action_size: int, *, capturable: bool
) -> tuple[float, SoftActorCriticSettings]:
    """The entropy that a tuned temperature aims at, tuned or not; and what every update needs."""
    target_entropy = -float(action_size) if config.target_entropy is None else config.target_entropy
    tuned = target_entropy if config.temperature_tuning == "automatic" else None
    return target_entropy, SoftActorCriticSettings(
        config.discount, config.target_rate, tuned, config.learning_rate, capturable=capturable
    )


def agent_networks(
    config: NetworkSettings,
    feature_size: int,
    action_size: int,
    device: torch.device,
    *,
    units: HiddenUnits,
    critics: CriticKind,
) -> tuple[GaussianPolicy, StackedMLP]:
    """Policy and twin critics on encoded histories, in the sizes that a run's configuration asks for."""
    policy = GaussianPolicy(feature_size, action_size, config.width, config.layers, units=units)
    kind = BatchNormalisedMLP if critics == "batch-norm" else StackedMLP
    twins = kind(2, feature_size + action_size, config.width, config.layers, 1, units=units)
    return policy.to(device), twins.to(device)


class SoftActorCritic:
    """Policy, twin critics, their targets, temperature, and their optimisers.

    Args:
        encoder: what the critics' loss trains beside the critics: the encoder that the features of batches carry
            gradients to; None when they carry none. One encoding per window serves all networks of an update.
        move_penalty: what the policy pays for moving; None: nothing.

    Attributes:
        target_critics: what the critics are held against: slow copies, or with batch norm the critics themselves.
    """

    def __init__(
        self,
        policy: GaussianPolicy,
        critics: StackedMLP,
        settings: SoftActorCriticSettings,
        initial_temperature: float,
        encoder: nn.Module | None = None,
        move_penalty: MovePenalty | None = None,
    ) -> None:
        device = next(policy.parameters()).device
        self.policy = policy
        self.critics = critics
        self.encoder = encoder
        self.target_critics = critics
        if not isinstance(critics, BatchNormalisedMLP):
            self.target_critics = copy.deepcopy(critics).requires_grad_(False)
        self.log_temperature = torch.full((), initial_temperature, device=device).log().requires_grad_()
        self.settings = settings
        self.move_penalty = move_penalty
        self._optimise()

    @classmethod
    def of_runs(cls, agents: Sequence[SoftActorCritic], encoder: nn.Module | None = None) -> SoftActorCritic:
        """The agents of several runs side by side, as one that updates them all.

        They stay what they are and become views, their optimisers' states included.

        Args:
            agents: that have taken equally many updates with the same settings.
            encoder: theirs, with a run axis; None when they have none.
        """
        first = agents[0]
        joint = copy.copy(first)
        joint.encoder = encoder
        joint.policy = stacked([each.policy for each in agents])
        joint.critics = stacked([each.critics for each in agents])
        joint.target_critics = joint.critics
        if first.target_critics is not first.critics:
            joint.target_critics = stacked([each.target_critics for each in agents])
        joint.log_temperature = stacked_tensors([each.log_temperature for each in agents]).requires_grad_()
        penalties = [each.move_penalty for each in agents if each.move_penalty is not None]
        joint.move_penalty = MovePenalty.of_runs(penalties) if penalties else None
        joint._optimise()
        for name, optimiser in joint.optimisers().items():
            join_states(optimiser, [each.optimisers()[name] for each in agents])
        return joint

    def _optimise(self) -> None:
        """New optimisers of what there is."""
        encoded_by = [] if self.encoder is None else list(self.encoder.parameters())
        # Adam treats every element on its own, so one optimiser serves policy and temperature.
        self.policy_optimiser = self._adam([*self.policy.parameters(), self.log_temperature])
        self.critic_optimiser = self._adam([*self.critics.parameters(), *encoded_by])
        self._critic_parameters: list[Tensor] = list(self.critics.parameters())
        self._target_parameters: list[Tensor] = list(self.target_critics.parameters())

    def _adam(self, parameters: list[Tensor]) -> torch.optim.Adam:
        rate, capturable = self.settings.learning_rate, self.settings.capturable
        rates = torch.tensor(rate, device=parameters[0].device) if capturable else rate
        first = BETA_1_WITHOUT_TARGETS if isinstance(self.critics, BatchNormalisedMLP) else 0.9
        return torch.optim.Adam(parameters, lr=rates, betas=(first, 0.999), fused=True, capturable=capturable)

    def update(
        self,
        batch: Transitions,
        generator: Generators,
        penalties: Mapping[str, Tensor] = MappingProxyType({}),
        valid: Tensor | None = None,
        *,
        policy_too: bool = True,
    ) -> dict[str, Tensor]:
        """One gradient step of critics, policy and temperature; returns detached scalars by name.

        Args:
            batch: N transitions.
            generator: source of all randomness.
            penalties: scalars that the encoder pays beside the critics' loss.
            valid: [R, N] booleans, where the batches of several runs are not equally long: those of a run stand first,
                and what is after them takes no part. None: all N count.
            policy_too: otherwise policy and temperature stay, and ``POLICY_REPORTS`` are left out.
        """
        settings = self.settings
        temperature = self.log_temperature.detach().exp()
        *runs, size, actions = batch.action.shape
        draws = 2 if policy_too else 1
        noise = normal_rows((*runs, draws, size, actions), generator, batch.action.device, valid).unbind(-3)

        if isinstance(self.critics, BatchNormalisedMLP):
            loss_q, target = critic_loss_without_targets(
                self.critics, batch, self.policy, temperature, settings.discount, noise[0], valid
            )
        else:
            target = soft_target(batch, self.policy, self.target_critics, temperature, settings.discount, noise[0])
            loss_q = critic_loss(self.critics, batch, target, valid)
        # The sum's gradient with respect to the parameters of one run is that of its own loss.
        descend(self.critic_optimiser, sum(penalties.values(), start=loss_q).sum())

        reports = self._update_policy(batch, temperature, noise[1], valid) if policy_too else {}
        if self.target_critics is not self.critics:
            with torch.no_grad():
                torch._foreach_lerp_(self._target_parameters, self._critic_parameters, settings.target_rate)
        return {
            "critic_loss": loss_q.detach(),
            "q_mean": mean_of(target, valid),
            "temperature": temperature,
            **reports,
            **{name: penalty.detach() for name, penalty in penalties.items()},
        }

    def _update_policy(
        self, batch: Transitions, temperature: Tensor, noise: Tensor, valid: Tensor | None
    ) -> dict[str, Tensor]:
        """The step of policy and temperature; ``POLICY_REPORTS``."""
        for parameter in self._critic_parameters:
            parameter.requires_grad = False
        loss_pi, mean_log_density = policy_loss(
            self.policy, self.critics, batch.features.detach(), temperature, noise, valid
        )
        if self.move_penalty is not None:
            loss_pi = loss_pi + self.move_penalty(self.policy, batch.features.detach(), valid)
        loss = loss_pi
        if self.settings.target_entropy is not None:
            loss = loss_pi + temperature_loss(self.log_temperature, mean_log_density, self.settings.target_entropy)
        descend(self.policy_optimiser, loss.sum())
        for parameter in self._critic_parameters:
            parameter.requires_grad = True

        return {"policy_loss": loss_pi.detach(), "entropy": -mean_log_density}

    def set_learning_rate(self, learning_rate: float) -> None:
        """Of all optimisers, from now on."""
        for optimiser in self.optimisers().values():
            for group in optimiser.param_groups:
                if isinstance(group["lr"], Tensor):
                    group["lr"].fill_(learning_rate)
                else:
                    group["lr"] = learning_rate

    def modules(self) -> dict[str, nn.Module]:
        """What a checkpoint stores of the networks."""
        encoder = {} if self.encoder is None else {"encoder": self.encoder}
        slow = {} if self.target_critics is self.critics else {"target_critics": self.target_critics}
        return {"policy": self.policy, "critics": self.critics, **slow, **encoder}

    def optimisers(self) -> dict[str, torch.optim.Optimizer]:
        """What a checkpoint stores of the optimisers."""
        return {"policy": self.policy_optimiser, "critics": self.critic_optimiser}

    def state(self) -> dict[str, Any]:
        """What a checkpoint stores, as tensors and plain values."""
        return {
            "networks": {name: module.state_dict() for name, module in self.modules().items()},
            "optimisers": {name: optimiser.state_dict() for name, optimiser in self.optimisers().items()},
            "log_temperature": self.log_temperature.detach(),
            **({} if self.move_penalty is None else {"log_move_weight": self.move_penalty.log_weight}),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Inverse of ``state``; other entries are left alone."""
        for name, module in self.modules().items():
            module.load_state_dict(state["networks"][name])
        for name, optimiser in self.optimisers().items():
            optimiser.load_state_dict(state["optimisers"][name])
        with torch.no_grad():
            self.log_temperature.copy_(state["log_temperature"])
            if self.move_penalty is not None:
                self.move_penalty.log_weight.copy_(state["log_move_weight"])
