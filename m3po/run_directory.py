"""Where scripts outside this project find run directories; the code is in ``runs``."""

from __future__ import annotations

from m3po.runs.provenance import provenance
from m3po.runs.run_directory import RunDirectory

__all__ = ["RunDirectory", "provenance"]
