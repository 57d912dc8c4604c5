"""Logarithms of density ratios along episodes, checked: what importance weights and overlaps are made of."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from bounds.bound import FloatArray

BoolArray = npt.NDArray[np.bool_]

# A ratio of densities has mean at most 1, so it exceeds e^700 with probability below e^-700: not in honest evidence.
LARGEST_LOG = 700.0


def step_array(name: str, values: npt.ArrayLike, shape: tuple[int, ...] | None = None) -> FloatArray:
    """``values`` as float64 [N, H].

    Raises:
        ValueError: not two nonempty axes, or not ``shape``.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 2 or 0 in array.shape:
        raise ValueError(f"{name} must have two nonempty axes, episodes and times, got shape {array.shape}")
    if shape is not None and array.shape != shape:
        raise ValueError(f"{name} must have shape {shape} like the others, got {array.shape}")
    return array


def valid_prefix(valid: npt.ArrayLike | None, shape: tuple[int, ...]) -> BoolArray:
    """``valid`` as booleans [N, H], all True for None.

    Raises:
        ValueError: another shape, not booleans, or a row that is not True up to a time >= 1 and False from there on.
    """
    if valid is None:
        return np.ones(shape, dtype=bool)
    mask = np.asarray(valid)
    if mask.dtype != np.bool_ or mask.shape != shape:
        raise ValueError(f"valid must be booleans of shape {shape}, got {mask.dtype} of shape {mask.shape}")
    broken = ~mask[:, 0] | (mask[:, 1:] & ~mask[:, :-1]).any(axis=1)
    if broken.any():
        raise ValueError(
            "valid must be True from the start of an episode to its end and False after it, got "
            f"{mask[broken][0].tolist()} at episode {int(np.argmax(broken))}"
        )
    return mask


def log_ratio(
    numerator: npt.ArrayLike, denominator: npt.ArrayLike, mask: BoolArray, names: tuple[str, str]
) -> FloatArray:
    """numerator - denominator where ``mask`` holds and 0 elsewhere, for log densities [N, H] at what was observed.

    The numerator may be -inf: a density that excludes what happened. The denominator may not: it is the density that
    what happened was drawn from.

    Raises:
        ValueError: a wrong shape, NaN, +inf, or a denominator of -inf.
    """
    top, bottom = (step_array(name, x, mask.shape) for name, x in zip(names, (numerator, denominator), strict=True))
    for name, wrong, wanted in (
        (names[0], mask & ~(top < np.inf), "finite or -inf"),
        (names[1], mask & ~np.isfinite(bottom), "finite at what was drawn from it"),
    ):
        if wrong.any():
            episode, time = (int(index) for index in np.argwhere(wrong)[0])
            value = (top if name == names[0] else bottom)[episode, time]
            raise ValueError(f"{name} must be {wanted}, got {value} at episode {episode}, time {time}")
    return np.where(mask, np.where(mask, top, 0.0) - np.where(mask, bottom, 0.0), 0.0)


def check_logarithms(log_values: FloatArray, name: str) -> None:
    """Refuse [N, ...] logarithms of density ratios above 700, whose exponential would overflow.

    Raises:
        ValueError: naming the episode.
    """
    if (log_values > LARGEST_LOG).any():
        episode = int(np.argwhere(log_values > LARGEST_LOG)[0][0])
        raise ValueError(
            f"{name} must stay below e^{LARGEST_LOG:g}, got e^{log_values[episode].max():.6g} at episode {episode}: "
            "a ratio of densities has mean at most 1, so the two log densities cannot belong to the same data"
        )
