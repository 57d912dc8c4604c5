"""Figure 7: the landed tables hold what the figure says, and the drawing adds nothing."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

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


def test_the_mean_is_of_the_seeds_and_the_legend_counts_them(tmp_path: Path) -> None:
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
    thick = [line for line in axes.lines if line.get_linewidth() == 2.0]
    assert len(thick) == 1
    assert list(np.asarray(thick[0].get_ydata())) == [2.0, 6.0]
    assert thick[0].get_label() == "PEARL (2 seeds)"
    assert axes.get_title(loc="left") == "X"
