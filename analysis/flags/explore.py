"""The flags of ``m3po bounds explore``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from m3po.flag_checks import check_fields


@dataclass(frozen=True)
class ExplorerConfig:
    """Write the interactive explorer of the bounds: one HTML file that needs no network and no server."""

    out: Path = Path("explorer.html")
    """File to write."""
    overwrite: bool = False
    """Replace the file of --out even if this command did not write it; one that it wrote is replaced anyway."""

    def __post_init__(self) -> None:
        check_fields(self)
