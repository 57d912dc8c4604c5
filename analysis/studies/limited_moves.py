"""What a limit on the policy's move per epoch costs in return, and what it lets reserved episodes certify."""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from tqdm import tqdm

from analysis.guarantee.subject import Subject
from analysis.runs.resumable_table import ResumableTable
from m3po.agents.certification import Certification
from m3po.agents.m3po import M3PO
from m3po.config import Config
from m3po.flag_checks import EpisodeCount, Items, PositiveShare, Seed, Share, Steps, check_directory_of, check_fields
from m3po.seeds import Purpose, environment_seeds, torch_generator

# The limit, in rows, of trainings without --move-limit.
UNLIMITED = math.inf


def name_of(limit: float) -> str:
    """A limit as --limits takes it."""
    return "None" if limit == UNLIMITED else f"{limit:g}"


@dataclass(frozen=True)
class LimitedMovesConfig:
    """Train M3PO on m3po/SwitchingPointMass-v0 with --reserved-share and several values of --move-limit, and hold the
    bound that every epoch logs against fresh episodes. Resumable: finished trainings are not repeated."""

    out: Path
    """CSV of the rows, one per training and epoch."""
    seeds: Annotated[tuple[Seed, ...], Items(different=True)] = (0, 1, 2, 3, 4)
    """One training each, for every limit."""
    limits: Annotated[tuple[PositiveShare | None, ...], Items(different=True)] = (None, 1.0, 0.3, 0.1)
    """Values of --move-limit, in (0, 1], or None: without it, which is what the others are held against. 1 is never
    exceeded, but the penalty still holds the mean KL near 2 nats."""
    reserved_share: Share = 0.3
    """--reserved-share of every training."""
    total_steps: Steps = 7000
    """Real steps of each training, the reserved episodes' included; everything else is the default of m3po.train."""
    episodes: EpisodeCount = 200
    """Fresh episodes per epoch, for the true return."""
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False
    """Print the summary as JSON instead of a table."""

    def __post_init__(self) -> None:
        check_fields(self)
        check_directory_of("out", self.out)


@dataclass(frozen=True)
class EpochRow:
    """The bound logged at the end of an epoch, and the truth.

    Attributes:
        limit, seed, step: the training (``UNLIMITED``: without --move-limit) and its real steps.
        true_return, standard_error: mean discounted return of the policy as it explores, of fresh episodes.
        certified_return, trivial_return: as logged; the bound holds with confidence .95 at each epoch.
        used, effective, reserved: episodes that the bound rests on, what they are worth, and all there are.
        move_wanted, move: mean total variation per step from the epoch before, as learned and as limited; the same
            where nothing limits it.
        evaluation: undiscounted return of the mean of the policy, as in learning curves.
    """

    limit: float
    seed: int
    step: int
    true_return: float
    standard_error: float
    certified_return: float
    trivial_return: float
    used: int
    effective: float
    reserved: int
    move_wanted: float
    move: float
    evaluation: float

    @property
    def share(self) -> float:
        """(certified - trivial)/(true - trivial)."""
        return (self.certified_return - self.trivial_return) / (self.true_return - self.trivial_return)


@dataclass(frozen=True)
class LimitSummary:
    """All trainings with one limit.

    Attributes:
        epochs: with a bound.
        above_trivial: share of them whose bound is more than 1% of the way from the trivial one to the truth.
        above_half: share whose bound exceeds half the true return.
        missed: share whose bound exceeds the true return by more than 3 standard errors.
        certified_share: median over epochs of the way from trivial to true that is certified.
        true_return, evaluation: of the final policies, one per seed.
        against_unlimited: final true return minus that of the training with the same seed and no limit, where there is
            one.
        certified_return: of the final policies.
        move: mean over epochs.
    """

    limit: float
    epochs: int
    above_trivial: float
    above_half: float
    missed: float
    certified_share: float
    true_return: tuple[float, ...]
    evaluation: tuple[float, ...]
    against_unlimited: tuple[float, ...]
    certified_return: tuple[float, ...]
    move: float


