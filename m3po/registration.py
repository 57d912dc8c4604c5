"""The environments are registered when gymnasium is there, without making anybody wait for it who does not need it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType


class _AfterGymnasium(MetaPathFinder):
    """Stands in front of the finders until gymnasium is imported, and registers behind it."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != "gymnasium":
            return None
        sys.meta_path.remove(self)
        spec = find_spec("gymnasium")
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            import m3po.envs  # noqa: F401 (registers them)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def register_with_gymnasium() -> None:
    """Register the environments now where gymnasium is imported already, otherwise as soon as it is."""
    if sys.modules.get("gymnasium") is not None:
        import m3po.envs  # noqa: F401 (registers them)
    else:
        sys.meta_path.insert(0, _AfterGymnasium())
