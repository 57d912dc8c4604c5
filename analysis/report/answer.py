"""The first screen of ``analysis.report``: can I trust this model's return? In words, and on one axis."""

from __future__ import annotations

import dataclasses

import numpy as np
from markupsafe import Markup

from analysis.diagnostics.intervals import Ends
from analysis.guarantee.guarantee import Guarantee, Uncertifiable
from analysis.report.charts import series
from analysis.report.findings import Findings
from analysis.report.first_screen import Answer, Kind, Mark, shown

QUESTION = "Can I trust this model’s return?"


def promised_mark(value: Ends) -> Mark:
    return Mark("promised", "The model promises", shown(value.estimate), value.lower, value.upper, value.estimate)


def measured_mark(value: Ends) -> Mark:
    text = f"{shown(value.estimate)} ({shown(value.lower)} to {shown(value.upper)})"
    return Mark("measured", "Measured", text, value.lower, value.upper, value.estimate)


def answer_of(found: Findings) -> Answer:
    """The answer to the question, from what was found."""
    if found.audit is None:
        obstacle = found.obstacle or ""
        headline = "Not measured yet" if not found.rows else "Not certifiable"
        sentences = [
            f"{obstacle[0].upper()}{obstacle[1:]}. So no promise of a model could be held against reality, and nothing "
            "is guaranteed about the return."
        ]
        value = series(found.rows, "return")
        if value is not None and np.isfinite(value[-1]):
            sentences.append(
                f"What is known was measured while it trained: its policy earned {shown(value[-1])} per episode (not "
                "discounted) in the last evaluation. That is a measurement, not a guarantee of a model."
            )
        return Answer("unmeasured" if not found.rows else "surrogate", headline, sentences)
    if isinstance(found.audit, Uncertifiable):
        return surrogate_answer(found.audit)
    return certificate_answer(found.audit)


def surrogate_answer(found: Uncertifiable) -> Answer:
    """Nothing can be certified: measured promise and return side by side."""
    gap = found.surrogates["return_gap"]
    promised, measured, difference = (Ends(**gap[name]) for name in ("model_return", "true_return", "direct"))
    if difference.upper < 0:
        reading = f"it promises too much, by {shown(-difference.estimate)}"
    elif difference.lower > 0:
        reading = f"it promises too little, by {shown(difference.estimate)}"
    else:
        reading = "the two cannot be told apart at this number of episodes"
    ends = [promised.lower, promised.upper, measured.lower, measured.upper]
    margin = 0.6 * max(max(ends) - min(ends), 1e-6)
    return Answer(
        "surrogate",
        "Not certifiable",
        [
            "The theorems need the distance between the model’s and reality’s next-step probabilities. Here reality’s "
            "are not known, or it has no randomness at all. So that distance cannot be measured, and nothing is "
            "guaranteed.",
            f"What can be said instead: a rollout in the model earns {shown(promised.estimate)}, and "
            f"{found.episodes} fresh real episodes earned {shown(measured.estimate)} on average: {reading}. "
            "The intervals are approximate, and a policy that keeps training leaves them behind.",
        ],
        [
            promised_mark(promised),
            Mark("guaranteed", "Guaranteed", "nothing"),
            measured_mark(measured),
        ],
        (min(ends) - margin, max(ends) + margin),
        alone_sentence(found),
    )


def alone_sentence(found: Guarantee | Uncertifiable) -> str:
    """What real returns guarantee without the model, and what would make it more; empty where nothing."""
    alone, sentences = found.alone, []
    reserved = alone.reserved
    if reserved is not None and reserved.value > reserved.trivial:
        sentences.append(
            f"Before any fresh episode, those that the run reserved already guarantee at least {shown(reserved.value)}."
        )
    if alone.fresh is not None:
        sentences.append(
            f"Without the model, the returns of the {alone.episodes} fresh episodes alone guarantee at least "
            f"{shown(alone.fresh)} (each by itself with {alone.confidence:.0%} confidence)."
        )
        needed = alone.episodes_for(0.05)
        if needed is not None:
            sentences.append(f"About {needed:,} fresh episodes bring that within 5% of the return.")
    return " ".join(sentences)


def certificate_answer(found: Guarantee) -> Answer:
    """Promise, guarantee, measured return and the range of all returns, in words and on one axis."""
    promised, measured, at_least = Ends.of(found.promise), Ends.of(found.true_return), found.at_least
    discrepancy = shown(found.certificate.discrepancy)
    lowest, highest = found.returns.lowest, found.returns.highest
    sure = f"{found.confidence:.0%}"
    promise = f"The model promises a return of {shown(promised.estimate)}."
    truth = f"{found.episodes} fresh real episodes earned {shown(measured.estimate)} on average"
    between = f"between {shown(measured.lower)} and {shown(measured.upper)}"
    kind: Kind
    if found.verdict == "violated":
        kind, headline = "violated", "No: the guarantee is violated"
        sentences = [
            f"{promise} By its measured errors that could be off by {discrepancy} at most, but {truth} "
            f"({between}): certainly further away.",
            "The theorem is proved, so one of its inputs is wrong: the model’s return, its measured density, the "
            "reward range, or the code that computes them. Do not use this model’s promise.",
        ]
    elif at_least is None:
        kind, headline = "nothing", "No: nothing is guaranteed"
        sentences = [
            f"{promise} The model’s measured errors are so large that its promise could be off by "
            f"{discrepancy}, and {shown(found.trivial)} is what even a model that knows nothing "
            "satisfies.",
            f"{truth} ({between}). That is a measurement; the model adds no guarantee to it.",
        ]
    else:
        kind, headline = (
            "certified",
            f"Yes, for at least {shown(at_least)} of the promised {shown(promised.estimate)}",
        )
        sentences = [
            Markup(
                "{} With {} confidence the policy’s real return over {} steps is <b>at least {}</b>: certified from "
                "the model’s errors, which were measured on {} fresh real episodes."
            ).format(promise, sure, found.returns.horizon, shown(at_least), found.episodes),
            f"Held against reality: {truth} ({between}), which is above {shown(at_least)}, as guaranteed.",
        ]
        if found.verdict != "holds":
            kind, headline = "undecided", f"At least {shown(at_least)}, not yet confirmed"
            sentences[1] = (
                f"Held against reality: {truth} ({between}); too few to say whether the measured gap is as "
                "small as the theorem says."
            )
    guarantee = (
        Mark("guaranteed", f"Guaranteed, {sure} sure", "nothing")
        if kind == "nothing" or at_least is None
        else Mark("guaranteed", f"Guaranteed, {sure} sure", f"at least {shown(at_least)}", at_least, highest)
    )
    if kind == "violated":
        guarantee = dataclasses.replace(guarantee, label="Would be guaranteed, but is refuted")
    return Answer(
        kind,
        headline,
        sentences,
        [
            promised_mark(promised),
            guarantee,
            measured_mark(measured),
            Mark("possible", "Possible at all", f"{shown(lowest)} to {shown(highest)}", lowest, highest),
        ],
        (lowest, highest),
        "" if kind == "violated" else alone_sentence(found),
    )
