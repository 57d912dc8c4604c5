"""The search for the best policy of each kind, by gradient through the point mass."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from tqdm import tqdm

import m3po.envs  # noqa: F401 (registers the environments)
from m3po.envs.switching_point_mass import (
    ACTION_COST,
    ACTION_SIZE,
    REWARD_WIDTH,
    START_RADIUS,
    STATE_SIZE,
    PointMassDynamics,
)
from m3po.flag_checks import Count, EpisodeCount, Seed, Steps, check_fields

Kind = Literal["random", "memoryless", "filter", "oracle"]

KINDS: tuple[Kind, ...] = ("random", "memoryless", "filter", "oracle")

DESCRIPTIONS = {
    "random": "uniform actions",
    "memoryless": "best found policy of the observation alone",
    "filter": "best found policy of the observation and the exact belief about the task",
    "oracle": "best found policy of the observation and the true task",
}


@dataclass(frozen=True)
class AnchorConfig:
    """Compute the anchors of m3po/SwitchingPointMass-v0: return per episode of the random, the best memoryless, the
    belief-conditioned and the task-knowing policy."""

    iterations: Steps = 600
    """Gradient steps per policy."""
    batch: Count = 256
    """Simulated episodes per gradient step."""
    episodes: EpisodeCount = 20000
    """Fresh episodes for the final figure of each policy."""
    seed: Seed = 0
    """Seed of the search and of the final episodes."""
    out: Path | None = None
    """Write the figures to this JSON file as well."""
    overwrite: bool = False
    """Replace the file of --out even if this command did not write it; one that it wrote is replaced anyway."""
    json: bool = False
    """Print JSON instead of a table."""

    def __post_init__(self) -> None:
        check_fields(self)
        if self.out is not None and self.out.is_dir():  # before the minutes of search, not after
            raise ValueError(f"--out must be a file, got the directory {self.out}")


class AnchorPolicy(nn.Module):
    """a = tanh(K_c o + k_c + MLP(o, c) + exp(log_std) * noise), with c what the policy may know besides o."""

    def __init__(self, condition_size: int) -> None:
        super().__init__()
        size = STATE_SIZE + condition_size
        self.linear = nn.Parameter(torch.zeros(max(condition_size, 1), STATE_SIZE + 1, ACTION_SIZE))
        self.hidden = nn.Sequential(nn.Linear(size, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh())
        self.output = nn.Linear(64, ACTION_SIZE)
        self.log_std = nn.Parameter(torch.full((ACTION_SIZE,), -1.0))
        nn.init.normal_(self.linear, std=0.1)

    def forward(self, observation: Tensor, condition: Tensor, generator: torch.Generator) -> Tensor:
        weights = condition if condition.shape[1] else torch.ones(len(observation), 1)
        extended = torch.cat([observation, torch.ones(len(observation), 1)], dim=1)
        location = torch.einsum("nc,ni,cij->nj", weights, extended, self.linear)
        location = location + self.output(self.hidden(torch.cat([observation, condition], dim=1)))
        noise = torch.randn(location.shape, generator=generator)
        return torch.tanh(location + self.log_std.clamp(-6, 1).exp() * noise)


class TorchPointMass:
    """The dynamics of SwitchingPointMass as differentiable float32 torch (tests hold it to the numpy original)."""

    def __init__(self, dynamics: PointMassDynamics, horizon: int) -> None:
        self.state_matrix = torch.tensor(dynamics.state_matrix, dtype=torch.float32)
        self.push_matrices = torch.tensor(dynamics.push_matrices, dtype=torch.float32)
        self.drifts = torch.tensor(dynamics.drifts, dtype=torch.float32)
        self.process_noise = torch.tensor(dynamics.process_noise, dtype=torch.float32)
        self.redraw = [dynamics.redraw_probability(step + 1) for step in range(horizon)]
        self.horizon = horizon
        self.count = len(dynamics.tasks)
        self.prior = torch.tensor(dynamics.prior(0), dtype=torch.float32)

    def means(self, observation: Tensor, action: Tensor) -> Tensor:
        """E[o' | task, o, a] for every task. [N, 4], [N, 2] -> [N, K, 4]."""
        pushes = torch.einsum("kij,nj->nki", self.push_matrices, action)
        return (observation @ self.state_matrix.T)[:, None] + pushes + self.drifts

    def returns(self, kind: Kind, policy: AnchorPolicy, episodes: int, generator: torch.Generator) -> Tensor:
        """Undiscounted return of each of ``episodes`` episodes, differentiable in the policy. Shape [episodes]."""
        angle = 2 * math.pi * torch.rand(episodes, generator=generator)
        still = torch.zeros(episodes)
        observation = START_RADIUS * torch.stack([angle.cos(), angle.sin(), still, still], dim=1)
        belief = self.prior.expand(episodes, self.count)
        task = torch.multinomial(self.prior, episodes, replacement=True, generator=generator)
        total = torch.zeros(episodes)
        for step in range(self.horizon):
            if kind == "random":
                action = 2 * torch.rand(episodes, ACTION_SIZE, generator=generator) - 1
            else:
                condition = {
                    "memoryless": torch.empty(episodes, 0),
                    "filter": belief,
                    "oracle": nn.functional.one_hot(task, self.count).float(),
                }[kind]
                action = policy(observation, condition, generator)
            distance_squared = (observation[:, :2] ** 2).sum(1)
            total = total + torch.exp(-distance_squared / (2 * REWARD_WIDTH**2)) - ACTION_COST * (action**2).sum(1)
            means = self.means(observation, action)
            noise = torch.randn(episodes, STATE_SIZE, generator=generator)
            following = means[torch.arange(episodes), task] + self.process_noise * noise
            if kind == "filter":
                with torch.no_grad():
                    scores = -0.5 * (((following[:, None] - means) / self.process_noise) ** 2).sum(2)
                    posterior = torch.softmax(belief.log() + scores, dim=1)
                    belief = (1 - self.redraw[step]) * posterior + self.redraw[step] / self.count
            observation = following
            redrawn = torch.rand(episodes, generator=generator) < self.redraw[step]
            task = torch.where(redrawn, torch.randint(self.count, (episodes,), generator=generator), task)
        return total


def best_policy(simulator: TorchPointMass, kind: Kind, config: AnchorConfig) -> AnchorPolicy:
    """Gradient ascent on the mean return (pathwise gradient through dynamics and policy noise)."""
    generator = torch.Generator().manual_seed(config.seed)
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        policy = AnchorPolicy(0 if kind == "memoryless" else simulator.count)
    if kind == "random":
        return policy
    optimiser = torch.optim.Adam(
        [
            {"params": [policy.linear], "lr": 5e-2},
            {"params": [*policy.hidden.parameters(), *policy.output.parameters(), policy.log_std], "lr": 5e-3},
        ]
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, config.iterations)
    for _ in tqdm(range(config.iterations), desc=kind, file=sys.stderr, dynamic_ncols=True):
        loss = -simulator.returns(kind, policy, config.batch, generator).mean()
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(policy.parameters(), 10.0)
        optimiser.step()
        schedule.step()
    return policy
