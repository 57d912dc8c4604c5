"""The certificate's figure: landed rows that hold what the page says, a curve that is Theorem 4, a written image."""

from __future__ import annotations

import numpy as np
import pytest

from analysis.runs.resumable_table import read_rows
from analysis.studies.through_training import CLAIMED, SHIFTED, CertificateRow, sound
from paper_figures import certificate_through_training as figure


def test_the_landed_rows_hold_at_every_checkpoint_end_below_half_and_flag_the_planted_faults() -> None:
    rows = read_rows(figure.DATA, CertificateRow)
    assert sound(rows)
    flagged = {case: [row.verdict for row in rows if row.case == case].count("violated") for case in (SHIFTED, CLAIMED)}
    assert flagged == {SHIFTED: 21, CLAIMED: 20}
    shown = figure.load()
    for own in shown.own.values():
        assert [row.step for row in own] == list(range(1000, 7001, 1000))
        assert all(row.verdict == "holds" and not row.vacuous for row in own)
        assert own[-1].certificate < 0.5 * 1.1 / (1 - figure.DISCOUNT)
    assert len(shown.seeds) >= 3


def test_the_curve_is_what_a_constant_divergence_costs() -> None:
    shown = figure.load()
    powers = figure.DISCOUNT ** np.arange(figure.HORIZON)
    for place in (0, 90, 180):
        lost = np.minimum(1.0, np.arange(1, figure.HORIZON + 1) * shown.divergences[place])
        assert shown.policy_share[place] == pytest.approx(powers @ lost / powers.sum(), rel=1e-12)


def test_no_dot_lies_above_the_curve_by_more_than_its_other_parts() -> None:
    """A constant divergence is the dearest with its mean only if the caps bind late: shares stay near the curve."""
    shown = figure.load()
    for row in shown.aged:
        constant = np.interp(np.log(row.policy_divergence), np.log(shown.divergences), shown.policy_share)
        assert row.policy_part / row.trivial < constant + 0.1
