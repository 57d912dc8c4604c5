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
from m3po.data.types import Segments, Transitions, token_of
from m3po.flag_checks import Count, Items, Members, Steps, Threads, Units, Within, check_fields
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
    runs: Annotated[tuple[Count, ...], Items(different=True)] = (1, 2, 5, 12, 36)
    """Numbers of runs that are updated side by side."""
    vector_envs: Count = 64
    """HalfCheetahFwdBwd side by side in a vector environment."""
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


def mlp_operations(inputs: int, width: int, layers: int, outputs: int, *, gated: bool = True) -> list[float]:
    """Floating-point operations per row of each matrix product of a network."""
    sizes = [inputs] + [width] * layers
    hidden = [2.0 * a * (2 * b if gated else b) for a, b in pairwise(sizes)]
    return [*hidden, 2.0 * sizes[-1] * outputs]


def agent_operations(
    features: int, action: int, width: int, layers: int, *, learned: int = 0, gated: bool = True
) -> float:
    """Operations per row of the matrix products that policy, critics and targets cannot do without in an update.

    A network costs once its products forward, once more for its weights' gradients and once for its inputs'; the
    gradient of what nobody trains is not needed.

    Args:
        learned: how many of the features the critics' loss trains.
    """
    critic = mlp_operations(features + action, width, layers, 1, gated=gated)
    policy = mlp_operations(features, width, layers, 2 * action, gated=gated)
    first = critic[0] / (features + action)  # per input of the first layer
    critics_learn = 2 * (2 * sum(critic) + sum(critic[1:]) + first * learned)
    targets = 2 * sum(critic) + sum(policy)
    policy_learns = 2 * sum(policy) + sum(policy[1:]) + 2 * (sum(critic) + sum(critic[1:]) + first * action)
    return critics_learn + targets + policy_learns


def update_operations(config: BenchmarkConfig, *, own_encoder: bool) -> float:
    """Operations of the matrix products that one soft actor-critic update cannot do without.

    With its own encoder the update scans both windows and learns through the first; tokens are embedded once.
    """
    observation, action, steps = config.observation_size, config.action_size, config.history_length
    context = config.context_size
    learned = context if own_encoder else 0
    total = agent_operations(observation + context, action, config.width, config.layers, learned=learned)
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


def random_buffer(
    observation_size: int, action_size: int, *, history_length: int, members: int, device: torch.device
) -> EnvironmentBuffer:
    """D_env, full: 10 episodes of 500 steps with random numbers, of which a tenth are held out."""
    steps = 5000
    buffer = EnvironmentBuffer(
        steps, observation_size, action_size, history_length=history_length, members=members, holdout=0.1, device=device
    )
    draws = torch.Generator().manual_seed(1)
    observations = torch.randn(steps + 1, observation_size, generator=draws)
    actions = 2 * torch.rand(steps, action_size, generator=draws) - 1
    buffer.observations.copy_(observations[:-1])
    buffer.tokens.copy_(token_of(observations[:-1], actions, observations[1:]))
    buffer.rewards.copy_(torch.randn(steps, generator=draws))
    buffer.first.copy_(torch.arange(steps) // 500 * 500)
    buffer.member_weights.copy_(torch.poisson(torch.ones(steps, members), generator=draws))
    buffer.held_out.copy_(torch.arange(steps) % 10 == 0)
    buffer.size = steps
    return buffer


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
    buffer = random_buffer(
        observation_size, action_size, history_length=config.history_length, members=config.ensemble_size, device=device
    )
    segments = buffer.segments(torch.arange(100, 100 + config.batch_size, device=device) % 5000)
    with torch.no_grad():
        transitions = encoder.transitions(segments)
    return Parts(encoder, model, own, stored, segments, transitions, buffer, torch.Generator(device).manual_seed(2))


def model_settings(config: BenchmarkConfig, updates: int = 20) -> Config:
    """The model's training: so many gradient steps, whatever the held-out data say."""
    return Config(
        run_dir=Path("unused"), history_length=config.history_length, model_batch_size=config.batch_size,
        model_updates=updates, model_patience=10**6, ensemble_size=config.ensemble_size,
    )  # fmt: skip


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
