"""A run directory is never overwritten or mixed, and what is damaged is refused by name."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import m3po
from m3po.config import Config
from m3po.runs.checkpoints import LAST, PREVIOUS
from m3po.runs.provenance import ROOT, commit_of, provenance
from m3po.runs.run_directory import RunDirectory

STATE: dict[str, Any] = {
    "steps": 3,
    "model": {"weight": torch.arange(6.0).reshape(2, 3), "bias": torch.ones(2)},
    "generators": [torch.arange(8, dtype=torch.uint8)],
    "best": None,
}
ROW = {"step": 3, "return": 1.5, "profile": [0.1, 0.2]}


def config(path: Path, **changes: Any) -> Config:
    return Config(run_dir=path, **changes)


def tree(path: Path) -> dict[str, bytes]:
    """Every file and its content."""
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    created = RunDirectory.create(config(tmp_path / "run", seed=5))
    created.append_metrics(ROW)
    created.save_checkpoint(STATE)
    return created


def same(left: Any, right: Any) -> bool:
    if isinstance(left, torch.Tensor):
        return isinstance(right, torch.Tensor) and left.dtype == right.dtype and torch.equal(left, right)
    if isinstance(left, dict):
        return list(left) == list(right) and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list):
        return len(left) == len(right) and all(map(same, left, right))
    return bool(left == right)


def test_a_run_can_be_read_back(run: RunDirectory) -> None:
    read = RunDirectory.read(run.path)
    assert read.config == run.config
    assert read.metrics() == [ROW]
    assert same(read.load_checkpoint(), STATE)
    assert not read.complete
    (origin,) = json.loads((run.path / "provenance.json").read_text())
    assert set(origin) == {"commit", "dirty", "argv", "versions", "hardware", "start_utc"}
    assert origin["versions"]["torch"] == torch.__version__
    assert origin["versions"]["m3po-guarantees"] == m3po.__version__
    assert not list(run.path.glob("*.partial"))
    assert list(run.path.glob("events.out.tfevents.*"))


def test_complete_comes_last(run: RunDirectory) -> None:
    before = set(tree(run.path))
    run.mark_complete()
    assert set(tree(run.path)) - before == {"COMPLETE"}
    assert run.complete
    newest = max(run.path.iterdir(), key=lambda file: file.stat().st_mtime_ns)
    assert newest.name == "COMPLETE"


def test_an_existing_run_is_never_overwritten(run: RunDirectory) -> None:
    before = tree(run.path)
    with pytest.raises(ValueError, match=f"run directory {run.path} already exists"):
        RunDirectory.create(config(run.path, seed=5))
    assert tree(run.path) == before


def test_a_directory_that_holds_anything_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="already exists"):
        RunDirectory.create(config(tmp_path))
    with pytest.raises(ValueError, match=r"is not a run directory: it has no config\.json"):
        RunDirectory.resume(config(tmp_path, resume=True))
    file = tmp_path / "notes.txt"
    with pytest.raises(ValueError, match="already exists"):
        RunDirectory.create(config(file))
    with pytest.raises(ValueError, match="no run directory at"):
        RunDirectory.read(file)
    assert tree(tmp_path) == {"notes.txt": b"mine"}


def test_an_empty_directory_may_be_used(tmp_path: Path) -> None:
    assert RunDirectory.create(config(tmp_path)).path == tmp_path


def test_a_missing_run_cannot_be_resumed(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no run directory at"):
        RunDirectory.resume(config(tmp_path / "missing"))
    assert not (tmp_path / "missing").exists()


@pytest.mark.parametrize(("name", "value"), [("seed", 6), ("discount", 0.5), ("algorithm", "m3po-full")])
def test_a_run_is_not_resumed_with_other_settings(run: RunDirectory, name: str, value: object) -> None:
    path = run.path
    stored = getattr(run.config, name)
    del run
    before = tree(path)
    with pytest.raises(ValueError, match=f"it was started with {name}={stored}, asked for {value}"):
        RunDirectory.resume(config(path, **{"seed": 5, name: value}))
    assert tree(path) == before


def test_resume_adds_to_the_provenance_and_leaves_the_rest(tmp_path: Path) -> None:
    first = RunDirectory.create(config(tmp_path / "run", seed=5))
    first.append_metrics(ROW)
    del first
    (tmp_path / "run").rename(tmp_path / "moved")
    before = tree(tmp_path / "moved")
    resumed = RunDirectory.resume(config(tmp_path / "moved", seed=5, resume=True))
    after = tree(tmp_path / "moved")
    assert len(json.loads(after.pop("provenance.json"))) == 2
    assert json.loads(before.pop("provenance.json")) == json.loads((tmp_path / "moved/provenance.json").read_text())[:1]
    assert after == before
    assert resumed.metrics() == [ROW]


def test_its_commits_are_those_of_all_sessions(run: RunDirectory) -> None:
    sessions = [{"commit": "b", "dirty": True}, {"commit": "a", "dirty": False}, {"commit": "b", "dirty": True}]
    (run.path / "provenance.json").write_text(json.dumps([*sessions, {"commit": None, "dirty": None}]))
    assert run.commits == ("a", "b+", "unknown")


def test_two_processes_cannot_train_in_one_run(run: RunDirectory) -> None:
    script = (
        "import sys; from pathlib import Path\n"
        "from m3po.config import Config; from m3po.runs.run_directory import RunDirectory\n"
        "try: RunDirectory.resume(Config(run_dir=Path(sys.argv[1]), seed=5))\n"
        "except ValueError as error: print(error)\n"
        "else: print('resumed')"
    )

    def attempt() -> str:
        command = [sys.executable, "-c", script, str(run.path)]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout.strip()

    before = tree(run.path)
    assert attempt() == f"another process is training in {run.path}"
    assert tree(run.path) == before
    run.release()
    assert attempt() == "resumed"


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"", "cannot be read"),
        (b'{"format": 1, "seed"', "cannot be read"),
        (b"\xff\xfe\x00", "cannot be read"),
        (b"[1, 2]", "is not the config of a run"),
        (b"7", "is not the config of a run"),
        (b"{}", "is not the config of a run"),
        (b'{"format": 99}', "has format 99, this version reads format 2"),
        (b'{"format": 2}', "is missing or unknown"),
    ],
)
def test_a_damaged_config_is_named(run: RunDirectory, content: bytes, named: str) -> None:
    file = run.path / "config.json"
    file.write_bytes(content)
    for opened in (RunDirectory.read, lambda path: RunDirectory.resume(config(path, seed=5))):
        with pytest.raises(ValueError) as caught:
            opened(run.path)
        assert str(file) in str(caught.value)
        assert named in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("width", "64"), ("width", None), ("width", 2.5), ("width", True), ("discount", "0.9"), ("discount", 1.5),
        ("algorithm", "mbpo"), ("algorithm", ["m3po"]), ("env_id", 3), ("target_entropy", "low"), ("seed", -1),
        ("extra", 1),
    ],
)  # fmt: skip
def test_a_config_with_a_bad_value_is_named(run: RunDirectory, name: str, value: object) -> None:
    file = run.path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {name: value}))
    with pytest.raises(ValueError) as caught:
        RunDirectory.read(run.path)
    assert str(file) in str(caught.value)
    assert name.replace("_", "-") in str(caught.value).replace("_", "-")  # a field, or its flag


@pytest.mark.parametrize("name", ["latent_size", "agent_units", "width"])
def test_a_run_that_lacks_a_setting_is_named(run: RunDirectory, name: str) -> None:
    file = run.path / "config.json"
    record = json.loads(file.read_text())
    del record[name]
    file.write_text(json.dumps(record))
    with pytest.raises(ValueError, match=f"{name} is missing or unknown"):
        RunDirectory.read(run.path)


def test_a_run_from_before_the_models_own_sizes_is_read_and_goes_on(run: RunDirectory) -> None:
    """Neither its settings nor the seal of its checkpoint tell what there was not."""
    file = run.path / "config.json"
    record = json.loads(file.read_text())
    for name in ("model_units", "model_width", "model_layers"):
        del record[name]
    file.write_text(json.dumps(record))
    run.release()
    old = RunDirectory.read(run.path)
    assert old.config == run.config
    assert (old.config.model_units, old.config.model_width, old.config.model_layers) == ("gated", None, None)
    resumed = RunDirectory.resume(run.config)
    assert same(resumed.load_checkpoint(), STATE)
    resumed.release()
    changes: list[dict[str, Any]] = [{"model_units": "swish"}, {"model_width": 200}, {"model_layers": 4}]
    for change in changes:
        with pytest.raises(ValueError, match=f"it was started with {next(iter(change))}="):
            RunDirectory.resume(dataclasses.replace(run.config, **change))


def test_the_seal_of_a_checkpoint_is_the_one_from_before_the_models_own_sizes(run: RunDirectory) -> None:
    """SHA-256 of the settings that there were then, as the file ends."""
    settings = json.loads((run.path / "config.json").read_text())
    for name in ("format", "model_units", "model_width", "model_layers"):
        del settings[name]
    seal = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).digest()
    assert (run.path / LAST).read_bytes().endswith(seal)


def test_a_checkpoint_of_other_model_units_is_not_of_this_run(run: RunDirectory) -> None:
    file = run.path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"model_units": "swish"}))
    with pytest.raises(ValueError, match="written with other settings"):
        RunDirectory.read(run.path).load_checkpoint()


@pytest.mark.parametrize("value", [0, 1])
def test_whole_numbers_are_numbers(run: RunDirectory, value: int) -> None:
    file = run.path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"target_entropy": value}))
    assert RunDirectory.read(run.path).config.target_entropy == value


@pytest.mark.parametrize("content", ["", "{}", "[{", "3"])
def test_a_damaged_provenance_is_named(run: RunDirectory, content: str) -> None:
    file = run.path / "provenance.json"
    file.write_text(content)
    run.release()
    with pytest.raises(ValueError) as caught:
        RunDirectory.resume(config(run.path, seed=5))
    assert str(file) in str(caught.value)


def test_a_flipped_byte_anywhere_in_the_checkpoint_is_found(run: RunDirectory) -> None:
    file = run.path / "checkpoint.pt"
    data = file.read_bytes()
    generator = random.Random(0)
    places = {0, len(data) - 1, *range(0, len(data), 17), *generator.sample(range(len(data)), 200)}
    for place in places:
        flipped = data[place] ^ (1 << generator.randrange(8))
        file.write_bytes(data[:place] + bytes([flipped]) + data[place + 1 :])
        with pytest.raises(ValueError) as caught:
            run.load_checkpoint()
        assert str(file) in str(caught.value)
    file.write_bytes(data)
    assert same(run.load_checkpoint(), STATE)


def test_a_cut_or_longer_or_foreign_checkpoint_is_refused(run: RunDirectory, tmp_path: Path) -> None:
    file = run.path / "checkpoint.pt"
    data = file.read_bytes()
    torch.save([1, 2], tmp_path / "foreign.pt")
    contents = [data[:size] for size in (0, 1, 31, 32, 33, len(data) // 2, len(data) - 32, len(data) - 1)]
    for content in [*contents, data + b"\0", data[1:], b"\0" * 100, (tmp_path / "foreign.pt").read_bytes()]:
        file.write_bytes(content)
        with pytest.raises(ValueError) as caught:
            run.load_checkpoint()
        assert str(file) in str(caught.value)
    file.unlink()
    with pytest.raises(ValueError, match=rf"{run.path} has no checkpoint\.pt"):
        run.load_checkpoint()


def test_the_checkpoint_of_another_run_is_refused(run: RunDirectory, tmp_path: Path) -> None:
    other = RunDirectory.create(config(tmp_path / "other", seed=6))
    other.save_checkpoint(STATE)
    (run.path / "checkpoint.pt").write_bytes((other.path / "checkpoint.pt").read_bytes())
    with pytest.raises(ValueError, match="is not of this run: it was written with other settings"):
        run.load_checkpoint()


def test_checkpoints_are_plain_archives_without_code(run: RunDirectory) -> None:
    """torch reads the file as it is; an object that is no tensor or plain value cannot be loaded."""
    assert same(torch.load(run.path / "checkpoint.pt", weights_only=True)["state"], STATE)
    run.save_checkpoint({"steps": run.path})
    with pytest.raises(Exception, match=r"[Ww]eights"):
        run.load_checkpoint()


def test_a_checkpoint_is_replaced_whole_or_not_at_all(run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(descriptor: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("os.fsync", crash)
    with pytest.raises(KeyboardInterrupt):
        run.save_checkpoint({"steps": 4})
    monkeypatch.undo()
    assert same(run.load_checkpoint(), STATE)
    run.save_checkpoint({"steps": 4})
    assert run.load_checkpoint() == {"steps": 4}


@pytest.mark.parametrize("session", ["the same", "another"])
def test_a_damaged_checkpoint_never_takes_the_place_of_a_sound_one(session: str, run: RunDirectory) -> None:
    run.save_checkpoint({"steps": 4})
    content = bytearray((run.path / LAST).read_bytes())
    content[9] ^= 1
    (run.path / LAST).write_bytes(content)
    if session == "another":
        run.release()
        run = RunDirectory.resume(run.config)
    run.save_checkpoint({"steps": 5})
    assert run.load_checkpoint() == {"steps": 5}
    run.restore_previous()
    assert same(run.load_checkpoint(), STATE)
    (run.path / PREVIOUS).unlink()  # it may be the same file
    (run.path / PREVIOUS).write_bytes(content)
    with pytest.raises(ValueError, match=rf"{PREVIOUS} is damaged"):
        run.restore_previous()
    assert same(run.load_checkpoint(), STATE)


def test_metrics_without_their_last_line_end_are_left_out(run: RunDirectory) -> None:
    file = run.path / "metrics.jsonl"
    second = json.dumps(ROW | {"step": 6})
    for cut in range(len(second) + 1):
        file.write_text(json.dumps(ROW) + "\n" + second[:cut])
        assert run.metrics() == [ROW]
    file.write_text(json.dumps(ROW) + "\n" + second + "\n")
    assert [row["step"] for row in run.metrics()] == [3, 6]
    file.unlink()
    assert run.metrics() == []


@pytest.mark.parametrize("line", ["{", "3", "[]", "{}", "\x00", "\udcff"])
@pytest.mark.parametrize("last", [True, False])
def test_a_damaged_line_of_metrics_is_named(run: RunDirectory, line: str, last: bool) -> None:
    file = run.path / "metrics.jsonl"
    lines = [json.dumps(ROW), line] + ([] if last else [json.dumps(ROW)])
    file.write_bytes(("\n".join(lines) + "\n").encode(errors="surrogateescape"))
    with pytest.raises(ValueError) as caught:
        run.metrics()
    assert f"{file} line 2" in str(caught.value)


def test_rows_past_the_checkpoint_are_dropped(run: RunDirectory) -> None:
    run.append_metrics(ROW | {"step": 6})
    with (run.path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 9, "retu')
    run.drop_metrics_after(3)
    assert run.metrics() == [ROW]
    assert (run.path / "metrics.jsonl").read_text() == json.dumps(ROW) + "\n"


def test_rows_missing_before_the_checkpoint_are_found(run: RunDirectory) -> None:
    with pytest.raises(ValueError, match=r"metrics\.jsonl has no row for step 6"):
        run.drop_metrics_after(6)
    (run.path / "metrics.jsonl").unlink()
    with pytest.raises(ValueError, match=r"metrics\.jsonl has no row for step 3"):
        run.drop_metrics_after(3)
    run.drop_metrics_after(-1)
    assert run.metrics() == []


@pytest.fixture
def complete(run: RunDirectory) -> Path:
    run.append_metrics(ROW | {"step": run.config.total_steps})
    run.mark_complete()
    run.release()
    return run.path


def edited(path: Path, change: str) -> None:
    file = path / "metrics.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    if change == "missing":
        file.unlink()
    elif change == "edited":
        file.write_text(lines[0].replace("1.5", "2.5") + lines[1])
    else:
        kept = {
            "cut": lines[:1],
            "cut in a line": [lines[0], lines[1][:-9]],
            "first cut": lines[1:],
            "longer": lines * 2,
        }
        file.write_text("".join(kept[change]))


CHANGES = ("missing", "cut", "cut in a line", "first cut", "edited", "longer")


@pytest.mark.parametrize("change", CHANGES)
def test_a_complete_run_whose_metrics_were_changed_is_refused(change: str, complete: Path) -> None:
    known = RunDirectory.read(complete)
    edited(complete, change)
    for read in (known.metrics, lambda: RunDirectory.read(complete), lambda: RunDirectory.resume(known.config)):
        with pytest.raises(ValueError, match=str(complete)):
            read()


@pytest.mark.parametrize("content", ["", "{}", "{", "yes", "[1]", '{"rows": 2}', "\x00"])
def test_a_damaged_end_is_named(content: str, complete: Path) -> None:
    (complete / "COMPLETE").write_text(content)
    with pytest.raises(ValueError, match=rf"{complete}/COMPLETE is damaged"):
        RunDirectory.read(complete)


def test_a_complete_run_of_before_there_were_checksums_is_read_when_it_reaches_its_last_step(complete: Path) -> None:
    (complete / "COMPLETE").write_text("2026-11-20T08:15:00+00:00\n")
    assert len(RunDirectory.read(complete).metrics()) == 2
    edited(complete, "cut")
    with pytest.raises(ValueError, match="is not what the run ended with"):
        RunDirectory.read(complete)


def test_a_complete_run_is_resumed_by_changing_nothing(complete: Path) -> None:
    before = {name: (complete / name).stat().st_mtime_ns for name in tree(complete)}, tree(complete)
    resumed = RunDirectory.resume(config(complete, seed=5, resume=True))
    assert resumed.complete
    resumed.release()
    assert ({name: (complete / name).stat().st_mtime_ns for name in tree(complete)}, tree(complete)) == before


@pytest.mark.parametrize("left", [[], ["lock"], ["lock", "provenance.json"], ["lock", "config.json.ab.partial"]])
@pytest.mark.parametrize("command", [RunDirectory.create, RunDirectory.resume])
def test_a_run_that_was_killed_before_it_had_settings_begins(left: list[str], command: Any, tmp_path: Path) -> None:
    for name in left:
        (tmp_path / name).write_text("")
    begun = command(config(tmp_path, seed=5))
    assert RunDirectory.read(tmp_path).config == begun.config
    assert not list(tmp_path.glob("*.partial"))
    assert len(begun.provenance()) == 1


@pytest.mark.parametrize(
    "left", [["provenance.json"], ["a.partial"], ["lock", "metrics.jsonl"], ["lock", "checkpoint.pt"]]
)
def test_what_no_killed_run_leaves_is_not_taken_for_one(left: list[str], tmp_path: Path) -> None:
    for name in left:
        (tmp_path / name).write_text("mine")
    for command in (RunDirectory.create, RunDirectory.resume):
        with pytest.raises(ValueError, match=str(tmp_path)):
            command(config(tmp_path))
    assert tree(tmp_path) == dict.fromkeys(left, b"mine")


@pytest.mark.parametrize("made_again", [False, True])
def test_a_directory_that_is_removed_under_a_training_ends_it(made_again: bool, run: RunDirectory) -> None:
    shutil.rmtree(run.path)
    if made_again:
        run.path.mkdir()
    for act in (run.mark_complete, lambda: run.append_metrics(ROW), lambda: run.save_checkpoint(STATE)):
        with pytest.raises(OSError, match="was removed or replaced"):
            act()
    assert not run.path.exists() or not list(run.path.iterdir())


def test_metrics_that_another_hand_changed_end_the_training(run: RunDirectory) -> None:
    file = run.path / "metrics.jsonl"
    content = file.read_text()
    for changed in (content[:-5], content * 2):
        file.write_text(changed)
        for act in (run.mark_complete, lambda: run.append_metrics(ROW)):
            with pytest.raises(ValueError, match="was changed while the run was under way"):
                act()
    file.unlink()
    with pytest.raises(ValueError, match="was changed while the run was under way"):
        run.append_metrics(ROW)


def test_a_full_disk_costs_the_events_and_not_the_run(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("m3po.runs.event_log.write_whole", full)
    for step in (6, 9):
        run.append_metrics(ROW | {"step": step})
    assert [row["step"] for row in run.metrics()] == [3, 6, 9]
    assert capsys.readouterr().err.count("no more TensorBoard events") == 1


def test_events_are_the_numbers_of_the_metrics(run: RunDirectory) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run.append_metrics(ROW | {"step": 6, "return": 2.5})
    shown = EventAccumulator(str(run.path)).Reload()
    assert shown.Tags()["scalars"] == ["return"]
    assert [(point.step, point.value) for point in shown.Scalars("return")] == [(3, 1.5), (6, 2.5)]


def test_the_commit_is_that_of_this_code_and_of_no_repository_around_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = provenance([])["commit"]
    git = ["git", "-c", "user.email=a@b", "-c", "user.name=n"]
    for words in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "theirs"]):
        subprocess.run([*git, *words], cwd=tmp_path, check=True)
    monkeypatch.setenv("GIT_DIR", str(tmp_path / ".git"))  # as in a hook
    assert provenance([])["commit"] == ours
    monkeypatch.delenv("GIT_DIR")
    (tmp_path / "site" / "m3po").mkdir(parents=True)
    monkeypatch.setattr("m3po.runs.provenance.ROOT", tmp_path / "site")
    assert provenance([])["commit"] is None
    assert provenance([])["dirty"] is None


class Wheel:
    def __init__(self, root: Path, origin: str | None) -> None:
        self.root, self.origin = root, origin

    def locate_file(self, name: str) -> Path:
        return self.root / name

    def read_text(self, name: str) -> str | None:
        return self.origin if name == "direct_url.json" else None


def test_code_without_a_commit_is_known_by_its_version_or_by_what_pip_noted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = ROOT
    monkeypatch.setattr("m3po.runs.provenance.ROOT", tmp_path)
    noted = json.dumps({"vcs_info": {"commit_id": "abc"}})
    version = f"version-{m3po.__version__}"
    for where, origin, commit in ((root, None, version), (root, noted, "abc"), (tmp_path, noted, version)):
        wheel = Wheel(where, origin)
        monkeypatch.setattr("importlib.metadata.distributions", lambda wheel=wheel, **_: [wheel])
        assert commit_of(provenance([])) == commit


def test_options_of_the_environment_are_compared_by_their_meaning(tmp_path: Path) -> None:
    first = RunDirectory.create(config(tmp_path / "run", env_options='{"observe_reward":true, "dim": 1}'))
    same, other = '{"dim": 1,  "observe_reward": true}', '{"observe_reward": 1, "dim": 1}'
    assert first.difference(config(tmp_path / "run", env_options=same)) is None
    assert first.difference(config(tmp_path / "run", env_options=other)) is not None
