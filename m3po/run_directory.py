"""Where scripts outside this project find run directories; the code is in ``runs``."""

from __future__ import annotations

from m3po.runs.run_directory import RunDirectory, provenance

__all__ = ["RunDirectory", "provenance"]
