"""One page of the API reference for every module, written into docs/api/generated before the site is built."""

from __future__ import annotations

import importlib
import pkgutil
from pathlib import Path
from types import ModuleType

from house_docstrings import OWN_PACKAGES, literal_blocks
from sphinx.application import Sphinx
from sphinx.util.typing import ExtensionMetadata


def modules_of(package: ModuleType) -> list[str]:
    """Full names of the public modules and packages directly inside a package."""
    found = sorted(pkgutil.iter_modules(package.__path__), key=lambda each: (each.ispkg, each.name))
    return [f"{package.__name__}.{each.name}" for each in found if not each.name.startswith("_")]


def summary(module: ModuleType) -> str:
    """The first paragraph of the docstring, in reStructuredText."""
    return " ".join(literal_blocks((module.__doc__ or "").strip().split("\n\n")[0].splitlines()))


def exports(package: ModuleType) -> str:
    """The names in ``__all__``, each with a link to where it is documented."""
    lines = []
    for name in getattr(package, "__all__", ()):
        found = getattr(package, name)
        home, kind = getattr(found, "__module__", None), "class" if isinstance(found, type) else "func"
        linked = callable(found) and home is not None
        lines.append(f":py:{kind}:`{name} <{home}.{name}>`" if linked else f"``{name}``")
    return f"``from {package.__name__} import`` " + ", ".join(lines) + ".\n\n" if lines else ""


def page(module: ModuleType) -> str:
    """The page of a module; that of a package ends with the list of its modules."""
    name = module.__name__
    text = f"{name}\n{'=' * len(name)}\n\n.. automodule:: {name}\n\n"
    if not hasattr(module, "__path__"):
        return text
    inner = [importlib.import_module(each) for each in modules_of(module)]
    text += exports(module)
    text += "".join(f"* :doc:`{each.__name__} <{each.__name__}>`: {summary(each)}\n" for each in inner)
    return text + "\n.. toctree::\n   :hidden:\n\n" + "".join(f"   {each.__name__}\n" for each in inner)


def write(app: Sphinx) -> None:
    """Write the pages that changed; remove those of modules that are gone."""
    folder = Path(app.srcdir) / "api" / "generated"
    folder.mkdir(parents=True, exist_ok=True)
    texts: dict[Path, str] = {}
    waiting = list(OWN_PACKAGES)
    while waiting:
        module = importlib.import_module(waiting.pop())
        texts[folder / f"{module.__name__}.rst"] = page(module)
        waiting += modules_of(module) if hasattr(module, "__path__") else []
    for old in set(folder.glob("*.rst")) - set(texts):
        old.unlink()
    for path, text in texts.items():
        if not path.exists() or path.read_text() != text:
            path.write_text(text)


def setup(app: Sphinx) -> ExtensionMetadata:
    """Write the pages before Sphinx looks for pages."""
    app.connect("builder-inited", write)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
