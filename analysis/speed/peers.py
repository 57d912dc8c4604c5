"""Soft actor-critic and a model ensemble beside two peers' own code, where it is installed, on memoryless shapes.

Everybody draws batches of their own from 5,000 random transitions, and each call is ``UPDATES`` updates.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from tqdm import tqdm

from analysis.speed.contenders import BenchmarkConfig, agent_operations, mlp_operations, random_buffer
from analysis.speed.rates import rates
from m3po.agents.agent_data import StoredEncodings
from m3po.agents.model_training import Fit, gradient_step
from m3po.agents.sac import SoftActorCritic, SoftActorCriticSettings
from m3po.config import Config
from m3po.data.replay_buffer import EnvironmentBuffer, EnvironmentBuffers, ModelBuffer, ModelBuffers
from m3po.data.types import Transitions
from m3po.networks.context_encoder import ContextEncoder
from m3po.networks.model import EnsembleModel
from m3po.networks.policy import GaussianPolicy
from m3po.networks.run_axis import stacked
from m3po.networks.stacked import StackedMLP

SAMPLES, UPDATES = 5000, 5


@dataclasses.dataclass(frozen=True)
class Shapes:
    """Sizes of MBPO on HalfCheetah; the agent's units are rectified, the model's swish."""

    observation: int = 17
    action: int = 6
    batch: int = 256
    width: int = 256
    layers: int = 2
    members: int = 7
    model_width: int = 200
    model_layers: int = 4

    @property
    def agent_operations(self) -> float:
        """Floating-point operations of the products in one update of the agent."""
        return self.batch * agent_operations(self.observation, self.action, self.width, self.layers, gated=False)

    @property
    def ensemble_operations(self) -> float:
        """Those in one gradient step of the ensemble: forward, for the weights, and for all inputs but the first's."""
        inputs, outputs = self.observation + self.action, 2 * (self.observation + 1)
        products = mlp_operations(inputs, self.model_width, self.model_layers, outputs, gated=False)
        return self.members * self.batch * (3 * sum(products) - products[0])


# Calls that each are ``UPDATES`` updates.
Contender = Callable[[], object]


def our_agent(shapes: Shapes) -> Contender:
    """Ours on D_model; ``StoredEncodings`` of histories of length 0 are observations."""
    observation, action = shapes.observation, shapes.action
    agent = SoftActorCritic.of_runs(
        [
            SoftActorCritic(
                GaussianPolicy(observation, action, shapes.width, shapes.layers, units="rectified"),
                StackedMLP(2, observation + action, shapes.width, shapes.layers, 1, units="rectified"),
                SoftActorCriticSettings(0.99, 0.005, -float(action), 3e-4),
                0.1,
            )
        ]
    )
    buffer = ModelBuffers[Transitions]([ModelBuffer(SAMPLES)])
    buffer.add(
        Transitions(
            torch.randn(1, SAMPLES, observation),
            2 * torch.rand(1, SAMPLES, action) - 1,
            torch.randn(1, SAMPLES),
            torch.randn(1, SAMPLES, observation),
            torch.ones(1, SAMPLES),
        )
    )
    data = StoredEncodings(agent, ContextEncoder(observation, action, 0, 1), buffer)
    real, generator = EnvironmentBuffers([buffer_of(shapes)]), torch.Generator().manual_seed(0)
    return partial(data.learn, [True] * UPDATES, shapes.batch, shapes.batch, real, [generator])


def buffer_of(shapes: Shapes) -> EnvironmentBuffer:
    """D_env without histories."""
    return random_buffer(
        shapes.observation, shapes.action, history_length=0, members=shapes.members, device=torch.device("cpu")
    )


def our_model(shapes: Shapes) -> Contender:
    """Ours: batches drawn, and gradient steps with AdamW."""
    encoder = ContextEncoder(shapes.observation, shapes.action, 0, 1)
    model = EnsembleModel(
        encoder, shapes.action, shapes.members, shapes.model_width, shapes.model_layers, units="swish"
    )
    buffer, generator = buffer_of(shapes), torch.Generator().manual_seed(0)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    fits = [Fit.begun(model, optimiser, buffer, generator)]
    joint, buffers = stacked([model]), EnvironmentBuffers([buffer])
    settings = Config(run_dir=Path("unused"), model_batch_size=shapes.batch)

    def learn() -> None:
        for _ in range(UPDATES):
            gradient_step(joint, buffers, fits, [0], settings, [generator])

    return learn


