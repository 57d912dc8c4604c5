"""The cost of a step beside that of gymnasium's body."""

from __future__ import annotations

import json

import pytest

from analysis.step_cost import BODIES, cli, measure


def test_the_table_and_the_json_name_every_environment(capfd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for flags in ([], ["--json"]):
        with pytest.raises(SystemExit) as stop:
            cli(["--steps", "3", "--repeats", "1", *flags])
        assert stop.value.code == 0
        captured = capfd.readouterr()
        assert all(env_id in captured.out for env_id in BODIES)
        assert captured.err == ""
    rows = json.loads(captured.out)
    assert all(row["ratio"] == pytest.approx(row["environment"] / row["body"]) for row in rows.values())
    assert list(tmp_path.iterdir()) == []


def test_a_bad_number_is_named(capsys):
    with pytest.raises(SystemExit) as stop:
        cli(["--steps", "0"])
    assert stop.value.code == 2
    assert capsys.readouterr().err == "error: --steps must be >= 1, got 0\n"


@pytest.mark.slow
@pytest.mark.parametrize("env_id", BODIES)
def test_a_step_costs_at_most_a_third_more(env_id):
    assert min(measure(env_id, steps=1000, repeats=5)["ratio"] for _ in range(3)) < 1.3
