"""PPO with a GRU on any of the seven environments, in one file: torch, gymnasium and m3po.envs.

    python examples/ppo_gru.py --env-id m3po/SwitchingPointMass-v0 --total-steps 400000 --csv returns.csv

Nothing tells the agent its hidden task: it sees the observation, its last action and its last reward, and a GRU
remembers them. ``--memoryless`` sees the observation alone; ``--env-options '{"observe_task": true}'`` shows the
task. PPO as in Schulman et al. 2017, with generalised advantages; RL^2's inputs (Duan et al. 2016).
"""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import Normal

import m3po.envs  # noqa: F401 (registers the environments)


@dataclass
class Settings:
    """Flags, with dashes."""

    env_id: str = "m3po/SwitchingPointMass-v0"
    env_options: str = "{}"
    memoryless: bool = False
    seed: int = 0
    total_steps: int = 400_000
    num_envs: int = 64
    num_steps: int = 100
    epochs: int = 8
    minibatches: int = 2
    learning_rate: float = 1e-3
    gamma: float = 0.95
    gae_lambda: float = 0.95
    clip: float = 0.2
    width: int = 64
    evaluation_episodes: int = 100
    csv: str = "returns.csv"


class Agent(nn.Module):
    """A GRU over (observation, last action, last reward), and on it the mean of the actions and the value."""

    def __init__(self, observation_size: int, action_size: int, width: int, memory: bool) -> None:
        super().__init__()
        self.memory, self.observation_size = memory, observation_size
        size = observation_size + (action_size + 1 if memory else 0)
        self.encoder = nn.Sequential(nn.Linear(size, width), nn.Tanh())
        self.gru = nn.GRU(width, width)
        self.policy = nn.Sequential(nn.Linear(width, width), nn.Tanh(), nn.Linear(width, action_size))
        self.value = nn.Sequential(nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 1))
        self.log_std = nn.Parameter(torch.full((action_size,), -0.5))
        nn.init.orthogonal_(self.policy[-1].weight, 0.01)  # type: ignore[arg-type]

    def forward(self, inputs: Tensor, starts: Tensor, hidden: Tensor) -> tuple[Normal, Tensor, Tensor]:
        """Actions, values [T, N] and the last hidden state [1, N, H], for inputs [T, N, I].

        starts: [T, N], 1 where an episode begins: there the hidden state is 0.
        """
        outputs = self.encoder(inputs if self.memory else inputs[..., : self.observation_size])
        if self.memory:  # from one beginning of an episode to the next, whichever episode begins
            cuts = [0, *(t for t in range(1, len(inputs)) if starts[t].any()), len(inputs)]
            parts = []
            for begin, end in pairwise(cuts):
                part, hidden = self.gru(outputs[begin:end], hidden * (1 - starts[begin])[None, :, None])
                parts.append(part)
            outputs = torch.cat(parts)
        actions = Normal(self.policy(outputs), self.log_std.exp())
        return actions, self.value(outputs).squeeze(-1), hidden


class Scale:
    """Mean and standard deviation of everything it was given (Welford's method, in batches)."""

    def __init__(self, size: int) -> None:
        self.count, self.mean, self.squares = 1e-4, np.zeros(size), np.zeros(size)

    def update(self, batch: np.ndarray) -> None:
        total = self.count + len(batch)
        shift = batch.mean(axis=0) - self.mean
        self.squares += batch.var(axis=0) * len(batch) + shift**2 * self.count * len(batch) / total
        self.mean += shift * len(batch) / total
        self.count = total

    @property
    def std(self) -> np.ndarray:
        return np.sqrt(self.squares / self.count) + 1e-6


