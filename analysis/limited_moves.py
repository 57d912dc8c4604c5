"""``python -m analysis.limited_moves --out FILE.csv``: M3PO with a guarantee after every epoch, and what it costs.

Trainings on SwitchingPointMass whose policy may move at most so far per epoch, and others where nothing limits it, with
a share of the real steps reserved for episodes of which nothing is learned. Every epoch's lower bound is held against
fresh episodes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from analysis.studies.limited_moves import (
    LimitedMovesConfig,
    LimitSummary,
    measure_all,
    name_of,
    record_of,
    summarise,
)
from m3po.command_line import json_of, run


def text(summaries: Sequence[LimitSummary], config: LimitedMovesConfig) -> str:
    """What the rows say, a line per limit."""
    lines = [
        f"m3po/SwitchingPointMass-v0, {len(config.seeds)} trainings per limit, {config.total_steps} real steps, "
        f"{config.reserved_share:.0%} of them reserved; truth: {config.episodes} fresh episodes per epoch",
        "final returns: mean over seeds (least, most)",
        f"{'limit':>6}{'move':>7}{'epochs':>8}{'above trivial':>15}{'above half':>12}{'missed':>8}{'certified':>11}"
        f"{'true return':>22}{'minus unlimited':>22}{'certified return':>24}{'evaluation':>22}",
    ]
    lines += [
        f"{name_of(each.limit):>6}{each.move:>7.3f}{each.epochs:>8}{each.above_trivial:>15.0%}{each.above_half:>12.0%}"
        f"{each.missed:>8.1%}{each.certified_share:>11.0%}{spread(each.true_return):>22}{spread(each.against_unlimited):>22}"
        f"{spread(each.certified_return):>24}{spread(each.evaluation):>22}"
        for each in summaries
    ]
    return "\n".join(lines)


def spread(values: Sequence[float]) -> str:
    """Mean (least, most)."""
    if not values:
        return "-"
    return f"{np.mean(values):.2f} ({min(values):.2f}, {max(values):.2f})"


def main(config: LimitedMovesConfig) -> int:
    torch.set_num_threads(1)
    summaries = summarise(measure_all(config))
    print(json_of(record_of(summaries)) if config.as_json else text(summaries, config))
    return 0


def cli(arguments: Sequence[str] | None = None) -> None:
    run(main, LimitedMovesConfig, arguments, prog="python -m analysis.limited_moves")


if __name__ == "__main__":
    cli()
