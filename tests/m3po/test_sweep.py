"""Grids and their mistakes; sweeps that skip, resume and refuse; and workers and nodes that are killed half way."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import sys
import tempfile
import threading
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, get_args

import pytest
from ray.cluster_utils import Cluster
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

from m3po.config import Algorithm, Config
from m3po.runs.files import is_held
from m3po.runs.interruption import StopRequest
from m3po.runs.run_directory import RunDirectory
from m3po.sweep import cli
from m3po.sweeps.display import Display
from m3po.sweeps.grid import GridRun, check_environments, expand, read_grid
from m3po.sweeps.ray_cluster import drive
from m3po.sweeps.tracks import Lost, Track
from m3po.sweeps.worker import Lease, Outcome, Progress, RunState, TaskReport, directory_id, ready, state_of, survey
from m3po.train import train, train_seeds
from tests.command_errors import refusal

# Epochs end with the episodes of 100 steps; test_train.py interrupts within both.
TINY = """
total_steps = 500
initial_random_steps = 100
epoch_steps = 100
width = 8
context_size = 4
layers = 1
history_length = 3
ensemble_size = 2
model_batch_size = 32
model_updates = 20
rollouts_per_step = 4
rollout_interval = 20
updates_per_step = 1
batch_size = 16
measure_episodes = 2
evaluation_episodes = 2
"""
GRID = f"seeds = [0, 1, 2]\n{TINY}"
ACTIVITIES = ("model", "acting", "environment", "rollout", "update", "measure", "checkpoint")
TIMES = {"seconds", "checkpoint_bytes", *(f"{name}_seconds" for name in ACTIVITIES)}
OUT = Path("out")
Undisturbed = Callable[[int], list[dict[str, Any]]]
Reports = Mapping[str, TaskReport]


# --- grids ----------------------------------------------------------------------------------------


def write(folder: Path, text: str) -> Path:
    file = folder / "grid.toml"
    file.write_text(text)
    return file


def grid(text: str) -> list[GridRun]:
    return expand(tomllib.loads(text), OUT)


def test_a_grid_is_the_product_of_its_axes_with_the_seeds_outermost() -> None:
    runs = grid(
        """
        seeds = [3, 1]
        algorithms = ["m3po", "m3po-full"]
        [[environments]]
        env_id = "m3po/HalfCheetahPier-v0"
        [[environments]]
        name = "point"
        [[variants]]
        name = "a"
        width = 8
        [[variants]]
        name = "b"
        algorithm = "pearl"
        environments = ["point"]
        """
    )
    per_seed = ["HalfCheetahPier/m3po-a", "HalfCheetahPier/m3po-full-a", "point/m3po-a", "point/m3po-full-a", "point/b"]
    assert [run.name for run in runs] == [f"{each}/seed-{seed}" for seed in (3, 1) for each in per_seed]
    assert [run.config.run_dir for run in runs] == [OUT / run.name for run in runs]
    assert {run.config.seed for run in runs[:5]} == {3}
    assert [run.config.algorithm for run in runs[:5]] == ["m3po", "m3po-full", "m3po", "m3po-full", "pearl"]
    assert [run.config.width for run in runs[:5]] == [8, 8, 8, 8, Config.width]


def test_a_variant_has_the_last_word_then_the_environment_then_the_top() -> None:
    runs = grid(
        """
        seeds = [0]
        width = 10
        layers = 3
        batch_size = 7
        retries = 9
        [[environments]]
        width = 20
        layers = 4
        env_options = { observe_reward = true }
        [[variants]]
        name = "v"
        width = 30
        cpus = 0.5
        """
    )
    config = runs[0].config
    assert (config.width, config.layers, config.batch_size) == (30, 4, 7)
    assert config.environment_options() == {"observe_reward": True}
    assert (runs[0].cpus, runs[0].gpus, runs[0].retries) == (0.5, 0.0, 9)


def test_a_preset_is_below_everything_that_is_said_and_knows_the_algorithm() -> None:
    runs = grid(
        """
        seeds = [0]
        preset = "cheetah"
        width = 10
        [[variants]]
        name = "a"
        [[variants]]
        name = "l2a"
        algorithm = "grbal"
        updates_per_step = 3
        """
    )
    assert [run.name for run in runs] == ["HalfCheetahFwdBwd/a/seed-0", "HalfCheetahFwdBwd/l2a/seed-0"]
    first, second = (run.config for run in runs)
    assert first == Config.preset("cheetah", run_dir=OUT / runs[0].name, width=10, device="cpu")
    assert (second.width, second.updates_per_step, second.epoch_steps) == (10, 3, 9500)


def test_a_run_is_exactly_what_its_settings_say() -> None:
    (run,) = grid("seeds = [5]\ndiscount = 0\nthreads = 2")
    expected = Config(OUT / "SwitchingPointMass/m3po/seed-5", seed=5, discount=0.0, threads=2, device="cpu")
    assert run == GridRun(run.name, expected, 2.0, 0.0, 3)
    # Checkpoints carry a digest of the settings as JSON, where 0 and 0.0 are two things.
    assert json.dumps(run.config.discount) == "0.0"


@pytest.mark.parametrize(
    ("resources", "device"), [("", "cpu"), ("gpus = 0.5", "cuda"), ('device = "cuda"\ngpus = 2', "cuda")]
)
def test_the_device_follows_from_the_gpus_asked_for_and_not_from_the_node(resources: str, device: str) -> None:
    assert grid(f"seeds = [0]\n{resources}")[0].config.device == device


MISTAKES = {
    'seeds = [0]\npreset = "big"': "preset must be one of demo, cheetah, paper, got big",
    "seeds = [0]\npreset = 3": "preset must be one of demo, cheetah, paper, got 3",
    "width = 3": "seeds must be a list of whole numbers, such as [0, 1, 2], got None",
    "seeds = []": "seeds must be a list of whole numbers, such as [0, 1, 2], got []",
    "seeds = [0.5]": "seeds must be a list of whole numbers",
    "seeds = [true]": "seeds must be a list of whole numbers",
    "seeds = [1, 2, 1]": "seeds has 1 twice",
    "seeds = [-1]": "SwitchingPointMass/m3po/seed--1: --seed must be >= 0, got -1",
    "seeds = [0]\nrollout_lenght = 3": "top level: unknown setting rollout_lenght, did you mean rollout_length?",
    "seeds = [0]\nvariant = 3": "top level: unknown setting variant, did you mean variants?",
    "seeds = [0]\n[[environments]]\nname = 'sweep_id'": "the name 'sweep_id' is that of a file of the sweep itself",
    "seeds = [0]\n[[environments]]\nname = 'Sweep_ID.0'": "the name 'Sweep_ID.0' is that of a file of the sweep itself",
    "seeds = [0]\nrun_dir = 'x'": "top level: run_dir cannot be set here: the sweep names the run directories",
    "seeds = [0]\nresume = true": "resume cannot be set here: the sweep resumes what is unfinished",
    "seeds = [0]\nseed = 1": "seed cannot be set here: write seeds = [...] at the top",
    "seeds = [0]\nwidth = 3.5": "top level: width must be a whole number, got 3.5",
    "seeds = [0]\nwidth = true": "top level: width must be a whole number, got True",
    "seeds = [0]\ndiscount = 'x'": "top level: discount must be a number, got 'x'",
    "seeds = [0]\ncuda_graphs = 1": "top level: cuda_graphs must be true or false, got 1",
    "seeds = [0]\nenv_id = 1": "env_id must be a string, got 1",
    "seeds = [0]\nelites = 'all'": "top level: elites must be a whole number, got 'all'",
    "seeds = [0]\nelites = 9": "seed-0: --elites must be in 1..5 (--ensemble-size), got 9",
    "seeds = [0]\nalgorithm = 'mpo'": "top level: algorithm must be one of m3po, m3po-h, m3po-full",
    "seeds = [0]\nalgorithms = ['mpo']": "algorithms: algorithm must be one of m3po, ",
    "seeds = [0]\nalgorithms = []": "algorithms must be a list of names, got []",
    "seeds = [0]\nalgorithms = ['m3po', 'm3po']": "algorithms has 'm3po' twice",
    "seeds = [0]\nalgorithm = 'm3po'\nalgorithms = ['m3po']": "say either algorithm or algorithms",
    "seeds = [0]\nvariants = 3": "variants must be tables, each under [[variants]]",
    "seeds = [0]\n[variants]\nname = 'k'": "variants must be tables, each under [[variants]]",
    "seeds = [0]\n[[variants]]\nwidth = 3": "[[variants]]: each needs a name",
    "seeds = [0]\n[[variants]]\nname = '../x'": "(it becomes a folder), got '../x'",
    "seeds = [0]\n[[variants]]\nname = 'a'\nnmae = 1": "[[variants]] 'a': unknown setting nmae, did you mean name?",
    "seeds = [0]\n[[variants]]\nname = 'a'\n[[variants]]\nname = 'a'": "[[variants]]: name has 'a' twice",
    "seeds = [0]\n[[variants]]\nname = 'a'\nenvironments = ['b']": "there is no environment 'b', only Switching",
    "seeds = [0]\n[[variants]]\nname = 'a'\nenvironments = 'b'": "environments must be a list of names, got 'b'",
    "seeds = [0]\n[[variants]]\nname = 'a'\n[[variants]]\nname = 'b'": (
        "SwitchingPointMass/a/seed-0 and SwitchingPointMass/b/seed-0 are the same training"
    ),
    "seeds = [0]\n[[environments]]\n[[environments]]": "[[environments]]: name has 'SwitchingPointMass' twice",
    "seeds = [0]\n[[environments]]\nenv_options = { a = 1979-05-27 }": "env_options must be what JSON can say",
    "seeds = [0]\nenv_options = '['": "--env-options must be a JSON object, got [",
    "seeds = [0]\nwidth = 0": "SwitchingPointMass/m3po/seed-0: --width must be >= 1, got 0",
    "seeds = [0]\ncpus = -1": "cpus must be a finite number >= 0, got -1",
    "seeds = [0]\ngpus = nan": "gpus must be a finite number >= 0, got nan",
    "seeds = [0]\ngpus = 1.5": "gpus must be a whole number or a share below 1, got 1.5",
    "seeds = [0]\nseeds_per_task = 0": "SwitchingPointMass/m3po/seed-0: seeds_per_task must be >= 1, got 0",
    "seeds = [0]\nseeds_per_task = 2.0": "top level: seeds_per_task must be a whole number, got 2.0",
    "seeds = [0]\nseeds_per_task = true": "top level: seeds_per_task must be a whole number, got True",
    "seeds = [0]\n[[variants]]\nname = 'a'\nseeds_per_task = -1": "SwitchingPointMass/a/seed-0: seeds_per_task must be",
    "seeds = [0]\nseed_per_task = 2": "unknown setting seed_per_task, did you mean seeds_per_task?",
    "seeds = [0]\nretries = -1": "retries must be a finite number >= 0, got -1",
    "seeds = [0]\ndevice = 'cuda'": "device is cuda and gpus is 0",
    "seeds = [0]\ndevice = 'cpu'\ngpus = 1": "gpus is 1 and device is cpu",
}


@pytest.mark.parametrize("text", MISTAKES)
def test_a_mistake_in_a_grid_is_named(text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(MISTAKES[text])):
        grid(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seeds = [0", "is not TOML"),
        ("seeds = " + "[" * 10**5, "is not TOML"),
        ("\ufeffseeds = [0]\nwidth = 0", "--width must be >= 1, got 0"),
        (f"seeds = [0]\ndiscount = {10**400}", "discount must be a number, got 1000"),
        ("seeds = [0]\ndiscount = nan", "--discount must be in [0, 1), got nan"),
        (f"seeds = [{2**64}]", f"--seed must be <= {2**63 - 2}, got {2**64}"),
        ("seeds = [0]\nenv_options = { when = 2026-01-01 }", "env_options must be what JSON can say"),
        ("seeds = [0]\nwidth = 0", "--width must be >= 1, got 0"),
        ("seeds = [0]\nenv_id = 'm3po/Nowhere-v0'", "unknown environment 'm3po/Nowhere-v0'"),
        (
            "seeds = [0]\nenv_options = { wind = 3 }",
            "SwitchingPointMass/m3po/seed-0: m3po/SwitchingPointMass-v0 does not",
        ),
    ],
)
def test_the_command_line_says_so_in_one_line_and_makes_nothing(
    text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in refusal(cli, [write(tmp_path, text), "--out", tmp_path / "out"], capsys)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--address", "here"], "--address must be local, auto, HOST:PORT or ray://HOST:PORT, got here"),
        (["--address", "auto", "--cpus", "2"], "--cpus is for --address local"),
        (["--cpus", "0"], "--cpus must be >= 1, got 0"),
        (["--address", "ray://a:1"], "needs --out, an absolute path on the cluster, got None"),
        (["--address", "ray://a:1", "--out", "runs"], "needs --out, an absolute path on the cluster, got runs"),
        (["--silence", "0.5"], "--silence must be a finite number >= 1, got 0.5"),
        (["--list", "--seconds-per-step", "0"], "--seconds-per-step must be a finite number > 0, got 0"),
        (["--seconds-per-step", "1"], "--seconds-per-step goes with --list"),
        (["--only", "*/none/*"], "--only */none/* fits no run of"),
    ],
)
def test_a_wrong_flag_is_named_in_one_line(
    flags: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        cli([str(write(tmp_path, GRID)), *flags])
    error = capsys.readouterr().err
    assert (stop.value.code, error.count("\n")) == (2, 1)
    assert message in error


def test_without_ray_one_line_tells_what_to_install(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(SystemExit) as stop:
        cli([str(write(tmp_path, GRID)), "--out", str(tmp_path / "out")])
    assert stop.value.code == 2
    assert capsys.readouterr().err == "error: this needs ray: pip install 'm3po-guarantees[cluster]'\n"
    assert not (tmp_path / "out").exists()


def test_a_listing_counts_what_a_grid_costs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = (
        'seeds = [0, 1]\n[[variants]]\nname = "a"\ncpus = 2\n[[variants]]\nname = "b"\ntotal_steps = 3000\ngpus = 0.5'
    )
    words = [str(write(tmp_path, text)), "--out", str(tmp_path / "out"), "--list", "--seconds-per-step", "0.36"]
    with pytest.raises(SystemExit) as stop:
        cli([*words, "--json"])
    record = json.loads(capsys.readouterr().out)
    assert stop.value.code == 0
    # a: 7,000 steps take 0.7 h on two CPUs; b: 3,000 steps take 0.3 h on one, and half a GPU.
    assert (record["runs"], record["steps"]) == (4, 20_000)
    hours = {"run_hours": 2.0, "cpu_hours": 3.4, "gpu_hours": 0.3, "longest_run_hours": 0.7}
    assert {name: record[name] for name in hours} == pytest.approx(hours)
    names = [f"SwitchingPointMass/{each}" for each in ("a/seed-0", "b/seed-0", "a/seed-1", "b/seed-1")]
    assert [each["run"] for each in record["list"]] == names
    assert Config(**{**record["list"][1]["config"], "run_dir": Path()}).total_steps == 3000
    with pytest.raises(SystemExit):
        cli([*words, "--only", "*/b/*"])
    *lines, packing, last = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["run", names[1], names[3]]
    assert packing.startswith("each run is a task of its own; seeds_per_task = 2 makes 1 tasks of them")
    assert last.startswith("2 runs, 6,000 real steps; at 0.36 s a step 1 run-hours (1 CPU-hours, 0 GPU-hours)")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "file", sorted((Path(__file__).parents[2] / "sweeps").glob("*.toml")), ids=lambda file: file.name
)
def test_the_grids_that_come_along_expand(file: Path) -> None:
    runs = read_grid(file, OUT)
    check_environments(runs)
    assert len(runs) == len({run.name for run in runs}) > 1


def test_the_papers_protocol_is_six_environments_six_seeds_and_all_algorithms() -> None:
    runs = read_grid(Path(__file__).parents[2] / "sweeps" / "paper.toml", OUT)
    assert {run.config.total_steps for run in runs} == {200_000}
    assert {run.config.seed for run in runs} == set(range(6))
    assert {run.config.evaluation_episodes for run in runs} == {50}
    # "at every 5000 training samples for L2A and 1000 training samples for the other methods"
    assert all(run.config.epoch_steps == (5000 if run.config.algorithm == "grbal" else 1000) for run in runs)
    environments = {run.config.env_id for run in runs}
    names = (
        "HalfCheetahFwdBwd",
        "HalfCheetahPier",
        "AntFwdBwd",
        "AntCrippledLeg",
        "Walker2dRandomParams",
        "HumanoidDirec",
    )
    assert environments == {f"m3po/{name}-v0" for name in names}
    for env_id in environments:
        assert {run.config.algorithm for run in runs if run.config.env_id == env_id} == set(get_args(Algorithm))


# --- run directories ------------------------------------------------------------------------------


def a_run(folder: Path, **changes: Any) -> GridRun:
    (run,) = expand({**tomllib.loads(TINY), "seeds": [0], "total_steps": 100, **changes}, folder)
    return run


def test_a_survey_tells_new_unfinished_and_finished_runs_apart(tmp_path: Path) -> None:
    run = a_run(tmp_path)
    assert survey([run], tmp_path, patience=0)[1] == [RunState("new")]
    directory = RunDirectory.create(run.config)
    directory.append_metrics({"step": 0, "return": 1.5})
    with pytest.raises(ValueError, match=re.escape(f"another process is training in {run.config.run_dir}")):
        survey([run], tmp_path, patience=0)
    directory.release()
    assert survey([run], tmp_path, patience=0)[1] == [RunState("unfinished", {"step": 0, "return": 1.5})]
    assert ready(run.config, patience=0) == replace(run.config, resume=True)
    directory.mark_complete()
    assert survey([run], tmp_path, patience=0)[1] == [RunState("finished", {"step": 0, "return": 1.5})]


def test_what_is_not_this_run_is_refused(tmp_path: Path) -> None:
    run = a_run(tmp_path)
    RunDirectory.create(replace(run.config, width=9)).release()
    with pytest.raises(ValueError, match=r"seed-0 holds another run: it has width=9, the grid asks for 8"):
        survey([run], tmp_path, patience=0)
    other = a_run(tmp_path / "other")
    other.config.run_dir.mkdir(parents=True)
    (other.config.run_dir / "notes.txt").write_text("")
    with pytest.raises(ValueError, match=r"is not a run directory: it has no config\.json"):
        survey([other], tmp_path, patience=0)


def test_a_foreign_run_anywhere_in_the_grid_stops_the_sweep_before_it_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    last = read_grid(write(tmp_path, GRID), out)[-1]
    RunDirectory.create(replace(last.config, batch_size=17)).release()
    with pytest.raises(SystemExit) as stop:
        cli([str(tmp_path / "grid.toml"), "--out", str(out)])
    assert stop.value.code == 2
    assert "seed-2 holds another run: it has batch_size=17, the grid asks for 16" in capsys.readouterr().err
    assert sorted(path.name for path in out.glob("*/*/*")) == ["seed-2"]


def test_a_run_killed_before_its_settings_were_written_begins_anew(tmp_path: Path) -> None:
    run = a_run(tmp_path)
    run.config.run_dir.mkdir(parents=True)
    for name in ("lock", "provenance.json", "config.json.partial"):
        (run.config.run_dir / name).write_text("[")
    assert state_of(run.config).state == "new"
    assert ready(run.config, patience=0) == run.config
    RunDirectory.create(run.config).release()


def test_a_retry_waits_for_the_lock_of_a_dying_worker(tmp_path: Path) -> None:
    run = a_run(tmp_path)
    directory = RunDirectory.create(run.config)
    assert is_held(run.config.run_dir)
    with pytest.raises(ValueError, match="another process is training in"):
        ready(run.config, patience=0.1)
    threading.Timer(0.5, directory.release).start()
    began = time.monotonic()
    assert ready(run.config, patience=60).resume
    assert time.monotonic() - began > 0.4
    assert not is_held(run.config.run_dir)


def test_a_directory_keeps_its_id_and_another_has_another(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    assert directory_id(tmp_path) == directory_id(tmp_path) != directory_id(tmp_path / "other")
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["sweep_id"]


# --- leases and retries, without Ray --------------------------------------------------------------


def test_the_sweep_no_longer_wants_an_attempt_that_was_given_up() -> None:
    progress = Progress()
    first, second = TaskReport(0, "a", step=5), TaskReport(1, "b", step=9)
    assert progress.report({"run": first})
    assert progress.reports({"run": 0})["run"][0] == first
    progress.reports({"run": 1})
    assert not progress.report({"run": replace(first, step=7)})
    assert progress.reports({"run": 1})["run"][0] == first
    assert progress.report({"run": second})
    report, quiet = progress.reports({"run": 1})["run"]
    assert report == second
    assert 0 <= quiet < 5


def lease(answers: Callable[[Reports, float], bool | None], silence: float) -> tuple[Lease, threading.Event]:
    left = threading.Event()
    made = Lease(answers, lambda: {"run": TaskReport(0, "node")}, beat=0.02, silence=silence, leave=left.set)
    return made, left


def test_a_worker_that_is_no_longer_wanted_ends_itself() -> None:
    answers = iter([True, None, True])
    keeping, left = lease(lambda report, timeout: next(answers, False), silence=60)
    with keeping:
        assert left.wait(10)


def test_a_worker_that_cannot_reach_the_sweep_ends_itself_before_its_run_is_taken_up() -> None:
    """Its clock starts when it sends, the sweep's when the report comes: it has left when that one counts so far."""
    progress, reached = Progress(), True
    timeouts = []

    def report(each: Reports, timeout: float) -> bool | None:
        timeouts.append(timeout)
        return progress.report(each) if reached else None

    keeping, left = lease(report, silence=0.5)
    with keeping:
        time.sleep(0.7)
        assert not left.is_set()
        reached = False
        assert left.wait(10)
        _, quiet = progress.reports({"run": 0})["run"]
        assert 0.3 < quiet < 0.6
        assert max(timeouts) <= 0.5


