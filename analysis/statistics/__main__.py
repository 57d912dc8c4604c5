"""``python -m analysis.statistics TABLE.csv``: what a table of learning curves says, and how surely.

Pure functions of arrays, then the command that reads a table of ``analysis.variants``. Axis 0 of every array holds
runs (seeds); every further axis is another quantity, and all of them are done at once. A stratum is the runs of one
variant in one environment: they are resampled among themselves.

With few seeds a bootstrap interval is too short, whatever it says; ``analysis.interval_coverage`` measures by how much
and ``MEASURED_COVERAGE`` holds the result.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence

import numpy as np

from analysis.drawing.style import figure_style
from analysis.flags.statistics import anchors_of
from analysis.runs.outputs import Output, mark_of
from analysis.statistics.aggregates import Array
from analysis.statistics.bootstrap import BootstrapInterval
from analysis.statistics.figures import draw
from analysis.statistics.summary import (
    METHOD_NAMES,
    StatisticsConfig,
    VariantSummary,
    as_record,
    notes,
    summarise,
)
from analysis.statistics.table import Table, read_table
from m3po.command_line import json_of, run


def _interval_text(interval: BootstrapInterval, decimals: int) -> str:
    if not math.isfinite(np.ravel(interval.lower)[-1]):
        return "none"
    return f"[{np.ravel(interval.lower)[-1]:.{decimals}f}, {np.ravel(interval.upper)[-1]:.{decimals}f}]"


def _reaching_text(reaching: Array) -> str:
    """The median and how many runs it rests on."""
    median = np.median(reaching)
    shown = f"{median:,.0f}" if math.isfinite(median) else "not reached"
    return f"{shown} ({np.isfinite(reaching).sum()} of {len(reaching)})"


def text(table: Table, config: StatisticsConfig, summaries: Sequence[VariantSummary]) -> str:
    """The summary as a table, best interquartile mean first, and the notes."""
    decimals = 3 if config.anchors else 1
    places = len(table.environments)
    where = "" if places == 1 else f", {places} environments"
    head = ["variant", "seeds", "mean", "IQM", "interval", "median", "worst"]
    if config.baseline is not None:
        head += [f"P(better than {config.baseline})", "interval"]
    if config.threshold is not None:
        head.append(f"median steps to {config.threshold:g} (runs that reach it)")
    rows = [head]
    for each in summaries:
        counts = sorted({len(values) for values in each.finals})
        row = [
            each.name,
            str(counts[0]) if len(counts) == 1 else f"{counts[0]}-{counts[-1]}",
            f"{each.runs.mean():.{decimals}f}",
            f"{each.iqm.estimate[-1]:.{decimals}f}",
            _interval_text(each.iqm, decimals),
            f"{np.median(each.runs):.{decimals}f}",
            f"{each.runs.min():.{decimals}f}",
        ]
        if config.baseline is not None:
            row += (
                ["baseline", ""]
                if each.improvement is None
                else [f"{each.improvement.estimate:.2f}", _interval_text(each.improvement, 2)]
            )
        if each.reaching is not None:
            row.append(_reaching_text(each.reaching))
        rows.append(row)
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    lines = [
        f"final evaluation (the last, not the best) after {table.steps[-1]:,.0f} steps{where}"
        f"{', normalised returns' if config.anchors else ''}; {config.confidence:.0%} {METHOD_NAMES[config.method]} "
        f"bootstrap intervals over seeds, {config.resamples:,} resamples"
    ]
    for row in rows:
        cells = [row[0].ljust(widths[0])] + [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("  ".join(cells).rstrip())
    return "\n".join([*lines, *(f"note: {line}" for line in notes(table, config, summaries))])


def main(config: StatisticsConfig) -> int:
    output = None
    if config.figure is not None:
        mark = mark_of("analysis.statistics")
        output = Output("figure", config.figure, mark, config.overwrite, (config.table,)).check()
    table = read_table(config.table, config.last_step, environment=config.environment, common_steps=config.common_steps)
    if config.anchors:
        table = table.normalised(anchors_of(config.anchors))
    elif len(table.environments) > 1:
        raise ValueError(
            f"returns of {', '.join(table.environments)} are on different scales: give --anchors ENVIRONMENT=LOW,HIGH "
            "of each (0,1 where they are normalised already)"
        )
    summaries = summarise(table, config)
    if config.as_json:
        print(json_of(as_record(table, config, summaries)))
    else:
        print(text(table, config, summaries))
    if output is not None:
        with figure_style():
            output.write_figure(draw(table, config, summaries))
        print(f"figure: {output.shown}", file=sys.stderr)
    return 0


def cli(arguments: Sequence[str] | None = None) -> None:
    run(main, StatisticsConfig, arguments, prog="python -m analysis.statistics")


if __name__ == "__main__":
    cli()
