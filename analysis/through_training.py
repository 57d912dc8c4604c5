"""``python -m analysis.through_training --out FILE.csv``: does the certificate hold all the way through a training?

At checkpoints of trainings on SwitchingPointMass fresh episodes measure the certificate (Theorem 4, k = 1), the true
return and the model return: from data of the policy itself, and from data of the policy as it was some real steps
earlier. Planted faults must be flagged: a model return that is too high, and a model that is worse than its density
claims.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch

from analysis.studies.through_training import (
    CASES,
    LENGTH,
    TRAINED,
    CertificateRow,
    ThroughTrainingConfig,
    measure_all,
    sound,
)
from m3po.command_line import json_of, run


def text(rows: Sequence[CertificateRow], config: ThroughTrainingConfig) -> str:
    """What the rows say, in three tables."""
    covers = {
        "row": f"each row holds with probability {config.confidence} (not all together)",
        "seed": f"all rows of a seed hold together with probability {config.confidence} "
        f"(a union bound over {config.measurements_per_seed} measurements)",
    }[config.together]
    lines = [
        f"m3po/SwitchingPointMass-v0, {len(config.seeds)} trainings of {config.total_steps} real steps, "
        f"{config.episodes} fresh episodes per row, k = {LENGTH}; {covers}",
        "",
        "data of the policy itself",
        f"{'seed':>4}{'step':>7}{'true return':>13}{'model return':>14}{'at least':>10}{'certificate':>13}"
        f"{'of trivial':>12}{'tightness':>11}  verdict",
    ]
    own = [row for row in rows if row.age == 0]
    lines += [
        f"{row.seed:>4}{row.step:>7}{row.true_return:>13.2f}{row.model_return:>14.2f}"
        f"{row.model_lower - row.certificate:>10.2f}{row.certificate:>13.2f}{row.certificate / row.trivial:>12.1%}"
        f"{row.tightness:>11.3f}  {row.verdict}{', vacuously' if row.vacuous else ''}"
        for row in own
        if row.case == TRAINED
    ]
    lines += ["", "by the age of the data policy, means over checkpoints and seeds"]
    heads = f"{'age':>6}{'rows':>6}{'divergence':>12}{'certificate of trivial':>24}{'vacuous':>9}{'below half':>12}"
    lines.append(f"{heads}  verdicts")
    for age in sorted({row.age for row in rows}):
        here = [row for row in rows if row.age == age and row.case == TRAINED]
        shares = np.array([row.certificate / row.trivial for row in here])
        counts = {
            verdict: sum(row.verdict == verdict for row in here) for verdict in ("holds", "surrogate", "violated")
        }
        lines.append(
            f"{age:>6}{len(here):>6}{np.mean([row.policy_divergence for row in here]):>12.4f}{shares.mean():>24.1%}"
            f"{np.mean([row.vacuous for row in here]):>9.0%}{np.mean(shares < 0.5):>12.0%}  "
            + ", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count)
        )
    lines += ["", "the trained model and planted faults, data of the policy itself"]
    for case in CASES:
        here = [row for row in own if row.case == case]
        flagged = sum(row.verdict == "violated" for row in here)
        share = np.mean([row.certificate / row.trivial for row in here])
        lines.append(
            f"  {case:<45} violated at {flagged} of {len(here)} checkpoints; certificate {share:.0%} of trivial"
        )
    return "\n".join(lines)


def main(config: ThroughTrainingConfig) -> int:
    torch.set_num_threads(1)
    rows = measure_all(config)
    print(json_of([dataclasses.asdict(row) for row in rows]) if config.as_json else text(rows, config))
    return 0 if sound(rows) else 1


def cli(arguments: Sequence[str] | None = None) -> None:
    run(main, ThroughTrainingConfig, arguments, prog="python -m analysis.through_training")


if __name__ == "__main__":
    cli()
