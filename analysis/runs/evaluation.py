"""The paper's evaluation of finished runs, on training or test tasks or in a changed environment."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from analysis.flags.evaluate import EvaluationConfig, Tasks
from analysis.runs.collection import algorithm_of
from m3po.agents.loop import TrainingLoop
from m3po.agents.training import restored
from m3po.config import options_in
from m3po.data.types import Windows
from m3po.episodes import run_episodes
from m3po.foreign.environment import make_environment
from m3po.networks.policy import Policy
from m3po.runs.run_directory import RunDirectory
from m3po.seeds import Purpose, torch_generator

COLUMNS = (
    "environment", "options", "variant", "seed", "steps", "tasks", "actions", "episodes", "return",
    "return_standard_error",
)  # fmt: skip


@dataclass(frozen=True)
class UniformPolicy:
    """Uniform actions in [-1, 1]^A."""

    action_size: int
    history_length: int = 0

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    def act(
        self, windows: Windows, generator: torch.Generator, *, deterministic: bool = False
    ) -> tuple[Tensor, Tensor]:
        """N windows -> N draws, twice."""
        action = 2 * torch.rand(len(windows.lengths), self.action_size, generator=generator) - 1
        return action, action


def changed_options(training: TrainingLoop, changes: dict[str, Any]) -> dict[str, Any]:
    """The options of the training's environment, with some of them changed.

    Raises:
        ValueError: when observations or actions then have another size than the policy was trained with.
    """
    if not changes:
        return training.options
    options, env_id = training.options | changes, training.config.env_id
    environment = make_environment(env_id, **options)
    shapes = [space.shape for space in (environment.observation_space, environment.action_space)]
    environment.close()
    found, sizes = [shape[0] for shape in shapes if shape], [training.observation_size, training.action_size]
    if found != sizes:
        raise ValueError(
            f"with the options {json.dumps(options)} {env_id} has {found[0]} observed numbers and {found[1]} actions, "
            f"the policy was trained with {sizes[0]} and {sizes[1]}"
        )
    return options


def options_for(env_id: str, options: dict[str, Any], tasks: Tasks) -> dict[str, Any]:
    """The environment's options with its train or test tasks.

    Raises:
        ValueError: when it has no such split.
    """
    if tasks == "default":
        return options
    environment = make_environment(env_id, **options)
    body: Any = environment.unwrapped
    environment.close()
    if getattr(body, "train_tasks", None) == getattr(body, "test_tasks", None):
        raise ValueError(f"--tasks {tasks}: {env_id} has no tasks that are kept for testing")
    return options | {"tasks": list(body.train_tasks if tasks == "train" else body.test_tasks)}


def returns_of(
    policy: Policy, env_id: str, options: dict[str, Any], episodes: int, seed: int, *, sampled: bool = False
) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Undiscounted returns of the deterministic policy, or of the one that draws its actions, [N]."""
    generator = torch_generator(Purpose.EVALUATION, seed, device=policy.device)
    return run_episodes(
        env_id, policy, episodes, seed=seed, generator=generator, deterministic=not sampled, options=options
    ).returns()


def evaluate(config: EvaluationConfig) -> list[dict[str, Any]]:
    """One row per run, and one of uniform actions per environment and its options, in the order given."""
    rows: list[dict[str, Any]] = []
    seen: set[tuple[str, str]] = set()
    for path in tqdm(config.run_dirs, desc="evaluating", file=sys.stderr, disable=not sys.stderr.isatty()):
        directory = RunDirectory.read(path)
        training = restored(directory, trust_env=config.trust_env)
        settings = training.config
        changed = changed_options(training, options_in(config.env_options))
        options = options_for(settings.env_id, changed, config.tasks)
        policies: list[tuple[str, int, int, Policy]] = [
            (algorithm_of(settings), settings.seed, training.steps, training.policy)
        ]
        shown = settings.env_options if changed == training.options else json.dumps(changed)
        if (settings.env_id, shown) not in seen:
            seen.add((settings.env_id, shown))
            policies.append(("uniform actions", config.seed, 0, UniformPolicy(training.action_size)))
        for variant, seed, steps, policy in policies:
            returns = returns_of(policy, settings.env_id, options, config.episodes, config.seed, sampled=config.sampled)
            rows.append(
                {
                    "environment": settings.env_id,
                    "options": shown,
                    "variant": variant,
                    "seed": seed,
                    "steps": steps,
                    "tasks": config.tasks,
                    "actions": "sampled" if config.sampled else "mean",
                    "episodes": config.episodes,
                    "return": float(returns.mean()),
                    "return_standard_error": float(returns.std(ddof=1) / len(returns) ** 0.5),
                }
            )
    return rows
