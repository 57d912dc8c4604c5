"""The report page: its answer and numbers are check_guarantee's, it loads nothing, and ticks only what is certain."""

from __future__ import annotations

import dataclasses
import html
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bounds
from analysis import check_guarantee
from analysis.diagnostics import intervals
from analysis.diagnostics.intervals import Ends
from analysis.guarantee.audit import CheckConfig, audit, check
from analysis.guarantee.estimates import Estimates
from analysis.guarantee.guarantee import Guarantee, Uncertifiable
from analysis.guarantee.returns_alone import ReturnsAlone
from analysis.guarantee.subject import ReturnRange
from analysis.guarantee.verdicts import Check, Verdict, Verdicts
from analysis.report import __main__
from analysis.report.answer import answer_of, certificate_answer
from analysis.report.findings import Findings, decomposition, findings, through_training
from analysis.report.first_screen import number_line, shown
from analysis.report.pages import part
from bounds.confidence import Interval
from m3po.runs.run_directory import RunDirectory
from m3po.train import train
from tests.analysis.browser import browser, executable, the_answer_fits
from tests.analysis.conftest import tiny_config

EPISODES = 40
TICK = "✓"


@pytest.fixture(scope="module")
def found(tiny_run: Path) -> Findings:
    return findings(tiny_run, episodes=EPISODES, confidence=0.9, seed=3)


@pytest.fixture(scope="module")
def guarantee(found: Findings) -> Guarantee:
    assert isinstance(found.audit, Guarantee)
    return found.audit


@pytest.fixture(scope="module")
def page(found: Findings) -> str:
    return __main__.page(found)


