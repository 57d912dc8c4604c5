"""Does the certificate hold all the way through a training, and how fast does it age?"""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

import numpy as np
import torch
import tyro
from tqdm import tqdm

from analysis.guarantee.estimates import STATEMENTS, Estimates, measure, return_interval
from analysis.guarantee.subject import Subject
from analysis.guarantee.verdicts import Check, certificate_of, theorem_4
from analysis.runs.resumable_table import ResumableTable, settings_of
from analysis.studies.planted_faults import SHIFT, ContractingModel, shifted
from bounds.confidence import Interval
from m3po.agents.m3po import M3PO
from m3po.config import Config
from m3po.episodes import Trajectories
from m3po.flag_checks import Confidence, EpisodeCount, Items, NotNegative, Seed, Steps, check_directory_of, check_fields
from m3po.networks.policy import HistoryPolicy
from m3po.seeds import Purpose, environment_seeds, torch_generator

# Always k = 1, the rollout length whose certificate loses least.
LENGTH = 1

MOST_CHECKPOINTS = 10_000

TRAINED = "trained"

KNOWN = "trained, known reward"

SHIFTED = "return shifted"

BROKEN = "broken model, known reward"

CLAIMED = "broken model, density claimed, known reward"

CASES = (TRAINED, KNOWN, SHIFTED, BROKEN, CLAIMED)


DEFAULT_AGES = (0, 1, 5, 25, 50, 100, 200, 500, 1000)


@dataclass(frozen=True)
class ThroughTrainingConfig:
    """Train on m3po/SwitchingPointMass-v0 and hold the certificate (k = 1) against fresh episodes at checkpoints, with
    data of the policy itself and of its own past, and with planted faults. Resumable: rows that the file has already
    are not measured again (a seed that is not finished is trained again, which gives the same run)."""

    out: Path
    """CSV of the rows, written as they are measured."""
    seeds: Annotated[tuple[Seed, ...], Items(different=True)] = (0, 1, 2)
    """One training each."""
    total_steps: Steps = 7000
    """Real steps of each training; everything else is the default of m3po.train."""
    every: Steps = 1000
    """Real steps between checkpoints, >= 1."""
    ages: Annotated[tuple[NotNegative, ...], Items(different=True)] = DEFAULT_AGES
    """How many real steps older than the certified policy the data policy is, >= 0; 0, its own data, must be there."""
    episodes: EpisodeCount = 1000
    """Fresh episodes of the certified policy per checkpoint, >= 2: the iid units of every interval."""
    stale_episodes: EpisodeCount = 400
    """Fresh episodes per older data policy, >= 2; what they cost is policy divergence, not sampling error."""
    confidence: Confidence = 0.95
    """In (0, 1); of what, --together says."""
    together: Literal["row", "seed"] = "seed"
    """What the confidence covers: row: everything said about one checkpoint with one data policy. seed: everything said
    about one training, all checkpoints and ages at once (a union bound)."""
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False
    """Print the rows as JSON instead of a table."""

    def __post_init__(self) -> None:
        check_fields(self)
        if 0 not in self.ages:
            raise ValueError(f"--ages must have 0 among them, got {' '.join(map(str, self.ages))}")
        if not 1 <= self.total_steps // self.every <= MOST_CHECKPOINTS:
            raise ValueError(
                f"--every must be from {math.ceil(self.total_steps / MOST_CHECKPOINTS)} to {self.total_steps} (by "
                f"--total-steps), got {self.every}"
            )
        check_directory_of("out", self.out)

    @property
    def checkpoints(self) -> tuple[int, ...]:
        """The real steps at which a training is looked at."""
        return tuple(range(self.every, self.total_steps + 1, self.every))

    def ages_at(self, step: int) -> tuple[int, ...]:
        """The ages that a policy can have had by then, ascending."""
        return tuple(sorted(age for age in self.ages if age <= step))

    @property
    def rows_per_seed(self) -> int:
        """Rows of one training: every case with its own data, and the trained model with older data."""
        return sum(len(self.ages_at(step)) + len(CASES) - 1 for step in self.checkpoints)

    @property
    def measurements_per_seed(self) -> int:
        """Measurements whose intervals a union bound over one training has to cover: one for every age, and one for
        each broken model. (Two rows of one measurement use the same intervals.)"""
        return sum(len(self.ages_at(step)) + 2 for step in self.checkpoints)

    @property
    def row_confidence(self) -> float:
        """Confidence of one measurement: with --together seed, all of a seed hold together with ``confidence``."""
        return self.confidence if self.together == "row" else 1 - (1 - self.confidence) / self.measurements_per_seed


