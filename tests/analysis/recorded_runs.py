"""Run directories that no training made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from m3po.config import Config
from m3po.runs.run_directory import RunDirectory


def recorded(path: Path, returns: list[float], *, complete: bool = True, errors: bool = False, **changes: Any) -> Path:
    """A run with these evaluations, 100 steps apart; ``errors`` adds a model's, eps_m_mean from the second on."""
    run = RunDirectory.create(Config(run_dir=path, **{"total_steps": 1000, "width": 8, **changes}))
    for number, value in enumerate(returns):
        row: dict[str, Any] = {"step": 100 * number, "return": value, "return_standard_error": 0.5}
        if errors:
            row |= {"eps_m": 0.3, "eps_pi_mean": 0.2} | ({"eps_m_mean": 0.1} if number else {})
        run.append_metrics(row)
    if complete:
        run.mark_complete()
    run.release()
    return path
