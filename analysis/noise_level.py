"""``python -m analysis.noise_level --out FILE.csv --runs DIR``: how much noise makes the half cheetah certifiable?

Plain MuJoCo is deterministic, and its total variation to every density is 1. With Gaussian noise on every observed
coordinate the one-step density is exact, and the certificate is the less vacuous the larger the noise is beside the
model's error. Here the friendliest case is measured at several noise levels: k = 1, a model fitted to data of the very
policy that is certified, and fresh data of that policy. Noise is another problem as well: the return is measured too.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch

from analysis.studies.noise_level import ENVIRONMENT, HORIZON, LENGTH, NoiseLevelConfig, NoiseRow, measure_all
from m3po.command_line import json_of, run


def text(rows: Sequence[NoiseRow], reference: tuple[float, float], config: NoiseLevelConfig) -> str:
    """The rows as a table."""
    lines = [
        f"{ENVIRONMENT}, forward, {HORIZON} steps, gamma = 0.95, k = {LENGTH}, data of the policy itself, "
        f"{config.episodes} fresh episodes, each row at confidence {config.confidence}",
        f"without noise the policy trained for {config.training_steps} steps returns {reference[0]:.0f} +- "
        f"{reference[1]:.0f} (undiscounted); nothing about it can be certified",
        f"{'noise':<8}{'level':>7}{'samples':>9}{'certificate':>13}{'estimate':>10}{'model':>8}{'reward':>8}"
        f"{'gamma .9':>10}{'gamma .99':>11}{'TV':>7}{'bias':>7}{'return':>9}{'transferred':>13}  verdict",
    ]
    for row in rows:
        lines.append(
            f"{row.kind:<8}{row.level:>7g}{row.samples:>9}{row.share:>13.1%}{row.share_at_estimates:>10.1%}"
            f"{row.model_share:>8.1%}{row.reward_share:>8.1%}{row.share_low_discount:>10.1%}"
            f"{row.share_high_discount:>11.1%}{row.model_error:>7.3f}{row.median_bias:>7.2f}{row.trained_return:>9.0f}"
            f"{row.transferred_return:>13.0f}  {row.verdict}"
        )
    return "\n".join(lines)


def main(config: NoiseLevelConfig) -> int:
    torch.set_num_threads(1)
    rows, reference = measure_all(config)
    if config.as_json:
        record = {"noise_free_return": reference[0], "noise_free_error": reference[1]}
        print(json_of(record | {"rows": [dataclasses.asdict(row) for row in rows]}))
    else:
        print(text(rows, reference, config))
    return 1 if any(row.verdict == "violated" for row in rows) else 0


def cli(arguments: Sequence[str] | None = None) -> None:
    run(main, NoiseLevelConfig, arguments, prog="python -m analysis.noise_level")


if __name__ == "__main__":
    cli()
