"""How often bootstrap intervals over few seeds hold the truth."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import tyro
from numpy.typing import NDArray
from scipy import optimize, special
from tqdm import tqdm

from analysis.runs.over_seeds import student_interval
from analysis.statistics.aggregates import pooled_interquartile_mean
from analysis.statistics.bootstrap import (
    BootstrapInterval,
    Method,
    bootstrap_interval,
    check_resamples,
    probability_of_improvement_interval,
)
from m3po.flag_checks import Confidence, Items, Members, Seed, Steps, Within, check_fields

Array = NDArray[np.float64]

METHODS: tuple[Method, ...] = ("percentile", "bca")

# Trials that share their resamples' row numbers; the samples themselves are always fresh.
BATCH = 100


@dataclass(frozen=True)
class Mixture:
    """Returns drawn from normal distributions with these weights, means and standard deviations."""

    weights: tuple[float, ...]
    means: tuple[float, ...]
    deviations: tuple[float, ...]

    def draw(self, shape: tuple[int, ...], generator: np.random.Generator) -> Array:
        """Independent draws."""
        which = generator.choice(len(self.weights), p=self.weights, size=shape)
        return np.array(self.means)[which] + np.array(self.deviations)[which] * generator.standard_normal(shape)

    def quantile(self, level: float) -> float:
        """The root x of sum_i w_i Phi((x - m_i)/s_i) = level."""
        weights, means, deviations = (np.array(each) for each in (self.weights, self.means, self.deviations))
        low, high = (means - 9 * deviations).min(), (means + 9 * deviations).max()
        return float(optimize.brentq(lambda x: weights @ special.ndtr((x - means) / deviations) - level, low, high))

    @property
    def mean(self) -> float:
        return float(np.dot(self.weights, self.means))

    @property
    def interquartile_mean(self) -> float:
        """2 sum_i w_i { m_i (Phi(b_i) - Phi(a_i)) - s_i (phi(b_i) - phi(a_i)) }, a_i, b_i = (quartiles - m_i)/s_i."""
        ends = self.quantile(0.25), self.quantile(0.75)
        total = 0.0
        for weight, mean, deviation in zip(self.weights, self.means, self.deviations, strict=True):
            a, b = ((end - mean) / deviation for end in ends)
            density = (math.exp(-b * b / 2) - math.exp(-a * a / 2)) / math.sqrt(2 * math.pi)
            total += weight * (mean * float(special.ndtr(b) - special.ndtr(a)) - deviation * density)
        return 2 * total

    def shifted(self, by: float) -> Mixture:
        return Mixture(self.weights, tuple(mean + by for mean in self.means), self.deviations)


def pooled(populations: Sequence[Mixture]) -> Mixture:
    """An equal number of runs of each."""
    return Mixture(
        tuple(weight / len(populations) for each in populations for weight in each.weights),
        tuple(mean for each in populations for mean in each.means),
        tuple(deviation for each in populations for deviation in each.deviations),
    )


POPULATIONS = {
    "normal": Mixture((1.0,), (75.0,), (2.0,)),
    "one in five fails": Mixture((0.8, 0.2), (75.0, 55.0), (2.0, 6.0)),
    "two groups": Mixture((0.5, 0.5), (60.0, 76.0), (2.0, 2.0)),
}

# Environments differ in level: how far the means of neighbouring environments are apart.
SPREAD = 4.0

PROBABILITIES = (0.5, 0.9)


@dataclass(frozen=True)
class IntervalCoverageConfig:
    """Measure the coverage of percentile and BCa intervals over seeds by simulation, with Student's for the mean
    beside them."""

    seeds: Annotated[tuple[Annotated[int, Within(2, 10**4)], ...], Items()] = (3, 5, 10, 20)
    """Numbers of runs per environment and variant."""
    environments: Annotated[tuple[Members, ...], Items()] = (1,)
    """Numbers of environments."""
    trials: Steps = 2000
    """Simulated experiments per line; the coverage's standard error is at most 0.5/sqrt(trials)."""
    resamples: Annotated[int, Within(1, 10**5)] = 500
    """Bootstrap resamples per interval."""
    confidence: Confidence = 0.95
    """What the intervals ask for."""
    seed: Seed = 0
    """Seed of the whole simulation."""
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False
    """Print JSON instead of a table."""

    def __post_init__(self) -> None:
        check_fields(self)
        check_resamples(self.resamples, self.confidence, "--")


