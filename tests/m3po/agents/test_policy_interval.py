"""Policy and temperature are updated with every n-th update of the critics, across stops too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from m3po.agents.loop import TrainingLoop
from m3po.agents.m3po import M3PO
from m3po.agents.pearl import Pearl
from m3po.agents.sac import POLICY_REPORTS, SoftActorCritic
from m3po.config import Config
from tests.m3po.small import TINY, TINY_MODEL

SETTINGS = {"total_steps": 140, "epoch_steps": 20, "updates_per_step": 2, "policy_interval": 3, "rollout_interval": 10}


def config(algorithm: str, **changes: Any) -> Config:
    settings = {**(TINY_MODEL if algorithm == "m3po" else TINY), **SETTINGS, **changes}
    return Config(run_dir=Path("unused"), algorithm=algorithm, **settings)  # type: ignore[arg-type]


@pytest.fixture
def updates(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, float]]:
    """What every update reports."""
    seen: list[dict[str, float]] = []
    own = SoftActorCritic.update

    def recorded(self: SoftActorCritic, *given: Any, **named: Any) -> dict[str, torch.Tensor]:
        before = [each.clone() for each in (*self.policy.parameters(), self.log_temperature)]
        critics = [each.clone() for each in self.critics.parameters()]
        reports = own(self, *given, **named)
        after = (*self.policy.parameters(), self.log_temperature)
        moved = any(not torch.equal(one, other) for one, other in zip(before, after, strict=True))
        assert moved == ("policy_loss" in reports)
        assert any(not torch.equal(one, other) for one, other in zip(critics, self.critics.parameters(), strict=True))
        seen.append({name: value.item() for name, value in reports.items()})
        return reports

    monkeypatch.setattr(SoftActorCritic, "update", recorded)
    return seen


@pytest.mark.parametrize(("kind", "algorithm"), [(M3PO, "m3po"), (Pearl, "pearl")])
def test_every_third_update_of_an_epoch_is_of_the_policy_too_and_its_means_are_of_those(
    kind: type[TrainingLoop], algorithm: str, updates: list[dict[str, float]]
) -> None:
    training = kind(config(algorithm))
    rows = []
    while not training.finished:
        row = training.advance()
        if row is not None:
            rows.append(row)
    assert len(updates) == 80
    for row, epoch in zip(rows, (updates[:40], updates[40:]), strict=True):
        assert ["policy_loss" in each for each in epoch] == [i % 3 == 0 for i in range(40)]
        for name in epoch[0]:
            values = [each[name] for each in epoch if name in each]
            assert len(values) == (14 if name in POLICY_REPORTS else 40)
            assert row[name] == pytest.approx(sum(values) / len(values), rel=1e-5)


@pytest.mark.parametrize(("kind", "algorithm"), [(M3PO, "m3po"), (Pearl, "pearl")])
def test_a_stop_within_an_epoch_does_not_disturb_the_interval(
    kind: type[TrainingLoop], algorithm: str, updates: list[dict[str, float]]
) -> None:
    whole = kind(config(algorithm))
    while not whole.finished:
        last = whole.advance() or {}
    expected = list(updates)
    updates.clear()
    training = kind(config(algorithm))
    while training.steps < 107:  # 14 updates into an epoch
        training.advance()
    resumed = kind(config(algorithm))
    resumed.load_state(training.state())
    assert resumed.collection.resume_episode()
    while not resumed.finished:
        row = resumed.advance() or {}
    assert updates == expected
    assert {name: row[name] for name in POLICY_REPORTS} == {name: last[name] for name in POLICY_REPORTS}


def test_an_interval_is_not_for_graphs_of_whole_updates() -> None:
    with pytest.raises(ValueError, match=r"--policy-interval must be 1 with --cuda-graphs.*got 3"):
        config("m3po", cuda_graphs=True)
    with pytest.raises(ValueError, match=r"--policy-interval.*got 0"):
        config("m3po", policy_interval=0)
