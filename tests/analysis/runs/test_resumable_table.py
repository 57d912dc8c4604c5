"""A table that goes on where it stopped, and refuses what it is not."""

from __future__ import annotations

import contextlib
import gc
import os
import random
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from analysis.runs.resumable_table import ResumableTable, read_rows
from tests.faults import KINDS, Disk, KilledError


@dataclass(frozen=True)
class Row:
    seed: int
    name: str
    good: bool
    value: float


ROWS = [Row(0, "plain", True, 0.1), Row(1, "with, comma", False, -1.25e-9), Row(2, "x", True, float("inf"))]


def test_rows_come_back_as_they_went_in(tmp_path: Path) -> None:
    table = ResumableTable(tmp_path / "t.csv", Row, {"k": 1})
    for row in ROWS:
        table.add(row)
    assert table.rows == read_rows(tmp_path / "t.csv", Row) == ROWS
    table.close()
    assert ResumableTable(tmp_path / "t.csv", Row, {"k": 1}).rows == ROWS


def test_a_line_cut_off_by_a_crash_is_measured_again(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    table = ResumableTable(path, Row, {})
    for row in ROWS:
        table.add(row)
    table.close()
    path.write_text(path.read_text()[:-4])
    again = ResumableTable(path, Row, {})
    assert again.rows == ROWS[:2]
    again.add(ROWS[2])
    assert read_rows(path, Row) == ROWS


def test_it_says_with_which_settings_and_at_which_commit(tmp_path: Path) -> None:
    ResumableTable(tmp_path / "t.csv", Row, {"k": 1})
    first, second, third = (tmp_path / "t.csv").read_text().splitlines()
    assert first == '# settings {"k": 1}'
    assert second.startswith("# commit ")
    assert third == "seed,name,good,value"


def test_other_settings_and_other_columns_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    ResumableTable(path, Row, {"k": 1}).add(ROWS[0])
    with pytest.raises(ValueError, match=r"t\.csv was not measured with these settings"):
        ResumableTable(path, Row, {"k": 2})
    path.write_text("# settings {}\nseed,name,value\n1,x,2\n")
    with pytest.raises(ValueError, match="has the columns seed, name, value"):
        read_rows(path, Row)
    path.write_text("# settings {}\nseed,name,good,value\n1,x,perhaps,2\n")
    with pytest.raises(ValueError, match="'perhaps' is no bool"):
        read_rows(path, Row)


def test_one_process_writes_a_table(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    table = ResumableTable(path, Row, {})
    table.add(ROWS[0])
    with pytest.raises(ValueError, match=rf"another process is writing {path}"):
        ResumableTable(path, Row, {})
    table.add(ROWS[1])
    table.close()
    with path.open("a") as file:  # reopening replaces the file; who has the old one is told
        file.write("2,x")
        again = ResumableTable(path, Row, {})
    assert again.rows == ROWS[:2]
    path.unlink()
    with pytest.raises(OSError, match=r"t\.csv was removed or replaced while it was being written"):
        again.add(ROWS[2])
    assert not path.exists()


def test_a_table_without_its_header_begins_and_what_is_no_file_is_left(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.touch()
    ResumableTable(path, Row, {}).add(ROWS[0])
    assert read_rows(path, Row) == ROWS[:1]
    (tmp_path / "link.csv").symlink_to(path)
    os.mkfifo(tmp_path / "pipe.csv")
    before = path.read_bytes()
    for name in ("link.csv", "pipe.csv"):
        with pytest.raises((OSError, ValueError), match=name):
            ResumableTable(tmp_path / name, Row, {})
    assert path.read_bytes() == before


def test_surplus_cells_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("# settings {}\nseed,name,good,value\n1,x,True,1,9\n")
    with pytest.raises(ValueError, match="5 cells under 4 columns"):
        read_rows(path, Row)


def filled(path: Path, acknowledged: list[Row] | None = None) -> None:
    """Opened twice, as by two commits, until all rows are in."""
    for commit, until in (("a", 2), ("b", 3)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                "analysis.runs.resumable_table.provenance", lambda _, commit=commit: {"commit": commit, "dirty": False}
            )
            table = ResumableTable(path, Row, {"k": 1})
        for row in ROWS[len(table.rows) : until]:
            table.add(row)
            if acknowledged is not None:
                acknowledged.append(row)
        table.close()


def check_fault(folder: Path, kind: str, at: int | None, *, lacking: bool) -> int:
    """No row that was added is lost, and the table goes on; how many events there were."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    path, acknowledged = folder / "t.csv", list[Row]()
    disk = Disk(folder, at, kind, lacking=lacking)
    with disk.failing(), contextlib.suppress(KilledError, OSError):
        filled(path, acknowledged)
    gc.collect()
    where = f"{kind} at event {at} of {disk.events}"
    if acknowledged:
        assert read_rows(path, Row)[: len(acknowledged)] == acknowledged, where
    with Disk(folder, None, "none", lacking=lacking).failing():
        filled(path)
    assert read_rows(path, Row) == ROWS, where
    text = path.read_text()
    assert text.splitlines()[0] == '# settings {"k": 1}', where
    assert text.count("seed,name") == 1, where
    return len(disk.events)


def table_faults(folder: Path) -> list[tuple[str, int, bool]]:
    cases = []
    for lacking in (False, True):
        events = check_fault(folder, "none", None, lacking=lacking)
        assert events > 15
        cases += [(kind, at, lacking) for kind in KINDS for at in range(events)]
    return cases


def test_no_event_costs_a_row_or_the_table(tmp_path: Path) -> None:
    for kind, at, lacking in random.Random(0).sample(table_faults(tmp_path / "x"), 20):
        check_fault(tmp_path / "x", kind, at, lacking=lacking)


@pytest.mark.slow
def test_every_event_of_a_table(tmp_path: Path) -> None:
    for kind, at, lacking in table_faults(tmp_path / "x"):
        check_fault(tmp_path / "x", kind, at, lacking=lacking)
