"""The two last checkpoints of a run: written so that one is sound at every moment, read only when they are whole."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from m3po.runs import files
from m3po.runs.records import FORMAT, check_plain_archive

LAST, PREVIOUS = "checkpoint.pt", "checkpoint.previous.pt"


def _version(status: os.stat_result) -> tuple[int, int, int, int]:
    """Changes with the content of a file."""
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


class Checkpoints:
    """checkpoint.pt and checkpoint.previous.pt of one run.

    Args:
        folder: of the run.
        settings: of the run.
        check: called before every write; raises when this process may not write.

    Attributes:
        cost: ``checkpoint_seconds`` and ``checkpoint_bytes`` of the last one written, for the metrics.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any], check: Callable[[], None]) -> None:
        self._folder, self._check = folder, check
        self._settings = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).digest()
        self._sound: os.stat_result | None = None  # of checkpoint.pt, when it was written or read last
        self.cost: dict[str, float] = {}

    @property
    def exists(self) -> bool:
        """Whether there is a last or a previous checkpoint, damaged or not."""
        return (self._folder / LAST).exists() or (self._folder / PREVIOUS).exists()

    def save(self, state: dict[str, Any]) -> None:
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
        last = self._folder / LAST
        self._check()
        # There is a sound checkpoint.pt at every moment, and a damaged one never takes the place of a sound one.
        if self._last_is_sound():
            files.duplicate(last, self._folder / PREVIOUS)
        self._check()
        files.replace_atomically(last, data + hashlib.sha256(data).digest() + self._settings)
        self._sound = os.stat(last)
        self.cost = {
            "checkpoint_seconds": time.perf_counter() - began,
            "checkpoint_bytes": self._sound.st_size,
        }

    def _last_is_sound(self) -> bool:
        last = self._folder / LAST
        if not last.exists():
            return False
        if self._sound is not None and _version(os.stat(last)) == _version(self._sound):
            return True  # it is the one that this session wrote or read
        try:
            self._sound_archive(LAST)
        except ValueError:
            return False
        return True

    def previous_step(self) -> int | None:
        """Real steps of the checkpoint before the last; None when there is none that is sound."""
        try:
            return int(self._read(PREVIOUS, "cpu")["steps"])
        except ValueError:
            return None

    def restore_previous(self) -> None:
        """Make checkpoint.pt the one before it, when that one is sound.

        Raises:
            ValueError: as ``load``.
        """
        self._check()
        self._sound_archive(PREVIOUS)
        files.duplicate(self._folder / PREVIOUS, self._folder / LAST)

    def _sound_archive(self, name: str) -> bytes:
        """What torch wrote, without the checksums.

        Raises:
            ValueError: when it is not there, is damaged, or is of another run.
        """
        file = self._folder / name
        if not file.is_file():
            raise ValueError(f"{self._folder} has no {name}")
        content = files.read_regular(file)
        size = hashlib.sha256().digest_size
        data, digest, settings = content[: -2 * size], content[-2 * size : -size], content[-size:]
        if hashlib.sha256(data).digest() != digest:
            raise ValueError(f"{file} is damaged: its checksum does not match")
        if settings != self._settings:
            raise ValueError(f"{file} is not of this run: it was written with other settings than config.json's")
        return data

    def _read(self, name: str, device: torch.device | str) -> dict[str, Any]:
        file = self._folder / name
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

    def load(self, device: torch.device | str = "cpu") -> dict[str, Any]:
        """What ``save`` was given last.

        Raises:
            ValueError: when there is none, any byte of it is damaged, it belongs to a run with other settings or to
                another version. Where the previous checkpoint is sound, the message offers it.
        """
        try:
            return self._read(LAST, device)
        except ValueError as error:
            try:
                spare = self._read(PREVIOUS, "cpu")
            except ValueError:
                raise error from None
            raise ValueError(
                f"{error}. The one before it, of step {spare['steps']}, is sound: --resume --from-previous continues "
                "from there"
            ) from None
