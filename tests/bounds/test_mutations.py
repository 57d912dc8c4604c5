"""Every broken constant is noticed by a check of the suite, and no check refuses an unbroken bound."""

from __future__ import annotations

from tests.bounds.mutations import all_mutants, noticed_by, table, unbroken


def test_unbroken_bounds_pass_every_check():
    assert {m.name: noticed_by(m) for m in unbroken() if any(noticed_by(m).values())} == {}


def test_every_mutant_is_noticed():
    text, missed = table(all_mutants())
    assert missed == 0, "\n" + text
    changes = {(m.name, m.change) for m in all_mutants()}
    assert len(changes) >= 99


def test_halved_and_shortened_bounds_are_refuted_by_an_instance():
    """These make the bound false, not only different, and the panel of instances shows it."""
    false = [m for m in all_mutants() if m.change in ("x 0.5", "x 0.75", "times (1 - gamma)", "k -> k - 1")]
    assert [(m.name, m.change) for m in false if not noticed_by(m)["valid"]] == []
