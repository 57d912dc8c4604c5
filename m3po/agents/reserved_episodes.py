"""Real episodes of which nothing is learned, and what they say about the return of any later policy.

They are whole episodes of the policies of a run, each of one fixed policy. Given what the run learned from, which never
includes them, they are independent of each other and of every policy of the run: so any policy may be judged by all of
them, with importance weights for those that another policy collected.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bounds.nonnegative import nonnegative_lower
from bounds.off_policy import effective_sample_sizes, importance_weighted_returns
from m3po.episodes import Trajectories
from m3po.errors import EncodedTrajectories, action_log_density
from m3po.networks.policy import HistoryPolicy

Array = NDArray[np.float64]

# log w_{0:t} that an episode is given at most; its return is then counted less, so a lower bound remains one.
LARGEST_LOG_WEIGHT = 500.0


@dataclass(frozen=True)
class CertifiedReturn:
    """A policy's return is at least ``value``, with the confidence that was asked for.

    The return is J = E[sum_{t < H} gamma^t r_t] of the policy as it explores, over the H steps of an episode.

    Attributes:
        value: the lower bound, in units of return.
        trivial: r_lo sum_{t < H} gamma^t, which is true of every policy.
        used: episodes that the bound rests on, the newest ones.
        effective: how many unweighted episodes those are worth.
    """

    value: float
    trivial: float
    used: int
    effective: float


class ReservedEpisodes:
    """Episodes with the log density of every action under the policy that took it.

    Args:
        history_length: L of the policies.

    Attributes:
        trajectories: N episodes in the order of their collection; None before the first.
        log_data_policy: [N, H], log pi_D(u_t | h_t) of the actions before tanh, in nats, 0 after an episode's end.
    """

    def __init__(self, history_length: int) -> None:
        self.history_length = history_length
        self.trajectories: Trajectories | None = None
        self.log_data_policy: Array = np.zeros((0, 0))

    @property
    def count(self) -> int:
        """N."""
        return len(self.log_data_policy)

    def add(self, policy: HistoryPolicy, trajectories: Trajectories) -> None:
        """Episodes that ``policy`` collected as it is now."""
        log_density = self._log_density(policy, trajectories)
        if self.trajectories is None:
            self.trajectories, self.log_data_policy = trajectories, log_density
            return
        self.trajectories = Trajectories(
            **{
                each.name: np.concatenate([getattr(self.trajectories, each.name), getattr(trajectories, each.name)])
                for each in fields(Trajectories)
            }
        )
        self.log_data_policy = np.concatenate([self.log_data_policy, log_density])

    def certified(
        self, policy: HistoryPolicy, *, discount: float, reward_low: float, reward_high: float, confidence: float
    ) -> CertifiedReturn | None:
        """What the episodes say about ``policy``; None while there are none.

        X_n = sum_t gamma^t w_{0:t} (r_t - r_lo) of episode n has the mean J - trivial, whichever policy collected it.
        The bound takes the newest episodes first, whose weights vary least, and stops where it is best: it holds after
        any number of episodes at once.

        Args:
            policy: any policy of the run: one that did not see the episodes.
            discount: gamma in [0, 1).
            reward_low, reward_high: the range of rewards.
            confidence: in (0, 1), of this one statement.

        Source:
            docs/theory.md, section 9.
        """
        if self.trajectories is None:
            return None
        newest_first = slice(None, None, -1)
        log_data_policy = self.log_data_policy[newest_first]
        log_policy = _with_bounded_weights(
            self._log_density(policy, self.trajectories)[newest_first], log_data_policy, LARGEST_LOG_WEIGHT
        )
        valid = self.trajectories.valid[newest_first]
        returns = importance_weighted_returns(
            self.trajectories.rewards[newest_first],
            log_policy,
            log_data_policy,
            discount=discount,
            reward_low=reward_low,
            reward_high=reward_high,
            valid=valid,
            tail="absorbing",
        )
        bounds = nonnegative_lower(returns.values, confidence, running=True)
        used = int(np.argmax(bounds)) + 1
        effective = effective_sample_sizes(
            log_policy[:used], log_data_policy[:used], discount=discount, valid=valid[:used]
        ).overall
        return CertifiedReturn(float(bounds[-1]) + returns.offset, returns.offset, used, effective)

    def _log_density(self, policy: HistoryPolicy, trajectories: Trajectories) -> Array:
        return action_log_density(policy, EncodedTrajectories.of(trajectories, self.history_length, policy.device))

    def state(self) -> dict[str, Any]:
        """All arrays, for a checkpoint."""
        if self.trajectories is None:
            return {}
        arrays = {each.name: getattr(self.trajectories, each.name) for each in fields(Trajectories)}
        return {name: torch.from_numpy(value) for name, value in (arrays | {"log_pi_D": self.log_data_policy}).items()}

    def load_state(self, state: dict[str, Any]) -> None:
        """Inverse of ``state``."""
        if not state:
            self.trajectories, self.log_data_policy = None, np.zeros((0, 0))
            return
        arrays = {name: value.numpy() for name, value in state.items()}
        self.log_data_policy = arrays.pop("log_pi_D")
        self.trajectories = Trajectories(**arrays)


def _with_bounded_weights(log_policy: Array, log_data_policy: Array, largest: float) -> Array:
    """log pi, lowered where sum_{s <= t} log pi/pi_D would exceed ``largest``. [N, H]."""
    lowered, total = log_policy.copy(), np.zeros(len(log_policy))
    for time in range(log_policy.shape[1]):
        ratio = np.minimum(log_policy[:, time] - log_data_policy[:, time], largest - total)
        lowered[:, time] = log_data_policy[:, time] + ratio
        total += ratio
    return lowered


@dataclass(frozen=True)
class ReservedShare:
    """How a run's steps are split between learning and reserved episodes: a function of nothing that was observed.

    Attributes:
        total_steps: of the run.
        horizon: H, steps that an episode counts for.
        share: of the steps that go into reserved episodes, rounded down to whole episodes.
    """

    total_steps: int
    horizon: int
    share: float

    @property
    def episodes(self) -> int:
        """floor(share * total_steps / H)."""
        return int(self.share * self.total_steps / self.horizon + 1e-9)

    @property
    def training_steps(self) -> int:
        """What is left to learn from."""
        return self.total_steps - self.episodes * self.horizon

    def due(self, training_steps: int) -> int:
        """Episodes that are reserved after so many steps to learn from, in proportion."""
        return self.episodes * training_steps // self.training_steps
