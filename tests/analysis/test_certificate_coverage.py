"""The simulated data sets are about the truth they are held against, and what fails to cover is found."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analysis.certificate_coverage import cli
from analysis.studies import certificate_coverage
from analysis.studies.certificate_coverage import (
    METHODS,
    PLANTED,
    CertificateCoverageConfig,
    Coverage,
    CoverageOfCertificates,
    IntervalRow,
    cases,
    exact_discrepancy,
    interval_rows,
)
from analysis.studies.known_processes import (
    DISCOUNT,
    REWARD_SPAN,
    TIMES,
    model_returns,
    random_instance,
    simulate,
    tight_instance,
)
from analysis.studies.populations import populations, profile_populations
from bounds.confidence import Interval, hoeffding
from bounds.finite import true_return

STANDARD_ERRORS = 4.5


def test_the_tight_instance_attains_theorem_4() -> None:
    for model_error in (0.01, 0.1, 0.5):
        instance = tight_instance(model_error)
        gap = instance.return_gap(DISCOUNT, "averaged", 1)
        expected = -REWARD_SPAN * model_error * sum(DISCOUNT**t for t in range(1, TIMES))
        assert gap == pytest.approx(expected, rel=1e-12)
        case = replace(cases()[0], instances=(instance,))
        assert exact_discrepancy(instance, case) == pytest.approx(-expected, rel=1e-12)


@pytest.mark.parametrize("rollout_length", [1, 3, None])
def test_simulated_returns_have_the_exact_means(rollout_length: int | None) -> None:
    instance = random_instance(1, model_error=0.5, policy_change=0.4)
    rng = np.random.default_rng(0)
    real = simulate(instance, np.asarray(instance.data_policy), 30_000, rng)
    found = model_returns(instance, real, rollout_length, rng)
    scheme: Any = "full" if rollout_length is None else "averaged"
    exact = instance.model_return(DISCOUNT, scheme, rollout_length or 1)
    assert abs(found.mean() - exact) < STANDARD_ERRORS * found.std() / np.sqrt(len(found))
    own = simulate(instance, np.asarray(instance.policy), 30_000, rng)
    process: Any = instance.process
    returns = process.reward[np.arange(TIMES), own.states, own.actions] @ DISCOUNT ** np.arange(TIMES)
    truth = true_return(instance.process, instance.policy, DISCOUNT)
    assert abs(returns.mean() - truth) < STANDARD_ERRORS * returns.std() / np.sqrt(len(returns))
    assert abs(truth - exact) > 2 * STANDARD_ERRORS * returns.std() / np.sqrt(len(returns))


def test_populations_have_the_mean_and_range_that_they_claim() -> None:
    n = 20_000
    for number, population in enumerate((*populations(), *profile_populations())):
        samples = population.sample(n, np.random.default_rng(number))
        assert (samples >= population.low).all(), population.name
        assert (samples <= population.high).all(), population.name
        error = samples.std(axis=0) / np.sqrt(n)
        assert (np.abs(samples.mean(axis=0) - population.mean) <= STANDARD_ERRORS * error + 1e-12).all(), (
            population.name
        )
        if population.binary:
            assert set(np.unique(samples)) == {0.0, 1.0}


def config(**changes: Any) -> CertificateCoverageConfig:
    return CertificateCoverageConfig(
        **{"data_sets": 150, "certificates": 20, "sizes": (60,), "joint_sizes": (30,), "episodes": 200, **changes}
    )


def test_every_method_covers_and_a_too_short_one_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def half(samples: Any, confidence: float = 0.95, **options: Any) -> Interval:
        whole = hoeffding(samples, confidence, **options)
        return replace(whole, lower=(whole.lower + whole.estimate) / 2, upper=(whole.upper + whole.estimate) / 2)

    monkeypatch.setattr(certificate_coverage, "METHODS", {**METHODS, "half of hoeffding": half})
    rows = interval_rows(config(), lambda: None)
    smallest = {name: min(row.coverage for row in rows if row.method == name) for name in certificate_coverage.METHODS}
    assert smallest.pop("half of hoeffding") < 0.9
    assert min(smallest.values()) > 0.9  # 0.95 less 2.8 standard errors of 150 data sets


def test_certificates_hold_where_the_theorem_is_attained_and_the_planted_ones_do_not() -> None:
    rows = {row.case: row for row in certificate_coverage.certificate_rows(config(), lambda: None)}
    planted = rows.pop(PLANTED)
    assert planted.holds < 0.2
    assert all(row.holds == 1.0 for row in rows.values())
    attained = rows["theorem attained, own data, k = 1"]
    assert attained.informative == 1.0
    assert 0 < attained.slack < attained.width - attained.discrepancy + 0.02
    assert rows["random, other data, k = 1"].width > rows["random, own data, k = 1"].width


def row(case: str, holds: float) -> CoverageOfCertificates:
    return CoverageOfCertificates(case, 300, 1000, holds, 1.0, 0.1, 0.1, 0.1)


@pytest.mark.parametrize(
    ("interval", "holds", "planted", "sound"),
    [(0.94, 0.95, 0.0, True), (0.93, 0.95, 0.0, False), (0.94, 0.949, 0.0, False), (0.94, 0.95, 0.96, False)],
)
def test_too_little_coverage_and_an_unfound_fault_are_unsound(
    interval: float, holds: float, planted: float, sound: bool
) -> None:
    intervals = [IntervalRow("p", "betting", "two", 30, 1, each, 0.1) for each in (1.0, interval)]
    coverage = Coverage(intervals, [row("a", 1.0), row("b", holds), row(PLANTED, planted)])
    assert coverage.sound is sound


def test_the_command_prints_tables_or_json_and_draws(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few = ["--data-sets", "5", "--certificates", "2", "--sizes", "10", "--joint-sizes", "10", "--episodes", "20"]
    for flags in ([], ["--json", "--figure", str(tmp_path / "c.png")]):
        with pytest.raises(SystemExit):
            cli([*few, *flags])
    out = capsys.readouterr().out
    assert "smallest coverage over populations and sizes" in out
    record = json.loads(out[out.index("{\n") :])
    assert {each["method"] for each in record["intervals"]} == set(METHODS)
    assert record["settings"]["data_sets"] == 5
    assert record["commit"]
    assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--data-sets", "0"], "--data-sets must be >= 1, got 0"),
        (["--sizes", "30", "1"], "--sizes must be >= 2, got 1"),
        (["--confidence", "1"], "--confidence must be in (0, 1), got 1.0"),
        (["--figure", "no/where.png"], "no directory no"),
    ],
)
def test_bad_flags_exit_2_and_name_it(arguments: list[str], named: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli(arguments)
    captured = capsys.readouterr()
    assert stop.value.code == 2
    assert captured.out == ""
    assert named in captured.err
