"""At no file-system event of a training is its last sound checkpoint lost, or the directory left beyond use."""

from __future__ import annotations

import gc
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from m3po import train
from m3po.config import Config
from m3po.runs.checkpoints import LAST, PREVIOUS
from m3po.runs.run_directory import RunDirectory, unborn
from tests.faults import KINDS, Disk, KilledError

# Of the lock of a process that was killed: it cannot even let go.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


class Counting:
    """A training that only counts its steps, and its group: all that a run directory sees of them."""

    def __init__(self, config: Config) -> None:
        self.config, self.device = config, torch.device("cpu")
        self.steps, self.measured_at = 0, -1

    @property
    def finished(self) -> bool:
        return self.measured_at == self.config.total_steps

    def measure(self) -> dict[str, float]:
        return {"return": float(self.steps), "return_standard_error": 0.5}

    @staticmethod
    def side_by_side(runs: list[Counting]) -> Counting:
        (run,) = runs
        return run

    @property
    def runs(self) -> list[Counting]:
        return [self]

    failed: ClassVar[dict[Counting, Exception]] = {}

    def advance(self) -> dict[Counting, dict[str, Any]]:
        self.steps += 1
        if self.steps % 2:
            return {}
        self.measured_at = self.steps
        return {self: {"step": self.steps, **self.measure()}}

    def state(self) -> dict[str, Any]:
        return {"steps": self.steps, "measured_at": self.measured_at, "weights": torch.arange(64.0) + self.steps}

    def load_state(self, state: dict[str, Any]) -> None:
        assert torch.equal(state["weights"], torch.arange(64.0) + state["steps"])
        self.steps, self.measured_at = state["steps"], state["measured_at"]

    new_generator = False

    @property
    def collection(self) -> Counting:
        return self

    def resume_episode(self) -> bool:
        return True


class StopError(Exception):
    """In the middle of a training."""


@pytest.fixture(autouse=True)
def _only_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """No environment, no git, and no bar: what is left is the run directory."""
    monkeypatch.setattr(train, "training_of", Counting)
    monkeypatch.setattr(train, "try_environment", lambda _: None)
    monkeypatch.setattr(
        "m3po.runs.run_directory.provenance", lambda argv: {"commit": "abc", "dirty": False, "argv": argv}
    )
    monkeypatch.setenv("TQDM_DISABLE", "1")


def config(path: Path, **changes: Any) -> Config:
    # A checkpoint after every step.
    return Config(run_dir=path, total_steps=4, initial_random_steps=1, checkpoint_minutes=1e-9, **changes)


def sound(path: Path) -> int:
    """How many checkpoints can be gone on from."""
    if not (path / "config.json").exists():
        return 0
    run = RunDirectory(path, config(path))
    count = 0
    for name in (LAST, PREVIOUS):
        try:
            run._checkpoints._sound_archive(name)
            count += 1
        except ValueError:
            pass
    return count


def stopped(path: Path) -> Path:
    """Stopped at step 3, in the second epoch."""

    def advance(self: Counting) -> dict[Counting, dict[str, Any]]:
        if self.steps == 3:
            raise StopError
        return whole(self)

    whole = Counting.advance
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Counting, "advance", advance)
        with pytest.raises(StopError):
            train.train(config(path))
    return path


