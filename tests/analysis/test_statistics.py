"""The statistics of runs, each against a slow or independent reference; reading tables; the command."""

from __future__ import annotations

import csv
import itertools
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from analysis import interval_coverage as coverage_command
from analysis.drawing.style import VARIANT_COLOURS
from analysis.runs.anchors import closed
from analysis.statistics import __main__, bootstrap, figures
from analysis.statistics.aggregates import (
    interquartile_mean,
    normalise,
    pooled_interquartile_mean,
    probability_of_improvement,
    steps_to_reach,
)
from analysis.statistics.bootstrap import (
    BootstrapInterval,
    Method,
    bootstrap_distribution,
    bootstrap_interval,
    distinct_resamples,
    probability_of_improvement_interval,
    sample_efficiency_curve,
)
from analysis.statistics.summary import MEASURED_COVERAGE, StatisticsConfig, summarise
from analysis.statistics.table import read_table
from analysis.studies import interval_coverage
from analysis.studies.interval_coverage import (
    IntervalCoverageConfig,
    Mixture,
    interquartile_mean_row,
    pooled,
    probability_row,
)
from tests.command_errors import refusal

METHODS: tuple[Method, ...] = ("percentile", "bca")


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


# --- interquartile mean


@pytest.mark.parametrize("count", range(1, 41))
def test_interquartile_mean_is_scipys_trimmed_mean(count: int) -> None:
    values = generator(count).normal(size=(count, 3, 2))
    np.testing.assert_allclose(interquartile_mean(values), stats.trim_mean(values, 0.25), rtol=1e-13)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([7.0], 7),
        ([1.0, 8.0, 30.0], 13),  # nothing is trimmed
        ([9.0, 1.0, 5.0, 2.0], 3.5),
        ([-50.0, 3.0, 1.0, 2.0, 900.0], 2),  # one run of five on each side, not a quarter
        ([0.0, 10.0, 20.0, 30.0, 40.0, 50.0, 1000.0], 30),
        ([8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0, -90.0], 4.5),
    ],
)
def test_interquartile_mean_leaves_out_whole_runs_only(values: list[float], expected: float) -> None:
    assert interquartile_mean(values) == expected


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=25), st.randoms(use_true_random=False))
def test_interquartile_mean_forgets_the_order_of_runs_and_lies_between_the_quartiles(values, random) -> None:
    shuffled = list(values)
    random.shuffle(shuffled)
    result = interquartile_mean(values)
    assert interquartile_mean(shuffled) == result
    cut = int(0.25 * len(values))
    slack = 1e-9 * max(1.0, max(map(abs, values)))
    assert sorted(values)[cut] - slack <= result <= sorted(values)[len(values) - 1 - cut] + slack


@pytest.mark.parametrize("count", [5, 9, 33])
def test_equal_resamples_tie_to_the_last_bit_in_any_layout(count: int) -> None:
    values = generator().normal(size=count)
    one = interquartile_mean(values)
    for width in (1, 2, 300):
        many = np.stack([generator(place).permutation(values) for place in range(width)], axis=1)
        assert (interquartile_mean(many) == one).all()
        assert (interquartile_mean(np.asfortranarray(many)) == one).all()


def test_pooling_takes_the_runs_of_all_environments_together() -> None:
    first, second = np.array([0.0, 1.0, 2.0]), np.array([10.0, 11.0, 12.0, 13.0, 14.0])
    assert pooled_interquartile_mean([first, second]) == np.mean([2, 10, 11, 12])


# --- probability of improvement


def over_all_pairs(first: Sequence[Any], second: Sequence[Any]) -> float:
    shares = []
    for xs, ys in zip(first, second, strict=True):
        wins = 0.0
        for x in xs:
            for y in ys:
                wins += 1.0 if x > y else 0.5 if x == y else 0.0
        shares.append(wins / (len(xs) * len(ys)))
    return sum(shares) / len(shares)


RUNS = st.lists(st.integers(-3, 3).map(float), min_size=1, max_size=6)


@given(st.lists(st.tuples(RUNS, RUNS), min_size=1, max_size=4))
def test_probability_of_improvement_counts_all_pairs(pairs) -> None:
    first, second = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    result = probability_of_improvement(first, second)
    assert result == pytest.approx(over_all_pairs(first, second), abs=1e-14)
    assert result + probability_of_improvement(second, first) == pytest.approx(1, abs=1e-14)


def test_probability_of_improvement_is_mann_whitney_over_the_pairs() -> None:
    for seed in range(20):
        x, y = generator(seed).integers(0, 9, 7), generator(seed + 100).integers(0, 9, 4)
        assert probability_of_improvement([x], [y]) == pytest.approx(stats.mannwhitneyu(x, y).statistic / 28, abs=1e-14)


