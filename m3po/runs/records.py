"""What may stand in the files of a run, which may come from anywhere: the types of values, and how much is unpacked."""

from __future__ import annotations

import io
import json
import math
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

FORMAT = 2  # of run directories and checkpoints

MEBIBYTE = 1 << 20

# A compressed archive may grow to so many bytes, or to so many times its own size if that is more.
UNPACKED, GROWTH = 1024 * MEBIBYTE, 20

_LARGEST = 2**63  # of a whole number

_PROFILES = ("profile", "profile_upper", "policy_divergence_upper")  # end the names of lists of numbers


def parsed(text: bytes | str) -> Any:
    """Read strict JSON.

    Raises:
        ValueError: also for NaN and infinities, which JSON lacks, and for text nested too deeply.
    """

    def refused(name: str) -> NoReturn:
        raise ValueError(f"{name} is not JSON")

    try:
        return json.loads(text, parse_constant=refused)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _is_number(value: object) -> bool:
    return (type(value) is int and abs(value) < _LARGEST) or (type(value) is float and math.isfinite(value))


def check_row(row: object) -> None:
    """A row of metrics: ``step``, and numbers, profiles (lists of numbers) and ``warnings`` (texts) by their names.

    Raises:
        ValueError: naming what is something else.
    """
    if not isinstance(row, dict) or "step" not in row:
        raise ValueError("is not a row of metrics")
    step = row["step"]
    if type(step) is not int or not 0 <= step < _LARGEST:
        raise ValueError(f"has step={_shown(step)}, which is no number of steps")
    for name, value in row.items():
        if name == "warnings":
            sound, kind = isinstance(value, list) and all(isinstance(each, str) for each in value), "list of texts"
        elif name.endswith(_PROFILES):
            sound, kind = isinstance(value, list) and all(map(_is_number, value)), "list of numbers"
        else:
            sound, kind = _is_number(value), "finite number"
        if not sound:
            raise ValueError(f"has {_shown(name)}={_shown(value)}, which is no {kind}")


def check_sessions(sessions: object) -> None:
    """The provenance of a run: one record of texts, numbers and lists or records of them per session.

    Raises:
        ValueError: naming what is something else.
    """
    if not isinstance(sessions, list):
        raise ValueError("is not the provenance of a run")
    kinds: Mapping[str, tuple[type, ...]] = {
        "commit": (str, type(None)),
        "dirty": (bool, type(None)),
        "argv": (list,),
        "versions": (dict,),
        "hardware": (dict,),
        "start_utc": (str,),
    }
    for session in sessions:
        if not isinstance(session, dict):
            raise ValueError(f"holds {_shown(session)}, which is no session")
        for name, kind in kinds.items():
            if name not in session and name in ("argv", "versions", "hardware", "start_utc"):
                continue
            value = session.get(name)
            inside = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []
            texts_only = name != "argv" or all(isinstance(each, str) for each in inside)
            plain = all(each is None or isinstance(each, str | int | float) for each in inside)
            if not (isinstance(value, kind) and plain and texts_only):
                raise ValueError(f"has {name}={_shown(value)}, which is no {name} of a session")


def _shown(value: object) -> str:
    text = repr(value) if not isinstance(value, int) or abs(value) < _LARGEST else "a number too large"
    return text if len(text) < 80 else f"{text[:77]}..."


def check_plain_archive(data: bytes) -> None:
    """An archive as torch writes it, not compressed: nothing in it is larger than the file says.

    Raises:
        ValueError: when it is no archive, or something in it is compressed or lies about its size.
    """
    with _opened(io.BytesIO(data)) as archive:
        entries = archive.infolist()
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise ValueError("something in it is compressed, which torch does not do")
        if sum(entry.file_size for entry in entries) > len(data):
            raise ValueError("its entries are larger than the file")


def read_arrays(path: Path, data: bytes) -> dict[str, NDArray[Any]]:
    """The arrays of an .npz archive: numbers, and single texts.

    Args:
        path: for messages.
        data: the file's content.

    Raises:
        ValueError: when it is no such archive, or unpacks to more than a gibibyte and 20 times its size.
    """
    most = max(UNPACKED, GROWTH * len(data))
    try:
        with _opened(io.BytesIO(data)) as archive:
            entries = archive.infolist()
            if len({entry.filename for entry in entries}) < len(entries):
                raise ValueError("two entries have one name")
            if sum(entry.file_size for entry in entries) > most:
                raise ValueError(f"it would unpack to more than {most // MEBIBYTE} MiB")
            for entry in entries:
                _check_array(archive, entry)
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        raise ValueError(f"{path} cannot be read as .npz: {error}") from error


def _opened(file: io.BytesIO) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(file)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, OSError) as error:
        raise ValueError(f"it is no zip archive: {error}") from error


def _check_array(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> None:
    """numpy makes room for what the head of an array says before it reads the rest."""
    with archive.open(entry) as file:
        version = np.lib.format.read_magic(file)
        read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}.get(version)
        if read is None:
            raise ValueError(f"{entry.filename} is an array of format {version}")
        shape, _, dtype = read(file)
    if dtype.kind not in "biuf" and not (dtype.kind == "U" and shape == ()):
        raise ValueError(f"{entry.filename} holds {dtype}, no numbers")
    if math.prod(shape) * dtype.itemsize > entry.file_size:
        raise ValueError(f"{entry.filename} says that it is larger than it is")
