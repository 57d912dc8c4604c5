"""The figure of certified shares by age: landed rows that hold what the pages say, and lines that are those rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from analysis.runs.resumable_table import read_rows
from analysis.studies.certified_by_age import BOUNDS, CertifiedRow
from paper_figures import certified_by_age as figure


def test_the_lines_are_the_rows_and_the_thick_ones_their_medians() -> None:
    shown = figure.load()
    rows = {(row.seed, row.age): row for row in read_rows(figure.DATA, CertifiedRow)}
    axes = Figure().subplots()
    figure.draw(axes, shown)
    drawn = {line.get_label(): line for line in axes.get_lines()}
    assert set(figure.LOOKS) == set(BOUNDS)
    for name, (label, _, _) in figure.LOOKS.items():
        shares = [
            [
                max(getattr(rows[seed, age], name), rows[seed, age].trivial) / rows[seed, age].true_return
                for age in shown.ages
            ]
            for seed in shown.seeds
        ]
        np.testing.assert_allclose(shown.shares[name], shares)
        np.testing.assert_allclose(np.asarray(drawn[label].get_ydata()), np.median(shares, axis=0))
    assert [tick.get_text().split("\n")[0] for tick in axes.get_xticklabels()] == [str(age) for age in shown.ages]
    assert all(np.min(line.get_ydata()) > axes.get_ylim()[0] for line in axes.get_lines())


def test_a_table_that_lacks_a_row_or_a_gain_is_refused(tmp_path: Path) -> None:
    lines = [line for line in figure.DATA.read_text().splitlines(keepends=True) if not line.startswith("#")]
    file = tmp_path / "rows.csv"
    file.write_text("".join([*lines, "99" + lines[1][lines[1].index(",") :]]))
    with pytest.raises(ValueError, match="has no row of seed 99 with data that are 1 steps older"):
        figure.load(file)
    cells = lines[1].split(",")
    cells[lines[0].split(",").index("true_return")] = "-1.5"
    file.write_text("".join([lines[0], ",".join(cells), *lines[2:]]))
    with pytest.raises(ValueError, match=r"true_return must be above 0 .* got -1\.5"):
        figure.load(file)
