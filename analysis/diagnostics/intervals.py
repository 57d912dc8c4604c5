"""Student's intervals of means over episodes, for the surrogates."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from analysis.statistics.aggregates import student_interval

Array = NDArray[np.float64]


def ends(samples: Array, confidence: float) -> dict[str, float]:
    """The mean of one number per episode [N] with Student's interval, as estimate, lower, upper."""
    estimate, lower, upper = student_interval(samples, confidence)
    return {"estimate": estimate, "lower": lower, "upper": upper}


def span(value: dict[str, float]) -> str:
    """estimate [lower, upper]."""
    return f"{value['estimate']:.3f} [{value['lower']:.3f}, {value['upper']:.3f}]"
