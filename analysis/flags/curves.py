"""The flags of ``m3po results curves``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from analysis.flags.figure_files import check_figure
from m3po.flag_checks import Items, check_fields


@dataclass(frozen=True)
class CurvesConfig:
    """Draw learning curves and error curves, and print the final evaluations with the share of the gap between the
    memoryless and the task-knowing policy that was closed."""

    run_dirs: tyro.conf.Positional[Annotated[tuple[Path, ...], Items()]]
    """Run directories of m3po.train, all of one environment."""
    figure: Path = Path("learning_curves.png")
    """Where to draw (.png, .pdf, .svg)."""
    overwrite: bool = False
    """Replace the file of --figure even if this command did not write it; one that it wrote is replaced anyway."""
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False
    """Print JSON instead of a table."""

    def __post_init__(self) -> None:
        check_fields(self)
        check_figure("figure", self.figure)
