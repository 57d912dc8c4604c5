"""The flags of ``m3po train evaluate``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from m3po.config import options_in
from m3po.flag_checks import EpisodeCount, Items, Seed, check_directory_of, check_fields

Tasks = Literal["default", "train", "test"]


@dataclass(frozen=True)
class EvaluationConfig:
    """Return of the last policy of each run over fresh episodes, and of uniform actions in the same environment."""

    run_dirs: tyro.conf.Positional[Annotated[tuple[Path, ...], Items()]]
    """Run directories of m3po.train."""
    episodes: EpisodeCount = 50
    """Per run, at least 2."""
    tasks: Tasks = "default"
    """default: as in training. train, test: the environment's own split, where it has one."""
    env_options: str = "{}"
    """JSON object of options of the environment that are to differ from those of training, such as
    '{"switch_period": 50}'; what the policy sees must keep its size."""
    sampled: bool = False
    """Draw actions from the policy, as while it trains, instead of taking its mean."""
    seed: Seed = 0
    """Seed of the episodes, the same ones for every run of an environment."""
    out: Path | None = None
    """CSV to write."""
    overwrite: bool = False
    """Replace the file of --out even if this command did not write it; one that it wrote is replaced anyway."""
    trust_env: bool = False
    """Build each run's environment even if that imports a module or reads files that its config.json names."""
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False
    """Print JSON instead of a table."""

    def __post_init__(self) -> None:
        check_fields(self)
        check_directory_of("out", self.out)
        options_in(self.env_options)
