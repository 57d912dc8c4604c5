"""What real returns say about a policy without any model, and how many more episodes would say it more closely."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from analysis.guarantee.subject import Subject
from bounds.return_bounds import episodes_for_width, return_lower_bounds
from m3po.agents.reserved_episodes import CertifiedReturn
from m3po.episodes import Trajectories

# Widths of a lower bound, as shares of the return, for which episodes are counted.
WIDTHS = (0.1, 0.05, 0.02)


@dataclass(frozen=True)
class ReturnsAlone:
    """Lower bounds of the true return over the steps of an episode; each holds by itself with ``confidence``.

    Attributes:
        confidence: in (0, 1).
        reserved: from episodes that the run itself set aside, without any fresh one; None where it set none aside.
        reserved_episodes: how many it did.
        fresh: from fresh episodes of the policy; None where the environment names no range of rewards.
        episodes: fresh ones.
        mean, standard_deviation: of their returns.
    """

    confidence: float
    reserved: CertifiedReturn | None
    reserved_episodes: int
    fresh: float | None
    episodes: int
    mean: float
    standard_deviation: float

    @staticmethod
    def of(subject: Subject, episodes: Trajectories, confidence: float) -> ReturnsAlone:
        """From the policy's own fresh ``episodes``, and from those that its run reserved."""
        returns = episodes.returns(subject.discount)
        fresh, reserved, kept = None, None, subject.reserved
        if subject.returns.is_known:
            low, high = subject.reward_low, subject.reward_high
            (bound,) = return_lower_bounds(
                episodes.rewards,
                discount=subject.discount,
                reward_low=low,
                reward_high=high,
                confidence=confidence,
                valid=episodes.valid,
                tail="absorbing",
            )
            fresh = bound.value
            if kept is not None:
                reserved = kept.certified(
                    subject.policy,
                    discount=subject.discount,
                    reward_low=low,
                    reward_high=high,
                    confidence=confidence,
                )
        return ReturnsAlone(
            confidence=confidence,
            reserved=reserved,
            reserved_episodes=0 if kept is None else kept.count,
            fresh=fresh,
            episodes=len(returns),
            mean=float(returns.mean()),
            standard_deviation=float(returns.std(ddof=1)),
        )

    def episodes_for(self, share: float) -> int | None:
        """About how many fresh episodes put the lower bound within ``share`` of the return; None for a return of 0."""
        if self.mean == 0 or self.standard_deviation == 0:
            return None
        return episodes_for_width(self.standard_deviation, share * abs(self.mean), self.confidence)

    def lines(self) -> list[str]:
        """For a person, a sentence each."""
        lines = []
        if self.reserved is not None:
            what = (
                f"is at least {self.reserved.value:.2f}"
                if self.reserved.value > self.reserved.trivial + 1e-9
                else "cannot be told from the least possible"
            )
            lines.append(
                f"without a fresh episode: the return {what}, from the newest {self.reserved.used} of "
                f"{self.reserved_episodes} episodes that the run reserved (worth {self.reserved.effective:.1f} of the "
                f"policy's own; least possible {self.reserved.trivial:.2f})"
            )
        if self.fresh is not None:
            lines.append(
                f"without a model: the return is at least {self.fresh:.2f}, from the returns of {self.episodes} fresh "
                "episodes alone"
            )
        needed = [(share, self.episodes_for(share)) for share in WIDTHS]
        if self.fresh is not None and needed[0][1] is not None:
            counts = ", ".join(f"{count:,} for {share:.0%}" for share, count in needed if count is not None)
            lines.append(f"fresh episodes that bring that bound within a share of the return: about {counts}")
        if lines:
            lines.append(f"(each of these by itself with confidence {self.confidence:g})")
        return lines

    def record(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "confidence": self.confidence,
            "fresh": self.fresh,
            "standard_deviation": self.standard_deviation,
            "episodes_for_width": {f"{share:g}": self.episodes_for(share) for share in WIDTHS},
            "reserved": None
            if self.reserved is None
            else dataclasses.asdict(self.reserved) | {"episodes": self.reserved_episodes},
        }
