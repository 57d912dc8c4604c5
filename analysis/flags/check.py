"""The flags of ``m3po guarantee check``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from analysis.flags.figure_files import check_figure
from m3po.flag_checks import Confidence, Count, EpisodeCount, Seed, Steps, check_fields


@dataclass(frozen=True)
class CheckConfig:
    """Measure the true return, the model return and the errors of a trained run, and hold the gap against every bound.

    Needs the run directory of m3po.train. Two data policies are looked at: "current", fresh data of the trained policy
    itself (no policy divergence), and "previous", the policy that collected the last epoch's data.
    """

    run_dir: tyro.conf.Positional[Path]
    """Run directory of a training."""
    episodes: EpisodeCount = 1000
    """Fresh episodes per policy, at least 2; they are the iid units of every interval."""
    confidence: Confidence = 0.95
    """All intervals of one data policy hold together with this probability, in (0, 1)."""
    candidates: Count = 1
    """How many checkpoints, runs or rollout lengths you check to take the best, >= 1: each gets that share of the error
    probability."""
    rollout_length: Steps = 1
    """k of the branched returns that are held against the bounds, >= 1. However long the rollouts of the training were,
    every discrepancy is smallest at 1."""
    seed: Seed = 0
    """Seed of the fresh episodes."""
    trust_env: bool = False
    """Build the run's environment even if that imports a module or reads files that its config.json names."""
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False
    """Print one JSON object instead of the report."""
    figure: Path | None = None
    """Where to draw the figure (.png, .pdf, .svg); RUN_DIR/guarantee.png when not given."""
    overwrite: bool = False
    """Replace the file of --figure even if this command did not write it; one that it wrote is replaced anyway."""

    def __post_init__(self) -> None:
        check_fields(self)
        check_figure("figure", self.figure)
