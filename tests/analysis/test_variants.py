"""The table of variants: what it takes, what it refuses, and that final means last."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from analysis.drawing.style import VARIANT_COLOURS, figure_style
from analysis.runs.collection import load, name_of
from analysis.runs.over_seeds import student_interval
from analysis.variants import cli, summary, table
from m3po.config import Config
from paper_figures import figure9_point_mass
from tests.analysis.recorded_runs import recorded
from tests.command_errors import refusal


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    """Two seeds of k = 1, two of Full."""
    return [
        recorded(tmp_path / "b", [1.0, 90.0, 20.0], seed=1, errors=True),
        recorded(tmp_path / "a", [2.0, 5.0, 10.0], seed=0, errors=True),
        recorded(tmp_path / "c", [1.0, 2.0, 3.0], seed=0, algorithm="m3po-full", errors=True),
        recorded(tmp_path / "d", [1.0, 2.0, 7.0], seed=1, algorithm="m3po-full", errors=True),
    ]


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({}, "k=1"), ({"rollout_length": 5}, "k=5"), ({"algorithm": "m3po-full"}, "Full"),
        ({"algorithm": "m3po-h"}, "M3PO-h"), ({"algorithm": "m3po-h", "rollout_length": 3}, "M3PO-h k=3"),
        ({"history_length": 0}, "memoryless"), ({"history_length": 0, "rollout_length": 3}, "memoryless k=3"),
    ],
)  # fmt: skip
def test_variants_have_the_papers_names(changes: dict[str, Any], name: str) -> None:
    assert name_of(Config(run_dir=Path("unused"), **changes)) == name


def test_the_final_evaluation_counts_and_not_the_best(runs: list[Path]) -> None:
    record = summary(load(runs))
    assert record["steps"] == 200
    assert list(record["variants"]) == ["Full", "k=1"]
    entry = record["variants"]["k=1"]
    assert entry["seeds"] == [0, 1]
    assert entry["final_returns"] == [10.0, 20.0]
    assert (entry["mean"], entry["median"], entry["worst"]) == (15.0, 15.0, 10.0)
    # Two values 10 apart: the half width is t_{.975, 1} * 5 = 12.706 * 5.
    assert entry["upper"] - entry["mean"] == pytest.approx(63.53, abs=0.01)


def test_the_interval_is_students() -> None:
    values = np.array([3.0, 1.0, 4.0, 1.5, 9.0])
    mean, low, high = student_interval(values, 0.9)
    expected = stats.t.interval(0.9, 4, loc=values.mean(), scale=stats.sem(values))
    assert mean == values.mean()
    np.testing.assert_allclose((low, high), expected)
    assert student_interval(np.array([2.0])) == (2.0, -np.inf, np.inf)


def test_the_table_holds_every_evaluation_and_the_figure_reads_it(runs: list[Path], tmp_path: Path) -> None:
    file = tmp_path / "table.csv"
    file.write_text(table(load(runs)))
    rows = list(csv.DictReader(line for line in file.read_text().splitlines() if not line.startswith("#")))
    assert len(rows) == 4 * 3
    first = {"variant": "Full", "seed": "0", "step": "0", "return": "1", "eps_m_mean": "", "eps_pi_mean": "0.2"}
    assert first.items() <= rows[0].items()
    k1, full = figure9_point_mass.load(file)
    assert (k1.name, full.name) == ("k=1", "Full")
    np.testing.assert_array_equal(k1.returns, [[2, 5, 10], [1, 90, 20]])
    np.testing.assert_array_equal(k1.steps, [0, 100, 200])
    np.testing.assert_allclose([k1.mean[-1], k1.lower[-1], k1.upper[-1]], student_interval(np.array([10.0, 20.0])))
    with figure_style():
        from matplotlib.figure import Figure

        axes = Figure().subplots(1, 2)
        figure9_point_mass.draw(axes, (k1, full), {"oracle": 80.0})
    curves = [line for line in axes[0].get_lines() if len(np.atleast_1d(line.get_xdata())) == 3]
    np.testing.assert_allclose([line.get_ydata()[-1] for line in curves], [15.0, 5.0])
    seeds = [line for line in axes[1].get_lines() if line.get_marker() == "o"]
    np.testing.assert_array_equal([line.get_ydata() for line in seeds], [[10, 20], [3, 7]])


def test_the_landed_table_is_whole() -> None:
    """Seven variants, five seeds each, every evaluation of 7,000 steps."""
    variants = figure9_point_mass.load()
    assert [variant.name for variant in variants] == list(VARIANT_COLOURS)
    for variant in variants:
        assert variant.returns.shape == (5, 34), variant.name
        assert variant.steps[[0, 1, -1]].tolist() == [0, 600, 7000]


def test_what_cannot_be_compared_is_refused(
    runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = [str(path) for path in runs]
    wider = recorded(tmp_path / "wider", [1.0], seed=5, width=9, errors=True)
    assert f"{wider} has width=9, {runs[0]} has 8" in refusal(cli, [*good, str(wider)], capsys)
    again = recorded(tmp_path / "again", [1.0], seed=1, errors=True)
    assert "there are two runs of k=1 with seed 1" in refusal(cli, [*good, str(again)], capsys)
    running = recorded(tmp_path / "running", [1.0], seed=6, complete=False, errors=True)
    assert f"{running} is not finished" in refusal(cli, [*good, str(running)], capsys)
    assert "no run directory at" in refusal(cli, [str(tmp_path / "missing")], capsys)
    assert "--out: no directory" in refusal(cli, [*good, "--out", str(tmp_path / "no" / "table.csv")], capsys)
    assert "RUN_DIRS needs at least 1 value, got 0" in refusal(cli, [], capsys)


def test_the_command_prints_the_best_mean_first(runs: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    words = [str(path) for path in runs]
    for extra in ([], ["--json"]):
        with pytest.raises(SystemExit) as stop:
            cli([*words, *extra])
        assert stop.value.code == 0
        out = capsys.readouterr().out
        if extra:
            assert json.loads(out) == summary(load(runs))
        else:
            assert out.index("k=1") < out.index("Full")
            assert "[-48.5, 78.5]" in out
