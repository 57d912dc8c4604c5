"""GrBAL, the paper's L2A (Nagabandi et al. 2019): a model that adapts to the last L steps, and planning in it.

docs/baselines.md lists what the sources say and what is ours.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from m3po.agents.adaptive_model import AdaptiveModel
from m3po.agents.loop import TrainingLoop
from m3po.agents.planner import PlannerSettings, plan
from m3po.agents.rollout import Terminated, never_terminated
from m3po.data.types import Stretches, Windows, newest
from m3po.envs.protocol import Array
from m3po.networks.model import widened_range
from m3po.settings import GrbalSettings

# r(o, a, o') of steps [N, O], [N, A], [N, O] -> [N].
RewardFunction = Callable[[Tensor, Tensor, Tensor], Tensor]


def reward_function_of(known: Callable[..., Array] | None) -> RewardFunction | None:
    """An environment's own reward as a function of what is observed, for tensors; None where it is not known."""
    if known is None:
        return None

    def reward(*step: Tensor) -> Tensor:
        arrays = [values.cpu().numpy() for values in step]
        return torch.as_tensor(np.asarray(known(*arrays), dtype=np.float32), device=step[0].device)

    return reward


@dataclass(frozen=True)
class PlanningPolicy:
    """The first action of a plan in the model as adapted to the window; plans are drawn with the generator always.

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

    def act(
        self, windows: Windows, generator: torch.Generator, *, deterministic: bool = False
    ) -> tuple[Tensor, Tensor]:
        """N windows -> action [N, A] in [-1, 1], twice: nothing is squashed here."""
        count, size = windows.observation.shape
        used = newest(windows.lengths, self.history_length)
        weights = self.model.adapt(self.model.weights(count), windows.tokens, used, self.adaptation_rate)

        def step(state: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
            """The last coordinate of a state is 1 until its episode ends, and 0 from then on."""
            observation, alive = state[..., :size], state[..., size]
            outcome = self.model.predict(weights, observation, action).clamp(self.reach[0], self.reach[1])
            following, reward = outcome[..., :-1], outcome[..., -1]
            if self.reward_function is not None:
                rows = (observation.flatten(0, 1), action.flatten(0, 1), following.flatten(0, 1))
                reward = self.reward_function(*rows).view_as(reward)
            reward = reward * alive
            if self.terminated is not never_terminated:
                alive = alive * (~self.terminated(following.flatten(0, 1))).view_as(alive)
            return torch.cat([following, alive[..., None]], dim=-1), reward

        start = torch.cat([windows.observation, windows.observation.new_ones(count, 1)], dim=1)
        action = plan(step, start, self.model.action_size, self.settings, generator)
        return action, action


class Grbal(TrainingLoop):
    """GrBAL in the loop of real steps that every algorithm shares: G meta-gradient steps after each of them."""

    algorithms = ("grbal",)

    def build(self, observation_size: int) -> None:
        config = self.config
        self.model = AdaptiveModel(observation_size, self.action_size, config.width, config.layers).to(self.device)
        self.optimiser = torch.optim.Adam(self.model.parameters(), lr=config.model_learning_rate, fused=True)
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

    def begin_epoch(self) -> None:
        buffer = self.environment_buffer
        self.model.fit(buffer.tokens[: buffer.size], buffer.rewards[: buffer.size])
        self.reach.copy_(widened_range(buffer.outcomes()))

    def learn(self, epoch_step: int) -> tuple[list[dict[str, Tensor]], list[Stretches]]:
        with self.stopwatch.measure("update"):
            batches = [self.draw_batch() for _ in range(self.config.updates_per_step)]
            return [self.update(batch) for batch in batches], batches

    def draw_batch(self) -> Stretches:
        """Stretches of L + K steps; the first of the K is uniform over all real steps."""
        config, buffer = self.config, self.environment_buffer
        split = torch.randint(buffer.size, (config.meta_batch_size,), generator=self.generator, device=self.device)
        return buffer.stretches(split, config.history_length, config.adaptation_steps)

    def update(self, batch: Stretches) -> dict[str, Tensor]:
        """One meta-gradient step; the loss after adaptation, and what it would be without."""
        past = self.config.history_length
        before = (batch.tokens[:, :past], batch.used[:, :past])
        after = (batch.tokens[:, past:], batch.reward, batch.used[:, past:])
        loss = self.model.meta_loss(*before, *after, self.config.adaptation_rate)
        self.optimiser.zero_grad()
        loss.backward()
        with torch.no_grad():
            unadapted = self.model.losses(self.model.weights(len(batch.used)), *after).mean()
        self.optimiser.step()
        return {"model_loss": loss.detach(), "unadapted_model_loss": unadapted}

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


def planner_settings(config: GrbalSettings) -> PlannerSettings:
    """What the planner takes of a run's settings."""
    return PlannerSettings(config.planner_candidates, config.planner_horizon, config.planner_iterations)
