"""What an environment returned, copied and checked: numbers and flags, whatever form it gives them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def numbers(env_id: str, what: str, values: Any, shape: tuple[int, ...]) -> Array:
    """A float64 copy of what an environment returned.

    Raises:
        ValueError: when it is no array of numbers of this shape.
    """
    try:
        array = np.array(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{env_id} returned {what} {values!r}, which is no array of numbers: {error}") from error
    if array.shape != shape:
        raise ValueError(f"{env_id} returned {what} of shape {list(array.shape)}, its space has {list(shape)}")
    return array


def flags(env_id: str, what: str, values: Any, count: int) -> NDArray[np.bool_]:
    """``count`` booleans, also where an environment returned 0 and 1.

    Raises:
        ValueError: when it returned anything else.
    """
    array = np.array(values)
    if array.dtype != np.bool_ and not (array.dtype.kind in "iuf" and np.isin(array, (0, 1)).all()):
        raise ValueError(f"{env_id} returned {what}={values!r}, which is neither true nor false")
    if array.size != count:
        raise ValueError(f"{env_id} returned {array.size} values of {what}, expected {count}")
    return array.reshape(count).astype(np.bool_)
