"""The package as others get it: a wheel, installed elsewhere, alone and with its extras."""

from __future__ import annotations

import email
import os
import re
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import m3po
from tests.tutorial_page import ROOT

PACKAGES = ("bounds", "m3po", "analysis", "paper_figures")
PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet")

# Libraries of extras are there and must not be found.
ALONE = """
import sys
class Alone:
    def find_spec(self, name, path=None, target=None):
        if name in ("torch", "gymnasium", "mujoco", "tensorboard", "ray", "z3"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Alone())
sys.modules["gymnasium"] = None
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, so that nothing is left in the repository."""
    sources = tmp_path_factory.mktemp("sources")
    for package in PACKAGES:
        shutil.copytree(ROOT / package, sources / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "PACKAGE.md", "LICENSE"):
        shutil.copy(ROOT / name, sources)
    built = tmp_path_factory.mktemp("wheel")
    alone = ("--no-deps", "--no-build-isolation", "--no-index")
    subprocess.run([*PIP, "wheel", *alone, "--wheel-dir", str(built), str(sources)], check=True, capture_output=True)
    (file,) = built.iterdir()
    return file


@pytest.fixture(scope="module")
def site(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel installed, and nothing else."""
    folder = tmp_path_factory.mktemp("site")
    command = [*PIP, "install", "--no-deps", "--no-index", "--target", str(folder), str(wheel)]
    subprocess.run(command, check=True, capture_output=True)
    return folder


def m3po_of(
    site: Path, folder: Path, *words: str, alone: bool = True, program: str | None = None
) -> subprocess.CompletedProcess[str]:
    """The installed ``m3po`` with these words, or a program, in another folder."""
    hooks = folder / "hooks"
    hooks.mkdir(exist_ok=True)
    (hooks / "sitecustomize.py").write_text(ALONE if alone else "")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(hooks), str(site)])}
    command = [str(site / "bin" / "m3po"), *words] if program is None else [sys.executable, "-c", program]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder, env=environment)


def test_the_wheel_says_what_it_is_and_holds_every_file(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (metadata,) = (name for name in names if name.endswith(".dist-info/METADATA"))
        about = email.message_from_bytes(archive.read(metadata))
    ours = {
        str(path.relative_to(ROOT))
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    assert {name for name in names if ".dist-info/" not in name} == ours
    assert about["Version"] == m3po.__version__
    assert about["License-Expression"] == "MIT"
    assert {"train", "verify", "cluster", "docs", "dev"} == set(about.get_all("Provides-Extra") or [])
    assert "Typing :: Typed" in (about.get_all("Classifier") or [])
    base = [each for each in about.get_all("Requires-Dist") or [] if "extra ==" not in each]
    assert not any(re.match("torch|gymnasium|mujoco|tensorboard|ray|z3", each) for each in base)


def test_what_an_index_shows_has_no_link_or_picture_that_leads_nowhere_there() -> None:
    page = (ROOT / "PACKAGE.md").read_text()
    assert re.findall(r"\]\((?!https://)", page) == []
    assert re.findall(r"<(?:img|a) ", page) == []


def test_alone_it_compares_attacks_explores_and_certifies(site: Path, tmp_path: Path) -> None:
    print_version = m3po_of(site, tmp_path, "--version")
    assert print_version.stdout == f"m3po {m3po.__version__}\n"
    compared = m3po_of(site, tmp_path, "compare", "--gamma", "0.95", "--k", "1", "--figure", "bounds.png")
    assert (compared.returncode, (tmp_path / "bounds.png").exists()) == (0, True), compared.stderr
    assert "optimal-branched" in compared.stdout
    explored = m3po_of(site, tmp_path, "explore", "--out", "page.html")
    assert explored.returncode == 0, explored.stderr
    assert "optimal-branched" in (tmp_path / "page.html").read_text()
    attacked = m3po_of(site, tmp_path, "attack", "--bound", "m3po-th2", "--gamma", "0.5", "--horizon", "3")
    assert attacked.returncode == 0, attacked.stderr
    assert "gradient ascent is left out: this needs torch" in attacked.stderr
    assert "without gradient ascent" in attacked.stdout
    rewards = np.random.default_rng(0).uniform(0.4, 1.0, (200, 6))
    arrays: dict[str, Any] = {"rewards": rewards, "reward_low": 0.0, "reward_high": 1.0, "discount": 0.9}
    logs = np.zeros((200, 6))
    np.savez(tmp_path / "evidence.npz", **arrays, log_policy=logs, log_data_policy=logs)
    certified = m3po_of(site, tmp_path, "certify", "evidence.npz", "--html", "answer.html")
    assert (certified.returncode, certified.stdout.startswith("certified")) == (0, True), certified
    assert (tmp_path / "answer.html").exists()


@pytest.mark.parametrize("words", ["check runs", "train --run-dir runs"])
def test_alone_what_needs_an_extra_names_it(site: Path, tmp_path: Path, words: str) -> None:
    done = m3po_of(site, tmp_path, *words.split())
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(r"error: this needs \w+: pip install 'm3po-guarantees\[train\]'\n", done.stderr)


@pytest.mark.parametrize("order", ["gymnasium, m3po", "m3po, gymnasium"])
def test_importing_it_is_enough_for_its_environments(site: Path, tmp_path: Path, order: str) -> None:
    program = (
        f"import {order}\nassert m3po.__file__.startswith({str(site)!r})\n"
        "environment = gymnasium.make('m3po/HalfCheetahFwdBwd-v0')\nprint(environment.reset(seed=0)[0].shape)"
    )
    done = m3po_of(site, tmp_path, alone=False, program=program)
    assert (done.stdout, done.stderr) == ("(18,)\n", "")


@pytest.mark.slow
@pytest.mark.parametrize("extra", ["", "[train]"])
def test_a_new_environment_gets_what_it_needs(wheel: Path, tmp_path: Path, extra: str) -> None:
    """Downloads: alone there is no torch, and with ``train`` there is a training and its check."""
    venv.create(tmp_path / "venv", with_pip=True)
    binaries = tmp_path / "venv" / "bin"
    install = [str(binaries / "pip"), "install", "--quiet", "-c", str(ROOT / "constraints.txt"), f"{wheel}{extra}"]
    subprocess.run(install, check=True)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def run(words: str) -> subprocess.CompletedProcess[str]:
        command = [str(binaries / "m3po"), *words.split()]
        return subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, env=environment)

    assert run("compare --gamma 0.95").returncode == 0
    assert run("explore").returncode == 0
    if not extra:
        assert not any((tmp_path / "venv").rglob("site-packages/torch"))
        assert run("train --run-dir runs/a").returncode == 2
        return
    assert run("guarantee example --out evidence.npz").returncode == 0
    assert run("certify evidence.npz").returncode in (0, 1)
    trained = run("train --run-dir runs/a --total-steps 450 --model-updates 20 --measure-episodes 2")
    assert trained.returncode == 0, trained.stderr
    assert run("check runs/a --episodes 20").returncode == 0
    assert run("curves runs/a").returncode == 0
