"""``python -m analysis.evaluation RUN_DIR...``: the paper's evaluation of finished runs, on training or test tasks.

Policy and model are fixed: episodes of the deterministic policy from the last checkpoint, beside uniform actions in the
same environments.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import torch

from analysis.runs.evaluation import COLUMNS, EvaluationConfig, evaluate
from analysis.runs.outputs import Output, files_of
from analysis.runs.run_table import csv_of
from m3po.command_line import json_of, run


def text(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as a table."""
    policy = "deterministic policy" if rows[0]["actions"] == "mean" else "policy that draws its actions"
    lines = [f"{rows[0]['episodes']} episodes of the {policy}, {rows[0]['tasks']} tasks"]
    places = [row["environment"] + ("" if row["options"] == "{}" else f" {row['options']}") for row in rows]
    width = max(map(len, places)) + 2
    for place, row in zip(places, rows, strict=True):
        lines.append(
            f"  {place:<{width}}{row['variant']:<18}{'seed ' + str(row['seed']):<8}"
            f"{row['steps']:>8} steps{row['return']:>10.1f} +- {row['return_standard_error']:.1f}"
        )
    return "\n".join(lines)


def main(config: EvaluationConfig) -> int:
    torch.set_num_threads(1)
    out = None
    if config.out is not None:
        out = Output("out", config.out, ",".join(COLUMNS), config.overwrite, files_of(*config.run_dirs)).check()
    rows = evaluate(config)
    print(json_of(rows) if config.as_json else text(rows))
    if out is not None:
        lines = [[f"{each:.6g}" if isinstance(each, float) else each for each in row.values()] for row in rows]
        out.write(csv_of(COLUMNS, lines))
        print(f"table: {out.shown}", file=sys.stderr)
    return 0


def cli(arguments: Sequence[str] | None = None) -> None:
    run(main, EvaluationConfig, arguments, prog="python -m analysis.evaluation")


if __name__ == "__main__":
    cli()