@given(st.lists(st.tuples(RUNS, RUNS), min_size=1, max_size=3), st.randoms(use_true_random=False))
def test_probability_of_improvement_knows_only_the_order_of_returns(pairs, random) -> None:
    result = probability_of_improvement([x for x, _ in pairs], [y for _, y in pairs])
    changes: tuple[Any, ...] = (np.exp, lambda x: x**3 - 5, np.arctan)
    for place, change in enumerate(changes):
        moved = [tuple(change(np.array(side)) * (place + 1) for side in pair) for pair in pairs]
        shuffled = [tuple(random.sample(list(side), len(side)) for side in pair) for pair in moved]
        assert probability_of_improvement([x for x, _ in shuffled], [y for _, y in shuffled]) == result


def test_probability_of_improvement_takes_further_axes_as_other_quantities() -> None:
    first = [generator(1).normal(size=(4, 3)), generator(2).normal(size=(2, 3))]
    second = [generator(3).normal(size=(5, 3)), generator(4).normal(size=(3, 3))]
    each = [over_all_pairs([x[:, i] for x in first], [y[:, i] for y in second]) for i in range(3)]
    np.testing.assert_allclose(probability_of_improvement(first, second), each, rtol=1e-14)


# --- bootstrap


def all_resamples(values: Sequence[float]) -> list[tuple[float, ...]]:
    """The n^n equally likely ordered resamples."""
    return list(itertools.product(values, repeat=len(values)))


def close_to_exact(drawn: Any, exact: Any) -> None:
    """Every value as often as in ``exact``, within 5 standard errors."""
    count = len(drawn)
    values, times = np.unique(np.round(exact, 9), return_counts=True)
    assert set(np.round(drawn, 9)) <= set(values)
    for value, probability in zip(values, times / len(exact), strict=True):
        share = (np.round(drawn, 9) == value).mean()
        assert abs(share - probability) < 5 * math.sqrt(probability * (1 - probability) / count)


def test_the_distribution_of_three_runs_is_that_of_all_27_resamples() -> None:
    values = [1.0, 2.0, 5.0]
    drawn = bootstrap_distribution(
        pooled_interquartile_mean, [np.array(values)], resamples=40_000, generator=generator()
    )
    close_to_exact(drawn, [np.mean(one) for one in all_resamples(values)])


def test_strata_are_resampled_apart_and_each_in_itself() -> None:
    first, second = [1.0, 2.0, 5.0], [30.0, 31.0, 37.0]

    def statistic(strata):
        return strata[0].sum(axis=0) * 1000 + strata[1].max(axis=0)

    drawn = bootstrap_distribution(
        statistic, [np.array(first), np.array(second)], resamples=60_000, generator=generator(1)
    )
    exact = [sum(a) * 1000 + max(b) for a in all_resamples(first) for b in all_resamples(second)]
    close_to_exact(drawn, exact)


def test_the_improvement_of_three_over_three_runs_is_that_of_all_729_pairs_of_resamples() -> None:
    first, second = [1.0, 3.0, 4.0], [0.0, 3.0, 3.5]
    exact = [over_all_pairs([a], [b]) for a in all_resamples(first) for b in all_resamples(second)]
    for confidence in (0.5, 0.8):
        interval = probability_of_improvement_interval(
            [first], [second], generator=generator(2), confidence=confidence, resamples=40_000
        )
        ends = np.quantile(exact, [(1 - confidence) / 2, (1 + confidence) / 2])
        assert [interval.lower, interval.upper] == pytest.approx(ends)
        assert interval.estimate == pytest.approx(over_all_pairs([first], [second]))


def test_a_resample_keeps_whole_curves() -> None:
    start = generator().normal(size=(5, 1))
    curves = start * np.array([1.0, 2.0, -3.0])
    drawn = bootstrap_distribution(lambda strata: strata[0].sum(axis=0), [curves], resamples=500, generator=generator())
    assert drawn.shape == (500, 3)
    np.testing.assert_allclose(drawn, drawn[:, :1] * np.array([1.0, 2.0, -3.0]), atol=1e-12)


def test_the_result_does_not_depend_on_how_much_is_done_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    strata = [generator(1).normal(size=(5, 4)), generator(2).normal(size=(3, 4))]
    results = []
    for chunk in (1, 1000, 2**20):
        monkeypatch.setattr(bootstrap, "CHUNK", chunk)
        results.append(bootstrap_distribution(pooled_interquartile_mean, strata, resamples=300, generator=generator(3)))
    assert (results[0] == results[1]).all()
    assert (results[0] == results[2]).all()


def spread(strata: Any) -> Any:
    """Skewed, smooth and of several samples; running sums, so that ties do not depend on the memory layout."""

    def mean(values: Any) -> Any:
        return np.cumsum(values, axis=0)[-1] / len(values)

    return mean((strata[0] - mean(strata[0])) ** 2) / (1 + sum(mean(each**2) for each in strata[1:]))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("counts", [(8,), (7, 4), (3, 5, 12)])