def measure_all(config: LimitedMovesConfig) -> list[EpochRow]:
    """Every training, from the file where it has it.

    Raises:
        ValueError: as ``ResumableTable``.
    """
    settings = {
        "reserved_share": config.reserved_share,
        "total_steps": config.total_steps,
        "episodes": config.episodes,
    }
    table = ResumableTable(config.out, EpochRow, settings)
    limits = [UNLIMITED if limit is None else limit for limit in config.limits]
    for seed in config.seeds:
        for limit in limits:
            if any((row.limit, row.seed, row.step) == (limit, seed, config.total_steps) for row in table.rows):
                print(f"limit {name_of(limit)}, seed {seed}: complete in {config.out}", file=sys.stderr)
                continue
            done = {row.step for row in table.rows if (row.limit, row.seed) == (limit, seed)}
            for row in epochs(config, limit, seed):
                if row.step not in done:
                    table.add(row)
    return [row for row in table.rows if row.seed in config.seeds and row.limit in limits]


def epochs(config: LimitedMovesConfig, limit: float, seed: int) -> Sequence[EpochRow]:
    """One training, epoch by epoch."""
    training = M3PO(
        Config(
            run_dir=config.out,
            seed=seed,
            total_steps=config.total_steps,
            reserved_share=config.reserved_share,
            move_limit=None if limit == UNLIMITED else limit,
            device="cpu",
            measure_episodes=2,
        )
    )
    moves = unlimited_moves(training) if limit == UNLIMITED else None
    rows = []
    with tqdm(
        total=config.total_steps, desc=f"limit {name_of(limit)}, seed {seed}", unit="step", file=sys.stderr
    ) as bar:
        while not training.finished:
            logged = training.advance()
            bar.update(training.steps - bar.n)
            if logged is None:
                continue
            moved = logged if moves is None else moves.limit(training.environment_buffer, training.steps)
            if "certified_return" not in logged:
                continue
            stream = (Purpose.LIMITED_MOVES, seed, training.steps)
            subject = Subject.of(training).on_own_data()
            returns = subject.episodes(
                config.episodes, seed=environment_seeds(*stream, count=1)[0], generator=torch_generator(*stream)
            ).returns(subject.discount)
            rows.append(
                EpochRow(
                    limit=limit,
                    seed=seed,
                    step=training.steps,
                    true_return=float(returns.mean()),
                    standard_error=float(returns.std(ddof=1) / len(returns) ** 0.5),
                    certified_return=logged["certified_return"],
                    trivial_return=logged["trivial_return"],
                    used=logged["certifying_episodes"],
                    effective=logged["certifying_effective"],
                    reserved=logged["reserved_episodes"],
                    move_wanted=moved["move_wanted"],
                    move=moved["move"],
                    evaluation=logged["return"],
                )
            )
    training.environment.close()
    return rows


def unlimited_moves(training: M3PO) -> Certification:
    """Measures the moves of a training without --move-limit as limited ones are measured: total variation never exceeds
    1, so a limit of 1, met with no penalty before, changes nothing."""
    config = dataclasses.replace(training.config, move_limit=1.0, reserved_share=0.0)
    return Certification(config, training.policy, training.horizon, training.reward_range)


def summarise(rows: Sequence[EpochRow]) -> list[LimitSummary]:
    """One summary per limit, none first, then the widest."""
    summaries = []
    last = {(row.limit, row.seed): row for row in sorted(rows, key=lambda row: row.step)}
    for limit in sorted({row.limit for row in rows}, reverse=True):
        here = [row for row in rows if row.limit == limit]
        seeds = sorted({row.seed for row in here})
        final = [last[limit, seed] for seed in seeds]
        summaries.append(
            LimitSummary(
                limit=limit,
                epochs=len(here),
                above_trivial=float(np.mean([row.share > 0.01 for row in here])),
                above_half=float(np.mean([row.certified_return > row.true_return / 2 for row in here])),
                missed=float(
                    np.mean([row.certified_return > row.true_return + 3 * row.standard_error for row in here])
                ),
                certified_share=float(np.median([row.share for row in here])),
                true_return=tuple(row.true_return for row in final),
                evaluation=tuple(row.evaluation for row in final),
                against_unlimited=tuple(
                    last[limit, seed].true_return - last[UNLIMITED, seed].true_return
                    for seed in seeds
                    if (UNLIMITED, seed) in last
                ),
                certified_return=tuple(row.certified_return for row in final),
                move=float(np.mean([row.move for row in here])),
            )
        )
    return summaries


def record_of(summaries: Sequence[LimitSummary]) -> list[dict[str, object]]:
    """JSON-ready."""
    return [dataclasses.asdict(each) for each in summaries]
