"""The sections of ``analysis.report`` below its first screen: what its template needs of what was found."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from analysis.diagnostics.intervals import span
from analysis.guarantee import figures
from analysis.guarantee.guarantee import Guarantee
from analysis.report import charts
from analysis.report.findings import Findings, decomposition, through_training
from analysis.report.first_screen import shown
from analysis.report.pages import Drawing, drawing
from analysis.runs.anchors import anchors_of, closed
from m3po.config import Config
from m3po.runs.provenance import command_of, provenance

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def drawings(figures: Sequence[tuple[str, Figure | None, str]]) -> list[Drawing]:
    """Those of name, figure and caption that have a figure."""
    return [drawing(figure, name, caption) for name, figure, caption in figures if figure is not None]


def learning(found: Findings) -> dict[str, Any] | None:
    """The learning curve; None without an evaluation."""
    config = found.directory.config
    anchors = anchors_of(config.env_id) if config.environment_options() == {} else {}
    figure = charts.learning_curve(found.rows, anchors)
    if figure is None:
        return None
    last = next(row for row in reversed(found.rows) if "return" in row)
    caption = (
        f"{config.evaluation_episodes} episodes of the policy without its exploration noise at each point; the band is "
        "two standard errors."
    )
    return {
        "step": last["step"],
        "last": shown(last["return"]),
        "share": f"{float(closed(np.array(last['return']), anchors)):.0%}" if anchors else None,
        "drawings": drawings([("learning", figure, caption)]),
        "warnings": last.get("warnings", []),
    }


def errors(found: Findings) -> dict[str, Any]:
    """Model error, policy divergence and reward error, through training and over the times of an episode."""
    rows = found.rows
    figures = [
        ("model-error", charts.model_error(rows),
         "Model error: total variation between reality’s next-step law and the model’s; 0 is perfect, 1 is useless."),
        ("model-profile", charts.profile_chart(
            rows, "eps_m_profile", "eps_m_profile_upper", "model error over an episode", last=-1),
         "The same over the time steps of an episode; the band reaches to the upper end that holds at all steps."),
        ("divergence", charts.policy_divergence(rows),
         "How far an epoch’s updates moved the policy from the one that collected the data. The true maximum over all "
         "histories cannot be measured, only bounded from below."),
        ("divergence-profile", charts.profile_chart(
            rows, "policy_divergence_profile", "policy_divergence_upper", "policy divergence over an episode",
            last=None),
         "The same over the time steps of an episode."),
    ]  # fmt: skip
    missing = ""
    if "eps_m" not in rows[-1]:
        missing = "This run logged no model error."
        if "nll" in rows[-1]:
            missing = (
                "No model error in total variation is logged: the environment’s one-step density is not known. The "
                f"last one-step negative log likelihood is {rows[-1]['nll']:.2f} nats."
            )
    return {"drawings": drawings(figures), "missing": missing, "reward": rows[-1].get("reward_error")}


def every_bound(guarantee: Guarantee) -> dict[str, Any]:
    """Every bound against the measured gap, at the end of the training."""
    figure, axes = charts.chart(4.0)
    figures.draw_gaps(axes, guarantee)
    charts.legend_of_figure(axes, columns=3)
    tables = []
    for name, part in guarantee.by_data_policy.items():
        lines = [
            [
                row.name,
                f"{row.scheme}, {'learned' if row.learned_reward else 'known'} reward",
                row.discrepancy,
                str(row.gap),
                row.outcome,
            ]
            for row in part.checks
        ]
        meaning = {"current": "fresh data of the policy itself", "previous": "data of the policy one epoch ago"}[name]
        header = ["bound", "model return", "discrepancy", "measured gap", "verdict"]
        tables.append({"meaning": meaning, "header": header, "rows": lines})
    caption = (
        "The trained policy, certified from its own fresh data: bars are discrepancies (grey: vacuous), dots and lines "
        "the measured gap."
    )
    return {"drawings": drawings([("gaps", figure, caption)]), "tables": tables}


def bounds_through_training(guarantee: Guarantee, rows: list[dict[str, Any]], config: Config) -> list[Drawing]:
    """The discrepancies at each epoch's logged errors; none where no error profiles were logged."""
    figures: list[tuple[str, Figure | None, str]] = []
    known = guarantee.trivial - guarantee.returns.reward_range  # the first reward is the same
    for name, moved, part, title, label, caption in (
        ("training-own", False, guarantee.own, "for the policy that collected the data",
         "final policy, own data: |gap|",
         "Model error alone: what can be guaranteed for the policy that collected each epoch’s data."),
        ("training-moved", True, guarantee.previous, "for the policy after the updates",
         "final policy, old data: |gap|",
         "Model error and policy divergence: the same data, asked about the policy that the epoch’s updates made of "
         "it. The bounds take ε_π at its sample maximum, a lower estimate, so only the certificate is certified."),
    ):  # fmt: skip
        curves = through_training(rows, guarantee.returns, guarantee.rollout_length, moved=moved)
        if len(curves["step"]) == 0:
            return []
        final = next((row for row in part.bounds if row.scheme == "branched"), part.certificate)
        steps = curves.pop("step")
        label += " (learned reward)" if final.learned_reward else ""
        figure = charts.bounds_through_training(steps, curves, known, final.gap, title, label)
        figures.append((name, figure, caption))
    return drawings(figures)


