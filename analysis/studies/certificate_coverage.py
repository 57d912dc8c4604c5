"""How often intervals and certificates hold, where the truth is known."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import tyro
from numpy.typing import NDArray
from tqdm import tqdm

from analysis.flags.figure_files import check_figure
from analysis.guarantee.certification import certify
from analysis.studies.known_processes import (
    DISCOUNT,
    REWARD_SPAN,
    TIMES,
    Array,
    evidence_of,
    random_instance,
    tight_instance,
)
from analysis.studies.populations import populations, profile_populations
from bounds import certificate
from bounds.confidence import Interval, Method, Sides, betting, clopper_pearson, empirical_bernstein, hoeffding
from bounds.confidence import simultaneous as all_at_once
from bounds.finite import true_return
from bounds.finite.instance import Instance
from m3po.flag_checks import Confidence, EpisodeCount, Items, Seed, Steps, check_fields
from m3po.runs.provenance import commit_of, provenance

if TYPE_CHECKING:
    from matplotlib.figure import Figure

METHODS: dict[str, Method] = {
    "Hoeffding": hoeffding, "empirical Bernstein": empirical_bernstein, "betting": partial(betting, order=None),
    "Clopper-Pearson": clopper_pearson,
}  # fmt: skip

SIDES: tuple[Sides, ...] = ("two", "upper", "lower")

JOINT_SIDES: tuple[Sides, ...] = ("two", "upper")

# What is asked of the shares of data sets: intervals miss by at most the chance that 1,000 data sets leave.
LEAST_INTERVALS, LEAST_CERTIFICATES = 0.94, 0.95

PLANTED = "errors left out (planted)"


@dataclass(frozen=True)
class CertificateCoverageConfig:
    """Simulate data sets from finite processes with known truth, and count how often each interval and each certificate
    holds. Exit code 1 when one holds too rarely, or when the planted fault is not found."""

    data_sets: Steps = 1000
    """Data sets per interval method, population and sample size, >= 1."""
    certificates: Steps = 250
    """Data sets per case of the certificate (of which there are six, and a planted one), >= 1."""
    sizes: Annotated[tuple[EpisodeCount, ...], Items()] = (30, 100, 300, 1000)
    """Sample sizes (episodes) of the single intervals, >= 2."""
    joint_sizes: Annotated[tuple[EpisodeCount, ...], Items()] = (30, 100)
    """Sample sizes of the intervals that hold at all times at once, >= 2."""
    episodes: EpisodeCount = 300
    """Episodes per certificate, >= 2."""
    confidence: Confidence = 0.95
    """In (0, 1)."""
    seed: Seed = 0
    """Seed of everything."""
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False
    """Print JSON instead of tables."""
    figure: Path | None = None
    """Where to draw widths and coverage (.png, .pdf, .svg); nowhere when not given."""
    overwrite: bool = False
    """Replace the file of --figure even if this command did not write it; one that it wrote is replaced anyway."""

    def __post_init__(self) -> None:
        check_fields(self)
        check_figure("figure", self.figure)


@dataclass(frozen=True)
class IntervalRow:
    """One method on one population at one sample size.

    Attributes:
        population, method, sides, size: what was computed.
        times: 1, or the number of entries that have to be covered together.
        coverage: share of data sets whose interval (all entries) holds the mean.
        width: mean over data sets of upper - lower; for one side, of the distance from the bound to the mean. In shares
            of the range.
    """

    population: str
    method: str
    sides: str
    size: int
    times: int
    coverage: float
    width: float


def held(interval: Interval, mean: Array, span: float) -> NDArray[np.bool_]:
    """Where lower <= mean <= upper, up to rounding of the exact mean."""
    slack = 1e-12 * span
    return np.asarray((interval.lower <= mean + slack) & (interval.upper >= mean - slack))


def width_of(interval: Interval, mean: Array, sides: Sides, span: float) -> float:
    """Mean width in shares of the range."""
    if sides == "two":
        return float(np.mean(interval.upper - interval.lower)) / span
    return float(np.mean(interval.upper - mean if sides == "upper" else mean - interval.lower)) / span


def interval_rows(config: CertificateCoverageConfig, progress: Callable[[], object]) -> list[IntervalRow]:
    """Single intervals: every population, size, method and side; the methods share the data sets."""
    rows = []
    for number, population in enumerate(populations()):
        span = population.high - population.low
        for size in config.sizes:
            rng = np.random.default_rng([config.seed, 1, number, size])
            data = population.sample(size * config.data_sets, rng).reshape(size, config.data_sets)
            for name, method in METHODS.items():
                if method is clopper_pearson and not population.binary:
                    continue
                for sides in SIDES:
                    interval = method(data, config.confidence, sides=sides, low=population.low, high=population.high)
                    coverage = float(held(interval, population.mean, span).mean())
                    width = width_of(interval, population.mean, sides, span)
                    rows.append(IntervalRow(population.name, name, sides, size, 1, coverage, width))
            progress()
    return rows


def joint_rows(config: CertificateCoverageConfig, progress: Callable[[], object]) -> list[IntervalRow]:
    """``simultaneous`` intervals of profiles: a data set counts as covered when every time is."""
    rows = []
    for number, population in enumerate(profile_populations()):
        for size in config.joint_sizes:
            rng = np.random.default_rng([config.seed, 2, number, size])
            sets = [population.sample(size, rng) for _ in range(config.data_sets)]
            for name, method in METHODS.items():
                if method is clopper_pearson:
                    continue
                for sides in JOINT_SIDES:
                    found = [all_at_once(method, data, config.confidence, sides) for data in sets]
                    coverage = float(np.mean([held(each, population.mean, 1.0).all() for each in found]))
                    width = float(np.mean([width_of(each, population.mean, sides, 1.0) for each in found]))
                    rows.append(IntervalRow(population.name, name, sides, size, len(population.mean), coverage, width))
            progress()
    return rows


# (ii) Certificates


@dataclass(frozen=True, eq=False)
class Case:
    """A kind of certificate: on these instances in turn, with this rollout length, from own or other data."""

    name: str
    instances: tuple[Instance, ...]
    rollout_length: int | None
    own_data: bool
    blind: bool = False
    rewards: bool = False


def cases() -> tuple[Case, ...]:
    """From the sharpest that Theorem 4 allows to the loosest, and from rewards; the planted one is blind to the model's
    error."""
    easy = tuple(random_instance(seed, model_error=0.1, policy_change=0.02) for seed in range(5))
    tight = (tight_instance(0.1),)
    return (
        Case("theorem attained, own data, k = 1", tight, 1, True),
        Case("random, own data, k = 1", easy, 1, True),
        Case("random, own data, full rollouts", easy, None, True),
        Case("random, other data, k = 1", easy, 1, False),
        Case("random, own data, with rewards", easy, 1, True, rewards=True),
        Case("random, other data, with rewards", easy, 1, False, rewards=True),
        Case(PLANTED, tight, 1, True, blind=True),
    )


@dataclass(frozen=True)
class CoverageOfCertificates:
    """One case.

    Attributes:
        case, episodes, data_sets: what was done.
        holds: share of data sets whose lower bound is at most the true return.
        informative: share whose verdict is certified (a bound beyond the least possible return).
        width: mean of model return - lower bound, in shares of the range of returns: what confidence and errors cost.
        slack: mean of true return - lower bound, in the same shares: 0 would be a perfect bound.
        discrepancy: Theorem 4 at the exact errors, in the same shares: the part of the width that more data leaves.
    """

    case: str
    episodes: int
    data_sets: int
    holds: float
    informative: float
    width: float
    slack: float
    discrepancy: float


def certificate_rows(config: CertificateCoverageConfig, progress: Callable[[], object]) -> list[CoverageOfCertificates]:
    """Every case, with ``analysis.certify`` as a user would call it."""
    rows = []
    span = REWARD_SPAN * float((DISCOUNT ** np.arange(TIMES)).sum())
    for number, case in enumerate(cases()):
        rng = np.random.default_rng([config.seed, 3, number])
        truths = [true_return(each.process, each.policy, DISCOUNT) for each in case.instances]
        exact = [exact_discrepancy(each, case) for each in case.instances]
        bounds_found, promised, informative, expected, costs = [], [], [], [], []
        for data_set in range(config.certificates):
            which = data_set % len(case.instances)
            evidence = evidence_of(
                case.instances[which], config.episodes, case.rollout_length, case.own_data, rng, rewards=case.rewards
            )
            if case.blind:
                evidence = replace(evidence, log_model_density=evidence.log_density)
            report = certify(evidence, config.confidence)
            assert report.lower_bound is not None
            bounds_found.append(report.lower_bound)
            promised.append(report.model_return)
            informative.append(report.verdict == "certified")
            expected.append(truths[which])
            costs.append(exact[which])
            if data_set % 50 == 49:
                progress()
        lower, truth = np.array(bounds_found), np.array(expected)
        rows.append(
            CoverageOfCertificates(
                case.name, config.episodes, config.certificates, float(np.mean(lower <= truth)),
                float(np.mean(informative)), float(np.mean(np.array(promised) - lower)) / span,
                float(np.mean(truth - lower)) / span, float(np.mean(costs)) / span,
            )
        )  # fmt: skip
    return rows


def exact_discrepancy(instance: Instance, case: Case) -> float:
    """Theorem 4 at the exact error profiles of the data that the case uses."""
    profiles = instance.current_policy_profiles() if case.own_data else instance.profiles()
    return certificate(
        profiles.model_error, np.zeros(TIMES) if case.own_data else profiles.policy_divergence, discount=DISCOUNT,
        reward_range=REWARD_SPAN, rollout_length=case.rollout_length, tail="absorbing",
    ).value  # fmt: skip


# Reports


@dataclass(frozen=True)
class Coverage:
    """All rows."""

    intervals: list[IntervalRow]
    certificates: list[CoverageOfCertificates]

    @property
    def sound(self) -> bool:
        """Whether everything covers as it should and the planted fault does not."""
        certificates = {row.case: row.holds for row in self.certificates}
        planted = certificates.pop(PLANTED)
        return (
            all(row.coverage >= LEAST_INTERVALS for row in self.intervals)
            and all(share >= LEAST_CERTIFICATES for share in certificates.values())
            and planted < LEAST_CERTIFICATES
        )


def measure(config: CertificateCoverageConfig) -> Coverage:
    """Every interval and certificate."""
    steps = len(populations()) * len(config.sizes) + len(profile_populations()) * len(config.joint_sizes)
    steps += len(cases()) * (config.certificates // 50)
    with tqdm(total=steps, desc="simulating", file=sys.stderr, leave=False) as bar:
        intervals = interval_rows(config, bar.update) + joint_rows(config, bar.update)
        return Coverage(intervals, certificate_rows(config, bar.update))


def record_of(coverage: Coverage, config: CertificateCoverageConfig) -> dict[str, Any]:
    """JSON-ready, with the settings and the commit that it was made with."""
    settings = {name: value for name, value in asdict(config).items() if name not in ("as_json", "figure")}
    return {"commit": commit_of(provenance([])), "settings": settings, **asdict(coverage)}


def draw_figure(coverage: Coverage) -> Figure:
    """Mean widths against the number of episodes: one panel per population, one line per method."""
    from analysis.drawing.style import legend_of_all, page

    colours = {
        "Hoeffding": "#8a8a8a", "empirical Bernstein": "#e69f00", "betting": "#0072b2", "Clopper-Pearson": "#d55e00",
    }  # fmt: skip
    names = list(dict.fromkeys(row.population for row in coverage.intervals if row.times == 1))
    rows_of_panels = (len(names) + 1) // 2
    figure = page(2.0 * rows_of_panels)
    panels = list(figure.subplots(rows_of_panels, 2, sharex=True, sharey=True).flat)[: len(names)]
    for panel, name in zip(panels, names, strict=True):
        for method, colour in colours.items():
            rows = [
                row
                for row in coverage.intervals
                if (row.population, row.method, row.sides, row.times) == (name, method, "two", 1)
            ]
            if rows:
                sizes, widths = [row.size for row in rows], [row.width for row in rows]
                panel.loglog(sizes, widths, "o-", ms=3, color=colour, label=method)
        panel.set_title(name)
    legend_of_all(panels, columns=4)
    figure.supxlabel("episodes", fontsize=10)
    figure.supylabel("mean width of 95% intervals, shares of the range", fontsize=10)
    return figure
