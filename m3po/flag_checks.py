"""What the fields of a command's settings may hold: declared where a field is, checked in one place.

    @dataclass(frozen=True)
    class Settings:
        episodes: Annotated[int, Within(2, 10**6)] = 100
        seeds: Annotated[tuple[Seed, ...], Items(different=True)] = (0, 1)
        confidence: Confidence = 0.95

        def __post_init__(self) -> None:
            check_fields(self)

Upper ends keep numbers out that no machine can work through or hold in memory.
"""

from __future__ import annotations

import dataclasses
import errno
import functools
import math
import numbers
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints


@dataclass(frozen=True)
class Within:
    """The range of a number: from ``low`` to ``high``, both included unless they are among ``without``."""

    low: float = -math.inf
    high: float = math.inf
    without: tuple[float, ...] = ()

    def must(self, value: Any) -> str | None:
        """What a number that lies outside must be, None for one that lies inside."""
        if _is_finite(value) and self.low <= value <= self.high and value not in self.without:
            return None
        if isinstance(value, int) and not self.without:
            return f">= {self.low}" if value < self.low else f"<= {self.high}"
        if math.isinf(self.high):
            least = "" if math.isinf(self.low) else f" {'>' if self.low in self.without else '>='} {self.low}"
            return f"a finite number{least}"
        opening, closing = "(" if self.low in self.without else "[", ")" if self.high in self.without else "]"
        return f"in {opening}{self.low}, {self.high}{closing}"


@dataclass(frozen=True)
class Items:
    """How many values a list has at least, and whether they must differ."""

    least: int = 1
    different: bool = False


# Numbers of things that are done one after the other; the largest keep a machine busy for years.
Steps = Annotated[int, Within(1, 10**9)]
# Numbers of things that are held in memory at once.
Count = Annotated[int, Within(1, 10**6)]
EpisodeCount = Annotated[int, Within(2, 10**6)]
# Units, layers' inputs and outputs: a square layer of the largest takes 40 GB.
Units = Annotated[int, Within(1, 10**5)]
# What torch and gymnasium take, with room for seed + 1.
Seed = Annotated[int, Within(0, 2**63 - 2)]
NotNegative = Annotated[int, Within(0, 10**9)]
Members = Annotated[int, Within(1, 1000)]
Threads = Annotated[int, Within(1, 1024)]
Pixels = Annotated[int, Within(16, 4096)]
Share = Annotated[float, Within(0, 1)]
PositiveShare = Annotated[float, Within(0, 1, without=(0,))]
Confidence = Annotated[float, Within(0, 1, without=(0, 1))]
Discount = Annotated[float, Within(0, 1, without=(1,))]
Positive = Annotated[float, Within(0, without=(0,))]


def _is_finite(value: Any) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number that no float can hold
        return False


def flag(name: str) -> str:
    """The command-line spelling of a field."""
    return "--" + name.replace("_", "-")


def check_fields(config: Any) -> None:
    """Every field of a dataclass holds what its annotation declares: the type, finite numbers, ``Within``, ``Items``.

    Raises:
        ValueError: names the flag and the value of the first that does not.
    """
    for name, hint, label in _declared(config.__class__):
        _check(label, getattr(config, name), hint)


def labels(config_type: type) -> list[str]:
    """What messages call the fields of a dataclass: ``--flag``, or ``NAME`` of a word without one."""
    return [label for _, _, label in _declared(config_type)]


@functools.cache
def _declared(config_type: type) -> list[tuple[str, Any, str]]:
    """Of every field: its name, its annotation, and what a message calls it."""
    hints = get_type_hints(config_type, include_extras=True)
    return [
        (each.name, hints[each.name], _label(each.name, hints[each.name])) for each in dataclasses.fields(config_type)
    ]


def _label(name: str, hint: Any) -> str:
    metadata = getattr(hint, "__metadata__", ())
    if any("Positional" in repr(each) for each in metadata):
        return name.upper()
    renamed = [each.name for each in metadata if isinstance(getattr(each, "name", None), str)]  # by tyro.conf.arg
    return flag(renamed[0] if renamed else name)


def _check(label: str, value: Any, hint: Any, ranges: Sequence[Within] = (), items: Items | None = None) -> None:
    if get_origin(hint) is Annotated:
        ranges = [*ranges, *(each for each in hint.__metadata__ if isinstance(each, Within))]
        items = next((each for each in hint.__metadata__ if isinstance(each, Items)), items)
        _check(label, value, hint.__origin__, ranges, items)
        return
    arguments = get_args(hint)
    if get_origin(hint) is Literal:
        if value not in arguments:
            raise ValueError(f"{label} must be one of {', '.join(map(str, arguments))}, got {value}")
    elif type(None) in arguments:
        if value is not None:
            (kind,) = (each for each in arguments if each is not type(None))
            _check(label, value, kind, ranges, items)
    elif get_origin(hint) is tuple:
        if not isinstance(value, tuple):
            raise ValueError(f"{label} must be a tuple, got {value!r}")
        if items is not None and len(value) < items.least:
            raise ValueError(f"{label} needs at least {items.least} value{'s'[: items.least - 1]}, got {len(value)}")
        if items is not None and items.different and len(set(value)) < len(value):
            raise ValueError(f"{label} must be different values, got {' '.join(map(str, value))}")
        for each in value:
            _check(label, each, arguments[0], ranges)
    else:
        _check_one(label, value, hint, ranges)


_KINDS: dict[Any, tuple[type, str]] = {
    int: (numbers.Integral, "a whole number"),
    float: (numbers.Real, "a number"),
    bool: (bool, "true or false"),
    str: (str, "text"),
    Path: (Path, "a path"),
}


def _check_one(label: str, value: Any, kind: Any, ranges: Sequence[Within]) -> None:
    python_type, described = _KINDS[kind]
    if not isinstance(value, python_type) or (isinstance(value, bool) and kind is not bool):
        raise ValueError(f"{label} must be {described}, got {value!r}")
    if isinstance(value, Path):
        try:
            value.lstat()
        except (OSError, ValueError) as error:  # the name may be too long, or hold a NUL
            if isinstance(error, ValueError) or error.errno == errno.ENAMETOOLONG:
                raise ValueError(f"{label}: no file can be called so, got {value}") from error
    for each in ranges or ([Within()] if kind is float else []):
        must = each.must(value)
        if must is not None:
            raise ValueError(f"{label} must be {must}, got {value}")


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
