"""How much of a policy's true return each lower bound certifies, from episodes of the policy as it was before."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import tyro
from numpy.typing import NDArray
from tqdm import tqdm

from analysis.guarantee.candidates import candidates_of
from analysis.guarantee.certification import certify
from analysis.guarantee.evidence_of_subject import evidence_of
from analysis.guarantee.model_critic import ModelCritic
from analysis.guarantee.subject import Subject
from analysis.runs.resumable_table import ResumableTable, settings_of
from analysis.studies.through_training import LENGTH, Snapshots, unmeasured_training
from m3po.episodes import Trajectories
from m3po.errors import EncodedTrajectories, policy_divergence_samples
from m3po.flag_checks import EpisodeCount, Items, NotNegative, Seed, Steps, check_directory_of, check_fields
from m3po.networks.policy import HistoryPolicy
from m3po.seeds import Purpose, environment_seeds, torch_generator

# Of each bound on its own, and of the answer that shares the error probability among all of them.
CONFIDENCE = 0.95

BOUNDS = ("theorem_4", "theorem_5", "direct", "control_variate")

NAMES = {
    "theorem-4": "theorem_4", "theorem-5": "theorem_5", "own-returns": "direct", "importance-weights": "direct",
    "control-variate": "control_variate",
}  # fmt: skip

# Which episodes: each kind has a stream of its own.
CERTIFYING, CRITIC, TRUTH = range(3)

# Standard errors of the truth beyond which a lower bound above it is called a miss.
NOISE = 3.0


@dataclass(frozen=True)
class CertifiedByAgeConfig:
    """Train on m3po/SwitchingPointMass-v0 and bound the true return of the final policy from below, from fresh episodes
    of the policy as it was some real steps earlier. Resumable: rows that the file has already are not measured again (a
    seed that is not finished is trained again, which gives the same run)."""

    out: Path
    """CSV of the rows, one per training and age."""
    seeds: Annotated[tuple[Seed, ...], Items(different=True)] = (0, 1, 2)
    """One training each."""
    total_steps: Steps = 7000
    """Real steps of each training; everything else is the default of m3po.train."""
    ages: Annotated[tuple[NotNegative, ...], Items(different=True)] = (0, 1, 5, 25, 50, 100, 200)
    """How many real steps older than the certified policy the data policy is, >= 0 and at most --total-steps."""
    episodes: EpisodeCount = 1000
    """Fresh episodes of each data policy, which certify, >= 2."""
    critic_episodes: EpisodeCount = 60
    """Other episodes of each data policy, from whose histories rollouts in the model start that a critic is fitted to,
    >= 2."""
    truth_episodes: EpisodeCount = 2000
    """Fresh episodes of the certified policy itself, to hold the bounds against, >= 2."""
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False
    """Print the rows as JSON instead of a table."""

    def __post_init__(self) -> None:
        check_fields(self)
        if max(self.ages) > self.total_steps:
            raise ValueError(f"--ages must be at most --total-steps {self.total_steps}, got {max(self.ages)}")
        check_directory_of("out", self.out)

    @property
    def checkpoints(self) -> tuple[int, ...]:
        """The end of the training alone."""
        return (self.total_steps,)

    def ages_at(self, step: int) -> tuple[int, ...]:
        """All of them, ascending: the only step is the last."""
        return tuple(sorted(age for age in self.ages if age <= step))


@dataclass(frozen=True)
class CertifiedRow:
    """The final policy of one training, certified by data of one age.

    Attributes:
        seed, step, age: the training, its real steps, and how many steps older the data policy is.
        episodes, confidence: of each bound.
        true_return, standard_error: mean discounted return of fresh episodes of the certified policy.
        trivial: the least return that the reward range allows.
        model_return: what the model promises, branched rollouts (k = 1) from the data's histories, learned reward.
        total_variation: mean per step between data policy and policy.
        effective: how many episodes of the policy's own the data are worth.
        theorem_4, theorem_5, direct, control_variate: lower bounds, each with ``confidence`` on its own; direct is the
            mean of the returns, with importance weights where the data policy is an older one.
        answer, certified: the best bound and its value when all four together hold with ``confidence``.
    """

    seed: int
    step: int
    age: int
    episodes: int
    confidence: float
    true_return: float
    standard_error: float
    trivial: float
    model_return: float
    total_variation: float
    effective: float
    theorem_4: float
    theorem_5: float
    direct: float
    control_variate: float
    answer: str
    certified: float

    def share(self, name: str) -> float:
        """A bound as a share of the true return; one below the trivial return is worth that."""
        return float(max(getattr(self, name), self.trivial) / self.true_return)

    def missed(self, name: str) -> bool:
        """Whether the bound is above the true return by more than the noise of that."""
        return bool(getattr(self, name) > self.true_return + NOISE * self.standard_error)


def fresh_episodes(
    subject: Subject, count: int, seed: int, age: int, kind: int
) -> tuple[Trajectories, torch.Generator]:
    """Episodes of the subject's data policy that nothing was trained on, and the generator to go on with."""
    stream = (Purpose.CERTIFIED_BY_AGE, seed, age, kind)
    generator = torch_generator(*stream)
    return subject.episodes(count, seed=environment_seeds(*stream, count=1)[0], generator=generator), generator


