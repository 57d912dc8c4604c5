"""What Stable-Baselines3 earns on any of the seven environments, its settings as they come.

    python examples/sb3_reference.py --env-id m3po/HalfCheetahFwdBwd-v0 --algorithm sac --show-task --csv sb3.csv

SAC sees the observation alone; RecurrentPPO (sb3-contrib) has an LSTM. Neither is told the hidden task unless
``--show-task``. The deterministic last policy of each seed is evaluated on episodes that no training saw. Rows are
added to the CSV; what it already has is not run again.
"""

from __future__ import annotations

import argparse
import csv
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from sb3_contrib import RecurrentPPO
from stable_baselines3 import SAC
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor

import m3po.envs  # noqa: F401 (registers the environments)

ALGORITHMS = {"sac": (SAC, "MlpPolicy"), "recurrent-ppo": (RecurrentPPO, "MlpLstmPolicy")}
# What tells a row from others, and what is found.
KEY = ("env_id", "algorithm", "task", "total_steps", "seed")
COLUMNS = (*KEY, "samples", "episodes", "return", "standard_error", "seconds")

# Of the evaluation's environment, beside that of the training's.
APART = 10_000


def parsed(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env-id", default="m3po/SwitchingPointMass-v0")
    parser.add_argument("--algorithm", choices=sorted(ALGORITHMS), default="sac")
    parser.add_argument("--show-task", action="store_true", help="the observation says which task it is")
    parser.add_argument("--total-steps", type=int, default=20_000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--evaluation-episodes", type=int, default=10)
    parser.add_argument("--csv", type=Path, default=Path("sb3.csv"))
    flags = parser.parse_args(arguments)
    for name in ("total_steps", "evaluation_episodes"):
        if getattr(flags, name) < 2:
            parser.error(f"--{name.replace('_', '-')} must be >= 2, got {getattr(flags, name)}")
    if min(flags.seeds) < 0:
        parser.error(f"--seeds must be >= 0, got {min(flags.seeds)}")
    if not flags.csv.absolute().parent.is_dir():
        parser.error(f"--csv: there is no directory {flags.csv.absolute().parent}")
    if flags.csv.exists() and flags.csv.read_text().partition("\n")[0] != ",".join(COLUMNS):
        parser.error(f"--csv: {flags.csv} is not of this command, and would be overwritten")
    try:
        gym.make(flags.env_id, observe_task=flags.show_task).close()
    except (gym.error.Error, TypeError) as error:
        parser.error(f"--env-id {flags.env_id}: {error}")
    return flags


def trained_and_evaluated(flags: argparse.Namespace, seed: int) -> dict[str, Any]:
    """What a row of the CSV says beside its ``KEY``."""

    def make() -> gym.Env[Any, Any]:
        return gym.make(flags.env_id, observe_task=flags.show_task)

    began = time.perf_counter()
    algorithm, policy = ALGORITHMS[flags.algorithm]
    agent = algorithm(policy, make(), seed=seed, device="cpu")
    agent.learn(flags.total_steps)
    fresh = Monitor(make())
    fresh.reset(seed=APART + seed)
    returns, _ = evaluate_policy(
        agent, fresh, n_eval_episodes=flags.evaluation_episodes, deterministic=True, return_episode_rewards=True
    )
    assert isinstance(returns, list)
    return {
        "samples": agent.num_timesteps,  # whole batches of PPO
        "episodes": len(returns),
        "return": round(float(np.mean(returns)), 2),
        "standard_error": round(float(np.std(returns, ddof=1) / np.sqrt(len(returns))), 2),
        "seconds": round(time.perf_counter() - began),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    flags = parsed(arguments)
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    if flags.csv.exists():
        with flags.csv.open() as file:
            rows = list(csv.DictReader(file))
    task = "shown" if flags.show_task else "hidden"
    for seed in flags.seeds:
        key = dict(zip(KEY, (flags.env_id, flags.algorithm, task, str(flags.total_steps), str(seed)), strict=True))
        if any(key.items() <= row.items() for row in rows):
            print(f"{flags.csv} has seed {seed} already", file=sys.stderr)
            continue
        print(f"seed {seed}: {flags.algorithm} on {flags.env_id}, {flags.total_steps} steps", file=sys.stderr)
        rows.append(key | trained_and_evaluated(flags, seed))
        print(f"return {rows[-1]['return']} +- {rows[-1]['standard_error']}")
        with flags.csv.open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
