"""When the hidden task changes during an episode."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class SwitchingRule:
    """The hidden task is redrawn from its distribution at fixed times, at random times, or never within an episode.

    Attributes:
        probability: chance per step, in [0, 1], that the task is redrawn after the step (the new task may equal the
            old one). 0 turns random switching off.
        period: the task is redrawn after every ``period`` steps of an episode; None turns periodic switching off.

    Raises:
        ValueError: when a value is out of range or both rules are on.
    """

    probability: float = 0.0
    period: int | None = None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.probability) and 0.0 <= self.probability <= 1.0):
            raise ValueError(f"switch_probability must be in [0, 1], got {self.probability}")
        if self.period is not None and not (1 <= self.period < math.inf and self.period == int(self.period)):
            raise ValueError(f"switch_period must be a whole number >= 1 or None, got {self.period}")
        if self.period is not None and self.probability > 0:
            raise ValueError(
                f"choose one switching rule: got switch_probability={self.probability} and switch_period={self.period}"
            )

    def redraws(self, steps: NDArray[np.integer], generator: np.random.Generator) -> NDArray[np.bool_]:
        """Which of several episodes redraw their task now.

        Args:
            steps: [N] steps taken in each episode so far, this one included (>= 1).
            generator: consumed only by the random rule.

        Returns:
            [N] booleans.
        """
        return self.redraws_given(steps, generator.random(steps.shape) if self.is_random else np.zeros(steps.shape))

    @property
    def is_random(self) -> bool:
        """Whether a switch is a matter of chance."""
        return self.probability > 0

    def redraws_given(self, steps: NDArray[np.integer], chances: NDArray[np.float64]) -> NDArray[np.bool_]:
        """``redraws`` with the numbers that the random rule draws, uniform in [0, 1). Shapes [N], [N] -> [N]."""
        redrawn = chances < self.probability if self.period is None else steps % self.period == 0
        return np.asarray(redrawn)