def stable_baselines3_agent(shapes: Shapes) -> Contender:
    """``train`` of Stable-Baselines3's SAC: batches drawn from its replay buffer, and updates.

    Raises:
        ImportError: when it is not installed.
    """
    from stable_baselines3 import SAC
    from stable_baselines3.common.logger import Logger

    agent = SAC(
        "MlpPolicy",
        Standing(shapes),
        batch_size=shapes.batch,
        buffer_size=SAMPLES,
        learning_rate=3e-4,
        policy_kwargs={"net_arch": [shapes.width] * shapes.layers},
        device="cpu",
        seed=0,
    )
    agent.set_logger(Logger(None, []))
    draws = np.random.default_rng(0)
    assert agent.replay_buffer is not None
    for _ in range(SAMPLES):
        before, after = draws.normal(size=(2, 1, shapes.observation))
        action = draws.uniform(-1, 1, (1, shapes.action))
        agent.replay_buffer.add(before, after, action, draws.normal(size=1), np.zeros(1), [{}])
    return partial(agent.train, UPDATES, shapes.batch)


class Standing(gym.Env[Any, Any]):
    """What an agent is built for here; it never steps."""

    def __init__(self, shapes: Shapes) -> None:
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (shapes.observation,), np.float32)
        self.action_space = gym.spaces.Box(-1.0, 1.0, (shapes.action,), np.float32)


def mbrl_agent(shapes: Shapes) -> Contender:
    """``update_parameters`` of the SAC that mbrl-lib's MBPO trains, on batches from arrays.

    Raises:
        ImportError: when it is not installed.
    """
    from mbrl.third_party.pytorch_sac_pranz24.sac import SAC

    settings = SimpleNamespace(
        gamma=0.99, tau=0.005, alpha=0.2, policy="Gaussian", target_update_interval=1, automatic_entropy_tuning=True,
        target_entropy=-float(shapes.action), hidden_size=shapes.width, device=torch.device("cpu"), lr=3e-4,
    )  # fmt: skip
    agent = SAC(shapes.observation, Standing(shapes).action_space, settings)
    draws = np.random.default_rng(0)
    columns: list[Any] = [
        draws.normal(size=(SAMPLES, shapes.observation)).astype(np.float32),
        draws.uniform(-1, 1, (SAMPLES, shapes.action)).astype(np.float32),
        draws.normal(size=(SAMPLES, shapes.observation)).astype(np.float32),
        draws.normal(size=SAMPLES).astype(np.float32),
        *np.zeros((2, SAMPLES), dtype=bool),
    ]

    def sample(count: int) -> Any:
        rows = draws.choice(SAMPLES, size=count)
        return SimpleNamespace(astuple=lambda: tuple(column[rows] for column in columns))

    memory = SimpleNamespace(sample=sample)

    def learn() -> None:
        for update in range(UPDATES):
            agent.update_parameters(memory, shapes.batch, update, reverse_mask=True)

    return learn


def mbrl_model(shapes: Shapes) -> Contender:
    """``update`` of mbrl-lib's GaussianMLP, on batches of each member's own from tensors.

    Raises:
        ImportError: when it is not installed.
    """
    from mbrl.models import GaussianMLP

    inputs, outputs = shapes.observation + shapes.action, shapes.observation + 1
    model = GaussianMLP(
        inputs, outputs, "cpu", shapes.model_layers, shapes.members, shapes.model_width,
        activation_fn_cfg={"_target_": "torch.nn.SiLU"},
    )  # fmt: skip
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3, weight_decay=5e-5)
    given, wanted = torch.randn(SAMPLES, inputs), torch.randn(SAMPLES, outputs)

    def learn() -> None:
        for _ in range(UPDATES):
            rows = torch.randint(SAMPLES, (shapes.members, shapes.batch))
            model.update(given[rows], optimiser, wanted[rows])

    return learn


CONTENDERS: Mapping[str, Mapping[str, Callable[[Shapes], Contender]]] = {
    "agent": {"ours": our_agent, "Stable-Baselines3": stable_baselines3_agent, "mbrl-lib": mbrl_agent},
    "ensemble": {"ours": our_model, "mbrl-lib": mbrl_model},
}


def measure_peers(config: BenchmarkConfig, progress: tqdm[Any], shapes: Shapes | None = None) -> dict[str, Any]:
    """Updates per second of an agent and of an ensemble: ours, and the peers' that are installed; on a CPU."""
    shapes = Shapes() if shapes is None else shapes
    report: dict[str, Any] = {"shapes": dataclasses.asdict(shapes), "missing": {}}
    for kind, makers in CONTENDERS.items():
        contenders = {}
        for name, make in makers.items():
            try:
                contenders[name] = make(shapes)
            except ImportError as error:
                report["missing"][name] = str(error)
        found = rates(contenders, config.seconds, progress)
        report[kind] = {name: UPDATES * rate for name, rate in found.items()}
    return report