def test_interval_ends_are_scipys_from_the_same_resamples(method: Method, counts: tuple[int, ...]) -> None:
    strata = [generator(place).exponential(size=(count, 4)) for place, count in enumerate(counts)]
    ours = bootstrap_interval(spread, strata, generator=generator(5), confidence=0.9, resamples=3000, method=method)
    drawn = bootstrap_distribution(spread, strata, resamples=3000, generator=generator(5))
    for column in range(4):
        data = tuple(each[:, column] for each in strata)

        def statistic(*samples, axis=-1):
            return spread([np.moveaxis(each, axis, 0) for each in samples])

        previous = stats.bootstrap(data, statistic, n_resamples=2, method="percentile", random_state=0)
        previous.bootstrap_distribution = drawn[:, column]
        theirs = stats.bootstrap(
            data, statistic, n_resamples=0, bootstrap_result=previous, confidence_level=0.9, method=method,
            vectorized=True,
        ).confidence_interval  # fmt: skip
        assert ours.lower[column] == pytest.approx(theirs.low, rel=1e-10)
        assert ours.upper[column] == pytest.approx(theirs.high, rel=1e-10)
        assert ours.estimate[column] == spread([each[:, column] for each in strata])


@pytest.mark.parametrize("method", METHODS)
def test_interval_agrees_with_a_bootstrap_that_scipy_draws(method: Method) -> None:
    runs = generator(8).gumbel(size=12)
    ours = bootstrap_interval(
        pooled_interquartile_mean, [runs], generator=generator(1), resamples=40_000, method=method
    )
    theirs = stats.bootstrap(
        (runs,), lambda x, axis=-1: stats.trim_mean(x, 0.25, axis=axis), n_resamples=40_000, method=method,
        random_state=generator(2),
    ).confidence_interval  # fmt: skip
    width = theirs.high - theirs.low
    assert abs(ours.lower - theirs.low) < 0.03 * width
    assert abs(ours.upper - theirs.high) < 0.03 * width


@pytest.mark.parametrize("method", METHODS)
def test_runs_that_are_all_alike_give_a_point(method: Method) -> None:
    interval = bootstrap_interval(
        pooled_interquartile_mean, [np.full((5, 2), 3.5)], generator=generator(), resamples=100, method=method
    )
    assert interval.lower.tolist() == interval.upper.tolist() == interval.estimate.tolist() == [3.5, 3.5]


def test_bca_with_all_resamples_on_one_side_ends_at_the_outermost() -> None:
    runs = np.array([1.0, 2.0, 3.0, 4.0])

    def statistic(strata: Any) -> Any:  # the number of different runs: largest for the runs themselves
        ordered = np.sort(strata[0], axis=0)
        return -1.0 - (np.diff(ordered, axis=0) > 0).sum(axis=0) - (strata[0].shape[1:] == ())

    interval = bootstrap_interval(statistic, [runs], generator=generator(), resamples=400, method="bca")
    assert interval.estimate == -5
    drawn = bootstrap_distribution(statistic, [runs], resamples=400, generator=generator())
    assert interval.lower == interval.upper == drawn.min() < drawn.max()


def test_the_acceleration_cannot_turn_an_end_around(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "_acceleration", lambda statistic, strata: np.asarray(0.9))
    interval = bootstrap_interval(
        pooled_interquartile_mean, [np.arange(9.0)], generator=generator(), resamples=400, method="bca"
    )
    drawn = bootstrap_distribution(pooled_interquartile_mean, [np.arange(9.0)], resamples=400, generator=generator())
    assert interval.upper == drawn.max()


def test_intervals_know_only_the_seed_and_the_runs() -> None:
    runs = [generator(1).normal(size=6)]
    one, two, other = (
        bootstrap_interval(pooled_interquartile_mean, runs, generator=generator(seed), resamples=200)
        for seed in (4, 4, 5)
    )
    assert (one.lower, one.upper) == (two.lower, two.upper) != (other.lower, other.upper)
    assert (one.confidence, one.method, one.resamples) == (0.95, "percentile", 200)


@pytest.mark.parametrize("runs", range(1, 7))
def test_distinct_resamples_counts_them(runs: int) -> None:
    assert distinct_resamples(runs) == len({tuple(sorted(one)) for one in all_resamples(range(runs))})


# --- sample efficiency, normalisation


@pytest.mark.parametrize("method", METHODS)
def test_the_curve_is_the_interval_of_every_evaluation(method: Method) -> None:
    strata = [generator(1).normal(size=(5, 3)), generator(2).normal(size=(4, 3))]
    curve = sample_efficiency_curve([0, 10, 30], strata, generator=generator(7), resamples=500, method=method)
    for place in range(3):
        one = bootstrap_interval(
            pooled_interquartile_mean, [each[:, place] for each in strata], generator=generator(7), resamples=500,
            method=method,
        )  # fmt: skip
        assert one.estimate == curve.estimate[place] == stats.trim_mean(np.concatenate(strata)[:, place], 0.25)
        assert (one.lower, one.upper) == (curve.lower[place], curve.upper[place])
        assert one.lower < one.estimate < one.upper


def test_steps_to_reach_is_the_first_evaluation_that_does_or_infinity() -> None:
    steps, curves = [0, 5, 20], generator(3).integers(0, 6, size=(50, 3)).astype(float)
    for threshold in (0, 2.5, 3, 5, 6):
        expected = [
            next((step for step, value in zip(steps, curve, strict=True) if value >= threshold), math.inf)
            for curve in curves
        ]
        assert steps_to_reach(steps, curves, threshold).tolist() == expected
    assert math.inf in expected


