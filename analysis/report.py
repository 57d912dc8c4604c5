"""``python -m analysis.report RUN_DIR``: one self-contained page about a run. Can I trust this model's return?

What the page says about the guarantee is the report of ``analysis.check_guarantee``, measured anew on fresh episodes;
what it says about training is what the run logged. Sections whose numbers a run lacks are left out, and it is said why.
"""

from __future__ import annotations

import html
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro

from analysis.figure_style import figure_style
from analysis.page import document
from analysis.report_answer import MARKS, QUESTION, answer_of, number_line
from analysis.report_findings import Findings, findings
from analysis.report_sections import (
    calibration_and_prediction,
    certificate_parts,
    errors,
    every_bound,
    learning,
    origin,
)
from m3po.command_line import run
from m3po.flag_checks import Confidence, EpisodeCount, Seed, check_directory_of, check_fields


@dataclass(frozen=True)
class ReportConfig:
    """Write one self-contained HTML page about a run of m3po.train: whether its model's return can be trusted, and
    everything measured about it.

    Exits with 1 when the guarantee is violated.
    """

    run_dir: tyro.conf.Positional[Path]
    """Run directory of a training, finished or not."""
    out: Path | None = None
    """Where to write the page; RUN_DIR/report.html when not given."""
    episodes: EpisodeCount | None = None
    """Fresh episodes per policy to measure on, at least 2; 1000 when not given, 100 where nothing can be certified."""
    confidence: Confidence = 0.95
    """Of the guarantee, in (0, 1)."""
    seed: Seed = 0
    """Seed of the fresh episodes."""

    def __post_init__(self) -> None:
        check_fields(self)
        check_directory_of("out", self.out)
        if self.out is not None and self.out.is_dir():
            raise ValueError(f"--out must be a file, got the directory {self.out}")


STYLE = """
* { box-sizing: border-box; } body { margin: 1.2rem auto 3rem; overflow-wrap: break-word; }
:root { --good: #00794f; --bad: #c0392b; --open: #8a6d00; --measured: #d55e00; --track: #ececec; }
@media (prefers-color-scheme: dark) {
  :root { --good: #3ecf95; --bad: #ff7b6b; --open: #e0b93c; --measured: #ff9a52; --track: #333; }
}
h1 { margin: 0 0 .5rem; }
header p { margin: .35rem 0; } .run { color: var(--soft); font-size: .9rem; }
.answer { border-left-width: 6px; padding: .7rem 1rem; font-size: 1rem; margin: 0; }
.answer .headline { font-size: 1.35rem; font-weight: 650; line-height: 1.3; margin: 0 0 .3rem; }
.answer.certified { border-color: var(--good); } .answer.certified .sign { color: var(--good); }
.answer.violated { border-color: var(--bad); } .answer.violated .sign { color: var(--bad); }
.answer.undecided, .answer.nothing, .answer.surrogate, .answer.unmeasured { border-color: var(--open); }
.sign { display: inline-block; min-width: 1.2em; font-weight: 700; color: var(--open); }
.line { margin: .9rem 0 .4rem; }
.mark { display: grid; grid-template-columns: 1fr auto; gap: 0 .8rem; margin: .45rem 0; }
.mark .label { color: var(--soft); } .mark .value { font-weight: 650; font-variant-numeric: tabular-nums; }
.track { grid-column: 1 / -1; position: relative; height: .8rem; margin: .1rem .4rem;
background: var(--track); border-radius: .4rem; }
.band { position: absolute; top: 0; bottom: 0; border-radius: .4rem; opacity: .45; background: var(--accent); }
.point { position: absolute; top: -.1rem; width: 1rem; height: 1rem; margin-left: -.5rem; border-radius: 50%;
background: var(--accent); }
.limit { position: absolute; top: -.25rem; bottom: -.25rem; border-left: 2px dotted var(--good); }
.violated .limit { border-color: var(--bad); }
.measured .band, .measured .point { background: var(--measured); } .possible .band { background: var(--soft); }
.guaranteed .band { background: var(--good); opacity: .6; border-radius: 0 .4rem .4rem 0; }
.violated .guaranteed .band { background: var(--bad); }
.ends { display: flex; justify-content: space-between; color: var(--soft); font-size: .8rem; margin: 0 .4rem; }
h2 { border-top: 1px solid var(--line); padding-top: 1.2rem; } h3 { font-size: 1.05rem; margin-bottom: .3rem; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 21rem), 1fr)); gap: 0 1.6rem; }
.drawing svg { width: 100%; display: block; } .drawing { max-width: 31rem; margin: .8rem 0; }
.scroll { overflow-x: auto; } table { font-size: .88rem; } th { color: var(--soft); font-weight: 600; }
td { vertical-align: top; } .settings td { font-family: ui-monospace, monospace; font-size: .82rem; }
.settings td:first-child { white-space: nowrap; }
@media (max-width: 30rem) {
  body { margin-top: .8rem; line-height: 1.5; } h1 { font-size: 1.35rem; }
  .answer { padding: .6rem .8rem; } .answer .headline { font-size: 1.2rem; }
}
summary { cursor: pointer; } details { margin: .6rem 0; }
"""


