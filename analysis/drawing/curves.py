"""Learning curves between their anchors."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from analysis.drawing.style import legend_below, page
from analysis.runs.curves import Curves
from analysis.runs.over_seeds import student_interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Colours are for what is compared; what it is compared with is grey.
ANCHOR_COLOUR = "#5a5a5a"

ANCHOR_LABELS = {
    "oracle": "oracle: knows the task",
    "filter": "exact belief about the task",
    "memoryless": "best found without memory",
    "random": "random actions",
}

ANCHOR_DASHES = {"oracle": (0, (6, 2)), "filter": (0, (2, 2)), "memoryless": (0, (6, 2, 1, 2)), "random": (0, (1, 2))}

COLOUR = "#0072b2"


def plot_mean(
    axes: Axes, steps: NDArray[np.float64], values: NDArray[np.float64], colour: str, label: str, style: str = "-"
) -> None:
    """Mean over seeds with its 95% Student interval as a band, none for a single seed. Shapes [E], [S, E]."""
    mean, lower, upper = student_interval(values)
    if len(values) > 1:
        axes.fill_between(steps, lower, upper, color=colour, alpha=0.18, lw=0)
    axes.plot(steps, mean, color=colour, ls=style, label=label)


def draw_anchors(axes: Axes, anchors: dict[str, float]) -> None:
    """What other policies get, as dashed lines; their names are for the legend."""
    for name, value in anchors.items():
        label = ANCHOR_LABELS[name]
        axes.axhline(value, color=ANCHOR_COLOUR, lw=1.2, ls=ANCHOR_DASHES[name], label=label, zorder=0)


def draw(curves: Curves, anchors: dict[str, float]) -> Figure:
    """Returns with the anchors; model error with the Bayes filter's; policy divergence."""
    # A baseline has no errors of a model to draw.
    with_errors = curves.values.keys() >= {"eps_pi_mean", "eps_pi_sample_max"}
    figure = page(6.6 if with_errors else 3.6)
    axes = figure.subplot_mosaic([["return", "return"], ["model", "policy"]] if with_errors else [["return"]])
    _plot(axes["return"], curves, "return", COLOUR, "M3PO" if with_errors else "deterministic policy")
    draw_anchors(axes["return"], anchors)
    count = len(curves.seeds)
    axes["return"].set_title(
        f"return of an episode, {curves.env_id}: {f'mean of {count} seeds, 95% interval' if count > 1 else 'one seed'}"
    )
    legend_below(axes["return"], columns=3)
    if with_errors:
        _draw_model_error(axes["model"], curves)
        _draw_policy_divergence(axes["policy"], curves)
    for each in axes.values():
        each.set_xlabel("real environment steps")
    return figure


def _plot(axes: Axes, curves: Curves, name: str, colour: str, label: str, style: str = "-") -> None:
    plot_mean(axes, curves.steps, curves.values[name], colour, label, style)


def _draw_model_error(axes: Axes, curves: Curves) -> None:
    axes.set_title("model error, held-out episodes")
    if curves.values.keys() >= {"eps_m", "eps_m_mean"}:
        _plot(axes, curves, "eps_m", COLOUR, r"$\epsilon_m$: largest over time")
        _plot(axes, curves, "eps_m_mean", "#e69f00", "mean over time")
        if curves.values.keys() >= {"bayes_eps_m", "bayes_eps_m_mean"}:
            _plot(axes, curves, "bayes_eps_m", COLOUR, "exact filter: largest", ":")
            _plot(axes, curves, "bayes_eps_m_mean", "#e69f00", "exact filter: mean", ":")
        axes.set_ylim(0, 1)
        legend_below(axes)


def _draw_policy_divergence(axes: Axes, curves: Curves) -> None:
    _plot(axes, curves, "eps_pi_mean", "#cc79a7", "mean over histories")
    _plot(axes, curves, "eps_pi_sample_max", "#5a5a5a", r"sample maximum (at most $\epsilon_\pi$)")
    axes.set_ylim(0, 1.05)
    axes.set_title("policy divergence over one epoch")
    legend_below(axes)
