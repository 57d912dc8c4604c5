"""Files that figures are drawn into."""

from __future__ import annotations

from pathlib import Path

from m3po.flag_checks import flag

FIGURE_SUFFIXES = (".png", ".pdf", ".svg")


def check_figure(name: str, path: Path | None) -> None:
    """The value of field ``name`` is a file in an existing directory, of a format that figures are drawn in, or None.

    Raises:
        ValueError: when it is not.
    """
    if path is None:
        return
    if path.suffix.lower() not in FIGURE_SUFFIXES:
        raise ValueError(f"{flag(name)} must end in one of {', '.join(FIGURE_SUFFIXES)}, got {path}")
    if not path.parent.is_dir():
        raise ValueError(f"{flag(name)}: no directory {path.parent} for {path}")
