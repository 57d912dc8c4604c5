"""The flags of ``m3po results variants``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from m3po.flag_checks import Items, check_directory_of, check_fields


@dataclass(frozen=True)
class VariantsConfig:
    """Collect the metrics of finished runs, of several variants with several seeds each, into one CSV; print the final
    evaluations (the last, not the best) with 95% Student intervals over seeds."""

    run_dirs: tyro.conf.Positional[Annotated[tuple[Path, ...], Items()]]
    """Finished run directories of m3po.train, all of one environment."""
    out: Path | None = None
    """Where to write the CSV; nowhere when not given."""
    overwrite: bool = False
    """Replace the file of --out even if this command did not write it; one that it wrote is replaced anyway."""
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False
    """Print JSON instead of a table."""

    def __post_init__(self) -> None:
        check_fields(self)
        check_directory_of("out", self.out)