def measure_age(
    subject: Subject, older: HistoryPolicy | None, age: int, true_returns: NDArray[np.float64], seed: int,
    config: CertifiedByAgeConfig,
) -> CertifiedRow:  # fmt: skip
    """Certify the subject's policy from episodes of ``older``, of its own where that is None."""
    who = dataclasses.replace(subject, data_policy=older, rollout_length=LENGTH)
    others, generator = fresh_episodes(who, config.critic_episodes, seed, age, CRITIC)
    critic = ModelCritic.fit(who, others, generator)
    trajectories, generator = fresh_episodes(who, config.episodes, seed, age, CERTIFYING)
    data = EncodedTrajectories.of(trajectories, who.model.encoder.history_length, who.policy.device)
    evidence = evidence_of(who, data, critic, generator)
    divergence, _ = policy_divergence_samples(older, who.policy, data, generator)
    report = certify(evidence, CONFIDENCE)
    tried = [bound for bound in report.lower_bounds if bound.value is not None]
    alone = candidates_of(evidence, 1 - len(tried) * (1 - CONFIDENCE))
    bounds = {NAMES[bound.name]: bound.value for bound in alone.bounds if bound.value is not None}
    assert report.lower_bound is not None
    assert report.model_return is not None
    return CertifiedRow(
        seed=seed, step=who.steps, age=age, episodes=config.episodes, confidence=CONFIDENCE,
        true_return=float(true_returns.mean()),
        standard_error=float(true_returns.std(ddof=1) / np.sqrt(len(true_returns))), trivial=report.trivial,
        model_return=report.model_return, total_variation=float(divergence[trajectories.valid].mean()),
        effective=report.data[0].effective_sample_size, **bounds, answer=report.answer or "none",
        certified=report.lower_bound,
    )  # fmt: skip


def measure_ages(
    subject: Subject, policies: Mapping[int, HistoryPolicy], seed: int, config: CertifiedByAgeConfig,
    table: ResumableTable[CertifiedRow],
) -> None:  # fmt: skip
    """Every age of one trained policy that the table has not yet.

    Args:
        subject: the trained policy and its model.
        policies: that collected earlier real steps, by step.
    """
    own = subject.on_own_data()
    truth, _ = fresh_episodes(own, config.truth_episodes, seed, 0, TRUTH)
    true_returns = truth.returns(subject.discount)
    done = {row.age for row in table.rows if row.seed == seed}
    for age in config.ages_at(subject.steps):
        if age not in done:
            older = policies[subject.steps - age] if age > 0 else None
            table.add(measure_age(own, older, age, true_returns, seed, config))


def measure_all(config: CertifiedByAgeConfig) -> list[CertifiedRow]:
    """Every seed and age, from the file where it has them.

    Raises:
        ValueError: as ``ResumableTable``.
    """
    table = ResumableTable(config.out, CertifiedRow, settings_of(config, "seeds", "ages"))
    for seed in config.seeds:
        if {row.age for row in table.rows if row.seed == seed} >= set(config.ages):
            print(f"seed {seed}: complete in {config.out}", file=sys.stderr)
            continue
        subject, policies = trained(config, seed)
        measure_ages(subject, policies, seed, config, table)
    wanted = [row for row in table.rows if row.seed in config.seeds and row.age in config.ages]
    return sorted(wanted, key=lambda row: (row.seed, row.age))


def trained(config: CertifiedByAgeConfig, seed: int) -> tuple[Subject, dict[int, HistoryPolicy]]:
    """The end of one training, and the policies of earlier real steps."""
    training = unmeasured_training(config.out, seed, config.total_steps)
    snapshots = Snapshots(config)
    with tqdm(total=config.total_steps, desc=f"seed {seed}", unit="step", file=sys.stderr, mininterval=2) as progress:
        while not training.finished:
            snapshots.advance(training)
            progress.update(training.steps - progress.n)
    training.environment.close()
    return Subject.of(training), snapshots.policies


@dataclass(frozen=True)
class AgeSummary:
    """All trainings with data of one age; medians over them.

    Attributes:
        total_variation, effective: as in ``CertifiedRow``.
        shares: of the true return, by the bound, "certified" among them: median, least, most.
        missed: bounds above the true return by more than its noise, of all seeds and kinds.
        answers: which bound was the best, per seed.
    """

    age: int
    total_variation: float
    effective: float
    shares: dict[str, tuple[float, float, float]]
    missed: int
    answers: tuple[str, ...]


def summarise(rows: Sequence[CertifiedRow]) -> list[AgeSummary]:
    """One summary per age, ascending."""
    summaries = []
    for age in sorted({row.age for row in rows}):
        here = [row for row in rows if row.age == age]
        shares = {name: [row.share(name) for row in here] for name in (*BOUNDS, "certified")}
        summaries.append(
            AgeSummary(
                age=age,
                total_variation=float(np.median([row.total_variation for row in here])),
                effective=float(np.median([row.effective for row in here])),
                shares={name: (float(np.median(each)), min(each), max(each)) for name, each in shares.items()},
                missed=sum(row.missed(name) for row in here for name in shares),
                answers=tuple(row.answer for row in here),
            )
        )
    return summaries
