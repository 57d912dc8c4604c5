"""The noise figure: landed rows that say what the page says, a written image."""

from __future__ import annotations

from paper_figures import noise_level as figure


def test_more_data_make_the_certificate_smaller_and_none_comes_near_half() -> None:
    series = {each.samples: {row.level: row for row in each.rows} for each in figure.load()}
    assert set(series) == {5000, 20000}
    for level, row in series[20000].items():
        few = series[5000][level]
        assert 0.8 < row.share < few.share
        assert (row.share < 0.99) == (level in (0.1, 1.0))
        assert few.share > 0.99
        assert row.model_error < few.model_error
        assert row.verdict == few.verdict == "holds"
