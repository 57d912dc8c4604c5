"""What holds for the whole suite: a home that nobody used before, and reasons for what is skipped.

A test that passes because of what an earlier session left behind would fail on a fresh machine: the home directory,
the caches and Ray's folder of every session are new, and no setting of the user's shell for these libraries counts.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Generator
from pathlib import Path
from typing import TypeVar

import pytest
from hypothesis import settings

# Examples may take as long as a busy machine makes them take, and one that failed is printed, not remembered.
settings.register_profile("suite", settings(), deadline=None, database=None, print_blob=True)
settings.load_profile("suite")
FOREIGN = re.compile("XDG_.*|MPL.*|RAY_.*|TORCH_HOME|MUJOCO_GL")
Report = TypeVar("Report", pytest.TestReport, pytest.CollectReport)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--only-skip", metavar="REGEX", help="fail a test that is skipped for a reason that does not match"
    )


def pytest_configure(config: pytest.Config) -> None:
    if hasattr(config, "workerinput"):  # a worker of pytest-xdist inherits the environment
        return
    # Ray's sockets lie below, and their paths end after 107 bytes, on macOS after 103: not below a longer TMPDIR.
    folder = Path(tempfile.mkdtemp(prefix="m3po-", dir="/tmp"))
    environment = pytest.MonkeyPatch()
    config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))
    config.add_cleanup(environment.undo)
    for name in filter(FOREIGN.fullmatch, list(os.environ)):
        environment.delenv(name)
    for name in ("HOME", "RAY_TMPDIR", "HYPOTHESIS_STORAGE_DIRECTORY"):
        environment.setenv(name, str(folder))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest test comes first: as the last, it would leave the other processes idle for minutes."""
    items.sort(key=lambda item: item.name != "test_the_site_builds_and_is_whole")


def refuse_skip(report: Report, config: pytest.Config) -> Report:
    """The report; a failure if it says "skipped" for a reason that ``--only-skip`` does not allow."""
    allowed = config.getoption("--only-skip")
    if report.skipped and allowed and not hasattr(report, "wasxfail") and isinstance(report.longrepr, tuple):
        *_, reason = report.longrepr
        if not re.search(allowed, reason):
            report.outcome = "failed"
            report.longrepr = f"{report.nodeid}: {reason} (--only-skip {allowed})"
    return report


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    return refuse_skip((yield), item.config)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    return refuse_skip((yield), collector.config)