def damage(path: Path) -> None:
    content = bytearray((path / LAST).read_bytes())
    content[len(content) // 2] ^= 1
    (path / LAST).write_bytes(content)


def new(path: Path) -> None:
    train.train(config(path))


def resumed(path: Path) -> None:
    train.train(config(path, resume=True))


def from_previous(path: Path) -> None:
    train.train(config(path, resume=True, from_previous=True))


# name -> what is done, whether the run is there before and its last checkpoint damaged, and what the file system lacks.
SCENARIOS: dict[str, tuple[Callable[[Path], None], bool, bool, bool]] = {
    "new": (new, False, False, False),
    "resumed": (resumed, True, False, False),
    "from previous": (from_previous, True, True, False),
    "new, no links or locks": (new, False, False, True),
    "from previous, no links or locks": (from_previous, True, True, True),
}


def prepared(folder: Path, scenario: str) -> Path:
    _, there, damaged, _ = SCENARIOS[scenario]
    path = folder / "run"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    if there:
        stopped(path)
    if damaged:
        damage(path)
    return path


def undisturbed(folder: Path, scenario: str) -> tuple[int, int]:
    """How many events there are, and from which on there is a sound checkpoint."""
    act, _, _, lacking = SCENARIOS[scenario]
    path = prepared(folder, scenario)
    counts: list[int] = []
    disk = Disk(path.parent, None, "none", lacking=lacking, watch=lambda: counts.append(sound(path)))
    with disk.failing():
        act(path)
    first = next(number for number, count in enumerate(counts) if count)
    assert all(counts[first:]), [(disk.events[number], count) for number, count in enumerate(counts)]
    return len(disk.events), first


def refusal(path: Path) -> str:
    """Why --resume does not go on; empty when it did."""
    try:
        resumed(path)
    except ValueError as error:
        return str(error)
    return ""


def check(path: Path, scenario: str, kind: str, at: int, first_sound: int) -> None:
    """After the fault: a sound checkpoint, a command that goes on, and the same run in the end."""
    lacking = SCENARIOS[scenario][-1]
    where = f"{scenario}, {kind} at event {at}"
    if at >= first_sound:
        assert sound(path) >= 1, where
    with Disk(path.parent, None, "none", lacking=lacking).failing():
        if unborn(path):
            # Both commands take it; but what is not there at all is nothing to resume.
            (resumed if at % 2 and path.exists() else new)(path)
        else:
            refused = refusal(path)
            if refused:
                assert "--resume --from-previous continues" in refused, f"{where}: {refused}"
                from_previous(path)
    run = RunDirectory.read(path)
    assert run.complete, where
    assert [row["step"] for row in run.metrics()] == [0, 2, 4], where
    assert run.load_checkpoint()["steps"] == 4, where
    assert not list(path.glob("*.partial")), where


def inject(folder: Path, scenario: str, kind: str, at: int, first_sound: int) -> None:
    act, _, _, lacking = SCENARIOS[scenario]
    path = prepared(folder, scenario)
    disk = Disk(path.parent, at, kind, lacking=lacking)
    with disk.failing():
        try:
            act(path)
        except (KilledError, OSError, ValueError):
            pass
        else:  # the fault cost nothing that matters
            assert RunDirectory.read(path).complete
    gc.collect()  # a process that is gone holds no lock
    check(path, scenario, kind, at, first_sound)


def cases(folder: Path, *scenarios: str) -> list[tuple[str, str, int, int]]:
    found = []
    for scenario in scenarios or SCENARIOS:
        events, first = undisturbed(folder, scenario)
        assert events > 20
        found += [(scenario, kind, at, first) for kind in KINDS for at in range(events)]
    return found


def test_no_event_of_a_training_costs_its_last_checkpoint_or_its_directory(tmp_path: Path) -> None:
    for case in random.Random(0).sample(cases(tmp_path / "x"), 20):
        inject(tmp_path / "x", *case)


@pytest.mark.slow
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_every_event_of_a_training(scenario: str, tmp_path: Path) -> None:
    found = cases(tmp_path / "x", scenario)
    assert len(found) > 150
    failed = []
    for case in found:
        try:
            inject(tmp_path / "x", *case)
        except AssertionError as error:
            failed.append(str(error).splitlines()[0])
    assert not failed, f"{len(failed)} of {len(found)}: {failed[:20]}"


@pytest.mark.parametrize("number", [3, pytest.param(40, marks=pytest.mark.slow)])
def test_a_real_kill_at_an_event(number: int, tmp_path: Path) -> None:
    drawn = random.Random(1).sample([case for case in cases(tmp_path / "x") if case[1] == "killed"], number)
    for scenario, _, at, first in drawn:
        path = prepared(tmp_path / "x", scenario)
        child = os.fork()
        if child == 0:
            try:
                act, _, _, lacking = SCENARIOS[scenario]
                with Disk(path.parent, at, "SIGKILL", lacking=lacking).failing():
                    act(path)
            finally:
                os._exit(0)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == -9, (scenario, at)
        check(path, scenario, "SIGKILL", at, first)
