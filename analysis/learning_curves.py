"""``python -m analysis.learning_curves RUN_DIR...``: learning and error curves of one or more runs.

With several runs of one configuration the line is the mean over seeds and every seed is drawn thinly.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from analysis.drawing.curves import draw
from analysis.flags.curves import CurvesConfig
from analysis.runs.anchors import anchors_of, closed
from analysis.runs.curves import Curves, load
from analysis.runs.outputs import Output, files_of, mark_of
from m3po.command_line import json_of, run


def summary(curves: Curves, anchors: dict[str, float]) -> dict[str, Any]:
    """Final evaluations, and the shares closed where the environment has anchors."""
    finals = curves.final_returns
    result: dict[str, Any] = {
        "env_id": curves.env_id,
        "commits": curves.commits,
        "steps": int(curves.steps[-1]),
        "seeds": curves.seeds,
        "final_returns": finals.tolist(),
        "mean": float(finals.mean()),
        "anchors": anchors,
    }
    for name in ("eps_m", "eps_m_mean", "bayes_eps_m", "bayes_eps_m_mean"):
        if name in curves.values:
            table = curves.values[name]
            result[name] = {"first": table[:, 0].tolist(), "final": table[:, -1].tolist()}
    shown = ("return", "eps_m", "eps_m_mean", "eps_pi_mean")
    result["curves"] = {"step": curves.steps.tolist()} | {
        name: curves.values[name].tolist() for name in shown if name in curves.values
    }
    if anchors:
        result["closed"] = closed(finals, anchors).tolist()
        result["mean_closed"] = float(closed(finals, anchors).mean())
    return result


def text(record: dict[str, Any]) -> str:
    """The summary as a table."""
    anchors = record["anchors"]
    lines = [f"{record['env_id']}: final evaluation after {record['steps']} steps"]
    lines += [f"  {name:<12}{value:8.2f}" for name, value in anchors.items()]
    for place, (seed, value) in enumerate(zip(record["seeds"], record["final_returns"], strict=True)):
        share = f"  closes {record['closed'][place]:.0%} of memoryless to oracle" if anchors else ""
        errors = "".join(
            f"  {name} {record[name]['first'][place]:.2f} -> {record[name]['final'][place]:.2f}"
            for name in ("eps_m", "eps_m_mean")
            if name in record
        )
        lines.append(f"  seed {seed:<7}{value:8.2f}{share}{errors}")
    lines.append(f"  mean        {record['mean']:8.2f}" + (f"  closes {record['mean_closed']:.0%}" if anchors else ""))
    return "\n".join(lines)


def main(config: CurvesConfig) -> int:
    from analysis.drawing.style import figure_style

    read = files_of(*config.run_dirs)
    output = Output("figure", config.figure, mark_of("analysis.learning_curves"), config.overwrite, read).check()
    curves = load(config.run_dirs)
    anchors = anchors_of(curves.env_id)
    record = summary(curves, anchors)
    print(json_of(record) if config.as_json else text(record))
    with figure_style():
        output.write_figure(draw(curves, anchors))
    print(f"figure: {output.shown}", file=sys.stderr)
    return 0


def cli(arguments: Sequence[str] | None = None) -> None:
    run(main, CurvesConfig, arguments, prog="python -m analysis.learning_curves")


if __name__ == "__main__":
    cli()
