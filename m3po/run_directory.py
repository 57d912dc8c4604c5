"""The sole reader and writer of a run: config, provenance, metrics, TensorBoard events, checkpoint, COMPLETE."""

from __future__ import annotations

import dataclasses
import fcntl
import hashlib
import io
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import torch

from m3po.config import ONLY_READ_BY, Config

FORMAT = 2
# Where a run lives and whether it is being resumed are not part of what it is.
_NOT_IDENTITY = ("run_dir", "resume", "from_previous")
# Fields that came after the first runs of this format; those had gated units, and did not read the others.
_ADDED: dict[str, Any] = {
    field.name: field.default for field in dataclasses.fields(Config) if field.name in ONLY_READ_BY
} | {"agent_units": "gated"}
LAST, PREVIOUS = "checkpoint.pt", "checkpoint.previous.pt"


def _replace_atomically(path: Path, data: bytes) -> None:
    """Write, flush to disk, rename: a reader (or a crash) sees the old file or the new one, never a part."""
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    _rename(partial, path)


def _rename(source: Path, target: Path) -> None:
    """Rename over ``target``, and make that survive a loss of power too."""
    source.replace(target)
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _fits(value: object, hint: Any) -> bool:
    """Whether a value read from JSON has the type of a field of Config (whole numbers are floats, booleans are not)."""
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    kinds = get_args(hint) or (hint,)
    return type(value) in kinds or (type(value) is int and float in kinds)


def _read_json(file: Path) -> Any:
    """The content of a JSON file, or a ValueError that names it."""
    try:
        return json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"{file} cannot be read: {error}") from error


def _identity(config: Config) -> dict[str, Any]:
    record = dataclasses.asdict(config)
    for name in _NOT_IDENTITY:
        del record[name]
    return record