def test_a_median_of_steps_is_infinite_unless_more_than_half_of_the_runs_get_there() -> None:
    curves = np.array([[0.0, 1.0], [0.0, 1.0], [0.0, 0.0], [0.0, 0.0]])
    assert np.median(steps_to_reach([1, 2], curves, 1.0)) == math.inf
    assert np.median(steps_to_reach([1, 2], curves[:3], 1.0)) == 2


def test_normalise_puts_the_anchors_at_0_and_1_as_closed_does() -> None:
    returns = np.array([[40.0, 80.0], [70.0, 30.0]])
    assert normalise(returns, 40, 80).tolist() == [[0, 1], [0.75, -0.25]]
    assert (normalise(returns, 40, 80) == closed(returns, {"memoryless": 40.0, "oracle": 80.0})).all()


GOOD = [np.arange(4.0)]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: interquartile_mean([]), r"at least one run, got shape \(0,\)"),
        (lambda: interquartile_mean(3.0), "axis 0 of runs, got the scalar 3.0"),
        (lambda: interquartile_mean([1.0, np.nan]), "finite, got nan"),
        (lambda: pooled_interquartile_mean([]), "at least one array"),
        (
            lambda: pooled_interquartile_mean(np.ones((2, 2))),  # type: ignore[arg-type]
            "sequence of at least one array",
        ),
        (lambda: pooled_interquartile_mean([np.ones((2, 3)), np.ones((2, 4))]), r"axes \(4,\), strata\[0\] has \(3,\)"),
        (lambda: probability_of_improvement(GOOD, GOOD * 2), "first has 1 environments, second has 2"),
        (
            lambda: probability_of_improvement(GOOD, [np.ones((2, 2))]),
            r"first has further axes \(\), second has \(2,\)",
        ),
        (lambda: probability_of_improvement([[np.inf]], GOOD), r"first\[0\] must be finite, got inf"),
        (
            lambda: probability_of_improvement_interval(GOOD, GOOD * 3, generator=generator()),
            "first has 1 environments, second has 3",
        ),
        (lambda: normalise(1.0, 2.0, 2.0), "low=2.0, high=2.0"),
        (lambda: normalise(1.0, -math.inf, 2.0), "low=-inf"),
        (lambda: distinct_resamples(0), "got 0"),
        (lambda: steps_to_reach([1, 1], np.ones((3, 2)), 0.0), r"increasing list, got \[1, 1\]"),
        (lambda: steps_to_reach([1, 2], np.ones((3, 4)), 0.0), r"\[S, 2\], got shape \(3, 4\)"),
        (lambda: steps_to_reach([1, 2], np.ones((3, 2)), math.nan), "threshold must be finite, got nan"),
        (
            lambda: sample_efficiency_curve([1, 2], [np.ones((3, 4))], generator=generator()),
            r"2 evaluations, as steps, got further axes \(4,\)",
        ),
        (
            lambda: bootstrap_distribution(spread, [[1.0]], resamples=9, generator=generator()),
            r"at least 2 runs in every stratum, strata\[0\] has 1",
        ),
        (lambda: bootstrap_distribution(spread, GOOD, resamples=0, generator=generator()), "resamples .* got 0"),
        (lambda: bootstrap_interval(spread, GOOD, generator=generator(), confidence=1.0), r"\(0, 1\), got 1.0"),
        (lambda: bootstrap_interval(spread, GOOD, generator=generator(), resamples=39), "at least 40 .* got 39"),
        (
            lambda: bootstrap_interval(spread, GOOD, generator=generator(), method="basic"),  # type: ignore[arg-type]
            "got 'basic'",
        ),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


# --- coverage


def test_a_mixtures_interquartile_mean_is_that_of_its_quantiles() -> None:
    for mixture in [*interval_coverage.POPULATIONS.values(), Mixture((0.3, 0.7), (0.0, 4.0), (3.0, 0.5))]:
        middle = [mixture.quantile(level) for level in 0.25 + (np.arange(4000) + 0.5) / 8000]
        assert mixture.interquartile_mean == pytest.approx(np.mean(middle), rel=1e-6)
        drawn = mixture.draw((400_000,), generator(1))
        assert drawn.mean() == pytest.approx(mixture.mean, abs=5 * drawn.std() / 600)
        assert (drawn < mixture.quantile(0.2)).mean() == pytest.approx(0.2, abs=0.004)
    both = pooled([Mixture((1.0,), (0.0,), (1.0,)), Mixture((1.0,), (10.0,), (1.0,))])
    assert both.interquartile_mean == pytest.approx(5)
    assert both.shifted(2).interquartile_mean == pytest.approx(7)


def test_an_interval_holds_the_truth_where_the_truth_lies_between_its_ends() -> None:
    interval = BootstrapInterval(
        np.zeros(4), np.array([0.0, 2.0, 1.0, 1.0]), np.array([0.5, 3.0, 1.0, 4.0]), 0.95, "bca", 9
    )
    assert interval_coverage.held(interval, 1.0).tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize("seeds", [5, 10, 20])
