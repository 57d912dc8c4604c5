"""``python -m analysis.off_policy_coverage``: how often lower bounds from another policy's data hold, and how wide.

Episodes are drawn from finite processes of which every trajectory is enumerated, so the true return is exact and a data
set is a list of trajectories. A bound that leaves the importance weights out is planted, and has to fail.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from analysis.studies.off_policy_coverage import Coverage, OffPolicyCoverageConfig, measure, record_of
from m3po.command_line import json_of, run


def text(coverage: Coverage, config: OffPolicyCoverageConfig) -> str:
    """Two tables, one line per data policy and bound: how often it holds, and how wide it is, at each size."""
    error = np.sqrt(config.confidence * (1 - config.confidence) / config.data_sets)
    lines = [
        f"{config.data_sets:,} data sets each, level {config.confidence} (standard error of a share {error:.4f})",
        "width: true return - lower bound, for Theorem 5 upper bound - discrepancy; means, in shares of the range",
    ]
    for data in dict.fromkeys(row.data for row in coverage.rows):
        lines += ["", data, f"  {'':<38}" + "".join(f"{f'n = {size}':>20}" for size in config.sizes)]
        lines.append(f"  {'bound':<38}" + f"{'holds':>11}{'width':>9}" * len(config.sizes))
        here = [row for row in coverage.rows if row.data == data]
        for bound in dict.fromkeys(row.bound for row in here):
            cells = {row.size: f"{row.holds:>11.3f}{row.width:>9.3f}" for row in here if row.bound == bound}
            lines.append(f"  {bound:<38}" + "".join(cells.get(size, " " * 20) for size in config.sizes).rstrip())
    return "\n".join(lines)


def main(config: OffPolicyCoverageConfig) -> int:
    """Print the tables; 1 when a bound holds too rarely or the planted fault is not found."""
    coverage = measure(config)
    print(json_of(record_of(coverage, config)) if config.as_json else text(coverage, config))
    return 0 if coverage.sound else 1


def cli(arguments: Sequence[str] | None = None) -> None:
    """The command line; exits."""
    run(main, OffPolicyCoverageConfig, arguments, prog="python -m analysis.off_policy_coverage")


if __name__ == "__main__":
    cli()
