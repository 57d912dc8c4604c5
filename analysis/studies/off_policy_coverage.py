"""How often lower bounds from another policy's data hold, and how wide they are."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any, TypeAlias

import numpy as np
import tyro
from numpy.typing import NDArray
from scipy import stats
from tqdm import tqdm

from bounds.confidence import betting, empirical_bernstein, hoeffding
from bounds.finite import FiniteProcess, Trajectories, enumerate_trajectories, true_return
from bounds.finite.instance import Instance
from bounds.finite.random_instances import disturbed, random_distributions
from bounds.finite.trajectory_checks import Critic, trajectory_control_variate, trajectory_weighted_returns
from bounds.nonnegative import nonnegative_lower
from bounds.overlap import FORMS, overlap_losses
from m3po.flag_checks import Confidence, EpisodeCount, Items, Seed, Steps, check_fields
from m3po.runs.provenance import commit_of, provenance

Array: TypeAlias = NDArray[np.float64]

DISCOUNT = 0.9

TIMES = 5

REWARD_LOW, REWARD_HIGH = -0.5, 1.0

SPAN = (REWARD_HIGH - REWARD_LOW) * float((DISCOUNT ** np.arange(TIMES)).sum())

STEPS_AWAY = {"near (TV .02 per step)": 0.02, "older (TV .1 per step)": 0.1, "old (TV .3 per step)": 0.3}

STACKED = "all three, oldest first"

PLANTED = "weights left out (planted)"

STUDENT = "Student (approximate)"

# Shares of data sets that may miss at level .95: what the chance of 1,000 data sets leaves.
LEAST = 0.94

# A bound over all n at once costs time that grows with n squared.
LARGEST_RUNNING = 100


@dataclass(frozen=True)
class OffPolicyCoverageConfig:
    """Draw data sets from finite processes with known truth, and count how often each lower bound from another policy's
    data holds. Exit code 1 when one holds too rarely, or when the planted fault is not found."""

    data_sets: Steps = 1000
    """Data sets per data policy, sample size and bound, >= 1."""
    sizes: Annotated[tuple[EpisodeCount, ...], Items()] = (30, 100, 1000)
    """Sample sizes (episodes), >= 2."""
    confidence: Confidence = 0.95
    """In (0, 1)."""
    seed: Seed = 0
    """Seed of everything."""
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False
    """Print JSON instead of tables."""

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, eq=False)
class Source:
    """One data policy: its trajectories, and what each of them is worth to the bounds; all [P]."""

    instance: Instance
    trajectories: Trajectories
    weighted: Array
    variate: Array
    unweighted: Array
    offset: float
    budget: float
    losses: dict[str, Array]


def source(policy_distance: float) -> Source:
    """Three states, two actions, TIMES reward times; the policy likes the first action, which pays less."""
    rng = np.random.default_rng(11)
    transition = random_distributions(rng, (TIMES - 1, 3, 2, 3))
    first = rng.uniform(0.75, 0.95, size=(TIMES, 3))
    policy = np.stack([first, 1 - first], axis=-1)
    data = np.stack([first - policy_distance, 1 - first + policy_distance], axis=-1)
    reward = rng.uniform(REWARD_LOW, 0.4, size=(TIMES, 3, 2)) + np.array([0.0, 0.6])
    process = FiniteProcess(np.array([0.5, 0.3, 0.2]), transition, reward, REWARD_LOW, REWARD_HIGH)
    model = disturbed(rng, transition, 0.1)
    instance = Instance(process, model, data, policy)
    trajectories = enumerate_trajectories(instance)
    critic = model_critic(instance, budget=1.0)
    weighted = trajectory_weighted_returns(instance, trajectories, DISCOUNT)
    variate = trajectory_control_variate(instance, trajectories, DISCOUNT, critic)
    logs = (
        trajectories.log_density, trajectories.log_model_density, trajectories.log_data_policy, trajectories.log_policy,
    )  # fmt: skip
    losses: dict[str, Array] = {
        form: overlap_losses(*logs, discount=DISCOUNT, rollout_length=2, form=form).values for form in FORMS
    }
    unweighted = (trajectories.rewards - REWARD_LOW) @ DISCOUNT ** np.arange(TIMES)
    return Source(
        instance, trajectories, weighted.values, variate.values, unweighted, weighted.offset, critic.budget, losses
    )


def model_critic(instance: Instance, *, budget: float) -> Critic:
    """The policy's expected reward above the least, to come, in the model: what a critic fitted on rollouts aims at."""
    process, policy, model = instance.process, np.asarray(instance.policy), np.asarray(instance.model)
    values: list[Array] = []
    following = np.zeros(3)
    for time in reversed(range(TIMES)):
        here = np.asarray(process.rewards[time]) - REWARD_LOW
        if time < TIMES - 1:
            here = here + DISCOUNT * model[time] @ following
        values.insert(0, here)
        following = (policy[time] * here).sum(axis=-1)
    largest = (REWARD_HIGH - REWARD_LOW) * np.cumsum(DISCOUNT ** np.arange(TIMES))[::-1]
    return Critic(tuple(values), largest, 2.0, budget)