def _git(*words: str) -> str | None:
    try:
        answer = subprocess.run(
            ["git", *words], cwd=Path(__file__).parent, capture_output=True, text=True, check=True, timeout=10
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip()


def provenance(argv: Sequence[str]) -> dict[str, Any]:
    """What a result was made with: commit, uncommitted changes, command, versions, hardware, UTC start."""
    status = _git("status", "--porcelain", "--untracked-files=no")
    return {
        "commit": _git("rev-parse", "HEAD"),
        "dirty": None if status is None else bool(status),
        "argv": list(argv),
        "versions": {
            "python": platform.python_version(),
            **{name: metadata.version(name) for name in ("torch", "numpy", "gymnasium", "mujoco")},
        },
        "hardware": {
            "machine": platform.machine(),
            "cpu_threads": os.cpu_count(),
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        },
        "start_utc": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def commit_of(made: Mapping[str, Any]) -> str:
    """The commit of a ``provenance``, with "+" after it where there were uncommitted changes."""
    return f"{made['commit'] or 'unknown'}{'+' if made['dirty'] else ''}"


class RunDirectory:
    """A run on disk. Open one with ``create``, ``resume`` (to write) or ``read`` (to look).

    Attributes:
        path: the directory.
        config: the run's configuration, with ``run_dir`` set to ``path``.
        checkpoint_cost: ``checkpoint_seconds`` and ``checkpoint_bytes`` of the last one written, for the metrics.
    """

    def __init__(self, path: Path, config: Config, recorded: frozenset[str] | None = None) -> None:
        self.path = path
        self.config = config
        # Settings that the run's config.json names; all but in runs from before some of them existed.
        self._recorded = frozenset(_identity(config)) if recorded is None else recorded
        self._lock: Any = None
        self._events: Any = None
        self.checkpoint_cost: dict[str, float] = {}

    @classmethod
    def create(cls, config: Config) -> RunDirectory:
        """Start a new run.

        Raises:
            ValueError: when the directory already holds anything.
        """
        path = config.run_dir
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise ValueError(f"run directory {path} already exists; choose another, or continue that run with --resume")
        origin = json.dumps([provenance(sys.argv)], indent=2)
        record = json.dumps({"format": FORMAT, **_identity(config)}, indent=2)
        path.mkdir(parents=True, exist_ok=True)
        run = cls(path, config)
        run._acquire()
        _replace_atomically(path / "provenance.json", origin.encode())
        _replace_atomically(path / "config.json", record.encode())
        return run

    @classmethod
    def resume(cls, config: Config) -> RunDirectory:
        """Continue a run from its last checkpoint.

        Raises:
            ValueError: when there is no such run, it was started with other settings, or another process is at it.
        """
        run = cls.read(config.run_dir)
        difference = run.difference(config)
        if difference is not None:
            name, stored, asked = difference
            raise ValueError(f"cannot resume {config.run_dir}: it was started with {name}={stored}, asked for {asked}")
        run._acquire()
        file = run.path / "provenance.json"
        history = _read_json(file)
        if not isinstance(history, list):
            raise ValueError(f"{file} is not the provenance of a run")
        _replace_atomically(file, json.dumps([*history, provenance(sys.argv)], indent=2).encode())
        return run

    @classmethod
    def read(cls, path: Path) -> RunDirectory:
        """Open a run to look at it.

        Raises:
            ValueError: when ``path`` is not a run directory of this format.
        """
        if not path.is_dir():
            raise ValueError(f"no run directory at {path}")
        file = path / "config.json"
        if not file.is_file():
            raise ValueError(f"{path} is not a run directory: it has no config.json")
        record = _read_json(file)
        if not isinstance(record, dict) or "format" not in record:
            raise ValueError(f"{file} is not the config of a run")
        version = record.pop("format")
        if version != FORMAT:
            raise ValueError(f"{file} has format {version}, this version reads format {FORMAT}")
        hints = {name: hint for name, hint in get_type_hints(Config).items() if name not in _NOT_IDENTITY}
        recorded = frozenset(record)
        record = _ADDED | record
        odd = sorted(set(record) ^ set(hints))
        if odd:
            raise ValueError(f"{file} does not fit this version: field {odd[0]} is missing or unknown")
        for name, value in record.items():
            if not _fits(value, hints[name]):
                raise ValueError(f"{file} has {name}={value!r}, which is no {name}")
        try:
            return cls(path, Config(run_dir=path, **record), recorded)
        except ValueError as error:
            raise ValueError(f"{file} is not valid: {error}") from error

    def difference(self, config: Config) -> tuple[str, Any, Any] | None:
        """The first setting in which the run and ``config`` differ: its name, the run's value, the other; or None."""
        stored, asked = _identity(self.config), _identity(config)
        return next(((name, stored[name], asked[name]) for name in asked if asked[name] != stored[name]), None)

    def _acquire(self) -> None:
        self._lock = (self.path / "lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ValueError(f"another process is training in {self.path}") from error

    def release(self) -> None:
        """Let other processes write here again; the last thing a session does."""
        if self._events is not None:
            self._events.close()
            self._events = None
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def provenance(self) -> list[dict[str, Any]]:
        """What each session of the run was made with, the first one first."""
        return list(json.loads((self.path / "provenance.json").read_text()))

    @property
    def commits(self) -> tuple[str, ...]:
        """The commits of all sessions, each once (``commit_of``), sorted."""
        return tuple(sorted({commit_of(session) for session in self.provenance()}))

    @property
    def complete(self) -> bool:
        """Whether the run reached its last step."""
        return (self.path / "COMPLETE").exists()

    def mark_complete(self) -> None:
        """The last thing written."""
        _replace_atomically(self.path / "COMPLETE", (datetime.now(UTC).isoformat(timespec="seconds") + "\n").encode())

    def append_metrics(self, row: dict[str, Any]) -> None:
        """Append one JSON line to metrics.jsonl, and its numbers to the TensorBoard events, at ``row["step"]``."""
        with (self.path / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")
            file.flush()
            os.fsync(file.fileno())
        if self._events is None:
            from torch.utils.tensorboard import SummaryWriter

            self._events = SummaryWriter(str(self.path), purge_step=row["step"])
        for name, value in row.items():
            if isinstance(value, int | float) and name != "step":
                self._events.add_scalar(name, value, row["step"])
        self._events.flush()

    def metrics(self) -> list[dict[str, Any]]:
        """All rows of metrics.jsonl, one per epoch; a line cut off by a crash (it has no line end) is left out.

        Raises:
            ValueError: when a whole line is not a row.
        """
        file = self.path / "metrics.jsonl"
        whole_lines = file.read_bytes().split(b"\n")[:-1] if file.exists() else []
        rows: list[dict[str, Any]] = []
        for number, line in enumerate(whole_lines, 1):
            try:
                row = json.loads(line)
            except ValueError as error:
                raise ValueError(f"{file} line {number} is not JSON: {error}") from error
            if not isinstance(row, dict) or "step" not in row:
                raise ValueError(f"{file} line {number} is not a row of metrics")
            rows.append(row)
        return rows

    def drop_metrics_after(self, step: int) -> None:
        """Forget rows past the checkpoint that a resumed run starts from; it will write them again.

        Args:
            step: of the checkpoint; -1 when there is none yet.

        Raises:
            ValueError: when the checkpoint's own row, which was written before it, is missing.
        """
        file = self.path / "metrics.jsonl"
        kept = [row for row in self.metrics() if row["step"] <= step]
        if step >= 0 and (not kept or kept[-1]["step"] != step):
            raise ValueError(f"{file} has no row for step {step}, where the checkpoint is")
        _replace_atomically(file, "".join(json.dumps(row) + "\n" for row in kept).encode())

    def record_restart(self, step: int) -> None:
        """Note in the provenance of this session that its first episode is not the one that was interrupted."""
        file = self.path / "provenance.json"
        sessions = _read_json(file)
        sessions[-1]["episode_given_up_at_step"] = step
        _replace_atomically(file, json.dumps(sessions, indent=2).encode())

    @property
    def has_checkpoint(self) -> bool:
        """Whether there is a last or a previous checkpoint, damaged or not."""
        return (self.path / LAST).exists() or (self.path / PREVIOUS).exists()

    def save_checkpoint(self, state: dict[str, Any]) -> None:
        """Replace checkpoint.pt atomically and keep the one before as checkpoint.previous.pt.

        The file is torch's archive and, behind it, two SHA-256: of the archive, whose own checksums leave out its
        directory, and of the run's settings, since a checkpoint of another run must not be taken for one of this.

        Args:
            state: nested dicts and lists of tensors, numbers, strings and None.
        """
        began = time.perf_counter()
        archive = io.BytesIO()
        torch.save({"format": FORMAT, "state": state}, archive)
        data = archive.getvalue()
        last, previous = self.path / LAST, self.path / PREVIOUS
        if last.exists():
            spare = previous.with_name(previous.name + ".partial")
            spare.unlink(missing_ok=True)
            os.link(last, spare)  # there is a checkpoint.pt at every moment
            _rename(spare, previous)
        _replace_atomically(last, data + hashlib.sha256(data).digest() + self._settings_digest())
        self.checkpoint_cost = {
            "checkpoint_seconds": time.perf_counter() - began,
            "checkpoint_bytes": last.stat().st_size,
        }

    def _settings_digest(self) -> bytes:
        settings = {name: value for name, value in _identity(self.config).items() if name in self._recorded}
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).digest()

    def _read_checkpoint(self, name: str, device: torch.device | str) -> dict[str, Any]:
        file = self.path / name
        if not file.is_file():
            raise ValueError(f"{self.path} has no {name}")
        content = file.read_bytes()
        size = hashlib.sha256().digest_size
        data, digest, settings = content[: -2 * size], content[-2 * size : -size], content[-size:]
        if hashlib.sha256(data).digest() != digest:
            raise ValueError(f"{file} is damaged: its checksum does not match")
        if settings != self._settings_digest():
            raise ValueError(f"{file} is not of this run: it was written with other settings than config.json's")
        record = torch.load(io.BytesIO(data), map_location=device, weights_only=True)
        if record.get("format") != FORMAT:
            raise ValueError(f"{file} has format {record.get('format')}, this version reads format {FORMAT}")
        state: dict[str, Any] = record["state"]
        return state

    def load_checkpoint(self, device: torch.device | str = "cpu", *, previous: bool = False) -> dict[str, Any]:
        """What ``save_checkpoint`` was given last, or the time before.

        Raises:
            ValueError: when there is none, any byte of it is damaged, it belongs to a run with other settings or to
                another version. Where the previous checkpoint is sound, the message offers it.
        """
        if previous:
            return self._read_checkpoint(PREVIOUS, device)
        try:
            return self._read_checkpoint(LAST, device)
        except ValueError as error:
            try:
                spare = self._read_checkpoint(PREVIOUS, "cpu")
            except ValueError:
                raise error from None
            raise ValueError(
                f"{error}. The one before it, of step {spare['steps']}, is sound: --resume --from-previous continues "
                "from there"
            ) from None
