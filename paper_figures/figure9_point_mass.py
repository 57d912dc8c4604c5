"""Figure 9's question on SwitchingPointMass: rollout length, full-model rollouts, and the variants beside them.

The table: five seeds of 7,000 real steps each, 50 evaluation episodes per point, by

    for seed in 0 1 2 3 4; do
      for k in 1 3 5 10; do python -m m3po.train --run-dir runs/k$k-$seed --rollout-length $k --seed $seed; done
      python -m m3po.train --run-dir runs/full-$seed --algorithm m3po-full --seed $seed
      python -m m3po.train --run-dir runs/h-$seed --algorithm m3po-h --seed $seed
      python -m m3po.train --run-dir runs/memoryless-$seed --history-length 0 --seed $seed
    done
    python -m analysis.variants runs/* --out paper_figures/data/variants_switching_point_mass.csv
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from analysis.drawing.curves import draw_anchors
from analysis.drawing.style import VARIANT_COLOURS, stacked
from analysis.runs.anchors import committed_anchors
from analysis.runs.csv_lines import read_lines
from analysis.runs.over_seeds import student_interval
from analysis.runs.run_table import CURVE_COLUMNS, curves_of
from paper_figures.command import run_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DATA = Path(__file__).parent / "data" / "variants_switching_point_mass.csv"
IMAGE = Path("docs/images/figure9_point_mass.png")
IMAGES = {"out": IMAGE}


@dataclass(frozen=True, eq=False)
class Variant:
    """The learning curves of one variant.

    Attributes:
        name: as in the table.
        steps: [E] real environment steps.
        returns: [S, E], one row per seed.
        mean, lower, upper: [E], with 95% Student intervals over seeds.
    """

    name: str
    steps: NDArray[np.float64]
    returns: NDArray[np.float64]
    mean: NDArray[np.float64]
    lower: NDArray[np.float64]
    upper: NDArray[np.float64]


def load(data: Path = DATA) -> tuple[Variant, ...]:
    """The table's variants, in the order of ``VARIANT_COLOURS``."""
    variants = []
    lines = read_lines(data, CURVE_COLUMNS, cut="refused")
    if not lines:
        raise ValueError(f"{data} has no rows")
    for name, seeds in curves_of(lines, VARIANT_COLOURS).items():
        points = np.array(list(seeds.values()))
        if len(seeds) < 2:
            raise ValueError(f"{data}: an interval over seeds needs at least 2 of them, {name} has {len(seeds)}")
        returns = points[:, :, 1]
        variants.append(Variant(name, points[0, :, 0], returns, *student_interval(returns)))
    if len({(len(each.returns), *each.steps) for each in variants}) > 1:
        raise ValueError(f"{data}: the variants differ in their numbers of seeds or in their steps")
    return tuple(variants)


def draw(axes: Sequence[Axes], variants: Sequence[Variant], anchors: dict[str, float]) -> None:
    """Above: mean learning curves. Below: the final evaluation of every seed, with the mean and its interval."""
    curves, finals = axes
    for place, variant in enumerate(variants):
        colour = VARIANT_COLOURS[variant.name]
        curves.plot(variant.steps, variant.mean, color=colour, label=variant.name)
        finals.plot(
            np.full(len(variant.returns), place), variant.returns[:, -1], "o", color=colour, alpha=0.45, markersize=4,
            markeredgewidth=0,
        )  # fmt: skip
        mean, below, above = (values[-1] for values in (variant.mean, variant.lower, variant.upper))
        finals.errorbar(
            place + 0.22, mean, [[mean - below], [above - mean]], fmt="_", color=colour, capsize=3, markersize=9
        )
    for here in axes:
        draw_anchors(here, anchors)
        here.set_ylim(-5, 90)
        here.set_ylabel("return of an episode")
    curves.set_xlabel("real environment steps")
    curves.set_title(f"mean of {len(variants[0].returns)} seeds")
    curves.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    finals.set_xticks(range(len(variants)), [variant.name for variant in variants], fontsize=9)
    finals.set_title("final evaluation: seeds, and mean with 95% interval")


def figures() -> tuple[Figure]:
    """Draw the figure."""
    figure, parts = stacked(3.1, 3.1)
    draw([part.subplots() for part in parts], load(), committed_anchors())
    return (figure,)


def cli(arguments: Sequence[str] | None = None) -> None:
    run_figure(figures, IMAGES, arguments, module="paper_figures.figure9_point_mass", text=str(__doc__))


if __name__ == "__main__":
    cli()