@dataclass(frozen=True)
class LowerBoundRow:
    """One bound at one sample size.

    Attributes:
        data: which data policy.
        size: episodes.
        bound: its name.
        holds: share of data sets in which it holds.
        width: mean over data sets of true value - lower bound (of a certificate: upper bound - discrepancy), in shares
            of the range of returns.
    """

    data: str
    size: int
    bound: str
    holds: float
    width: float


def student(samples: Array, confidence: float) -> Array:
    """mean - t s/sqrt(n): right only in the limit."""
    n = len(samples)
    return np.asarray(samples.mean(axis=0) - stats.t.ppf(confidence, n - 1) * samples.std(axis=0, ddof=1) / np.sqrt(n))


def return_rows(
    data: str, sources: Sequence[Source], size: int, config: OffPolicyCoverageConfig, rng: np.random.Generator
) -> list[LowerBoundRow]:
    """Every lower bound of the true return, on the same data sets; several data policies are stacked in order."""
    parts = np.array_split(np.arange(size), len(sources))
    drawn = [
        rng.choice(len(each.weighted), size=(len(part), config.data_sets), p=normalised(each.trajectories.probability))
        for each, part in zip(sources, parts, strict=True)
    ]

    def samples(values: Callable[[Source], Array]) -> Array:
        return np.concatenate([values(each)[index] for each, index in zip(sources, drawn, strict=True)])

    weighted, variate = samples(lambda each: each.weighted), samples(lambda each: each.variate)
    first = sources[0]
    truth = true_return(first.instance.process, first.instance.policy, DISCOUNT) - first.offset
    largest = max(float(each.weighted.max()) for each in sources)
    level = config.confidence
    found: dict[str, Array] = {
        "importance weights": nonnegative_lower(weighted, level),
        "control variate": nonnegative_lower(variate, level) - first.budget,
        "Hoeffding, told the largest": hoeffding(weighted, level, sides="lower", high=largest).lower,
        "empirical Bernstein, told it": empirical_bernstein(weighted, level, sides="lower", high=largest).lower,
        STUDENT: student(weighted, level),
        PLANTED: nonnegative_lower(samples(lambda each: each.unweighted), level),
    }
    if size <= LARGEST_RUNNING:
        found["importance weights, every n at once"] = nonnegative_lower(weighted, level, running=True)[-1]
    return [
        LowerBoundRow(data, size, name, float(np.mean(lower <= truth)), float(np.mean(truth - lower)) / SPAN)
        for name, lower in found.items()
    ]


def certificate_rows(
    data: str, each: Source, size: int, config: OffPolicyCoverageConfig, rng: np.random.Generator
) -> list[LowerBoundRow]:
    """Theorem 5's discrepancy (k = 2): an upper bound of its exact value, in every form."""
    weights = float((DISCOUNT ** np.arange(1, TIMES)).sum())
    drawn = rng.choice(len(each.weighted), size=(size, config.data_sets), p=normalised(each.trajectories.probability))
    rows = []
    for form, losses in each.losses.items():
        exact, samples = each.trajectories.mean(losses), losses[drawn]
        if form == "uncapped":
            upper = weights - nonnegative_lower(np.maximum(weights - samples, 0.0), config.confidence)
        else:
            inside = np.clip(samples, 0.0, weights)  # rounding only
            upper = betting(inside, config.confidence, sides="upper", low=0.0, high=weights).upper
        width = (REWARD_HIGH - REWARD_LOW) * float(np.mean(upper - exact)) / SPAN
        rows.append(
            LowerBoundRow(data, size, f"Theorem 5, {form}", float(np.mean(upper >= exact * (1 - 1e-12))), width)
        )
    return rows


def normalised(probability: Array) -> Array:
    """Summing to 1 as exactly as a sampler asks."""
    return probability / probability.sum()


@dataclass(frozen=True)
class Coverage:
    """All rows."""

    rows: list[LowerBoundRow]

    @property
    def sound(self) -> bool:
        """Whether every bound that promises its level keeps it, and the planted one does not."""
        promised = [row.holds for row in self.rows if row.bound not in (PLANTED, STUDENT)]
        planted = [row.holds for row in self.rows if row.bound == PLANTED]
        return min(promised) >= LEAST > min(planted)


def measure(config: OffPolicyCoverageConfig) -> Coverage:
    """Every bound on every data policy and sample size."""
    sources = {name: source(distance) for name, distance in STEPS_AWAY.items()}
    cases: list[tuple[str, list[Source]]] = [(name, [each]) for name, each in sources.items()]
    cases.append((STACKED, list(sources.values())[::-1]))
    rows: list[LowerBoundRow] = []
    with tqdm(total=len(cases) * len(config.sizes), desc="drawing", file=sys.stderr, leave=False) as bar:
        for number, (name, chosen) in enumerate(cases):
            for size in config.sizes:
                rng = np.random.default_rng([config.seed, number, size])
                rows += return_rows(name, chosen, size, config, rng)
                if len(chosen) == 1:
                    rows += certificate_rows(name, chosen[0], size, config, rng)
                bar.update()
    return Coverage(rows)


def record_of(coverage: Coverage, config: OffPolicyCoverageConfig) -> dict[str, Any]:
    """JSON-ready, with the settings and the commit that it was made with."""
    settings = {name: value for name, value in asdict(config).items() if name != "as_json"}
    return {"commit": commit_of(provenance([])), "settings": settings, "sound": coverage.sound, **asdict(coverage)}
