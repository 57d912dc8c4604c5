"""``python -m analysis.step_cost``: what a step costs in each MuJoCo environment, and on gymnasium's own body."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import gymnasium as gym
import mujoco
import numpy as np
import tyro

import m3po.envs  # noqa: F401 (registers the environments)
from m3po.command_line import json_of, run
from m3po.flag_checks import Steps, check_fields

_PLAIN_STATE = {f"include_{name}_in_observation": False for name in ("cinert", "cvel", "qfrc_actuator", "cfrc_ext")}
_ANT = ("Ant-v5", {"include_cfrc_ext_in_observation": False})
# Environment -> the body it is built on, with the same observation and frame skip.
BODIES: dict[str, tuple[str, dict[str, Any]]] = {
    "m3po/HalfCheetahFwdBwd-v0": ("HalfCheetah-v5", {}),
    "m3po/HalfCheetahPier-v0": ("HalfCheetah-v5", {}),
    "m3po/AntFwdBwd-v0": _ANT,
    "m3po/AntCrippledLeg-v0": _ANT,
    "m3po/Walker2dRandomParams-v0": ("Walker2d-v5", {"frame_skip": 8}),
    "m3po/HumanoidDirec-v0": ("Humanoid-v5", _PLAIN_STATE),
}


@dataclass(frozen=True)
class StepCostConfig:
    """Time random steps (resets after a termination included) of each environment and of its body, in turn."""

    steps: Steps = 1500
    """Steps per measurement, >= 1."""
    repeats: Steps = 7
    """Measurements of each, >= 1; the fastest counts, since everything else on the machine only adds time."""
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False
    """Print JSON instead of a table."""

    def __post_init__(self) -> None:
        check_fields(self)


def seconds_per_step(environment: gym.Env[Any, Any], actions: np.ndarray) -> float:
    """Of processor time: what else runs on the machine counts little."""
    environment.reset(seed=0)
    began = time.process_time()
    for action in actions:
        if environment.step(action)[2]:
            environment.reset()
    return (time.process_time() - began) / len(actions)


def measure(env_id: str, steps: int, repeats: int) -> dict[str, float]:
    """Microseconds a step of the bare environment and of its body, and their ratio."""
    name, options = BODIES[env_id]
    previous = mujoco.get_mju_user_warning()
    mujoco.set_mju_user_warning(lambda message: None)  # else MuJoCo logs a remark on the cheetah's file to the disk
    try:
        pair = [gym.make(env_id).unwrapped, gym.make(name, **options).unwrapped]
    finally:
        mujoco.set_mju_user_warning(previous)
    box = pair[0].action_space
    assert isinstance(box, gym.spaces.Box)
    actions = np.random.default_rng(0).uniform(box.low, box.high, (steps, *box.shape)).astype(np.float32)
    rounds = [[seconds_per_step(each, actions) for each in pair] for _ in range(repeats)]
    environment, body = (1e6 * min(column) for column in zip(*rounds, strict=True))
    return {"environment": environment, "body": body, "ratio": environment / body}


def main(config: StepCostConfig) -> int:
    rows = {env_id: measure(env_id, config.steps, config.repeats) for env_id in BODIES}
    if config.as_json:
        print(json_of(rows))
        return 0
    print(f"{'environment':<30} {'us a step':>9}  {'body':<14} {'us a step':>9}  ratio")
    for env_id, row in rows.items():
        print(
            f"{env_id:<30} {row['environment']:>9.1f}  {BODIES[env_id][0]:<14} {row['body']:>9.1f}  {row['ratio']:.2f}"
        )
    return 0


def cli(arguments: Sequence[str] | None = None) -> None:
    run(main, StepCostConfig, arguments, prog="python -m analysis.step_cost")


if __name__ == "__main__":
    cli()
