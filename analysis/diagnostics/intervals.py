"""Estimates with the ends of their intervals; Student's, of means over episodes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analysis.runs.over_seeds import student_interval
from bounds.confidence import Interval

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Ends:
    """A number as estimated, and the ends of its interval."""

    estimate: float
    lower: float
    upper: float

    @staticmethod
    def of(interval: Interval) -> Ends:
        """Those of one interval."""
        return Ends(float(interval.estimate), float(interval.lower), float(interval.upper))

    def __str__(self) -> str:
        return f"{self.estimate:.3f} [{self.lower:.3f}, {self.upper:.3f}]"


def ends(samples: Array, confidence: float) -> dict[str, float]:
    """The mean of one number per episode [N] with Student's interval, as estimate, lower, upper."""
    estimate, lower, upper = student_interval(samples, confidence)
    return {"estimate": estimate, "lower": lower, "upper": upper}


def span(value: dict[str, float]) -> str:
    """estimate [lower, upper]."""
    return f"{value['estimate']:.3f} [{value['lower']:.3f}, {value['upper']:.3f}]"
