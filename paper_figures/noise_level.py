"""How much process noise makes the half cheetah certifiable, and what the noise does to its return.

Two tables, resumable; the trainings are shared:

    python -m analysis.noise_level --out paper_figures/data/noise_level_5000.csv --runs runs --scaled 0.1 1.0 0.3 \
        --equal --samples 5000 --training-steps 2000 --episodes 60 --model-updates 1000
    python -m analysis.noise_level --out paper_figures/data/noise_level_20000.csv --runs runs --scaled 1.0 0.1 0.3 \
        --equal --samples 20000 --training-steps 2000 --episodes 200 --model-updates 3000

How the return of a policy that can run suffers was measured apart, by 12 episodes of 200 steps of the deterministic
policy of a training of 20,000 real steps without noise (m3po/HalfCheetahFwdBwd-v0, seed 1); noise_level_runner.csv has
the noise in standard deviations, the mean return and its standard error.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from analysis.drawing.style import INK, TRIVIAL_COLOUR
from analysis.runs.resumable_table import read_rows
from analysis.studies.noise_level import KINDS, NoiseRow
from bounds.bound import FloatArray
from paper_figures.command import run_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DATA = tuple(Path(__file__).parent / "data" / f"noise_level_{samples}.csv" for samples in (5000, 20000))
RUNNER = DATA[0].with_name("noise_level_runner.csv")
IMAGE = Path("docs/images/noise_level.png")
IMAGES = {"out": IMAGE}
COLOURS = {"scaled": "#0072b2", "equal": "#e69f00"}


@dataclass(frozen=True)
class Series:
    """Rows of one kind of noise and one sample size, by level."""

    kind: str
    samples: int
    rows: tuple[NoiseRow, ...]


def load(data: Sequence[Path] = DATA) -> tuple[Series, ...]:
    """The landed rows."""
    rows = []
    for path in data:
        found = read_rows(path, NoiseRow, finite=True)
        if not found:
            raise ValueError(f"{path} has no rows")
        rows += found
    return tuple(
        Series(kind, samples, tuple(sorted(chosen, key=lambda row: row.level)))
        for kind in KINDS
        for samples in sorted({row.samples for row in rows})
        if (chosen := [row for row in rows if (row.kind, row.samples) == (kind, samples)])
    )


def draw(axes: Sequence[Axes], series: Sequence[Series], runner: FloatArray) -> None:
    """Left: the certificate against the noise. Right: what the noise does to the return of a policy that can run.

    ``runner`` [N, 3]: the noise, 0 first, the mean return and its standard error.
    """
    shares, returns = axes
    largest = max(each.samples for each in series)
    for each in series:
        levels = [row.level for row in each.rows]
        full, colour = each.samples == largest, COLOURS[each.kind]
        label = f"{each.samples:,} transitions"
        shares.plot(levels, [row.share for row in each.rows], "o-" if full else "o:", ms=4, color=colour, label=label)
        shares.plot(levels, [row.model_error for row in each.rows], "x" if full else "+", ms=5, color=INK)
    shares.plot([], [], "x", ms=4, color=INK, label="mean total variation of the model (+: 5,000)")
    shares.axhline(1.0, color=TRIVIAL_COLOUR, lw=1)
    shares.axhline(0.5, color=TRIVIAL_COLOUR, ls="--", lw=1)
    shares.set_ylim(0, 1.3)
    shares.set_title("certificate with confidence (k = 1, own data), of the trivial gap", loc="left", fontsize=9)
    shares.legend(loc="lower left", fontsize=7.5)
    noises, means, errors = runner[1:].T
    returns.errorbar(noises, means, errors, fmt="o-", ms=4, color=COLOURS["scaled"], capsize=2, lw=1.4)
    returns.axhline(runner[0, 1], color=TRIVIAL_COLOUR, ls="--", lw=1)
    returns.text(noises[0], runner[0, 1] + 15, "without noise", color="#5a5a5a", fontsize=7.5, va="bottom")
    returns.axhline(0, color=TRIVIAL_COLOUR, lw=0.8)
    returns.set_title("return of a policy that runs (200 steps, standard error)", loc="left", fontsize=9)
    for here in axes:
        here.set_xscale("log")
        here.set_xlim(0.008, 1.3)
        here.set_xlabel("process noise per step, in coordinates' standard deviations")


def figures() -> tuple[Figure]:
    """Draw the figure."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.0, 3.7), dpi=110, layout="constrained")
    draw(figure.subplots(1, 2), load(), np.loadtxt(RUNNER, delimiter=",", skiprows=1))
    return (figure,)


def cli(arguments: Sequence[str] | None = None) -> None:
    run_figure(figures, IMAGES, arguments, module="paper_figures.noise_level", text=str(__doc__))


if __name__ == "__main__":
    cli()
