"""``python -m analysis.interval_coverage``: how often the intervals of ``analysis.statistics`` hold the truth.

Runs are drawn from populations whose interquartile mean and probability of improvement are known in closed form; the
share of trials whose interval contains it is the coverage. About a quarter of a minute on one free CPU thread.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict

from analysis.studies.interval_coverage import CoverageRow, IntervalCoverageConfig, measure
from m3po.command_line import json_of, run


def text(rows: Sequence[CoverageRow], config: IntervalCoverageConfig) -> str:
    """The rows as a table."""
    lines = [
        f"coverage of {config.confidence:.0%} intervals in {config.trials:,} trials of {config.resamples:,} resamples "
        f"(standard error at most {0.5 / math.sqrt(config.trials):.3f}); Student's interval is for the mean",
        f"{'quantity':<10}{'population':<19}{'environments':>12}{'seeds':>7}{'percentile':>12}{'BCa':>7}{'Student':>9}",
    ]
    for row in rows:
        student = "" if row.student is None else f"{row.student:.3f}"
        lines.append(
            f"{row.quantity:<10}{row.population:<19}{row.environments:>12}{row.seeds:>7}{row.percentile:>12.3f}"
            f"{row.bca:>7.3f}{student:>9}"
        )
    return "\n".join(lines)


def main(config: IntervalCoverageConfig) -> int:
    rows = measure(config)
    print(json_of([asdict(row) for row in rows]) if config.as_json else text(rows, config))
    return 0


def cli(arguments: Sequence[str] | None = None) -> None:
    run(main, IntervalCoverageConfig, arguments, prog="python -m analysis.interval_coverage")


if __name__ == "__main__":
    cli()
