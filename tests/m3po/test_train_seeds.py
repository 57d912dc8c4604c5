"""Seeds side by side: directories of their own, one process, and nothing lost wherever it is killed."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from m3po.agents.group import Group
from m3po.config import Config
from m3po.runs.health import DivergenceError
from m3po.runs.interruption import Stopped
from m3po.runs.run_directory import RunDirectory
from m3po.train import cli, main, train, train_seeds
from tests.command_errors import refusal
from tests.m3po.small import TINY_MODEL
from tests.m3po.test_train import assert_same_runs, resumed_until_killed, without_times

SMALL: dict[str, Any] = {**TINY_MODEL, "total_steps": 180, "epoch_steps": 40, "model_updates": 5}
PEARL: dict[str, Any] = {"algorithm": "pearl"}
GRBAL: dict[str, Any] = {
    "algorithm": "grbal", "layers": 4, "planner_candidates": 8, "planner_horizon": 2, "planner_iterations": 1,
}  # fmt: skip
BASELINES = {"pearl": PEARL, "grbal": GRBAL}


def config(path: Path, **changes: Any) -> Config:
    return Config(run_dir=path, **{**SMALL, "seeds": (4, 0, 2), **changes})


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> list[RunDirectory]:
    return train_seeds(config(tmp_path_factory.mktemp("seeds") / "runs"))


def assert_same(found: list[RunDirectory], expected: list[RunDirectory]) -> None:
    for one, other in zip(found, expected, strict=True):
        assert one.path.name == other.path.name
        assert_same_runs(one, other)


def test_each_seed_has_a_run_directory_that_stands_alone(together: list[RunDirectory]) -> None:
    assert [each.path.name for each in together] == ["seed-4", "seed-0", "seed-2"]
    for directory in together:
        assert RunDirectory.read(directory.path).complete
        assert (directory.config.seed, directory.config.seeds) == (int(directory.path.name[5:]), None)
        assert [row["step"] for row in directory.metrics()] == [0, 140, 180]
        record = json.loads((directory.path / "config.json").read_text())
        assert "seeds" not in record
        assert directory.load_checkpoint()["steps"] == 180


def test_a_seed_is_the_run_that_train_gives(together: list[RunDirectory], tmp_path: Path) -> None:
    """Up to rounding, which 40 updates of each network carry a little on."""
    alone = train(config(tmp_path / "alone", seeds=None, seed=0))
    for here, there in zip(together[1].metrics(), alone.metrics(), strict=True):
        assert here["return"] == pytest.approx(there["return"], rel=1e-2, abs=1e-2)
    ours, theirs = together[1].load_checkpoint(), alone.load_checkpoint()
    for one, other in zip(ours["generators"], theirs["generators"], strict=True):
        assert torch.equal(one, other)


class Killed(BaseException):
    """As if the process had ended here: nothing catches it."""


@pytest.mark.parametrize("writes", [2, 5])
def test_killed_between_the_checkpoints_of_two_runs_it_is_resumed_bit_for_bit(
    writes: int, together: list[RunDirectory], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three runs write checkpoints at steps 0, 140 and 180, one after another."""
    save, saved = RunDirectory.save_checkpoint, [0]

    def killed(self: RunDirectory, state: dict[str, Any]) -> None:
        if saved[0] == writes:
            raise Killed
        saved[0] += 1
        save(self, state)

    with monkeypatch.context() as patch:
        patch.setattr(RunDirectory, "save_checkpoint", killed)
        with pytest.raises(Killed):
            train_seeds(config(tmp_path / "runs"))
    assert_same(train_seeds(config(tmp_path / "runs", resume=True)), together)


@pytest.mark.parametrize("algorithm", [{}, *BASELINES.values()], ids=["m3po", *BASELINES])
@pytest.mark.parametrize("kills", [pytest.param(10, marks=pytest.mark.slow)])
def test_killed_at_random_moments_they_end_as_the_undisturbed_ones(
    kills: int, algorithm: dict[str, Any], tmp_path: Path
) -> None:
    changes: dict[str, Any] = {"total_steps": 140 + 40 * kills, "seeds": (4, 0), **algorithm}
    whole = train_seeds(config(tmp_path / "whole", **changes))
    changes["checkpoint_minutes"] = 5e-4
    generator = np.random.default_rng(kills)
    path = tmp_path / "runs"
    for _ in range(kills):
        resumed = config(path, resume=path.exists(), **changes)
        ended = resumed_until_killed(lambda resumed=resumed: train_seeds(resumed), generator.uniform(0.02, 1.0))  # type: ignore[misc]
        assert not ended
    assert_same(train_seeds(config(path, resume=True, **changes)), whole)


def interrupted_at(step: int, monkeypatch: pytest.MonkeyPatch, start: Callable[[], object]) -> None:
    """What ``start`` begins gets a signal at that step, and stops."""
    collect_step = Group.collect_step

    def signalled(self: Group[Any], *, random: bool) -> dict[Any, float]:
        if self.runs[0].steps == step:
            os.kill(os.getpid(), signal.SIGTERM)
        return collect_step(self, random=random)

    with monkeypatch.context() as patch:
        patch.setattr(Group, "collect_step", signalled)
        with pytest.raises(Stopped):
            start()


