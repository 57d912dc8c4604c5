"""The sections of ``analysis.report`` below its first screen. Each is HTML from what was found."""

from __future__ import annotations

import dataclasses
import html
import json
import shlex
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from analysis import check_guarantee, report_charts
from analysis.learning_curves import anchors_of, closed
from analysis.page import drawing, table
from analysis.report_answer import shown
from analysis.report_findings import Findings, decomposition, through_training
from analysis.surrogates import span
from m3po.config import Config
from m3po.run_directory import provenance

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def drawings(figures: Sequence[tuple[str, Figure | None, str]]) -> str:
    """Name, figure and caption of each, side by side where there is room."""
    shown = [drawing(figure, name, caption) for name, figure, caption in figures if figure is not None]
    return f'<div class="charts">{"".join(shown)}</div>' if shown else ""


def learning(found: Findings) -> str:
    """The learning curve."""
    config = found.directory.config
    anchors = anchors_of(config.env_id) if config.environment_options() == {} else {}
    figure = report_charts.learning_curve(found.rows, anchors)
    if figure is None:
        return "<h2>Learning</h2><p>No evaluation was logged yet.</p>"
    last = found.rows[-1]
    share = ""
    if anchors:
        reached = float(closed(np.array(last["return"]), anchors))
        share = (
            f" That closes {reached:.0%} of the way from the best policy found without memory to the best found that "
            "knows the hidden task."
        )
    warnings = "".join(f"<li>{html.escape(str(each))}</li>" for each in last.get("warnings", []))
    return f"""<h2>Does it learn?</h2>
<p>Last evaluation, after {last["step"]} real steps: {shown(last["return"])} per episode, all rewards counting
fully.{share}</p>
{
        drawings(
            [
                (
                    "learning",
                    figure,
                    f"{config.evaluation_episodes} episodes of the policy without its exploration noise at "
                    "each point; the band is two standard errors.",
                )
            ]
        )
    }
{f"<p>Warnings of the last epoch:</p><ul>{warnings}</ul>" if warnings else ""}"""


def errors(found: Findings) -> str:
    """Model error, policy divergence and reward error, through training and over the times of an episode."""
    rows, config = found.rows, found.directory.config
    figures = [
        ("model-error", report_charts.model_error(rows),
         "Model error: total variation between reality’s next-step law and the model’s; 0 is perfect, 1 is useless."),
        ("model-profile", report_charts.profile_chart(
            rows, "eps_m_profile", "eps_m_profile_upper", "model error over an episode", last=-1),
         "The same over the time steps of an episode; the band reaches to the upper end that holds at all steps."),
        ("divergence", report_charts.policy_divergence(rows),
         "How far an epoch’s updates moved the policy from the one that collected the data. The true maximum over all "
         "histories cannot be measured, only bounded from below."),
        ("divergence-profile", report_charts.profile_chart(
            rows, "policy_divergence_profile", "policy_divergence_upper", "policy divergence over an episode",
            last=None),
         "The same over the time steps of an episode."),
    ]  # fmt: skip
    charts = drawings(figures)
    if not charts:
        return "<h2>What the model gets wrong</h2><p>This run logged no model error and no policy divergence.</p>"
    missing = "" if "eps_m" in rows[-1] else (
        "<p>No model error in total variation is logged: the environment’s one-step density is not known. The last "
        f"one-step negative log likelihood is {rows[-1]['nll']:.2f} nats.</p>" if "nll" in rows[-1] else
        "<p>This run logged no model error.</p>"
    )  # fmt: skip
    reward = rows[-1].get("reward_error")
    return f"""<h2>What the model gets wrong</h2>
<p>Measured after every epoch on {config.measure_episodes} held-out episodes of the policy that had collected the
epoch’s data, which never enter training.{
        "" if reward is None else f" The learned reward is off by {reward:.4f} per step on average at the end."
    }</p>
{missing}{charts}"""


