"""What is installed is pinned: one version of everything, and a hash of the lock for what comes from an index."""

from __future__ import annotations

import itertools
import re
import tomllib
from importlib.metadata import requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
EXTRAS = PROJECT["project"]["optional-dependencies"]


def with_extras(*extras: str) -> list[str]:
    """What the package needs with these extras, and with those that they name."""
    needed = list(PROJECT["project"]["dependencies"])
    for each in itertools.chain.from_iterable(EXTRAS[extra] for extra in extras):
        own = Requirement(each).name == PROJECT["project"]["name"]
        needed += with_extras(*Requirement(each).extras) if own else [each]
    return needed


LOCKS = {"requirements.lock": with_extras("train"), "requirements-dev.lock": with_extras("dev", "docs")}
REFRESH = "run `make lock`"


def names(requirements: list[str]) -> set[str]:
    return {canonicalize_name(Requirement(each).name) for each in requirements}


def pins(lines: list[str]) -> dict[str, set[str]]:
    """The pinned versions of every package; two where one is for old Pythons."""
    found: dict[str, set[str]] = {}
    for line in lines:
        requirement = Requirement(line)
        (specifier,) = requirement.specifier
        assert specifier.operator == "==", line
        found.setdefault(canonicalize_name(requirement.name), set()).add(specifier.version)
    return found


CONSTRAINTS = pins((ROOT / "constraints.txt").read_text().split("\n")[:-1])


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_has_the_versions_of_the_constraints_and_hashes(name: str) -> None:
    entries = re.sub(r"^#.*\n", "", (ROOT / name).read_text(), flags=re.MULTILINE).replace("\\\n", "").splitlines()
    locked = pins([entry.partition("--hash")[0] for entry in entries])
    assert all(re.search(r" --hash=sha256:[0-9a-f]{64}\b", entry) for entry in entries)
    assert locked == {each: CONSTRAINTS.get(each) for each in locked}, REFRESH
    assert names(LOCKS[name]) - set(locked) == {"torch"}, REFRESH


def test_everything_declared_is_pinned() -> None:
    declared = [*PROJECT["build-system"]["requires"], *LOCKS["requirements-dev.lock"], *with_extras("cluster")]
    assert names(declared) <= set(CONSTRAINTS)
    for each in map(Requirement, declared):
        assert all(
            each.specifier.contains(version, prereleases=True) for version in CONSTRAINTS[canonicalize_name(each.name)]
        ), each


def test_the_build_is_pinned_to_the_locked_version() -> None:
    assert pins(PROJECT["build-system"]["requires"]) == {"setuptools": CONSTRAINTS["setuptools"]}


def test_what_the_cluster_extra_brings_is_pinned() -> None:
    (ray,) = (each for each in map(Requirement, EXTRAS["cluster"]) if each.name == "ray")
    assert ray.extras == {"default", "client"}
    brought = [
        each
        for each in map(Requirement, requires("ray") or [])
        if each.marker is None or any(each.marker.evaluate({"extra": extra}) for extra in ray.extras)
    ]
    assert {canonicalize_name(each.name) for each in brought} <= set(CONSTRAINTS)
