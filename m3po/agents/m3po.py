"""Algorithm 2 of the paper: a model, its branched rollouts, and the soft actor-critic that learns from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from m3po.agents.agent_data import OwnEncodings, StoredEncodings
from m3po.agents.certification import Certification
from m3po.agents.loop import TrainingLoop
from m3po.agents.model_training import train_model
from m3po.agents.policy_limit import MovePenalty
from m3po.agents.rollout import model_steps
from m3po.agents.sac import SoftActorCritic, agent_networks, agent_settings
from m3po.data.replay_buffer import drawn
from m3po.episodes import run_episodes
from m3po.errors import error_metrics
from m3po.networks.context_encoder import ContextEncoder
from m3po.networks.model import EnsembleModel
from m3po.networks.policy import HistoryPolicy
from m3po.runs.health import NamedTensors


class M3PO(TrainingLoop):
    """Algorithm 2: a model, its rollouts, and the soft actor-critic that learns from them.

    Attributes:
        data_policy: the policy as it was when this epoch's collection began; held-out episodes are its.
    """

    algorithms = ("m3po", "m3po-h", "m3po-full")
    policy: HistoryPolicy

    # Line 1.
    def build(self, observation_size: int) -> None:
        config, action_size = self.config, self.action_size
        sizes = (observation_size, action_size, config.history_length, config.context_size)
        encoder = ContextEncoder(*sizes)
        self.model = EnsembleModel(
            encoder, action_size, config.ensemble_size, config.width, config.layers, config.elites
        ).to(self.device)
        network, critics = agent_networks(
            config, encoder.feature_size, action_size, self.device, gated=config.agent_units == "gated"
        )
        self.target_entropy, settings = agent_settings(config, action_size, capturable=config.cuda_graphs)
        capacity = max(config.model_buffer_size, config.rollouts_per_step * config.rollout_interval)
        penalty = None if config.move_limit is None else MovePenalty.within(network, config.move_limit)
        self.data: StoredEncodings | OwnEncodings
        if config.context_training == "model":
            self.agent = SoftActorCritic(network, critics, settings, config.initial_temperature, None, penalty)
            self.data = StoredEncodings(self.agent, encoder, capacity, captured=config.cuda_graphs)
        else:
            own = ContextEncoder(*sizes).to(self.device)
            self.agent = SoftActorCritic(network, critics, settings, config.initial_temperature, own, penalty)
            self.data = OwnEncodings(self.agent, own, capacity, captured=config.cuda_graphs)
        self.policy = HistoryPolicy(self.data.encoder, network)
        self.data_policy = self.policy.snapshot()
        self.certification = Certification(config, self.policy, self.horizon, self.reward_range)
        self.model_optimiser = torch.optim.AdamW(
            self.model.parameters(), lr=config.model_learning_rate, weight_decay=config.model_weight_decay, fused=True
        )
        self._model_losses: dict[str, float] = {}

    @property
    def training_budget(self) -> int:
        return self.certification.split.training_steps

    @property
    def rollout_length(self) -> int:
        """k of the rollouts that would be run now."""
        full = self.config.algorithm == "m3po-full"
        return self.horizon if full else self.config.rollout_length_at(self.steps)

    # Line 3.
    def begin_epoch(self) -> None:
        config = self.config
        with self.stopwatch.measure("model"):
            self._model_losses = train_model(
                self.model, self.model_optimiser, self.environment_buffer, config, self.generator
            )
            self.data.follow(self.model.encoder)
        self.data_policy = self.policy.snapshot()
        if self.agent.move_penalty is not None:
            self.agent.move_penalty.follow(self.data_policy.network)
        self.agent.set_learning_rate(config.learning_rate_at(self.steps))
        self.add_rollouts(config.rollouts_per_step * config.rollout_interval)

    # Lines 4-13, and section 7.1 for the mixture; line 5 is TrainingLoop.collect_step.
    def learn(self, epoch_step: int) -> tuple[Sequence[Mapping[str, Tensor]], Sequence[NamedTensors]]:
        config = self.config
        if epoch_step % config.rollout_interval == 0:
            self.add_rollouts(config.rollouts_per_step * config.rollout_interval)
        with self.stopwatch.measure("update"):
            fictitious = round(config.model_share_at(self.steps) * config.batch_size)
            return self.data.learn(
                config.updates_per_step, config.batch_size, fictitious, self.environment_buffer, self.generator
            )

    # Lines 6-9.
    def add_rollouts(self, count: int) -> None:
        """``count`` k-step rollouts from uniformly drawn real histories (full: from initial ones) into D_model."""
        buffer, generator = self.environment_buffer, self.generator
        if self.config.model_share_at(self.steps) == 0:
            return
        with self.stopwatch.measure("rollout"):
            if self.config.algorithm == "m3po-full":
                indices = drawn(buffer.initial_indices(), max(count // self.horizon, 1), generator)
            else:
                indices = torch.randint(buffer.size, (count,), generator=generator, device=self.device)
            starts = buffer.windows(indices)
            for step in model_steps(self.model, self.policy, starts, self.rollout_length, generator, self.terminated):
                self.data.add(step)

    def finish_epoch(self) -> dict[str, Any]:
        moved = self.certification.limit(self.environment_buffer, self.steps)
        self.steps += self.certification.reserve(self.training_steps, self.steps)
        return moved | self.certification.report()

    def learned_metrics(self, means: Mapping[str, float]) -> dict[str, Any]:
        return {
            **self._model_losses,
            "rollout_length": self.rollout_length,
            "model_share": self.config.model_share_at(self.steps),
            **self.agent_warnings(means, self.target_entropy),
        }

    def measure_errors(self, seed: int, generator: torch.Generator) -> dict[str, Any]:
        """On held-out episodes of the data policy."""
        config = self.config
        held_out = run_episodes(
            config.env_id,
            self.data_policy,
            config.measure_episodes,
            seed=seed,
            generator=generator,
            options=self.options,
        )
        return error_metrics(
            self.model,
            self.policy,
            self.data_policy,
            held_out,
            self.dynamics,
            confidence=config.confidence,
            generator=generator,
        )

    def learned_state(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "model_optimiser": self.model_optimiser.state_dict(),
            **self.agent.state(),
            "data_policy": self.data_policy.state_dict(),
            **self.certification.state(),
        }

    def load_learned_state(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.model_optimiser.load_state_dict(state["model_optimiser"])
        self.agent.load_state(state)
        self.data_policy.load_state_dict(state["data_policy"])
        if self.agent.move_penalty is not None:
            self.agent.move_penalty.follow(self.data_policy.network)
        self.certification.load_state(state)

    def epoch_state(self) -> dict[str, Any]:
        # D_model does not outlive its epoch.
        return {"model_losses": self._model_losses, "model_buffer": self.data.model_buffer.state()}

    def load_epoch_state(self, state: dict[str, Any]) -> None:
        self._model_losses = state["model_losses"]
        self.data.load_state(state["model_buffer"])