@dataclass(frozen=True)
class CertificateRow:
    """One certificate held against fresh episodes.

    Attributes:
        seed, step, age: the training, its real steps, and how many steps older the data policy is.
        confidence: of all that this measurement says.
        case: trained, or a planted fault; "known reward" where the model's return is paid by the environment's own
            reward function, else the model's learned reward pays.
        verdict: of the certificate: holds, violated, surrogate (undecided).
        vacuous: the certificate is not below 99% of the trivial gap.
        trivial: R (1 - gamma^H)/(1 - gamma), the largest gap that any model can have.
        true_*, model_*: the true return and the branched return.
        certificate: the discrepancy at the upper ends of the errors; what a guarantee may use.
        certificate_at_estimates, policy_part, model_part, reward_part: the same at the estimated errors, with its parts
            (the certificate is the smaller of two ways to bound it, the parts are those of Theorem 4 with its caps).
        policy_divergence: mean over the episode's steps of the total variation between data policy and policy.
        model_error: mean over the episode's steps of that between the true kernel and the model.
        gap, tightness: true - model return, and its size in certificates.
        flagged_from: the smallest error of a model return, upwards, that would be called violated here.
    """

    seed: int
    step: int
    age: int
    case: str
    confidence: float
    verdict: str
    vacuous: bool
    trivial: float
    true_return: float
    true_lower: float
    true_upper: float
    model_return: float
    model_lower: float
    model_upper: float
    certificate: float
    certificate_at_estimates: float
    policy_part: float
    model_part: float
    reward_part: float
    policy_divergence: float
    model_error: float
    gap: float
    tightness: float
    flagged_from: float


def row_of(subject: Subject, measured: Estimates, check: Check, true_return: Interval, **where: Any) -> dict[str, Any]:
    """What a ``CertificateRow`` says beyond ``where`` it was measured."""
    learned, returns = check.learned_reward, subject.returns
    promised = measured.model_returns["branched", learned]
    parts = theorem_4(measured, "estimate", returns, rollout_length=LENGTH, learned_reward=learned)
    return {
        **where, "verdict": check.verdict, "vacuous": check.vacuous,
        "trivial": returns.trivial_gap(learned_reward=learned),
        "true_return": float(true_return.estimate), "true_lower": float(true_return.lower),
        "true_upper": float(true_return.upper), "model_return": float(promised.estimate),
        "model_lower": float(promised.lower), "model_upper": float(promised.upper),
        "certificate": check.discrepancy, "certificate_at_estimates": parts.value, "policy_part": parts.policy_part,
        "model_part": parts.model_part, "reward_part": parts.reward_part,
        "policy_divergence": float(np.mean(measured.policy_divergence.estimate)),
        "model_error": float(np.mean(measured.model_error.estimate)),
        "gap": check.gap.estimate, "tightness": check.tightness,
        "flagged_from": check.discrepancy + check.gap.upper,
    }  # fmt: skip


class Looks(Protocol):
    """When a training is looked at, and with data of which earlier policies."""

    @property
    def checkpoints(self) -> tuple[int, ...]:
        """Real steps."""
        ...

    def ages_at(self, step: int) -> tuple[int, ...]:
        """How many steps older the data policies are."""
        ...


def unmeasured_training(out: Path, seed: int, total_steps: int) -> M3PO:
    """A training with all other defaults, whose own measurements, which do not change it, are as few as may be.

    ``out`` stands for its run directory in messages; none is written.
    """
    return M3PO(
        Config(run_dir=out, seed=seed, total_steps=total_steps, device="cpu", measure_episodes=2, evaluation_episodes=2)
    )


class Snapshots:
    """The policies that collected given real steps of a training, kept while it runs.

    The policy of step s is the one that chooses the action of real step s + 1; where the model is trained in between,
    which also moves the encoder of the policy, it is the policy after that.
    """

    def __init__(self, config: Looks) -> None:
        self._wanted = {step - age for step in config.checkpoints for age in config.ages_at(step) if age > 0}
        self._last_use = {
            step - age: step for step in sorted(config.checkpoints) for age in config.ages_at(step) if age > 0
        }
        self.policies: dict[int, HistoryPolicy] = {}

    def advance(self, training: M3PO) -> None:
        """One real step of the training, with a snapshot of who took it where one is wanted."""
        step = training.steps
        before = training.policy.snapshot() if step in self._wanted and not training.epoch_begins else None
        training.advance()
        if step in self._wanted:
            self.policies[step] = training.data_policy if before is None else before

    def forget(self, step: int) -> None:
        """Drop what no later checkpoint needs."""
        self.policies = {each: policy for each, policy in self.policies.items() if self._last_use[each] > step}


