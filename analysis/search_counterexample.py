"""``python -m analysis.search_counterexample``: try to refute a bound on exact finite processes."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from analysis.runs.outputs import Output, mark_of
from analysis.theory.attack import SearchConfig, facts_of, target_of
from analysis.theory.hard_instances import Candidate, hardest_handmade
from analysis.theory.targets import Target
from bounds.finite.instance import arrays_of
from m3po.command_line import json_of, run
from m3po.extras import missing_extra


def hardest_of(config: SearchConfig, target: Target) -> list[Candidate]:
    """The hardest instances found, best first; without torch only the hand-made ones."""
    try:
        import torch

        from analysis.theory.adversary import search
    except ModuleNotFoundError as error:
        print(f"gradient ascent is left out: {missing_extra(error)}", file=sys.stderr)
        return hardest_handmade(target, config.horizon)
    torch.set_num_threads(1)  # the tensors are small: threads would only wait for each other
    with tqdm(total=config.steps, desc=f"attacking {config.bound}", file=sys.stderr, unit="step") as bar:

        def advance(ratio: float) -> None:
            bar.set_postfix_str(f"best ratio {ratio:.4f}", refresh=False)
            bar.update()

        return search(
            target,
            restarts=config.restarts,
            steps=config.steps,
            horizon=config.horizon,
            states=config.states,
            actions=config.actions,
            seed=config.seed,
            progress=advance,
        )


def main(config: SearchConfig) -> int:
    """Run the search; 1 when the bound is refuted, 0 otherwise."""
    target = target_of(config)
    path = config.out or Path(f"counterexample-{config.bound}.npz")
    out = Output("out", path, mark_of("analysis.search_counterexample"), config.overwrite)
    if config.out is not None:
        out.check()
    candidates = hardest_of(config, target)
    best = candidates[0]
    facts: dict[str, Any] = dict(facts_of(config, target, best))
    ascents = [c.ratio for c in candidates if c.origin == "gradient ascent"]
    facts["best_ascent_ratio"] = max(ascents, default=None)
    saved = config.out is not None or bool(facts["refuted"])
    facts["saved"] = str(path) if saved else None
    print(json_of(facts) if config.json else report(facts))
    if saved:
        stored = arrays_of(best.instance, bound=config.bound, gamma=config.discount, k=config.rollout_length)
        out.write_arrays(**stored)
    return int(bool(facts["refuted"]))


def report(facts: dict[str, Any]) -> str:
    """The search's result in words."""
    verdict = (
        f"REFUTED: the gap of one process is {facts['best_ratio']:.6g} times the discrepancy."
        if facts["refuted"]
        else f"Not refuted: the hardest process found uses {facts['best_ratio']:.6g} of the discrepancy."
    )
    ascent = facts["best_ascent_ratio"]
    beside = "without gradient ascent" if ascent is None else f"best by gradient ascent alone: {ascent:.6g}"
    lines = [
        f"{facts['bound']} at gamma {facts['gamma']}, k {facts['k']}",
        verdict,
        f"  found by            {facts['origin']} ({beside})",
        f"  return gap          {facts['return_gap']:.10g} (true minus model)",
        f"  discrepancy         {facts['discrepancy']:.10g}",
        f"  model error         {facts['model_error']:.6g}",
        f"  policy divergence   {facts['policy_divergence_sup']:.6g} (sup)",
        f"  reward range        {facts['reward_range']:.6g}",
        f"  transitions         {facts['horizon']} ({facts['visible_share']:.3%} of the future that counts)",
    ]
    if facts["saved"] is not None:
        lines.append(f"  saved to            {facts['saved']}")
    return "\n".join(lines)


def cli(arguments: Sequence[str] | None = None) -> None:
    """The command line; exits."""
    run(main, SearchConfig, arguments, prog="python -m analysis.search_counterexample")


if __name__ == "__main__":
    cli()
