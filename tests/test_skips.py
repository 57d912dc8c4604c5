"""What is skipped is shown with its reason; with ``--only-skip`` a skip for another reason is a failure."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
LACKING = """
import pytest
def test_that_passes(): pass
@pytest.mark.skipif(True, reason="no browser")
def test_mark(): pass
def test_call(): pytest.skip("no browser")
@pytest.fixture
def page(): pytest.skip("no browser")
def test_fixture(page): pass
def test_import(): pytest.importorskip("no_such_module", reason="no browser")
"""
FILE = 'import pytest\npytest.skip("no browser", allow_module_level=True)'
ALLOWED = """
import os, pathlib, pytest
def test_device(): pytest.skip("needs a CUDA device")
@pytest.mark.xfail(reason="no browser", run=False)
def test_page(): pass
def test_link(): pytest.xfail("no browser")
def test_home():
    assert os.environ["HOME"] == os.environ["RAY_TMPDIR"] == str(pathlib.Path.home())
    assert "XDG_CACHE_HOME" not in os.environ
    (pathlib.Path.home() / "left").write_text("")
    pathlib.Path(__file__).with_name("home").write_text(os.environ["HOME"])
"""


def session(folder: Path, *words: str, **sources: str) -> tuple[int, str, str]:
    """Exit code, output and closing line of a run of other tests with this suite's options and conftest."""
    # With CI set pytest cuts no line of its summary, and every reason is printed twice.
    surroundings = {name: value for name, value in os.environ.items() if name not in ("CI", "BUILD_NUMBER")}
    for name, source in sources.items():
        (folder / f"test_{name}.py").write_text(source)
    options = [
        "-c",
        str(ROOT / "pyproject.toml"),
        f"--rootdir={folder}",
        "-p",
        "tests.conftest",
        "-p",
        "no:cacheprovider",
    ]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, *words, str(folder)],
        cwd=ROOT,
        env={**surroundings, "PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(folder), "PYTEST_ADDOPTS": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout, done.stdout.rstrip().splitlines()[-1]


def test_a_skip_is_shown_with_its_reason(tmp_path: Path) -> None:
    code, output, closing = session(tmp_path, lacking=LACKING, file=FILE)
    assert code == 0
    assert closing.startswith("1 passed, 5 skipped in "), output
    shown = [line for line in output.splitlines() if line.startswith("SKIPPED [")]
    assert sum(int(line[9:].partition("]")[0]) for line in shown) == 5
    assert all(line.endswith(": no browser") for line in shown)


def test_a_skip_for_a_reason_that_is_not_allowed_fails(tmp_path: Path) -> None:
    code, output, closing = session(tmp_path, "--only-skip", "CUDA|root", lacking=LACKING)
    assert code == 1
    assert closing.startswith("2 failed, 1 passed, 2 errors in "), output
    assert output.count("Skipped: no browser (--only-skip CUDA|root)") == 4
    code, output, closing = session(tmp_path, "--only-skip", "CUDA|root", file=FILE)
    assert code == 2
    assert "1 error in " in closing
    assert "Skipped: no browser (--only-skip CUDA|root)" in output


def test_allowed_skips_stay_skips_and_a_session_has_a_home_of_its_own(tmp_path: Path) -> None:
    code, output, closing = session(tmp_path, "--only-skip", "CUDA|root", "-n", "2", allowed=ALLOWED)
    assert code == 0, output
    assert closing.startswith("1 passed, 1 skipped, 2 xfailed in ")
    home = Path((tmp_path / "home").read_text())
    assert home != Path.home()
    assert not home.exists()
