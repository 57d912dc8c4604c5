"""The sole reader and writer of a run: config, provenance, metrics, TensorBoard events, checkpoint, COMPLETE."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from m3po.config import Config, options_in
from m3po.runs import files
from m3po.runs.checkpoints import Checkpoints
from m3po.runs.metrics import Metrics
from m3po.runs.provenance import commit_of, provenance
from m3po.runs.records import FORMAT, MEBIBYTE, check_sessions, parsed

# Where a run lives, who runs beside it and whether it is being resumed are not part of what it is.
_NOT_IDENTITY = ("run_dir", "seeds", "resume", "from_previous")

# Settings that came after format 2, and what runs that do not tell them were made with.
_ADDED: dict[str, Any] = {"model_units": "gated", "model_width": None, "model_layers": None}

_LARGEST_RECORD = 16 * MEBIBYTE


def _read_json(file: Path) -> Any:
    """The content of a JSON file, or a ValueError that names it."""
    try:
        return parsed(files.read_regular(file, _LARGEST_RECORD))
    except (OSError, ValueError) as error:
        raise ValueError(f"{file} cannot be read: {error}") from error


def meaning(name: str, value: Any) -> Any:
    """What is compared of a setting: JSON means the same with other spaces, and in another order of its names."""
    return json.dumps(options_in(value), sort_keys=True) if name == "env_options" else value


def _identity(config: Config) -> dict[str, Any]:
    record = dataclasses.asdict(config)
    for name in _NOT_IDENTITY:
        del record[name]
    return record


def _sealed(config: Config) -> dict[str, Any]:
    """What a checkpoint's seal is over: the settings, but for those that say what runs were made with before them."""
    record = _identity(config)
    return {name: value for name, value in record.items() if name not in _ADDED or value != _ADDED[name]}


def unborn(path: Path) -> bool:
    """Whether there is nothing at ``path``, or only what a run leaves that is killed before its settings are written.

    ``lock`` is the first file of a run and config.json the one that makes it a run.
    """
    if not os.path.lexists(path):
        return True
    if not path.is_dir():
        return False
    names = {each.name for each in path.iterdir()}
    early = {each for each in names if each == "provenance.json" or each.endswith(files.PARTIAL)}
    return names == early | {"lock"} or not names


def check_unborn(path: Path) -> None:
    """A run can be made at ``path``.

    Raises:
        ValueError: when it is not ``unborn``.
    """
    if not unborn(path.absolute()):
        raise ValueError(f"run directory {path} already exists; choose another, or continue that run with --resume")


class _Held:
    """The right to write, from when it is taken until its owner releases it or is forgotten (so nobody here knows the
    owner)."""

    lock: files.Lock | None = None

    def check(self) -> None:
        if self.lock is not None:
            self.lock.check()

    def release(self) -> None:
        if self.lock is not None:
            self.lock.release()
            self.lock = None


