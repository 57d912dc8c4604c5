"""Discrepancies against the rollout length."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

import bounds
from analysis.runs.outputs import Output
from analysis.theory.comparison import CompareConfig

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw(axes: Axes, config: CompareConfig) -> None:
    """Discrepancy against k for every bound of the catalogue; at or above the trivial one, a guarantee is vacuous."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    from analysis.drawing.style import BOUND_COLOURS, BOUND_LABELS, INK, TRIVIAL_COLOUR

    last = max(50, *config.rollout_lengths)
    lengths = np.unique(np.round(np.geomspace(1, last, 200)).astype(np.int64))
    trivial = config.reward_range / (1 - config.discount)
    drawn = {
        bound.name: bound.evaluate(
            discount=config.discount,
            model_error=config.model_error,
            policy_divergence=config.policy_divergence,
            rollout_length=lengths,
            reward_max=config.reward_max_of(bound.name),
        )
        for bound in bounds.ALL_BOUNDS
        # the same values as m3po-th1
        if bound.name != "mbpo-4.1"
    }
    for name, values in drawn.items():
        full = bounds.get(name).scheme == "full"
        label = BOUND_LABELS.get(name, name) + (" (= MBPO 4.1)" if name == "m3po-th1" else "")
        colour = BOUND_COLOURS.get(name, TRIVIAL_COLOUR)
        axes.plot(lengths, values, color=colour, linestyle=(0, (4, 2)) if full else "-", label=label)
    axes.axhline(trivial, color=TRIVIAL_COLOUR, linewidth=1.2)
    axes.annotate(
        "vacuous: at or above the trivial $R/(1-\\gamma)$",
        xy=(1, trivial),
        xycoords=("axes fraction", "data"),
        xytext=(-5, 4),
        textcoords="offset points",
        color=INK,
        ha="right",
        va="bottom",
        fontsize=8,
    )
    axes.set_xscale("log")
    positive = [value for values in drawn.values() for value in values if value > 0]
    if positive:
        axes.set_yscale("log")
        axes.set_ylim(min(min(positive), trivial) / 1.5, max(max(positive), trivial) * 1.5)
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda tick, _: f"{tick:g}"))
        axes.yaxis.set_minor_locator(NullLocator())
    axes.axhspan(trivial, axes.get_ylim()[1], color=TRIVIAL_COLOUR, alpha=0.12, linewidth=0)
    ticks = [tick for tick in (1, 2, 5, 10, 20, 50, 100, 1000, 10**4, 10**5, 10**6) if tick <= last]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_xticks([], minor=True)
    axes.set_xlim(1, last)
    axes.set_xlabel("rollout length $k$ (model steps)")
    axes.set_ylabel("discrepancy (units of return)")
    rewards = f"$r_{{\\max}}={config.reward_max:g}$" if config.reward_min is None else config.rewards
    axes.set_title(
        f"$\\gamma={config.discount:.12g}$,  $\\epsilon_m={config.model_error:g}$,  "
        f"$\\epsilon_\\pi={config.policy_divergence:g}$,  {rewards}",
    )


def write_figure(config: CompareConfig, output: Output) -> None:
    """Draw discrepancy against k; ValueError when the file cannot be written."""
    from analysis.drawing.style import figure_style, legend_below, page

    with figure_style():
        figure = page(5.6)
        axes = figure.subplots()
        draw(axes, config)
        legend_below(axes, columns=2)
        output.write_figure(figure)
