"""The figure of an audit: measured gaps inside their discrepancies, and the error profiles."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from analysis.drawing.style import INK, TRIVIAL_COLOUR, figure_style, legend_below, stacked
from analysis.guarantee.guarantee import Guarantee
from analysis.runs.outputs import Output, files_of, mark_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


# Of the trivial gap, where the axis ends: larger discrepancies say nothing, by how much is not of interest.
END = 1.7


def draw(found: Guarantee) -> Figure:
    """Above: the measured gap inside every discrepancy. Below: the error profiles over time."""
    figure, parts = stacked(1.3 + 0.24 * len(found.own.checks), 2.9)
    above, below = (part.subplots() for part in parts)
    draw_gaps(above, found)
    above.set_title("fresh data of the policy itself: " + found.verdict)
    legend_below(above, columns=3)
    draw_profiles(below, found)
    below.set_title("measured error profiles")
    return figure


def draw_gaps(axes: Axes, found: Guarantee) -> None:
    """The measured gap, with its sign, within plus and minus every discrepancy, from the policy's own episodes."""
    rows, end = found.own.checks[::-1], END * found.trivial
    colours = {"holds": "#0072b2", "violated": "#d55e00", "surrogate": TRIVIAL_COLOUR}
    for place, row in enumerate(rows):
        reach = min(row.discrepancy, end)
        axes.barh(
            place, 2 * reach, left=-reach, color=TRIVIAL_COLOUR if row.vacuous else colours[row.verdict], alpha=0.35,
            height=0.62,
        )  # fmt: skip
        if row.discrepancy > end:
            axes.text(
                0.97 * end, place, f"± {row.discrepancy:.0f}", ha="right", va="center", color="#5a5a5a", fontsize=8
            )
        axes.plot([row.gap.lower, row.gap.upper], [place, place], color=INK, lw=3)
        axes.plot(row.gap.estimate, place, "o", color=INK, ms=4)
    for side in (-1, 1):
        axes.axvline(side * found.trivial, ymax=0.95, color=TRIVIAL_COLOUR, ls="--", lw=1.2)
        axes.text(
            side * found.trivial, len(rows) - 0.45, "trivial", ha="center", va="bottom", color="#5a5a5a", fontsize=8
        )
    axes.axvline(0, color=INK, lw=0.8, zorder=0)
    axes.set_yticks(range(len(rows)), [f"{row.name}, {row.scheme}" for row in rows])
    axes.set_xlim(-end, end)
    axes.set_ylim(-0.6, len(rows))
    axes.set_xlabel("true minus promised return")
    for verdict in dict.fromkeys(row.verdict for row in rows if not row.vacuous):
        axes.barh(0, 0, color=colours[verdict], alpha=0.35, label=f"discrepancy: {verdict}")
    axes.barh(0, 0, color=TRIVIAL_COLOUR, alpha=0.35, label="vacuous")
    axes.plot([], [], "o-", color=INK, lw=3, ms=4, label="measured gap")


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
    legend_below(axes, columns=2)


def figure_output(path: Path, run_dir: Path, *, overwrite: bool = False) -> Output:
    """The figure as a file that may be written."""
    return Output("figure", path, mark_of("analysis.check_guarantee"), overwrite, files_of(run_dir)).check()


def write_figure(found: Guarantee, output: Output) -> None:
    """Draw and write it."""
    with figure_style():
        output.write_figure(draw(found))
