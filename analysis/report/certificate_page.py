"""The page of ``analysis.certify``: what is certain, in the words and on the axis of the page about a run."""

from __future__ import annotations

import dataclasses
from typing import Any

from analysis.guarantee.certification import METHODS, Certification
from analysis.guarantee.evidence import Evidence
from analysis.report.first_screen import MARKS, Answer, Kind, Mark, number_line, shown
from analysis.report.pages import finite, rendered

HEADER = ["way to a bound", "at least", "estimate", "episodes worth"]


def answer_of(found: Certification, evidence: Evidence) -> Answer:
    """The answer in words, and promise, guarantee, measured return and the range of all returns on one axis."""
    lowest, highest = found.trivial, evidence.reward_high * (evidence.horizon_weight + evidence.tail_weight)
    sure, certain = f"{found.confidence:.0%}", found.lower_bound
    span = f"over {found.horizon} steps" if found.tail == "absorbing" else "over all time"
    what = "promised" if found.model_return is not None else "estimated"
    promised = "" if found.promised is None else f" of the {what} {shown(found.promised)}"
    kind: Kind
    if found.verdict == "violated":
        kind, headline = "violated", "No: the evidence contradicts itself"
    elif found.verdict != "certified" or certain is None:
        kind, headline = "nothing", "No: nothing is certain"
    else:
        kind, headline = "certified", f"Yes, at least {shown(certain)}{promised} is certain"
    sentences = [f"{found.reason[0].upper()}{found.reason[1:]}."]
    if kind == "certified":
        sentences = [
            f"With {sure} confidence the policy’s real return {span} is at least {shown(certain or 0.0)}: by "
            f"{found.method}, from {_data(found)}."
        ]
        if found.tail == "worst":
            sentences.append(f"What may come after the {found.horizon} steps of an episode is taken at its worst.")
    marks = []
    if found.promised is not None:
        label = "The model promises" if found.model_return is not None else "Estimated"
        marks.append(Mark("promised", label, shown(found.promised), point=found.promised))
    label = f"Guaranteed, {sure} sure"
    if kind == "nothing" or certain is None:
        marks.append(Mark("guaranteed", label, "nothing"))
    else:
        label = "Would be guaranteed, but is refuted" if kind == "violated" else label
        marks.append(Mark("guaranteed", label, f"at least {shown(certain)}", certain, highest))
    if found.true_return is not None:
        estimate, low, high = (found.true_return[each] for each in ("estimate", "lower", "upper"))
        text = f"{shown(estimate)} ({shown(low)} to {shown(high)})"
        marks.append(Mark("measured", f"Measured over {found.horizon} steps", text, low, high, estimate))
    marks.append(Mark("possible", "Possible at all", f"{shown(lowest)} to {shown(highest)}", lowest, highest))
    more = [f"{found.more[0].upper()}{found.more[1:]}." if found.more and kind == "certified" else ""]
    if found.assumed_independent:
        more.append(
            f"Assumed, since the evidence does not say: {' and '.join(found.assumed_independent)} fitted on other "
            "episodes."
        )
    return Answer(kind, headline, sentences, marks, (lowest, highest), " ".join(filter(None, more)))


def _data(found: Certification) -> str:
    worth = sum(each.effective_sample_size for each in found.data)
    if len(found.data) == 1 and worth == found.episodes:
        return f"{found.episodes} episodes of the policy itself"
    others = "another policy" if len(found.data) == 1 else f"{len(found.data)} data policies"
    return f"{found.episodes} episodes of {others}, worth {worth:.0f} of its own"


def ways(found: Certification) -> list[list[Any]]:
    """Every way to a bound that was tried, the answer marked: its value, estimate, and what its episodes are worth."""
    rows: list[list[Any]] = []
    for bound in found.lower_bounds:
        if bound.value is None or bound.estimate is None:
            continue
        size = found.episodes if bound.effective_sample_size is None else bound.effective_sample_size
        name = METHODS[bound.name] + (" (the answer)" if bound.name == found.answer else "")
        rows.append([name, bound.value, bound.estimate, f"{size:.0f}"])
    return rows


def untried(found: Certification) -> list[str]:
    """The other ways, and why not."""
    return [f"{METHODS[bound.name]}: {bound.reason}" for bound in found.lower_bounds if bound.value is None]


def page(found: Certification, evidence: Evidence, name: str, mark: str) -> str:
    """The whole page as HTML. ``name``: of the evidence; ``mark``: of the command that writes it."""
    answer = answer_of(found, evidence)
    parts = {
        "policy": "the policies differ", "model": "the model errs", "reward": "its rewards err",
        "tail": "steps after the last",
    }  # fmt: skip
    return rendered(
        "certificate.html",
        mark,
        question="How much of this return is certain?",
        answer=answer,
        sign=MARKS[answer.kind],
        line=number_line(answer),
        name=name,
        evidence=evidence,
        found=found,
        header=HEADER,
        ways=ways(found),
        untried=untried(found),
        each=max((bound.confidence or 0.0 for bound in found.lower_bounds), default=0.0),
        data=[[f"data policy {each.label}", str(each.episodes), f"{each.effective_sample_size:.0f}"]
              for each in found.data],
        discrepancy=[[parts[key], value] for key, value in found.discrepancy.items()],
        honesty=[[key, value] for key, value in found.honesty.items()],
        record=finite(dataclasses.asdict(found)),
    )  # fmt: skip
