"""The flags of ``m3po guarantee report``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from m3po.flag_checks import Confidence, EpisodeCount, Seed, check_directory_of, check_fields


@dataclass(frozen=True)
class ReportConfig:
    """Write one self-contained HTML page about a run of m3po.train: whether its model's return can be trusted, and
    everything measured about it.

    Exits with 1 when the guarantee is violated.
    """

    run_dir: tyro.conf.Positional[Path]
    """Run directory of a training, finished or not."""
    out: Path | None = None
    """Where to write the page; RUN_DIR/report.html when not given."""
    episodes: EpisodeCount | None = None
    """Fresh episodes per policy to measure on, at least 2; 1000 when not given, 100 where nothing can be certified."""
    confidence: Confidence = 0.95
    """Of the guarantee, in (0, 1)."""
    seed: Seed = 0
    """Seed of the fresh episodes."""
    trust_env: bool = False
    """Build the run's environment even if that imports a module or reads files that its config.json names."""
    overwrite: bool = False
    """Replace the file of --out even if this command did not write it; one that it wrote is replaced anyway."""

    def __post_init__(self) -> None:
        check_fields(self)
        check_directory_of("out", self.out)
        if self.out is not None and self.out.is_dir():
            raise ValueError(f"--out must be a file, got the directory {self.out}")
