"""Algorithm 2, readable from top to bottom, and its command line.

python -m m3po.train --env-id m3po/SwitchingPointMass-v0 --run-dir runs/first
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from m3po.command_line import run
from m3po.config import Config
from m3po.context_encoder import ContextEncoder
from m3po.evaluate import make_environment, run_episodes, to_environment, to_tensor
from m3po.measure import error_metrics
from m3po.model import EnsembleModel
from m3po.model_training import train_model
from m3po.networks import StackedMLP
from m3po.policy import GaussianPolicy, HistoryPolicy
from m3po.replay_buffer import EnvironmentBuffer, ModelBuffer
from m3po.rollout import model_steps, never_terminated, termination_of
from m3po.run_directory import RunDirectory
from m3po.sac import SoftActorCritic, SoftActorCriticSettings
from m3po.types import Windows


class Training:
    """Everything a run holds in memory, and the loop over epochs.

    Attributes:
        steps: real environment steps so far.
        data_policy: the policy as it was when this epoch's collection began; held-out episodes are its.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        self.device = choose_device(config.device)
        torch.set_num_threads(config.threads)
        self.environment: gym.Env[Any, Any] = make_environment(config.env_id)
        observation_size = self.environment.observation_space.shape[0]  # type: ignore[index]
        action_size = self.environment.action_space.shape[0]  # type: ignore[index]
        self.horizon: int = self.environment.spec.max_episode_steps  # type: ignore[union-attr,assignment]
        self.terminated = termination_of(self.environment)

        torch.manual_seed(config.seed)  # initial weights only; everything later draws from the generators below
        self.generator = torch.Generator(self.device).manual_seed(config.seed)
        self.collection_generator = torch.Generator().manual_seed(config.seed + 1)
        encoder = ContextEncoder(observation_size, action_size, config.history_length, config.context_size)
        self.model = EnsembleModel(encoder, action_size, config.ensemble_size, config.width, config.layers)
        self.model.to(self.device)
        network = GaussianPolicy(encoder.feature_size, action_size, config.width, config.layers).to(self.device)
        critics = StackedMLP(2, encoder.feature_size + action_size, config.width, config.layers, 1).to(self.device)
        entropy = -float(action_size) if config.target_entropy is None else config.target_entropy
        settings = SoftActorCriticSettings(config.discount, config.target_rate, entropy, config.learning_rate)
        self.agent = SoftActorCritic(network, critics, settings, config.initial_temperature)
        self.policy = HistoryPolicy(encoder, network)
        self.data_policy = self.policy.snapshot()
        self.model_optimiser = torch.optim.AdamW(
            self.model.parameters(), lr=config.model_learning_rate, weight_decay=config.model_weight_decay, fused=True
        )
        self.environment_buffer = EnvironmentBuffer(
            config.total_steps,
            observation_size,
            action_size,
            history_length=config.history_length,
            members=config.ensemble_size,
            holdout=config.holdout,
            device=self.device,
        )
        rollout_length = self.horizon if config.algorithm == "m3po-full" else config.rollout_length
        self.rollout_length = rollout_length
        capacity = max(config.model_buffer_size, config.rollouts_per_step * config.rollout_interval)
        self.model_buffer = ModelBuffer(capacity, encoder.feature_size, action_size, device=self.device)
        self.steps = 0
        self.episodes = 0
        self.seconds = 0.0
        self._observation: Tensor | None = None
        self._windows: Windows | None = None

    # Line 5 of Algorithm 2.
    def collect_step(self, *, random: bool) -> float:
        """One real step, stored in D_env; starts a new episode when the last one ended. Returns the reward."""
        space = self.environment.action_space
        assert isinstance(space, gym.spaces.Box)
        starts = self._windows is None
        if self._windows is None:
            # Each episode has its own seed, so a resumed run meets the same episodes without storing the simulator.
            seed = int(np.random.SeedSequence([self.config.seed, self.episodes]).generate_state(1)[0])
            observation, _ = self.environment.reset(seed=seed)
            self.episodes += 1
            initial = to_tensor(observation, self.device)[None]
            self._windows = Windows.initial(initial, self.config.history_length, space.shape[0])
        windows = self._windows
        if random:
            action = 2 * torch.rand(1, space.shape[0], generator=self.collection_generator).to(self.device) - 1
        else:
            action, _ = self.policy.act(windows, self.generator)
        following, reward, terminated, truncated, _ = self.environment.step(to_environment(action, space)[0])
        if terminated and self.terminated is never_terminated:
            raise ValueError(
                f"{self.config.env_id} ended an episode but has no method terminated(observation), "
                "which rollouts in the model need"
            )
        next_observation = to_tensor(following, self.device)[None]
        self.environment_buffer.add(
            windows.observation[0],
            action[0],
            float(reward),
            next_observation[0],
            terminated=bool(terminated),
            starts_episode=starts,
            generator=self.collection_generator,
        )
        self._windows = None if terminated or truncated else windows.push(action, next_observation)
        self.steps += 1
        return float(reward)

    # Lines 6-9.
    def add_rollouts(self, count: int) -> None:
        """``count`` k-step rollouts from uniformly drawn real histories (full: from initial ones) into D_model."""
        buffer, generator = self.environment_buffer, self.generator
        if self.config.algorithm == "m3po-full":
            initial = buffer.initial_indices()
            count = max(count // self.horizon, 1)
            indices = initial[torch.randint(len(initial), (count,), generator=generator, device=self.device)]
        else:
            indices = torch.randint(buffer.size, (count,), generator=generator, device=self.device)
        starts = buffer.windows(indices)
        for step in model_steps(self.model, self.policy, starts, self.rollout_length, generator, self.terminated):
            self.model_buffer.add(step.transitions)

    def epoch(self, progress: tqdm[Any]) -> dict[str, Any]:
        """Lines 3-13 once: train the model, then E steps of collection, rollouts and policy updates; returns a row."""
        config = self.config
        began = time.monotonic()
        while self.steps < config.initial_random_steps:
            self.collect_step(random=True)
            progress.update()
        losses: dict[str, float] = train_model(
            self.model, self.model_optimiser, self.environment_buffer, config, self.generator
        )
        model_seconds = time.monotonic() - began
        self.model_buffer.clear()
        self.data_policy = self.policy.snapshot()
        decay = (1 - config.final_learning_rate_share) * self.steps / config.total_steps
        self.agent.set_learning_rate(config.learning_rate * (1 - decay))
        self.add_rollouts(config.rollouts_per_step * config.rollout_interval)

        updates: list[dict[str, Tensor]] = []
        collected = 0.0
        steps = min(config.epoch_steps, config.total_steps - self.steps)
        for step in range(steps):
            collected += self.collect_step(random=False)
            if (step + 1) % config.rollout_interval == 0:
                self.add_rollouts(config.rollouts_per_step * config.rollout_interval)
            for _ in range(config.updates_per_step):
                updates.append(
                    self.agent.update(self.model_buffer.sample(config.batch_size, self.generator), self.generator)
                )
            progress.update()
        if updates:
            losses |= {name: torch.stack([each[name] for each in updates]).mean().item() for name in updates[0]}
        learn_seconds = time.monotonic() - began - model_seconds
        row = {"step": self.steps, **losses, **self.measure()}
        seconds = time.monotonic() - began
        self.seconds += seconds
        return row | {
            "collected_reward": collected / max(steps, 1),
            "model_seconds": model_seconds,
            "learn_seconds": learn_seconds,
            "measure_seconds": seconds - model_seconds - learn_seconds,
            "seconds": self.seconds,
        }

    def measure(self) -> dict[str, Any]:
        """Errors on held-out episodes of the data policy, and the return of the deterministic policy."""
        config = self.config
        # Seeds of its own: looking at a run must not change it.
        seeds = np.random.SeedSequence([config.seed, self.steps, 1]).generate_state(3)
        generator = torch.Generator(self.device).manual_seed(int(seeds[2]))
        held_out = run_episodes(
            config.env_id, self.data_policy, config.measure_episodes, seed=int(seeds[0]), generator=generator
        )
        dynamics = getattr(self.environment.unwrapped, "dynamics", None)
        errors = error_metrics(
            self.model,
            self.policy,
            self.data_policy,
            held_out,
            dynamics,
            confidence=config.confidence,
            generator=generator,
        )
        evaluation = run_episodes(
            config.env_id,
            self.policy,
            config.evaluation_episodes,
            seed=int(seeds[1]),
            generator=generator,
            deterministic=True,
        ).returns()
        return errors | {
            "return": float(evaluation.mean()),
            "return_standard_error": float(evaluation.std(ddof=1) / len(evaluation) ** 0.5),
        }

    def state(self) -> dict[str, Any]:
        """Everything a resumed run needs, as tensors and plain values."""
        return {
            "steps": self.steps,
            "episodes": self.episodes,
            "seconds": self.seconds,
            "model": self.model.state_dict(),
            "model_optimiser": self.model_optimiser.state_dict(),
            "networks": {name: module.state_dict() for name, module in self.agent.modules().items()},
            "optimisers": {name: optimiser.state_dict() for name, optimiser in self.agent.optimisers().items()},
            "log_temperature": self.agent.log_temperature.detach(),
            "data_policy": {
                "encoder": self.data_policy.encoder.state_dict(),
                "network": self.data_policy.network.state_dict(),
            },
            "environment_buffer": self.environment_buffer.state(),
            "generators": [self.generator.get_state(), self.collection_generator.get_state()],
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Inverse of ``state``. An episode that was under way is given up: the next step starts a new one."""
        self.steps, self.episodes, self.seconds = state["steps"], state["episodes"], state["seconds"]
        self.model.load_state_dict(state["model"])
        self.model_optimiser.load_state_dict(state["model_optimiser"])
        for name, module in self.agent.modules().items():
            module.load_state_dict(state["networks"][name])
        for name, optimiser in self.agent.optimisers().items():
            optimiser.load_state_dict(state["optimisers"][name])
        with torch.no_grad():
            self.agent.log_temperature.copy_(state["log_temperature"])
        self.data_policy.encoder.load_state_dict(state["data_policy"]["encoder"])
        self.data_policy.network.load_state_dict(state["data_policy"]["network"])
        self.environment_buffer.load_state(state["environment_buffer"])
        self.generator.set_state(state["generators"][0].cpu())
        self.collection_generator.set_state(state["generators"][1].cpu())
        self._windows = None


def choose_device(name: str) -> torch.device:
    """auto, cpu or cuda -> a device.

    Raises:
        ValueError: when cuda is asked for and there is none.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: no CUDA device is available")
    return torch.device("cuda" if name == "cuda" or (name == "auto" and torch.cuda.is_available()) else "cpu")


def train(config: Config) -> RunDirectory:
    """Run or resume a training to its last step.

    Raises:
        ValueError: see RunDirectory and make_environment.
    """
    make_environment(config.env_id).close()  # a wrong id must not leave a run directory behind
    choose_device(config.device)
    directory = RunDirectory.resume(config) if config.resume else RunDirectory.create(config)
    if directory.complete:
        print(f"{config.run_dir} is complete already", file=sys.stderr)
        return directory
    training = Training(config)
    if (config.run_dir / "checkpoint.pt").exists() or any(row["step"] > 0 for row in directory.metrics()):
        training.load_state(directory.load_checkpoint(training.device))
        directory.drop_metrics_after(training.steps)
    else:  # a new run, or one stopped before its first checkpoint
        directory.drop_metrics_after(-1)
        directory.append_metrics({"step": 0, **training.measure()})  # the untrained start of every curve
        directory.save_checkpoint(training.state())
    with tqdm(
        total=config.total_steps,
        initial=training.steps,
        unit="step",
        file=sys.stderr,
        dynamic_ncols=True,
        smoothing=0.05,
    ) as progress:
        while training.steps < config.total_steps:
            row = training.epoch(progress)
            directory.append_metrics(row)
            directory.save_checkpoint(training.state())
            progress.set_postfix(describe(row), refresh=True)
    directory.mark_complete()
    return directory


def describe(row: dict[str, Any]) -> dict[str, str]:
    """The part of a metrics row that the progress bar shows."""
    shown = {
        "return": "return", "eps_m": "eps_m", "eps_pi_mean": "eps_pi", "model_loss": "model", "critic_loss": "critic",
        "policy_loss": "policy",
    }  # fmt: skip
    return {label: f"{row[name]:.3g}" for name, label in shown.items() if name in row}


def main(config: Config) -> int:
    try:
        directory = train(config)
    except KeyboardInterrupt:
        print(f"\ninterrupted; continue with the same command and --resume (run {config.run_dir})", file=sys.stderr)
        return 130
    rows = directory.metrics()
    if not rows:
        raise ValueError(f"{config.run_dir} is marked complete and has no metrics")
    last = rows[-1]
    print(f"{config.run_dir}: {last['step']} steps, return {last['return']:.2f} +- {last['return_standard_error']:.2f}")
    return 0


def cli(arguments: Sequence[str] | None = None) -> None:
    run(main, Config, arguments, prog="python -m m3po.train")


if __name__ == "__main__":
    cli()
