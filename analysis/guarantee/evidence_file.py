"""Evidence as an .npz file, which ``m3po certify`` reads."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from analysis.guarantee.evidence import Evidence
from m3po.runs.files import read_regular
from m3po.runs.records import read_arrays


def save(evidence: Evidence, path: str | Path) -> None:
    """Write an .npz that ``load`` reads back as the same evidence. A file that is there is replaced.

    Raises:
        ValueError: when the name does not end in .npz.
    """
    if Path(path).suffix != ".npz":
        raise ValueError(f"path must end in .npz, got {path}")
    entries = {field.name: getattr(evidence, field.name) for field in dataclasses.fields(Evidence)}
    if evidence.rollout_length is None:
        entries["rollout_length"] = "full"
    elif evidence.rollout_length == "not said":
        del entries["rollout_length"]
    np.savez_compressed(path, **{name: value for name, value in entries.items() if value is not None})


def load(path: Path) -> Evidence:
    """Read an .npz whose entries are named like the fields of ``Evidence``: arrays, and numbers, truth values and words
    as arrays without axes.

    With ``model_returns``, ``rollout_length`` must be there: k, or "full" (0 in older files) for full rollouts.

    Raises:
        ValueError: when it cannot be read, an entry is unknown or missing, or the values do not fit.
    """
    fields = {field.name: field for field in dataclasses.fields(Evidence)}
    for name, value in (values := _entries(path)).items():
        if name not in fields:
            raise ValueError(f"{path} has an unknown entry {name!r}; known are {', '.join(fields)}")
        if not isinstance(value, np.ndarray):
            raise ValueError(f"the entry {name!r} of {path} is no array")
    needed = {name for name, field in fields.items() if field.default is dataclasses.MISSING}
    if "rewards" not in values:
        needed |= {"model_returns"}
    if "model_returns" in values or "rewards" not in values:
        needed |= {"rollout_length"}
    for name in fields:
        if name in needed and name not in values:
            raise ValueError(f"{path} has no entry {name!r}")
    length = values.get("rollout_length")
    if length is not None and length.ndim == 0 and length.dtype.kind in "iu" and length == 0:
        values["rollout_length"] = None
    return Evidence(**values)


def _entries(path: Path) -> dict[str, Any]:
    """What an .npz file holds, by name."""
    try:
        data = read_regular(path)
    except OSError as error:
        raise ValueError(f"{path} cannot be read as .npz: {error}") from error
    if data.startswith(b"\x93NUMPY"):
        raise ValueError(f"{path} holds one array without a name; np.savez writes several with names")
    return dict(read_arrays(path, data))
