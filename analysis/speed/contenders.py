"""What the benchmark times: the training's parts at given sizes, and the operations that they cannot save."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

import gymnasium as gym
import mujoco
import torch
import tyro

from m3po.agents.agent_data import OwnEncodings, StoredEncodings
from m3po.agents.sac import SoftActorCritic, SoftActorCriticSettings
from m3po.config import Config
from m3po.data.replay_buffer import EnvironmentBuffer, ModelBuffer, ModelBuffers
from m3po.data.types import Segments, Transitions
from m3po.flag_checks import Count, Members, Steps, Threads, Units, Within, check_fields
from m3po.foreign.environment import make_environment
from m3po.networks.context_encoder import ContextEncoder
from m3po.networks.model import EnsembleModel
from m3po.networks.policy import GaussianPolicy
from m3po.networks.stacked import StackedMLP


@dataclass(frozen=True)
class BenchmarkConfig:
    """Measure gradient updates, model rollouts, model training and environment steps per second, each beside a
    straightforward implementation of the same on the same shapes, and the machine's own limits."""

    batch_size: Count = 256
    """Transitions per update and per gradient step of the model."""
    history_length: Annotated[int, Within(1, 10**4)] = 10
    """L."""
    observation_size: Units = 18
    """O; with the action size, that of HalfCheetah with an observed reward."""
    action_size: Units = 6
    """A."""
    context_size: Units = 64
    """Hidden units of the GRU."""
    width: Units = 256
    """Units per hidden layer."""
    layers: Annotated[int, Within(1, 100)] = 2
    """Hidden layers."""
    ensemble_size: Members = 5
    """B."""
    rollouts: Count = 1000
    """Model rollouts per batch."""
    rollout_length: Steps = 1
    """k."""
    env_id: str = "HalfCheetah-v5"
    """MuJoCo environment for stepping and for the loop's split of time."""
    loop_steps: Steps = 200
    """Real steps of the loop whose time is split, after 300 random ones."""
    seconds: Annotated[float, Within(0, 3600, without=(0, 3600))] = 1.0
    """Time per contender and round; five rounds, the fastest counts."""
    threads: Threads = 1
    """CPU threads for torch."""
    device: Literal["auto", "cpu", "cuda"] = "cpu"
    """Where our side runs; the reference stays on the CPU."""
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False
    """Print one JSON object instead of the report."""

    def __post_init__(self) -> None:
        check_fields(self)


def mlp_operations(inputs: int, width: int, layers: int, outputs: int) -> list[float]:
    """Floating-point operations per row of each matrix product of a gated network."""
    sizes = [inputs] + [width] * layers
    hidden = [2.0 * a * 2 * b for a, b in pairwise(sizes)]
    return [*hidden, 2.0 * sizes[-1] * outputs]


def update_operations(config: BenchmarkConfig, *, own_encoder: bool) -> float:
    """Operations of the matrix products that one soft actor-critic update cannot do without.

    A network costs once its products forward, once more for its weights' gradients and once for its inputs'; the
    gradient of what nobody trains is not needed. With its own encoder the update scans both windows and learns through
    the first; tokens are embedded once.
    """
    observation, action, steps = config.observation_size, config.action_size, config.history_length
    context = config.context_size
    features = observation + context
    critic = mlp_operations(features + action, config.width, config.layers, 1)
    policy = mlp_operations(features, config.width, config.layers, 2 * action)
    first = critic[0] / (features + action)  # per input of the first layer
    critics_learn = 2 * (2 * sum(critic) + sum(critic[1:])) + (2 * first * context if own_encoder else 0)
    targets = 2 * sum(critic) + sum(policy)
    policy_learns = 2 * sum(policy) + sum(policy[1:]) + 2 * (sum(critic) + sum(critic[1:]) + first * action)
    total = critics_learn + targets + policy_learns
    if own_encoder:
        embed, gates, recurrence = 2.0 * (2 * observation + action) * 2 * context, 6.0 * context**2, 6.0 * context**2
        forward = (steps + 1) * (embed + gates) + 2 * steps * recurrence
        total += forward + steps * (embed + 2 * gates + 2 * recurrence)
    return config.batch_size * total