class RunDirectory:
    """A run on disk. Open one with ``create``, ``resume`` (to write) or ``read`` (to look).

    Attributes:
        path: the directory.
        config: the run's configuration, with ``run_dir`` set to ``path``.
    """

    def __init__(self, path: Path, config: Config) -> None:
        self.path = path.absolute()  # an environment may change the working directory
        self.config = dataclasses.replace(config, run_dir=self.path)
        self._held = _Held()
        self._metrics = Metrics(self.path, self._held.check)
        self._checkpoints = Checkpoints(self.path, _sealed(config), self._held.check)

    @classmethod
    def create(cls, config: Config) -> RunDirectory:
        """Start a new run. Until its last event, the renaming of config.json, the directory is ``unborn``.

        Raises:
            ValueError: when the directory already holds anything, or another process is at it.
        """
        run = cls(config.run_dir, config)
        check_unborn(config.run_dir)
        origin = json.dumps([provenance(sys.argv)], indent=2)
        record = json.dumps({"format": FORMAT, **_identity(config)}, indent=2)
        run.path.mkdir(parents=True, exist_ok=True)
        files.sync_folder(run.path.parent)
        run._acquire()
        try:
            check_unborn(config.run_dir)  # unless another process was faster
        except ValueError:
            run.release()
            raise
        files.replace_atomically(run.path / "provenance.json", origin.encode())
        files.replace_atomically(run.path / "config.json", record.encode())
        return run

    @classmethod
    def resume(cls, config: Config) -> RunDirectory:
        """Continue a run from its last checkpoint; one that was killed before it had settings begins, and a complete
        one is only read.

        Raises:
            ValueError: when there is no such run, it was started with other settings, or another process is at it.
        """
        if config.run_dir.is_dir() and unborn(config.run_dir):
            return cls.create(config)
        run = cls.read(config.run_dir)
        difference = run.difference(config)
        if difference is not None:
            name, stored, asked = difference
            raise ValueError(f"cannot resume {config.run_dir}: it was started with {name}={stored}, asked for {asked}")
        if run.complete:
            return run
        run._acquire()
        file = run.path / "provenance.json"
        history = _read_json(file)
        if not isinstance(history, list):
            raise ValueError(f"{file} is not the provenance of a run")
        run._replace("provenance.json", json.dumps([*history, provenance(sys.argv)], indent=2).encode())
        return run

    @classmethod
    def read(cls, path: Path) -> RunDirectory:
        """Open a run to look at it.

        Raises:
            ValueError: when ``path`` is not a run directory of this format, or of a complete run whose metrics are not
                those that it ended with.
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
        record = _ADDED | record
        odd = sorted(set(record) ^ {each.name for each in dataclasses.fields(Config)} - set(_NOT_IDENTITY))
        if odd:
            raise ValueError(f"{file} does not fit this version: field {odd[0]} is missing or unknown")
        try:
            run = cls(path, Config(run_dir=path, **record))
        except ValueError as error:
            raise ValueError(f"{file} is not valid: {error}") from error
        if run.complete:
            run.metrics()
        return run

    def difference(self, config: Config) -> tuple[str, Any, Any] | None:
        """The first setting in which the run and ``config`` differ: its name, the run's value, the other; or None."""
        stored, asked = _identity(self.config), _identity(config)
        return next(
            (
                (name, stored[name], asked[name])
                for name in asked
                if meaning(name, asked[name]) != meaning(name, stored[name])
            ),
            None,
        )

    def _acquire(self) -> None:
        try:
            self._held.lock = files.Lock(self.path)
        except files.HeldError as error:
            raise ValueError(f"another process is training in {self.path}") from error
        self._remove_partial_files()

    def _remove_partial_files(self) -> None:
        """Of a process that was killed, or that could not remove its own."""
        for partial in self.path.glob(f"*{files.PARTIAL}"):
            partial.unlink(missing_ok=True)

    def _replace(self, name: str, data: bytes) -> None:
        self._held.check()
        files.replace_atomically(self.path / name, data)

    def release(self) -> None:
        """Let other processes write here again; the last thing a session does."""
        self._metrics.close()
        self._held.release()

    def provenance(self) -> list[dict[str, Any]]:
        """What each session of the run was made with, the first one first."""
        file = self.path / "provenance.json"
        sessions: list[dict[str, Any]] = _read_json(file)
        try:
            check_sessions(sessions)
        except ValueError as error:
            raise ValueError(f"{file} {error}") from error
        return sessions

    @property
    def commits(self) -> tuple[str, ...]:
        """The commits of all sessions, each once (``commit_of``), sorted."""
        return tuple(sorted({commit_of(session) for session in self.provenance()}))

    @property
    def complete(self) -> bool:
        """Whether the run reached its last step."""
        return (self.path / "COMPLETE").exists()

    def mark_complete(self) -> None:
        """The last thing written: how many rows of metrics there are, and their SHA-256.

        Raises:
            ValueError: when what the run has written so far is not there any more.
        """
        self._held.check()
        rows, digest = self._metrics.written()
        for name in ("config.json", "provenance.json"):
            if not (self.path / name).is_file():
                raise ValueError(f"{self.path / name} was removed while the run was under way")
        record = {
            "end_utc": datetime.now(UTC).isoformat(timespec="seconds"),
            "rows": len(rows),
            "metrics_sha256": digest,
        }
        self._remove_partial_files()
        self._replace("COMPLETE", json.dumps(record).encode() + b"\n")

    def append_metrics(self, row: dict[str, Any]) -> None:
        """Append one JSON line to metrics.jsonl, and its numbers to the TensorBoard events, at ``row["step"]``.

        Raises:
            ValueError: when another hand has changed the file since this run last wrote it.
        """
        self._metrics.append(row)

    def metrics(self) -> list[dict[str, Any]]:
        """All rows of metrics.jsonl, one per epoch; a line cut off by a crash (it has no line end) is left out.

        Raises:
            ValueError: when a whole line is not a row, or the run is complete and these are not the rows it ended with.
        """
        rows, digest = self._metrics.read()
        if self.complete:
            self._check_whole(rows, digest)
        return rows

    def _check_whole(self, rows: list[dict[str, Any]], digest: str) -> None:
        """Of a complete run."""
        end = self.path / "COMPLETE"
        try:
            text = files.read_regular(end, _LARGEST_RECORD)
            if text.startswith(b"{"):
                record = parsed(text)
                expected, ended = record["rows"], record["metrics_sha256"]
            else:  # of a run from before COMPLETE said more than when
                datetime.fromisoformat(text.decode().strip())
                expected, ended = len(rows), None
        except (OSError, ValueError, KeyError) as error:
            raise ValueError(f"{end} is damaged: {error}") from error
        if not rows:
            raise ValueError(f"{self.path} is marked complete and has no metrics")
        changed = ended is not None and digest != ended
        if len(rows) != expected:
            raise ValueError(f"{self.path / 'metrics.jsonl'} has {len(rows)} rows, the run ended with {expected}")
        if changed or (ended is None and rows[-1]["step"] != self.config.total_steps):
            raise ValueError(f"{self.path / 'metrics.jsonl'} is damaged: it is not what the run ended with")

    def drop_metrics_after(self, step: int) -> None:
        """Forget rows past the checkpoint that a resumed run starts from; it will write them again.

        Args:
            step: of the checkpoint; -1 when there is none yet.

        Raises:
            ValueError: when the checkpoint's own row, which was written before it, is missing.
        """
        self._metrics.drop_after(step)

    def record_restart(self, step: int) -> None:
        """Note in the provenance of this session that its first episode is not the one that was interrupted."""
        self._record_session("episode_given_up_at_step", step)

    def record_new_generator(self, step: int) -> None:
        """Note in the provenance of this session that it drew new random numbers, the device being of another kind."""
        self._record_session("new_generator_at_step", step)

    def _record_session(self, name: str, value: int) -> None:
        file = self.path / "provenance.json"
        sessions = _read_json(file)
        sessions[-1][name] = value
        self._replace("provenance.json", json.dumps(sessions, indent=2).encode())

    @property
    def has_checkpoint(self) -> bool:
        """Whether there is a last or a previous checkpoint, damaged or not."""
        return self._checkpoints.exists

    @property
    def checkpoint_cost(self) -> dict[str, float]:
        """``checkpoint_seconds`` and ``checkpoint_bytes`` of the last one written, for the metrics."""
        return self._checkpoints.cost

    def save_checkpoint(self, state: dict[str, Any]) -> None:
        """See ``Checkpoints.save``."""
        self._checkpoints.save(state)

    def previous_step(self) -> int | None:
        """Real steps of the checkpoint before the last; None when there is none that is sound."""
        return self._checkpoints.previous_step()

    def restore_previous(self) -> None:
        """See ``Checkpoints.restore_previous``."""
        self._checkpoints.restore_previous()

    def load_checkpoint(self, device: torch.device | str = "cpu") -> dict[str, Any]:
        """What ``save_checkpoint`` was given last; see ``Checkpoints.load``."""
        return self._checkpoints.load(device)
