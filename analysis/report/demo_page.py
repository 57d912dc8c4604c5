"""The page of the demo: the guarantee of every training, the worst one in full, and the bounds before any training."""

from __future__ import annotations

import dataclasses
import shlex
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analysis.diagnostics.intervals import Ends
from analysis.drawing.curves import ANCHOR_LABELS
from analysis.drawing.style import figure_style
from analysis.guarantee.guarantee import Guarantee
from analysis.report import charts
from analysis.report.answer import QUESTION, certificate_answer
from analysis.report.first_screen import MARKS, Answer, Kind, number_line, shown
from analysis.report.pages import finite, rendered
from analysis.report.sections import certificate_parts, drawings, every_bound
from analysis.runs.curves import Curves
from analysis.runs.over_seeds import student_interval
from analysis.theory.comparison import Comparison, conclusion, footnotes, lines
from m3po.runs.provenance import command_of
from m3po.runs.terminal import shown as shown_path

WORST_FIRST: tuple[Kind, ...] = ("violated", "nothing", "undecided", "certified")


@dataclass(frozen=True)
class Checked:
    """A training of the demo and what was certified of it."""

    seed: int
    guarantee: Guarantee

    @property
    def answer(self) -> Answer:
        """Of this training alone."""
        return certificate_answer(self.guarantee)


def worst_of(trainings: Sequence[Checked]) -> Checked:
    """The one with the worst answer; of equal ones the one that is guaranteed least."""

    def key(each: Checked) -> tuple[int, float]:
        guarantee = each.guarantee
        least = guarantee.at_least if guarantee.at_least is not None else guarantee.true_return.lower
        return WORST_FIRST.index(each.answer.kind), float(least)

    return min(trainings, key=key)


def answer_of(trainings: Sequence[Checked], confidence: float) -> Answer:
    """What can be said of all trainings, which is what can be said of the worst.

    Args:
        confidence: that all guarantees hold.
    """
    worst = worst_of(trainings)
    answer, count = worst.answer, len(trainings)
    if count == 1:
        return answer
    kinds = [each.answer.kind for each in trainings]
    certain = [each.guarantee.at_least for each in trainings if each.guarantee.at_least is not None]
    alike = kinds.count(answer.kind)
    where = f"in all {count} trainings" if alike == count else f"in {alike} of {count} trainings"
    if answer.kind == "violated":
        headline = f"No: the guarantee is violated {where}"
    elif answer.kind == "nothing":
        headline = f"No: nothing is guaranteed {where}"
    elif answer.kind == "undecided":
        headline = f"At least {shown(min(certain))} in every training, not yet confirmed {where}"
    else:
        promised = shown(float(worst.guarantee.promise.estimate))
        headline = f"Yes, {where}: for at least {shown(min(certain))} of the promised {promised} in the worst"
    opening = (
        f"M3PO was trained {count} times, with different seeds. What follows is about the worst training, seed "
        f"{worst.seed}; the guarantees of all {count} hold together with {confidence:.0%} confidence."
    )
    return dataclasses.replace(answer, headline=headline, sentences=[opening, *answer.sentences])


def ends_of(value: Ends) -> list[str]:
    """An estimate, and its interval for the line below it."""
    return [shown(value.estimate), f"{shown(value.lower)} to {shown(value.upper)}"]


def guarantees(trainings: Sequence[Checked]) -> tuple[list[str], list[list[Any]]]:
    """Header and rows of the table of all trainings."""
    header = ["seed", "promised", "earned", "bound", "gap"]
    rows: list[list[Any]] = []
    for each in trainings:
        found, check = each.guarantee, each.guarantee.certificate
        certain = "nothing certain" if found.at_least is None else f"{shown(found.at_least)} certain"
        if found.verdict == "violated":
            certain = "refuted"
        rows.append(
            [
                [str(each.seed), check.outcome],
                [shown(float(found.promise.estimate)), certain],
                ends_of(Ends.of(found.true_return)),
                [shown(check.discrepancy), f"{check.discrepancy / found.trivial:.0%}"],
                ends_of(check.gap),
            ]
        )
    return header, rows


def bounds_before(comparison: Comparison) -> dict[str, Any]:
    """Every bound at given errors, as a table that fits a phone, and against k."""
    rows = [
        [
            [each.bound, each.rollouts if each.k == "any" else f"{each.rollouts}, k = {each.k}".replace("k, k", "k")],
            [f"{each.value:.4g}", f"{each.share} of trivial"],
            each.verdict,
        ]
        for each in lines(comparison)
    ]
    caption = "Discrepancy of every bound against the rollout length; in the grey area it says nothing."
    return {
        "config": comparison.config,
        "trivial": f"{comparison.trivial:.4g}",
        "header": ["bound", "discrepancy", "verdict"],
        "rows": rows,
        "footnotes": footnotes(comparison),
        "conclusion": conclusion(comparison),
        "drawings": drawings([("bounds", charts.discrepancies(comparison.config), caption)]),
    }


