"""The flags of ``m3po bounds compare``."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from analysis.flags.figure_files import check_figure
from m3po.flag_checks import Discount, Items, Share, Within, check_fields


@dataclass(frozen=True)
class CompareConfig:
    """Compare the discrepancies: true return >= model return - discrepancy, for every process within these errors."""

    discount: Annotated[Discount, tyro.conf.arg(name="gamma")]
    """Discount, in [0, 1)."""

    model_error: Annotated[Share, tyro.conf.arg(name="eps-m")] = 0.1
    """Model error eps_m: mean total variation of the one-step model on real data, in [0, 1]."""

    policy_divergence: Annotated[Share, tyro.conf.arg(name="eps-pi")] = 0.1
    """Policy divergence eps_pi: total variation between the data-collection policy and the policy, in [0, 1]."""

    rollout_lengths: Annotated[tuple[Annotated[int, Within(1, 2**53)], ...], Items(), tyro.conf.arg(name="k")] = (1, 5)
    """Rollout lengths k, in model steps, each at least 1."""

    reward_max: Annotated[float, Within(), tyro.conf.arg(name="r-max")] = 1.0
    """Largest absolute expected reward, positive; with --r-min, the largest expected reward."""

    reward_min: Annotated[Annotated[float, Within()] | None, tyro.conf.arg(name="r-min")] = None
    """Least expected reward, below --r-max. Without it rewards lie in [-r_max, r_max]. The linear and optimal bounds,
    the certificates and the trivial discrepancy know the range; the papers' bounds, as they are stated, the largest
    absolute reward."""

    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False
    """Print one JSON object instead of the table."""

    figure: Path | None = None
    """Also draw discrepancy against k into this file (.png, .pdf, .svg)."""

    overwrite: bool = False
    """Replace the file of --figure even if this command did not write it; one that it wrote is replaced anyway."""

    def __post_init__(self) -> None:
        check_fields(self)
        if self.reward_min is None and not self.reward_max > 0:
            raise ValueError(f"--r-max must be a finite number > 0, got {self.reward_max}")
        if self.reward_min is not None and not self.reward_min < self.reward_max:
            raise ValueError(f"--r-min must be below --r-max, got {self.reward_min} and {self.reward_max}")
        largest = max(self.largest_reward, self.reward_range)
        if not math.isfinite(largest / (1 - self.discount) ** 2 * max(self.rollout_lengths) * 12):
            name, value = ("r-max", self.reward_max) if abs(self.reward_max) >= abs(self.reward_min or 0.0) else (
                "r-min", self.reward_min)  # fmt: skip
            raise ValueError(f"--{name} is too large for these bounds to be computed, got {value}")
        check_figure("figure", self.figure)

    @property
    def reward_range(self) -> float:
        """R = r_hi - r_lo; 2 r_max where only the largest absolute reward is known."""
        return 2 * self.reward_max if self.reward_min is None else self.reward_max - self.reward_min

    @property
    def largest_reward(self) -> float:
        """r_max = max(|r_lo|, |r_hi|), what the papers' bounds are stated with."""
        return self.reward_max if self.reward_min is None else max(abs(self.reward_min), abs(self.reward_max))

    def reward_max_of(self, bound: str) -> float:
        """The reward_max at which that bound is evaluated: R/2 where its constant is R = 2 r_max, as is proved here of
        the linear and the optimal bounds; r_max as the papers state theirs, which never is smaller.

        A constant added to all rewards moves both returns alike, so with centred rewards theirs hold at R/2 too.
        """
        return self.reward_range / 2 if bound.startswith(("linear", "optimal")) else self.largest_reward

    @property
    def rewards(self) -> str:
        """What is known of the rewards, for headings."""
        if self.reward_min is None:
            return f"r_max = {self.reward_max:g}"
        return f"rewards in [{self.reward_min:g}, {self.reward_max:g}]"