def fresh_episodes(subject: Subject, count: int, seed: int, age: int) -> tuple[Trajectories, torch.Generator]:
    """Episodes of the data policy that nothing was trained on, and the generator to go on with.

    Neither touches those of the training with this ``seed``.
    """
    stream = (Purpose.THROUGH_TRAINING, seed, subject.steps, age)
    generator = torch_generator(*stream)
    return subject.episodes(count, seed=environment_seeds(*stream, count=1)[0], generator=generator), generator


def measure_checkpoint(
    training: M3PO,
    policies: dict[int, HistoryPolicy],
    config: ThroughTrainingConfig,
    table: ResumableTable[CertificateRow],
) -> None:
    """Measure every age and every planted fault at the training's present step, and add the rows not there yet.

    Raises:
        ValueError: when there is no model yet.
    """
    subject = dataclasses.replace(Subject.of(training), rollout_length=LENGTH)
    seed, step = training.config.seed, subject.steps
    done = {(row.age, row.case) for row in table.rows if (row.seed, row.step) == (seed, step)}
    missing = [age for age in config.ages_at(step) if (age, TRAINED) not in done]
    if not missing and all((0, case) in done for case in CASES):
        return
    each = 1 - (1 - config.row_confidence) / STATEMENTS
    where = {"seed": seed, "step": step, "confidence": config.row_confidence}
    own, generator = fresh_episodes(subject, config.episodes, seed, 0)
    true_return = return_interval(own.returns(subject.discount), subject.returns, each)

    def add(who: Subject, measured: Estimates, age: int, case: str) -> Check:
        check = certificate_of(who, measured, true_return, learned_reward=case in (TRAINED, SHIFTED))
        if (age, case) not in done:
            table.add(CertificateRow(**row_of(who, measured, check, true_return, **where, age=age, case=case)))
        return check

    if not all((0, case) in done for case in CASES):
        measured = measure(subject, own, config.row_confidence, generator)
        check = add(subject, measured, 0, TRAINED)
        add(subject, measured, 0, KNOWN)
        add(subject, shifted(measured, SHIFT * check.discrepancy), 0, SHIFTED)
        for case in (BROKEN, CLAIMED):
            broken = dataclasses.replace(subject, model=ContractingModel(subject.model, overclaims=case == CLAIMED))
            add(broken, measure(broken, own, config.row_confidence, generator), 0, case)
    for age in missing:
        if age > 0:
            older = dataclasses.replace(subject, data_policy=policies[step - age])
            data, generator = fresh_episodes(older, config.stale_episodes, seed, age)
            add(older, measure(older, data, config.row_confidence, generator), age, TRAINED)


def measure_all(config: ThroughTrainingConfig) -> list[CertificateRow]:
    """Every seed, checkpoint, age and case, from the file where it has them.

    Raises:
        ValueError: as ``ResumableTable``.
    """
    table = ResumableTable(config.out, CertificateRow, settings_of(config, "seeds", "ages"))
    for seed in config.seeds:
        if sum(row.seed == seed and row.age in config.ages for row in table.rows) == config.rows_per_seed:
            print(f"seed {seed}: complete in {config.out}", file=sys.stderr)
            continue
        training = unmeasured_training(config.out, seed, config.total_steps)
        snapshots = Snapshots(config)
        with tqdm(
            total=config.total_steps, desc=f"seed {seed}", unit="step", file=sys.stderr, mininterval=2
        ) as progress:
            while not training.finished:
                snapshots.advance(training)
                progress.update(training.steps - progress.n)
                if training.steps in config.checkpoints:
                    measure_checkpoint(training, snapshots.policies, config, table)
                    snapshots.forget(training.steps)
        training.environment.close()
    wanted = [row for row in table.rows if row.seed in config.seeds and row.age in config.ages]
    return sorted(wanted, key=lambda row: (row.seed, row.step, row.age, CASES.index(row.case)))


def sound(rows: Sequence[CertificateRow]) -> bool:
    """Whether the planted faults were flagged, and nothing else was.

    A shifted return has to be flagged everywhere. A broken model that claims a density has to where its promise is
    further from that of the trained model than what the certificate can flag at all (``flagged_from``).
    """
    known = {(row.seed, row.step): row for row in rows if row.case == KNOWN}
    for row in rows:
        expected = row.case == SHIFTED
        if row.case == CLAIMED:
            honest = known[row.seed, row.step]
            fault = row.model_return - honest.model_return
            expected = row.verdict == "violated" or fault > honest.flagged_from
        if (row.verdict == "violated") != expected:
            return False
    return True
