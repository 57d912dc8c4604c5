"""M3PO: meta-model-based meta-policy optimization (Hiraoka et al. 2021), its environments and its baselines.

``m3po.load(run_dir)`` gives the policy and the model of a run of ``m3po.train``. Importing this package, before or
after gymnasium, registers its environments: ``gymnasium.make("m3po/HalfCheetahFwdBwd-v0")``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from m3po.registration import register_with_gymnasium
from m3po.runs.interruption import end_quietly_while_importing
from m3po.version import __version__

if TYPE_CHECKING:
    from m3po.trained import load

__all__ = ["__version__", "load"]

end_quietly_while_importing()

register_with_gymnasium()


def __getattr__(name: str) -> Any:
    """What needs torch is imported when it is asked for."""
    if name == "load":
        from m3po.trained import load

        return load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
