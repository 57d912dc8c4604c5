"""Densities of actions as an environment gets them: of a Gaussian that is squashed or clipped into a box.

An action is what reaches the environment, in its units. Inside the box its density is that with respect to Lebesgue
measure; on an end of the box, where whatever lies beyond is sent, it is a probability. Both together are one measure
for every policy, so ratios of these densities are importance weights whatever the policies are. The ratio of the
Gaussians before squashing or clipping is one too, and a far worse one: it tells actions apart that are the same.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import log_ndtr

Array = NDArray[np.float64]

# Closer to an end of [-1, 1] than this, neighbouring numbers of a computer are far apart before tanh.
COARSE = 1e-3
# Half the distance of neighbours there, of policies that act on the grid of float32(a + 1).
HALF_CELL = 2.0**-24


@dataclass(frozen=True)
class GaussianActions:
    """u ~ N(mean, diag std^2), and the action low + (tanh(u) + 1) (high - low)/2, or clip(u, low, high).

    Attributes:
        mean, std: [..., A], std > 0.
        low, high: [A], the box; infinite ends only where nothing is squashed.
        squashed: by tanh, as a soft actor-critic's; or else clipped, as those of other algorithms.
        dtype: of the box.
    """

    mean: Array
    std: Array
    low: Array
    high: Array
    squashed: bool
    dtype: np.dtype[np.floating]

    def draw(self, generator: np.random.Generator) -> NDArray[np.floating]:
        """One action for each row. [..., A]."""
        return self._action(self.mean + self.std * generator.standard_normal(self.mean.shape))

    def mode(self) -> NDArray[np.floating]:
        """The action of u = mean. [..., A]."""
        return self._action(self.mean)

    def _action(self, raw: Array) -> NDArray[np.floating]:
        if self.squashed:
            raw = self.low + 0.5 * (np.tanh(raw) + 1.0) * (self.high - self.low)
        return np.clip(np.clip(raw, self.low, self.high).astype(self.dtype), self.low, self.high).astype(self.dtype)

    def log_density(self, action: ArrayLike) -> Array:
        """log p(a), in nats, summed over the coordinates. [..., A] -> [...].

        A coordinate in which the box has no width is no choice, and counts nothing.
        """
        value = np.asarray(action, dtype=np.float64)
        each = self._squashed(value) if self.squashed else self._clipped(value)
        return np.asarray(np.where(self.high > self.low, each, 0.0).sum(axis=-1))

    def _inside(self, raw: Array) -> Array:
        return np.asarray(-0.5 * ((raw - self.mean) / self.std) ** 2 - np.log(self.std) - 0.5 * np.log(2 * np.pi))

    def _clipped(self, value: Array) -> Array:
        below, above = (self.low - self.mean) / self.std, (self.mean - self.high) / self.std
        ends = np.where(value <= self.low, log_ndtr(below), log_ndtr(above))
        return np.where((value <= self.low) | (value >= self.high), ends, self._inside(value))

    def _squashed(self, value: Array) -> Array:
        width = np.where(self.high > self.low, self.high - self.low, 1.0)
        unit = np.clip(2 * (value - self.low) / width - 1, -1.0, 1.0)
        half = np.maximum(np.spacing(np.abs(value).astype(self.dtype)).astype(np.float64) / width, HALF_CELL)
        first, last = np.clip(unit - half, -1.0, 1.0), np.clip(unit + half, -1.0, 1.0)
        with np.errstate(divide="ignore", invalid="ignore"):
            ends = [(np.arctanh(each) - self.mean) / self.std for each in (first, last)]
            raw = np.arctanh(np.clip(unit, -1 + 1e-16, 1 - 1e-16))
            jacobian = np.log(np.maximum(1 - unit**2, 1e-300)) + np.log(width / 2)
            cell = _log_mass(*ends)
        at_end = (first == -1.0) | (last == 1.0)
        coarse = np.where(at_end, cell, cell - np.log(np.maximum(last - first, 1e-300)) - np.log(width / 2))
        return np.where(np.abs(unit) > 1 - COARSE, coarse, self._inside(raw) - jacobian)


def _log_mass(low: Array, high: Array) -> Array:
    """log of the standard normal probability of [low, high], accurate in both tails."""
    flipped = low > 0
    first, last = np.where(flipped, -high, low), np.where(flipped, -low, high)
    upper, lower = log_ndtr(last), log_ndtr(first)
    return np.asarray(upper + np.log1p(-np.exp(lower - upper)))
