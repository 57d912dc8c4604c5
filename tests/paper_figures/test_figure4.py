"""Figure 4: its numbers against the printed formulas, its crossover against the sign of those numbers, its drawing."""

from __future__ import annotations

import numpy as np
import pytest

from analysis.drawing.style import figure_style
from paper_figures import figure4


@pytest.fixture(scope="module")
def rows() -> tuple[tuple[figure4.Panel, ...], ...]:
    return figure4.load()


def test_the_six_panels_of_the_paper(rows: tuple[tuple[figure4.Panel, ...], ...]) -> None:
    assert [[panel.discount for panel in row] for row in rows] == [[0.85, 0.9, 0.95]] * 2
    for panel in rows[0]:
        assert np.all(panel.policy_divergence == 0)
    for panel in rows[1]:
        np.testing.assert_array_equal(panel.policy_divergence, 1 - panel.model_error)
    for panel in (*rows[0], *rows[1]):
        assert (panel.model_error[0], panel.model_error[-1]) == (0, 1)
        np.testing.assert_array_equal(panel.rollout_length, np.arange(1, 51))


def test_the_difference_is_table_1s(rows: tuple[tuple[figure4.Panel, ...], ...]) -> None:
    """The printed formulas of both theorems, written out again."""
    for panel in (*rows[0], *rows[1]):
        g, m, p = panel.discount, panel.model_error[None, :], panel.policy_divergence[None, :]
        k = panel.rollout_length[:, None]
        second = (
            (1 + g**2) / (1 - g) ** 2 * 2 * p
            + (g - k * g**k + (k - 1) * g ** (k + 1)) / (1 - g) ** 2 * (p + m)
            + (g**k - g) / (g - 1) * (p + m)
            + g**k / (1 - g) * (k + 1) * (p + m)
        )
        first = 2 * g * (m + 2 * p) / (1 - g) ** 2 + 4 * p / (1 - g)
        np.testing.assert_allclose(panel.difference, second - first, atol=1e-10)


def test_the_papers_key_insight(rows: tuple[tuple[figure4.Panel, ...], ...]) -> None:
    """One model step is preferred everywhere; without policy divergence every length is."""
    for panel in (*rows[0], *rows[1]):
        assert np.all(panel.difference[0, 1:] < 0)
    for panel in rows[0]:
        assert np.all(panel.difference[:, 1:] < 0)
        assert panel.crossover.shape == (2, 0)


def test_the_crossover_line_separates_the_signs(rows: tuple[tuple[figure4.Panel, ...], ...]) -> None:
    for panel in rows[1]:
        assert np.any(panel.difference > 0)
        line = dict(zip(np.round(panel.crossover[0], 9), panel.crossover[1], strict=True))
        for column, model_error in enumerate(panel.model_error):
            crossover = line.get(float(np.round(model_error, 9)), np.inf)
            np.testing.assert_array_equal(panel.difference[:, column] <= 0, panel.rollout_length <= crossover)


def test_colours_are_centred_at_zero_and_cover_the_values(rows: tuple[tuple[figure4.Panel, ...], ...]) -> None:
    with figure_style():
        from matplotlib.figure import Figure

        axes = Figure(layout="constrained").subplots(2, 3)
        figure4.draw(axes, rows)
    for row, panels in enumerate(rows):
        for column, panel in enumerate(panels):
            (mesh,) = axes[row][column].collections
            low, high = mesh.get_clim()
            assert -low == high == panel.colour_limit >= np.max(np.abs(panel.difference))
            np.testing.assert_array_equal(
                np.asarray(mesh.get_array()).reshape(panel.difference.shape), panel.difference
            )
            assert len(axes[row][column].lines) == (1 if row == 1 else 0)
