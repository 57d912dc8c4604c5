"""The data sets are about the truth they are held against; what fails to cover is found; a slow count of all of it."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from analysis.off_policy_coverage import cli
from analysis.studies import off_policy_coverage
from analysis.studies.off_policy_coverage import (
    DISCOUNT,
    LEAST,
    PLANTED,
    STEPS_AWAY,
    STUDENT,
    Coverage,
    LowerBoundRow,
    OffPolicyCoverageConfig,
    measure,
    source,
)
from bounds.finite import true_return


@pytest.mark.parametrize("distance", STEPS_AWAY.values())
def test_each_source_has_the_exact_means_and_the_distance_it_is_named_for(distance: float) -> None:
    each = source(distance)
    truth = true_return(each.instance.process, each.instance.policy, DISCOUNT)
    for values, added in ((each.weighted, 0.0), (each.variate, each.budget)):
        assert each.trajectories.mean(values) + each.offset - added == pytest.approx(truth, rel=1e-12)
    profiles = each.instance.profiles()
    np.testing.assert_allclose(profiles.policy_divergence, distance, rtol=1e-12)
    assert each.trajectories.mean(each.unweighted) + each.offset > truth


def test_everything_that_promises_its_level_keeps_it_and_weights_are_missed() -> None:
    coverage = measure(OffPolicyCoverageConfig(data_sets=150, sizes=(30, 100)))
    assert coverage.sound
    rows = {(row.data, row.size, row.bound): row for row in coverage.rows}
    assert len(rows) == len(coverage.rows)
    assert {row.bound for row in coverage.rows} >= {PLANTED, STUDENT, "control variate", "Theorem 5, uncapped"}
    old = "old (TV .3 per step)"
    assert rows[old, 100, PLANTED].holds < 0.05
    assert rows[old, 100, "importance weights"].width < 0.5 * rows[old, 100, "Hoeffding, told the largest"].width


@pytest.mark.slow
def test_a_thousand_data_sets_of_each_kind_are_covered() -> None:
    coverage = measure(OffPolicyCoverageConfig(seed=1))
    assert coverage.sound, [row for row in coverage.rows if row.holds < LEAST]
    assert {row.size for row in coverage.rows} == {30, 100, 1000}


def test_a_bound_that_holds_too_rarely_or_a_planted_one_that_holds_is_found() -> None:
    good = [LowerBoundRow("x", 30, "importance weights", 0.96, 0.1), LowerBoundRow("x", 30, PLANTED, 0.2, 0.1)]
    assert Coverage([*good, LowerBoundRow("x", 30, STUDENT, 0.8, 0.1)]).sound
    assert not Coverage([replace(good[0], holds=0.93), good[1]]).sound
    assert not Coverage([good[0], replace(good[1], holds=0.96)]).sound


def run_cli(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stop:
        cli(list(arguments))
    captured = capsys.readouterr()
    return int(stop.value.code or 0), captured.out, captured.err


def test_the_command_prints_tables_or_json_and_its_exit_code_tells(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    small = ("--data-sets", "20", "--sizes", "40")
    code, out, _ = run_cli(capsys, *small)
    assert code == 0
    for name in (*STEPS_AWAY, "n = 40", "control variate", "Theorem 5, sum"):
        assert name in out
    code, out, _ = run_cli(capsys, *small, "--json")
    record: dict[str, Any] = json.loads(out)
    assert (code, record["sound"], record["settings"]["sizes"]) == (0, True, [40])
    assert set(record["rows"][0]) == {"data", "size", "bound", "holds", "width"}
    monkeypatch.setattr(off_policy_coverage, "LEAST", 0.0)
    assert run_cli(capsys, *small)[0] == 1


@pytest.mark.parametrize("arguments", [("--sizes", "1"), ("--data-sets", "0"), ("--confidence", "1")])
def test_bad_flags_exit_2_with_one_line(arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run_cli(capsys, *arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert arguments[0] in err
