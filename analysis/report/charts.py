"""The drawings of ``analysis.report``: small figures that stay readable on a phone. Each draws what it is given."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from analysis.diagnostics.intervals import Ends
from analysis.drawing.curves import draw_anchors, plot_mean
from analysis.drawing.style import BOUND_COLOURS, BOUND_LABELS, legend_below
from analysis.runs.curves import Curves
from analysis.theory import figures
from analysis.theory.comparison import CompareConfig

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = NDArray[np.float64]

Rows = Sequence[dict[str, Any]]

BLUE, ORANGE, GREEN, PINK, GREY, INK = "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#8a8a8a", "#262626"

PART_COLOURS = {
    "policy": PINK, "model": BLUE, "reward": GREEN, "sampling": "#e69f00", "tail": GREY,
}  # fmt: skip

PART_LABELS = {
    "policy": "policy divergence",
    "model": "model error",
    "reward": "reward error",
    "sampling": "sampling allowance",
    "tail": "tail after the horizon",
}


def chart(height: float = 3.1) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.4, height), layout="constrained")
    return figure, figure.subplots()


def series(rows: Rows, name: str) -> Array | None:
    """One logged number over the epochs, NaN where a row lacks it; None where all do. [E]."""
    values = [row.get(name) for row in rows]
    if not any(isinstance(value, int | float) for value in values):
        return None
    return np.array([value if isinstance(value, int | float) else np.nan for value in values], dtype=np.float64)


def profiles(rows: Rows, name: str) -> list[tuple[int, Array]]:
    """(step, profile) of the first, the middle and the last epoch that logged one."""
    logged = [(int(row["step"]), np.array(row[name], dtype=np.float64)) for row in rows if row.get(name)]
    return [logged[place] for place in sorted({0, len(logged) // 2, len(logged) - 1})] if logged else []


def learning_curve(rows: Rows, anchors: dict[str, float]) -> Figure | None:
    """Evaluations with two standard errors, and what other policies get."""
    returns = series(rows, "return")
    if returns is None:
        return None
    figure, axes = chart(3.4)
    steps, error = series(rows, "step"), series(rows, "return_standard_error")
    assert steps is not None
    marker = "o" if len(rows) < 15 else None
    if error is not None:
        axes.fill_between(steps, returns - 2 * error, returns + 2 * error, color=BLUE, alpha=0.2, lw=0)
    axes.plot(steps, returns, color=BLUE, marker=marker, ms=4, label="this run")
    _finish_returns(axes, anchors, float(steps[-1]))
    return figure


def _finish_returns(axes: Axes, anchors: dict[str, float], last: float) -> None:
    draw_anchors(axes, anchors)
    axes.set_xlim(0, max(last * 1.02, 1.0))
    axes.set_xlabel("real environment steps")
    axes.set_title("return of an episode, not discounted")
    if anchors:
        legend_below(axes, columns=2)


def returns_of_seeds(curves: Curves, anchors: dict[str, float]) -> Figure:
    """The mean evaluation of several runs with Student's interval, and what other policies get."""
    figure, axes = chart(3.6)
    plot_mean(axes, curves.steps, curves.values["return"], BLUE, "M3PO")
    _finish_returns(axes, anchors, float(curves.steps[-1]))
    return figure


def model_error_of_seeds(curves: Curves) -> Figure | None:
    """eps_m over the training of several runs, with the exact filter's where it is logged."""
    if not curves.values.keys() >= {"eps_m", "eps_m_mean"}:
        return None
    figure, axes = chart(3.6)
    plot_mean(axes, curves.steps, curves.values["eps_m"], BLUE, r"largest over time ($\epsilon_m$)")
    plot_mean(axes, curves.steps, curves.values["eps_m_mean"], GREEN, "mean over time")
    if "bayes_eps_m_mean" in curves.values:
        floor = curves.values["bayes_eps_m_mean"]
        plot_mean(axes, curves.steps, floor, GREEN, "exact filter, same window: mean", ":")
    _finish_share(axes, "model error")
    return figure


def legend_of_figure(axes: Axes, columns: int = 2) -> None:
    """A legend of the whole figure, which is wider than the axes."""
    figure: Any = axes.figure
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", fontsize=7.5, ncols=columns)


def discrepancies(config: CompareConfig) -> Figure:
    """Every bound against the rollout length."""
    figure, axes = chart(4.6)
    figures.draw(axes, config)
    legend_of_figure(axes)
    return figure


