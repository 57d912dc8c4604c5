"""No command replaces a file that it read or did not make; what cannot be written is known before the work."""

from __future__ import annotations

import csv
import errno
import io
import os
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest

from analysis import certify_example, compare_bounds, learning_curves, variants
from analysis.drawing.style import figure_style
from analysis.explorer import __main__
from analysis.flags.figure_files import check_figure
from analysis.runs.outputs import Output, files_of, mark_of
from analysis.runs.run_table import csv_of, table_of
from analysis.statistics import __main__ as statistics_command
from tests.analysis.recorded_runs import recorded

MARK = mark_of("analysis.example")
THEIRS = b"somebody's own file"


def stop_of(command, *words: object) -> int:
    with pytest.raises(SystemExit) as stop:
        command([str(word) for word in words])
    return int(stop.value.code or 0)


def drawn() -> object:
    from matplotlib.figure import Figure

    return Figure(figsize=(1, 1))


def test_a_free_name_is_written_and_nothing_else_is_left(tmp_path: Path):
    Output("out", tmp_path / "a", MARK).check().write("text")
    assert [each.name for each in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_text() == "text"
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o666 & ~_umask()


def _umask() -> int:
    value = os.umask(0)
    os.umask(value)
    return value


def test_somebody_elses_file_is_kept_without_overwrite(tmp_path: Path):
    path = tmp_path / "a"
    path.write_bytes(THEIRS)
    output = Output("out", path, MARK)
    for attempt in (output.check, lambda: output.write("ours")):
        with pytest.raises(ValueError, match=r"--out: .*a exists.*--overwrite"):
            attempt()
    assert path.read_bytes() == THEIRS
    Output("out", path, MARK, overwrite=True).check().write("ours")
    assert path.read_text() == "ours"


def test_a_file_that_appears_during_the_work_is_kept(tmp_path: Path):
    output = Output("out", tmp_path / "a", MARK).check()
    (tmp_path / "a").write_bytes(THEIRS)
    with pytest.raises(ValueError, match="exists"):
        output.write("ours")
    assert (tmp_path / "a").read_bytes() == THEIRS


@pytest.mark.parametrize("suffix", [".png", ".pdf", ".svg"])
def test_a_figure_is_written_under_its_name_and_known_again(tmp_path: Path, suffix: str):
    path = tmp_path / f"a{suffix}"
    for command, allowed in (("analysis.example", True), ("analysis.example", True), ("analysis.other", False)):
        output = Output("figure", path, mark_of(command))
        if allowed:
            output.check().write_figure(drawn())  # type: ignore[arg-type]
        else:
            with pytest.raises(ValueError, match="did not write it"):
                output.check()
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


def test_arrays_are_written_under_their_name_and_known_again(tmp_path: Path):
    path = tmp_path / "arrays"  # numpy would append .npz
    for _ in range(2):
        Output("out", path, MARK).check().write_arrays(x=np.arange(3))
    with np.load(path) as stored:
        assert stored["x"].tolist() == [0, 1, 2]
    assert [each.name for each in tmp_path.iterdir()] == ["arrays"]


def test_no_link_is_followed(tmp_path: Path):
    theirs = tmp_path / "theirs"
    theirs.write_bytes(MARK.encode())  # even one with the mark
    for target in (theirs, tmp_path / "nowhere"):
        path = tmp_path / "link"
        path.symlink_to(target)
        with pytest.raises(ValueError, match="is a link"):
            Output("out", path, MARK).check()
        Output("out", path, MARK, overwrite=True).check().write("ours")
        assert not path.is_symlink()
        path.unlink()
    assert theirs.read_bytes() == MARK.encode()
    assert not (tmp_path / "nowhere").exists()


def test_directories_and_devices_are_never_replaced(tmp_path: Path):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "folder").mkdir()
    for name in ("fifo", "folder"):
        for overwrite in (False, True):
            with pytest.raises(ValueError, match=f"--out must be a file, got .*{name}"):
                Output("out", tmp_path / name, MARK, overwrite).check()


def test_what_is_read_is_never_replaced(tmp_path: Path):
    path = tmp_path / "table.csv"
    path.write_text(MARK)
    (tmp_path / "link").symlink_to(path)
    os.link(path, tmp_path / "other")
    for name in ("table.csv", "other", "link"):
        with pytest.raises(ValueError, match="is read by this command"):
            Output("out", tmp_path / name, MARK, overwrite=True, read=(path,)).check()


def test_what_cannot_be_written_is_known_before_the_work(tmp_path: Path, monkeypatch):
    def refused(*arguments: object, **keywords: object) -> int:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr("m3po.runs.files.os.open", refused)
    with pytest.raises(ValueError, match=r"--out: cannot write .*a: Read-only file system"):
        Output("out", tmp_path / "a", MARK).check()


def test_what_fails_half_way_leaves_the_old_file(tmp_path: Path, monkeypatch):
    path = tmp_path / "a"
    path.write_text(MARK)
    output = Output("out", path, MARK).check()

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("m3po.runs.files.os.fsync", full)
    with pytest.raises(ValueError, match="No space left"):
        output.write("ours")
    assert path.read_text() == MARK
    assert list(tmp_path.iterdir()) == [path]