def page(found: Findings) -> str:
    """The whole page as HTML."""
    directory, answer = found.directory, answer_of(found)
    run_config = directory.config
    steps = found.rows[-1]["step"] if found.rows else 0
    state = (
        f"{steps} real steps"
        if directory.complete
        else f"<b>unfinished</b>: {steps} of {run_config.total_steps} real steps so far"
    )
    meaning = ""
    if found.check is not None:
        check = found.check
        meaning = (
            f"Return: the rewards of an episode of {check['horizon']} steps added up, each step counting "
            f"{check['gamma']:g} times the one before; on average over episodes"
        )
        meaning += (
            f"; a reward lies between {check['reward_low']:g} and {check['reward_high']:g}."
            if "reward_low" in check
            else "."
        )
    with figure_style():
        sections = [learning(found), errors(found)] if found.rows else []
        if found.check is not None and found.check["data_policies"]:
            sections += [every_bound(found.check, found.rows, run_config), certificate_parts(found.check)]
        if found.surrogates is not None:
            sections.append(calibration_and_prediction(found.surrogates))
    sections.append(origin(found))
    record = {"check": found.check, "surrogates": found.surrogates, "obstacle": found.obstacle}
    embedded = json.dumps(finite(record)).replace("</", "<\\/")
    body = f"""<header><h1>{QUESTION}</h1>
<div class="answer {answer.kind}"><p class="headline"><span class="sign" aria-hidden="true">{MARKS[answer.kind]}</span>
<span id="headline">{html.escape(answer.headline)}</span></p>
{"".join(f"<p>{sentence}</p>" for sentence in answer.sentences)}</div>
{number_line(answer)}
<p class="run">{meaning} Run: <code>{html.escape(directory.path.name)}</code>, {html.escape(run_config.algorithm)} on
<code>{html.escape(run_config.env_id)}</code>, {state}.</p></header>
{"".join(sections)}
<script type="application/json" id="record">{embedded}</script>"""
    return document(f"{answer.headline}: {directory.path.name}", body, STYLE)


def finite(value: Any) -> Any:
    """The same record with infinite numbers and NaN as text, which JSON lacks."""
    if isinstance(value, dict):
        return {name: finite(each) for name, each in value.items()}
    if isinstance(value, list):
        return [finite(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def main(config: ReportConfig) -> int:
    torch.set_num_threads(1)
    found = findings(config.run_dir, episodes=config.episodes, confidence=config.confidence, seed=config.seed)
    out = config.out or config.run_dir / "report.html"
    out.write_text(page(found), encoding="utf-8")
    answer = answer_of(found)
    print(f"{answer.headline}. {' '.join(answer.sentences).replace('<b>', '').replace('</b>', '')}")
    print(f"page: {out}", file=sys.stderr)
    return 1 if answer.kind == "violated" else 0


def cli(arguments: Sequence[str] | None = None) -> None:
    run(main, ReportConfig, arguments, prog="python -m analysis.report")


if __name__ == "__main__":
    cli()
