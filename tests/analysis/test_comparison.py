"""Algorithms beside each other: what is refused as another protocol, and that final means last."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from scipy import stats

from analysis.comparison import cli, load, summary, table
from analysis.runs import collection
from analysis.runs.collection import algorithm_of
from m3po.config import Config
from tests.analysis.recorded_runs import recorded

CHEETAH = "m3po/HalfCheetahFwdBwd-v0"


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    """Three algorithms in one environment, and one of them in another."""
    return [
        recorded(tmp_path / "a", [1.0, 90.0, 20.0], seed=1),
        recorded(tmp_path / "b", [2.0, 5.0, 10.0], seed=0),
        recorded(tmp_path / "c", [1.0, 3.0], seed=0, algorithm="pearl", epoch_steps=500),
        recorded(tmp_path / "d", [1.0, 2.0, 7.0], seed=0, algorithm="grbal", updates_per_step=1),
        recorded(tmp_path / "e", [0.0, 8.0], seed=0, algorithm="pearl", env_id=CHEETAH, width=16),
    ]


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({}, "M3PO k=1"), ({"rollout_length": 5}, "M3PO k=5"), ({"algorithm": "m3po-full"}, "M3PO Full"),
        ({"algorithm": "m3po-h"}, "M3PO-h"), ({"algorithm": "pearl"}, "PEARL"), ({"algorithm": "grbal"}, "L2A"),
        ({"history_length": 0}, "memoryless"),
    ],
)  # fmt: skip
def test_names(changes: dict[str, Any], name: str) -> None:
    assert algorithm_of(Config(run_dir=Path("unused"), **changes)) == name


def test_the_last_evaluation_of_every_algorithm_and_environment(runs: list[Path]) -> None:
    record = summary(load(runs))
    assert list(record) == [CHEETAH, "m3po/SwitchingPointMass-v0"]
    entry = record["m3po/SwitchingPointMass-v0"]["M3PO k=1"]
    assert entry["seeds"] == [0, 1]
    assert entry["final_returns"] == [10.0, 20.0]
    low, high = stats.t.interval(0.95, 1, loc=15.0, scale=5.0)
    assert entry["interval"] == pytest.approx([low, high])
    assert record[CHEETAH]["PEARL"]["interval"] is None


def test_the_table_holds_every_evaluation(runs: list[Path]) -> None:
    lines = table(load(runs)).splitlines()
    assert lines[0].startswith("# trained with m3po.train at commit ")
    rows = list(csv.DictReader(lines[1:]))
    assert len(rows) == 13
    assert {row["environment"] for row in rows} == {CHEETAH, "m3po/SwitchingPointMass-v0"}
    (last,) = [row for row in rows if row["variant"] == "L2A" and row["step"] == "200"]
    assert (last["return"], last["seed"]) == ("7", "0")


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"seed": 2, "learning_rate": 0.5}, "learning_rate=0.5"),
        ({"seed": 0}, "two runs of M3PO k=1 with seed 0"),
        ({"algorithm": "m3po-h", "width": 9}, "width=9"),
        ({"algorithm": "m3po-h", "history_length": 5}, "history_length=5"),
        ({"algorithm": "m3po-h", "env_options": '{"observe_reward": true}'}, "env_options="),
        ({"algorithm": "m3po-h", "complete": False}, "is not finished"),
        ({"rollout_length": 3, "total_steps": 2000}, "total_steps=2000"),
    ],
)
def test_another_protocol_is_refused(changes: dict[str, Any], named: str, runs: list[Path], tmp_path: Path) -> None:
    other = recorded(tmp_path / "other", [1.0], **changes)
    with pytest.raises(ValueError, match=named) as caught:
        load([*runs, other])
    assert str(other) in str(caught.value)


def test_what_an_algorithm_does_not_read_may_differ(runs: list[Path], tmp_path: Path) -> None:
    other = recorded(tmp_path / "other", [1.0], seed=5, algorithm="pearl", epoch_steps=500, planner_horizon=3)
    assert len(load([*runs, other])["m3po/SwitchingPointMass-v0"]) == 5
    planning = recorded(tmp_path / "planning", [1.0], seed=5, algorithm="grbal", updates_per_step=1, planner_horizon=3)
    with pytest.raises(ValueError, match="planner_horizon=3"):
        load([*runs, planning])


def test_m3po_h_may_be_trained_longer_than_the_others_but_not_than_itself(runs: list[Path], tmp_path: Path) -> None:
    longer = recorded(tmp_path / "longer", [1.0], algorithm="m3po-h", total_steps=2000)
    assert len(load([*runs, longer])["m3po/SwitchingPointMass-v0"]) == 5
    assert len(load([longer, *runs])["m3po/SwitchingPointMass-v0"]) == 5
    longest = recorded(tmp_path / "longest", [1.0], algorithm="m3po-h", total_steps=4000, seed=1)
    with pytest.raises(ValueError, match="total_steps=4000"):
        load([longer, longest])


def test_a_memoryless_run_may_stand_beside_the_others_and_an_unfinished_one_when_asked(
    runs: list[Path], tmp_path: Path
) -> None:
    memoryless = recorded(tmp_path / "m", [4.0], history_length=0, complete=False)
    found = load([*runs, memoryless], unfinished=True)["m3po/SwitchingPointMass-v0"]
    assert [each.variant for each in found] == ["L2A", "M3PO k=1", "M3PO k=1", "PEARL", "memoryless"]


def test_runs_that_are_not_equally_far_are_compared_where_all_were(tmp_path: Path) -> None:
    paths = [
        recorded(tmp_path / "0", [1.0, 2.0, 9.0], seed=0, complete=False),
        recorded(tmp_path / "1", [3.0, 4.0], seed=1, complete=False),
    ]
    (entry,) = summary(load(paths, unfinished=True))["m3po/SwitchingPointMass-v0"].values()
    assert (entry["steps"], entry["final_returns"], entry["mean"]) == ([100, 100], [2.0, 4.0], 3.0)


def test_options_that_mean_the_same_are_the_same(tmp_path: Path) -> None:
    options = ['{"observe_reward":true, "dim": 1}', '{ "dim": 1, "observe_reward": true}']
    paths = [
        recorded(tmp_path / str(seed), [1.0, 2.0], seed=seed, env_options=text) for seed, text in enumerate(options)
    ]
    assert len(load(paths)["m3po/SwitchingPointMass-v0"]) == 2
    assert len(collection.load(paths)) == 2
    other = recorded(tmp_path / "other", [1.0, 2.0], seed=2, env_options='{"observe_reward": 1, "dim": 1}')
    for read in (load, collection.load):
        with pytest.raises(ValueError, match="env_options"):
            read([*paths, other])


def test_the_command(runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "curves.csv"
    with pytest.raises(SystemExit) as stop:
        cli([*map(str, runs), "--out", str(out)])
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    assert "M3PO k=1           15.0 [-48.5, 78.5]" in shown
    assert out.read_text() == table(load(runs))
    with pytest.raises(SystemExit):
        cli([*map(str, runs), "--json"])
    assert json.loads(capsys.readouterr().out) == summary(load(runs))
    with pytest.raises(SystemExit) as stop:
        cli([])
    assert stop.value.code == 2
