"""The first screen of a page: the answer in words, and everything that it speaks of on one axis."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["certified", "undecided", "nothing", "violated", "surrogate", "unmeasured"]

MARKS: dict[Kind, str] = {
    "certified": "✓", "undecided": "?", "nothing": "–", "violated": "✗", "surrogate": "?", "unmeasured": "?",
}  # fmt: skip


@dataclass(frozen=True)
class Answer:
    """The first screen.

    Attributes:
        kind: what the answer is.
        headline: the answer in a few words.
        sentences: what it means, for a reader without prior knowledge; text, or Markup.
        marks: label, value as text, and what to draw on the common axis: low and high ends of a band and a point, each
            None where there is none.
        axis: the ends of the axis; None when there is nothing to draw.
        more: what is certain without the model, and what would make it more; below the axis, empty where nothing.
    """

    kind: Kind
    headline: str
    sentences: list[str]
    marks: list[Mark] = dataclasses.field(default_factory=list)
    axis: tuple[float, float] | None = None
    more: str = ""


@dataclass(frozen=True)
class Mark:
    """One row of the number line."""

    name: str
    label: str
    value: str
    low: float | None = None
    high: float | None = None
    point: float | None = None


def shown(value: float) -> str:
    """A return as the page writes it."""
    return (f"{value:.2f}" if abs(value) < 1000 else f"{value:.0f}").replace("-", "−")


def number_line(answer: Answer) -> dict[str, Any] | None:
    """The rows of the answer with their places on one axis, in percent; None where there is nothing to draw."""
    if answer.axis is None:
        return None
    low, high = answer.axis

    def place(value: float) -> float:
        return 100 * (min(max(value, low), high) - low) / (high - low)

    limit = next((mark.low for mark in answer.marks if mark.name == "guaranteed" and mark.low is not None), None)
    rows = []
    for mark in answer.marks:
        band = None
        if mark.low is not None and mark.high is not None:
            left, right = place(mark.low), place(mark.high)
            band = f"{left:.2f}", f"{max(right - left, 0.4):.2f}"
        rows.append(
            {
                "name": mark.name,
                "label": mark.label,
                "value": mark.value,
                "band": band,
                "point": None if mark.point is None else f"{place(mark.point):.2f}",
            }
        )
    return {
        "kind": answer.kind,
        "marks": rows,
        "limit": None if limit is None else f"{place(limit):.2f}",
        "low": shown(low),
        "high": shown(high),
    }
