"""The lower bound without an upper range: its equation, its edges, and its coverage by enumeration of all samples."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bounds.nonnegative import BETS, nonnegative_lower


def log_capital(samples: np.ndarray, mean: float, bets: Any = BETS) -> float:
    """log avg_f prod_n (1 - f + f X_n/m), in plain numbers."""
    shares = np.asarray(bets)[:, None]
    with np.errstate(divide="ignore"):
        logs = np.log(1 - shares + shares * samples / mean).sum(axis=1)
    return float(np.logaddexp.reduce(logs) - np.log(len(shares)))


positive = st.floats(-3, 3).map(lambda x: float(10.0**x))
samples_lists = st.lists(st.one_of(st.just(0.0), positive), min_size=1, max_size=40).filter(lambda x: max(x) > 0)


@given(samples_lists, st.floats(0.5, 0.999))
@settings(max_examples=200, deadline=None)
def test_it_is_the_root_of_its_equation_from_below(numbers: list[float], confidence: float) -> None:
    samples, target = np.array(numbers), -np.log1p(-confidence)
    lower = float(nonnegative_lower(samples, confidence))
    assert 0 < lower < samples.mean()
    assert log_capital(samples, lower) >= target - 1e-12 * len(samples)
    assert log_capital(samples, lower * (1 + 2e-12)) < target + 1e-13 * len(samples)


@given(samples_lists, st.floats(1e-3, 1e3))
@settings(max_examples=50, deadline=None)
def test_it_scales_and_does_not_see_the_order(numbers: list[float], scale: float) -> None:
    lower = nonnegative_lower(numbers)
    assert nonnegative_lower(scale * np.array(numbers)) == pytest.approx(scale * lower, rel=3e-12)
    assert nonnegative_lower(sorted(numbers)) == pytest.approx(lower, rel=3e-12)


@given(samples_lists)
@settings(max_examples=40, deadline=None)
def test_the_running_bound_is_the_largest_root_so_far(numbers: list[float]) -> None:
    running = nonnegative_lower(numbers, running=True)
    alone = [float(nonnegative_lower(numbers[: n + 1])) for n in range(len(numbers))]
    np.testing.assert_allclose(running, np.maximum.accumulate(alone), rtol=1e-9)
    assert np.all(np.diff(running) >= 0)


def test_further_axes_are_other_quantities() -> None:
    samples = np.random.default_rng(0).exponential(size=(20, 2, 3))
    together = nonnegative_lower(samples)
    assert together.shape == (2, 3)
    assert together[1, 2] == nonnegative_lower(samples[:, 1, 2])
    running = nonnegative_lower(samples, running=True)
    assert running.shape == (20, 2, 3)
    np.testing.assert_array_equal(running[:, 1, 2], nonnegative_lower(samples[:, 1, 2], running=True))


def test_edges() -> None:
    assert nonnegative_lower([0.0, 0.0, 0.0]) == 0.0
    assert np.all(nonnegative_lower([0.0, 0.0, 1.0], running=True)[:2] == 0.0)
    # n = 1: avg_f (1 - f + f X/m) = 20 has the root f X/(19 + f), f the mean bet.
    share = np.mean(BETS)
    assert nonnegative_lower([3.0]) == pytest.approx(3.0 * share / (19 + share), rel=1e-12)
    # One huge value among small ones neither overflows nor makes the mean certain.
    huge = float(nonnegative_lower([1.0] * 50 + [1e300]))
    assert 0.7 < huge < 1e299
    assert 0 < nonnegative_lower([1e-300] * 50 + [1e300]) < 1e299
    assert float(nonnegative_lower([1e-310] * 5)) < 1e-310
    # Constant samples: the bound comes close as they become many.
    assert nonnegative_lower(np.full(10_000, 2.0)) == pytest.approx(2.0, rel=1e-3)
    with np.errstate(all="raise", under="ignore"):
        nonnegative_lower(np.concatenate([np.zeros(5000), [1e200, 1e-200]]))


def test_one_bet_alone_and_a_known_root() -> None:
    """(1/2 + X/(2 m))^n = 1/delta at constant X."""
    assert nonnegative_lower(np.full(7, 3.0), 0.9, bets=[0.5]) == pytest.approx(
        3.0 / (2 * 10 ** (1 / 7) - 1), rel=1e-12
    )


@pytest.mark.parametrize("mean", [0.02, 0.3, 1.0])
@pytest.mark.parametrize("values", [(0.0, 1.0), (0.1, 30.0)])
def test_it_misses_at_most_delta_of_all_samples_at_every_n_at_once(mean: float, values: tuple[float, float]) -> None:
    """Two values, 10 draws, all 1024 sequences with their probabilities: the largest bound so far exceeds the mean."""
    low, high = values
    chance = mean * 0.9
    truth, confidence = low + chance * (high - low), 0.8
    sequences = np.array(list(itertools.product([0, 1], repeat=10)))
    probability = (chance**sequences * (1 - chance) ** (1 - sequences)).prod(axis=1)
    samples = np.where(sequences == 1, high, low)
    running = nonnegative_lower(samples.T, confidence, running=True)[-1]
    missed = float(probability[running > truth].sum())
    final = float(probability[nonnegative_lower(samples.T, confidence) > truth].sum())
    assert final <= missed <= 1 - confidence


def test_adaptively_chosen_samples_of_one_mean_are_covered() -> None:
    """The spread of the next draw depends on the ones before; its mean does not."""
    rng = np.random.default_rng(5)
    drawn = np.zeros((40, 400))
    for n in range(40):
        spread = np.where(drawn.sum(axis=0) < n, 2.0, 50.0)
        drawn[n] = spread * (rng.uniform(size=400) < 1 / spread)
    missed = np.sum(nonnegative_lower(drawn, 0.9, running=True)[-1] > 1.0)
    assert missed <= 400 * 0.1 + 2 * 6


def test_rows_stacked_by_different_means_are_bounded_by_their_average_but_not_at_every_n() -> None:
    """Rows of .5 before rows of .05, whose average is .275; stacked either way the bound is the same."""
    rows = np.concatenate([np.full(150, 0.5), np.full(150, 0.05)])
    assert nonnegative_lower(rows) <= 0.275
    assert nonnegative_lower(rows[::-1]) == pytest.approx(nonnegative_lower(rows), rel=1e-11)
    assert nonnegative_lower(rows, running=True)[-1] > 0.275
    means = np.repeat([0.9, 0.3, 0.05], 3)
    sequences = np.array(list(itertools.product([0, 1], repeat=9)))
    probability = np.where(sequences == 1, means, 1 - means).prod(axis=1)
    missed = nonnegative_lower(sequences.T.astype(float), 0.8) > means.mean()
    assert float(probability[missed].sum()) <= 0.2


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"samples": [1.0, -0.5]}, "samples must be nonnegative and finite, got -0.5"),
        ({"samples": [1.0, np.nan]}, "got nan"),
        ({"samples": [np.inf]}, "got inf"),
        ({"samples": []}, "samples must hold at least one draw along axis 0, got shape (0,)"),
        ({"samples": 1.0}, "got shape ()"),
        ({"confidence": 0.0}, "confidence must lie in (0, 1), got 0.0"),
        ({"bets": [0.5, 1.0]}, "bets must be a list of numbers in (0, 1), got [0.5, 1.0]"),
        ({"bets": []}, "bets must be a list"),
    ],
)
def test_a_bad_value_is_named(change: dict[str, Any], named: str) -> None:
    arguments: dict[str, Any] = {"samples": [1.0]} | change
    with pytest.raises(ValueError) as raised:
        nonnegative_lower(**arguments)
    assert named in str(raised.value)
