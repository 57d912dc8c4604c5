"""What an observation says of the task where it is shown (``observe_task``), for agents that are told it.

Finitely many tasks are shown one-hot: coordinate j is 1 while task j rules the next step, else 0. A task out of a
continuum is shown by the numbers u in [0, 1) that it was drawn with, as 2 u - 1. Neither has process noise.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np

from m3po.envs.protocol import Array, Tasks


def one_hot(tasks: int | Tasks, count: int) -> Array:
    """1 at the task, of ``count``. Shapes [...] -> [..., count]."""
    return np.asarray(np.eye(count)[tasks])


def centred(draws: Array) -> Array:
    """2 u - 1. Shapes [...] -> [...]."""
    return 2 * draws - 1


def observation_box(size: int, shown: int = 0, low: float = 0.0) -> gym.spaces.Box:
    """``size`` numbers without bounds, and ``shown`` that tell of the task, in [low, 1]."""
    least, most = np.full(size + shown, -np.inf), np.full(size + shown, np.inf)
    least[size:], most[size:] = low, 1.0
    return gym.spaces.Box(least, most, dtype=np.float64)


def as_flag(name: str, value: Any) -> bool:
    """``value`` as a boolean; the text "false" is none.

    Raises:
        ValueError: when it is neither True nor False (or 1 or 0), naming it ``name``.
    """
    if isinstance(value, bool | np.bool_ | int) and value in (0, 1):
        return bool(value)
    raise ValueError(f"{name} must be true or false, got {value!r}")