def certificate_parts(guarantee: Guarantee) -> dict[str, Any]:
    """What the certificate is made of."""
    labels = {"current": "own fresh data", "previous": "data one epoch old"}
    parts = {labels[name]: decomposition(each, guarantee) for name, each in guarantee.by_data_policy.items()}
    rows: list[list[Any]] = [
        [label, *(each[name] for each in parts.values())] for name, label in charts.PART_LABELS.items()
    ]
    rows.append(["certificate", *(sum(each.values()) for each in parts.values())])
    figure = charts.decomposition(parts, guarantee.trivial)
    caption = (
        f"Parts of the certificate for k = {guarantee.rollout_length}; the dashed line is what any model satisfies."
    )
    return {
        "tail": shown(guarantee.tail),
        "drawings": drawings([("decomposition", figure, caption)]),
        "header": ["part", *parts],
        "rows": rows,
    }


def calibration_and_prediction(found: dict[str, Any]) -> dict[str, Any]:
    """Calibration, k-step error, likelihood and the telescoped gap."""
    worst, nll, gap, steps = found["calibration"]["worst"], found["nll"], found["return_gap"], found["k_step"]
    verdict = (
        f"certainly off: by at least {worst['lower']:.3f} somewhere"
        if worst["lower"] > 0
        else "not certainly off at this number of episodes"
    )
    lines = [
        ["true return", span(gap["true_return"])],
        ["return of full rollouts in the model", span(gap["model_return"])],
        ["gap, measured as their difference", span(gap["direct"])],
        ["gap, telescoped along real histories", span(gap["telescoped"])],
        ["… of it by the learned reward", span(gap["reward_part"])],
        ["… of it by the learned dynamics", span(gap["dynamics_part"])],
        ["one-step negative log likelihood, nats", span(nll)],
        ["… of a Gaussian without history and action", f"{nll['baseline']:.3f}"],
    ]
    figures = [
    ("calibration", charts.calibration(found["calibration"]),
     "A calibrated model lies on the diagonal: a tenth of real outcomes is below what it calls its 10% quantile, and "
     "so on. Even a calibrated model is off it by chance."),
    ("k-step", charts.k_step_error(steps),
     f"Root mean square error of the model’s mean prediction with the actions really taken, {steps['starts']} starts "
     f"in each of {steps['episodes']} episodes; even the true process has some: actions react to what happens."),
    ("telescoped", charts.telescoped(gap),
     "Where along an episode the model’s full-rollout return goes wrong: spans of equal discount weight. Positive: "
     "reality pays more than the model says."),
]  # fmt: skip
    return {
        "found": found,
        "verdict": verdict,
        "worst": worst,
        "drawings": drawings(figures),
        "rows": lines,
        "steps": gap["value_steps"],
        "left_out": f"{gap['remainder_at_most']:.1%}" if gap["remainder_at_most"] != 0 else None,
    }


def origin(found: Findings) -> dict[str, Any]:
    """Configuration and provenance of the run and of the page."""
    directory = found.directory
    defaults = {each.name: each.default for each in dataclasses.fields(Config)}
    record = {name: value for name, value in dataclasses.asdict(directory.config).items() if name != "run_dir"}
    changed = [[name, json.dumps(value)] for name, value in record.items() if value != defaults[name]]
    rest = [[name, json.dumps(value)] for name, value in record.items() if value == defaults[name]]
    sessions = [
        [
            each.get("start_utc", "?"),
            f"{each.get('commit') or 'unknown'}{' with uncommitted changes' if each.get('dirty') else ''}",
            command_of(each.get("argv", [])),
            ", ".join(f"{name} {value}" for name, value in each.get("versions", {}).items()),
            ", ".join(f"{name} {value}" for name, value in each.get("hardware", {}).items()),
        ]
        for each in directory.provenance()
    ]
    here = provenance(sys.argv)
    measured = found.audit
    made = (
        f"This page: {here['start_utc']}, commit {here['commit'] or 'unknown'}"
        f"{' with uncommitted changes' if here['dirty'] else ''}; "
        + (
            f"{measured.episodes} fresh episodes per policy, seed {measured.seed}, confidence {measured.confidence:g}."
            if measured is not None
            else "nothing was measured for it."
        )
    )
    return {"made": made, "sessions": sessions, "changed": changed, "rest": rest}
