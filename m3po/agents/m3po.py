"""Algorithm 2 of the paper: a model, its branched rollouts, and the soft actor-critic that learns from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from m3po.agents.agent_data import OwnEncodings, StoredEncodings
from m3po.agents.certification import Certification
from m3po.agents.group import Group, UpdateMetrics
from m3po.agents.loop import TrainingLoop
from m3po.agents.model_training import Fit, train_models
from m3po.agents.policy_limit import MovePenalty
from m3po.agents.rollout import model_steps
from m3po.agents.sac import SoftActorCritic, agent_networks, agent_settings, updates_with
from m3po.data.replay_buffer import EnvironmentBuffers, ModelBuffer, ModelBuffers, drawn
from m3po.data.types import Segments, Transitions, run_of
from m3po.episodes import Trajectories
from m3po.errors import error_metrics
from m3po.networks.context_encoder import ContextEncoder
from m3po.networks.model import EnsembleModel
from m3po.networks.policy import HistoryPolicy
from m3po.networks.run_axis import stacked
from m3po.runs.health import NamedTensors


class M3PO(TrainingLoop):
    """A run of Algorithm 2; ``M3POGroup`` has the algorithm's lines.

    Attributes:
        data_policy: the policy as it was when this epoch's collection began; held-out episodes are its.
    """

    algorithms = ("m3po", "m3po-h", "m3po-full")
    policy: HistoryPolicy

    def build(self, observation_size: int) -> None:
        config, action_size = self.config, self.action_size
        sizes = (observation_size, action_size, config.history_length, config.context_size)
        encoder = ContextEncoder(*sizes)
        self.model = EnsembleModel(
            encoder,
            action_size,
            config.ensemble_size,
            config.width if config.model_width is None else config.model_width,
            config.layers if config.model_layers is None else config.model_layers,
            config.elites,
            units=config.model_units,
        ).to(self.device)
        network, critics = agent_networks(
            config,
            encoder.feature_size,
            action_size,
            self.device,
            units=config.agent_units,
            critics=config.critics,
        )
        self.target_entropy, settings = agent_settings(config, action_size, capturable=config.cuda_graphs)
        penalty = None if config.move_limit is None else MovePenalty.within(network, config.move_limit)
        own = None if config.context_training == "model" else ContextEncoder(*sizes).to(self.device)
        self.agent = SoftActorCritic(network, critics, settings, config.initial_temperature, own, penalty)
        self.model_buffer: ModelBuffer[Any] = ModelBuffer(
            max(config.model_buffer_size, config.rollouts_per_step * config.rollout_interval)
        )
        self.policy = HistoryPolicy(encoder if own is None else own, network)
        self.data_policy = self.policy.snapshot()
        self.certification = Certification(config, self.policy, self.horizon, self.reward_range)
        self.model_optimiser = torch.optim.AdamW(
            self.model.parameters(), lr=config.model_learning_rate, weight_decay=config.model_weight_decay, fused=True
        )
        self.model_losses: dict[str, float] = {}

    @classmethod
    def side_by_side(cls, runs: Sequence[M3PO]) -> M3POGroup:
        return M3POGroup(runs)

    @property
    def group(self) -> M3POGroup:
        group = super().group
        assert isinstance(group, M3POGroup)
        return group

    @property
    def training_budget(self) -> int:
        return self.certification.split.training_steps

    @property
    def rollout_length(self) -> int:
        """k of the rollouts that would be run now."""
        full = self.config.algorithm == "m3po-full"
        return self.horizon if full else self.config.rollout_length_at(self.steps)

    def finish_epoch(self) -> dict[str, Any]:
        moved = self.certification.limit(self.environment_buffer, self.steps)
        self.steps += self.certification.reserve(self.training_steps, self.steps)
        return moved | self.certification.report()

    def updates_with(self, name: str) -> int:
        return updates_with(name, self.updates, self.config.policy_interval)

    def learned_metrics(self, means: Mapping[str, float]) -> dict[str, Any]:
        return {
            **self.model_losses,
            "rollout_length": self.rollout_length,
            "model_share": self.config.model_share_at(self.steps),
            **self.agent_warnings(means, self.target_entropy),
        }

    def begin_collection(self) -> None:
        """The policy as it is now collects the epoch's real steps."""
        self.data_policy = self.policy.snapshot()
        if self.agent.move_penalty is not None:
            self.agent.move_penalty.follow(self.data_policy.network)
        self.agent.set_learning_rate(self.config.learning_rate_at(self.steps))

    @property
    def held_out_policy(self) -> HistoryPolicy:
        return self.data_policy

    def errors(self, held_out: Trajectories, generator: torch.Generator) -> dict[str, Any]:
        return error_metrics(
            self.model,
            self.policy,
            self.data_policy,
            held_out,
            self.dynamics,
            confidence=self.config.confidence,
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
        return {"model_losses": self.model_losses, "model_buffer": self.model_buffer.state()}

    def load_epoch_state(self, state: dict[str, Any]) -> None:
        self.model_losses = state["model_losses"]
        kind = Transitions if self.agent.encoder is None else Segments
        self.model_buffer.load_state(state["model_buffer"], kind)


class M3POGroup(Group[M3PO]):
    """Algorithm 2: a model, its rollouts, and the soft actor-critic that learns from them; of R runs side by side.

    Line 1 is ``M3PO.build``, line 5 ``Group.collect_step``. Whatever has no loop here has a run axis in front.

    Attributes:
        model: of all runs.
        buffers: D_env.
        data: D_model, and what the agents learn from both.
    """

    policy: HistoryPolicy

    def stack(self) -> None:
        runs, config = self.runs, self.runs[0].config
        self.model = stacked([run.model for run in runs])
        self.buffers = EnvironmentBuffers([run.environment_buffer for run in runs])
        model_buffers = ModelBuffers([run.model_buffer for run in runs])
        own = [run.policy.encoder for run in runs if run.agent.encoder is not None]
        encoder: ContextEncoder = stacked(own) if own else self.model.encoder
        agent = SoftActorCritic.of_runs([run.agent for run in runs], encoder if own else None)
        kind: type[StoredEncodings | OwnEncodings] = OwnEncodings if own else StoredEncodings
        self.data: StoredEncodings | OwnEncodings = kind(agent, encoder, model_buffers, captured=config.cuda_graphs)
        self.policy = HistoryPolicy(encoder, agent.policy)

    # Line 3.
    def begin_epoch(self) -> None:
        with self.stopwatch.measure("model"):
            fits = self.for_each(
                lambda run: Fit.begun(run.model, run.model_optimiser, run.environment_buffer, run.generator)
            )
            config = self.runs[0].config
            train_models(self.model, self.buffers, list(fits.values()), config, self.generators)
            for run, losses in self.for_each(lambda run: fits[run].finish()).items():
                run.model_losses = losses
            self.data.follow(self.model.encoder)
        for run in self.runs:
            run.begin_collection()
        self.data.agent.set_learning_rate(config.learning_rate_at(self.runs[0].steps))
        self.add_rollouts(config.rollouts_per_step * config.rollout_interval)

    # Lines 4-13, and section 7.1 for the mixture.
    def learn(self, epoch_step: int) -> tuple[Sequence[UpdateMetrics], Callable[[int], Sequence[NamedTensors]]]:
        first = self.runs[0]
        config = first.config
        if epoch_step % config.rollout_interval == 0:
            self.add_rollouts(config.rollouts_per_step * config.rollout_interval)
        with self.stopwatch.measure("update"):
            fictitious = round(config.model_share_at(first.steps) * config.batch_size)
            metrics, batches = self.data.learn(
                self.policy_too(), config.batch_size, fictitious, self.buffers, self.generators
            )
        return metrics, lambda place: [run_of(batch, place) for batch in batches]  # type: ignore[type-var]

    # Lines 6-9.
    def add_rollouts(self, count: int) -> None:
        """``count`` k-step rollouts of each run from uniformly drawn real histories (full: from initial ones) into
        D_model."""
        first, generators = self.runs[0], self.generators
        if first.config.model_share_at(first.steps) == 0:
            return
        with self.stopwatch.measure("rollout"):
            if first.config.algorithm == "m3po-full":
                each = max(count // first.horizon, 1)
                indices = torch.stack(
                    [drawn(run.environment_buffer.initial_indices(), each, run.generator) for run in self.runs]
                )
            else:
                indices = self.buffers.drawn(count, generators)
            starts = self.buffers.windows(indices)
            for step in model_steps(
                self.model, self.policy, starts, first.rollout_length, generators, first.terminated
            ):
                self.data.add(step)