def model_error(rows: Rows) -> Figure | None:
    """eps_m over training, with the exact filter's where it is logged."""
    mean, largest, steps = series(rows, "eps_m_mean"), series(rows, "eps_m"), series(rows, "step")
    if mean is None or largest is None or steps is None:
        return None
    figure, axes = chart()
    lower, upper = series(rows, "eps_m_lower"), series(rows, "eps_m_upper")
    if lower is not None and upper is not None:
        axes.fill_between(steps, lower, upper, color=BLUE, alpha=0.18, lw=0)
    axes.plot(steps, largest, color=BLUE, label=r"largest over time ($\epsilon_m$), with its interval")
    axes.plot(steps, mean, color=GREEN, label="mean over time")
    floor = series(rows, "bayes_eps_m_mean")
    if floor is not None:
        axes.plot(steps, floor, color=GREEN, ls=":", label="exact filter, same window: mean")
    _finish_share(axes, "model error")
    return figure


def policy_divergence(rows: Rows) -> Figure | None:
    """How far the policy moved within each epoch."""
    mean, largest, steps = series(rows, "eps_pi_mean"), series(rows, "eps_pi_sample_max"), series(rows, "step")
    if steps is None or (mean is None and largest is None):
        return None
    figure, axes = chart()
    if mean is not None:
        axes.plot(steps, mean, color=PINK, label="mean over histories")
    if largest is not None:
        axes.plot(steps, largest, color=GREY, label=r"sample maximum: $\epsilon_\pi$ is at least this")
    _finish_share(axes, "policy divergence within one epoch")
    return figure


def _finish_share(axes: Axes, title: str) -> None:
    axes.set_ylim(0, 1.4)
    axes.set_yticks(np.arange(6) / 5)
    axes.set_xlabel("real environment steps")
    axes.set_title(title)
    axes.legend(loc="upper right", fontsize=8)


def profile_chart(rows: Rows, name: str, upper: str, title: str, *, last: int | None) -> Figure | None:
    """A profile over the times of an episode, at the first, the middle and the last epoch."""
    found = profiles(rows, name)
    if not found:
        return None
    figure, axes = chart()
    shades = ("#9ecae1", "#4a98c9", INK)[-len(found) :]
    for (step, values), colour in zip(found, shades, strict=True):
        axes.plot(values[:last], color=colour, label=f"after {step} steps")
    ends = profiles(rows, upper)
    if ends:
        values, top = found[-1][1][:last], ends[-1][1][:last]
        axes.fill_between(np.arange(len(top)), values, top, color=shades[-1], alpha=0.15, lw=0)
    axes.set_ylim(0, 1.4)
    axes.set_yticks(np.arange(6) / 5)
    axes.set_xlabel("time step $t$ of the episode")
    axes.set_title(title)
    axes.legend(loc="upper right", fontsize=8)
    return figure


def bounds_through_training(
    steps: Array, curves: dict[str, Array], trivial: float, gap: Ends, title: str, gap_label: str
) -> Figure:
    """Discrepancies over training against the trivial one, and one measured gap at the end.

    Args:
        curves: bound name, or "certificate", -> [E] discrepancies.
        gap: as measured, at the end.
    """
    figure, axes = chart(4.3)
    for name, values in curves.items():
        ours = name == "certificate"
        axes.plot(
            steps, values, color=INK if ours else BOUND_COLOURS[name], lw=2.4 if ours else 1.3,
            ls="-" if ours or "branched" in BOUND_LABELS[name] else "--",
            label="certificate, branched" if ours else BOUND_LABELS[name], marker="o" if len(steps) < 4 else None, ms=3,
        )  # fmt: skip
    axes.axhline(trivial, color=GREY, ls=":", lw=2, label="from here on: says nothing", zorder=3)
    sizes = sorted((abs(gap.lower), abs(gap.upper)))
    low = 0.0 if gap.lower < 0 < gap.upper else sizes[0]
    smallest = max(min(abs(gap.estimate), *(float(np.nanmin(values)) for values in curves.values())) / 2, 1e-3)
    axes.plot([steps[-1]] * 2, [max(low, smallest), max(sizes[1], smallest)], color=ORANGE, lw=3, alpha=0.6)
    axes.plot(steps[-1], max(abs(gap.estimate), smallest), "D", color=ORANGE, ms=5, label=gap_label)
    axes.set_yscale("log")
    axes.set_ylim(smallest, None)
    axes.set_xlabel("real environment steps")
    axes.set_title(title)
    figure.legend(loc="outside lower center", fontsize=7.5, ncols=2)
    return figure


