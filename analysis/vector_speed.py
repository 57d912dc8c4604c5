"""``python -m analysis.vector_speed``: how fast bodies are stepped side by side, beside the simulator alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import tyro

from analysis.speed.vector_steps import BODIES, measure
from m3po.command_line import json_of, run
from m3po.flag_checks import Count, Items, Steps, Threads, check_fields


@dataclass(frozen=True)
class VectorSpeedConfig:
    """Time a vector environment of MuJoCo bodies with random actions, beside gymnasium's SyncVectorEnv of the single
    environments and the simulator alone, all in alternating rounds; medians count."""

    env_id: str = BODIES[0]
    """One of this project's MuJoCo environments."""
    num_envs: Count = 64
    """Episodes side by side."""
    threads: Annotated[tuple[Threads, ...], Items(different=True)] = (1, 2)
    """Numbers of threads to measure with."""
    steps: Steps = 20
    """Steps of every episode in a round."""
    rounds: Steps = 25
    """Rounds, >= 1."""
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False
    """Print JSON instead of a table."""

    def __post_init__(self) -> None:
        check_fields(self)
        if self.env_id not in BODIES:
            raise ValueError(f"--env-id must be one of {', '.join(BODIES)}, got {self.env_id!r}")


def main(config: VectorSpeedConfig) -> int:
    rows = measure(config.env_id, config.num_envs, config.threads, config.steps, config.rounds)
    if config.as_json:
        print(json_of(rows))
        return 0
    print(f"{config.num_envs} x {config.env_id}, medians of {config.rounds} rounds")
    print(f"{'':<34}{'steps a second':>15}{'of mj_step x threads':>22}{'processor us a step':>21}")
    for name, row in rows.items():
        print(f"{name:<34}{row['per_second']:>15,.0f}{row['share']:>22.2f}{row['processor_us']:>21.1f}")
    return 0


def cli(arguments: Sequence[str] | None = None) -> None:
    run(main, VectorSpeedConfig, arguments, prog="python -m analysis.vector_speed")


if __name__ == "__main__":
    cli()