def returns_of(curves: Curves, record: dict[str, Any]) -> list[list[Any]]:
    """Final evaluations between their anchors, best first."""
    places: list[tuple[float, list[Any]]] = [
        (value, [ANCHOR_LABELS[name], shown(value)]) for name, value in record["anchors"].items()
    ]
    shares = record.get("closed", [None] * len(record["seeds"]))
    for seed, value, share in zip(record["seeds"], record["final_returns"], shares, strict=True):
        closing = [] if share is None else [f"closes {share:.0%}"]
        places.append((value, [f"M3PO, seed {seed}", [shown(value), *closing] if closing else shown(value)]))
    if len(record["seeds"]) > 1:
        mean, low, high = (float(end) for end in student_interval(curves.final_returns))
        places.append((mean, ["M3PO, mean of all", [shown(mean), f"{shown(low)} to {shown(high)}"]]))
    return [row for _, row in sorted(places, key=lambda each: -each[0])]


def training(curves: Curves, record: dict[str, Any]) -> dict[str, Any]:
    """The learning curve, the model error, and the final evaluations."""
    count = len(curves.seeds)
    band = (
        f"Mean of {count} seeds with its 95% Student interval (n = {count}; it supposes normal returns)."
        if count > 1
        else "One training: nothing here says how much seeds differ."
    )
    figures = [
        ("learning", charts.returns_of_seeds(curves, record["anchors"]),
         f"Evaluations of the policy without its exploration noise. {band}"),
        ("model-error", charts.model_error_of_seeds(curves),
         "Model error: total variation between reality’s next-step law and the model’s; 0 is perfect, 1 is useless. "
         "The largest over time rests on the rare first steps of episodes; the certificate uses the whole profile."),
    ]  # fmt: skip
    errors = record.get("eps_m_mean")
    return {
        "drawings": drawings(figures),
        "rows": returns_of(curves, record),
        "closed": f"{record['mean_closed']:.0%}" if "mean_closed" in record else None,
        "errors": None if errors is None else [f"{sum(errors[end]) / count:.2f}" for end in ("first", "final")],
    }


def program(name: str) -> str:
    """How a program of this environment is called from where the demo was started."""
    path = Path(sys.executable).parent / name
    return name if shutil.which(name) == str(path) else shlex.quote(str(shown_path(path)))


def commands(trainings: Sequence[Checked], out: Path, run_dirs: Sequence[Path], discount: float) -> list[list[str]]:
    """What makes each part of the page anew, as it is typed."""
    m3po, found = program("m3po"), worst_of(trainings).guarantee
    place, runs = shlex.quote(str(shown_path(out))), shlex.join([str(shown_path(each)) for each in run_dirs])
    checked = f"{shlex.quote(found.run_dir)} --confidence {found.confidence:g} --episodes {found.episodes}"
    return [
        ["the bounds", f"{m3po} compare --gamma {discount:g}"],
        ["the guarantee", f"{m3po} check {checked}"],
        ["the report", f"{m3po} report {checked} --out {place}/report.html"],
        ["the explorer", f"{m3po} explore --out {place}/explorer.html"],
        ["the learning curves", f"{m3po} curves {runs} --figure {place}/learning_curves.png"],
        ["everything logged", f"{program('tensorboard')} --logdir {place}/run"],
    ]


def page(
    mark: str,
    comparison: Comparison,
    curves: Curves,
    record: dict[str, Any],
    trainings: Sequence[Checked],
    out: Path,
    run_dirs: Sequence[Path],
    provenance: dict[str, Any],
    *,
    confidence: float,
) -> str:
    """The whole page as HTML; ``mark`` names its maker, ``confidence`` is that of all guarantees together."""
    answer, worst = answer_of(trainings, confidence), worst_of(trainings)
    header, rows = guarantees(trainings)
    with figure_style():
        return rendered(
            "demo.html",
            mark,
            question=QUESTION,
            answer=answer,
            sign=MARKS[answer.kind],
            line=number_line(answer),
            name="the M3PO demo",
            curves=curves,
            worst=worst,
            several=len(trainings) > 1,
            confidence=confidence,
            header=header,
            rows=rows,
            before=bounds_before(comparison),
            training=training(curves, record),
            steps=record["steps"],
            bounds=every_bound(worst.guarantee),
            parts=certificate_parts(worst.guarantee),
            commands=commands(trainings, out, run_dirs, comparison.config.discount),
            provenance=provenance,
            command=command_of(provenance["argv"]),
            record=finite(
                {
                    "bounds": comparison.as_dict(),
                    "training": record,
                    "guarantees": {str(each.seed): each.guarantee.record() for each in trainings},
                }
            ),
        )
