"""Figure 7's question: M3PO, PEARL and L2A under one protocol, with what uniform actions earn.

The curves are those of ``analysis.comparison``, the dashed lines of ``analysis.evaluation`` and ``analysis.anchors``;
docs/baselines.md holds the commands and the commits that made the tables.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from analysis.drawing.curves import ANCHOR_COLOURS, ANCHOR_LABELS
from analysis.drawing.style import ALGORITHM_COLOURS
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


def draw(axes: Sequence[Axes], panels: Sequence[Panel]) -> None:
    """Thin lines for seeds, a thick one for their mean."""
    from matplotlib.ticker import MaxNLocator

    for here, panel in zip(axes, panels, strict=True):
        for name, seeds in panel.curves.items():
            colour = ALGORITHM_COLOURS[name]
            count = len(seeds)
            for points in seeds.values():
                here.plot(*points.T, color=colour, lw=0.7, alpha=0.4)
            label = f"{name} ({count} seed{'s' if count > 1 else ''})"
            here.plot(*np.mean(list(seeds.values()), axis=0).T, color=colour, lw=2.0, label=label)
        for name, value in panel.lines.items():
            here.axhline(value, color=ANCHOR_COLOURS[name], lw=1.0, ls="--", zorder=0)
            below = name == "filter"
            here.annotate(
                ANCHOR_LABELS[name], (0.0, value), xycoords=("axes fraction", "data"), xytext=(3, -2 if below else 2),
                textcoords="offset points", fontsize=6.5, va="top" if below else "bottom", color=ANCHOR_COLOURS[name],
            )  # fmt: skip
        here.set_title(panel.env_id.removeprefix("m3po/").removesuffix("-v0"), loc="left")
        here.set_xlabel("real environment steps")
        here.xaxis.set_major_locator(MaxNLocator(5))
        here.margins(y=0.08)
        here.legend(loc="best", fontsize=7)
    axes[0].set_ylabel("return of an episode")


def figures() -> tuple[Figure]:
    """Draw the figure."""
    from matplotlib.figure import Figure

    panels = load()
    figure = Figure(figsize=(4.0 * len(panels), 3.6), dpi=110, layout="constrained")
    draw(figure.subplots(1, len(panels), squeeze=False)[0], panels)
    figure.suptitle(
        "episodes per evaluation: 50 on the point mass, 5 on the cheetahs (L2A 3); tasks switch within episodes",
        x=0.01, ha="left", fontsize=8,
    )  # fmt: skip
    return (figure,)


def cli(arguments: Sequence[str] | None = None) -> None:
    run_figure(figures, IMAGES, arguments, module="paper_figures.figure7", text=str(__doc__))


if __name__ == "__main__":
    cli()
