"""A run directory is never overwritten or mixed, and what is damaged is refused by name."""

from __future__ import annotations

import hashlib
import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from m3po.config import Config
from m3po.run_directory import RunDirectory

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
        "from m3po.config import Config; from m3po.run_directory import RunDirectory\n"
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
    assert name in str(caught.value)


def test_a_run_from_before_the_baselines_is_read_with_their_defaults(run: RunDirectory) -> None:
    file = run.path / "config.json"
    record = json.loads(file.read_text())
    assert record.pop("latent_size") == 5
    assert record.pop("agent_units") == "gated"
    file.write_text(json.dumps(record))
    older = RunDirectory.read(run.path)
    assert older.config == run.config
    older.save_checkpoint({"steps": 3})
    assert RunDirectory.read(run.path).load_checkpoint() == {"steps": 3}
    # The digest in a checkpoint is that of the settings which the run knew.
    settings = json.dumps({name: value for name, value in record.items() if name != "format"}, sort_keys=True)
    assert (run.path / "checkpoint.pt").read_bytes().endswith(hashlib.sha256(settings.encode()).digest())
    del record["width"]
    file.write_text(json.dumps(record))
    with pytest.raises(ValueError, match="width is missing or unknown"):
        RunDirectory.read(run.path)


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
