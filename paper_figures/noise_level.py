"""How much process noise makes the half cheetah certifiable, and what the noise does to its return.

The table, resumable (``--samples 20000`` adds rows to it):

    python -m analysis.noise_level --out paper_figures/data/noise_level_half_cheetah.csv --runs runs \
        --scaled 0.1 1.0 0.3 0.03 --equal 0.1 --samples 5000 --training-steps 2000 --episodes 60 --model-updates 1000
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from analysis.figure_style import INK, TRIVIAL_COLOUR, figure_style
from analysis.noise_level import KINDS, Row
from analysis.resumable_table import read_rows

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DATA = Path(__file__).parent / "data" / "noise_level_half_cheetah.csv"
IMAGE = Path("docs/images/noise_level.png")
COLOURS = {"scaled": "#0072b2", "equal": "#e69f00"}
LABELS = {"scaled": "in standard deviations of each coordinate", "equal": "the same on every coordinate"}


@dataclass(frozen=True)
class Series:
    """Rows of one kind of noise and one sample size, by level."""

    kind: str
    samples: int
    rows: tuple[Row, ...]


def load(data: Path = DATA) -> tuple[Series, ...]:
    """The landed rows."""
    rows = read_rows(data, Row)
    return tuple(
        Series(kind, samples, tuple(sorted(chosen, key=lambda row: row.level)))
        for kind in KINDS
        for samples in sorted({row.samples for row in rows})
        if (chosen := [row for row in rows if (row.kind, row.samples) == (kind, samples)])
    )


def draw(axes: Sequence[Axes], series: Sequence[Series]) -> None:
    """Left: the certificate against the noise. Right: the return of policies trained at the noise, and without it."""
    shares, returns = axes
    sizes = sorted({each.samples for each in series})
    for each in series:
        levels = [row.level for row in each.rows]
        style = "o-" if each.samples == sizes[-1] else "o:"
        label = f"{LABELS[each.kind]}, {each.samples:,} transitions"
        colour = COLOURS[each.kind]
        shares.plot(levels, [row.share for row in each.rows], style, ms=4, color=colour, label=label)
        shares.plot(levels, [row.model_error for row in each.rows], "x", ms=4, color=colour)
        if each.samples == sizes[-1]:
            for name, marker in (("trained", "o-"), ("transferred", "s:")):
                values = [getattr(row, f"{name}_return") for row in each.rows]
                errors = [getattr(row, f"{name}_error") for row in each.rows]
                returns.errorbar(levels, values, errors, fmt=marker, ms=4, color=colour, capsize=2, lw=1.4)
    shares.plot([], [], "x", ms=4, color=INK, label="mean total variation of the model")
    shares.axhline(1.0, color=TRIVIAL_COLOUR, lw=1)
    shares.axhline(0.5, color=TRIVIAL_COLOUR, ls="--", lw=1)
    shares.set_ylim(0, 1.3)
    shares.set_ylabel("certificate (k = 1, own data), of the trivial gap")
    shares.legend(loc="lower left", fontsize=7)
    returns.plot([], [], "o-", color=INK, lw=1.4, ms=4, label="policy trained at this noise")
    returns.plot([], [], "s:", color=INK, lw=1.4, ms=4, label="policy trained without noise, at this noise")
    returns.axhline(0, color=TRIVIAL_COLOUR, lw=0.8)
    returns.set_ylabel("return of 200 steps, mean and standard error")
    returns.legend(loc="best", fontsize=7)
    for here in axes:
        here.set_xscale("log")
        here.set_xlabel("process noise per step")


def main(image: Path = IMAGE) -> Path:
    """Draw and write the figure; returns where."""
    with figure_style():
        from matplotlib.figure import Figure

        figure = Figure(figsize=(9.0, 3.7), layout="constrained")
        draw(figure.subplots(1, 2), load())
        image.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(image, dpi=110)
    return image


if __name__ == "__main__":
    print(main())
