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
    """Directory for the pages and the runs."""
    total_steps: Steps = preset_values("demo", "m3po")["total_steps"]
    """Real environment steps of each training."""
    seeds: Annotated[tuple[Seed, ...], Items(different=True)] = (0,)
    """Seeds of the trainings, which run side by side; the page is about all of them. Several show how seeds
    differ: --seeds 0 1 2 3 4 has intervals, and takes about three times as long."""
    overwrite: bool = False
    """Replace a page in --out even if this command did not write it."""

    def __post_init__(self) -> None:
        check_fields(self)
        self.training(resume=False)

    @property
    def confidence_each(self) -> float:
        """Of the guarantee of one training: it has its share of the error probability, rounded down to two digits."""
        share = (1 - CONFIDENCE) / len(self.seeds)
        digits = 1 - math.floor(math.log10(share))
        return round(1 - math.floor(share * 10**digits + 1e-9) / 10**digits, digits)

    @property
    def plan(self) -> str:
        """What is trained, for people."""
        seeds, first = self.seeds, Config.initial_random_steps
        named, each = f"seed {seeds[0]}", ""
        if len(seeds) > 1:
            named, each = f"seeds {', '.join(map(str, seeds))} side by side", " each"
        return (
            f"{named}: {self.total_steps} real steps{each}. The bar estimates the time that is left, too little in the "
            f"first {first} steps, which are random"
        )

    def training(self, *, resume: bool) -> Config:
        """The settings of the training."""
        return Config.preset(
            "demo",
            run_dir=self.out / "run",
            total_steps=self.total_steps,
            seeds=self.seeds,
            resume=resume,
        )
