"""The two ends of the scale on SwitchingPointMass: an oracle that knows the task, and the best policy without memory.

Both are found by gradient ascent on the return, differentiated through the known dynamics, so they are strong but not
proven optimal: the optimum is at least the oracle's figure. Run ``python -m analysis.anchors`` (about six minutes).
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from analysis.runs.anchor_search import DESCRIPTIONS, KINDS, AnchorConfig, TorchPointMass, best_policy
from analysis.runs.outputs import Output
from m3po.command_line import json_of, run
from m3po.envs.switching_point_mass import PointMassDynamics
from m3po.foreign.checked_environment import CheckedEnvironment
from m3po.runs.provenance import provenance

ENVIRONMENT = "m3po/SwitchingPointMass-v0"


def anchors(config: AnchorConfig) -> dict[str, object]:
    """The figures as a JSON-ready dictionary; returns are undiscounted sums over one episode."""
    environment = CheckedEnvironment(ENVIRONMENT, {})
    dynamics, horizon = environment.offers.dynamics, environment.horizon
    assert isinstance(dynamics, PointMassDynamics)
    simulator = TorchPointMass(dynamics, horizon)
    policies: dict[str, dict[str, float | str]] = {}
    for kind in KINDS:
        policy = best_policy(simulator, kind, config)
        with torch.no_grad():
            returns = simulator.returns(kind, policy, config.episodes, torch.Generator().manual_seed(config.seed + 1))
        policies[kind] = {
            "return": returns.double().mean().item(),
            "standard_error": returns.double().std().item() / math.sqrt(config.episodes),
            "meaning": DESCRIPTIONS[kind],
        }
    return {
        "env_id": ENVIRONMENT,
        "horizon": horizon,
        "iterations": config.iterations,
        "episodes": config.episodes,
        "seed": config.seed,
        "policies": policies,
        "provenance": provenance([Path(sys.argv[0]).name, *sys.argv[1:]]),
    }


def main(config: AnchorConfig) -> int:
    torch.set_num_threads(1)
    out = None
    if config.out is not None:
        config.out.parent.mkdir(parents=True, exist_ok=True)
        out = Output("out", config.out, '"analysis.anchors"', config.overwrite).check()
    record = anchors(config)
    if config.json:
        print(json_of(record))
    else:
        policies = record["policies"]
        assert isinstance(policies, dict)
        for kind, entry in policies.items():
            print(f"{kind:<11} {entry['return']:8.3f} +- {entry['standard_error']:.3f}  {entry['meaning']}")
    if out is not None:
        out.write(json_of(record) + "\n")
    return 0


def cli(arguments: Sequence[str] | None = None) -> None:
    run(main, AnchorConfig, arguments, prog="python -m analysis.anchors")


if __name__ == "__main__":
    cli()