def test_a_figures_format_is_checked_with_the_flags(tmp_path: Path):
    for name in ("a", "a.xyz", "a.png.txt"):
        with pytest.raises(ValueError, match=r"--figure must end in one of \.png, \.pdf, \.svg, got"):
            check_figure("figure", tmp_path / name)
    check_figure("figure", tmp_path / "a.PNG")
    check_figure("figure", None)


def test_results_are_printed_when_the_file_cannot_be_written(tmp_path: Path, monkeypatch, capsys):
    run = recorded(tmp_path / "run", [1.0, 2.5], env_id="m3po/AntFwdBwd-v0")
    other = recorded(tmp_path / "other", [1.0, 2.5], env_id="m3po/AntFwdBwd-v0", seed=1)

    def full(path: Path, data: bytes) -> None:
        if data:
            raise OSError(errno.ENOSPC, "No space left on device")
        path.write_bytes(data)

    monkeypatch.setattr("analysis.runs.outputs.replace_atomically", full)
    for command, words, shown in (
        (learning_curves.cli, (run, "--figure", tmp_path / "a.png"), "2.50"),
        (variants.cli, (run, other, "--out", tmp_path / "a.csv"), "2.5"),
        (compare_bounds.command_line, ("--gamma", "0.9", "--figure", tmp_path / "a.png"), "m3po-th2"),
    ):
        assert stop_of(command, *words) == 2
        captured = capsys.readouterr()
        assert shown in captured.out
        assert "No space left" in captured.err


def test_commands_keep_what_they_read_and_what_is_not_theirs(tmp_path: Path, capsys):
    run = recorded(tmp_path / "run", [1.0, 2.5])
    theirs = tmp_path / "theirs.png"
    theirs.write_bytes(THEIRS)
    table = tmp_path / "table.svg"
    table.write_text("variant,seed,step,return\n" + "".join(f"{v},{s},0,{s}\n" for v in "ab" for s in range(3)))
    kept = {path: path.read_bytes() for path in (theirs, table, *(each for each in files_of(run) if each.exists()))}
    for command, *words in (
        (learning_curves.cli, run, "--figure", theirs),
        (variants.cli, run, "--out", theirs),
        (variants.cli, run, "--out", run / "config.json", "--overwrite"),
        (variants.cli, run, "--out", run / "metrics.jsonl", "--overwrite"),
        (compare_bounds.command_line, "--gamma", "0.9", "--figure", theirs),
        (__main__.command_line, "--out", theirs),
        (certify_example.cli, "--out", theirs, "--episodes", 2),
        (statistics_command.cli, table, "--figure", table, "--overwrite"),
    ):
        assert stop_of(command, *words) == 2
        captured = capsys.readouterr()
        assert captured.out == ""  # before the work
        assert captured.err.splitlines()[-1].startswith("error: --")
    assert {path: path.read_bytes() for path in kept} == kept


def test_a_second_time_every_command_replaces_its_own(tmp_path: Path):
    run = recorded(tmp_path / "run", [1.0, 2.5])
    for command, *words in (
        (learning_curves.cli, run, "--figure", tmp_path / "a.png"),
        (variants.cli, run, "--out", tmp_path / "b.csv"),
        (compare_bounds.command_line, "--gamma", "0.9", "--figure", tmp_path / "c.svg"),
        (__main__.command_line, "--out", tmp_path / "d.html"),
        (certify_example.cli, "--out", tmp_path / "e.npz", "--episodes", 2),
    ):
        assert [stop_of(command, *words) for _ in range(2)] == [0, 0]


def test_no_cell_is_a_formula_or_has_two_lines_and_numbers_stay():
    lines = [["=1+1", "+x", "-x", "@x", "\t=x", "a\nb", "a\r\nb", "-0.5", "-1e-05", "+3", "nan", "fine", -2, -0.5]]
    (read,) = list(csv.reader(io.StringIO(csv_of([], lines))))[1:]
    assert read == [
        "'=1+1", "'+x", "'-x", "'@x", "'=x", "a b", "a  b", "-0.5", "-1e-05", "+3", "nan", "fine", "-2", "-0.5",
    ]  # fmt: skip
    first, *rest = table_of(MARK, ["abc\nvariant,1,2,3"], ["variant"], [["k=1"]]).splitlines()
    assert first == f"# trained with m3po.train at commit abc variant,1,2,3 ({MARK})"
    assert rest == ["variant", "k=1"]


def test_figures_ignore_the_settings_and_the_backend_of_the_user(tmp_path: Path):
    backend = mpl.get_backend()
    with mpl.rc_context({"text.usetex": True, "axes.grid": True}):
        with figure_style():
            assert not mpl.rcParams["text.usetex"]
            assert not mpl.rcParams["axes.grid"]
            figure = drawn()
            figure.subplots().set_title("$x$")  # type: ignore[attr-defined]
            Output("figure", tmp_path / "a.png", MARK).write_figure(figure)  # type: ignore[arg-type]
        assert mpl.rcParams["text.usetex"]
    assert mpl.get_backend() == backend


@pytest.mark.parametrize("backend", ["module://matplotlib_inline.backend_inline", "no-such-backend"])
def test_a_notebooks_backend_does_not_stop_a_command(tmp_path: Path, backend: str):
    import subprocess
    import sys

    done = subprocess.run(
        [sys.executable, "-c", "import os; from analysis.drawing import style; print(os.environ['MPLBACKEND'])"],
        env={**os.environ, "MPLBACKEND": backend}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout.strip()) == (0, backend), done.stderr
