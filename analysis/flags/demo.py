"""The flags of ``m3po train demo``."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from m3po.config import Config
from m3po.flag_checks import Items, Seed, Steps, check_fields
from m3po.presets import preset_values

# That the guarantees of all trainings hold.
CONFIDENCE = 0.95


@dataclass(frozen=True)
class DemoConfig:
    """Compare the bounds, train M3PO on SwitchingPointMass, check its guarantee, and write one page about it."""

    out: Path = Path("demo")
    """Directory for the page, its pictures and the run."""
    total_steps: Steps = preset_values("demo", "m3po")["total_steps"]
    """Real environment steps of the training."""
    seed: Seed = 0
    """Seed of the training."""
    seeds: Annotated[tuple[Seed, ...], Items(different=True)] | None = None
    """Instead of --seed: several, trained side by side. The learning curve is then that of all, and so is the
    guarantee."""
    overwrite: bool = False
    """Replace a page or pictures in --out even if this command did not write them."""

    def __post_init__(self) -> None:
        check_fields(self)
        self.training(resume=False)

    @property
    def confidence_each(self) -> float:
        """Of the guarantee of one training: it has its share of the error probability, rounded down to two digits."""
        share = (1 - CONFIDENCE) / len(self.seeds or (self.seed,))
        digits = 1 - math.floor(math.log10(share))
        return round(1 - math.floor(share * 10**digits + 1e-9) / 10**digits, digits)

    def training(self, *, resume: bool) -> Config:
        """The settings of the training."""
        return Config.preset(
            "demo",
            run_dir=self.out / "run",
            total_steps=self.total_steps,
            seed=self.seed,
            seeds=self.seeds,
            resume=resume,
        )
