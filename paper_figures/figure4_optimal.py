"""Figure 4 for the optimal bounds, and paper, linear and optimal discrepancies beside the trivial one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import bounds
from analysis.drawing.style import BOUND_COLOURS, BOUND_LABELS, TRIVIAL_COLOUR, legend_of_all, page
from bounds.bound import FloatArray
from paper_figures import figure4
from paper_figures.command import run_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PANELS_IMAGE = Path("docs/images/figure4_optimal.png")
TIGHTNESS_IMAGE = Path("docs/images/bounds_tightness.png")
IMAGES = {"out": PANELS_IMAGE, "tightness_out": TIGHTNESS_IMAGE}
COMPARED = ("m3po-th1", "m3po-th2", "linear-full", "linear-branched", "optimal-full", "optimal-branched")
# What the other two are while one varies; k = 1 for the branched bounds.
FIXED = {"model_error": 0.01, "policy_divergence": 0.01, "discount": 0.95}
POINTS = 241
# In the paper's second row, eps_pi = 1 - eps_m, both optimal bounds are at gamma R/(1-gamma) and nothing is to be seen.
ROWS: tuple[figure4.Row, ...] = (
    figure4.ROWS[0],
    ("$\\epsilon_\\pi = 0.05$", lambda model_error: np.minimum(0.05, 1 - model_error)),
)


@dataclass(frozen=True, eq=False)
class Sweep:
    """Discrepancies while one quantity varies and the two others stay.

    Attributes:
        label: the name of the horizontal axis.
        fixed: what stays, for the title.
        x: [N], the horizontal axis: an error, or the effective horizon 1/(1-gamma).
        share: per bound [N], discrepancy over the trivial R/(1-gamma).
    """

    label: str
    fixed: str
    x: FloatArray
    share: dict[str, FloatArray]


def load() -> tuple[Sweep, ...]:
    """Against model error, policy divergence, and effective horizon."""
    errors = np.geomspace(1e-4, 1, POINTS)
    horizons = np.geomspace(2, 1000, POINTS)
    names = {"model_error": "\\epsilon_m", "policy_divergence": "\\epsilon_\\pi", "discount": "\\gamma"}
    sweeps = []
    for varied, label, x, values in (
        ("model_error", "model error $\\epsilon_m$", errors, errors),
        ("policy_divergence", "policy divergence $\\epsilon_\\pi$", errors, errors),
        ("discount", "effective horizon $1/(1-\\gamma)$", horizons, 1 - 1 / horizons),
    ):
        arguments: dict[str, Any] = {**FIXED, varied: values}
        trivial = 2 / (1 - np.asarray(arguments["discount"]))
        sweeps.append(
            Sweep(
                label=label,
                fixed=",  ".join(f"${names[name]} = {FIXED[name]:g}$" for name in FIXED if name != varied),
                x=x,
                share={name: bounds.get(name).evaluate(**arguments) / trivial for name in COMPARED},
            )
        )
    return tuple(sweeps)


def draw(axes: Sequence[Axes], sweeps: tuple[Sweep, ...]) -> None:
    """One panel for each sweep; the grey region is vacuous."""
    for column, (here, sweep) in enumerate(zip(axes, sweeps, strict=True)):
        here.axhspan(1, 1e4, color=TRIVIAL_COLOUR, alpha=0.12, linewidth=0)
        here.axhline(1, color=TRIVIAL_COLOUR, linewidth=1.2)
        for name in COMPARED:
            full = bounds.get(name).scheme == "full"
            here.plot(
                sweep.x,
                sweep.share[name],
                color=BOUND_COLOURS[name],
                linestyle=(0, (4, 2)) if full else "-",
                label=BOUND_LABELS[name] + ("" if full else ", $k = 1$"),
            )
        here.set_xscale("log")
        here.set_yscale("log")
        here.set_xlim(sweep.x[0], sweep.x[-1])
        here.set_ylim(1e-2, 1e2)
        here.set_yticks([0.01, 0.1, 1, 10, 100], ["1%", "10%", "100%", "1,000%", "10,000%"])
        here.set_title(sweep.fixed)
        here.set_xlabel(sweep.label)
        here.tick_params(which="minor", length=0)
        if column != 1:
            here.set_ylabel("over trivial $R/(1-\\gamma)$")
        if column == 0:
            here.annotate("vacuous", xy=(0.04, 0.97), xycoords="axes fraction", va="top", fontsize=8)


def figures() -> tuple[Figure, Figure]:
    """The panels, and how tight they are."""
    panels = page(5.2)
    figure4.draw(
        panels.subplots(2, 3, sharex=True, sharey=True),
        figure4.load("optimal-branched", "optimal-full", ROWS),
        difference_label="$C^*_\\mathrm{branch}(k) - C^*_\\mathrm{full}$",
        notes=("branched preferred for every $k$",) * 2,
    )
    tightness = page(5.4)
    axes = list(tightness.subplots(2, 2).flat)[:3]
    draw(axes, load())
    legend_of_all(axes)
    return panels, tightness


def cli(arguments: Sequence[str] | None = None) -> None:
    run_figure(figures, IMAGES, arguments, module="paper_figures.figure4_optimal", text=str(__doc__))


if __name__ == "__main__":
    cli()
