"""``python -m analysis.certified_by_age --out FILE.csv``: how much of a true return is certain from older data?

Trainings on SwitchingPointMass; the final policy's true return is bounded from below from fresh episodes of the policy
as it was some real steps earlier, by Theorem 4, Theorem 5, the rewards themselves, and the rewards with the model as
control variate.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch

from analysis.studies.certified_by_age import (
    BOUNDS,
    CONFIDENCE,
    NOISE,
    CertifiedByAgeConfig,
    CertifiedRow,
    measure_all,
    summarise,
)
from m3po.command_line import json_of, run


def text(rows: Sequence[CertifiedRow], config: CertifiedByAgeConfig) -> str:
    """What the rows say, a line per age."""
    truths = {row.seed: row for row in rows}
    summaries = summarise(rows)
    columns = (*BOUNDS, "certified")
    lines = [
        f"m3po/SwitchingPointMass-v0, {len(config.seeds)} trainings of {config.total_steps} real steps, "
        f"{config.episodes} fresh episodes of the data policy; each bound holds with probability {CONFIDENCE:g} on its "
        "own, 'certified' is the best of all when they share that",
        "true return " + ", ".join(f"{row.true_return:.2f} +- {row.standard_error:.2f}" for row in truths.values())
        + f"; least possible {rows[0].trivial:.2f}",
        "lower bound as a share of the true return: median over seeds (least, most)",
        f"{'age':>5}{'TV/step':>9}{'worth':>7}" + "".join(f"{name.replace('_', ' '):>21}" for name in columns),
    ]  # fmt: skip
    for each in summaries:
        shares = "".join(
            f"{f'{middle:.2f} ({least:.2f}, {most:.2f})':>21}"
            for middle, least, most in (each.shares[name] for name in columns)
        )
        lines.append(f"{each.age:>5}{each.total_variation:>9.3f}{each.effective:>7.0f}{shares}")
    tried = len(rows) * len(columns)
    lines.append(
        f"nothing is certain at {np.median([row.trivial / row.true_return for row in rows]):.2f}; "
        f"{sum(each.missed for each in summaries)} of {tried} bounds are above the true return by more than {NOISE:g} "
        "standard errors of it"
    )
    return "\n".join(lines)


def main(config: CertifiedByAgeConfig) -> int:
    torch.set_num_threads(1)
    rows = measure_all(config)
    print(json_of([dataclasses.asdict(row) for row in rows]) if config.as_json else text(rows, config))
    return 0


def cli(arguments: Sequence[str] | None = None) -> None:
    run(main, CertifiedByAgeConfig, arguments, prog="python -m analysis.certified_by_age")


if __name__ == "__main__":
    cli()