@dataclass(frozen=True)
class Parts:
    """Our networks and random data of the benchmark's shapes."""

    encoder: ContextEncoder
    model: EnsembleModel
    own: OwnEncodings
    stored: StoredEncodings
    segments: Segments
    transitions: Transitions
    buffer: EnvironmentBuffer
    generator: torch.Generator


def build(config: BenchmarkConfig, device: torch.device) -> Parts:
    """Everything ours that is timed."""
    torch.manual_seed(0)
    observation_size, action_size = config.observation_size, config.action_size
    sizes = (observation_size, action_size, config.history_length, config.context_size)
    encoder = ContextEncoder(*sizes).to(device)
    model = EnsembleModel(encoder, action_size, config.ensemble_size, config.width, config.layers).to(device)
    settings = SoftActorCriticSettings(0.99, 0.005, -float(action_size), 3e-4)

    def agent(own: ContextEncoder | None) -> SoftActorCritic:
        policy = GaussianPolicy(encoder.feature_size, action_size, config.width, config.layers).to(device)
        critics = StackedMLP(2, encoder.feature_size + action_size, config.width, config.layers, 1).to(device)
        return SoftActorCritic(policy, critics, settings, 0.1, own)

    def unused() -> ModelBuffers[Any]:
        return ModelBuffers([ModelBuffer(1)])

    trained = ContextEncoder(*sizes).to(device)
    own, stored = OwnEncodings(agent(trained), trained, unused()), StoredEncodings(agent(None), encoder, unused())
    buffer = EnvironmentBuffer(
        5000,
        observation_size,
        action_size,
        history_length=config.history_length,
        members=config.ensemble_size,
        holdout=0.1,
        device=device,
    )
    draws = torch.Generator().manual_seed(1)
    observations = torch.randn(5001, observation_size, generator=draws).to(device)
    actions = (2 * torch.rand(5000, action_size, generator=draws) - 1).to(device)
    for index in range(5000):
        buffer.add(
            observations[index],
            actions[index],
            float(index % 7),
            observations[index + 1],
            terminated=False,
            starts_episode=index % 500 == 0,
            generator=draws,
        )
    segments = buffer.segments(torch.arange(100, 100 + config.batch_size, device=device) % 5000)
    with torch.no_grad():
        transitions = encoder.transitions(segments)
    return Parts(encoder, model, own, stored, segments, transitions, buffer, torch.Generator(device).manual_seed(2))


def mujoco_environment(env_id: str) -> gym.Env[Any, Any]:
    """The environment whose steps are timed.

    Raises:
        ValueError: when there is none of this id or it has no MuJoCo model.
    """
    environment = make_environment(env_id)
    if not isinstance(getattr(environment.unwrapped, "model", None), mujoco.MjModel):
        raise ValueError(f"--env-id must name a MuJoCo environment, got {env_id}")
    return environment


def loop_config(config: BenchmarkConfig, path: Path, **changes: Any) -> Config:
    """The training whose loop is timed: the benchmark's networks on its environment."""
    return Config(
        run_dir=path,
        **{
            "env_id": config.env_id, "device": config.device, "threads": config.threads, "discount": 0.99,
            "history_length": config.history_length, "context_size": config.context_size, "width": config.width,
            "layers": config.layers, "ensemble_size": config.ensemble_size, "batch_size": config.batch_size,
            "model_batch_size": config.batch_size, "total_steps": 300 + config.loop_steps, "initial_random_steps": 300,
            "epoch_steps": config.loop_steps, "rollout_interval": min(20, config.loop_steps),
            "rollouts_per_step": max(config.rollouts // 20, 1), "measure_episodes": 2, "evaluation_episodes": 2,
            **changes,
        },
    )  # fmt: skip
