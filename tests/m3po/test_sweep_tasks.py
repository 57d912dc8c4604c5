"""Sweeps whose tasks train several seeds side by side: how runs are packed, and what each keeps to itself."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import sys
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from m3po.agents.group import Group
from m3po.runs.checkpoints import LAST, PREVIOUS
from m3po.runs.interruption import Stopped, StopRequest
from m3po.runs.run_directory import RunDirectory
from m3po.sweep import cli
from m3po.sweeps.display import Display
from m3po.sweeps.grid import GridRun, expand, packed
from m3po.sweeps.ray_cluster import drive
from m3po.sweeps.tracks import Track
from m3po.sweeps.worker import Outcome, Progress, TaskReport, directory_id, train_all, train_task
from m3po.train import train
from tests.m3po.test_sweep import DONE, TINY, FakeCluster, metrics, write

EVALUATED = [0, 140, 180]


def grid(out: Path, seeds: int, seeds_per_task: int, **changes: Any) -> list[GridRun]:
    settings = {**tomllib.loads(TINY), "total_steps": 180, "epoch_steps": 40, "model_updates": 5, **changes}
    return expand({**settings, "seeds": list(range(seeds)), "seeds_per_task": seeds_per_task}, out)


# --- packing --------------------------------------------------------------------------------------


def names_of(tasks: list[list[GridRun]]) -> list[str]:
    return ["+".join(run.name.replace("/seed-", "") for run in task) for task in tasks]


def test_seeds_of_a_cell_are_packed_in_the_grids_order() -> None:
    text = """
        seeds = [4, 0, 2, 1, 3]
        seeds_per_task = 2
        [[environments]]
        name = "e"
        [[environments]]
        name = "f"
        width = 9
        [[variants]]
        name = "a"
        [[variants]]
        name = "b"
        layers = 3
        environments = ["e"]
        seeds_per_task = 3
        [[variants]]
        name = "c"
        layers = 4
        environments = ["f"]
        seeds_per_task = 1
    """
    runs = expand(tomllib.loads(text), Path("out"))
    tasks = packed(runs)
    assert names_of(tasks) == [
        "e/a4+e/a0", "e/b4+e/b0+e/b2", "f/a4+f/a0", "f/c4", "f/c0", "e/a2+e/a1", "f/a2+f/a1", "f/c2", "e/b1+e/b3",
        "f/c1", "e/a3", "f/a3", "f/c3",
    ]  # fmt: skip
    for task in tasks:
        assert len({json.dumps({**vars(run.config), "run_dir": "", "seed": 0}, default=str) for run in task}) == 1
    # What --only leaves, or what an earlier sweep has left, is packed anew.
    assert names_of(packed([run for run in runs if run.name.startswith("e/") and run.config.seed != 0])) == [
        "e/a4+e/a2", "e/b4+e/b2+e/b1", "e/a1+e/a3", "e/b3",
    ]  # fmt: skip
    assert names_of(packed([])) == []


def test_without_a_word_of_it_each_run_is_a_task_of_its_own() -> None:
    runs = expand({"seeds": [0, 1, 2]}, Path("out"))
    assert packed(runs) == [[run] for run in runs]


def test_a_listing_tells_the_tasks_and_how_long_the_longest_takes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (
        'seeds = [0, 1, 2]\ncpus = 2\n[[variants]]\nname = "a"\nseeds_per_task = 2\n[[variants]]\nname = "b"\nwidth = 9'
    )
    words = [str(write(tmp_path, text)), "--out", str(tmp_path / "out"), "--list", "--seconds-per-step", "0.36"]
    with pytest.raises(SystemExit):
        cli([*words, "--json"])
    record = json.loads(capsys.readouterr().out)
    assert (record["runs"], record["tasks"], record["cpu_hours"]) == (6, 5, pytest.approx(8.4))
    assert record["longest_run_hours"] == pytest.approx(1.4)  # two runs of 7,000 steps
    assert [each["task"] for each in record["list"]] == [1, 2, 1, 3, 4, 5]
    with pytest.raises(SystemExit):
        cli(words)
    *_, packing, _ = capsys.readouterr().out.splitlines()
    assert packing.startswith("seeds side by side: 5 tasks take less processor time than 6 would")


# --- tasks, without Ray ---------------------------------------------------------------------------


def driven(
    script: Mapping[str, Any], said: Mapping[tuple[str, int], Mapping[str, Any]]
) -> tuple[dict[str, Track], FakeCluster]:
    """The runs of the first key of the script in one task; their tracks by name."""
    names = next(iter(script)).split("+")
    (base,) = grid(Path("out"), 1, len(names))
    tracks = [Track(replace(base, name=name, retries=2)) for name in names]
    cluster = FakeCluster(script, said=said)
    drive(tracks, cluster, StopRequest(), Display(tracks), silence=10.0)
    return {track.run.name: track for track in tracks}, cluster


DIVERGED = Outcome("failed", {"step": 140}, "the training diverged: critic_loss is nan")


@pytest.mark.parametrize("lost", ["crash", 1])
def test_a_lost_task_is_taken_up_again_with_the_runs_that_have_not_ended(lost: str | int) -> None:
    row = {"step": 180, "return": 4.0, "return_standard_error": 0.5}
    tracks, cluster = driven(
        {"c/0+c/1+c/2+c/3": [lost], "c/1+c/3": {1: lost, 2: {"c/1": DONE, "c/3": DONE}}},
        {
            ("c/0", 0): {"ended": Outcome("finished", row)},
            ("c/2", 0): {"ended": DIVERGED},
            ("c/1", 1): {"saved": 9},
        },
    )
    assert [(name, attempt) for name, attempt, _ in cluster.log] == [
        ("c/0+c/1+c/2+c/3", 0), ("c/1+c/3", 1), ("c/1+c/3", 2),
    ]  # fmt: skip
    assert [track.state for track in tracks.values()] == ["finished", "finished", "failed", "finished"]
    assert [track.attempt for track in tracks.values()] == [0, 2, 0, 2]
    assert tracks["c/0"].row == row
    assert tracks["c/2"].message == DIVERGED.message
    least = 0.5 if lost == "crash" else 10
    assert all(later[2] - earlier[2] >= least for earlier, later in pairwise(cluster.log))


def test_a_task_comes_further_when_any_of_its_runs_does() -> None:
    """A run that was ahead waits for the others without a checkpoint of its own."""
    names = "c/0+c/1"
    further = {("c/1", attempt): {"saved": attempt + 1} for attempt in range(5)}
    tracks, _ = driven({names: [*["crash"] * 5, DONE]}, further)
    assert [track.state for track in tracks.values()] == ["finished", "finished"]
    tracks, cluster = driven({names: [*["crash"] * 5, DONE]}, {})
    assert [(track.state, track.attempt) for track in tracks.values()] == [("failed", 2)] * 2
    assert len(cluster.log) == 3
    assert "lost 3 times in a row without a new checkpoint" in tracks["c/1"].message


def test_each_run_of_a_task_has_an_end_of_its_own_and_a_mistake_in_the_code_is_that_of_all() -> None:
    names = "c/0+c/1+c/2"
    tracks, _ = driven({names: [{"c/0": DONE, "c/1": DIVERGED, "c/2": replace(DONE, cpu_seconds_per_step=0.5)}]}, {})
    assert [track.state for track in tracks.values()] == ["finished", "failed", "finished"]
    assert [track.cpu_seconds_per_step for track in tracks.values()] == [None, None, 0.5]
    tracks, _ = driven({names: [Outcome("failed", {}, "TypeError: no")]}, {("c/1", 0): {"ended": DONE}})
    assert [track.state for track in tracks.values()] == ["failed", "finished", "failed"]


def test_a_run_that_fails_in_a_task_is_told_of_while_the_others_go_on(capsys: pytest.CaptureFixture[str]) -> None:
    (base,) = grid(Path("out"), 1, 2)
    tracks = [Track(replace(base, name=name)) for name in ("c/0", "c/1")]

    class Watched(FakeCluster):
        def wait(self, tasks: Any, timeout: float) -> list[Any]:
            super().wait(tasks, timeout)
            if self.now < 4:
                return []
            told = capsys.readouterr().err
            assert "c/0: failed, step 140/180, on node (the training diverged: critic_loss is nan)" in told
            assert "c/1: running" in told
            return list(tasks)

    cluster = Watched({"c/0+c/1": [{"c/0": DIVERGED, "c/1": DONE}]}, said={("c/0", 0): {"ended": DIVERGED}})
    drive(tracks, cluster, StopRequest(), Display(tracks), silence=10.0)
    assert [track.state for track in tracks] == ["failed", "finished"]
    assert "c/1" in cluster.listened
    assert "c/0" not in cluster.listened


def test_a_task_all_of_whose_runs_have_ended_is_waited_for() -> None:
    """It may still write, and what it took is told at its end only."""
    (base,) = grid(Path("out"), 1, 1)
    tracks = [Track(base)]

    class Slow(FakeCluster):
        def wait(self, tasks: Any, timeout: float) -> list[Any]:
            return super().wait(tasks, timeout) if self.now > 4 else self.pass_by(timeout)

        def pass_by(self, timeout: float) -> list[Any]:
            self.now += timeout
            return []

    cluster = Slow(
        {base.name: [{base.name: replace(DONE, cpu_seconds_per_step=0.5)}]}, said={(base.name, 0): {"ended": DONE}}
    )
    drive(tracks, cluster, StopRequest(), Display(tracks), silence=10.0)
    assert cluster.now > 4
    assert (tracks[0].state, tracks[0].cpu_seconds_per_step) == ("finished", 0.5)


def test_a_task_one_of_whose_runs_is_another_tasks_may_write_none() -> None:
    progress = Progress()
    old = {name: TaskReport(0, "a") for name in ("c/0", "c/1", "c/2")}
    progress.reports(dict.fromkeys(old, 0))
    assert progress.report(old)
    progress.reports({"c/0": 0, "c/1": 1})  # c/2 has ended
    assert not progress.report({name: replace(each, step=7) for name, each in old.items()})
    assert {name: each.step for name, (each, _) in progress.reports({}).items()} == dict.fromkeys(old, 0)
    progress.reports({"c/1": 1})
    assert progress.report({"c/1": TaskReport(1, "b")})


# --- what a task trains ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> list[GridRun]:
    """Three seeds that were trained in one task."""
    runs = grid(tmp_path_factory.mktemp("together"), 3, 3)
    outcomes = train_all(runs, {}, patience=0)
    assert [(name, each.state) for name, each in outcomes.items()] == [(run.name, "finished") for run in runs]
    speeds = {each.cpu_seconds_per_step for each in outcomes.values()}
    assert len(speeds) == 1  # each has its share of one time
    assert all(each.row["step"] == 180 for each in outcomes.values())
    return runs


def spoiled(monkeypatch: pytest.MonkeyPatch, act: Callable[[Any], None]) -> None:
    """``act`` on every run before each of its real steps."""
    collect_step = Group.collect_step

    def step(self: Group[Any], *, random: bool) -> dict[Any, float]:
        for run in self.runs:
            act(run)
        return collect_step(self, random=random)

    monkeypatch.setattr(Group, "collect_step", step)


def lose_numbers(run: Any) -> None:
    if run.config.seed == 1 and run.steps == 150:
        with torch.no_grad():
            next(run.agent.critics.parameters()).fill_(math.nan)


def test_a_run_of_a_task_is_the_one_that_train_gives(together: list[GridRun], tmp_path: Path) -> None:
    """Up to rounding; its draws are the same."""
    run = together[1]
    alone = train(replace(run.config, run_dir=tmp_path / "alone"))
    for here, there in zip(metrics(run), alone.metrics(), strict=True):
        assert here["return"] == pytest.approx(there["return"], rel=1e-2, abs=1e-2)
    ours, theirs = RunDirectory.read(run.config.run_dir).load_checkpoint(), alone.load_checkpoint()
    assert all(map(torch.equal, ours["generators"], theirs["generators"]))


def test_a_run_that_diverges_fails_with_its_own_reason_and_the_others_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = grid(tmp_path, 3, 3)[:2]
    failed: dict[Path, Exception] = {}
    known = []

    def act(run: Any) -> None:
        lose_numbers(run)
        if run.steps == 170:
            known.append(list(failed))

    spoiled(monkeypatch, act)
    outcomes = train_all(runs, failed, patience=0)
    assert [each.state for each in outcomes.values()] == ["finished", "failed"]
    message = outcomes[runs[1].name].message
    assert message.startswith("the training diverged: ")
    assert "nan" in message
    assert outcomes[runs[1].name].row["step"] == 140
    assert known == [[runs[1].config.run_dir]]  # it is told at once
    assert [row["step"] for row in metrics(runs[0])] == EVALUATED


def unreadable(path: Path) -> None:
    for name in (LAST, PREVIOUS):
        (path / name).write_bytes(b"no")


def another_run(path: Path) -> None:
    record = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**record, "width": 9}))


def without_origin(path: Path) -> None:
    (path / "provenance.json").write_text("{")


def held_by_another(path: Path) -> None:
    HELD.append(RunDirectory.resume(replace(RunDirectory.read(path).config, resume=True)))


HELD: list[RunDirectory] = []


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (unreadable, "is damaged"),
        (another_run, "holds another run: it has width=9, the grid asks for 8"),
        (held_by_another, "another process is training in"),
        (without_origin, "provenance.json cannot be read"),
    ],
)
def test_what_is_wrong_with_one_directory_fails_that_run_alone(
    spoil: Callable[[Path], None], told: str, together: list[GridRun], tmp_path: Path
) -> None:
    runs = grid(tmp_path, 3, 3)
    for done, run in zip(together, runs, strict=True):
        shutil.copytree(done.config.run_dir, run.config.run_dir)
        (run.config.run_dir / "COMPLETE").unlink()
    spoil(runs[0].config.run_dir)
    outcomes = train_all(runs, {}, patience=0)
    while HELD:
        HELD.pop().release()
    assert [each.state for each in outcomes.values()] == ["failed", "finished", "finished"]
    assert told in outcomes[runs[0].name].message
    assert metrics(runs[1]) == metrics(together[1])


def test_a_run_that_cannot_be_written_any_more_fails_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = grid(tmp_path, 4, 4, total_steps=110, epoch_steps=10, rollout_interval=10)
    methods = ("append_metrics", "save_checkpoint", "mark_complete")

    def refuse(seed: int, method: str) -> None:
        write_it = getattr(RunDirectory, method)

        def refused(self: RunDirectory, *arguments: Any) -> None:
            said = arguments[0] if arguments else {"step": 110}
            if self.config.seed == seed and 110 in (said.get("step"), said.get("steps")):
                raise OSError(f"{method}: no space left on device")
            write_it(self, *arguments)

        monkeypatch.setattr(RunDirectory, method, refused)

    for seed, method in enumerate(methods):
        refuse(seed, method)
    outcomes = list(train_all(runs, {}, patience=0).values())
    assert [each.state for each in outcomes] == ["failed"] * 3 + ["finished"]
    assert [each.message for each in outcomes[:3]] == [f"{method}: no space left on device" for method in methods]
    assert [(run.config.run_dir / "COMPLETE").exists() for run in runs] == [False] * 3 + [True]


def test_what_is_of_no_run_in_particular_is_told_of_each(tmp_path: Path) -> None:
    runs = grid(tmp_path, 2, 2, env_id="m3po/Nowhere-v0")
    outcomes = train_all(runs, {}, patience=0)
    assert [each.state for each in outcomes.values()] == ["failed", "failed"]
    assert all("unknown environment 'm3po/Nowhere-v0'" in each.message for each in outcomes.values())


def test_runs_that_an_earlier_sweep_packed_otherwise_go_on_together(
    together: list[GridRun], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One is complete, one was stopped on its own within an epoch, and one has not begun."""
    runs = grid(tmp_path, 3, 1)
    shutil.copytree(together[0].config.run_dir, runs[0].config.run_dir)
    before = {file: file.read_bytes() for file in runs[0].config.run_dir.iterdir()}
    with monkeypatch.context() as patch:
        spoiled(patch, lambda run: os.kill(os.getpid(), signal.SIGTERM) if run.steps == 150 else None)
        with pytest.raises(Stopped):
            train_all(runs[1:2], {}, patience=0)
    assert RunDirectory.read(runs[1].config.run_dir).load_checkpoint()["steps"] == 151
    again = grid(tmp_path, 3, 3)
    outcomes = train_all(again, {}, patience=0)
    assert [each.state for each in outcomes.values()] == ["finished"] * 3
    assert {file: file.read_bytes() for file in runs[0].config.run_dir.iterdir()} == before
    assert outcomes[runs[0].name].cpu_seconds_per_step is None
    for run, whole in zip(again[1:], together[1:], strict=True):
        assert [row["step"] for row in metrics(run)] == EVALUATED
        for here, there in zip(metrics(run), metrics(whole), strict=True):
            assert here["return"] == pytest.approx(there["return"], rel=1e-2, abs=1e-2)