class Episodes:
    """N episodes side by side, and what the agent sees of them."""

    def __init__(self, settings: Settings, count: int, seed: int, observed: Scale | None, paid: Scale | None) -> None:
        make: Any = gym.make_vec
        self.envs = make(
            settings.env_id, num_envs=count, vectorization_mode="vector_entry_point", autoreset_mode="SameStep",
            **json.loads(settings.env_options),
        )  # fmt: skip
        self.low, self.high = self.envs.single_action_space.low, self.envs.single_action_space.high
        self.sizes = self.envs.observation_space.shape[1], len(self.low)
        self.learning, self.gamma = observed is None, settings.gamma
        self.observed, self.paid = observed or Scale(self.sizes[0]), paid or Scale(1)
        self.last = np.zeros((count, self.sizes[1] + 1))  # action and reward
        self.earned, self.discounted = np.zeros(count), np.zeros(count)
        self.begin(self.envs.reset(seed=seed)[0], np.ones(count, dtype=bool))

    def begin(self, observation: np.ndarray, starts: np.ndarray) -> None:
        """The next step begins here: ``seen`` [1, N, I] and ``starts`` [1, N] are what the agent gets."""
        if self.learning:
            self.observed.update(observation)
        self.seen, self.starts = self.inputs(observation)[None], as_tensor(starts)[None]

    def inputs(self, observation: np.ndarray) -> Tensor:
        """What the agent sees [N, I] with an observation after the last action and reward."""
        seen = np.clip((observation - self.observed.mean) / self.observed.std, -10, 10)
        return torch.as_tensor(np.concatenate((seen, self.last), axis=1), dtype=torch.float32)

    def step(self, action: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, Tensor, list[float]]:
        """Scaled rewards, terminated, truncated [N]; inputs [N, I] before any reset; ended returns."""
        squashed = np.clip(action, -1, 1)
        scaled = self.low + (squashed + 1) * (self.high - self.low) / 2
        following, reward, terminated, truncated, info = self.envs.step(scaled.astype(np.float32))
        over = terminated | truncated
        self.earned += reward
        returns = self.earned[over].tolist()
        self.discounted = self.discounted * self.gamma + reward
        if self.learning:
            self.paid.update(self.discounted[:, None])
        self.earned[over] = self.discounted[over] = 0
        reward = reward / self.paid.std
        self.last = np.concatenate((squashed, reward[:, None]), axis=1)
        final = following.copy()
        for i in np.flatnonzero(over):
            final[i] = info["final_obs"][i]
        after = self.inputs(final)
        self.last[over] = 0
        self.begin(following, over)
        return reward, terminated, truncated, after, returns


def as_tensor(values: Any) -> Tensor:
    return torch.as_tensor(np.asarray(values), dtype=torch.float32)


def evaluate(agent: Agent, settings: Settings, episodes: Episodes) -> list[float]:
    """Returns of fresh episodes under the means of the actions, one for each of the vector's places."""
    fresh = Episodes(settings, settings.evaluation_episodes, settings.seed + 10**6, episodes.observed, episodes.paid)
    hidden = torch.zeros(1, settings.evaluation_episodes, settings.width)
    found: dict[int, float] = {}
    while len(found) < settings.evaluation_episodes:
        with torch.no_grad():
            actions, _, hidden = agent(fresh.seen, fresh.starts, hidden)
        *_, returns = fresh.step(actions.mean[0].numpy())
        for i, earned in zip(np.flatnonzero(fresh.starts[0]), returns, strict=True):
            found.setdefault(int(i), earned)
    fresh.envs.close()
    return list(found.values())


def row_of(phase: str, step: int, returns: Sequence[float]) -> dict[str, Any]:
    error = np.std(returns, ddof=1) / np.sqrt(len(returns)) if len(returns) > 1 else np.nan
    print(
        f"{phase} step {step:>9,}  return {np.mean(returns):8.2f} ± {error:.2f}  ({len(returns)} episodes)", flush=True
    )
    return {"phase": phase, "step": step, "episodes": len(returns), "return": np.mean(returns), "standard_error": error}


