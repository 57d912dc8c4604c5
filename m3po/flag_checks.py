"""The checks of flags that many command lines share; each names the flag and the bad value in its ValueError."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def flag(name: str) -> str:
    """The command-line spelling of a field."""
    return "--" + name.replace("_", "-")


def check_at_least(config: object, **least: int) -> None:
    """Every named field of ``config`` is None or no smaller than what is given for it.

    Raises:
        ValueError: naming the first that is.
    """
    for name, smallest in least.items():
        value = getattr(config, name)
        if value is not None and value < smallest:
            raise ValueError(f"{flag(name)} must be >= {smallest}, got {value}")


def check_confidence(confidence: float) -> None:
    """A confidence level lies strictly between 0 and 1.

    Raises:
        ValueError: when it does not.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"--confidence must be in (0, 1), got {confidence}")


def check_directory(name: str, path: Path | None) -> None:
    """The value of field ``name`` is a directory, or None.

    Raises:
        ValueError: when it is not.
    """
    if path is not None and not path.is_dir():
        raise ValueError(f"{flag(name)}: no directory {path}")


def check_directory_of(name: str, file: Path | None) -> None:
    """The value of field ``name`` is a file that can be written as far as its directory exists, or None.

    Raises:
        ValueError: when there is no such directory.
    """
    check_directory(name, None if file is None else file.parent)


def check_run_dirs(run_dirs: Sequence[Path]) -> None:
    """At least one run directory is named.

    Raises:
        ValueError: when none is.
    """
    if not run_dirs:
        raise ValueError("name at least one run directory")
