"""The study of limited moves: what is counted, and that finished trainings are not repeated."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import pytest

from analysis.limited_moves import cli
from analysis.studies import limited_moves
from analysis.studies.limited_moves import EpochRow, LimitedMovesConfig, measure_all, summarise
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
    ]
    wide, narrow = summarise(rows)
    assert (wide.limit, narrow.limit) == (0.3, 0.1)
    assert narrow.epochs == 7
    assert narrow.above_trivial == pytest.approx(5 / 7)
    assert narrow.above_half == pytest.approx(4 / 7)
    assert narrow.missed == pytest.approx(1 / 7)
    assert narrow.true_return == (4.0, 8.0)  # of the last step of each seed
    assert narrow.certified_return == (4.4, 8.0)
    assert narrow.evaluation == (40.0, 80.0)
    assert narrow.certified_share == pytest.approx((2.1 + 2) / (4 + 2))
    assert wide.certified_share == pytest.approx(2 / 3)


@pytest.mark.slow
def test_a_finished_training_is_not_repeated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    small: dict[str, Any] = {
        "initial_random_steps": 100, "epoch_steps": 200, "width": 16, "context_size": 8, "ensemble_size": 2,
        "model_updates": 20, "updates_per_step": 1, "rollouts_per_step": 4, "evaluation_episodes": 2,
    }  # fmt: skip
    monkeypatch.setattr(limited_moves, "Config", functools.partial(Config, **small))
    out = tmp_path / "rows.csv"
    flags = ["--out", str(out), "--seeds", "0", "--limits", "0.2", "--total-steps", "500", "--episodes", "5"]
    with pytest.raises(SystemExit) as ended:
        cli([*flags, "--reserved-share", "0.2"])
    assert ended.value.code == 0
    assert "1 trainings per limit" in capsys.readouterr().out
    rows = measure_all(
        LimitedMovesConfig(out, seeds=(0,), limits=(0.2,), reserved_share=0.2, total_steps=500, episodes=5)
    )
    assert rows[-1].step == 500
    assert all(each.move <= 0.2 for each in rows)
    monkeypatch.setattr(limited_moves, "epochs", None)
    with pytest.raises(SystemExit) as ended:
        cli([*flags, "--reserved-share", "0.2", "--json"])
    assert ended.value.code == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)[0]["epochs"] == len(rows)
    assert "limit 0.2, seed 0: complete" in captured.err
