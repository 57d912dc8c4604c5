"""What the vector environments here are asked for: how they start anew, which episodes to reset or to step."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from numpy.typing import NDArray

from m3po.envs.protocol import Array


def usable_threads() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def whole_number(name: str, value: Any) -> int:
    """``value`` as a whole number >= 1.

    Raises:
        ValueError: when it is none, naming it ``name``.
    """
    if not isinstance(value, int | float | np.number) or not (1 <= value < math.inf and value == int(value)):
        raise ValueError(f"{name} must be a whole number >= 1, got {value!r}")
    return int(value)


def autoreset_mode_of(value: Any) -> AutoresetMode:
    """gymnasium's mode of that name, such as AutoresetMode.SAME_STEP or "SameStep".

    Raises:
        ValueError: when there is none.
    """
    try:
        return AutoresetMode(value)
    except ValueError:
        raise ValueError(
            f"autoreset_mode must be one of {[mode.value for mode in AutoresetMode]}, got {value!r}"
        ) from None


def episodes_to_reset(options: Mapping[str, Any], count: int) -> NDArray[np.bool_]:
    """``options["reset_mask"]``, [count] booleans; all when there is none.

    Raises:
        ValueError: when it is no such array, or resets nothing.
    """
    mask = options.get("reset_mask")
    if mask is None:
        return np.ones(count, dtype=bool)
    if not (isinstance(mask, np.ndarray) and mask.dtype == np.bool_ and mask.shape == (count,) and mask.any()):
        raise ValueError(
            f"options['reset_mask'] must be a numpy array of {count} booleans, not all false, got {mask!r}"
        )
    return mask.copy()


def has_ended(episodes: NDArray[np.bool_]) -> str:
    """What is wrong about a step of these [N] episodes without autoreset."""
    places = np.flatnonzero(episodes).tolist()
    return f"episodes {places} have ended: reset them first, with options={{'reset_mask': ...}}"


class ThreadedVector(VectorEnv[Array, NDArray[np.floating], Any]):
    """A vector environment that simulates in threads, and steps those episodes that are asked for.

    Attributes:
        threads: of the simulation, >= 1; they change nothing but the time it takes.
    """

    threads: int

    def step(
        self, actions: NDArray[np.floating], *, which: NDArray[np.bool_] | None = None
    ) -> tuple[Array, Array, NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]:
        """gymnasium's ``step``, of the episodes in ``which`` [N] only: the others stand still. None: of all."""
        raise NotImplementedError
