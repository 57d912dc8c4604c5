"""Every bound of the toolkit; adding one is adding one entry here."""

from __future__ import annotations

from bounds import mbpo, optimal, paper
from bounds.bound import Bound

ALL_BOUNDS: tuple[Bound, ...] = (*paper.BOUNDS, *mbpo.BOUNDS, *optimal.BOUNDS)


def get(name: str) -> Bound:
    """The bound of that name.

    Raises:
        ValueError: no bound has that name; the message lists those that exist.
    """
    for bound in ALL_BOUNDS:
        if bound.name == name:
            return bound
    raise ValueError(f"unknown bound {name!r}; the catalogue has {', '.join(bound.name for bound in ALL_BOUNDS)}")
