"""The sole reader and writer of a run: config, provenance, metrics, TensorBoard events, checkpoint, COMPLETE."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import os
import pickle
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

from m3po.config import ONLY_READ_BY, Config, options_in
from m3po.runs import files
from m3po.runs.event_log import EventLog
from m3po.runs.records import MEBIBYTE, check_plain_archive, check_row, check_sessions, parsed

FORMAT = 2

# Where a run lives and whether it is being resumed are not part of what it is.
_NOT_IDENTITY = ("run_dir", "resume", "from_previous")

# Fields that came after the first runs of this format; those had gated units, and did not read the others.
_ADDED: dict[str, Any] = {
    field.name: field.default for field in dataclasses.fields(Config) if field.name in ONLY_READ_BY
} | {"agent_units": "gated"}

_LARGEST_RECORD, _LARGEST_METRICS = 16 * MEBIBYTE, 1024 * MEBIBYTE

LAST, PREVIOUS = "checkpoint.pt", "checkpoint.previous.pt"


def _fits(value: object, hint: Any) -> bool:
    """Whether a value read from JSON has the type of a field of Config (whole numbers are floats, booleans are not)."""
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    kinds = get_args(hint) or (hint,)
    return type(value) in kinds or (type(value) is int and float in kinds)


def _read_json(file: Path) -> Any:
    """The content of a JSON file, or a ValueError that names it."""
    try:
        return parsed(files.read_regular(file, _LARGEST_RECORD))
    except (OSError, ValueError) as error:
        raise ValueError(f"{file} cannot be read: {error}") from error


def meaning(name: str, value: Any) -> Any:
    """What is compared of a setting: JSON means the same with other spaces, and in another order of its names."""
    return json.dumps(options_in(value), sort_keys=True) if name == "env_options" else value


def _version(status: os.stat_result) -> tuple[int, int, int, int]:
    """Changes with the content of a file."""
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _identity(config: Config) -> dict[str, Any]:
    record = dataclasses.asdict(config)
    for name in _NOT_IDENTITY:
        del record[name]
    return record


ROOT = Path(__file__).resolve().parents[2]

_DISTRIBUTION = "m3po-guarantees"


def _git(*words: str) -> str | None:
    # Variables of a hook, such as GIT_DIR, name another repository.
    surroundings = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        answer = subprocess.run(
            ["git", *words], cwd=ROOT, env=surroundings, capture_output=True, text=True, check=True, timeout=10
        )
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip()


def _from_repository() -> bool:
    """Whether this code is of the repository around it, and not a copy that was installed somewhere below one."""
    top = _git("rev-parse", "--show-toplevel")
    return top is not None and Path(top).resolve() == ROOT and _git("ls-files", "--error-unmatch", __file__) is not None


def _installed() -> metadata.Distribution | None:
    """The installed package that this code is of; None when it is run from its sources."""
    for found in metadata.distributions(name=_DISTRIBUTION):
        if Path(str(found.locate_file("m3po/runs/run_directory.py"))).resolve() == Path(__file__).resolve():
            return found
    return None


def _installed_commit(package: metadata.Distribution) -> str | None:
    """What pip noted of a package that it installed from a repository."""
    try:
        return str(json.loads(package.read_text("direct_url.json") or "")["vcs_info"]["commit_id"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def provenance(argv: Sequence[str]) -> dict[str, Any]:
    """What a result was made with: commit, uncommitted changes, command, versions, hardware, UTC start."""
    ours, package = _from_repository(), _installed()
    commit = _git("rev-parse", "HEAD") if ours else None if package is None else _installed_commit(package)
    status = _git("status", "--porcelain", "--untracked-files=no") if ours else None
    return {
        "commit": commit,
        "dirty": None if status is None else bool(status),
        "argv": list(argv),
        "versions": {
            "python": platform.python_version(),
            **({} if package is None else {_DISTRIBUTION: package.version}),
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
    """The commit of a ``provenance``, with "+" after it where there were uncommitted changes; or else the version."""
    version = made.get("versions", {}).get(_DISTRIBUTION)
    return f"{made['commit'] or (f'version-{version}' if version else 'unknown')}{'+' if made['dirty'] else ''}"


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


class RunDirectory:
    """A run on disk. Open one with ``create``, ``resume`` (to write) or ``read`` (to look).

    Attributes:
        path: the directory.
        config: the run's configuration, with ``run_dir`` set to ``path``.
        checkpoint_cost: ``checkpoint_seconds`` and ``checkpoint_bytes`` of the last one written, for the metrics.
    """

    def __init__(self, path: Path, config: Config, recorded: frozenset[str] | None = None) -> None:
        self.path = path.absolute()  # an environment may change the working directory
        self.config = dataclasses.replace(config, run_dir=self.path)
        # Settings that the run's config.json names; all but in runs from before some of them existed.
        self._recorded = frozenset(_identity(config)) if recorded is None else recorded
        self._lock: files.Lock | None = None
        self._events: EventLog | None = None
        self._metrics_size: int | None = None  # as it was written last; None when it was not written yet
        self._sound: os.stat_result | None = None  # of checkpoint.pt, when it was written or read last
        self.checkpoint_cost: dict[str, float] = {}

    @classmethod
    def create(cls, config: Config) -> RunDirectory:
        """Start a new run. Until its last event, the renaming of config.json, the directory is ``unborn``.

        Raises:
            ValueError: when the directory already holds anything, or another process is at it.
        """
        run = cls(config.run_dir, config)
        taken = f"run directory {config.run_dir} already exists; choose another, or continue that run with --resume"
        if not unborn(run.path):
            raise ValueError(taken)
        origin = json.dumps([provenance(sys.argv)], indent=2)
        record = json.dumps({"format": FORMAT, **_identity(config)}, indent=2)
        run.path.mkdir(parents=True, exist_ok=True)
        files.sync_folder(run.path.parent)
        run._acquire()
        if not unborn(run.path):  # another process was faster
            run.release()
            raise ValueError(taken)
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
            run = cls(path, Config(run_dir=path, **record), recorded)
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
            self._lock = files.Lock(self.path)
        except files.HeldError as error:
            raise ValueError(f"another process is training in {self.path}") from error
        for partial in self.path.glob(f"*{files.PARTIAL}"):  # of a process that was killed
            partial.unlink(missing_ok=True)

    def _check(self) -> None:
        if self._lock is not None:
            self._lock.check()

    def _replace(self, name: str, data: bytes) -> None:
        self._check()
        files.replace_atomically(self.path / name, data)

    def release(self) -> None:
        """Let other processes write here again; the last thing a session does."""
        if self._events is not None:
            self._events.close()
            self._events = None
        if self._lock is not None:
            self._lock.release()
            self._lock = None

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
        self._check()
        file = self.path / "metrics.jsonl"
        content = file.read_bytes() if file.exists() else b""
        self._check_size(len(content))
        rows = self.metrics()
        for name in ("config.json", "provenance.json"):
            if not (self.path / name).is_file():
                raise ValueError(f"{self.path / name} was removed while the run was under way")
        record = {
            "end_utc": datetime.now(UTC).isoformat(timespec="seconds"),
            "rows": len(rows),
            "metrics_sha256": hashlib.sha256(content).hexdigest(),
        }
        self._replace("COMPLETE", json.dumps(record).encode() + b"\n")

    def _check_size(self, size: int) -> None:
        if self._metrics_size is not None and size != self._metrics_size:
            raise ValueError(
                f"{self.path / 'metrics.jsonl'} was changed while the run was under way: it has {size} bytes, "
                f"{self._metrics_size} were written"
            )

    def append_metrics(self, row: dict[str, Any]) -> None:
        """Append one JSON line to metrics.jsonl, and its numbers to the TensorBoard events, at ``row["step"]``.

        Raises:
            ValueError: when another hand has changed the file since this run last wrote it.
        """
        self._check()
        line = json.dumps(row, allow_nan=False).encode() + b"\n"
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(self.path / "metrics.jsonl", flags, 0o666)
        try:
            size = os.fstat(descriptor).st_size
            self._check_size(size)
            files.append(descriptor, line)
        finally:
            os.close(descriptor)
        if size == 0:
            files.sync_folder(self.path)
        self._metrics_size = size + len(line)
        if self._events is None:
            self._events = EventLog(self.path, first_step=row["step"])
        numbers = {name: value for name, value in row.items() if isinstance(value, int | float) and name != "step"}
        self._events.add(numbers, step=row["step"])

    def metrics(self) -> list[dict[str, Any]]:
        """All rows of metrics.jsonl, one per epoch; a line cut off by a crash (it has no line end) is left out.

        Raises:
            ValueError: when a whole line is not a row, or the run is complete and these are not the rows it ended with.
        """
        file = self.path / "metrics.jsonl"
        content = files.read_regular(file, _LARGEST_METRICS) if os.path.lexists(file) else b""
        rows: list[dict[str, Any]] = []
        for number, line in enumerate(content.split(b"\n")[:-1], 1):
            try:
                row = parsed(line)
            except ValueError as error:
                raise ValueError(f"{file} line {number} is not JSON: {error}") from error
            try:
                check_row(row)
            except ValueError as error:
                raise ValueError(f"{file} line {number} {error}") from error
            if rows and row["step"] <= rows[-1]["step"]:
                raise ValueError(f"{file} line {number} has step={row['step']} after step {rows[-1]['step']}")
            rows.append(row)
        if self.complete:
            self._check_whole(content, rows)
        return rows

    def _check_whole(self, content: bytes, rows: list[dict[str, Any]]) -> None:
        """Of a complete run."""
        end = self.path / "COMPLETE"
        try:
            text = files.read_regular(end, _LARGEST_RECORD)
            if text.startswith(b"{"):
                record = parsed(text)
                expected, digest = record["rows"], record["metrics_sha256"]
            else:  # of a run from before COMPLETE said more than when
                datetime.fromisoformat(text.decode().strip())
                expected, digest = len(rows), None
        except (OSError, ValueError, KeyError) as error:
            raise ValueError(f"{end} is damaged: {error}") from error
        if not rows:
            raise ValueError(f"{self.path} is marked complete and has no metrics")
        changed = digest is not None and hashlib.sha256(content).hexdigest() != digest
        if len(rows) != expected:
            raise ValueError(f"{self.path / 'metrics.jsonl'} has {len(rows)} rows, the run ended with {expected}")
        if changed or (digest is None and rows[-1]["step"] != self.config.total_steps):
            raise ValueError(f"{self.path / 'metrics.jsonl'} is damaged: it is not what the run ended with")

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
        content = "".join(json.dumps(row) + "\n" for row in kept).encode()
        self._replace("metrics.jsonl", content)
        self._metrics_size = len(content)

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
        return (self.path / LAST).exists() or (self.path / PREVIOUS).exists()

    def save_checkpoint(self, state: dict[str, Any]) -> None:
        """Replace checkpoint.pt atomically and keep the one before as checkpoint.previous.pt, when it is sound.

        The file is torch's archive and, behind it, two SHA-256: of the archive, whose own checksums leave out its
        directory, and of the run's settings, since a checkpoint of another run must not be taken for one of this.

        Args:
            state: nested dicts and lists of tensors, numbers, strings and None.
        """
        began = time.perf_counter()
        archive = io.BytesIO()
        torch.save({"format": FORMAT, "state": state}, archive)
        data = archive.getvalue()
        last = self.path / LAST
        self._check()
        # There is a sound checkpoint.pt at every moment, and a damaged one never takes the place of a sound one.
        if self._last_is_sound():
            files.duplicate(last, self.path / PREVIOUS)
        self._replace(LAST, data + hashlib.sha256(data).digest() + self._settings_digest())
        self._sound = os.stat(last)
        self.checkpoint_cost = {
            "checkpoint_seconds": time.perf_counter() - began,
            "checkpoint_bytes": self._sound.st_size,
        }

    def _last_is_sound(self) -> bool:
        last = self.path / LAST
        if not last.exists():
            return False
        if self._sound is not None and _version(os.stat(last)) == _version(self._sound):
            return True  # it is the one that this session wrote or read
        try:
            self._sound_archive(LAST)
        except ValueError:
            return False
        return True

    def restore_previous(self) -> None:
        """Make checkpoint.pt the one before it, when that one is sound.

        Raises:
            ValueError: as ``load_checkpoint``.
        """
        self._check()
        self._sound_archive(PREVIOUS)
        files.duplicate(self.path / PREVIOUS, self.path / LAST)

    def _settings_digest(self) -> bytes:
        settings = {name: value for name, value in _identity(self.config).items() if name in self._recorded}
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).digest()

    def _sound_archive(self, name: str) -> bytes:
        """What torch wrote, without the checksums.

        Raises:
            ValueError: when it is not there, is damaged, or is of another run.
        """
        file = self.path / name
        if not file.is_file():
            raise ValueError(f"{self.path} has no {name}")
        content = files.read_regular(file)
        size = hashlib.sha256().digest_size
        data, digest, settings = content[: -2 * size], content[-2 * size : -size], content[-size:]
        if hashlib.sha256(data).digest() != digest:
            raise ValueError(f"{file} is damaged: its checksum does not match")
        if settings != self._settings_digest():
            raise ValueError(f"{file} is not of this run: it was written with other settings than config.json's")
        return data

    def _read_checkpoint(self, name: str, device: torch.device | str) -> dict[str, Any]:
        file = self.path / name
        data = self._sound_archive(name)
        try:
            check_plain_archive(data)
            record = torch.load(io.BytesIO(data), map_location=device, weights_only=True)
        except (ValueError, RuntimeError, pickle.UnpicklingError, EOFError, TypeError) as error:
            raise ValueError(f"{file} is no checkpoint: {error}") from error
        if not isinstance(record, dict) or record.get("format") != FORMAT:
            version = record.get("format") if isinstance(record, dict) else None
            raise ValueError(f"{file} has format {version}, this version reads format {FORMAT}")
        state = record.get("state")
        if not isinstance(state, dict) or not isinstance(state.get("steps", 0), int):
            raise ValueError(f"{file} holds no state of a training")
        return state

    def load_checkpoint(self, device: torch.device | str = "cpu") -> dict[str, Any]:
        """What ``save_checkpoint`` was given last.

        Raises:
            ValueError: when there is none, any byte of it is damaged, it belongs to a run with other settings or to
                another version. Where the previous checkpoint is sound, the message offers it.
        """
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
