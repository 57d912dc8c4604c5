"""Reading runs, the share of the gap that is closed, and the command's manners."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from analysis import learning_curves
from analysis.learning_curves import summary
from analysis.runs.anchors import closed, committed_anchors
from analysis.runs.curves import load
from m3po.runs.run_directory import RunDirectory
from tests.command_errors import refusal


def test_closed_is_0_at_memoryless_and_1_at_the_oracle():
    anchors = {"memoryless": 40.0, "oracle": 80.0, "random": 10.0}
    assert closed(np.array([40.0, 80.0, 70.0, 30.0]), anchors).tolist() == [0.0, 1.0, 0.75, -0.25]


def test_load_reads_the_metrics_and_takes_the_final_evaluation(tiny_run: Path):
    rows = RunDirectory.read(tiny_run).metrics()
    curves = load([tiny_run])
    assert curves.steps.tolist() == [row["step"] for row in rows] == [0, 600]
    assert curves.final_returns.tolist() == [rows[-1]["return"]]
    assert curves.values["eps_m"][0].tolist() == [row["eps_m"] for row in rows]


def test_summary_names_first_and_final_errors(tiny_run: Path):
    anchors = committed_anchors()
    record = summary(load([tiny_run]), anchors)
    assert record["eps_m_mean"]["first"][0] > 0.9  # an untrained model
    assert record["mean_closed"] == pytest.approx(closed(np.array(record["final_returns"]), anchors).mean())
    assert "seed 0" in learning_curves.text(record)


def test_the_landed_anchors_are_in_order():
    anchors = committed_anchors()
    assert anchors["random"] < anchors["memoryless"] < anchors["filter"] < anchors["oracle"] < 100


def test_the_command_draws_and_prints(tiny_run: Path, tmp_path: Path, capsys):
    figure = tmp_path / "curves.png"
    with pytest.raises(SystemExit) as stop:
        learning_curves.cli([str(tiny_run), "--figure", str(figure), "--json"])
    assert stop.value.code == 0
    assert json.loads(capsys.readouterr().out)["seeds"] == [0]
    assert figure.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("arguments", [["missing"], []])
def test_bad_input_exits_2_in_one_line(arguments, capsys):
    refusal(learning_curves.cli, arguments, capsys)
