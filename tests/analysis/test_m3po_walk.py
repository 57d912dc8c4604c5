"""The commands one after the other as a user gives them to ``m3po``, each with what the one before has left."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from m3po import launcher

WALK = (
    ("guarantee example --out evidence.npz --episodes 60 --training-episodes 5", "evidence.npz"),
    ("certify evidence.npz", "lower bound"),
    ("bounds explore --out page.html", "page.html"),
    ("attack --bound m3po-th2 --gamma 0.9 --k 2 --horizon 3 --steps 2 --json", '"refuted": false'),
    ("check RUN --episodes 20 --figure check.png", "Verdict"),
    ("evaluate RUN --episodes 2 --json", '"return"'),
    ("curves RUN --figure curves.png", "curves.png"),
    ("results compare RUN --json", '"M3PO k=1"'),
    ("variants RUN --out table.csv", "table.csv"),
    ("results statistics table.csv", "bootstrap"),
)


def test_every_step_of_a_walk_is_done(
    tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "RUN").symlink_to(tiny_run)
    for words, shown in WALK:
        with pytest.raises(SystemExit) as stop:
            launcher.main(shlex.split(words))
        out, err = capsys.readouterr()
        assert stop.value.code in (0, 1), (words, err)  # 1: a finding
        assert shown.lower() in (out + err).lower(), words