def decomposition(parts: dict[str, dict[str, float]], trivial: float) -> Figure:
    """What the certificate is made of, one bar per data policy. ``parts``: label -> part -> units of return."""
    figure, axes = chart(1.5 + 0.5 * len(parts))
    labels = list(parts)[::-1]
    for place, label in enumerate(labels):
        left = 0.0
        for part, value in parts[label].items():
            axes.barh(place, value, left=left, color=PART_COLOURS[part], height=0.55)
            left += value
        axes.text(left, place, f" {left:.2f}", va="center", fontsize=8)
    for part, colour in PART_COLOURS.items():
        if any(part in each and each[part] > 0 for each in parts.values()):
            axes.barh(0, 0, color=colour, label=PART_LABELS[part])
    axes.axvline(trivial, color=GREY, ls="--", lw=1.2)
    axes.annotate(
        "trivial", (trivial, 1), xycoords=("data", "axes fraction"), ha="center", va="bottom", fontsize=8, color=GREY
    )
    axes.set_yticks(range(len(labels)), labels)
    axes.set_xlim(0, max(trivial, *(sum(each.values()) for each in parts.values())) * 1.12)
    axes.set_xlabel("units of return")
    figure.legend(loc="outside lower center", fontsize=8, ncols=3)
    return figure


def k_step_error(found: dict[str, Any]) -> Figure:
    """The model's error after k steps beside that of "nothing changes"."""
    figure, axes = chart()
    middle, low, high = (np.array([each[end] for each in found["model_all"]]) for end in ("estimate", "lower", "upper"))
    axes.fill_between(found["k"], low, high, color=BLUE, alpha=0.2, lw=0)
    axes.plot(found["k"], middle, color=BLUE, label="model")
    axes.plot(found["k"], found["unchanged_all"], color=GREY, ls="--", label="“nothing changes”")
    axes.set_ylim(0, 1.25 * max(*high, *found["unchanged_all"], 1e-9))
    axes.locator_params(axis="x", integer=True)
    axes.set_xlabel("steps ahead, $k$")
    axes.set_title("error in standard deviations")
    axes.legend(loc="upper left", fontsize=8)
    return figure


def calibration(found: dict[str, Any]) -> Figure:
    """Share of outcomes below the model's quantiles against the nominal share; the worst coordinate with its band."""
    figure, axes = chart(3.6)
    levels, curves = np.array(found["levels"]), np.array(found["coverage"])
    worst = found["worst"]["coordinate"]
    axes.plot([0, 1], [0, 1], color=INK, lw=1, ls=":")
    for coordinate, values in enumerate(curves.T):
        if coordinate != worst:
            axes.plot(levels, values, color=GREY, lw=0.9, alpha=0.8)
    axes.fill_between(
        levels, np.array(found["lower"])[:, worst], np.array(found["upper"])[:, worst], color=BLUE, alpha=0.18, lw=0
    )
    axes.plot(levels, curves[:, worst], color=BLUE, label=f"coordinate {worst}, the worst, with its band")
    if curves.shape[1] > 1:
        axes.plot([], [], color=GREY, lw=0.9, label="the others")
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.set_xlabel("share that should be below")
    axes.set_ylabel("share that is below")
    axes.set_title("calibration of one-step predictions")
    axes.legend(loc="upper left", fontsize=8)
    return figure


def telescoped(found: dict[str, Any]) -> Figure:
    """Where along an episode the return is mispredicted."""
    figure, axes = chart()
    spans = found["profile"]
    places = np.arange(len(spans))
    axes.bar(places - 0.2, [each["reward_part"] for each in spans], width=0.4, color=GREEN, label="reward part")
    axes.bar(places + 0.2, [each["dynamics_part"] for each in spans], width=0.4, color=BLUE, label="dynamics part")
    axes.axhline(0, color=INK, lw=0.8)
    axes.set_xticks(places, [str(each["from"]) for each in spans])
    axes.set_xlabel("from time step")
    axes.set_title("contributions to the return gap")
    axes.legend(fontsize=8)
    return figure
