"""The flags of ``m3po results compare``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from m3po.flag_checks import Items, check_directory_of, check_fields


@dataclass(frozen=True)
class ComparisonConfig:
    """Collect the learning curves of several algorithms in one or more environments into one CSV, and print the final
    evaluations (the last, not the best)."""

    run_dirs: tyro.conf.Positional[Annotated[tuple[Path, ...], Items()]]
    """Run directories of m3po.train."""
    out: Path | None = None
    """Where to write the CSV; nowhere when not given."""
    overwrite: bool = False
    """Replace the file of --out even if this command did not write it; one that it wrote is replaced anyway."""
    unfinished: bool = False
    """Take runs that are not finished too, as far as they are."""
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False
    """Print JSON instead of a table."""

    def __post_init__(self) -> None:
        check_fields(self)
        check_directory_of("out", self.out)