def every_bound(check: dict[str, Any], rows: list[dict[str, Any]], config: Config) -> str:
    """Every bound against the measured gap: at the end, and what the log offers through training."""
    figure, axes = report_charts.chart(4.0)
    check_guarantee.draw_gaps(axes, check, "current")
    axes.set_xlabel("bar: discrepancy; dot, line: measured |gap|", fontsize=8)
    tables = []
    for name, part in check["data_policies"].items():
        lines = [
            [
                row["name"],
                f"{row['scheme']}, {'learned' if row['learned_reward'] else 'known'} reward",
                row["discrepancy"],
                span(row["gap"]),
                "holds, vacuously" if row["vacuous"] and row["verdict"] == "holds" else row["verdict"],
            ]
            for row in part["checks"]
        ]
        meaning = {"current": "fresh data of the policy itself", "previous": "data of the policy one epoch ago"}[name]
        header = ["bound", "model return", "discrepancy", "measured gap", "verdict"]
        tables.append(f"<details><summary>Table: {meaning}</summary>{table(header, lines)}</details>")
    return f"""<h2>Every bound against the measured gap</h2>
<p>Each theorem says: true return &ge; model return &minus; discrepancy. The gap is what was measured: true return
minus model return. A <i>vacuous</i> discrepancy is one that any model satisfies. A verdict is <i>surrogate</i> where an
input of the theorem cannot be certified from data, or the intervals do not decide.</p>
{
        drawings(
            [
                (
                    "gaps",
                    figure,
                    "The trained policy, certified from its own fresh data: bars are discrepancies (grey: "
                    "vacuous), dots and lines the measured gap.",
                )
            ]
        )
    }
{"".join(tables)}
<h3>Through training</h3>
{training_part(check, rows, config)}"""


def training_part(check: dict[str, Any], rows: list[dict[str, Any]], config: Config) -> str:
    """The discrepancies at each epoch's logged errors."""
    figures: list[tuple[str, Figure | None, str]] = []
    known = check["trivial"] - (check["reward_high"] - check["reward_low"])  # the first reward is the same
    for name, moved, policy, title, label, caption in (
        ("training-own", False, "current", "for the policy that collected the data", "final policy, own data: |gap|",
         "Model error alone: what can be guaranteed for the policy that collected each epoch’s data."),
        ("training-moved", True, "previous", "for the policy after the updates", "final policy, old data: |gap|",
         "Model error and policy divergence: the same data, asked about the policy that the epoch’s updates made of "
         "it. The bounds take ε_π at its sample maximum, a lower estimate, so only the certificate is certified."),
    ):  # fmt: skip
        curves = through_training(rows, check, config, moved=moved)
        if len(curves["step"]) == 0:
            return "<p>This run logged no error profiles.</p>"
        checks = check["data_policies"][policy]["checks"]
        final = next((row for row in checks if row["scheme"] == "branched" and not row["learned_reward"]), checks[0])
        steps = curves.pop("step")
        label += " (learned reward)" if final["learned_reward"] else ""
        figure = report_charts.bounds_through_training(steps, curves, known, final["gap"], title, label)
        figures.append((name, figure, caption))
    return f"""<p>The errors are known at every epoch, from the log. Each profile there holds with
{config.confidence:.0%} confidence; the right-hand certificate needs two, so {2 * config.confidence - 1:.0%}. The
returns are not: the model return and the discounted true return were measured for this page only, for the last
checkpoint (diamond). The reward error’s profile is not logged either, so these discrepancies are for the known
reward.</p>
{drawings(figures)}"""


