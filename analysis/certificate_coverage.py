"""``python -m analysis.certificate_coverage``: how often intervals and certificates hold, where the truth is known.

Data sets are simulated from finite processes. Every interval of ``bounds.confidence`` is held against the exact mean,
and every certificate of ``analysis.certify`` against the exact return. A certificate that leaves its errors out is
planted, and has to fail.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import tyro
from numpy.typing import NDArray
from tqdm import tqdm

from analysis.certify import Evidence, Samples, certify, summed_discrepancies
from analysis.outputs import Output, check_figure, mark_of
from bounds import certificate
from bounds.confidence import Interval, Method, Sides, betting, clopper_pearson, empirical_bernstein, hoeffding
from bounds.confidence import simultaneous as all_at_once
from bounds.finite import FiniteProcess, true_return
from bounds.finite.instance import Instance
from bounds.finite.process import state_laws
from bounds.finite.random_instances import disturbed, random_distributions
from m3po.command_line import json_of, run
from m3po.flag_checks import Confidence, EpisodeCount, Items, Seed, Steps, check_fields
from m3po.run_directory import commit_of, provenance

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = NDArray[np.float64]
DISCOUNT = 0.9
TIMES = 12
REWARD_LOW, REWARD_HIGH = -0.5, 1.0
REWARD_SPAN = REWARD_HIGH - REWARD_LOW
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
    """Data sets per case of the certificate (of which there are four, and a planted one), >= 1."""
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


# Processes with known truth


def random_instance(seed: int, *, model_error: float, policy_change: float) -> Instance:
    """Four states, two actions, TIMES reward times, and the reward that is the hardest for branches of one step."""
    rng = np.random.default_rng(seed)
    transition = random_distributions(rng, (TIMES - 1, 4, 2, 4))
    data_policy = random_distributions(rng, (TIMES, 4, 2))
    process = FiniteProcess(
        random_distributions(rng, (4,)), transition, np.zeros((TIMES, 4, 2)), REWARD_LOW, REWARD_HIGH
    )
    policy = disturbed(rng, data_policy, policy_change) if policy_change > 0 else data_policy
    model = disturbed(rng, transition, model_error)
    return Instance(process, model, data_policy, policy).with_hardest_reward("averaged", 1)


def tight_instance(model_error: float) -> Instance:
    """Own data, one action: the gap for k = 1 is R sum_{t>=1} gamma^t ``model_error``, all that Theorem 4 subtracts.

    State 0 pays the least, 1 and 2 the most. The truth goes to 0 or 1 and never to 2; the model sends ``model_error``
    of what goes to 0 to 2 instead.
    """
    transition = np.tile([0.6, 0.4, 0.0], (TIMES - 1, 3, 1, 1))
    model = np.tile([0.6 - model_error, 0.4, model_error], (TIMES - 1, 3, 1, 1))
    reward = np.tile(np.array([REWARD_LOW, REWARD_HIGH, REWARD_HIGH])[:, None], (TIMES, 1, 1))
    policy = np.ones((TIMES, 3, 1))
    process = FiniteProcess(np.array([0.5, 0.5, 0.0]), transition, reward, REWARD_LOW, REWARD_HIGH)
    return Instance(process, model, policy, policy)


def draw(rng: np.random.Generator, law: Array) -> NDArray[np.int64]:
    """One index per row of ``law`` [N, K]."""
    return np.asarray((law.cumsum(axis=1) < rng.uniform(size=(len(law), 1))).sum(axis=1).clip(max=law.shape[1] - 1))


@dataclass(frozen=True, eq=False)
class Episodes:
    """Real episodes: states and actions [N, TIMES], and the log densities along them (0 after the last transition)."""

    states: NDArray[np.int64]
    actions: NDArray[np.int64]
    log_density: Array
    log_model_density: Array
    log_data_policy: Array
    log_policy: Array


def simulate(instance: Instance, policy: Array, episodes: int, rng: np.random.Generator) -> Episodes:
    """Episodes of ``policy`` in the true process."""
    process: Any = instance.process
    behaviour, certified, model = (np.asarray(each) for each in (policy, instance.policy, instance.model))
    states, actions = np.zeros((episodes, TIMES), dtype=np.int64), np.zeros((episodes, TIMES), dtype=np.int64)
    log_p, log_q, log_d, log_pi = (np.zeros((episodes, TIMES)) for _ in range(4))
    states[:, 0] = draw(rng, np.tile(process.initial, (episodes, 1)))
    with np.errstate(divide="ignore"):
        for t in range(TIMES):
            actions[:, t] = draw(rng, behaviour[t, states[:, t]])
            here = (t, states[:, t], actions[:, t])
            log_d[:, t], log_pi[:, t] = np.log(behaviour[here]), np.log(certified[here])
            if t < TIMES - 1:
                states[:, t + 1] = draw(rng, process.transition[here])
                log_p[:, t] = np.log(process.transition[(*here, states[:, t + 1])])
                log_q[:, t] = np.log(model[(*here, states[:, t + 1])])
    return Episodes(states, actions, log_p, log_q, log_d, log_pi)


def model_returns(instance: Instance, real: Episodes, rollout_length: int | None, rng: np.random.Generator) -> Array:
    """One unbiased sample of the model return per real episode: at every t the number of model steps is drawn."""
    process: Any = instance.process
    policy, model = np.asarray(instance.policy), np.asarray(instance.model)
    count = len(real.states)
    returns = np.zeros(count)
    if rollout_length is None:  # one rollout from the real start
        current = real.states[:, 0]
        for t in range(TIMES):
            action = draw(rng, policy[t, current])
            returns += DISCOUNT**t * process.reward[t, current, action]
            if t < TIMES - 1:
                current = draw(rng, model[t, current, action])
        return returns
    for t in range(TIMES):
        limit = min(t, rollout_length)
        steps = rng.integers(1, limit + 1, count) if limit else np.zeros(count, dtype=np.int64)
        current = real.states[np.arange(count), t - steps]
        for back in range(limit, 0, -1):
            action = draw(rng, policy[t - back, current])
            current = np.where(steps >= back, draw(rng, model[t - back, current, action]), current)
        action = draw(rng, policy[t, current])
        returns += DISCOUNT**t * process.reward[t, current, action]
    return returns


def evidence_of(
    instance: Instance, episodes: int, rollout_length: int | None, own_data: bool, rng: np.random.Generator
) -> Evidence:
    """What a user would collect; ``own_data``: no policy densities, since the data policy is the policy."""
    real = simulate(instance, np.asarray(instance.policy if own_data else instance.data_policy), episodes, rng)
    return Evidence(
        log_density=real.log_density, log_model_density=real.log_model_density,
        model_returns=model_returns(instance, real, rollout_length, rng), reward_low=REWARD_LOW,
        reward_high=REWARD_HIGH, discount=DISCOUNT, rollout_length=rollout_length,
        log_data_policy=None if own_data else real.log_data_policy, log_policy=None if own_data else real.log_policy,
        absorbing=True,
    )  # fmt: skip


# (i) Intervals


@dataclass(frozen=True, eq=False)
class Population:
    """Samples with a known range and a known mean.

    Attributes:
        name: for tables.
        low, high: the range.
        mean: exact; a scalar, or [T] for a profile over time.
        sample: (n, generator) -> [n] or [n, T], iid rows.
    """

    name: str
    low: float
    high: float
    mean: Array
    sample: Callable[[int, np.random.Generator], Array]

    @property
    def binary(self) -> bool:
        return self.name.startswith("Bernoulli")


def populations() -> tuple[Population, ...]:
    """What is averaged in this project, on a process with known truth: errors near 0 and not, events, returns, sums."""
    near, far = (random_instance(3, model_error=each, policy_change=0.05) for each in (0.02, 0.6))
    time = TIMES // 2

    def errors(instance: Instance) -> Callable[[int, np.random.Generator], Array]:
        def sample(n: int, rng: np.random.Generator) -> Array:
            return _samples(instance, n, rng)[0].model_error[:, time]

        return sample

    def divergence(n: int, rng: np.random.Generator) -> Array:
        return _samples(near, n, rng)[0].policy_divergence[:, time]

    def visited(when: int, state: int) -> Callable[[int, np.random.Generator], Array]:
        def sample(n: int, rng: np.random.Generator) -> Array:
            return (simulate(near, np.asarray(near.policy), n, rng).states[:, when] == state).astype(np.float64)

        return sample

    def returns(n: int, rng: np.random.Generator) -> Array:
        real = simulate(near, np.asarray(near.policy), n, rng)
        process: Any = near.process
        paid = process.reward[np.arange(TIMES), real.states, real.actions]
        return np.asarray(paid @ DISCOUNT ** np.arange(TIMES))

    def sums(n: int, rng: np.random.Generator) -> Array:
        return _samples(far, n, rng)[1]

    laws = np.array(state_laws(near.process, near.policy))
    events = [np.unravel_index(np.argmin(np.abs(laws - chance)), laws.shape) for chance in (0.05, 0.4)]
    profiles = [each.profiles() for each in (near, far)]
    weight = float((DISCOUNT ** np.arange(TIMES)).sum())
    evidence = evidence_of(far, 2, 1, True, np.random.default_rng(0))
    _, largest = summed_discrepancies(evidence, Samples.of(evidence))
    exact = far.current_policy_profiles()
    summed = certificate(
        exact.model_error, np.zeros(TIMES), discount=DISCOUNT, reward_range=REWARD_SPAN, rollout_length=1,
        tail="absorbing",
    ).value  # fmt: skip
    return (
        Population("error samples near 0", 0.0, 1.0, profiles[0].model_error[time], errors(near)),
        Population("error samples, large", 0.0, 1.0, profiles[1].model_error[time], errors(far)),
        Population("policy divergence", 0.0, 1.0, profiles[0].policy_divergence[time], divergence),
        *(
            Population(f"Bernoulli {laws[at]:.2f}", 0.0, 1.0, laws[at], visited(int(at[0]), int(at[1])))
            for at in events
        ),
        Population(
            "returns", REWARD_LOW * weight, REWARD_HIGH * weight,
            np.asarray(true_return(near.process, near.policy, DISCOUNT)), returns,
        ),
        Population("weighted sums of errors", 0.0, largest, np.asarray(summed), sums),
    )  # fmt: skip


def _samples(instance: Instance, n: int, rng: np.random.Generator) -> tuple[Samples, Array]:
    """Per-step samples of the data policy's episodes, and the weighted sums of the policy's own episodes."""
    other = evidence_of(instance, n, 1, False, rng)
    own = evidence_of(instance, n, 1, True, rng)
    return Samples.of(other), summed_discrepancies(own, Samples.of(own))[0]


def profile_populations() -> tuple[Population, ...]:
    """Error profiles over time, whose entries depend on each other."""
    made = []
    for name, model_error in (("error profile near 0", 0.02), ("error profile, large", 0.6)):
        instance = random_instance(3, model_error=model_error, policy_change=0.05)

        def sample(n: int, rng: np.random.Generator, instance: Instance = instance) -> Array:
            real = simulate(instance, np.asarray(instance.data_policy), n, rng)
            unit = np.where(np.isfinite(real.log_model_density), real.log_model_density - real.log_density, -np.inf)
            return np.asarray(-np.expm1(np.minimum(unit[:, :-1], 0.0)))

        made.append(Population(name, 0.0, 1.0, np.asarray(instance.profiles().model_error), sample))
    return tuple(made)


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


def cases() -> tuple[Case, ...]:
    """From the sharpest that Theorem 4 allows to the loosest; the planted one is blind to the model's error."""
    easy = tuple(random_instance(seed, model_error=0.1, policy_change=0.02) for seed in range(5))
    tight = (tight_instance(0.1),)
    return (
        Case("theorem attained, own data, k = 1", tight, 1, True),
        Case("random, own data, k = 1", easy, 1, True),
        Case("random, own data, full rollouts", easy, None, True),
        Case("random, other data, k = 1", easy, 1, False),
        Case(PLANTED, tight, 1, True, blind=True),
    )


