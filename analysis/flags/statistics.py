"""The flags of ``m3po results statistics``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from analysis.flags.figure_files import check_figure
from m3po.flag_checks import Confidence, NotNegative, Seed, Within, check_fields

Method = Literal["percentile", "bca"]


@dataclass(frozen=True)
class StatisticsConfig:
    """Summarise the final evaluations (the last, not the best) of a table of learning curves: interquartile mean with
    its bootstrap interval over seeds, probability of improvement, steps to a threshold."""

    table: tyro.conf.Positional[Path]
    """CSV with the columns variant, seed, step, return, and environment if there are several, as analysis.variants
    writes it; lines that start with # are comments."""
    baseline: str | None = None
    """The variant that the others are compared with."""
    threshold: float | None = None
    """A return, normalised if --anchors is given: report the steps after which runs first reach it."""
    resamples: Annotated[int, Within(1, 10**5)] = 10_000
    """Bootstrap resamples of the seeds, at most 100000."""
    confidence: Confidence = 0.95
    """Of every interval, in (0, 1)."""
    method: Method = "percentile"
    """How interval ends are read off the resamples: their quantiles, or bias-corrected and accelerated ones."""
    seed: Seed = 0
    """Seed of the resampling."""
    anchors: tuple[str, ...] = ()
    """ENVIRONMENT=LOW,HIGH for each environment: replace every return by (return - LOW)/(HIGH - LOW). A table without
    the column has one environment, called all. Needed as soon as there are several."""
    last_step: NotNegative | None = None
    """Leave out evaluations after this step; the last one that is left is the final one."""
    environment: str | None = None
    """Read the rows of this environment only."""
    common_steps: bool = False
    """Leave out evaluations at steps that not every run has, instead of refusing the table."""
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False
    """Print JSON instead of a table."""
    figure: Path | None = None
    """Also draw the curves and the probabilities of improvement into this file (.png, .pdf, .svg)."""
    overwrite: bool = False
    """Replace the file of --figure even if this command did not write it; one that it wrote is replaced anyway."""

    def __post_init__(self) -> None:
        check_fields(self)
        check_resamples(self.resamples, self.confidence, "--")
        check_figure("figure", self.figure)
        anchors_of(self.anchors)


def anchors_of(words: Sequence[str]) -> dict[str, tuple[float, float]]:
    """``ENVIRONMENT=LOW,HIGH`` -> {environment: (low, high)}.

    Raises:
        ValueError: naming the word that is not of this form, or whose anchors are not in order, or that comes twice.
    """
    anchors: dict[str, tuple[float, float]] = {}
    for word in words:
        name, _, ends = word.rpartition("=")
        try:
            low, high = (float(end) for end in ends.split(","))
            if not (math.isfinite(low) and math.isfinite(high) and low < high):
                raise ValueError(word)
        except ValueError as error:
            raise ValueError(f"--anchors must be ENVIRONMENT=LOW,HIGH with finite LOW < HIGH, got {word!r}") from error
        if not name or name in anchors:
            raise ValueError(f"--anchors needs each environment once, got {word!r}")
        anchors[name] = (low, high)
    return anchors


def check_resamples(resamples: int, confidence: float, mark: str = "") -> None:
    """At least one resample beyond each end, B (1 - c) >= 2, up to rounding of c.

    Raises:
        ValueError: naming both, each after ``mark``, when there are fewer.
    """
    fewest = math.ceil(2 / (1 - confidence) - 1e-6)
    if resamples < fewest:
        raise ValueError(f"{mark}resamples must be at least {fewest} at {mark}confidence {confidence}, got {resamples}")
