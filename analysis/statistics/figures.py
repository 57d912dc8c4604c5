"""The figure of a summary: curves with bands, and probabilities of improvement."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from analysis.drawing.style import INK, VARIANT_COLOURS, stacked
from analysis.statistics.summary import METHOD_NAMES, StatisticsConfig, VariantSummary
from analysis.statistics.table import Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LINE_STYLES = ("-", "--", ":", "-.")


def draw(table: Table, config: StatisticsConfig, summaries: Sequence[VariantSummary]) -> Figure:
    """Interquartile mean at every evaluation, with bands; below, probability of improvement over the baseline."""
    compared = config.baseline is not None and len(summaries) > 1
    figure, parts = stacked(3.6, 1.2 + 0.28 * len(summaries)) if compared else stacked(3.6)
    panels = [part.subplots() for part in parts]
    look = looks(list(table.returns))
    _draw_curves(panels[0], table, config, summaries, look)
    if compared:
        _draw_improvement(panels[1], config, summaries, look)
    seeds = sorted({len(each) for variant in table.seeds.values() for each in variant})
    count = f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
    many = "" if len(table.environments) == 1 else f" in each of {len(table.environments)} environments"
    figure.suptitle(
        f"{count} seed{'' if seeds == [1] else 's'} per variant{many}; {config.confidence:.0%} "
        f"{METHOD_NAMES[config.method]} bootstrap intervals\nover seeds, {config.resamples:,} resamples",
        x=0.01, ha="left", fontsize=9,
    )  # fmt: skip
    return figure


def looks(names: Sequence[str]) -> dict[str, tuple[str, str]]:
    """A colour and a line style per name: a variant's own, and for others what is left, then dashed, then dotted."""
    pairs = [(colour, style) for style in LINE_STYLES for colour in VARIANT_COLOURS.values()]
    taken = {name: (VARIANT_COLOURS[name], LINE_STYLES[0]) for name in names if name in VARIANT_COLOURS}
    free = itertools.cycle([pair for pair in pairs if pair not in taken.values()])
    return {name: taken[name] if name in taken else next(free) for name in names}


def _draw_curves(
    axes: Axes,
    table: Table,
    config: StatisticsConfig,
    summaries: Sequence[VariantSummary],
    look: dict[str, tuple[str, str]],
) -> None:
    for each in summaries:
        colour, style = look[each.name]
        axes.plot(table.steps, each.iqm.estimate, color=colour, ls=style, label=each.name)
        axes.fill_between(table.steps, each.iqm.lower, each.iqm.upper, color=colour, alpha=0.13, lw=0)
    if config.threshold is not None:
        axes.axhline(config.threshold, color=INK, lw=0.9, ls=":", zorder=0)
    axes.set_xlabel("real environment steps")
    axes.set_ylabel("normalised return of an episode" if config.anchors else "return of an episode")
    axes.set_title("interquartile mean over runs")
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))


def _draw_improvement(
    axes: Axes, config: StatisticsConfig, summaries: Sequence[VariantSummary], look: dict[str, tuple[str, str]]
) -> None:
    shown = [each for each in summaries if each.improvement is not None]
    for place, each in enumerate(shown):
        colour, _ = look[each.name]
        interval = each.improvement
        assert interval is not None
        if math.isfinite(interval.lower):
            axes.plot(
                [interval.lower, interval.upper], [place, place], color=colour, lw=5, alpha=0.35, solid_capstyle="butt"
            )
        axes.plot(interval.estimate, place, "o", color=colour, markersize=6)
    axes.axvline(0.5, color=INK, lw=0.9, ls=":", zorder=0)
    axes.set_yticks(range(len(shown)), [each.name for each in shown])
    axes.set_ylim(len(shown) - 0.5, -0.5)
    axes.set_xlim(-0.03, 1.03)
    axes.set_xlabel("probability")
    axes.set_title(f"a run is better than one of {config.baseline}")
