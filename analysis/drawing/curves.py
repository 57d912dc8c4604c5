"""Learning curves between their anchors."""

from __future__ import annotations

from typing import TYPE_CHECKING

from analysis.runs.curves import Curves

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ANCHOR_COLOURS = {"oracle": "#009e73", "filter": "#56b4e9", "memoryless": "#d55e00", "random": "#8a8a8a"}

ANCHOR_LABELS = {
    "oracle": "oracle: knows the task",
    "filter": "exact belief about the task",
    "memoryless": "best found without memory",
    "random": "random actions",
}

COLOUR = "#0072b2"


def plot(axes: Axes, curves: Curves, name: str, colour: str, label: str, style: str = "-") -> None:
    """One metric: thin lines per seed, a thick one for their mean."""
    for values in curves.values[name]:
        axes.plot(curves.steps, values, color=colour, lw=0.7, alpha=0.35, ls=style)
    axes.plot(curves.steps, curves.values[name].mean(axis=0), color=colour, lw=2.0, ls=style, label=label)


def draw(curves: Curves, anchors: dict[str, float]) -> Figure:
    """Returns with the anchors; model error with the Bayes filter's; policy divergence."""
    from matplotlib.figure import Figure

    # A baseline has no errors of a model to draw.
    panels = 3 if curves.values.keys() >= {"eps_pi_mean", "eps_pi_sample_max"} else 1
    figure = Figure(figsize=(3.8 * panels, 3.7), layout="constrained")
    axes = figure.subplots(1, panels, squeeze=False)[0]
    plot(axes[0], curves, "return", COLOUR, "return")
    for name, value in anchors.items():
        axes[0].axhline(value, color=ANCHOR_COLOURS[name], lw=1.2, ls="--")
        below = name == "filter"
        axes[0].annotate(
            ANCHOR_LABELS[name], (curves.steps[-1], value), xytext=(0, -2 if below else 2), textcoords="offset points",
            ha="right", va="top" if below else "bottom", fontsize=7.5, color=ANCHOR_COLOURS[name],
        )  # fmt: skip
    axes[0].set_title("return of an episode", loc="left")
    if panels > 1 and curves.values.keys() >= {"eps_m", "eps_m_mean"}:
        plot(axes[1], curves, "eps_m", COLOUR, r"$\epsilon_m$: largest over time")
        plot(axes[1], curves, "eps_m_mean", "#009e73", "mean over time")
        if curves.values.keys() >= {"bayes_eps_m", "bayes_eps_m_mean"}:
            plot(axes[1], curves, "bayes_eps_m", COLOUR, "exact filter, same window: largest", ":")
            plot(axes[1], curves, "bayes_eps_m_mean", "#009e73", "exact filter, same window: mean", ":")
        axes[1].set_ylim(0, 1)
        axes[1].legend(loc="upper right", fontsize=7.5)
    if panels > 1:
        axes[1].set_title("model error on held-out episodes", loc="left")
        plot(axes[2], curves, "eps_pi_mean", "#cc79a7", "mean over histories")
        plot(axes[2], curves, "eps_pi_sample_max", "#8a8a8a", r"sample maximum (lower estimate of $\epsilon_\pi$)")
        axes[2].set_ylim(0, 1.05)
        axes[2].legend(loc="lower right", fontsize=7.5)
        axes[2].set_title("policy divergence over one epoch", loc="left")
    for each in axes:
        each.set_xlabel("real environment steps")
    count = len(curves.seeds)
    figure.suptitle(f"{curves.env_id}, {count} seed{'s' if count > 1 else ''}", x=0.01, ha="left", fontsize=9)
    return figure
