"""The study of limited moves: what is counted, and that finished trainings are not repeated."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from analysis.limited_moves import cli
from analysis.studies import limited_moves
from analysis.studies.limited_moves import UNLIMITED, EpochRow, LimitedMovesConfig, epochs, measure_all, summarise
from m3po.agents.policy_limit import MovePenalty
from m3po.config import Config


def row(step: int, true: float, certified: float, *, limit: float = 0.1, seed: int = 0) -> EpochRow:
    return EpochRow(
        limit=limit, seed=seed, step=step, true_return=true, standard_error=0.1, certified_return=certified,
        trivial_return=-2.0, used=1, effective=1.0, reserved=1, move_wanted=0.2, move=0.1, evaluation=10 * true,
    )  # fmt: skip


def test_what_is_counted() -> None:
    rows = [
        row(100, 2.0, -2.0),  # trivial
        row(200, 2.0, -1.97),  # less than 1% of the way
        row(300, 4.0, 1.9),  # most of the way, less than half of the return
        row(400, 4.0, 2.1),
        row(500, 4.0, 4.2),  # above the truth, within 3 standard errors
        row(600, 4.0, 4.4),  # missed
        row(100, 8.0, 8.0, seed=1),
        row(100, 1.0, 0.0, limit=0.3),
        row(600, 9.0, -2.0, limit=UNLIMITED, seed=1),
        row(100, 3.0, -2.0, limit=UNLIMITED, seed=1),
    ]
    free, wide, narrow = summarise(rows)
    assert (free.limit, wide.limit, narrow.limit) == (UNLIMITED, 0.3, 0.1)
    assert (free.against_unlimited, wide.against_unlimited, narrow.against_unlimited) == ((0.0,), (), (-1.0,))
    assert narrow.epochs == 7
    assert narrow.above_trivial == pytest.approx(5 / 7)
    assert narrow.above_half == pytest.approx(4 / 7)
    assert narrow.missed == pytest.approx(1 / 7)
    assert narrow.true_return == (4.0, 8.0)  # of the last step of each seed
    assert narrow.certified_return == (4.4, 8.0)
    assert narrow.evaluation == (40.0, 80.0)
    assert narrow.certified_share == pytest.approx((2.1 + 2) / (4 + 2))
    assert wide.certified_share == pytest.approx(2 / 3)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> list[Config]:
    """Trainings of seconds instead of minutes; the settings of those that were begun."""
    settings: dict[str, Any] = {
        "initial_random_steps": 100, "epoch_steps": 100, "width": 16, "context_size": 8, "ensemble_size": 2,
        "model_updates": 20, "updates_per_step": 1, "rollouts_per_step": 4, "evaluation_episodes": 2,
    }  # fmt: skip
    begun: list[Config] = []

    def smaller(**given: Any) -> Config:
        begun.append(Config(**(settings | given)))
        return begun[-1]

    monkeypatch.setattr(limited_moves, "Config", smaller)
    return begun


@pytest.mark.slow
def test_a_finished_training_is_not_repeated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, small: list[Config]
) -> None:
    out = tmp_path / "rows.csv"
    flags = ["--out", str(out), "--seeds", "0", "--total-steps", "500", "--episodes", "5", "--reserved-share", "0.4"]
    with pytest.raises(SystemExit) as ended:
        cli([*flags, "--limits", "None", "0.2"])
    assert ended.value.code == 0
    assert [each.move_limit for each in small] == [None, 0.2]
    assert "1 trainings per limit" in capsys.readouterr().out
    limits = (None, 0.2)
    rows = measure_all(
        LimitedMovesConfig(out, seeds=(0,), limits=limits, reserved_share=0.4, total_steps=500, episodes=5)
    )
    assert [(each.limit, each.step) for each in rows] == [(UNLIMITED, 300), (UNLIMITED, 500), (0.2, 300), (0.2, 500)]
    monkeypatch.setattr(limited_moves, "epochs", None)
    with pytest.raises(SystemExit) as ended:
        cli([*flags, "--limits", "None", "0.2", "--json"])
    assert ended.value.code == 0
    captured = capsys.readouterr()
    assert [(each["limit"], each["epochs"]) for each in json.loads(captured.out)] == [(None, 2), (0.2, 2)]
    assert "limit None, seed 0: complete" in captured.err
    assert "limit 0.2, seed 0: complete" in captured.err


@pytest.mark.slow
def test_unlimited_moves_are_measured_as_limited_ones_and_change_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small: list[Config]
) -> None:
    config = LimitedMovesConfig(tmp_path / "rows.csv", reserved_share=0.4, total_steps=500, episodes=2)
    free = epochs(config, UNLIMITED, 0)
    monkeypatch.setattr(MovePenalty, "__call__", lambda self, policy, features: torch.zeros(()))
    never_exceeded = epochs(config, 1.0, 0)
    assert len(free) == 2
    assert [each.evaluation for each in free] == [each.evaluation for each in never_exceeded]
    assert [each.move for each in free] == pytest.approx([each.move for each in never_exceeded], rel=0.05)
    assert [each.move for each in free] == [each.move_wanted for each in free]
