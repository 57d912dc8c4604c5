"""GrBAL, the paper's L2A (Nagabandi et al. 2019): a model that adapts to the last L steps, and planning in it.

docs/baselines.md lists what the sources say and what is ours.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from m3po.agents.adaptive_model import AdaptiveModel
from m3po.agents.descent import descend
from m3po.agents.group import Group, UpdateMetrics
from m3po.agents.loop import TrainingLoop
from m3po.agents.planner import PlannerSettings, plan
from m3po.agents.rollout import Terminated, never_terminated
from m3po.data.draws import Generators
from m3po.data.replay_buffer import EnvironmentBuffers
from m3po.data.types import Stretches, Windows, newest, run_of, stacked_tensors
from m3po.envs.protocol import Array
from m3po.networks.model import widened_range
from m3po.networks.run_axis import join_states, own_copy, stacked
from m3po.runs.health import NamedTensors
from m3po.settings import GrbalSettings, ModelRateSettings

# r(o, a, o') of steps [N, O], [N, A], [N, O] -> [N].
RewardFunction = Callable[[Tensor, Tensor, Tensor], Tensor]


def reward_function_of(known: Callable[..., Array] | None) -> RewardFunction | None:
    """An environment's own reward as a function of what is observed, for tensors; None where it is not known."""
    if known is None:
        return None

    def reward(*step: Tensor) -> Tensor:
        arrays = [values.cpu().numpy() for values in step]
        return torch.as_tensor(np.asarray(known(*arrays)), dtype=step[0].dtype, device=step[0].device)

    return reward