def test_interrupted_in_mid_epoch_it_is_resumed_bit_for_bit(
    together: list[RunDirectory], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted_at(150, monkeypatch, lambda: train_seeds(config(tmp_path / "runs")))
    assert {each.load_checkpoint()["steps"] for each in map(RunDirectory.read, (tmp_path / "runs").iterdir())} == {151}
    assert_same(train_seeds(config(tmp_path / "runs", resume=True)), together)


@pytest.mark.parametrize("algorithm", BASELINES.values(), ids=BASELINES)
def test_baselines_interrupted_in_mid_epoch_are_resumed_bit_for_bit(
    algorithm: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {"seeds": (4, 0), **algorithm}
    whole = train_seeds(config(tmp_path / "whole", **changes))
    interrupted_at(150, monkeypatch, lambda: train_seeds(config(tmp_path / "runs", **changes)))
    assert_same(train_seeds(config(tmp_path / "runs", resume=True, **changes)), whole)


def test_a_seed_that_was_ahead_waits_for_the_others_and_a_new_one_catches_up(
    together: list[RunDirectory], tmp_path: Path
) -> None:
    """Seed 4 is complete, seed 2 has no directory yet, and seed 0 is on its way."""
    runs = tmp_path / "runs"
    runs.mkdir()
    shutil.copytree(together[0].path, runs / "seed-4")
    shutil.copytree(together[1].path, runs / "seed-0")
    (runs / "seed-0" / "COMPLETE").unlink()
    found = train_seeds(config(runs, resume=True))
    assert all(each.complete for each in found)
    assert [row["step"] for row in found[2].metrics()] == [0, 140, 180]
    assert without_times(found[0].metrics()) == without_times(together[0].metrics())


def critics_are_lost(monkeypatch: pytest.MonkeyPatch, seeds: set[int]) -> None:
    """After 150 steps of these seeds."""
    collect_step = Group.collect_step

    def lost(self: Group[Any], *, random: bool) -> dict[Any, float]:
        for run in self.runs:
            if run.config.seed in seeds and run.steps == 150:
                with torch.no_grad():
                    next(run.agent.critics.parameters()).fill_(math.nan)
        return collect_step(self, random=random)

    monkeypatch.setattr(Group, "collect_step", lost)


def test_a_seed_that_diverges_is_named_and_the_others_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    critics_are_lost(monkeypatch, {0})
    assert main(config(tmp_path / "runs")) == 1
    told = capsys.readouterr().err
    assert "seed-0 stops here, and the others go on: critic_loss is nan" in told
    assert "error: the training diverged: 1 of 3 runs stopped: seed-0: critic_loss is nan" in told
    complete = {each.name for each in (tmp_path / "runs").iterdir() if (each / "COMPLETE").exists()}
    assert complete == {"seed-4", "seed-2"}
    assert RunDirectory.read(tmp_path / "runs" / "seed-0").load_checkpoint()["steps"] == 140
    with pytest.raises(DivergenceError, match="1 of 3 runs stopped"):
        train_seeds(config(tmp_path / "runs", resume=True))


def test_seeds_that_all_diverge_at_once_are_all_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    critics_are_lost(monkeypatch, {0, 2, 4})
    assert main(config(tmp_path / "runs")) == 1
    told = capsys.readouterr().err
    assert "error: the training diverged: 3 of 3 runs stopped" in told
    for seed in (4, 0, 2):
        assert f"seed-{seed}: critic_loss is nan" in told


def test_what_is_wrong_with_a_directory_is_not_taken_for_a_run_that_diverged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    append = RunDirectory.append_metrics

    def changed(self: RunDirectory, row: dict[str, Any]) -> None:
        if row["step"] == 140 and self.config.seed == 0:
            raise ValueError("metrics.jsonl was changed by another hand")
        append(self, row)

    monkeypatch.setattr(RunDirectory, "append_metrics", changed)
    with pytest.raises(ValueError, match="changed by another hand"):
        train_seeds(config(tmp_path / "runs"))


def test_the_command_prints_every_seed_and_their_mean(
    together: list[RunDirectory], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(together[0].path.parent, tmp_path / "runs")
    assert main(config(tmp_path / "runs", resume=True)) == 0
    out, told = capsys.readouterr()
    assert told.count("is complete already") == 3
    *each, mean = out.splitlines()
    returns = [directory.metrics()[-1]["return"] for directory in together]
    assert [line.split("return ")[1].split(" +-")[0] for line in each] == [f"{value:.2f}" for value in returns]
    error = np.std(returns, ddof=1) / math.sqrt(3)
    assert mean.endswith(f"return {np.mean(returns):.2f} +- {error:.2f} in the mean of 3 seeds")


def test_what_cannot_be_side_by_side_is_refused(
    together: list[RunDirectory], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--run-dir", tmp_path / "runs", "--total-steps", 500]
    assert "--seeds" in refusal(cli, [*words, "--seeds", 1, 1], capsys)
    assert "--seeds" in refusal(cli, [*words, "--seeds", -1], capsys)
    assert "--seeds needs at least 1 value, got 0" in refusal(cli, [*words, "--seeds"], capsys)
    taken = tmp_path / "taken"
    shutil.copytree(together[1].path, taken / "seed-0")
    message = refusal(cli, ["--run-dir", taken, "--seeds", 7, 0], capsys)
    assert "seed-0 already exists" in message
    assert not (taken / "seed-7").exists()
    assert "seed-0: it was started with" in refusal(
        cli, ["--run-dir", taken, "--seeds", 0, "--total-steps", 500, "--resume"], capsys
    )
    with pytest.raises(ValueError, match="train is for one run"):
        train(config(tmp_path / "runs"))
