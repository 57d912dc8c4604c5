"""What was fitted on which of the episodes that certify it: declared, refused, or said to be assumed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from analysis.guarantee.forms import shown

FITTED = ("policy", "model", "critic")

Dependence = NDArray[np.bool_] | Literal["independent"] | None


def dependence_of(name: str, value: object, episodes: int) -> NDArray[np.bool_] | None:
    """[N] booleans, True where an episode was used to fit; None where it is not said.

    Raises:
        ValueError: another word, numbers, or another length.
    """
    if value is None:
        return None
    array = np.asarray(value)
    if array.ndim == 0 and array.dtype.kind == "U" and array.item() == "independent":
        return np.zeros(episodes, dtype=bool)
    if array.dtype != np.bool_ or array.shape != (episodes,):
        kind = f"{array.dtype} of shape {array.shape}" if array.ndim else shown(value)
        raise ValueError(f"{name} must be 'independent' or booleans, one for each of {episodes} episodes, got {kind}")
    return array


def reuse(name: str, dependence: Dependence) -> str | None:
    """Why what was fitted on some of these episodes cannot be certified on them; None where nothing was."""
    if dependence is None or isinstance(dependence, str) or not dependence.any():
        return None
    return (
        f"{name}_dependence says that the {name} was fitted on {int(dependence.sum())} of these "
        f"{len(dependence)} episodes (the first is {int(dependence.argmax())}): certify it on episodes it has not seen"
    )


def refuse_reuse(name: str, dependence: Dependence) -> None:
    """Raises:
    ValueError: where the dependence says that episodes are used twice.
    """
    if (why := reuse(name, dependence)) is not None:
        raise ValueError(why)


def assumed(dependences: Mapping[str, Dependence]) -> list[str]:
    """What is only assumed to be independent of the episodes, since nothing is said."""
    return [name for name, dependence in dependences.items() if dependence is None]
