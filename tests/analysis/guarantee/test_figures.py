"""The audit's figure: gaps with their signs, on one linear axis."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from analysis.diagnostics.intervals import Ends
from analysis.drawing.style import figure_style
from analysis.guarantee.figures import END, draw_gaps


def test_a_gap_keeps_its_sign_within_its_discrepancy_and_one_off_the_axis_is_told_in_numbers() -> None:
    gaps = {"certificate": Ends(-0.5, -1.0, 0.2), "m3po-th1": Ends(2.0, 1.5, 2.5)}
    rows = [
        SimpleNamespace(name=name, scheme="full", discrepancy=size, vacuous=size > 10, verdict="holds", gap=gap)
        for (name, gap), size in zip(gaps.items(), (3.0, 400.0), strict=True)
    ]
    found: Any = SimpleNamespace(own=SimpleNamespace(checks=rows), trivial=10.0)
    with figure_style():
        from matplotlib.figure import Figure

        axes = Figure().subplots()
        draw_gaps(axes, found)
    assert axes.get_xscale() == "linear"
    patches: list[Any] = list(axes.patches)
    bars = [bar for bar in patches if bar.get_width()]
    assert [(bar.get_x(), bar.get_x() + bar.get_width()) for bar in bars] == [(-10 * END, 10 * END), (-3.0, 3.0)]
    assert [text.get_text() for text in axes.texts if text.get_text() != "trivial"] == ["± 400"]
    lines = [tuple(map(float, line.get_xdata())) for line in axes.lines]  # type: ignore[arg-type]
    assert lines[:4] == [(1.5, 2.5), (2.0,), (-1.0, 0.2), (-0.5,)]
    trivial = [text.get_position()[0] for text in axes.texts if text.get_text() == "trivial"]
    assert trivial == pytest.approx([-10, 10])
