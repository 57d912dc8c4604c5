"""``python -m analysis.certificate_coverage``: how often intervals and certificates hold, where the truth is known.

Data sets are simulated from finite processes. Every interval of ``bounds.confidence`` is held against the exact mean,
and every certificate of ``analysis.certify`` against the exact return. A certificate that leaves its errors out is
planted, and has to fail.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import numpy as np

from analysis.runs.outputs import Output, mark_of
from analysis.studies.certificate_coverage import (
    JOINT_SIDES,
    METHODS,
    SIDES,
    CertificateCoverageConfig,
    Coverage,
    IntervalRow,
    draw_figure,
    measure,
    record_of,
)
from m3po.command_line import json_of, run


def text(coverage: Coverage, config: CertificateCoverageConfig) -> str:
    """Three tables: coverage, widths, certificates."""
    error = np.sqrt(config.confidence * (1 - config.confidence) / config.data_sets)
    lines = [
        f"{config.data_sets:,} data sets each, level {config.confidence} (standard error of a coverage {error:.4f})",
        "",
        "smallest coverage over populations and sizes",
    ]
    single = [row for row in coverage.intervals if row.times == 1]
    joint = [row for row in coverage.intervals if row.times > 1]
    heads = ("two-sided", "upper", "lower", "all times, two", "all times, upper")
    sizes = (11, 9, 9, 16, 18)
    lines.append(f"  {'method':<21}" + "".join(f"{head:>{size}}" for head, size in zip(heads, sizes, strict=True)))
    for name in METHODS:
        cells = [_smallest(single, name, sides) for sides in SIDES]
        cells += [_smallest(joint, name, sides) for sides in JOINT_SIDES]
        lines.append(f"  {name:<21}" + "".join(f"{cell:>{size}}" for cell, size in zip(cells, sizes, strict=True)))
    lines += ["", "mean width of two-sided intervals, in shares of the range (* : narrower than the one before it)"]
    lines.append(f"  {'population':<25}{'n':>6}" + "".join(f"{name:>21}" for name in METHODS))
    for population, size, times in _keys(coverage.intervals):
        here = {
            row.method: row.width
            for row in coverage.intervals
            if (row.population, row.size, row.times, row.sides) == (population, size, times, "two")
        }
        label = population if times == 1 else f"{population} ({times})"
        lines.append(f"  {label:<25}{size:>6}" + "".join(f"{_width(here, name):>21}" for name in METHODS))
    lines += [
        "",
        f"certificates, {config.certificates:,} data sets of {config.episodes} episodes each; in shares of the range",
    ]
    lines.append(f"  {'case':<37}{'holds':>8}{'informative':>13}{'width':>8}{'slack':>8}{'discrepancy':>13}")
    for row in coverage.certificates:
        lines.append(
            f"  {row.case:<37}{row.holds:>8.3f}{row.informative:>13.3f}{row.width:>8.3f}{row.slack:>8.3f}"
            f"{row.discrepancy:>13.3f}"
        )
    return "\n".join(lines)


def _smallest(rows: Sequence[IntervalRow], method: str, sides: str) -> str:
    found = [row.coverage for row in rows if (row.method, row.sides) == (method, sides)]
    return f"{min(found):.3f}" if found else ""


def _keys(rows: Sequence[IntervalRow]) -> list[tuple[str, int, int]]:
    """Populations, sizes and times, in order of appearance."""
    return list(dict.fromkeys((row.population, row.size, row.times) for row in rows))


def _width(widths: dict[str, float], name: str) -> str:
    if name not in widths:
        return ""
    names = list(METHODS)
    before = widths.get(names[names.index(name) - 1]) if names.index(name) else None
    return f"{widths[name]:.4f}" + ("*" if before is not None and widths[name] < before else " ")


def main(config: CertificateCoverageConfig) -> int:
    output = None
    if config.figure is not None:
        output = Output("figure", config.figure, mark_of("analysis.certificate_coverage"), config.overwrite).check()
    coverage = measure(config)
    print(json_of(record_of(coverage, config)) if config.as_json else text(coverage, config))
    if output is not None:
        from analysis.drawing.style import figure_style

        with figure_style():
            output.write_figure(draw_figure(coverage))
        print(f"figure: {output.shown}", file=sys.stderr)
    return 0 if coverage.sound else 1


def cli(arguments: Sequence[str] | None = None) -> None:
    run(main, CertificateCoverageConfig, arguments, prog="python -m analysis.certificate_coverage")


if __name__ == "__main__":
    cli()
