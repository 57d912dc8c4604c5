"""What several seeds or episodes say together."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats


def mean_and_error(values: NDArray[np.float64]) -> tuple[float, float]:
    """Mean of independent values and its standard error. Shape [N], N >= 2."""
    return float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values)))


def student_interval(values: NDArray[np.float64], confidence: float = 0.95) -> tuple[Any, Any, Any]:
    """Mean over seeds and the ends of Student's interval for it, which supposes normal values.

    Shapes [S, ...] -> [...], three times. One seed has an infinite interval.
    """
    mean = values.mean(axis=0)
    if len(values) < 2:
        return mean, mean - np.inf, mean + np.inf
    half = stats.t.ppf(0.5 + confidence / 2, len(values) - 1) * values.std(axis=0, ddof=1) / np.sqrt(len(values))
    return mean, mean - half, mean + half
