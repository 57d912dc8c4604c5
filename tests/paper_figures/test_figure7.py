"""Figure 7: the landed tables hold what the figure says, and the drawing adds nothing."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from analysis.drawing.style import ALGORITHM_COLOURS, figure_style
from paper_figures import figure7


def test_every_line_of_the_landed_table_is_in_a_panel() -> None:
    with figure7.CURVES.open() as file:
        comment = file.readline()
        rows = list(csv.DictReader(file))
    assert comment.startswith("# trained with m3po.train at commit ")
    panels = {panel.env_id: panel for panel in figure7.load()}
    assert {row["variant"] for row in rows} <= set(ALGORITHM_COLOURS)
    for row in rows:
        points = panels[row["environment"]].curves[row["variant"]][int(row["seed"])].tolist()
        assert [float(row["step"]), float(row["return"])] in points
    counts = [len(points) for panel in panels.values() for seeds in panel.curves.values() for points in seeds.values()]
    assert sum(counts) == len(rows)


def test_every_panel_has_what_uniform_actions_earn() -> None:
    for panel in figure7.load():
        assert "random" in panel.lines


def test_line_and_band_are_of_the_seeds(tmp_path: Path) -> None:
    curves, finals = tmp_path / "curves.csv", tmp_path / "finals.csv"
    curves.write_text(
        "# made up\nenvironment,variant,seed,step,return,return_standard_error\n"
        "m3po/X-v0,PEARL,0,0,1,0\nm3po/X-v0,PEARL,0,10,3,0\nm3po/X-v0,PEARL,4,0,3,0\nm3po/X-v0,PEARL,4,10,9,0\n"
    )
    finals.write_text("environment,variant,seed,return\nm3po/X-v0,uniform actions,0,-2.5\nm3po/X-v0,PEARL,0,3\n")
    (panel,) = figure7.load(curves, finals)
    assert panel.lines == {"random": -2.5}
    with figure_style():
        from matplotlib.figure import Figure

        axes = Figure().subplots()
        figure7.draw([axes], [panel])
    drawn = {str(line.get_label()): list(np.asarray(line.get_ydata())) for line in axes.lines}
    assert drawn == {"PEARL": [2.0, 6.0], "random actions": [-2.5, -2.5]}
    (band,) = axes.collections
    half = stats.t.ppf(0.975, 1) * np.array([1.0, 3.0])  # standard errors of (1, 3) and (3, 9)
    for step, mean, reach in zip((0, 10), (2.0, 6.0), half, strict=True):
        heights = [y for x, y in np.asarray(band.get_paths()[0].vertices) if x == step]
        assert (min(heights), max(heights)) == pytest.approx((mean - reach, mean + reach))
    assert axes.get_title(loc="left") == "m3po/X-v0\n2 seeds"


def test_many_evaluations_are_averaged_seed_by_seed_over_windows_that_end_at_whole_steps() -> None:
    steps = np.arange(0, 61.0)
    points = np.stack([np.stack([steps, returns], axis=1) for returns in (steps, 10 * steps)])
    assert figure7.window_of([points, points[:, :3]]) == 60 / figure7.WINDOWS == 3
    assert figure7.window_of([points[:, : figure7.MANY]]) == 0
    averaged = figure7.in_windows(points, 3)
    assert averaged.shape == (2, figure7.WINDOWS + 1, 2)  # the evaluation before any training stands alone
    assert averaged[1, :3].tolist() == [[0, 0], [2, 20], [5, 50]]
    assert figure7.in_windows(points, 0.0) is points
