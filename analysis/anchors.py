"""The two ends of the scale on SwitchingPointMass: an oracle that knows the task, and the best policy without memory.

Both are found by gradient ascent on the return, differentiated through the known dynamics, so they are strong but not
proven optimal: the optimum is at least the oracle's figure. Run ``python -m analysis.anchors`` (about six minutes).
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import gymnasium as gym
import torch
from torch import Tensor, nn
from tqdm import tqdm

import m3po.envs  # noqa: F401 (registers the environments)
from analysis.outputs import Output
from m3po.command_line import json_of, run
from m3po.envs.switching_point_mass import (
    ACTION_COST,
    ACTION_SIZE,
    REWARD_WIDTH,
    START_RADIUS,
    STATE_SIZE,
    PointMassDynamics,
)
from m3po.files import read_regular
from m3po.flag_checks import Count, EpisodeCount, Seed, Steps, check_fields
from m3po.run_directory import provenance

Kind = Literal["random", "memoryless", "filter", "oracle"]
KINDS: tuple[Kind, ...] = ("random", "memoryless", "filter", "oracle")
DESCRIPTIONS = {
    "random": "uniform actions",
    "memoryless": "best found policy of the observation alone",
    "filter": "best found policy of the observation and the exact belief about the task",
    "oracle": "best found policy of the observation and the true task",
}
LANDED = Path(__file__).parent.parent / "paper_figures" / "data" / "anchors_switching_point_mass.json"


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


def anchors(config: AnchorConfig) -> dict[str, object]:
    """The figures as a JSON-ready dictionary; returns are undiscounted sums over one episode."""
    environment = gym.make("m3po/SwitchingPointMass-v0")
    assert environment.spec is not None
    horizon = environment.spec.max_episode_steps
    assert horizon is not None
    simulator = TorchPointMass(environment.unwrapped.dynamics, horizon)  # type: ignore[attr-defined]
    policies: dict[str, dict[str, float | str]] = {}
    for kind in KINDS:
        policy = best_policy(simulator, kind, config)
        with torch.no_grad():
            returns = simulator.returns(kind, policy, config.episodes, torch.Generator().manual_seed(config.seed + 1))
        policies[kind] = {
            "return": returns.double().mean().item(),
            "standard_error": returns.double().std().item() / math.sqrt(config.episodes),
            "meaning": DESCRIPTIONS[kind],
        }
    return {
        "env_id": "m3po/SwitchingPointMass-v0",
        "horizon": horizon,
        "iterations": config.iterations,
        "episodes": config.episodes,
        "seed": config.seed,
        "policies": policies,
        "provenance": provenance(["python", "-m", "analysis.anchors", *sys.argv[1:]]),
    }


def landed_anchors() -> dict[str, float]:
    """The committed figures: policy name -> return per episode.

    Raises:
        ValueError: when the file does not hold a finite return of each policy.
        OSError: when the file is missing.
    """
    try:
        policies = json.loads(read_regular(LANDED))["policies"]
        found: dict[str, float] = {name: float(policies[name]["return"]) for name in KINDS}
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ValueError(f"{LANDED} does not hold the anchors: {type(error).__name__} {error}") from error
    for name, value in found.items():
        if not math.isfinite(value):
            raise ValueError(f"{LANDED}: the return of {name} must be finite, got {value}")
    return found


def main(config: AnchorConfig) -> int:
    torch.set_num_threads(1)
    out = None
    if config.out is not None:
        config.out.parent.mkdir(parents=True, exist_ok=True)
        out = Output("out", config.out, '"analysis.anchors"', config.overwrite).check()
    record = anchors(config)
    if config.json:
        print(json_of(record))
    else:
        policies = record["policies"]
        assert isinstance(policies, dict)
        for kind, entry in policies.items():
            print(f"{kind:<11} {entry['return']:8.3f} +- {entry['standard_error']:.3f}  {entry['meaning']}")
    if out is not None:
        out.write(json_of(record) + "\n")
    return 0


def cli(arguments: Sequence[str] | None = None) -> None:
    run(main, AnchorConfig, arguments, prog="python -m analysis.anchors")


if __name__ == "__main__":
    cli()
