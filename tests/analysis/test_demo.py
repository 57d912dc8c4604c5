"""The demo end to end on a training that is already there, and its page."""

from __future__ import annotations

import html
import re
import shutil
from pathlib import Path

import pytest

from analysis import demo
from m3po.runs import run_directory


def test_the_page_is_self_contained(tiny_run: Path, tmp_path: Path, monkeypatch, capsys):
    out = tmp_path / "demo"
    shutil.copytree(tiny_run, out / "run")
    monkeypatch.setattr(demo.train, "train_seeds", lambda config: [run_directory.RunDirectory.read(config.run_dir)])
    with pytest.raises(SystemExit) as stop:
        demo.cli(["--out", str(out)])
    assert stop.value.code == 0
    page = (out / "index.html").read_text()
    assert page.count("data:image/png;base64,") == 3
    assert not re.search(r'(src|href)="(?!data:)', page)
    assert not re.search("https?:", page)
    assert "default-src 'none'" in html.unescape(page)
    assert "script-src" not in page
    captured = capsys.readouterr()
    assert "keeping the finished training" in captured.err
    for words in ("m3po-th2", "memoryless", "Verdict: holds"):
        assert words in captured.out


def test_several_seeds_share_a_curve_and_the_first_ones_guarantee_is_checked(
    tiny_run: Path, tmp_path: Path, monkeypatch, capsys
):
    out = tmp_path / "demo"
    for seed in (0, 5):
        shutil.copytree(tiny_run, out / "run" / f"seed-{seed}")
    asked = []

    def already_there(config):
        asked.append((config.seeds, config.resume))
        return [run_directory.RunDirectory.read(each.run_dir) for each in config.each_seed()]

    monkeypatch.setattr(demo.train, "train_seeds", already_there)
    with pytest.raises(SystemExit) as stop:
        demo.cli(["--out", str(out), "--seeds", "0", "5"])
    assert stop.value.code == 0
    assert asked == [((0, 5), True)]
    captured = capsys.readouterr()
    assert "keeping the finished training" in captured.err
    assert captured.out.count("\n  seed ") == 2


def test_a_run_with_other_settings_is_not_mixed(tiny_run: Path, tmp_path: Path, capsys):
    out = tmp_path / "demo"
    shutil.copytree(tiny_run, out / "run")
    with pytest.raises(SystemExit) as stop:
        demo.cli(["--out", str(out)])
    assert stop.value.code == 2
    assert "cannot resume" in capsys.readouterr().err.splitlines()[-1]
