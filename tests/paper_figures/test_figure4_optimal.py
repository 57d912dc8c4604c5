"""The optimal bounds' figures: what they show holds, and both are written; the command draws every figure."""

from __future__ import annotations

import numpy as np
import pytest

import bounds
from analysis.drawing.style import figure_style
from paper_figures import figure4, figure4_optimal


def test_branching_is_never_worse_and_without_use_where_the_errors_add_up_to_one() -> None:
    for row in figure4.load("optimal-branched", "optimal-full", figure4_optimal.ROWS):
        for panel in row:
            assert np.all(panel.difference <= 1e-12)
            assert panel.difference.min() < -3
    for panel in figure4.load("optimal-branched", "optimal-full")[1]:
        np.testing.assert_allclose(panel.difference, 0, atol=1e-12)
        for name in ("optimal-branched", "optimal-full"):
            values = bounds.get(name).evaluate(
                discount=panel.discount, model_error=panel.model_error, policy_divergence=panel.policy_divergence
            )
            np.testing.assert_allclose(values, 2 * panel.discount / (1 - panel.discount), rtol=1e-13)


def test_the_sweeps_are_shares_of_the_trivial_discrepancy_in_the_proved_order() -> None:
    sweeps = figure4_optimal.load()
    assert len(sweeps) == 3
    for sweep in sweeps:
        for scheme, paper in (("full", "m3po-th1"), ("branched", "m3po-th2")):
            optimal, linear = sweep.share[f"optimal-{scheme}"], sweep.share[f"linear-{scheme}"]
            assert np.all(optimal <= linear * (1 + 1e-12))
            assert np.all(linear <= sweep.share[paper] * (1 + 1e-12))
            assert np.all(optimal < 1)
    # gamma = 0.95, both errors 0.01: the middle of the first sweep's axis is eps_m = 0.01
    first = sweeps[0]
    middle = len(first.x) // 2
    assert first.x[middle] == pytest.approx(0.01, rel=1e-12)
    assert first.share["m3po-th1"][middle] == pytest.approx((2 * 0.95 * 0.03 / 0.05**2 + 0.04 / 0.05) / 40, rel=1e-12)


def test_every_line_of_the_sweeps_is_drawn() -> None:
    sweeps = figure4_optimal.load()
    with figure_style():
        from matplotlib.figure import Figure

        axes = Figure().subplots(1, 3)
        figure4_optimal.draw(axes, sweeps)
    for here, sweep in zip(axes, sweeps, strict=True):
        lines = [line for line in here.get_lines() if len(np.atleast_1d(line.get_xdata())) == len(sweep.x)]
        assert len(lines) == len(figure4_optimal.COMPARED)
        for line, name in zip(lines, figure4_optimal.COMPARED, strict=True):
            np.testing.assert_array_equal(line.get_ydata(), sweep.share[name])
