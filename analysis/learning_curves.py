"""``python -m analysis.learning_curves RUN_DIR...``: learning and error curves of one or more runs.

With several runs of one configuration the line is the mean over seeds and every seed is drawn thinly.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import tyro
from numpy.typing import NDArray

from analysis.anchors import landed_anchors
from analysis.outputs import Output, check_figure, files_of, mark_of
from m3po.command_line import json_of, run
from m3po.flag_checks import Items, check_fields
from m3po.run_directory import RunDirectory

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = NDArray[np.float64]
ANCHOR_COLOURS = {"oracle": "#009e73", "filter": "#56b4e9", "memoryless": "#d55e00", "random": "#8a8a8a"}
ANCHOR_LABELS = {
    "oracle": "oracle: knows the task",
    "filter": "exact belief about the task",
    "memoryless": "best found without memory",
    "random": "random actions",
}
COLOUR = "#0072b2"


@dataclass(frozen=True)
class CurvesConfig:
    """Draw learning curves and error curves, and print the final evaluations with the share of the gap between the
    memoryless and the task-knowing policy that was closed."""

    run_dirs: tyro.conf.Positional[Annotated[tuple[Path, ...], Items()]]
    """Run directories of m3po.train, all of one environment."""
    figure: Path = Path("learning_curves.png")
    """Where to draw (.png, .pdf, .svg)."""
    overwrite: bool = False
    """Replace the file of --figure even if this command did not write it; one that it wrote is replaced anyway."""
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False
    """Print JSON instead of a table."""

    def __post_init__(self) -> None:
        check_fields(self)
        check_figure("figure", self.figure)


@dataclass(frozen=True)
class Curves:
    """Runs on a common grid of steps.

    Attributes:
        env_id: their environment.
        commits: of the code that made them, "+" where it had uncommitted changes.
        seeds: [S].
        steps: [E] real environment steps at the evaluations.
        values: metric name -> [S, E].
    """

    env_id: str
    commits: list[str]
    seeds: list[int]
    steps: Array
    values: dict[str, Array]

    @property
    def final_returns(self) -> Array:
        """The last evaluation of every run, not the best: [S]."""
        return self.values["return"][:, -1]


def load(run_dirs: Sequence[Path]) -> Curves:
    """Read the runs.

    Raises:
        ValueError: when one is not a run directory, has no metrics yet, or the runs do not belong together.
    """
    runs = [RunDirectory.read(path) for path in run_dirs]
    tables = [each.metrics() for each in runs]
    for each, table in zip(runs, tables, strict=True):
        if not table:
            raise ValueError(f"{each.path} has no metrics yet")
        if each.config.env_id != runs[0].config.env_id:
            raise ValueError(f"{each.path} is of {each.config.env_id}, {runs[0].path} of {runs[0].config.env_id}")
        if each.config.algorithm != runs[0].config.algorithm:
            raise ValueError(
                f"{each.path} is of {each.config.algorithm}, {runs[0].path} of {runs[0].config.algorithm}; "
                "analysis.comparison puts algorithms beside each other"
            )
    steps = [row["step"] for row in tables[0]]
    for each, table in zip(runs, tables, strict=True):
        if [row["step"] for row in table] != steps:
            raise ValueError(f"{each.path} was evaluated at other steps than {runs[0].path}")
    rows = [row for table in tables for row in table]
    common = [name for name in rows[0] if all(name in row for row in rows)]
    names = [name for name in common if isinstance(rows[0][name], int | float)]
    if "return" not in names:
        raise ValueError(f"{runs[0].path} has an epoch without an evaluation, or other runs do")
    values = {name: np.array([[row[name] for row in table] for table in tables], dtype=np.float64) for name in names}
    commits = sorted({commit for each in runs for commit in each.commits})
    return Curves(
        runs[0].config.env_id, commits, [each.config.seed for each in runs], np.array(steps, dtype=np.float64), values
    )


def closed(returns: Array, anchors: dict[str, float]) -> Array:
    """Share of the way from the memoryless to the task-knowing policy: (return - memoryless)/(oracle - memoryless)."""
    return (returns - anchors["memoryless"]) / (anchors["oracle"] - anchors["memoryless"])


def plot(axes: Axes, curves: Curves, name: str, colour: str, label: str, style: str = "-") -> None:
    """One metric: thin lines per seed, a thick one for their mean."""
    for values in curves.values[name]:
        axes.plot(curves.steps, values, color=colour, lw=0.7, alpha=0.35, ls=style)
    axes.plot(curves.steps, curves.values[name].mean(axis=0), color=colour, lw=2.0, ls=style, label=label)


def draw(curves: Curves, anchors: dict[str, float]) -> Figure:
    """Returns with the anchors; model error with the Bayes filter's; policy divergence."""
    from matplotlib.figure import Figure

    # A baseline has no errors of a model to draw.
    panels = 3 if curves.values.keys() >= {"eps_pi_mean", "eps_pi_sample_max"} else 1
    figure = Figure(figsize=(3.8 * panels, 3.7), layout="constrained")
    axes = figure.subplots(1, panels, squeeze=False)[0]
    plot(axes[0], curves, "return", COLOUR, "return")
    for name, value in anchors.items():
        axes[0].axhline(value, color=ANCHOR_COLOURS[name], lw=1.2, ls="--")
        below = name == "filter"
        axes[0].annotate(
            ANCHOR_LABELS[name], (curves.steps[-1], value), xytext=(0, -2 if below else 2), textcoords="offset points",
            ha="right", va="top" if below else "bottom", fontsize=7.5, color=ANCHOR_COLOURS[name],
        )  # fmt: skip
    axes[0].set_title("return of an episode", loc="left")
    if panels > 1 and curves.values.keys() >= {"eps_m", "eps_m_mean"}:
        plot(axes[1], curves, "eps_m", COLOUR, r"$\epsilon_m$: largest over time")
        plot(axes[1], curves, "eps_m_mean", "#009e73", "mean over time")
        if curves.values.keys() >= {"bayes_eps_m", "bayes_eps_m_mean"}:
            plot(axes[1], curves, "bayes_eps_m", COLOUR, "exact filter, same window: largest", ":")
            plot(axes[1], curves, "bayes_eps_m_mean", "#009e73", "exact filter, same window: mean", ":")
        axes[1].set_ylim(0, 1)
        axes[1].legend(loc="upper right", fontsize=7.5)
    if panels > 1:
        axes[1].set_title("model error on held-out episodes", loc="left")
        plot(axes[2], curves, "eps_pi_mean", "#cc79a7", "mean over histories")
        plot(axes[2], curves, "eps_pi_sample_max", "#8a8a8a", r"sample maximum (lower estimate of $\epsilon_\pi$)")
        axes[2].set_ylim(0, 1.05)
        axes[2].legend(loc="lower right", fontsize=7.5)
        axes[2].set_title("policy divergence over one epoch", loc="left")
    for each in axes:
        each.set_xlabel("real environment steps")
    count = len(curves.seeds)
    figure.suptitle(f"{curves.env_id}, {count} seed{'s' if count > 1 else ''}", x=0.01, ha="left", fontsize=9)
    return figure


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


def anchors_of(env_id: str) -> dict[str, float]:
    """The landed anchors of the environment, none where it has none."""
    return landed_anchors() if env_id == "m3po/SwitchingPointMass-v0" else {}


def main(config: CurvesConfig) -> int:
    from analysis.figure_style import figure_style

    read = files_of(*config.run_dirs)
    output = Output("figure", config.figure, mark_of("analysis.learning_curves"), config.overwrite, read).check()
    curves = load(config.run_dirs)
    anchors = anchors_of(curves.env_id)
    record = summary(curves, anchors)
    print(json_of(record) if config.as_json else text(record))
    with figure_style():
        output.write_figure(draw(curves, anchors))
    print(f"figure: {output.path}", file=sys.stderr)
    return 0


def cli(arguments: Sequence[str] | None = None) -> None:
    run(main, CurvesConfig, arguments, prog="python -m analysis.learning_curves")


if __name__ == "__main__":
    cli()
