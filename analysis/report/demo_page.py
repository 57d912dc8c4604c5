"""The page of the demo."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from analysis.drawing.curves import ANCHOR_LABELS
from analysis.guarantee.guarantee import Guarantee
from analysis.report.pages import picture, rendered
from analysis.runs.outputs import mark_of
from m3po.runs.terminal import shown


def returns_of(record: dict[str, Any]) -> list[tuple[str, float]]:
    """The final evaluation between its anchors, best first."""
    labels = ANCHOR_LABELS
    rows = [(labels[name], value) for name, value in record["anchors"].items()]
    rows.append(("M3PO, this run's final evaluation", record["final_returns"][0]))
    return sorted(rows, key=lambda row: -row[1])


def page(
    bounds_text: str,
    record: dict[str, Any],
    guarantee: Guarantee,
    check_text: str,
    out: Path,
    provenance: dict[str, Any],
) -> str:
    """The whole page as HTML."""
    return rendered(
        "demo.html",
        mark_of("analysis.demo"),
        answer=guarantee.conclusion(),
        record=record,
        returns=returns_of(record),
        pictures={name: picture(out / f"{name}.png") for name in ("bounds", "learning_curves", "guarantee")},
        bounds_text=bounds_text,
        episodes=guarantee.episodes,
        check_text=check_text,
        provenance=provenance,
        run_dir=str(shown(out / "run")),
    )