def test_coverage_is_near_what_is_landed(seeds: int) -> None:
    """400 trials; the slow suite does them all."""
    config = IntervalCoverageConfig(trials=400, resamples=400)
    rows = [interquartile_mean_row("normal", 1, seeds, config, generator(1))]
    rows += [probability_row(0.5, 1, seeds, config, generator(2))]
    for method in METHODS:
        for row, (low, high) in zip(
            rows, (MEASURED_COVERAGE[seeds][method].iqm, MEASURED_COVERAGE[seeds][method].improvement), strict=True
        ):
            share = getattr(row, method)
            error = math.sqrt(share * (1 - share) / config.trials)
            assert low - 4 * error - 0.01 < share < high + 4 * error + 0.01, (row, method)


@pytest.mark.slow
def test_the_landed_coverage_is_what_the_command_measures() -> None:
    rows = interval_coverage.measure(IntervalCoverageConfig(environments=(1,), seeds=tuple(MEASURED_COVERAGE), seed=1))
    for seeds, methods in MEASURED_COVERAGE.items():
        for method, landed in methods.items():
            here = [row for row in rows if row.seeds == seeds]
            for (low, high), shares in (
                (landed.iqm, [getattr(row, method) for row in here if row.quantity == "IQM"]),
                (landed.improvement, [getattr(row, method) for row in here if row.quantity != "IQM"]),
            ):
                assert min(shares) == pytest.approx(low, abs=0.05)
                assert max(shares) == pytest.approx(high, abs=0.05)


def test_the_coverage_command_prints_its_rows(capsys) -> None:
    words = ["--trials", "5", "--resamples", "40", "--seeds", "3", "--environments", "1", "2"]
    tables = []
    for extra in ([], ["--json"]):
        with pytest.raises(SystemExit) as stop:
            coverage_command.cli([*words, *extra])
        assert stop.value.code == 0
        tables.append(capsys.readouterr().out)
    rows = json.loads(tables[1])
    assert len(rows) == 2 * (3 + 2)
    assert len(tables[0].splitlines()) == 2 + len(rows)
    assert rows[0]["student"] is not None
    assert {row["environments"] for row in rows} == {1, 2}
    # One environment and several do the same trials through the same code: a truth that moves with the level.
    assert rows[0]["truth"] == pytest.approx(75)
    assert rows[5]["truth"] == pytest.approx(77)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--seeds", "1"], "--seeds must be >= 2, got 1"),
        (["--environments", "0"], "--environments must be >= 1, got 0"),
        (["--trials", "0"], "--trials must be >= 1, got 0"),
        (["--confidence", "1"], "--confidence must be in (0, 1), got 1.0"),
        (["--resamples", "39"], "--resamples must be at least 40 at --confidence 0.95, got 39"),
        (["--seed", "-1"], "--seed must be >= 0, got -1"),
    ],
)
def test_the_coverage_command_refuses_in_one_line(words: list[str], message: str, capsys) -> None:
    with pytest.raises(SystemExit) as stop:
        coverage_command.cli(words)
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


# --- tables


def rows_of(
    variants: dict[str, float], seeds: int = 5, environments: Sequence[str] = (), steps: Sequence[int] = (200, 400, 600)
) -> list[dict[str, Any]]:
    """Curves that rise to about the variant's level."""
    rows = []
    for variant, level in variants.items():
        for place, environment in enumerate(environments or ("",)):
            noise = generator(int(level) + 1000 * place)
            for seed in range(seeds):
                top = level + noise.normal()
                for step in steps:
                    row = {"variant": variant, "seed": seed, "step": step, "return": round(top * step / steps[-1], 6)}
                    rows.append(row | ({"environment": environment} if environments else {}))
    return rows


def write(path: Path, rows: Sequence[dict[str, Any]], *comments: str) -> Path:
    with path.open("w", newline="") as file:
        file.writelines(f"# {comment}\n" for comment in comments)
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.fixture
def simple(tmp_path: Path) -> Path:
    return write(tmp_path / "table.csv", rows_of({"k=1": 70, "Full": 60}), "trained at commit abc, def")