def test_an_answer_that_comes_too_late_counts_as_none() -> None:
    calls = []

    def report(each: Reports, timeout: float) -> bool | None:
        calls.append(timeout)
        if len(calls) > 1:
            time.sleep(0.4)
        return True

    keeping, left = lease(report, silence=0.3)
    with keeping:
        assert left.wait(10)
    assert len(calls) == 2


class FakeCluster:
    """Tasks end as ``script`` says: the names of their runs, with + between them -> one entry per attempt. Time passes
    only in ``wait``.

    An entry is an Outcome or one of each run, "endless", "crash" for a dead worker, or for a lost node the time of the
    last checkpoint. ``said``: what else a run's report says, by name and attempt.
    """

    def __init__(
        self,
        script: Mapping[str, Any],
        stop: StopRequest | None = None,
        said: Mapping[tuple[str, int], Mapping[str, Any]] | None = None,
    ) -> None:
        self.script, self.stop, self.said, self.now = script, stop, said or {}, 0.0
        self.log: list[Any] = []
        self.listened: dict[str, int] = {}
        self.words: dict[str, tuple[TaskReport, float]] = {}

    def submit(self, runs: Sequence[GridRun], attempt: int) -> tuple[str, int]:
        names = "+".join(run.name for run in runs)
        entry = self.script[names][attempt]
        said = TaskReport(attempt, "node", saved=entry if isinstance(entry, int) else 0)
        for run in runs:
            assert self.listened[run.name] == attempt, "the sweep must know an attempt before it can report"
            self.words[run.name] = (replace(said, **self.said.get((run.name, attempt), {})), self.now)
        self.log.append((names, attempt, self.now))
        return names, attempt

    def wait(self, tasks: Sequence[Any], timeout: float) -> list[Any]:
        self.now += timeout
        if self.stop is not None and self.now > 2:
            self.stop.number = signal.SIGINT
        return [(name, attempt) for name, attempt in tasks if self.script[name][attempt] != "endless"]

    def collect(self, task: tuple[str, int]) -> Mapping[str, Outcome] | Outcome | Lost:
        entry: Any = self.script[task[0]][task[1]]
        if isinstance(entry, Outcome | dict):
            return entry
        return Lost("WorkerCrashedError", True) if entry == "crash" else Lost("NodeDiedError", False)

    def cancel(self, task: tuple[str, int]) -> None:
        self.log.append(("cancel", task))
        self.script = {**self.script, task[0]: [Outcome("stopped", {"step": 7})] * 9}

    def reports(self, current: Mapping[str, int]) -> Mapping[str, tuple[TaskReport, float]] | None:
        if 1 < self.now < 2:
            return None
        self.listened = dict(current)
        return {name: (report, self.now - at) for name, (report, at) in self.words.items()}


