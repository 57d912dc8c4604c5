"""The figure of an audit: measured gaps inside their discrepancies, and the error profiles."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from analysis.guarantee.guarantee import Guarantee
from analysis.runs.outputs import Output, files_of, mark_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def draw(found: Guarantee) -> Figure:
    """Left: the measured gap inside every discrepancy. Right: the error profiles over time."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.5, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[1.35, 1])
    draw_gaps(left, found)
    left.set_title("fresh data of the policy itself: " + found.verdict, loc="left")
    draw_profiles(right, found)
    right.set_title("measured error profiles", loc="left")
    return figure


def draw_gaps(axes: Axes, found: Guarantee) -> None:
    """The measured |gap| inside every discrepancy, from the policy's own episodes."""
    rows = found.own.checks[::-1]
    colours = {"holds": "#0072b2", "violated": "#d55e00", "surrogate": "#8a8a8a"}
    for place, row in enumerate(rows):
        colour = colours["surrogate"] if row.vacuous else colours[row.verdict]
        axes.barh(place, row.discrepancy, color=colour, alpha=0.35, height=0.62)
        ends_of_gap = sorted((abs(row.gap.lower), abs(row.gap.upper)))
        straddles = row.gap.lower < 0 < row.gap.upper
        axes.plot([1e-9 if straddles else ends_of_gap[0], ends_of_gap[1]], [place, place], color="#262626", lw=3)
        axes.plot(abs(row.gap.estimate), place, "o", color="#262626", ms=4)
    axes.axvline(found.trivial, color="#8a8a8a", ls="--", lw=1.2)
    axes.text(found.trivial, len(rows) - 0.35, "trivial", ha="center", va="bottom", color="#5a5a5a", fontsize=8)
    axes.set_yticks(range(len(rows)), [f"{row.name}, {row.scheme}" for row in rows])
    axes.set_xscale("log")
    smallest = min(max(abs(row.gap.estimate), 1e-3) for row in rows)
    axes.set_xlim(smallest / 3, 2 * max(found.trivial, *(row.discrepancy for row in rows)))
    axes.set_xlabel("units of return: bar = discrepancy (grey: vacuous), dot and line = measured |gap|")


def draw_profiles(axes: Axes, found: Guarantee) -> None:
    """Model error and policy divergence over the time steps of an episode, both data policies."""
    for part, colour, label in (
        (found.own, "#0072b2", "policy's own data"),
        (found.previous, "#e69f00", "previous policy's data"),
    ):
        measured = part.estimates
        axes.plot(measured.model_error.estimate[:-1], color=colour, lw=1.4, label=f"model error, {label}")
        if part is found.previous:
            axes.plot(measured.policy_divergence.estimate, color=colour, lw=1.4, ls=":", label="policy divergence")
    axes.set_ylim(0, 1)
    axes.set_xlabel("time step $t$ of the episode")
    axes.set_ylabel("mean total variation")
    axes.legend(loc="upper right")


def figure_output(path: Path, run_dir: Path, *, overwrite: bool = False) -> Output:
    """The figure as a file that may be written."""
    return Output("figure", path, mark_of("analysis.check_guarantee"), overwrite, files_of(run_dir)).check()


def write_figure(found: Guarantee, output: Output) -> None:
    """Draw and write it."""
    from analysis.drawing.style import figure_style

    with figure_style():
        output.write_figure(draw(found))
