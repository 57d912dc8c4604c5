"""What a result was made with: commit, command, versions, hardware."""

from __future__ import annotations

import json
import os
import platform
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from m3po.extras import DISTRIBUTION
from m3po.version import __version__

ROOT = Path(__file__).resolve().parents[2]


def _git(*words: str) -> str | None:
    # Variables of a hook, such as GIT_DIR, name another repository.
    surroundings = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        answer = subprocess.run(
            ["git", *words], cwd=ROOT, env=surroundings, capture_output=True, text=True, check=True, timeout=10
        )
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip()


def _from_repository() -> bool:
    """Whether this code is of the repository around it, and not a copy that was installed somewhere below one."""
    top = _git("rev-parse", "--show-toplevel")
    return top is not None and Path(top).resolve() == ROOT and _git("ls-files", "--error-unmatch", __file__) is not None


def _installed() -> metadata.Distribution | None:
    """The installed package that this code is of; None when it is run from its sources."""
    for found in metadata.distributions(name=DISTRIBUTION):
        if Path(str(found.locate_file("m3po/runs/provenance.py"))).resolve() == Path(__file__).resolve():
            return found
    return None


def _installed_commit(package: metadata.Distribution) -> str | None:
    """What pip noted of a package that it installed from a repository."""
    try:
        return str(json.loads(package.read_text("direct_url.json") or "")["vcs_info"]["commit_id"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def provenance(argv: Sequence[str]) -> dict[str, Any]:
    """What a result was made with: commit, uncommitted changes, command, versions, hardware, UTC start."""
    ours, package = _from_repository(), _installed()
    commit = _git("rev-parse", "HEAD") if ours else None if package is None else _installed_commit(package)
    status = _git("status", "--porcelain", "--untracked-files=no") if ours else None
    return {
        "commit": commit,
        "dirty": None if status is None else bool(status),
        "argv": list(argv),
        "versions": {
            "python": platform.python_version(),
            DISTRIBUTION: __version__,
            **{name: metadata.version(name) for name in ("torch", "numpy", "gymnasium", "mujoco")},
        },
        "hardware": {
            "machine": platform.machine(),
            "cpu_threads": os.cpu_count(),
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        },
        "start_utc": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def commit_of(made: Mapping[str, Any]) -> str:
    """The commit of a ``provenance``, with "+" after it where there were uncommitted changes; or else the version."""
    version = made.get("versions", {}).get(DISTRIBUTION)
    return f"{made['commit'] or (f'version-{version}' if version else 'unknown')}{'+' if made['dirty'] else ''}"


def command_of(argv: Sequence[str]) -> str:
    """The command of a ``provenance`` as it is typed; what Python names is the file that it ran."""
    if not argv:
        return "unknown"
    program, *rest = argv
    path = Path(program)
    if path.suffix != ".py":
        return shlex.join([path.name, *rest])
    for start in reversed(range(len(path.parts) - 1)):
        inside = Path(*path.parts[start:])
        if (ROOT / inside).is_file() and (ROOT / path.parts[start] / "__init__.py").is_file():
            words = [each for each in inside.with_suffix("").parts if each != "__main__"]
            return shlex.join(["python", "-m", ".".join(words), *rest])
    return shlex.join(["python", program, *rest])
