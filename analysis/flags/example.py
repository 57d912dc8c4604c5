"""The flags of ``m3po guarantee example``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from m3po.flag_checks import Count, EpisodeCount, Seed, check_directory_of, check_fields


@dataclass(frozen=True)
class ExampleConfig:
    """Write the evidence for a policy and a ridge model of the point mass: fit the model on some episodes, measure both
    on others."""

    out: Path = Path("evidence.npz")
    """Where to write the arrays."""
    overwrite: bool = False
    """Replace the file of --out even if this command did not write it; one that it wrote is replaced anyway."""
    training_episodes: Count = 20
    """Episodes the ridge model is fitted to, >= 1."""
    episodes: EpisodeCount = 1000
    """Fresh episodes of the data policy that measure it, >= 2."""
    same_policy: bool = False
    """Certify the data policy itself instead of a changed one."""
    rewards: bool = True
    """Write what was paid, and a critic: then the return is bounded without the model's densities too."""
    reveal_truth: bool = True
    """Also run the certified policy in the real environment, to hold the guarantee against."""
    seed: Seed = 0
    """Seed of everything."""

    def __post_init__(self) -> None:
        check_fields(self)
        check_directory_of("out", self.out)
