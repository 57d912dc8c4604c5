"""The certificate through training on SwitchingPointMass, and how far a policy may move from its data.

The table, resumable; 1,000 fresh episodes of each certified policy and 400 of each older one:

    python -m analysis.through_training --out paper_figures/data/certificate_through_training.csv \
        --seeds 0
    python -m analysis.through_training --out paper_figures/data/certificate_through_training.csv \
        --seeds 1 --ages 0 1 25
    python -m analysis.through_training --out paper_figures/data/certificate_through_training.csv \
        --seeds 2 --ages 0
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

import bounds
from analysis.drawing.style import INK, TRIVIAL_COLOUR
from analysis.runs.resumable_table import read_rows
from analysis.studies.through_training import LENGTH, TRAINED, CertificateRow
from m3po.envs.switching_point_mass import ACTION_COST, ACTION_SIZE
from paper_figures.command import run_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DATA = Path(__file__).parent / "data" / "certificate_through_training.csv"
IMAGE = Path("docs/images/certificate_through_training.png")
IMAGES = {"out": IMAGE}
DISCOUNT, HORIZON = 0.95, 100
SEED_COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00")
# From no policy movement worth the name to a half of all actions different at every step.
DIVERGENCES = np.geomspace(1e-3, 1.0, 181)


@dataclass(frozen=True, eq=False)
class ThroughTraining:
    """What the figure shows.

    Attributes:
        seeds: of the trainings.
        own: per seed the rows of the trained model with its policy's own data, by step.
        aged: the rows with older data, of all seeds.
        divergences: [P], a constant policy divergence per step.
        policy_share: [P], what it alone costs in Theorem 4, of the trivial gap.
        least_return: what the reward range allows at least.
    """

    seeds: tuple[int, ...]
    own: dict[int, tuple[CertificateRow, ...]]
    aged: tuple[CertificateRow, ...]
    divergences: NDArray[np.float64]
    policy_share: NDArray[np.float64]
    least_return: float


def load(data: Path = DATA) -> ThroughTraining:
    """The landed rows, and the curve that Theorem 4 draws for a constant divergence."""
    rows = [row for row in read_rows(data, CertificateRow, finite=True) if row.case == TRAINED]
    seeds = tuple(sorted({row.seed for row in rows}))
    if not rows:
        raise ValueError(f"{data} has no rows of {TRAINED!r}")
    if len(seeds) > len(SEED_COLOURS):
        raise ValueError(f"{data}: there are colours for {len(SEED_COLOURS)} seeds, got {len(seeds)}")
    for row in rows:
        if row.trivial <= 0:
            raise ValueError(f"{data}: the trivial gap must be > 0, got {row.trivial}")
    own = {
        seed: tuple(sorted((row for row in rows if row.seed == seed and row.age == 0), key=lambda row: row.step))
        for seed in seeds
    }
    for seed, own_rows in own.items():
        if not own_rows:
            raise ValueError(f"{data} has no row of seed {seed} with its policy's own data")
    trivial = (1 - DISCOUNT**HORIZON) / (1 - DISCOUNT)
    shares = [
        bounds.certificate(
            np.zeros(HORIZON), np.full(HORIZON, divergence), discount=DISCOUNT, reward_range=1.0,
            rollout_length=LENGTH, reward_error_profile=np.zeros(HORIZON), tail="absorbing",
        ).value / trivial
        for divergence in DIVERGENCES
    ]  # fmt: skip
    aged = tuple(row for row in rows if row.age > 0)
    least = -ACTION_COST * ACTION_SIZE * trivial
    return ThroughTraining(seeds, own, aged, DIVERGENCES, np.array(shares), least)


def draw(axes: Sequence[Axes], shown: ThroughTraining) -> None:
    """Left: returns and what is guaranteed. Middle: the certificate. Right: against how far the policy moved."""
    returns, shares, movement = axes
    for seed, colour in zip(shown.seeds, SEED_COLOURS, strict=False):
        rows = shown.own[seed]
        steps = [row.step for row in rows]
        returns.plot(steps, [row.true_return for row in rows], "o-", ms=3.5, color=colour, label=f"seed {seed}")
        returns.plot(steps, [row.model_return for row in rows], "x", ms=5, color=INK)
        returns.plot(steps, [row.model_lower - row.certificate for row in rows], "--", lw=1.2, color=colour)
        shares.plot(
            steps, [row.certificate / row.trivial for row in rows], "o-", ms=3.5, color=colour, label=f"seed {seed}"
        )
        shares.plot(steps, [abs(row.gap) / row.trivial for row in rows], ":", lw=1.2, color=colour)
    returns.axhline(shown.least_return, color=TRIVIAL_COLOUR, lw=1)
    returns.text(
        steps[-1], shown.least_return - 0.3, "least possible", color="#5a5a5a", fontsize=7, ha="right", va="top"
    )
    returns.plot([], [], "x", color=INK, label="promised by the model")
    returns.plot([], [], "--", color=INK, lw=1.2, label="guaranteed: at least")
    returns.set_title("true return", loc="left")
    returns.set_ylabel("discounted return")
    returns.legend(loc="lower right", fontsize=7)
    shares.axhline(0.5, color=TRIVIAL_COLOUR, ls="--", lw=1)
    shares.plot([], [], ":", color=INK, lw=1.2, label="measured |gap|")
    shares.set_ylim(0, 1)
    shares.set_title("certificate, policy's own data, k = 1", loc="left")
    shares.set_ylabel("of the trivial gap")
    shares.legend(loc="upper right", fontsize=7)
    for here in (returns, shares):
        here.set_xlabel("real environment steps")

    ages = sorted({row.age for row in shown.aged})
    shades = [(0.85 - 0.75 * place / max(len(ages) - 1, 1)) for place in range(len(ages))]
    movement.plot(shown.divergences, shown.policy_share, color=INK, lw=1.2, label="Theorem 4, policy part alone")
    movement.plot([], [], "_", ms=5, color=INK, label="with confidence (dots: at the estimates)")
    for age, shade in zip(ages, shades, strict=True):
        rows = tuple(row for row in shown.aged if row.age == age)
        tint = (1 - shade, 0.45, shade)
        x = [row.policy_divergence for row in rows]
        movement.plot(
            x, [row.certificate_at_estimates / row.trivial for row in rows], "o", ms=4, color=tint,
            label=f"{age} step{'s' if age > 1 else ''} older",
        )  # fmt: skip
        movement.plot(x, [row.certificate / row.trivial for row in rows], "_", ms=5, color=tint)
    movement.axhline(0.5, color=TRIVIAL_COLOUR, ls="--", lw=1)
    movement.axhline(1.0, color=TRIVIAL_COLOUR, lw=1)
    movement.text(DIVERGENCES[0], 1.015, "trivial", color="#5a5a5a", fontsize=7.5)
    movement.set_xscale("log")
    movement.set_ylim(0, 1.25)
    movement.set_xlabel("mean total variation between data policy and policy, per step")
    movement.set_title("certificate from data of an older policy", loc="left")
    movement.legend(loc="upper left", bbox_to_anchor=(0.0, 0.79), fontsize=7)


def figures() -> tuple[Figure]:
    """Draw the figure."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12.5, 3.9), dpi=110, layout="constrained")
    shown = load()
    draw(figure.subplots(1, 3, width_ratios=(1, 1, 1.35)), shown)
    return (figure,)


def cli(arguments: Sequence[str] | None = None) -> None:
    run_figure(figures, IMAGES, arguments, module="paper_figures.certificate_through_training", text=str(__doc__))


if __name__ == "__main__":
    cli()
