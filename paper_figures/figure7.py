"""Figure 7's question: M3PO, PEARL and L2A under one protocol, with what uniform actions earn.

Each line is the mean over seeds, each band its 95% Student interval; tasks switch within episodes. An evaluation has 50
episodes on the point mass, 5 on the cheetahs (L2A 3). The curves are those of ``analysis.comparison``, the dashed lines
of ``analysis.evaluation`` and ``analysis.anchors``; docs/baselines.md holds the commands and the commits that made the
tables.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from analysis.drawing.curves import draw_anchors, plot_mean
from analysis.drawing.style import ALGORITHM_COLOURS, legend_of_all, page
from analysis.runs.anchors import committed_anchors
from analysis.runs.csv_lines import read_lines
from analysis.runs.run_table import CURVE_COLUMNS, curves_of
from paper_figures.command import run_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DATA = Path(__file__).parent / "data"
CURVES = DATA / "comparison.csv"
FINALS = DATA / "comparison_finals.csv"
IMAGE = Path("docs/images/figure7.png")
IMAGES = {"out": IMAGE}
ANCHOR_OF = {"uniform actions": "random"}
POINT_MASS = "m3po/SwitchingPointMass-v0"
# Where one of a panel's curves has more evaluations than this, the panel shows averages over this many windows.
MANY, WINDOWS = 50, 20


@dataclass(frozen=True, eq=False)
class Panel:
    """One environment.

    Attributes:
        env_id: of it.
        curves: algorithm -> seed -> (step, return) of every evaluation [E, 2].
        lines: name -> return of what the curves are to be read against.
    """

    env_id: str
    curves: dict[str, dict[int, NDArray[np.float64]]]
    lines: dict[str, float]


def load(curves: Path = CURVES, finals: Path = FINALS) -> tuple[Panel, ...]:
    """One panel per environment of the table, the point mass first."""
    rows = read_lines(curves, ("environment", *CURVE_COLUMNS), cut="refused")
    uniform = read_lines(finals, ("environment", "variant", "return"), cut="refused")
    if not rows:
        raise ValueError(f"{curves} has no rows")
    earned = [(row.cells["environment"], row.cells["variant"], row.number("return")) for row in uniform]
    panels = []
    for env_id in sorted({row.cells["environment"] for row in rows}, key=lambda name: (name != POINT_MASS, name)):
        found = curves_of([row for row in rows if row.cells["environment"] == env_id], ALGORITHM_COLOURS)
        lines = {
            ANCHOR_OF[variant]: value for where, variant, value in earned if where == env_id and variant in ANCHOR_OF
        }
        if env_id == POINT_MASS:
            lines = committed_anchors()
        if not lines:
            raise ValueError(f"{finals} has no row of {', '.join(ANCHOR_OF)} in {env_id}")
        panels.append(Panel(env_id, found, lines))
    return tuple(panels)


def window_of(curves: Sequence[NDArray[np.float64]]) -> float:
    """Over how many steps the evaluations of a panel are averaged: a ``WINDOWS``-th, 0 where none has many."""
    many = any(points.shape[1] > MANY for points in curves)
    return float(max(points[0, -1, 0] for points in curves)) / WINDOWS if many else 0.0


def in_windows(points: NDArray[np.float64], window: float) -> NDArray[np.float64]:
    """Means of each seed's (step, return) over windows (i w, (i + 1) w] of steps. Shapes [S, E, 2] -> [S, W, 2]."""
    if not window:
        return points
    places = np.ceil(points[0, :, 0] / window)
    return np.stack([points[:, places == place].mean(axis=1) for place in np.unique(places)], axis=1)


def draw(axes: Sequence[Axes], panels: Sequence[Panel]) -> None:
    """One environment in each of the axes: means over seeds with intervals, and what they are to be read against."""
    from matplotlib.ticker import MaxNLocator

    for here, panel in zip(axes, panels, strict=True):
        curves = {name: np.array(list(seeds.values())) for name, seeds in panel.curves.items()}
        window = window_of(list(curves.values()))
        for name, points in curves.items():
            averaged = in_windows(points, window)
            plot_mean(here, averaged[0, :, 0], averaged[:, :, 1], ALGORITHM_COLOURS[name], name)
        draw_anchors(here, panel.lines)
        seeds = " or ".join(str(count) for count in sorted({len(points) for points in curves.values()}))
        pooled = f", mean over {window:,.0f} steps" if window else ""
        here.set_title(f"{panel.env_id}\n{seeds} seeds{pooled}", fontsize=9)
        here.set_xlabel("real environment steps")
        here.xaxis.set_major_locator(MaxNLocator(4))
        here.set_ylabel("return of an episode")


def figures() -> tuple[Figure]:
    """Draw the figure."""
    panels = load()
    rows = (len(panels) + 1) // 2
    figure = page(2.9 * rows)
    axes = list(figure.subplots(rows, 2, squeeze=False).flat)[: len(panels)]
    draw(axes, panels)
    legend_of_all(axes)
    return (figure,)


def cli(arguments: Sequence[str] | None = None) -> None:
    run_figure(figures, IMAGES, arguments, module="paper_figures.figure7", text=str(__doc__))


if __name__ == "__main__":
    cli()
