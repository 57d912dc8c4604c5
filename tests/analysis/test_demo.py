"""The demo end to end on trainings that are already there, and its pages."""

from __future__ import annotations

import dataclasses
import html
import re
import shlex
import shutil
from pathlib import Path

import pytest

from analysis import demo
from analysis.guarantee import audit as auditing
from analysis.report.demo_page import Checked, answer_of, guarantees, worst_of
from analysis.report.first_screen import shown
from m3po import launcher
from m3po.runs import run_directory
from m3po.runs.provenance import ROOT, command_of
from m3po.train import train
from tests.analysis.browser import browser, executable, the_answer_fits
from tests.analysis.conftest import tiny_config
from tests.analysis.test_report import record_in, synthetic, text_of
from tests.command_errors import refusal

EPISODES = 40


@pytest.fixture(scope="module")
def two_seeds(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's directory after two trainings."""
    folder = tmp_path_factory.mktemp("demo of two")
    train(tiny_config(folder / "other", seed=5))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        asked = already_there(patch, folder / "demo", {0: tiny_run, 5: folder / "other"})
        with pytest.raises(SystemExit) as stop:
            demo.cli(["--out", "demo", "--seeds", "0", "5"])
    assert stop.value.code == 0
    assert asked == [((0, 5), True)]
    return folder / "demo"


def already_there(
    patch: pytest.MonkeyPatch, out: Path, runs: dict[int, Path]
) -> list[tuple[tuple[int, ...] | None, bool]]:
    """Put finished runs where the demo's trainings go, and measure little."""
    asked = []
    for seed, run in runs.items():
        shutil.copytree(run, out / "run" / f"seed-{seed}")

    def train_seeds(config):
        asked.append((config.seeds, config.resume))
        return [run_directory.RunDirectory.read(each.run_dir) for each in config.each_seed()]

    patch.setattr(demo.train, "train_seeds", train_seeds)
    patch.setattr(demo, "audit", lambda config: auditing.audit(dataclasses.replace(config, episodes=EPISODES)))
    return asked


def assert_self_contained(page: str) -> None:
    assert set(re.findall(r'(?:src|href)="(?!#|data:)([^"]*)"', page)) == {"report.html", "explorer.html"}
    assert not re.search("https?:", page)
    assert not re.search(r"url\((?!#)", page)
    assert "default-src 'none'" in html.unescape(page)
    assert "script-src" not in page
    assert page.count("<script") == 1  # the measurements; nothing runs
    assert "<pre" not in page
    identifiers = re.findall(r'\bid="([^"]+)"', page)
    assert len(identifiers) == len(set(identifiers))


def test_one_training(tiny_run: Path, tmp_path: Path, monkeypatch, capsys):
    out = tmp_path / "demo"
    already_there(monkeypatch, out, {0: tiny_run})
    with pytest.raises(SystemExit) as stop:
        demo.cli(["--out", str(out), "--seeds", "0"])
    assert stop.value.code == 0
    page = (out / "index.html").read_text()
    assert_self_contained(page)
    assert "One training of 600 real steps" in page
    assert "Student" not in page
    captured = capsys.readouterr()
    assert "keeping the finished training" in captured.err
    for words in ("m3po-th2", "memoryless", "Verdict: holds"):
        assert words in captured.out


def test_the_page_of_two_trainings(two_seeds: Path):
    page = (two_seeds / "index.html").read_text()
    assert_self_contained(page)
    assert {each.name for each in two_seeds.iterdir()} == {"index.html", "report.html", "explorer.html", "run"}
    assert "2 trainings of 600 real steps" in page
    assert "(n = 2;" in page
    found = record_in(page)
    assert set(found["guarantees"]) == {"0", "5"}
    assert {each["confidence"] for each in found["guarantees"].values()} == {0.975}
    assert len(found["training"]["final_returns"]) == 2
    report = record_in((two_seeds / "report.html").read_text())
    assert report["check"] in found["guarantees"].values()
    promised = report["check"]["data_policies"]["current"]["model_returns"]["branched (learned reward)"]
    assert text_of(page, "promised") == shown(promised["estimate"])


def test_its_commands_run_as_they_are_printed(two_seeds: Path, monkeypatch, capsys):
    monkeypatch.chdir(two_seeds.parent)
    page = (two_seeds / "index.html").read_text()
    printed = [html.unescape(each) for each in re.findall(r'<code class="command">(.*?)</code>', page)]
    asked = []
    for words in map(shlex.split, printed):
        path = Path(shutil.which(words[0]) or words[0])
        assert path.is_file()
        asked.append(path.name)
        if path.name == "m3po":
            with pytest.raises(SystemExit) as stop:
                launcher.main(words[1:])
            assert stop.value.code == 0, capsys.readouterr().err
        else:
            assert Path(words[-1]).is_dir()
    assert sorted(asked) == ["m3po"] * 5 + ["tensorboard"]
    report = record_in((two_seeds / "report.html").read_text())
    assert report["check"] in record_in(page)["guarantees"].values()  # the report made anew is the one beside the page


def trainings(*found) -> list[Checked]:
    return [Checked(seed, guarantee) for seed, guarantee in enumerate(found)]


HOLDS, HOLDS_LESS, OPEN = synthetic("holds", 4.0), synthetic("holds", 5.0), synthetic("surrogate", 4.0)
NOTHING, VIOLATED = synthetic("holds", 21.8, vacuous=True), synthetic("violated", 4.0, measured=3.0)


@pytest.mark.parametrize(
    ("found", "worst", "kind", "headline"),
    [
        ((HOLDS, HOLDS_LESS, HOLDS), 1, "certified",
         "Yes, in all 3 trainings: for at least 4.50 of the promised 10.00 in the worst"),
        ((HOLDS, OPEN), 1, "undecided", "At least 5.50 in every training, not yet confirmed in 1 of 2 trainings"),
        ((OPEN, HOLDS_LESS), 0, "undecided", "At least 4.50 in every training, not yet confirmed in 1 of 2 trainings"),
        ((HOLDS, NOTHING, OPEN), 1, "nothing", "No: nothing is guaranteed in 1 of 3 trainings"),
        ((NOTHING, NOTHING), 0, "nothing", "No: nothing is guaranteed in all 2 trainings"),
        ((NOTHING, VIOLATED, HOLDS), 1, "violated", "No: the guarantee is violated in 1 of 3 trainings"),
        ((HOLDS,), 0, "certified", "Yes, for at least 5.50 of the promised 10.00"),
    ],
)  # fmt: skip
def test_the_answer_is_about_the_worst(found, worst: int, kind: str, headline: str):
    answer = answer_of(trainings(*found), 0.95)
    assert worst_of(trainings(*found)).seed == worst
    assert (answer.kind, answer.headline) == (kind, headline)
    assert ("hold together with 95% confidence" in answer.sentences[0]) == (len(found) > 1)


def test_every_training_has_its_row():
    header, rows = guarantees(trainings(HOLDS, NOTHING, VIOLATED))
    assert header == ["seed", "promised", "earned", "bound", "gap"]
    assert [row[0] for row in rows] == [["0", "holds"], ["1", "holds, vacuously"], ["2", "violated"]]
    assert [row[1][1] for row in rows] == ["5.50 certain", "nothing certain", "refuted"]
    assert rows[2][2:] == [["3.00", "2.50 to 3.50"], ["4.00", "18%"], ["−7.00", "−8.00 to −6.00"]]


@pytest.mark.parametrize("count", [1, 2, 3, 5, 7, 51, 1000])
def test_the_trainings_share_the_error_probability(count: int):
    each = demo.DemoConfig(seeds=tuple(range(count))).confidence_each
    assert 0.8 * 0.05 < count * (1 - each) <= 0.05 + 1e-9


@pytest.mark.parametrize(
    ("argv", "command"),
    [
        ([str(ROOT / "analysis" / "demo.py"), "--out", "a b"], "python -m analysis.demo --out 'a b'"),
        (["/home/analysis/m3po/analysis/report/__main__.py", "runs/x"], "python -m analysis.report runs/x"),
        (["/home/m3po/m3po/train.py"], "python -m m3po.train"),
        (["/venv/bin/m3po", "demo"], "m3po demo"),
        (["/home/m3po/study.py", "1"], "python /home/m3po/study.py 1"),
        ([], "unknown"),
    ],
)
def test_a_command_is_printed_as_it_is_typed(argv: list[str], command: str):
    assert command_of(argv) == command


@pytest.mark.parametrize(("place", "why"), [("run/seed-0", "cannot resume"), ("run", "is one training")])
def test_a_run_with_other_settings_is_not_mixed(place: str, why: str, tiny_run: Path, tmp_path: Path, capsys):
    out = tmp_path / "demo"
    shutil.copytree(tiny_run, out / place)
    with pytest.raises(SystemExit) as stop:
        demo.cli(["--out", str(out), "--seeds", "0"])
    assert stop.value.code == 2
    assert why in capsys.readouterr().err.splitlines()[-1]


def test_the_page_fits_every_screen(two_seeds: Path, tmp_path: Path):
    command = executable()
    profile = tmp_path / "profile"
    profile.mkdir()
    with browser(command, profile) as window:
        window.open((two_seeds / "index.html").as_uri())
        window.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
        the_answer_fits(window, ((1280, 900), (390, 1000), (320, 1200)))
        for scheme, dark in (("light", False), ("dark", True)):
            window.prefer(color_scheme=scheme)
            ground = window.evaluate("getComputedStyle(document.body).backgroundColor")
            assert (ground == "rgb(24, 24, 24)") == dark
        for name in ("report", "explorer"):
            window.open((two_seeds / "index.html").as_uri())
            window.open(window.evaluate(f"document.querySelector('a[href=\"{name}.html\"]').href"))
            assert window.evaluate("document.querySelector('h1') !== null")
        assert window.problems == []


def test_a_file_is_no_directory(tmp_path: Path, capsys):
    (tmp_path / "file").touch()
    refused = refusal(demo.cli, ["--out", tmp_path / "file"], capsys)
    assert f"--out must be a directory, got the file {tmp_path / 'file'}" in refused
