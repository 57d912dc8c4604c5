"""``python -m analysis.task_in_encodings RUN_DIR``: does what a policy reads of the past tell its hidden task?

Fresh episodes of the run's policy; the true task of every step is that of the environment. The best linear readout of
half of the episodes names the task in the others, step by step: from the observation, from the encoding of the history,
and from both. A readout that is right no more often than naming the commonest task has nothing to read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import tyro
from numpy.typing import NDArray

from analysis.guarantee.subject import Subject
from analysis.runs.over_seeds import mean_and_error
from m3po.agents.measuring import MOST_TASKS
from m3po.command_line import json_of, run
from m3po.episodes import Trajectories
from m3po.errors import EncodedTrajectories
from m3po.flag_checks import Seed, Within, check_fields
from m3po.networks.context_encoder import ContextEncoder
from m3po.runs.terminal import shown
from m3po.seeds import Purpose, environment_seeds, torch_generator

# lambda of the readout's ridge regression, on inputs of variance 1.
PENALTY = 1.0


@dataclass(frozen=True)
class TaskInEncodingsConfig:
    """How often a linear readout of what a run's policy reads names the hidden task."""

    run_dir: Annotated[Path, tyro.conf.Positional]
    """Of a training of M3PO."""
    episodes: Annotated[int, Within(4, 10**5)] = 20
    """Fresh episodes of its policy, >= 4; half of them fit the readout."""
    seed: Seed = 0
    """Of the episodes."""
    trust_env: bool = False
    """Build the run's environment even if that imports a module or reads files that the run names."""
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False
    """Print one JSON object instead of text."""

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class Share:
    """Of the judged steps, those whose task was named; the error is that of the mean over episodes."""

    mean: float
    error: float


def named(features: NDArray[np.float64], tasks: NDArray[np.int64], valid: NDArray[np.bool_]) -> Share:
    """How often the linear readout of every other episode names the task of the steps of the rest.

    Ridge regression on one indicator per task; the largest names it. Shapes [N, H, F], [N, H], [N, H].
    """
    fitted = np.zeros_like(valid)
    fitted[::2] = valid[::2]
    kinds = np.unique(tasks[valid])
    mean, scale = features[fitted].mean(axis=0), features[fitted].std(axis=0)
    inputs = (features - mean) / np.where(scale > 1e-9, scale, 1.0)
    inputs = np.concatenate([inputs, np.ones((*inputs.shape[:-1], 1))], axis=-1)
    rows, indicators = inputs[fitted], (tasks[fitted][:, None] == kinds) * 1.0
    weights = np.linalg.solve(rows.T @ rows + PENALTY * np.eye(rows.shape[1]), rows.T @ indicators)
    right = kinds[(inputs @ weights).argmax(axis=-1)] == tasks
    shares = [right[row][valid[row]].mean() for row in range(1, len(valid), 2)]
    return Share(*mean_and_error(np.array(shares)))


def measure(encoder: ContextEncoder, trajectories: Trajectories) -> dict[str, Share]:
    """The share of ``named`` steps from nothing, the observation, the encoding, and both.

    Raises:
        ValueError: when the environment does not tell its task, or it was the same throughout, or there are many.
    """
    tasks, valid = trajectories.tasks, trajectories.valid
    count = len(np.unique(tasks[valid]))
    if (tasks[valid] < 0).any() or not 2 <= count <= MOST_TASKS:
        raise ValueError(f"the environment must have 2 to {MOST_TASKS} tasks and tell them, the episodes had {count}")
    data = EncodedTrajectories.of(trajectories, encoder.history_length, encoder.observation_normaliser.mean.device)
    features = data.features(encoder).double().cpu().numpy().reshape(*tasks.shape, -1)
    size = encoder.observation_size
    parts = {"the commonest": features[..., :0], "observation": features[..., :size]}
    if encoder.history_length > 0:
        parts |= {"encoding": features[..., size:], "both": features}
    return {name: named(part, tasks, valid) for name, part in parts.items()}


def found(config: TaskInEncodingsConfig) -> dict[str, Any]:
    """Everything that is printed, JSON-ready."""
    subject = Subject.restored(config.run_dir, trust_env=config.trust_env).on_own_data()
    (seed,) = environment_seeds(Purpose.TASK_IN_ENCODINGS, config.seed, count=1)
    generator = torch_generator(Purpose.TASK_IN_ENCODINGS, config.seed)
    trajectories = subject.episodes(config.episodes, seed=seed, generator=generator)
    shares = measure(subject.policy.encoder, trajectories)
    return {
        "run_dir": str(shown(config.run_dir)),
        "env_id": subject.env_id,
        "steps": subject.steps,
        "episodes": config.episodes,
        "seed": config.seed,
        "shares": {name: vars(share) for name, share in shares.items()},
    }


def main(config: TaskInEncodingsConfig) -> int:
    torch.set_num_threads(1)
    record = found(config)
    if config.as_json:
        print(json_of(record))
        return 0
    which = f"{record['episodes']} fresh episodes (seed {record['seed']})"
    print(f"{record['env_id']} after {record['steps']} steps, {which}: steps whose task a linear readout names")
    for name, share in record["shares"].items():
        print(f"{name:<14} {share['mean']:.3f} +- {share['error']:.3f}")
    return 0


def cli(arguments: Sequence[str] | None = None) -> None:
    run(main, TaskInEncodingsConfig, arguments, prog="python -m analysis.task_in_encodings")


if __name__ == "__main__":
    cli()
