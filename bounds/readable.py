"""How what holds arrays is shown: by their shapes and ranges."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np


def readable(carrier: Any) -> str:
    """``Class(field=value, ...)`` of a dataclass, numbers to six digits, arrays as ``array[3, 4] in [low, high]``."""
    fields = ", ".join(f"{each.name}={_short(getattr(carrier, each.name))}" for each in dataclasses.fields(carrier))
    return f"{type(carrier).__name__}({fields})"


def _short(value: Any) -> str:
    if isinstance(value, np.ndarray) and value.dtype == object:
        return f"array{list(value.shape)}"
    if isinstance(value, np.ndarray) and value.ndim:
        ends = f" in [{value.min():.6g}, {value.max():.6g}]" if value.size else ""
        return f"array{list(value.shape)}{ends}"
    if isinstance(value, (float, np.floating)):
        return f"{value:.6g}"
    if isinstance(value, (tuple, list)) and len(value) and all(isinstance(each, np.ndarray) for each in value):
        return f"{len(value)} arrays, first {_short(value[0])}"
    return repr(value)
