"""The e-test: log densities that cannot be what they claim to be.

Of two densities p and q, and outcomes drawn from p, the ratio q/p has mean at most 1 whatever q is (it is exactly the
mass that q puts where p > 0). So a game that pays q/p for every unit staked is not in the player's favour, no strategy
that looks at the past alone can make it so, and a capital that grows far beyond its start refutes the claim. Nothing
else is assumed: no range, no variance, no number of episodes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

# Shares of the capital that the players stake on every step. A share of 1 multiplies the ratios themselves and sees
# what beats the truth at once; the smaller ones see a mean above 1 behind ratios that are mostly far below it.
SHARES = (1.0, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005)


@dataclass(frozen=True)
class HonestyTest:
    """What the players won.

    Attributes:
        log_capital: the logarithm of the largest capital that all players together, starting with 1, had at any time.
        level: alpha.
        mean_log_ratio: mean of log q - log p over the steps. Of honest outcomes it is minus a KL divergence.
        steps: how many there were.
    """

    log_capital: float
    level: float
    mean_log_ratio: float
    steps: int

    @property
    def refuted(self) -> bool:
        """Whether the capital reached 1/alpha."""
        return bool(self.log_capital >= np.log(1 / self.level))


def honesty(
    log_density: ArrayLike, log_other_density: ArrayLike, valid: ArrayLike | None = None, *, level: float = 0.001
) -> HonestyTest:
    """Evidence that outcomes were not drawn from the density claimed for them: the capital of bets on another density.

    sup_t mean_f prod_{s<=t} (1 - f + f q_s/p_s), over all steps s of all episodes, one after another.

    Args:
        log_density: [N, H] log p(x_t | past) of what the outcomes are said to be drawn from, in nats. Finite.
        log_other_density: [N, H] log q(x_t | past) of any density that was fixed before the outcomes were drawn. -inf
            where it is 0.
        valid: [N, H] booleans, False after the end of an episode; all True when None.
        level: alpha in (0, 1). Honest outcomes reach a capital of 1/alpha with probability at most alpha (Ville): each
            player's capital is a nonnegative supermartingale, and so is their mean.

    Raises:
        ValueError: shapes that do not fit, NaN, +inf, a log density of -inf where something happened, a bad level.

    Source:
        this project (docs/theory.md); the bets are those of Waudby-Smith & Ramdas 2023, section 4, at fixed shares.
    """
    log_p, log_q = (np.asarray(each, dtype=np.float64) for each in (log_density, log_other_density))
    happened = np.ones(log_p.shape, dtype=bool) if valid is None else np.asarray(valid)
    if log_p.ndim != 2 or not (log_p.shape == log_q.shape == happened.shape):
        raise ValueError(f"need equal shapes [N, H], got {log_p.shape}, {log_q.shape} and {happened.shape}")
    if not 0 < level < 1:
        raise ValueError(f"level must be in (0, 1), got {level}")
    log_p, log_q = log_p[happened], log_q[happened]
    for name, values, least in (("log_density", log_p, True), ("log_other_density", log_q, False)):
        bad = np.isnan(values) | np.isposinf(values) | (np.isneginf(values) if least else False)
        if bad.any():
            raise ValueError(f"{name} must be finite where something happened, got {values[bad][0]}")
    ratio = log_q - log_p
    shares = np.array(SHARES)[:, None]
    with np.errstate(divide="ignore"):  # a share of 1 keeps nothing back
        gains = np.logaddexp(np.log1p(-shares), np.log(shares) + ratio)
    capital = np.logaddexp.reduce(np.cumsum(gains, axis=1), axis=0) - np.log(len(SHARES))
    return HonestyTest(
        log_capital=float(max(capital.max(initial=0.0), 0.0)),
        level=level,
        mean_log_ratio=float(ratio.mean()) if ratio.size else 0.0,
        steps=ratio.size,
    )
