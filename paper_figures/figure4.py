"""Figure 4 of the paper: C_Th2 - C_Th1 over model error and rollout length, with the closed-form crossover on top."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import bounds
from analysis.drawing.style import INK, page
from bounds.bound import FloatArray
from bounds.paper import crossover_rollout_length
from paper_figures.command import run_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

IMAGE = Path("docs/images/figure4.png")
IMAGES = {"out": IMAGE}
DISCOUNTS = (0.85, 0.9, 0.95)
LONGEST_ROLLOUT = 50
MODEL_ERRORS = 201
# The crossover runs to infinity at a model error between two grid points, so its line needs a finer grid.
CROSSOVER_POINTS = 20_001


@dataclass(frozen=True, eq=False)
class Panel:
    """One panel.

    Attributes:
        title: what is fixed in it.
        discount: gamma.
        model_error: [M], the horizontal axis.
        policy_divergence: [M], eps_pi at each model error.
        rollout_length: [K], the vertical axis.
        difference: [K, M], branched minus full-model discrepancy for r_max = 1; negative where branching is preferred.
        colour_limit: the colours run from minus this to this; the same for the panels of one gamma.
        crossover: [2, C], model error and k* of Theorem 2 over Theorem 1 where k* is on the axis; C = 0 if nowhere.
    """

    title: str
    discount: float
    model_error: FloatArray
    policy_divergence: FloatArray
    rollout_length: FloatArray
    difference: FloatArray
    colour_limit: float
    crossover: FloatArray


# Title of a row, and its eps_pi as a function of eps_m.
Row = tuple[str, Callable[[FloatArray], FloatArray]]
# The paper's: no policy divergence, and one that falls as the model error grows.
ROWS: tuple[Row, ...] = (
    ("$\\epsilon_\\pi = 0$", np.zeros_like),
    ("$\\epsilon_\\pi = 1 - \\epsilon_m$", lambda model_error: 1 - model_error),
)


def load(
    branched: str = "m3po-th2", full: str = "m3po-th1", rows: Sequence[Row] = ROWS
) -> tuple[tuple[Panel, ...], ...]:
    """Six panels: a row for each policy divergence, columns gamma = 0.85, 0.9, 0.95.

    Args:
        branched: the catalogue's name of the bound to subtract from.
        full: the catalogue's name of the bound to subtract.
        rows: the policy divergences.
    """
    columns = [_column(discount, branched, full, rows) for discount in DISCOUNTS]
    return tuple(zip(*columns, strict=True))


def _column(discount: float, branched: str, full: str, rows: Sequence[Row]) -> list[Panel]:
    model_error = np.linspace(0, 1, MODEL_ERRORS)
    fine = np.linspace(0, 1, CROSSOVER_POINTS)
    rollout_length = np.arange(1, LONGEST_ROLLOUT + 1)
    differences = []
    for _, policy_divergence in rows:
        errors: dict[str, Any] = {"discount": discount, "model_error": model_error}
        errors["policy_divergence"] = policy_divergence(model_error)
        branched_values = bounds.get(branched).evaluate(**errors, rollout_length=rollout_length[:, None])
        differences.append(branched_values - bounds.get(full).evaluate(**errors))
    panels = []
    for (name, policy_divergence), difference in zip(rows, differences, strict=True):
        crossover = crossover_rollout_length(
            discount=discount, model_error=fine, policy_divergence=policy_divergence(fine)
        )
        on_the_axis = crossover <= LONGEST_ROLLOUT
        panels.append(
            Panel(
                title=f"{name},  $\\gamma = {discount}$",
                discount=discount,
                model_error=model_error,
                policy_divergence=policy_divergence(model_error),
                rollout_length=rollout_length.astype(np.float64),
                difference=difference,
                colour_limit=float(np.max(np.abs(differences))),
                crossover=np.stack([fine[on_the_axis], crossover[on_the_axis]]),
            )
        )
    return panels


def draw(
    axes: Sequence[Sequence[Axes]],
    rows: tuple[tuple[Panel, ...], ...],
    *,
    difference_label: str = "$C_\\mathrm{Th2} - C_\\mathrm{Th1}$",
    notes: Sequence[str] | None = None,
) -> None:
    """Every panel on its axes [2][3]: colours centred at zero, one colour bar for each column.

    On top is the crossover k*, or, if there are ``notes``, one note for each row.
    """
    for row, panels in enumerate(rows):
        for column, panel in enumerate(panels):
            here = axes[row][column]
            mesh = here.pcolormesh(
                panel.model_error,
                panel.rollout_length,
                panel.difference,
                cmap="RdBu_r",
                vmin=-panel.colour_limit,
                vmax=panel.colour_limit,
                shading="nearest",
                rasterized=True,
            )
            if notes is None:
                _draw_crossover(here, panel)
            else:
                _note(here, notes[row])
            here.set_title(panel.title, loc="center", fontsize=9)
            here.set_xlim(0, 1)
            here.set_ylim(0.5, LONGEST_ROLLOUT + 0.5)
            here.set_yticks([1, 10, 20, 30, 40, 50])
            here.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "0.25", "0.5", "0.75", "1"])
            if column == 0:
                here.set_ylabel("rollout length $k$")
            if row < len(rows) - 1:
                continue
            here.set_xlabel("model error $\\epsilon_m$")
            bar = here.figure.colorbar(
                mesh, ax=[upper[column] for upper in axes], orientation="horizontal", shrink=0.9, aspect=28
            )
            bar.outline.set_visible(False)
            bar.set_label(difference_label)


def _draw_crossover(axes: Axes, panel: Panel) -> None:
    if panel.crossover.size == 0:
        _note(axes, "branched preferred for every $k$")
        return
    axes.plot(*panel.crossover, color=INK, linewidth=1.6)
    _note(axes, "full model preferred\nleft of $k^*$")


def _note(axes: Axes, text: str) -> None:
    axes.annotate(text, xy=(0.97, 0.95), xycoords="axes fraction", ha="right", va="top", fontsize=8)


def figures() -> tuple[Figure]:
    """Compute and draw."""
    figure = page(5.2)
    draw(figure.subplots(2, 3, sharex=True, sharey=True), load())
    return (figure,)


def cli(arguments: Sequence[str] | None = None) -> None:
    run_figure(figures, IMAGES, arguments, module="paper_figures.figure4", text=str(__doc__))


if __name__ == "__main__":
    cli()
