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
from analysis.drawing.style import INK, TRIVIAL_COLOUR, legend_of_all, stacked
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
    """Returns and what is guaranteed; the certificate; the certificate against how far the policy moved."""
    from matplotlib.ticker import MultipleLocator

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
    returns.axhline(shown.least_return, color=TRIVIAL_COLOUR, lw=1, label="least possible")
    returns.plot([], [], "x", color=INK, label="promised by the model")
    returns.plot([], [], "--", color=INK, lw=1.2, label="guaranteed: at least")
    returns.set_title("true return, discounted")
    shares.axhline(0.5, color=TRIVIAL_COLOUR, ls="--", lw=1)
    shares.plot([], [], ":", color=INK, lw=1.2, label="measured |gap|")
    shares.set_ylim(0, 1)
    shares.set_title("certificate, own data, k = 1")
    shares.set_ylabel("of the trivial gap")
    legend_of_all([returns, shares])
    for here in (returns, shares):
        here.set_xlabel("real environment steps")
        here.xaxis.set_major_locator(MultipleLocator(2000))
    _draw_movement(movement, shown)


def _draw_movement(axes: Axes, shown: ThroughTraining) -> None:
    from matplotlib import colormaps

    ages = sorted({row.age for row in shown.aged})
    axes.plot(shown.divergences, shown.policy_share, color=INK, lw=1.2, label="Theorem 4,\npolicy part alone")
    for place, age in enumerate(ages):
        rows = tuple(row for row in shown.aged if row.age == age)
        tint = colormaps["viridis"](0.95 * place / max(len(ages) - 1, 1))
        x = [row.policy_divergence for row in rows]
        axes.plot(
            x, [row.certificate_at_estimates / row.trivial for row in rows], "o", ms=4, color=tint,
            label=f"{age} step{'s' if age > 1 else ''} older",
        )  # fmt: skip
        axes.plot(x, [row.certificate / row.trivial for row in rows], "_", ms=6, color=tint)
    axes.plot([], [], "_", ms=6, color=INK, label="with confidence\n(dots: at the\nestimates)")
    axes.axhline(0.5, color=TRIVIAL_COLOUR, ls="--", lw=1)
    axes.axhline(1.0, color=TRIVIAL_COLOUR, lw=1)
    axes.text(DIVERGENCES[0], 1.02, "trivial", color="#5a5a5a", fontsize=9)
    axes.set_xscale("log")
    axes.set_ylim(0, 1.25)
    axes.set_xlabel("mean total variation between data policy and policy, per step")
    axes.set_ylabel("of the trivial gap")
    axes.set_title("certificate from data of an older policy")
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))


def figures() -> tuple[Figure]:
    """Draw the figure."""
    figure, (above, below) = stacked(3.4, 3.4)
    draw([*above.subplots(1, 2), below.subplots()], load())
    return (figure,)


def cli(arguments: Sequence[str] | None = None) -> None:
    run_figure(figures, IMAGES, arguments, module="paper_figures.certificate_through_training", text=str(__doc__))


if __name__ == "__main__":
    cli()