def certificate_parts(check: dict[str, Any]) -> str:
    """What the certificate is made of."""
    labels = {"current": "own fresh data", "previous": "data one epoch old"}
    parts = {labels[name]: decomposition(check, name) for name in check["data_policies"]}
    names = list(report_charts.PART_LABELS)
    rows = [
        [label, *(each[name] for name in names), sum(each.values())] for label, each in parts.items()
    ]  # fmt: skip
    figure = report_charts.decomposition(parts, check["trivial"])
    return f"""<h2>What the certificate is made of</h2>
<p>The certificate (Theorem 4) is the sum of what each error can cost. From the policy’s own fresh data there is no
policy divergence; from data one epoch old it usually costs everything. The sampling allowance is what is added because
errors are estimated from {check["episodes"]} episodes. Episodes end after {
        check["horizon"]
    } steps, so there is no tail;
should the process go on, its rest is worth {shown(check["tail_if_the_process_went_on"])} more or less.</p>
{
        drawings(
            [
                (
                    "decomposition",
                    figure,
                    f"Parts of the certificate for k = {check['k']}; the dashed line is what any model satisfies.",
                )
            ]
        )
    }
{table(["data", *(report_charts.PART_LABELS[name] for name in names), "certificate"], rows)}"""


def calibration_and_prediction(found: dict[str, Any]) -> str:
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
    left_out = (
        ""
        if gap["remainder_at_most"] == 0
        else f" Its values look {gap['value_steps']} steps ahead; the rest weighs at most "
        f"{gap['remainder_at_most']:.1%} of R/(1&minus;&gamma;)."
    )
    return f"""<h2>Calibration and prediction</h2>
<p>These certify nothing, but show how the model errs. {found["episodes"]} fresh episodes of the policy; intervals are
{found["confidence"]:.0%} each, Student’s over episodes and so approximate, except the calibration band, which holds for
all coordinates at once at any number of episodes. k-step errors and the telescoped gap are of the first
{found["rollout_episodes"]} of these episodes. The calibration is {verdict} (worst coordinate
{worst["coordinate"]}: {worst["estimate"]:.3f}, at most {worst["upper"]:.3f} at the 19 levels looked at).</p>
{drawings([
    ("calibration", report_charts.calibration(found["calibration"]),
     "A calibrated model lies on the diagonal: a tenth of real outcomes is below what it calls its 10% quantile, and "
     "so on. Even a calibrated model is off it by chance."),
    ("k-step", report_charts.k_step_error(steps),
     f"Root mean square error of the model’s mean prediction with the actions really taken, {steps['starts']} starts "
     f"in each of {steps['episodes']} episodes; even the true process has some: actions react to what happens."),
    ("telescoped", report_charts.telescoped(gap),
     "Where along an episode the model’s full-rollout return goes wrong: spans of equal discount weight. Positive: "
     "reality pays more than the model says."),
])}
{table(["quantity", "estimate [interval]"], lines)}
<p class="note">Telescoped: the sum over real histories of what the real next observation is worth in the model, minus
what the model’s own next observation is worth there (analysis/surrogates.py states and proves it).{left_out}</p>
"""  # fmt: skip


def origin(found: Findings) -> str:
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
            shlex.join(each.get("argv", [])),
            ", ".join(f"{name} {value}" for name, value in each.get("versions", {}).items()),
            ", ".join(f"{name} {value}" for name, value in each.get("hardware", {}).items()),
        ]
        for each in directory.provenance()
    ]
    here = provenance(sys.argv)
    measured = found.check or {}
    made = (
        f"This page: {here['start_utc']}, commit {here['commit'] or 'unknown'}"
        f"{' with uncommitted changes' if here['dirty'] else ''}; "
        + (
            f"{measured['episodes']} fresh episodes per policy, seed {measured['seed']}, confidence "
            f"{measured['confidence']:g}."
            if measured
            else "nothing was measured for it."
        )
    )
    return f"""<h2>Configuration and provenance</h2>
<p>Seed {directory.config.seed}. {html.escape(made)}</p>
{table(["session started", "commit", "command", "versions", "hardware"], sessions, "settings")}
<h3>Settings that are not the defaults</h3>
{table(["setting", "value"], changed, "settings") if changed else "<p>None: the defaults throughout.</p>"}
<details><summary>All other settings</summary>{table(["setting", "value"], rest, "settings")}</details>"""
