"""The anchors of a learning curve: random actions, best memoryless policy, exact belief, oracle."""

from __future__ import annotations

import json
import math
from pathlib import Path

from analysis.runs.anchor_search import KINDS
from analysis.runs.curves import Array
from m3po.runs.files import read_regular

COMMITTED = Path(__file__).parents[2] / "paper_figures" / "data" / "anchors_switching_point_mass.json"


def committed_anchors() -> dict[str, float]:
    """The committed figures: policy name -> return per episode.

    Raises:
        ValueError: when the file does not hold a finite return of each policy.
        OSError: when the file is missing.
    """
    try:
        policies = json.loads(read_regular(COMMITTED))["policies"]
        found: dict[str, float] = {name: float(policies[name]["return"]) for name in KINDS}
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ValueError(f"{COMMITTED} does not hold the anchors: {type(error).__name__} {error}") from error
    for name, value in found.items():
        if not math.isfinite(value):
            raise ValueError(f"{COMMITTED}: the return of {name} must be finite, got {value}")
    return found


def closed(returns: Array, anchors: dict[str, float]) -> Array:
    """Share of the way from the memoryless to the task-knowing policy: (return - memoryless)/(oracle - memoryless)."""
    return (returns - anchors["memoryless"]) / (anchors["oracle"] - anchors["memoryless"])


def anchors_of(env_id: str) -> dict[str, float]:
    """The committed anchors of the environment, none where it has none."""
    return committed_anchors() if env_id == "m3po/SwitchingPointMass-v0" else {}