@dataclass(frozen=True)
class CoverageRow:
    """One simulated experiment: the shares of trials whose interval held the truth. ``student`` is for the mean."""

    quantity: str
    population: str
    environments: int
    seeds: int
    truth: float
    percentile: float
    bca: float
    student: float | None


def held(interval: BootstrapInterval, truth: float) -> Array:
    """1 where lower <= truth <= upper. Ends equal to the truth up to rounding hold it."""
    slack = 1e-9 * max(1.0, abs(truth))
    return np.asarray((interval.lower <= truth + slack) & (interval.upper >= truth - slack), dtype=np.float64)


def _shares(
    trials: int, generator: np.random.Generator, one_batch: Callable[[int, Method, np.random.Generator], Array]
) -> tuple[float, float]:
    """The coverage of both methods; each batch gives both the same samples and resamples."""
    counts = dict.fromkeys(METHODS, 0.0)
    for start in range(0, trials, BATCH):
        size, seed = min(BATCH, trials - start), int(generator.integers(2**63))
        for method in METHODS:
            counts[method] += one_batch(size, method, np.random.default_rng(seed)).sum()
    return counts["percentile"] / trials, counts["bca"] / trials


def interquartile_mean_row(
    name: str, environments: int, seeds: int, config: IntervalCoverageConfig, generator: np.random.Generator
) -> CoverageRow:
    """The pooled interquartile mean of ``environments`` copies of a population at different levels."""
    each = [POPULATIONS[name].shifted(SPREAD * place) for place in range(environments)]
    whole = pooled(each)
    truth = whole.interquartile_mean

    def one_batch(size: int, method: Method, source: np.random.Generator) -> Array:
        strata = [population.draw((seeds, size), source) for population in each]
        interval = bootstrap_interval(
            pooled_interquartile_mean, strata, generator=source, confidence=config.confidence,
            resamples=config.resamples, method=method,
        )  # fmt: skip
        return held(interval, truth)

    percentile, bca = _shares(config.trials, generator, one_batch)
    student = None
    if environments == 1:
        samples = each[0].draw((config.trials, seeds), generator)
        _, lower, upper = student_interval(samples.T, config.confidence)
        student = float(np.mean((lower <= whole.mean) & (whole.mean <= upper)))
    return CoverageRow("IQM", name, environments, seeds, truth, percentile, bca, student)


def probability_row(
    truth: float, environments: int, seeds: int, config: IntervalCoverageConfig, generator: np.random.Generator
) -> CoverageRow:
    """Two normal variants of equal deviation, the first ahead by sqrt(2) Phi^-1(truth) deviations."""
    ahead = math.sqrt(2) * float(special.ndtri(truth))

    def one_batch(size: int, method: Method, source: np.random.Generator) -> Array:
        first = [ahead + source.standard_normal((seeds, size)) for _ in range(environments)]
        second = [source.standard_normal((seeds, size)) for _ in range(environments)]
        interval = probability_of_improvement_interval(
            first, second, generator=source, confidence=config.confidence, resamples=config.resamples, method=method
        )
        return held(interval, truth)

    percentile, bca = _shares(config.trials, generator, one_batch)
    return CoverageRow(f"P = {truth:g}", "normal", environments, seeds, truth, percentile, bca, None)


def measure(config: IntervalCoverageConfig) -> list[CoverageRow]:
    """Every quantity at every number of environments and seeds."""
    generator = np.random.default_rng(config.seed)
    cases = [(environments, seeds) for environments in config.environments for seeds in config.seeds]
    rows = []
    with tqdm(total=len(cases) * (len(POPULATIONS) + len(PROBABILITIES)), file=sys.stderr, leave=False) as bar:
        for case in cases:
            for name in POPULATIONS:
                rows.append(interquartile_mean_row(name, *case, config, generator))
                bar.update()
            for truth in PROBABILITIES:
                rows.append(probability_row(truth, *case, config, generator))
                bar.update()
    return rows