def train(settings: Settings) -> list[dict[str, Any]]:
    """Train, print and write a row of returns after every collection that ended episodes, and one of the evaluation."""
    torch.manual_seed(settings.seed)
    episodes = Episodes(settings, settings.num_envs, settings.seed, None, None)
    agent = Agent(*episodes.sizes, settings.width, not settings.memoryless)
    optimiser = torch.optim.Adam(agent.parameters(), settings.learning_rate, eps=1e-5)
    hidden = torch.zeros(1, settings.num_envs, settings.width)
    rows: list[dict[str, Any]] = []
    collected = settings.num_envs * settings.num_steps
    iterations = max(settings.total_steps // collected, 1)
    for iteration in range(iterations):
        optimiser.param_groups[0]["lr"] = settings.learning_rate * (1 - iteration / iterations)
        first, ended, kept = hidden, [], []
        for _ in range(settings.num_steps):
            with torch.no_grad():
                seen, starts = episodes.seen, episodes.starts
                actions, value, hidden = agent(seen, starts, hidden)
                action = actions.sample()[0]
                reward, terminated, truncated, after, returns = episodes.step(action.numpy())
                end_value = np.zeros(settings.num_envs)
                if truncated.any():  # the time limit is no end of the task: what would have come counts
                    _, bootstrap, _ = agent(after[None], torch.zeros_like(starts), hidden)
                    end_value = np.where(truncated & ~terminated, bootstrap[0].numpy(), 0.0)
            ended += returns
            log_prob = actions.log_prob(action).sum(-1)[0]
            kept.append((seen[0], starts[0], action, log_prob, value[0], reward, terminated | truncated, end_value))
        with torch.no_grad():
            _, value, _ = agent(episodes.seen, episodes.starts, hidden)
        columns = list(zip(*kept, strict=True))
        seen, starts, taken, old = (torch.stack(column) for column in columns[:4])
        values, rewards, over, end_values = (np.stack(column) for column in columns[4:])
        following = np.where(over, end_values, np.concatenate((values[1:], value.numpy())))
        advantages, carried = np.zeros_like(values), np.zeros(settings.num_envs)
        for t in reversed(range(settings.num_steps)):
            carried = following[t] + settings.gae_lambda * ~over[t] * carried
            carried = advantages[t] = rewards[t] + settings.gamma * carried - values[t]
        targets = as_tensor(advantages + values)
        gains = as_tensor((advantages - advantages.mean()) / (advantages.std() + 1e-8))
        for _ in range(settings.epochs):
            for chosen in torch.randperm(settings.num_envs).chunk(settings.minibatches):
                actions, value, _ = agent(seen[:, chosen], starts[:, chosen], first[:, chosen])
                ratio = (actions.log_prob(taken[:, chosen]).sum(-1) - old[:, chosen]).exp()
                clipped = ratio.clamp(1 - settings.clip, 1 + settings.clip)
                gain = torch.minimum(ratio * gains[:, chosen], clipped * gains[:, chosen]).mean()
                loss = 0.5 * (value - targets[:, chosen]).square().mean() - gain
                optimiser.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(agent.parameters(), 0.5)
                optimiser.step()
        if ended:
            rows.append(row_of("training", (iteration + 1) * collected, ended))
    rows.append(row_of("evaluation", iterations * collected, evaluate(agent, settings, episodes)))
    with open(settings.csv, "w", newline="") as file:
        writer = csv.DictWriter(file, rows[-1])
        writer.writeheader()
        writer.writerows(rows)
    return rows


def parsed(arguments: Sequence[str] | None = None) -> Settings:
    """The flags, one for each of the settings."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for each in fields(Settings):
        kind: Any = {"action": "store_true"} if each.default is False else {"type": type(each.default)}
        parser.add_argument(f"--{each.name.replace('_', '-')}", default=each.default, **kind)
    settings = Settings(**vars(parser.parse_args(arguments)))
    for name in ("total_steps", "num_envs", "num_steps", "epochs", "minibatches", "width", "evaluation_episodes"):
        if getattr(settings, name) < 1:
            parser.error(f"--{name.replace('_', '-')} must be >= 1, got {getattr(settings, name)}")
    if not Path(settings.csv).parent.is_dir():
        parser.error(f"--csv: there is no directory {Path(settings.csv).parent}")
    if settings.env_id not in gym.registry:
        parser.error(f"--env-id: gymnasium knows no {settings.env_id!r}")
    return settings


if __name__ == "__main__":
    torch.set_num_threads(1)
    train(parsed())