DONE = Outcome("finished", {"step": 500, "return": 3.0})


def driven(script: Mapping[str, Any], *, retries: int = 2, stop: bool = False) -> tuple[list[Track], FakeCluster]:
    base = a_run(OUT)
    tracks = [Track(replace(base, name=name, retries=retries)) for name in script]
    request = StopRequest()
    cluster = FakeCluster(script, request if stop else None)
    drive(tracks, cluster, request, Display(tracks), silence=10.0)
    return tracks, cluster


def test_a_run_of_a_lost_node_is_taken_up_when_its_last_word_is_old_enough_and_of_a_dead_worker_at_once() -> None:
    tracks, cluster = driven({"lost": [1, DONE], "other": [DONE], "crashed": ["crash", DONE]})
    assert [(track.state, track.attempt) for track in tracks] == [("finished", 1), ("finished", 0), ("finished", 1)]
    (_, crashed) = [entry for entry in cluster.log if entry[0] == "crashed"]
    assert crashed[1] == 1
    assert crashed[2] <= 2.5
    (first, second) = [entry for entry in cluster.log if entry[0] == "lost"]
    assert first == ("lost", 0, 0.0)
    assert second[:2] == ("lost", 1)
    assert 10 <= second[2] <= 11.5
    assert tracks[0].row == DONE.row


