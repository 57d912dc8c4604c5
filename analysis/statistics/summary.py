"""What a table says about each variant, with the notes that a reader needs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from analysis.flags.statistics import Method, StatisticsConfig
from analysis.statistics.aggregates import (
    Array,
    pooled_interquartile_mean,
    probability_of_improvement,
    steps_to_reach,
)
from analysis.statistics.bootstrap import (
    BootstrapInterval,
    distinct_resamples,
    probability_of_improvement_interval,
    sample_efficiency_curve,
)
from analysis.statistics.table import Table

METHOD_NAMES: dict[Method, str] = {"percentile": "percentile", "bca": "BCa"}


@dataclass(frozen=True)
class Coverage:
    """Lowest and highest measured coverage over the simulated populations, for the interquartile mean and for the
    probability of improvement."""

    iqm: tuple[float, float]
    improvement: tuple[float, float]


# Of 95% intervals, by the number of seeds in one environment: python -m analysis.interval_coverage.
MEASURED_COVERAGE: dict[int, dict[Method, Coverage]] = {
    3: {"percentile": Coverage((0.74, 0.75), (0.45, 0.81)), "bca": Coverage((0.69, 0.75), (0.46, 0.91))},
    5: {"percentile": Coverage((0.89, 0.93), (0.69, 0.90)), "bca": Coverage((0.88, 0.90), (0.69, 0.95))},
    10: {"percentile": Coverage((0.93, 0.93), (0.86, 0.94)), "bca": Coverage((0.92, 0.92), (0.92, 0.97))},
    20: {"percentile": Coverage((0.94, 0.94), (0.90, 0.95)), "bca": Coverage((0.94, 0.95), (0.94, 0.97))},
}

# From this many seeds on none of the measured intervals misses much more than one time in ten.
ENOUGH_SEEDS = 20


@dataclass(frozen=True, eq=False)
class VariantSummary:
    """What the table says about one variant.

    Attributes:
        name: the variant.
        finals: for each environment [S_e], the last evaluation of every run.
        iqm: [E] curve of the interquartile mean over the runs of all environments, without an interval where a stratum
            has a single run: NaN ends.
        improvement: probability of improvement over the baseline at the last evaluation; None without a baseline, for
            the baseline itself; NaN ends where a stratum has a single run.
        reaching: [all runs] steps to the threshold, infinity where a run never reaches it; None without one.
    """

    name: str
    finals: list[Array]
    iqm: BootstrapInterval
    improvement: BootstrapInterval | None
    reaching: Array | None

    @property
    def runs(self) -> Array:
        """The final evaluations of all environments together."""
        return np.concatenate(self.finals)


def _without_interval(estimate: Array, config: StatisticsConfig) -> BootstrapInterval:
    nothing = np.full_like(estimate, np.nan)
    return BootstrapInterval(estimate[()], nothing[()], nothing[()], config.confidence, config.method, 0)


def summarise(table: Table, config: StatisticsConfig) -> list[VariantSummary]:
    """Every variant, best final interquartile mean first.

    Every interval has a Generator of its own, spawned from the seed, so that it does not depend on which others are
    asked for.

    Raises:
        ValueError: when the baseline is not in the table.
    """
    if config.baseline is not None and config.baseline not in table.returns:
        raise ValueError(f"--baseline must be one of {', '.join(table.returns)}, got {config.baseline!r}")

    def settings(name: str, quantity: int) -> dict[str, Any]:
        generator = np.random.default_rng([config.seed, quantity, *name.encode()])
        return {
            "generator": generator, "confidence": config.confidence, "resamples": config.resamples,
            "method": config.method,
        }  # fmt: skip

    def single(*strata: Sequence[Array]) -> bool:
        return any(len(each) < 2 for group in strata for each in group)

    summaries = []
    for name, curves in table.returns.items():
        finals = table.finals(name)
        if single(curves):
            iqm = _without_interval(pooled_interquartile_mean(curves), config)
        else:
            iqm = sample_efficiency_curve(table.steps, curves, **settings(name, 0))
        improvement = None
        if config.baseline is not None and name != config.baseline:
            other = table.finals(config.baseline)
            if single(finals, other):
                improvement = _without_interval(probability_of_improvement(finals, other), config)
            else:
                improvement = probability_of_improvement_interval(finals, other, **settings(name, 1))
        reaching = None
        if config.threshold is not None:
            reaching = np.concatenate([steps_to_reach(table.steps, each, config.threshold) for each in curves])
        summaries.append(VariantSummary(name, finals, iqm, improvement, reaching))
    return sorted(summaries, key=lambda each: -each.iqm.estimate[-1])


def _range(ends: tuple[float, float]) -> str:
    low, high = (f"{end:.0%}" for end in ends)
    return low if low == high else f"{low} to {high}"


def _tie(table: Table, name: str, other: str) -> bool:
    """Whether a run of the one returned the same as a run of the other in some environment."""
    return any(
        np.isin(ours, theirs).any() for ours, theirs in zip(table.finals(name), table.finals(other), strict=True)
    )


def notes(table: Table, config: StatisticsConfig, summaries: Sequence[VariantSummary]) -> list[str]:
    """What the reader of the intervals has to know: how few the seeds are, and where an interval says nothing."""
    counts = [len(seeds) for each in table.seeds.values() for seeds in each]
    lines = []
    if table.cut:
        lines.append(
            f"left out: later evaluations of {', '.join(table.cut)}; at {table.steps[-1]:,.0f} steps their runs were "
            "not over"
        )
    if min(counts) < 2:
        lines.append("a stratum with a single seed has no bootstrap interval")
    fewest = min((count for count in counts if count > 1), default=None)
    if fewest is not None:
        # With fewer seeds than were measured, the fewest measured: theirs flatters.
        known = max((n for n in MEASURED_COVERAGE if n <= fewest), default=min(MEASURED_COVERAGE))
        covered = MEASURED_COVERAGE[known][config.method]
        sure = (
            f"with {known} seeds in one environment 95% {METHOD_NAMES[config.method]} intervals held the population's "
            f"IQM in {_range(covered.iqm)} and the probability of improvement in {_range(covered.improvement)} of "
            "simulated experiments"
        )
        few = "too few for the intervals to mean what they say; " if fewest < ENOUGH_SEEDS else ""
        lines.append(
            f"{fewest} seeds have {distinct_resamples(fewest):,} different resamples: {few}measured coverage: {sure} "
            "(python -m analysis.interval_coverage)"
        )
    if min(counts) < 4 and len(table.environments) == 1:
        lines.append("of fewer than 4 runs none is trimmed: their IQM is their mean")
    apart = [
        each.name
        for each in summaries
        if each.improvement is not None and each.improvement.lower == each.improvement.upper
    ]
    tied = [name for name in apart if config.baseline is not None and _tie(table, name, config.baseline)]
    for names, meaning in (
        ([name for name in apart if name not in tied], "no runs overlap, not that none ever would"),
        (tied, "all these runs tie, not that all would"),
    ):
        if names:
            lines.append(f"an interval of a single point ({', '.join(names)}) means that {meaning}")
    return lines


def _finite(value: Any) -> Any:
    """For JSON: NaN and infinity, "there is none", as null."""
    if isinstance(value, np.ndarray):
        return [_finite(each) for each in value.tolist()]
    return float(value) if math.isfinite(value) else None


def _ends(interval: BootstrapInterval) -> dict[str, Any]:
    return {name: _finite(getattr(interval, name)) for name in ("estimate", "lower", "upper")}


def as_record(table: Table, config: StatisticsConfig, summaries: Sequence[VariantSummary]) -> dict[str, Any]:
    """The ``--json`` object. A step that is null was not reached; an end that is null does not exist."""
    variants = {}
    for each in summaries:
        variants[each.name] = entry = {
            "seeds": {
                name: list(seeds) for name, seeds in zip(table.environments, table.seeds[each.name], strict=True)
            },
            "final_returns": {
                name: values.tolist() for name, values in zip(table.environments, each.finals, strict=True)
            },
            "mean": float(each.runs.mean()),
            "iqm": {name: None if values is None else values[-1] for name, values in _ends(each.iqm).items()},
            "median": float(np.median(each.runs)),
            "worst": float(each.runs.min()),
            "iqm_curve": _ends(each.iqm),
        }
        if config.baseline is not None:
            entry["probability_of_improvement"] = None if each.improvement is None else _ends(each.improvement)
        if each.reaching is not None:
            entry["steps_to_threshold"] = {
                "runs": _finite(each.reaching),
                "reached": int(np.isfinite(each.reaching).sum()),
                "median": _finite(np.median(each.reaching)),
            }
    return {
        "step": int(table.steps[-1]),
        "steps": table.steps.astype(int).tolist(),
        "environments": list(table.environments),
        "normalised": bool(config.anchors),
        "baseline": config.baseline,
        "threshold": config.threshold,
        "confidence": config.confidence,
        "method": config.method,
        "resamples": config.resamples,
        "variants": variants,
        "notes": notes(table, config, summaries),
    }
