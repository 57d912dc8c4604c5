"""``python -m analysis.report RUN_DIR``: one self-contained page about a run. Can I trust this model's return?

What the page says about the guarantee is the report of ``analysis.check_guarantee``, measured anew on fresh episodes;
what it says about training is what the run logged. Sections whose numbers a run lacks are left out, and it is said why.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import torch
from markupsafe import Markup

from analysis.drawing.style import figure_style
from analysis.flags.report import ReportConfig
from analysis.guarantee.guarantee import Guarantee
from analysis.report.answer import QUESTION, answer_of
from analysis.report.findings import Findings, findings
from analysis.report.first_screen import MARKS, number_line
from analysis.report.pages import finite, rendered
from analysis.report.sections import (
    bounds_through_training,
    calibration_and_prediction,
    certificate_parts,
    errors,
    every_bound,
    learning,
    origin,
)
from analysis.runs.outputs import Output, files_of, mark_of
from m3po.command_line import run
from m3po.runs.run_directory import RunDirectory

MARK = mark_of("analysis.report")


def page(found: Findings) -> str:
    """The whole page as HTML."""
    directory, answer = found.directory, answer_of(found)
    certified = found.audit if isinstance(found.audit, Guarantee) else None
    record = None if found.audit is None else found.audit.record()
    with figure_style():
        return rendered(
            "report.html",
            MARK,
            question=QUESTION,
            answer=answer,
            sign=MARKS[answer.kind],
            line=number_line(answer),
            name=directory.path.resolve().name,
            config=directory.config,
            complete=directory.complete,
            steps=found.rows[-1]["step"] if found.rows else 0,
            has_rows=bool(found.rows),
            audit=found.audit,
            certified=certified,
            learning=learning(found) if found.rows else None,
            errors=errors(found) if found.rows else None,
            bounds=None if certified is None else every_bound(certified),
            training=None if certified is None else bounds_through_training(certified, found.rows, directory.config),
            parts=None if certified is None else certificate_parts(certified),
            prediction=None if found.surrogates is None else calibration_and_prediction(found.surrogates),
            origin=origin(found),
            record=finite({"check": record, "surrogates": found.surrogates, "obstacle": found.obstacle}),
        )


def main(config: ReportConfig) -> int:
    torch.set_num_threads(1)
    RunDirectory.read(config.run_dir)  # before anything is written there
    path = config.out or config.run_dir / "report.html"
    out = Output("out", path, MARK, config.overwrite, files_of(config.run_dir)).check()
    found = findings(
        config.run_dir,
        episodes=config.episodes,
        confidence=config.confidence,
        seed=config.seed,
        trust_env=config.trust_env,
    )
    answer, written = answer_of(found), page(found)
    print(
        f"{answer.headline}. {' '.join(Markup(each).striptags() for each in (*answer.sentences, answer.more))}".rstrip()
    )
    out.write(written)
    print(f"page: {out.shown}", file=sys.stderr)
    return 1 if answer.kind == "violated" else 0


def cli(arguments: Sequence[str] | None = None) -> None:
    run(main, ReportConfig, arguments, prog="python -m analysis.report")


if __name__ == "__main__":
    cli()