@dataclass(frozen=True)
class PlanningPolicy:
    """The first action of a plan in the model as adapted to the window; plans are drawn with the generator always.

    In front of the shapes may stand the run axis.

    Attributes:
        reach: [2, O + 1], lowest and highest (o', r) that predictions are kept within.
        reward_function: pays the plan; None: the model's own prediction does.
    """

    model: AdaptiveModel
    settings: PlannerSettings
    adaptation_rate: float
    history_length: int
    reach: Tensor
    reward_function: RewardFunction | None
    terminated: Terminated

    @property
    def device(self) -> torch.device:
        return self.reach.device

    @classmethod
    def of_runs(cls, policies: Sequence[PlanningPolicy]) -> PlanningPolicy:
        """Copies of the policies of several runs as one, which acts on [R, N] windows."""
        model = stacked([own_copy(each.model) for each in policies])
        return replace(policies[0], model=model, reach=torch.stack([each.reach for each in policies]))

    def act(self, windows: Windows, generator: Generators, *, deterministic: bool = False) -> tuple[Tensor, Tensor]:
        """N windows -> action [N, A] in [-1, 1], twice: nothing is squashed here."""
        *_, count, size = windows.observation.shape
        used = newest(windows.lengths, self.history_length)
        weights = self.model.adapt(self.model.weights(count), windows.tokens, used, self.adaptation_rate)
        low, high = self.reach[..., None, None, :, :].unbind(-2)

        def step(state: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
            """The last coordinate of a state is 1 until its episode ends, and 0 from then on."""
            observation, alive = state[..., :size], state[..., size]
            outcome = self.model.predict(weights, observation, action).clamp(low, high)
            following, reward = outcome[..., :-1], outcome[..., -1]
            if self.reward_function is not None:
                rows = (observation.flatten(0, -2), action.flatten(0, -2), following.flatten(0, -2))
                reward = self.reward_function(*rows).view_as(reward)
            reward = reward * alive
            if self.terminated is not never_terminated:
                alive = alive * (~self.terminated(following.flatten(0, -2))).view_as(alive)
            return torch.cat([following, alive[..., None]], dim=-1), reward

        start = torch.nn.functional.pad(windows.observation, (0, 1), value=1.0)
        action = plan(step, start, self.model.action_size, self.settings, generator)
        return action, action


class Grbal(TrainingLoop):
    """A run of GrBAL; ``GrbalGroup`` has what it learns from each real step."""

    algorithms = ("grbal",)
    policy: PlanningPolicy

    def build(self, observation_size: int) -> None:
        config = self.config
        self.model = AdaptiveModel(observation_size, self.action_size, config.width, config.layers).to(self.device)
        self.optimiser = optimiser_of(self.model, config)
        self.reach = torch.tensor([[-torch.inf], [torch.inf]], device=self.device).repeat(1, observation_size + 1)
        self.policy = PlanningPolicy(
            self.model,
            planner_settings(config),
            config.adaptation_rate,
            config.history_length,
            self.reach,
            reward_function_of(self.offers.planning_reward),
            self.terminated,
        )

    @classmethod
    def side_by_side(cls, runs: Sequence[Grbal]) -> GrbalGroup:
        return GrbalGroup(runs)

    def fit(self) -> None:
        """Units and reach of the model, from all real steps."""
        buffer = self.environment_buffer
        self.model.fit(buffer.tokens[: buffer.size], buffer.rewards[: buffer.size])
        self.reach.copy_(widened_range(buffer.outcomes()))

    def learned_state(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "model_optimiser": self.optimiser.state_dict(),
            "reach": self.reach.clone(),
        }

    def load_learned_state(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["model_optimiser"])
        self.reach.copy_(state["reach"])


class GrbalGroup(Group[Grbal]):
    """GrBAL in the loop of real steps that every algorithm shares: G meta-gradient steps after each of them.

    Attributes:
        model: of all runs.
        buffers: D_env.
    """

    policy: PlanningPolicy

    def stack(self) -> None:
        first = self.runs[0]
        self.buffers = EnvironmentBuffers([run.environment_buffer for run in self.runs])
        self.model = stacked([run.model for run in self.runs])
        self.optimiser = optimiser_of(self.model, first.config)
        join_states(self.optimiser, [run.optimiser for run in self.runs])
        self.policy = replace(first.policy, model=self.model, reach=stacked_tensors([run.reach for run in self.runs]))

    def begin_epoch(self) -> None:
        for run in self.runs:
            run.fit()

    def learn(self, epoch_step: int) -> tuple[Sequence[UpdateMetrics], Callable[[int], Sequence[NamedTensors]]]:
        with self.stopwatch.measure("update"):
            batches = [self.drawn_batch() for _ in range(self.runs[0].config.updates_per_step)]
            metrics = [self.update(batch) for batch in batches]
        return metrics, lambda place: [run_of(batch, place) for batch in batches]

    def drawn_batch(self) -> Stretches:
        """Stretches of L + K steps of each run; the first of the K is uniform over all its real steps."""
        config = self.runs[0].config
        splits = self.buffers.drawn(config.meta_batch_size, self.generators)
        return self.buffers.stretches(splits, config.history_length, config.adaptation_steps)

    def update(self, batch: Stretches) -> dict[str, Tensor]:
        """One meta-gradient step; the loss after adaptation, and what it would be without."""
        config = self.runs[0].config
        past = config.history_length
        before = (batch.tokens[..., :past, :], batch.used[..., :past])
        after = (batch.tokens[..., past:, :], batch.reward, batch.used[..., past:])
        loss = self.model.meta_loss(*before, *after, config.adaptation_rate)
        with torch.no_grad():
            unadapted = self.model.losses(self.model.weights(config.meta_batch_size), *after).mean(dim=-1)
        # The sum's gradient with respect to the parameters of one run is that of its own loss.
        descend(self.optimiser, loss.sum())
        return {"model_loss": loss.detach(), "unadapted_model_loss": unadapted}


def optimiser_of(model: AdaptiveModel, config: ModelRateSettings) -> torch.optim.Adam:
    """A new one."""
    return torch.optim.Adam(model.parameters(), lr=config.model_learning_rate, fused=True)


def planner_settings(config: GrbalSettings) -> PlannerSettings:
    """What the planner takes of a run's settings."""
    return PlannerSettings(config.planner_candidates, config.planner_horizon, config.planner_iterations)
