"""The files that commands write: checked before the work, written whole after it, and never over somebody else's.

One rule for all: a name that is free is written. A file that is there is replaced when it carries the mark of the same
command, which then made it, or with ``--overwrite``. A link is replaced with ``--overwrite`` only, and what it points
to stays as it is; directories, devices and the files that the command reads are never replaced.
"""

from __future__ import annotations

import io
import os
import secrets
import stat
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from m3po.flag_checks import flag
from m3po.runs.files import PARTIAL, replace_atomically
from m3po.runs.terminal import shown

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from numpy.typing import ArrayLike

_OF_A_RUN = (
    "config.json", "provenance.json", "metrics.jsonl", "COMPLETE", "lock", "checkpoint.pt", "checkpoint.previous.pt",
)  # fmt: skip

# Where the key of the metadata that names the maker differs from format to format.
_MAKER = {".png": "Software", ".pdf": "Creator", ".svg": "Creator"}

_SEARCHED = 1 << 16  # bytes at either end of a file that may hold the mark


def mark_of(command: str) -> str:
    """What a page, picture or archive written by ``python -m command`` holds."""
    return f"m3po-guarantees {command}"


def files_of(*run_dirs: Path) -> tuple[Path, ...]:
    """What a training wrote into these run directories."""
    return tuple(path / name for path in run_dirs for name in _OF_A_RUN)


@dataclass(frozen=True)
class Output:
    """One file that a command will write.

    Attributes:
        name: of the field that names the file, for messages.
        path: of the file.
        mark: text that every file written by this command holds near its beginning or its end: ``mark_of`` it, or the
            heading of a table.
        overwrite: replace a file without the mark.
        read: files that the command reads.
    """

    name: str
    path: Path
    mark: str
    overwrite: bool = False
    read: Sequence[Path] = ()

    @property
    def shown(self) -> Path:
        """The path for people."""
        return shown(self.path)

    def check(self) -> Output:
        """Whether the file may be written and can be; returns itself.

        Raises:
            ValueError: when it may not, or its directory cannot be written to.
        """
        self._check_replaced()
        probe = self.path.with_name(f"{secrets.token_hex(8)}{PARTIAL}")
        try:
            replace_atomically(probe, b"")
            probe.unlink()
        except OSError as error:
            raise self._failure(error) from error
        return self

    def _check_replaced(self) -> None:
        named = f"{flag(self.name)}: {self.shown}"
        try:
            there = self.path.lstat()
        except FileNotFoundError:
            return
        except OSError as error:
            raise self._failure(error) from error
        if not (stat.S_ISREG(there.st_mode) or stat.S_ISLNK(there.st_mode)):
            kind = "a directory" if stat.S_ISDIR(there.st_mode) else "no regular file"
            raise ValueError(f"{flag(self.name)} must be a file, got {self.shown}, which is {kind}")
        if any(each.exists() and self.path.exists() and each.samefile(self.path) for each in self.read):
            raise ValueError(f"{named} is read by this command; choose another file")
        if self.overwrite:
            return
        if stat.S_ISLNK(there.st_mode):
            raise ValueError(f"{named} is a link; choose another file, or replace the link with --overwrite")
        if not self._marked():
            raise ValueError(
                f"{named} exists, and this command did not write it; choose another file, or replace it with "
                "--overwrite"
            )

    def _marked(self) -> bool:
        try:
            descriptor = os.open(self.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError:
            return False
        with os.fdopen(descriptor, "rb") as file:
            found = file.read(_SEARCHED)
            file.seek(max(0, os.fstat(file.fileno()).st_size - _SEARCHED))
            found += file.read()
        return self.mark.encode() in found

    def _failure(self, error: OSError) -> ValueError:
        return ValueError(f"{flag(self.name)}: cannot write {self.shown}: {error.strerror or error}")

    def write(self, content: bytes | str) -> None:
        """The file is the old one or the new one at every moment, never a part.

        Raises:
            ValueError: when it may not be replaced, or cannot be written.
        """
        self._check_replaced()
        try:
            if self.path.is_symlink():
                self.path.unlink()
            replace_atomically(self.path, content.encode() if isinstance(content, str) else content)
        except OSError as error:
            raise self._failure(error) from error

    def write_figure(self, figure: Figure, **options: Any) -> None:
        """Draw the figure in the format that the file's name ends in.

        Raises:
            ValueError: as ``write``.
        """
        kind = self.path.suffix.lower()
        drawn = io.BytesIO()
        figure.savefig(drawn, format=kind[1:], metadata={_MAKER[kind]: self.mark}, **options)
        self.write(drawn.getvalue())

    def write_arrays(self, **arrays: ArrayLike) -> None:
        """A compressed .npz archive, which ``numpy.load`` reads.

        Raises:
            ValueError: as ``write``.
        """
        archive = io.BytesIO()
        np.savez_compressed(archive, **arrays)  # type: ignore[arg-type]
        with zipfile.ZipFile(archive, "a") as opened:
            opened.comment = self.mark.encode()
        self.write(archive.getvalue())
