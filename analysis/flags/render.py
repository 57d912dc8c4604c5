"""The flags of ``m3po train render``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from m3po.flag_checks import Count, Members, Pixels, Seed, Steps, check_directory, check_fields


@dataclass(frozen=True)
class RenderConfig:
    """Show the deterministic policy of a run in one episode: episode.gif and strip.png, coloured by the hidden task.

    MuJoCo environments need EGL (no screen); SwitchingPointMass needs nothing.
    """

    run_dir: tyro.conf.Positional[Path]
    """Run directory of a training."""
    seed: Seed = 0
    """Seed of the episode."""
    steps: Count = 300
    """Steps to show, at most (the episode may end earlier)."""
    every: Steps = 3
    """Steps between two pictures of the video."""
    strip_pictures: Members = 8
    """Pictures in the strip."""
    width: Pixels = 320
    """Of a picture, in pixels."""
    height: Pixels = 240
    """Of a picture, in pixels."""
    trust_env: bool = False
    """Build the run's environment even if that imports a module or reads files that its config.json names."""
    out_dir: Path | None = None
    """Where the two files go; RUN_DIR when not given."""
    overwrite: bool = False
    """Replace files of these names even if this command did not write them; those that it wrote are replaced anyway."""

    def __post_init__(self) -> None:
        check_fields(self)
        check_directory("out_dir", self.out_dir)
