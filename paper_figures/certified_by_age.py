"""What is certain of a true return, from data of the policy itself and of its own past.

The table, resumable; three trainings, 1,000 fresh episodes of each data policy:

    python -m analysis.certified_by_age --out paper_figures/data/certified_by_age.csv
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from analysis.drawing.style import INK, TRIVIAL_COLOUR, page
from analysis.runs.resumable_table import read_rows
from analysis.studies.certified_by_age import BOUNDS, CertifiedRow
from paper_figures.command import run_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DATA = Path(__file__).parent / "data" / "certified_by_age.csv"
IMAGE = Path("docs/images/certified_by_age.png")
IMAGES = {"out": IMAGE}
# Okabe-Ito colours, and a marker each.
LOOKS = {
    "control_variate": ("rewards, with the model as control variate", "#0072b2", "o"),
    "direct": ("rewards alone (mean return; importance weights)", "#009e73", "s"),
    "theorem_5": ("model's promise minus Theorem 5", "#e69f00", "^"),
    "theorem_4": ("model's promise minus Theorem 4", "#d55e00", "D"),
}


@dataclass(frozen=True, eq=False)
class CertifiedByAge:
    """What the figure shows.

    Attributes:
        seeds: of the trainings, S.
        ages: [A] of the data policy, in real steps, ascending.
        total_variation: [A], mean per step between data policy and policy, median over seeds.
        shares: by bound [S, A], lower bound as a share of the true return, not below ``trivial``.
        trivial: [S], the share that the least possible return is.
        episodes, confidence: of every bound.
    """

    seeds: tuple[int, ...]
    ages: tuple[int, ...]
    total_variation: NDArray[np.float64]
    shares: dict[str, NDArray[np.float64]]
    trivial: NDArray[np.float64]
    episodes: int
    confidence: float


def load(data: Path = DATA) -> CertifiedByAge:
    """The landed rows.

    Raises:
        ValueError: a table without rows, with a return that is no gain over the least, or not all ages of all seeds.
    """
    rows = {(row.seed, row.age): row for row in read_rows(data, CertifiedRow, finite=True)}
    if not rows:
        raise ValueError(f"{data} has no rows")
    seeds, ages = (tuple(sorted({key[place] for key in rows})) for place in (0, 1))
    for seed in seeds:
        for age in ages:
            if (seed, age) not in rows:
                raise ValueError(f"{data} has no row of seed {seed} with data that are {age} steps older")
    for row in rows.values():
        if not row.true_return > max(row.trivial, 0.0):
            raise ValueError(f"{data}: true_return must be above 0 and the trivial one, got {row.true_return}")
    grid = [[rows[seed, age] for age in ages] for seed in seeds]
    return CertifiedByAge(
        seeds,
        ages,
        np.median([[row.total_variation for row in line] for line in grid], axis=0),
        {name: np.array([[row.share(name) for row in line] for line in grid]) for name in BOUNDS},
        np.array([line[0].trivial / line[0].true_return for line in grid]),
        grid[0][0].episodes,
        grid[0][0].confidence,
    )


def draw(axes: Axes, shown: CertifiedByAge) -> None:
    """Share of the true return that is certain, by age of the data: thin lines per seed, their median thick."""
    places = np.arange(len(shown.ages))
    nothing = float(np.median(shown.trivial))
    axes.axhline(1.0, color=INK, lw=1)
    axes.text(places[-1] + 0.3, 1.015, "true return", fontsize=8, ha="right", va="bottom")
    axes.axhline(nothing, color=TRIVIAL_COLOUR, lw=1)
    axes.text(
        places[0] - 0.3, nothing - 0.02, "least possible return: nothing is certain", color="#5a5a5a", fontsize=8,
        va="top",
    )  # fmt: skip
    for name, (label, colour, marker) in LOOKS.items():
        axes.plot(places, shown.shares[name].T, color=colour, lw=0.8, alpha=0.45)
        axes.plot(places, np.median(shown.shares[name], axis=0), marker=marker, ms=5, color=colour, lw=2, label=label)
    axes.set_xticks(
        places,
        [f"{age}\n{moved:.2f}" for age, moved in zip(shown.ages, shown.total_variation, strict=True)],
    )
    axes.set_xlim(places[0] - 0.35, places[-1] + 0.35)
    axes.set_ylim(nothing - 0.13, 1.1)
    axes.set_xlabel("real steps by which the data are older;\nbelow, how far the policy moved since (TV per step)")
    axes.set_ylabel("certain, of the true return")
    axes.set_title(
        f"lower bounds from {shown.episodes:,} episodes at confidence {shown.confidence:g},\n"
        + ("one training" if len(shown.seeds) == 1 else f"{len(shown.seeds)} trainings (thin) and their median"),
    )
    axes.legend(loc="upper center", bbox_to_anchor=(0.45, -0.3), ncols=1)


def figures() -> tuple[Figure]:
    """Draw the figure."""
    figure = page(4.6)
    draw(figure.subplots(), load())
    return (figure,)


def cli(arguments: Sequence[str] | None = None) -> None:
    run_figure(figures, IMAGES, arguments, module="paper_figures.certified_by_age", text=str(__doc__))


if __name__ == "__main__":
    cli()
