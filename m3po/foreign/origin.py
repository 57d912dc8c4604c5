"""Building the environment that a run directory from elsewhere names, without running or reading what else it names."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

OURS = "m3po.envs"

_ROOT = Path(__file__).resolve().parents[2]


def check_environment(env_id: str, options: Mapping[str, Any]) -> None:
    """The environment is gymnasium's, this project's or an installed plugin's, and its options are numbers.

    An id ``module:Name`` imports the module, and a text among the options may name a file, a module or a window.

    Raises:
        ValueError: naming the id or option that asks for more.
    """
    module, separator, _ = env_id.partition(":")
    cure = "read it with --trust-env if you trust where the run comes from"
    if separator and not (module == OURS or module.startswith(f"{OURS}.") or module.split(".")[0] in _plugins()):
        raise ValueError(f"the run's env_id {env_id!r} imports the module {module!r}; {cure}")
    for name, value in options.items():
        if _has_text(value):
            raise ValueError(f"the run's env_options give {name!r} a text, which may name a file; {cure}")


def _plugins() -> set[str]:
    """Packages that are installed as plugins of gymnasium, and gymnasium itself."""
    return {"gymnasium", *(each.module.split(".")[0] for each in metadata.entry_points(group="gymnasium.envs"))}


def _has_text(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(map(_has_text, value.values()))
    if isinstance(value, list | tuple):
        return any(map(_has_text, value))
    return isinstance(value, str)


@contextmanager
def nothing_from_here() -> Iterator[None]:
    """Inside the ``with`` block nothing new is imported from the working directory, unless it is this project's own."""
    path = list(sys.path)
    here = Path(os.getcwd()).resolve()
    if here != _ROOT:
        sys.path[:] = [each for each in path if each and Path(each).resolve() != here]
    try:
        yield
    finally:
        sys.path[:] = path