@pytest.fixture(scope="module")
def surrogate_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rewards inside the observation: no known density of the next observation."""
    path = tmp_path_factory.mktemp("runs") / "surrogate"
    config = dataclasses.replace(
        tiny_config(path), env_options='{"observe_reward": true}', initial_random_steps=200, total_steps=400
    )
    train(config)
    return path


def text_of(page: str, identifier: str) -> str:
    match = re.search(rf'id="{identifier}">(.*?)<', page)
    assert match is not None
    return html.unescape(match[1])


def first_screen(page: str) -> str:
    return page[page.index("<header>") : page.index("</header>")]


def record_in(page: str) -> dict[str, Any]:
    match = re.search(r'<script type="application/json" id="record">(.*?)</script>', page, re.DOTALL)
    assert match is not None
    return dict(json.loads(match[1].replace("<\\/", "</")))


def assert_self_contained(page: str) -> None:
    assert not re.search("https?:", page)
    assert "default-src 'none'" in html.unescape(page)
    assert "script-src" not in page
    assert not re.search(r'(?:src|href)="(?!#|data:)', page)
    assert not re.search(r"url\((?!#)", page)
    assert "@import" not in page
    assert page.count("<script") == 1  # the measurements; nothing runs
    identifiers = re.findall(r'\bid="([^"]+)"', page)
    assert len(identifiers) == len(set(identifiers))
    for target in set(re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', page)):
        assert (target[0] or target[1]) in identifiers


def test_the_page_loads_nothing_and_its_drawings_are_complete(page: str):
    assert_self_contained(page)
    for name in ("learning", "model-error", "gaps", "training-own", "training-moved", "decomposition", "calibration"):
        assert f"#{name}-" in page
    assert page.count("<svg") == page.count("</svg>") == 12
    assert "currentColor" in page
    assert "#262626" not in page


def test_the_verdict_and_the_numbers_are_those_of_check_guarantee(tiny_run: Path, page: str):
    config = CheckConfig(run_dir=tiny_run, episodes=EPISODES, confidence=0.9, seed=3)
    expected = audit(config)
    assert isinstance(expected, Guarantee)
    assert record_in(page)["check"] == json.loads(json.dumps(check(config)))
    promised, measured, at_least = expected.promise, expected.true_return, expected.at_least
    assert text_of(page, "promised") == f"{promised.estimate:.2f}"
    assert text_of(page, "measured") == (
        f"{measured.estimate:.2f} ({measured.lower:.2f} to {measured.upper:.2f})".replace("-", "−")
    )
    assert expected.verdict == "holds"
    if at_least is None:
        assert text_of(page, "guaranteed") == "nothing"
        assert TICK not in page
    else:
        assert at_least == pytest.approx(promised.lower - expected.certificate.discrepancy)
        assert text_of(page, "guaranteed") == f"at least {at_least:.2f}".replace("-", "−")
        assert TICK in first_screen(page)
    for each in (*expected.own.checks, *expected.previous.checks):
        assert f"<td>{each.name}</td>" in page
        assert f'<td class="number">{each.discrepancy:.3f}</td>' in page
        assert str(each.gap) in page


def synthetic(verdict: Verdict, discrepancy: float, *, vacuous: bool = False, measured: float = 9.0) -> Guarantee:
    """A promise of 10 in [9.5, 10.5] with this certificate, and a measured return."""

    def interval(middle: float) -> Interval:
        return Interval(middle, middle - 0.5, middle + 0.5, 0.95, 50)

    nothing = interval(0.0)
    estimates = Estimates(nothing, nothing, 0.0, nothing, {("branched", True): interval(10.0)}, {})
    gap = Ends(measured - 10.0, measured - 11.0, measured - 9.0)
    certificate = Check("certificate", "branched", True, discrepancy, vacuous, gap, 0.1, verdict, "made up")
    verdicts = Verdicts(estimates, certificate, certificate, ())
    return Guarantee(
        run_dir="none", env_id="none", steps=0, complete=True, rollout_length=1, episodes=50, confidence=0.95,
        candidates=1, seed=0, returns=ReturnRange(0.95, 100, -0.1, 1.0), true_return=interval(measured), own=verdicts,
        previous=verdicts, alone=ReturnsAlone(0.95, None, 0, measured - 0.3, 50, measured, 1.5),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("guarantee", "kind", "headline"),
    [
        (synthetic("holds", 4.0), "certified", "Yes, for at least 5.50 of the promised 10.00"),
        (synthetic("surrogate", 4.0), "undecided", "At least 5.50, not yet confirmed"),
        (synthetic("violated", 4.0, measured=3.0), "violated", "No: the guarantee is violated"),
        (synthetic("holds", 21.8, vacuous=True), "nothing", "No: nothing is guaranteed"),
        (synthetic("holds", 11.6), "nothing", "No: nothing is guaranteed"),  # 9.5 - 11.6 < -0.1 (1 - .95^100)/.05
        (synthetic("violated", 21.8, vacuous=True), "violated", "No: the guarantee is violated"),
    ],
)
def test_every_kind_of_answer(guarantee: Guarantee, kind: str, headline: str):
    answer = certificate_answer(guarantee)
    assert (answer.kind, answer.headline) == (kind, headline)
    assert ("fresh episodes alone guarantee at least 8.70" in answer.more) == (kind != "violated")
    line = part("macros.html", "number_line", number_line(answer))
    assert f'class="line {kind}"' in line
    assert ("at least 5.50" in line) == (guarantee.certificate.discrepancy == 4.0)
    assert (">nothing<" in line) == ("at least 5.50" not in line)


def test_the_marks_stand_where_their_numbers_are():
    line = part("macros.html", "number_line", number_line(certificate_answer(synthetic("holds", 4.0))))
    low, high = (reward * (1 - 0.95**100) / 0.05 for reward in (-0.1, 1.0))

    def place(value: float) -> str:
        return f"left:{100 * (value - low) / (high - low):.2f}%"

    promised, guaranteed, measured, possible = line.split('<div class="mark ')[1:]
    assert f'class="point" style="{place(10.0)}"' in promised
    assert f'class="band" style="{place(9.5)}' in promised
    assert f'class="band" style="{place(5.5)}' in guaranteed
    assert f'class="point" style="{place(9.0)}"' in measured
    assert 'class="band" style="left:0.00%;width:100.00%"' in possible
    assert line.count(f'class="limit" style="{place(5.5)}"') == 4


@pytest.mark.usefixtures("boasting_model")
def test_a_planted_broken_model_return_flips_the_answer_to_violated(
    tiny_run: Path, tmp_path: Path, monkeypatch, capsys
):
    monkeypatch.setattr("analysis.report.findings.surrogates_of", lambda *arguments: None)
    out = tmp_path / "page.html"
    with pytest.raises(SystemExit) as stop:
        __main__.cli([str(tiny_run), "--out", str(out), "--episodes", "120"])
    assert stop.value.code == 1
    assert capsys.readouterr().out.startswith("No: the guarantee is violated. The model promises")
    page = out.read_text()
    assert text_of(page, "headline") == "No: the guarantee is violated"
    assert record_in(page)["check"]["verdict"] == "violated"
    assert TICK not in page
    assert_self_contained(page)


def test_a_run_that_cannot_be_certified_gets_surrogates_and_no_tick(surrogate_run: Path, tmp_path: Path, capsys):
    out = tmp_path / "page.html"
    with pytest.raises(SystemExit) as stop:
        __main__.cli([str(surrogate_run), "--out", str(out), "--episodes", "20"])
    assert stop.value.code == 0
    assert capsys.readouterr().out.startswith("Not certifiable. ")
    page = out.read_text()
    assert_self_contained(page)
    assert TICK not in page
    assert not re.search(r'class="(?:answer|line) certified"', page)
    assert text_of(page, "headline") == "Not certifiable"
    assert text_of(page, "guaranteed") == "nothing"
    found = record_in(page)["check"]
    assert found["verdict"] == "surrogate"
    gap = found["surrogates"]["return_gap"]
    assert text_of(page, "promised") == shown(gap["model_return"]["estimate"])
    assert text_of(page, "measured").startswith(shown(gap["true_return"]["estimate"]) + " (")
    for name in ("telescoped", "direct", "reward_part", "dynamics_part"):
        assert intervals.span(gap[name]) in page
    assert "Every bound" not in page
    # and the command that the page quotes says the same in text
    audited = audit(CheckConfig(run_dir=surrogate_run, episodes=20))
    assert isinstance(audited, Uncertifiable)
    lines = check_guarantee.text(audited)
    assert "verdict: surrogate" in lines
    assert "they certify nothing" in lines
    assert f"{gap['telescoped']['estimate']:.3f}" in lines
    assert "holds" not in lines


def stripped(source: Path, target: Path, keep: set[str]) -> Path:
    """A copy of the run whose metrics hold only these names and which has no checkpoint."""
    shutil.copytree(source, target)
    rows = [{name: row[name] for name in row if name in keep} for row in RunDirectory.read(source).metrics()]
    (target / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (target / "COMPLETE").write_text("2026-11-26T00:00:00+00:00\n")  # it holds no checksum of the metrics
    for file in target.glob("checkpoint*.pt"):
        file.unlink()
    return target


@pytest.mark.parametrize("extra", [set(), {"eps_pi_mean", "policy_divergence_profile"}, {"reward_error"}])
def test_a_run_without_a_model_density_is_shown_for_what_it_is(tiny_run: Path, tmp_path: Path, extra, capsys):
    run = stripped(tiny_run, tmp_path / "other", {"step", "return", *extra})
    with pytest.raises(SystemExit) as stop:
        __main__.cli([str(run)])
    assert stop.value.code == 0
    assert "no model density" in capsys.readouterr().out
    page = (run / "report.html").read_text()
    assert_self_contained(page)
    assert text_of(page, "headline") == "Not certifiable"
    assert TICK not in page
    last = RunDirectory.read(run).metrics()[-1]["return"]
    assert f"earned {shown(last)} per episode" in first_screen(page)
    assert "#learning-" in page
    assert ("#divergence-" in page) == ("eps_pi_mean" in extra)


def test_an_unfinished_run_says_so(tiny_run: Path, tmp_path: Path):
    run = stripped(tiny_run, tmp_path / "half", {"step", "return", "nll"})
    (run / "COMPLETE").unlink()
    rows = RunDirectory.read(run).metrics()
    (run / "metrics.jsonl").write_text(json.dumps(rows[0]) + "\n")
    page = __main__.page(findings(run, episodes=None, confidence=0.95, seed=0))
    assert f"<b>unfinished</b>: {rows[0]['step']} of 600 real steps" in first_screen(page)
    assert "no checkpoint" in first_screen(page)
    (run / "metrics.jsonl").unlink()
    answer = answer_of(findings(run, episodes=None, confidence=0.95, seed=0))
    assert (answer.kind, answer.headline) == ("unmeasured", "Not measured yet")
    assert TICK not in __main__.page(findings(run, episodes=None, confidence=0.95, seed=0))


def test_the_parts_of_the_certificate_add_up_and_come_from_the_smaller_of_its_two_bounds(guarantee: Guarantee):
    for own, verdicts in ((True, guarantee.own), (False, guarantee.previous)):
        parts = decomposition(verdicts, guarantee)
        assert sum(parts.values()) == pytest.approx(verdicts.certificate.discrepancy, rel=1e-12)
        assert min(parts.values()) >= 0
        assert (parts["policy"] == 0) == own
    measured = guarantee.own.estimates
    weights = 0.95 ** np.arange(100)
    parts = decomposition(guarantee.own, guarantee)
    # k = 1 and no divergence: R sum_t gamma^t m_{t-1}, and no cap is reached either way
    assert parts["model"] == pytest.approx(1.1 * weights[1:] @ measured.model_error.estimate[:-1], rel=1e-9)
    assert parts["reward"] == pytest.approx(weights @ measured.reward_error.estimate, rel=1e-9)
    # where the profiles' bound is the smaller one, the caps count
    measured = dataclasses.replace(guarantee.previous.estimates, summed={"branched": 1e9, "full": 1e9})
    expected = bounds.certificate(
        measured.model_error.estimate, measured.policy_divergence.estimate, discount=0.95, reward_range=1.1,
        rollout_length=1, reward_error_profile=measured.reward_error.estimate, tail="absorbing",
    )  # fmt: skip
    parts = decomposition(dataclasses.replace(guarantee.previous, estimates=measured), guarantee)
    assert parts["policy"] == pytest.approx(expected.policy_part)
    assert parts["model"] == pytest.approx(expected.model_part)


def test_bounds_through_training_are_the_catalogue_at_the_logged_errors(found: Findings, guarantee: Guarantee):
    own = through_training(found.rows, guarantee.returns, 1, moved=False)
    moved = through_training(found.rows, guarantee.returns, 1, moved=True)
    assert own["step"].tolist() == [row["step"] for row in found.rows]
    assert set(own) == {"step", "certificate", *(bound.name for bound in bounds.ALL_BOUNDS)}
    assert set(own) - set(moved) == {"mbpo-4.3"}
    row = found.rows[-1]
    upper = np.array(row["eps_m_profile_upper"])
    assert own["certificate"][-1] == pytest.approx(1.1 * 0.95 ** np.arange(1, 100) @ upper[:-1], rel=1e-9)
    error = upper[:-1].max()
    for name, reward_max in (("m3po-th2", 1.0), ("optimal-branched", 0.55)):
        for curves, divergence in ((own, 0.0), (moved, row["eps_pi_sample_max"])):
            expected = bounds.get(name).evaluate(
                discount=0.95, model_error=error, policy_divergence=divergence, reward_max=reward_max
            )
            assert curves[name][-1] == pytest.approx(float(expected), rel=1e-12)
    assert (moved["certificate"][1:] > own["certificate"][1:]).all()


def test_infinite_numbers_stay_readable_in_the_embedded_record():
    assert __main__.finite({"a": [float("inf"), 1.0, None, "x"]}) == {"a": ["inf", 1.0, None, "x"]}


def one_line_error(capsys, arguments) -> str:
    with pytest.raises(SystemExit) as stop:
        __main__.cli(arguments)
    captured = capsys.readouterr()
    assert stop.value.code == 2
    assert captured.out == ""
    error = captured.err.rstrip("\n").splitlines()[-1]
    assert error.startswith("error: ")
    return error


def test_bad_input_exits_2_and_names_it(tiny_run: Path, tmp_path: Path, capsys):
    assert "nowhere" in one_line_error(capsys, [str(tmp_path / "nowhere")])
    assert "config.json" in one_line_error(capsys, [str(tmp_path)])
    assert "--episodes" in one_line_error(capsys, [str(tiny_run), "--episodes", "1"])
    assert "1.5" in one_line_error(capsys, [str(tiny_run), "--confidence", "1.5"])
    assert "--seed" in one_line_error(capsys, [str(tiny_run), "--seed", "-1"])
    assert "no/such" in one_line_error(capsys, [str(tiny_run), "--out", "no/such/x.html"])
    assert "--out" in one_line_error(capsys, [str(tiny_run), "--out", str(tmp_path)])
    broken = tmp_path / "broken"
    shutil.copytree(tiny_run, broken)
    data = bytearray((broken / "checkpoint.pt").read_bytes())
    data[len(data) // 2] ^= 0xFF
    (broken / "checkpoint.pt").write_bytes(data)
    assert "checkpoint.pt" in one_line_error(capsys, [str(broken)])
    assert not (broken / "report.html").exists()
    (broken / "metrics.jsonl").write_text("{]\n")
    assert "metrics.jsonl line 1" in one_line_error(capsys, [str(broken)])


def test_the_first_screen_holds_the_answer_and_nothing_scrolls_sideways(page: str, tmp_path: Path):
    command = executable()
    file = tmp_path / "page.html"
    file.write_text(page)
    profile = tmp_path / "profile"
    profile.mkdir()
    with browser(command, profile) as window:
        window.open(file.as_uri())
        the_answer_fits(window, ((1280, 800), (390, 844), (320, 700)))
        for scheme, dark in (("light", False), ("dark", True)):
            window.prefer(color_scheme=scheme)
            ground = window.evaluate("getComputedStyle(document.body).backgroundColor")
            ink = window.evaluate("getComputedStyle(document.querySelector('.drawing svg')).color")
            assert (ground == "rgb(24, 24, 24)") == dark
            assert (ink == "rgb(238, 238, 238)") == dark
        assert window.problems == []
