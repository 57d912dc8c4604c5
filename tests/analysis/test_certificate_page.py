"""The page that ``analysis.certify --html`` writes says what its text says."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analysis.certify import Evidence, certify, cli
from analysis.report.certificate_page import answer_of, page, ways
from analysis.report.first_screen import number_line
from tests.analysis.browser import browser, executable, the_answer_fits


def evidence(**changes: Any) -> Evidence:
    """Fifty episodes of four steps, with everything that a page can show."""
    generator = np.random.default_rng(0)
    values: dict[str, Any] = {
        "rewards": generator.uniform(0.2, 0.8, (50, 4)), "log_density": np.zeros((50, 4)),
        "log_model_density": np.full((50, 4), -0.01), "model_returns": generator.uniform(0.9, 1.1, 50),
        "rollout_length": 1, "reward_low": 0.0, "reward_high": 1.0, "discount": 0.5, "absorbing": True,
    }  # fmt: skip
    return Evidence(**values | changes)


def test_every_verdict_has_its_answer() -> None:
    certified = certify(good := evidence())
    answer = answer_of(certified, good)
    assert answer.kind == "certified"
    assert answer.headline == f"Yes, at least {certified.lower_bound:.2f} of the promised 1.00 is certain"
    assert "from 50 episodes of the policy itself" in answer.sentences[0]
    assert "policy and model fitted on other episodes" in answer.more
    broken = evidence(true_returns=np.full(500, 0.01))
    answer = answer_of(certify(broken), broken)
    assert (answer.kind, answer.headline) == ("violated", "No: the evidence contradicts itself")
    assert [mark.name for mark in answer.marks] == ["promised", "guaranteed", "measured", "possible"]
    poor = evidence(rewards=None, log_density=None, log_model_density=None, valid=np.ones((50, 4), dtype=bool))
    answer = answer_of(certify(poor), poor)
    assert (answer.kind, answer.headline) == ("nothing", "No: nothing is certain")
    assert "density is unknown" in answer.sentences[0]
    alone = evidence(log_density=None, log_model_density=None, model_returns=None, absorbing=False)
    answer = answer_of(certify(alone), alone)
    assert "of the estimated" in answer.headline
    assert "taken at its worst" in answer.sentences[1]
    moved = np.random.default_rng(1).normal(-0.1, 0.1, (50, 4))
    older = evidence(log_policy=moved, log_data_policy=np.zeros((50, 4)))
    assert "episodes of another policy, worth " in answer_of(certify(older), older).sentences[0]


def test_the_axis_is_that_of_all_returns() -> None:
    found = certify(shown := evidence(reward_low=-1.0))
    line = number_line(answer_of(found, shown))
    assert line is not None
    low, high = -1.875, 1.875
    assert (line["low"], line["high"]) == ("−1.88", "1.88")
    place = 100 * ((found.lower_bound or 0.0) - low) / (high - low)
    assert float(line["limit"]) == pytest.approx(place, abs=0.01)
    tail = evidence(absorbing=False)
    line = number_line(answer_of(certify(tail), tail))
    assert line is not None
    assert line["high"] == "2.00"


def test_the_page_says_what_the_text_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, out = tmp_path / "evidence.npz", tmp_path / "page.html"
    shown = evidence()
    np.savez(file, **{name: value for name, value in dataclasses.asdict(shown).items() if value is not None})
    with pytest.raises(SystemExit) as ended:
        cli([str(file), "--html", str(out), "--json"])
    assert ended.value.code == 0
    printed = json.loads(capsys.readouterr().out)
    text = out.read_text()
    record = json.loads(re.findall(r'<script type="application/json" id="record">(.*?)</script>', text)[0])
    assert record == printed
    assert len(ways(certify(shown))) == 3
    for name, value, estimate, _ in ways(certify(shown)):
        assert f"<td>{name}</td>" in text
        assert f"{value:.3f}" in text
        assert f"{estimate:.3f}" in text
    assert "no critic in the evidence" in text
    # It replaces its own page, and nothing else without being asked.
    with pytest.raises(SystemExit) as ended:
        cli([str(file), "--html", str(out)])
    assert ended.value.code == 0
    out.write_text("mine")
    with pytest.raises(SystemExit) as ended:
        cli([str(file), "--html", str(out)])
    assert ended.value.code == 2
    assert "--html" in capsys.readouterr().err
    assert out.read_text() == "mine"
    with pytest.raises(SystemExit) as ended:
        cli([str(file), "--html", str(tmp_path / "no" / "page.html")])
    assert ended.value.code == 2


def test_a_name_is_text_and_nothing_scrolls_sideways(tmp_path: Path) -> None:
    shown = evidence(
        true_returns=np.full(500, 1.0), log_policy=np.full((50, 4), -0.1), log_data_policy=np.zeros((50, 4))
    )
    written = page(certify(shown), shown, "<img src=x onerror=alert(1)>.npz", "mark")
    assert "<img" not in written
    command = executable()
    file, profile = tmp_path / "page.html", tmp_path / "profile"
    file.write_text(written)
    profile.mkdir()
    with browser(command, profile) as window:
        window.open(file.as_uri())
        the_answer_fits(window, ((1280, 800), (390, 844), (320, 800)))
        assert window.problems == []
