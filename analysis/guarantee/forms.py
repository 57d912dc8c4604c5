"""The forms that entries of evidence may have: nothing is converted that could mean something else."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def shown(value: object) -> str:
    if isinstance(value, np.ndarray) and value.ndim:
        return f"an array of shape {value.shape}"
    if isinstance(value, np.ndarray | np.generic):
        value = value.item()
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def number(name: str, value: object) -> float:
    """A real number.

    Raises:
        ValueError: text, truth values, complex numbers, arrays with axes.
    """
    array = np.asarray(value)
    if array.ndim or array.dtype.kind not in "iuf":
        raise ValueError(f"{name} must be one number, got {shown(value)}")
    return float(array)


def truth(name: str, value: object) -> bool:
    array = np.asarray(value)
    if array.ndim or array.dtype.kind != "b":
        raise ValueError(f"{name} must be True or False, got {shown(value)}")
    return bool(array)


def rollout_length_of(value: object) -> int | Literal["not said"] | None:
    array = np.asarray(value)
    if value is None or (array.ndim == 0 and array.dtype.kind == "U" and array.item() == "full"):
        return None
    if isinstance(value, str) and value == "not said":
        return "not said"
    if array.ndim or array.dtype.kind not in "iu" or not 1 <= int(array) <= 2**53:
        raise ValueError(f"rollout_length must be a whole number >= 1, or 'full', got {shown(value)}")
    return int(array)


def array_of(name: str, value: object, axes: str, count: int) -> Array:
    """An array of real numbers with ``count`` axes, as float64.

    Raises:
        ValueError: anything else, masked arrays among it (the mask would be lost).
    """
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise ValueError(f"{name} must be an array of numbers with {axes}: {error}") from error
    if array.dtype.kind not in "iuf" or isinstance(value, np.ma.MaskedArray):
        kind = "a masked array" if isinstance(value, np.ma.MaskedArray) else f"type {array.dtype}"
        raise ValueError(f"{name} must hold real numbers, got {kind}")
    if array.ndim != count or 0 in array.shape:
        raise ValueError(f"{name} must have {axes}, got shape {array.shape}")
    return array.astype(np.float64)


def labels_of(name: str, value: object) -> NDArray[np.int64]:
    """[N] whole numbers.

    Raises:
        ValueError: anything else.
    """
    array = np.asarray(value)
    if array.dtype.kind not in "iu" or array.ndim != 1 or isinstance(value, np.ma.MaskedArray):
        raise ValueError(f"{name} must be a list of whole numbers, one for each episode, got {shown(value)}")
    return array.astype(np.int64)
