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


def chosen_episodes(name: str, value: Any, count: int) -> NDArray[np.bool_]:
    """A copy of ``value``, [count] booleans.

    Raises:
        ValueError: when it is no such array, naming it ``name``.
    """
    if not (isinstance(value, np.ndarray) and value.dtype == np.bool_ and value.shape == (count,)):
        raise ValueError(f"{name} must be a numpy array of {count} booleans, got {value!r}")
    return value.copy()


def episodes_to_reset(options: Mapping[str, Any], count: int) -> NDArray[np.bool_]:
    """``options["reset_mask"]``, [count] booleans; all when there is none.

    Raises:
        ValueError: when it is no such array, or resets nothing.
    """
    if options.get("reset_mask") is None:
        return np.ones(count, dtype=bool)
    mask = chosen_episodes("options['reset_mask']", options["reset_mask"], count)
    if not mask.any():
        raise ValueError(f"options['reset_mask'] must reset an episode, got {mask!r}")
    return mask


def one_for_each(name: str, value: Any, count: int) -> list[Any]:
    """``value`` for every episode, or, where it is a list or an array, its ``count`` entries.

    Raises:
        ValueError: when there are not so many, naming it ``name``.
    """
    if not isinstance(value, list | tuple | np.ndarray) or np.ndim(value) == 0:
        return [value] * count
    if len(value) != count:
        raise ValueError(f"{name} must be one, or one for each of {count} episodes, got {len(value)}")
    return list(value)


def episode_seeds(seed: Any, count: int) -> list[int | None]:
    """seed + i, or the i-th of ``count`` seeds; None where there is none.

    Raises:
        ValueError: on another number of seeds, and one that is no whole number >= 0.
    """
    single = isinstance(seed, int | np.integer) and not isinstance(seed, bool)
    seeds = [int(seed) + i for i in range(count)] if single else one_for_each("seed", seed, count)
    for each in seeds:
        if each is not None and not (isinstance(each, int | np.integer) and not isinstance(each, bool) and each >= 0):
            raise ValueError(f"seed must be a whole number >= 0, got {each!r}")
    return [None if each is None else int(each) for each in seeds]


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