def test_losses_count_only_in_a_row_without_a_new_checkpoint() -> None:
    (track,), cluster = driven({"run": [1, 2, 3, 4, 5, DONE]}, retries=1)
    assert (track.state, track.attempt) == ("finished", 5)
    (track,), cluster = driven({"run": [1, 1, 1, 1, DONE]}, retries=2)
    assert track.state == "failed"
    assert track.message == "lost 3 times in a row without a new checkpoint; the last time NodeDiedError"
    assert len(cluster.log) == 3
    (track,), cluster = driven({"run": [1, DONE]}, retries=0)
    assert (track.state, len(cluster.log)) == ("failed", 1)


def test_a_run_that_fails_by_itself_is_not_tried_again_and_the_others_go_on() -> None:
    tracks, _ = driven({"bad": [Outcome("failed", {"step": 3}, "the training diverged")], "good": [DONE]})
    assert [(track.state, track.attempt) for track in tracks] == [("failed", 0), ("finished", 0)]
    assert tracks[0].message == "the training diverged"


def test_a_request_to_stop_cancels_every_task_once_and_starts_nothing_new() -> None:
    tracks, cluster = driven({"lost": [1, DONE], "endless": ["endless"], "done": [DONE]}, stop=True)
    assert [track.state for track in tracks] == ["stopped", "stopped", "finished"]
    assert cluster.log[3:] == [("cancel", ("endless", 0))]
    assert tracks[1].last == (7, None)