def test_read_table_takes_every_run_and_forgets_the_order_of_rows(tmp_path: Path, simple: Path) -> None:
    rows = rows_of({"k=1": 70, "Full": 60})
    table = read_table(simple)
    assert table.steps.tolist() == [200, 400, 600]
    assert table.environments == ("all",)
    assert list(table.returns) == ["k=1", "Full"]
    assert table.seeds["Full"] == ((0, 1, 2, 3, 4),)
    for row in rows:
        curves = table.returns[row["variant"]][0]
        assert curves[row["seed"], row["step"] // 200 - 1] == row["return"]
    assert table.finals("k=1")[0].tolist() == [row["return"] for row in rows[:15] if row["step"] == 600]
    generator().shuffle(rows)
    other = read_table(write(tmp_path / "shuffled.csv", rows))
    assert all((other.returns[name][0] == table.returns[name][0]).all() for name in table.returns)


def test_read_table_keeps_environments_apart_and_normalises_each_with_its_own_anchors(tmp_path: Path) -> None:
    rows = rows_of({"a": 70, "b": 60}, environments=("Pier", "Leg"))
    table = read_table(write(tmp_path / "table.csv", rows))
    assert table.environments == ("Pier", "Leg")
    assert [len(seeds) for seeds in table.seeds["a"]] == [5, 5]
    normal = table.normalised({"Leg": (0.0, 10.0), "Pier": (50.0, 150.0)})
    for row in rows:
        here = normal.returns[row["variant"]][table.environments.index(row["environment"])]
        low, high = {"Pier": (50, 150), "Leg": (0, 10)}[row["environment"]]
        assert here[row["seed"], row["step"] // 200 - 1] == pytest.approx((row["return"] - low) / (high - low))
    with pytest.raises(ValueError, match="no anchors of 'Leg'"):
        table.normalised({"Pier": (0, 1)})
    with pytest.raises(ValueError, match="anchors of 'Arm', but the environments are Pier, Leg"):
        table.normalised({"Arm": (0, 1)})


def test_read_table_stops_at_the_last_step_asked_for(simple: Path) -> None:
    table = read_table(simple, last_step=599)
    assert table.steps.tolist() == [200, 400]
    assert table.cut == ("k=1", "Full")
    assert read_table(simple).cut == ()
    assert table.finals("k=1")[0].tolist() == read_table(simple).returns["k=1"][0][:, 1].tolist()


def test_read_table_of_one_environment_takes_only_its_rows(tmp_path: Path) -> None:
    rows = rows_of({"a": 70, "b": 60}, environments=("Pier", "Leg")) + rows_of({"c": 50}, environments=("Leg",))
    path = write(tmp_path / "table.csv", rows)
    table = read_table(path, environment="Pier")
    assert table.environments == ("Pier",)
    assert list(table.returns) == ["a", "b"]
    expected = [row["return"] for row in rows if (row["variant"], row["environment"]) == ("b", "Pier")]
    assert table.returns["b"][0].ravel().tolist() == expected
    with pytest.raises(ValueError, match=r"no rows of Arm$"):
        read_table(path, environment="Arm")
    with pytest.raises(ValueError, match="has no run of c in Pier"):
        read_table(path)


def test_read_table_at_the_steps_that_all_runs_share(tmp_path: Path, capsys) -> None:
    rows = rows_of({"a": 70}) + rows_of({"b": 60}, steps=(100, 400, 600, 1200))
    path = write(tmp_path / "table.csv", rows)
    table = read_table(path, common_steps=True)
    assert table.steps.tolist() == [400, 600]
    assert table.cut == table.normalised({"all": (0.0, 1.0)}).cut == ("b",)
    notes = command(capsys, str(path), "--common-steps")
    assert "note: left out: later evaluations of b; at 600 steps their runs were not over" in notes
    assert table.finals("b")[0].tolist() == [r["return"] for r in rows if r["variant"] == "b" and r["step"] == 600]
    with pytest.raises(ValueError, match="--common-steps what not all have"):
        read_table(path)
    apart = write(tmp_path / "apart.csv", rows_of({"a": 70}) + rows_of({"b": 60}, steps=(100,)))
    with pytest.raises(ValueError, match="no step at which all runs were evaluated"):
        read_table(apart, common_steps=True)


HEAD = "variant,seed,step,return\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "has no column 'variant', its columns are: none"),
        ("variant,seed,step\nk,0,1\n", "has no column 'return', its columns are: variant, seed, step"),
        (HEAD, "has no rows"),
        ("# note\n" + HEAD + "k,0,1,2\n# note\nk,1,1,many\n", ":5: return must be a finite number, got 'many'"),
        (HEAD + "k,0,1,nan\n", ":2: return must be a finite number, got 'nan'"),
        (HEAD + "k,0,1\n", ":2: 3 cells under 4 columns (decimal commas?): k,0,1"),
        (HEAD + "k,0,1,1,9\n", ":2: 5 cells under 4 columns (decimal commas?): k,0,1,1,9"),
        (HEAD + "k,0,1,1_000\n", ":2: return must be a finite number, got '1_000'"),
        ("variant,seed,step,return,step\nk,0,1,2,3\n", "has the column 'step' twice"),
        (HEAD + 'k,0,1,"2\n', "unexpected end of data"),
        (HEAD + "k,1.5,1,2\n", ":2: seed must be a whole number from 0, got '1.5'"),
        (HEAD + "k,0,-1,2\n", ":2: step must be a whole number from 0, got '-1'"),
        (HEAD + ",0,1,2\n", ":2: the variant has no name"),
        (HEAD + "k,0,1,2\nk,0,1,2\n", ":3: there are two rows of k seed 0 at step 1"),
        (HEAD + "k,0,1,2\nk,0,9,2\nk,1,1,2\n", "k seed 0 was evaluated at step 9, k seed 1 was not (--last-step"),
        (
            "variant,environment,seed,step,return\na,Leg,0,1,2\na,Pier,0,1,2\nb,Leg,0,1,2\n",
            "has no run of b in Pier",
        ),
        (HEAD + 'k,0,1,"' + "9" * 200_000 + '"\n', "field larger than field limit"),
        ("variant,seed,step,return\nk\xff".encode("latin-1"), "is not a text file in UTF-8"),
    ],
)
def test_read_table_names_what_is_wrong(content: str | bytes, message: str, tmp_path: Path, capsys) -> None:
    path = tmp_path / "table.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(SystemExit) as stop:
        __main__.cli([str(path)])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert "table.csv" in error
    assert error.count("\n") == 1