@dataclass(frozen=True)
class CertificateRow:
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


def certificate_rows(config: CertificateCoverageConfig, progress: Callable[[], object]) -> list[CertificateRow]:
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
            evidence = evidence_of(case.instances[which], config.episodes, case.rollout_length, case.own_data, rng)
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
            CertificateRow(
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
    certificates: list[CertificateRow]

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


def text(coverage: Coverage, config: CertificateCoverageConfig) -> str:
    """Three tables: coverage, widths, certificates."""
    error = np.sqrt(config.confidence * (1 - config.confidence) / config.data_sets)
    lines = [
        f"{config.data_sets:,} data sets each, level {config.confidence} (standard error of a coverage {error:.4f})",
        "",
        "smallest coverage over populations and sizes",
    ]
    single = [row for row in coverage.intervals if row.times == 1]
    joint = [row for row in coverage.intervals if row.times > 1]
    heads = ("two-sided", "upper", "lower", "all times, two", "all times, upper")
    sizes = (11, 9, 9, 16, 18)
    lines.append(f"  {'method':<21}" + "".join(f"{head:>{size}}" for head, size in zip(heads, sizes, strict=True)))
    for name in METHODS:
        cells = [_smallest(single, name, sides) for sides in SIDES]
        cells += [_smallest(joint, name, sides) for sides in JOINT_SIDES]
        lines.append(f"  {name:<21}" + "".join(f"{cell:>{size}}" for cell, size in zip(cells, sizes, strict=True)))
    lines += ["", "mean width of two-sided intervals, in shares of the range (* : narrower than the one before it)"]
    lines.append(f"  {'population':<25}{'n':>6}" + "".join(f"{name:>21}" for name in METHODS))
    for population, size, times in _keys(coverage.intervals):
        here = {
            row.method: row.width
            for row in coverage.intervals
            if (row.population, row.size, row.times, row.sides) == (population, size, times, "two")
        }
        label = population if times == 1 else f"{population} ({times})"
        lines.append(f"  {label:<25}{size:>6}" + "".join(f"{_width(here, name):>21}" for name in METHODS))
    lines += [
        "",
        f"certificates, {config.certificates:,} data sets of {config.episodes} episodes each; in shares of the range",
    ]
    lines.append(f"  {'case':<37}{'holds':>8}{'informative':>13}{'width':>8}{'slack':>8}{'discrepancy':>13}")
    for row in coverage.certificates:
        lines.append(
            f"  {row.case:<37}{row.holds:>8.3f}{row.informative:>13.3f}{row.width:>8.3f}{row.slack:>8.3f}"
            f"{row.discrepancy:>13.3f}"
        )
    return "\n".join(lines)


def _smallest(rows: Sequence[IntervalRow], method: str, sides: str) -> str:
    found = [row.coverage for row in rows if (row.method, row.sides) == (method, sides)]
    return f"{min(found):.3f}" if found else ""


def _keys(rows: Sequence[IntervalRow]) -> list[tuple[str, int, int]]:
    """Populations, sizes and times, in order of appearance."""
    return list(dict.fromkeys((row.population, row.size, row.times) for row in rows))


def _width(widths: dict[str, float], name: str) -> str:
    if name not in widths:
        return ""
    names = list(METHODS)
    before = widths.get(names[names.index(name) - 1]) if names.index(name) else None
    return f"{widths[name]:.4f}" + ("*" if before is not None and widths[name] < before else " ")


def draw_figure(coverage: Coverage) -> Figure:
    """Mean widths against the number of episodes: one panel per population, one line per method."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    colours = {
        "Hoeffding": "#8a8a8a", "empirical Bernstein": "#e69f00", "betting": "#0072b2", "Clopper-Pearson": "#d55e00",
    }  # fmt: skip
    names = list(dict.fromkeys(row.population for row in coverage.intervals if row.times == 1))
    columns = (len(names) + 1) // 2
    figure = Figure(figsize=(2.3 * columns, 4.6), layout="constrained")
    axes = figure.subplots(2, columns, sharex=True, sharey=True)
    for panel, name in zip(axes.flat, names, strict=False):
        for method, colour in colours.items():
            rows = [
                row
                for row in coverage.intervals
                if (row.population, row.method, row.sides, row.times) == (name, method, "two", 1)
            ]
            if rows:
                panel.loglog([row.size for row in rows], [row.width for row in rows], "o-", ms=3, color=colour)
        panel.set_title(name, loc="left")
    for panel in axes.flat[len(names) :]:
        panel.set_axis_off()
    handles = [Line2D([], [], color=colour, marker="o", ms=3, label=method) for method, colour in colours.items()]
    axes.flat[-1].legend(handles=handles, loc="center")
    figure.supxlabel("episodes", fontsize=9)
    figure.supylabel("mean width of 95% intervals, shares of the range", fontsize=9)
    return figure


def main(config: CertificateCoverageConfig) -> int:
    output = None
    if config.figure is not None:
        output = Output("figure", config.figure, mark_of("analysis.certificate_coverage"), config.overwrite).check()
    coverage = measure(config)
    print(json_of(record_of(coverage, config)) if config.as_json else text(coverage, config))
    if output is not None:
        from analysis.figure_style import figure_style

        with figure_style():
            output.write_figure(draw_figure(coverage))
        print(f"figure: {output.path}", file=sys.stderr)
    return 0 if coverage.sound else 1


def cli(arguments: Sequence[str] | None = None) -> None:
    run(main, CertificateCoverageConfig, arguments, prog="python -m analysis.certificate_coverage")


if __name__ == "__main__":
    cli()