@pytest.mark.parametrize(
    ("numbers", "code", "told"),
    [
        ([signal.SIGINT], 130, "stopped with 0 of 1"),
        ([signal.SIGTERM], 143, "stopped with 0 of 1"),
        ([signal.SIGHUP], 129, "stopped with 0 of 1"),
        ([signal.SIGINT, signal.SIGTERM], 143, "interrupted"),
        ([signal.SIGTERM, signal.SIGINT], 130, "interrupted"),
    ],
)
def test_a_stopped_sweep_says_by_which_signal(
    numbers: list[signal.Signals], code: int, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    (run,) = read_grid(write(tmp_path, f"seeds = [0]\n{TINY}"), tmp_path / "out")

    class Signalled(FakeCluster):
        def close(self) -> None:
            pass

        def unmet(self, runs: Sequence[GridRun]) -> list[GridRun]:
            return []

        def wait(self, tasks: Sequence[Any], timeout: float) -> list[Any]:
            while numbers:
                signal.raise_signal(numbers.pop(0))
            return super().wait(tasks, timeout)

    # A shell lets the commands that it starts in the background ignore SIGINT, and then so does the sweep.
    before = {number: signal.signal(number, signal.default_int_handler) for number in numbers}
    monkeypatch.setattr("m3po.sweep.import_ray", lambda: None)
    monkeypatch.setattr("m3po.sweep.RayCluster", lambda config, ray: Signalled({run.name: ["endless"]}))
    with pytest.raises(SystemExit) as stop:
        cli([str(tmp_path / "grid.toml"), "--out", str(tmp_path / "out")])
    for number, handler in before.items():
        signal.signal(number, handler)
    assert stop.value.code == code
    assert told in capsys.readouterr().err


# --- on Ray ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A head with one CPU, which notices dead nodes sooner than after Ray's 15 seconds."""
    # A folder of its own: a cluster that this machine belongs to otherwise keeps its address where ours would be put.
    # Ray writes the address below RAY_TMPDIR whatever temp_dir says, into a folder that only its default makes.
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp") as folder:
        patch.setenv("RAY_TMPDIR", folder)
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_AUTH_MODE", "disabled")  # else it depends on whether the user has a token of Ray's
        settings = {"health_check_period_ms": 500, "health_check_failure_threshold": 4, "worker_niceness": 0}
        arguments = {"num_cpus": 1, "object_store_memory": 80 * 2**20, "_system_config": settings}
        started = Cluster(initialize_head=True, head_node_args=arguments)
        yield started
        started.shutdown()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    """The metrics of a run of GRID, by its seed, trained in this process when they are first asked for."""
    folder = tmp_path_factory.mktemp("undisturbed")
    runs = read_grid(write(folder, GRID), folder / "out")

    @cache
    def rows(seed: int) -> list[dict[str, Any]]:
        train(runs[seed].config)
        return metrics(runs[seed])

    return rows


def metrics(run: GridRun) -> list[dict[str, Any]]:
    """Without what depends on the clock."""
    rows = RunDirectory.read(run.config.run_dir).metrics()
    return [{name: value for name, value in row.items() if name not in TIMES} for row in rows]


def wait_for(condition: Callable[[], Any], what: str, seconds: float = 400) -> Any:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        answer = condition()
        if answer:
            return answer
        time.sleep(0.02)
    raise AssertionError(f"waited in vain for {what}")


def trainer_of(run: GridRun) -> int | None:
    """The process that holds the lock of a run."""
    lock = run.config.run_dir / "lock"
    for descriptor in Path("/proc").glob("[0-9]*/fd/*"):
        with contextlib.suppress(OSError):
            if descriptor.readlink() == lock:
                return int(descriptor.parts[2])
    return None


def parent_of(process: int) -> int:
    return int(Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[1])


def half_way(run: GridRun) -> bool:
    """Some checkpoints are there and more are to come."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        return 200 <= int(RunDirectory.read(run.config.run_dir).metrics()[-1]["step"]) <= 300
    return False


def checkpoint_step(run: GridRun) -> int:
    return int(RunDirectory.read(run.config.run_dir).load_checkpoint()["steps"])


def begin(arguments: Sequence[str]) -> tuple[threading.Thread, list[Any]]:
    """The command line beside the test; its exit code is put into the list."""
    codes: list[Any] = []

    def call() -> None:
        try:
            cli(arguments)
        except SystemExit as stop:
            codes.append(stop.code)

    thread = threading.Thread(target=call)
    thread.start()
    return thread, codes


def sessions(run: GridRun) -> list[list[int]]:
    """The steps at which each session of a run evaluated, from TensorBoard's events, which are never taken back."""
    steps = []
    for file in sorted(run.config.run_dir.glob("events.*")):
        events = EventFileLoader(str(file)).Load()
        steps.append(sorted({event.step for event in events if event.HasField("summary")}))
    assert len(steps) == len(RunDirectory.read(run.config.run_dir).provenance())
    return steps


EVALUATED = [0, 200, 300, 400, 500]


def assert_resumed_once(run: GridRun, kept: int) -> None:
    """Its second session began at the checkpoint of step ``kept``: nothing was trained twice but what was lost."""
    first, second = sessions(run)
    assert second == [step for step in EVALUATED if step > kept]
    assert set(first) >= {step for step in EVALUATED if step <= kept}


def test_a_run_whose_worker_is_killed_goes_on_and_finished_runs_are_skipped(
    tmp_path: Path, cluster: Cluster, undisturbed: Undisturbed, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    run, *_ = read_grid(write(tmp_path, GRID), out)
    words = [str(tmp_path / "grid.toml"), "--out", str(out), "--address", cluster.address]
    thread, codes = begin([*words, "--only", "*/seed-0"])
    worker = wait_for(lambda: half_way(run) and trainer_of(run), "the run to be half way")
    os.kill(worker, signal.SIGKILL)
    wait_for(lambda: trainer_of(run) is None, "the worker to die")
    kept = checkpoint_step(run)
    thread.join()
    printed = capfd.readouterr()
    assert codes == [0]
    assert f"{run.name}: lost, " in printed.err
    assert "(WorkerCrashedError)" in printed.err
    table = printed.out.splitlines()
    assert [line.split()[0] for line in table[:2]] == ["run", run.name]
    assert table[1].split()[1:3] == ["finished", "500/500"]
    assert table[1].split()[-1] == "1"  # restarts
    assert len(table) == 3
    assert metrics(run) == undisturbed(0)
    assert_resumed_once(run, kept)
    assert [each["argv"] for each in RunDirectory.read(run.config.run_dir).provenance()] == [sys.argv] * 2

    # Finished, so there is nothing to start, not even Ray.
    with pytest.raises(SystemExit) as stop:
        cli([*words, "--only", "*/seed-0", "--json"])
    record = json.loads(capfd.readouterr().out)
    assert (stop.value.code, record["finished"], record["runs"][0]["state"]) == (0, 1, "finished")
    assert record["runs"][0]["return"] == undisturbed(0)[-1]["return"]
    assert len(sessions(run)) == 2


def test_seeds_of_one_task_are_those_that_one_command_trains(
    tmp_path: Path, cluster: Cluster, capfd: pytest.CaptureFixture[str]
) -> None:
    text = TINY.replace("500", "140").replace("epoch_steps = 100", "epoch_steps = 40")
    runs = read_grid(write(tmp_path, f"seeds = [2, 0]\nseeds_per_task = 2\n{text}"), tmp_path / "out")
    together = train_seeds(replace(runs[0].config, run_dir=tmp_path / "together", seeds=(2, 0)))
    with pytest.raises(SystemExit) as stop:
        cli([str(tmp_path / "grid.toml"), "--out", str(tmp_path / "out"), "--address", cluster.address, "--json"])
    printed = capfd.readouterr()
    assert stop.value.code == 0
    assert "1 tasks for 2 runs" in printed.err
    for run, directory in zip(runs, together, strict=True):
        assert metrics(run) == metrics(replace(run, config=directory.config))
    entries = json.loads(printed.out)["runs"]
    assert [(each["run"], each["state"]) for each in entries] == [(run.name, "finished") for run in runs]
    assert len({each["cpu_seconds_per_step"] for each in entries}) == 1  # of one process


@pytest.mark.slow
def test_ctrl_c_leaves_checkpoints_and_the_same_command_goes_on(
    tmp_path: Path, cluster: Cluster, capfd: pytest.CaptureFixture[str]
) -> None:
    # Long enough to be under way still when the sweep comes to hear of the signal, on a fast machine too.
    long_grid = write(tmp_path, GRID.replace("total_steps = 500", "total_steps = 1000"))
    (alone, *_) = read_grid(long_grid, tmp_path / "alone")
    train(alone.config)
    out = tmp_path / "out"
    runs = read_grid(long_grid, out)[:2]
    words = [str(tmp_path / "grid.toml"), "--out", str(out), "--address", cluster.address, "--only", "*/seed-[01]"]

    def interrupt() -> None:
        wait_for(lambda: half_way(runs[0]), "the first run to be half way")
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    # A shell lets the commands that it starts in the background ignore SIGINT, and then so does the sweep.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        thread.start()
        with pytest.raises(SystemExit) as stop:
            cli([*words, "--json"])
        thread.join()
    finally:
        signal.signal(signal.SIGINT, before)
    printed = capfd.readouterr()
    assert stop.value.code == 130
    record = json.loads(printed.out)
    assert [each["state"] for each in record["runs"]] == ["stopped", "stopped"]
    assert "the same command goes on" in printed.err
    assert not runs[1].config.run_dir.exists()
    kept = checkpoint_step(runs[0])
    assert 200 <= kept < 1000
    words[-1] = "*/seed-0"
    with pytest.raises(SystemExit) as stop:
        cli([*words, "--json"])
    printed = capfd.readouterr()
    assert stop.value.code == 0
    assert [each["restarts"] for each in json.loads(printed.out)["runs"]] == [0]
    assert "1 waiting, of these 1 to resume" in printed.err
    assert metrics(runs[0]) == metrics(alone)
    assert len(sessions(runs[0])) == 2


@pytest.mark.slow
def test_a_sweep_survives_the_death_of_one_of_two_nodes(
    tmp_path: Path, cluster: Cluster, undisturbed: Undisturbed, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    runs = read_grid(write(tmp_path, GRID), out)
    node = cluster.add_node(num_cpus=1, object_store_memory=80 * 2**20)
    raylet = node.all_processes["raylet"][0].process.pid
    words = [str(tmp_path / "grid.toml"), "--out", str(out), "--address", cluster.address, "--silence", "15", "--json"]
    thread, codes = begin(words)

    def victim_half_way() -> GridRun | None:
        for run in runs:
            worker = half_way(run) and trainer_of(run)
            if worker and parent_of(worker) == raylet:
                return run
        return None

    victim = wait_for(victim_half_way, "a run on the second node to be half way")
    cluster.remove_node(node, allow_graceful=False)
    wait_for(lambda: trainer_of(victim) is None, "the worker of the dead node to die")
    kept = checkpoint_step(victim)
    thread.join()
    printed = capfd.readouterr()
    assert codes == [0]
    record = json.loads(printed.out)
    assert record["finished"] == len(runs) == 3
    assert {each["run"]: each["restarts"] for each in record["runs"]} == {run.name: int(run == victim) for run in runs}
    assert [metrics(run) for run in runs] == [undisturbed(seed) for seed in range(3)]
    assert [each["return"] for each in record["runs"]] == [undisturbed(seed)[-1]["return"] for seed in range(3)]
    for run in runs:
        assert RunDirectory.read(run.config.run_dir).complete
        if run == victim:
            assert_resumed_once(run, kept)
        else:
            assert sessions(run) == [EVALUATED]
