"""Where scripts outside this project find episodes and environments; the code is in ``episodes`` and ``foreign``."""

from __future__ import annotations

from m3po.episodes import Trajectories, run_episodes
from m3po.foreign.checked_environment import to_environment
from m3po.foreign.environment import make_environment

__all__ = ["Trajectories", "make_environment", "run_episodes", "to_environment"]