# --- the command


def command(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    with pytest.raises(SystemExit) as stop:
        __main__.cli(list(words))
    assert stop.value.code == 0
    return capsys.readouterr().out


def test_the_table_shows_what_the_functions_say(simple: Path, capsys) -> None:
    out = command(capsys, str(simple), "--baseline", "Full", "--threshold", "69.5")
    record = json.loads(command(capsys, str(simple), "--baseline", "Full", "--threshold", "69.5", "--json"))
    assert list(record["variants"]) == ["k=1", "Full"]  # best first
    table = read_table(simple)
    finals, others = table.finals("k=1"), table.finals("Full")
    entry = record["variants"]["k=1"]
    assert entry["final_returns"] == {"all": finals[0].tolist()}
    assert entry["mean"] == pytest.approx(finals[0].mean())
    assert entry["median"] == np.median(finals[0])
    assert entry["worst"] == finals[0].min()
    assert entry["iqm"]["estimate"] == interquartile_mean(finals[0])
    assert entry["iqm"]["lower"] < entry["iqm"]["estimate"] < entry["iqm"]["upper"]
    assert {name: values[-1] for name, values in entry["iqm_curve"].items()} == entry["iqm"]
    assert entry["probability_of_improvement"]["estimate"] == over_all_pairs(finals, others) == 1
    reaching = steps_to_reach(table.steps, table.returns["k=1"][0], 69.5)
    assert 0 < np.isfinite(reaching).sum() < 5
    assert entry["steps_to_threshold"]["runs"] == [step if step < math.inf else None for step in reaching.tolist()]
    assert entry["steps_to_threshold"]["reached"] == np.isfinite(reaching).sum()
    assert record["variants"]["Full"]["probability_of_improvement"] is None
    assert record["variants"]["Full"]["steps_to_threshold"]["median"] is None
    lines = out.splitlines()
    assert "the last, not the best) after 600 steps" in lines[0]
    assert f"{entry['iqm']['estimate']:.1f}  [{entry['iqm']['lower']:.1f}, {entry['iqm']['upper']:.1f}]" in lines[2]
    assert "baseline" in lines[3]
    assert "not reached (0 of 5)" in lines[3]
    assert [line.removeprefix("note: ") for line in lines[4:]] == record["notes"]
    assert "126 different resamples: too few" in record["notes"][0]
    assert "a single point (k=1)" in record["notes"][1]


def test_the_output_does_not_depend_on_the_order_of_rows_and_intervals_not_on_other_variants(
    tmp_path: Path, simple: Path, capsys
) -> None:
    rows = rows_of({"k=1": 70, "Full": 60})
    generator(1).shuffle(rows)
    shuffled = write(tmp_path / "shuffled.csv", rows)
    words = ["--baseline", "k=1", "--method", "bca"]
    assert command(capsys, str(simple), *words) == command(capsys, str(shuffled), *words)
    alone = write(tmp_path / "alone.csv", rows_of({"Full": 60}))
    both, one, other = (
        json.loads(command(capsys, str(path), "--json", "--resamples", "50", "--seed", seed))["variants"]["Full"]["iqm"]
        for path, seed in ((simple, "0"), (alone, "0"), (alone, "1"))
    )
    assert both == one != other


def test_several_environments_need_anchors(tmp_path: Path, capsys) -> None:
    path = str(write(tmp_path / "table.csv", rows_of({"a": 70, "b": 60}, 3, ("Pier", "Leg"))))
    with pytest.raises(SystemExit) as stop:
        __main__.cli([path])
    assert stop.value.code == 2
    assert "Pier, Leg are on different scales: give --anchors" in capsys.readouterr().err
    out = command(capsys, path, "--anchors", "Pier=0,100", "Leg=-50,50", "--baseline", "b")
    assert "2 environments, normalised returns" in out
    record = json.loads(command(capsys, path, "--anchors", "Pier=0,100", "Leg=-50,50", "--json"))
    finals = record["variants"]["a"]["final_returns"]
    assert record["variants"]["a"]["iqm"]["estimate"] == pytest.approx(
        stats.trim_mean([*finals["Pier"], *finals["Leg"]], 0.25)
    )
    assert max(finals["Pier"]) < 0.9 < 1.1 < min(finals["Leg"])


def test_a_single_seed_has_no_interval(tmp_path: Path, capsys) -> None:
    path = str(write(tmp_path / "table.csv", rows_of({"a": 70, "b": 60}, 1)))
    out = command(capsys, path, "--baseline", "b", "--figure", str(tmp_path / "one.svg"))
    assert "none" in out.splitlines()[2]
    assert "a single seed has no bootstrap interval" in out
    assert "none is trimmed" in out
    entry = json.loads(command(capsys, path, "--baseline", "b", "--json"))["variants"]["a"]
    assert entry["iqm"]["lower"] is entry["iqm"]["upper"] is entry["probability_of_improvement"]["lower"] is None
    assert entry["probability_of_improvement"]["estimate"] == 1


@pytest.mark.parametrize(("seeds", "words"), [(2, "with 3 seeds"), (3, "with 3 seeds"), (19, "with 10 seeds")])
def test_the_note_names_the_coverage_measured_with_no_more_seeds(
    seeds: int, words: str, tmp_path: Path, capsys
) -> None:
    note = command(capsys, str(write(tmp_path / "t.csv", rows_of({"a": 70}, seeds)))).splitlines()[3]
    assert f"{seeds} seeds have {distinct_resamples(seeds):,} different resamples: too few" in note
    assert words in note


def test_with_twenty_seeds_the_note_calls_them_not_too_few(tmp_path: Path, capsys) -> None:
    out = command(capsys, str(write(tmp_path / "t.csv", rows_of({"a": 70}, 20))))
    assert "with 20 seeds" in out
    assert "too few" not in out


def test_the_figure_draws_the_curves_with_bands_and_the_probabilities(simple: Path, tmp_path: Path, capsys) -> None:
    config = StatisticsConfig(simple, baseline="Full", threshold=69.5)
    table = read_table(simple)
    summaries = summarise(table, config)
    curves, chances = figures.draw(table, config, summaries).axes
    for line, each in zip(curves.get_lines(), summaries, strict=False):
        assert (np.asarray(line.get_ydata()) == each.iqm.estimate).all()
        assert line.get_color() == VARIANT_COLOURS[each.name]
    lowest, highest = curves.collections[0].get_datalim(curves.transData).intervaly
    assert lowest == pytest.approx(summaries[0].iqm.lower.min())
    assert highest == pytest.approx(summaries[0].iqm.upper.max())
    assert [label.get_text() for label in chances.get_yticklabels()] == ["k=1"]
    assert [np.ravel(line.get_xdata())[0] for line in chances.get_lines()] == [1, 1, 0.5]
    assert len(figures.draw(table, StatisticsConfig(simple), summarise(table, StatisticsConfig(simple))).axes) == 1
    file = tmp_path / "out.png"
    command(capsys, str(simple), "--baseline", "Full", "--figure", str(file))
    assert file.read_bytes().startswith(b"\x89PNG")


def test_variants_keep_their_colour_and_twenty_others_are_told_apart() -> None:
    look = figures.looks(["PEARL", "Full", *(f"other {i}" for i in range(19)), "k=1"])
    assert look["Full"] == (VARIANT_COLOURS["Full"], "-")
    assert look["k=1"] == (VARIANT_COLOURS["k=1"], "-")
    assert len(set(look.values())) == 22


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["missing.csv"], "missing.csv"),
        (["{table}", "--baseline", "k=2"], "--baseline must be one of k=1, Full, got 'k=2'"),
        (["{table}", "--confidence", "0"], "--confidence must be in (0, 1), got 0.0"),
        (["{table}", "--resamples", "39"], "--resamples must be at least 40 at --confidence 0.95, got 39"),
        (["{table}", "--resamples", "100001"], "got 100001"),
        (["{table}", "--threshold", "nan"], "--threshold must be a finite number, got nan"),
        (["{table}", "--seed", "-1"], "--seed must be >= 0, got -1"),
        (["{table}", "--method", "basic"], "basic"),
        (["{table}", "--figure", "out.txt"], "--figure must end in one of .png, .pdf, .svg, got out.txt"),
        (["{table}", "--figure", "nowhere/out.png"], "--figure: no directory nowhere"),
        (["{table}", "--anchors", "all=2,1"], "with finite LOW < HIGH, got 'all=2,1'"),
        (["{table}", "--anchors", "all=2"], "must be ENVIRONMENT=LOW,HIGH with finite LOW < HIGH, got 'all=2'"),
        (["{table}", "--anchors", "1,2"], "each environment once, got '1,2'"),
        (["{table}", "--anchors", "all=1,2", "all=1,3"], "each environment once, got 'all=1,3'"),
        (["{table}", "--anchors", "Pier=1,2"], "anchors of 'Pier', but the environments are all"),
        (["{table}", "--last-step", "100"], "has no rows up to step 100"),
        (["{table}", "--environment", "Arm", "--last-step", "600"], "has no rows of Arm up to step 600"),
    ],
)
def test_bad_input_exits_2_in_one_line(words: list[str], message: str, simple: Path, capsys) -> None:
    assert message in refusal(__main__.cli, [word.replace("{table}", str(simple)) for word in words], capsys)