def task(
    runs: list[GridRun], out: Path, monkeypatch: pytest.MonkeyPatch, out_id: str | None = None
) -> tuple[dict[str, Outcome], Progress]:
    """``train_task`` in this process, with a Progress that it holds itself."""
    import ray

    monkeypatch.setattr(sys, "argv", sys.argv)
    monkeypatch.setattr(ray, "get", lambda answer, timeout: answer)
    monkeypatch.setattr("m3po.sweeps.worker.node_name", lambda: "here")
    progress = Progress()
    handle = SimpleNamespace(report=SimpleNamespace(remote=progress.report))
    outcomes = train_task(runs, 0, handle, out, out_id or directory_id(out), beat=0.01, silence=30.0, command=["sweep"])
    return outcomes, progress


def test_a_stopped_task_tells_which_runs_had_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = grid(tmp_path, 2, 2)

    def act(run: Any) -> None:
        lose_numbers(run)
        if run.config.seed == 0 and run.steps == 160:
            os.kill(os.getpid(), signal.SIGINT)

    spoiled(monkeypatch, act)
    outcomes, progress = task(runs, tmp_path, monkeypatch)
    assert [each.state for each in outcomes.values()] == ["stopped", "failed"]
    assert "diverged" in outcomes[runs[1].name].message
    assert RunDirectory.read(runs[0].config.run_dir).load_checkpoint()["steps"] == 161
    reports = progress.reports({})
    assert set(reports) == {run.name for run in runs}
    ended = reports[runs[1].name][0].ended
    assert ended is not None
    assert ended.state == "failed"
    assert reports[runs[0].name][0].ended is None


def test_a_task_on_another_file_system_says_so_of_each_of_its_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = grid(tmp_path, 2, 2)
    directory_id(tmp_path)
    outcomes, _ = task(runs, tmp_path, monkeypatch, out_id="another")
    assert [(name, each.state) for name, each in outcomes.items()] == [(run.name, "failed") for run in runs]
    assert all("the nodes need a shared file system" in each.message for each in outcomes.values())
    assert not runs[0].config.run_dir.exists()
