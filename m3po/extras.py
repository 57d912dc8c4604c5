"""Libraries that only some commands need, and the extra of this package that brings each."""

from __future__ import annotations

DISTRIBUTION = "m3po-guarantees"

EXTRA_OF = {
    "torch": "train",
    "gymnasium": "train",
    "mujoco": "train",
    "tensorboard": "train",
    "ray": "cluster",
    "z3": "verify",
}


def missing_extra(error: ModuleNotFoundError) -> str | None:
    """What to install for the library that is missing; None when it is none of an extra."""
    library = (error.name or "").partition(".")[0]
    if library not in EXTRA_OF:
        return None
    return f"this needs {library}: pip install '{DISTRIBUTION}[{EXTRA_OF[library]}]'"
