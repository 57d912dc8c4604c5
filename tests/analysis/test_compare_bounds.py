"""compare_bounds: its table, its JSON, its conclusion, its figure, and one line for every bad input."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bounds
from analysis.compare_bounds import command_line, text
from analysis.drawing.style import BOUND_COLOURS, BOUND_LABELS, figure_style
from analysis.theory.comparison import CompareConfig, certificate_of_constant_errors, compare, conclusion
from analysis.theory.figures import draw
from bounds.finite import true_return
from bounds.finite.worst_case import attaining_instance


def output(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stopped:
        command_line(arguments)
    captured = capsys.readouterr()
    return int(stopped.value.code or 0), captured.out, captured.err


def test_json_is_the_documented_object(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--gamma", "0.95", "--eps-m", "0.1", "--eps-pi", "0.1", "--k", "5", "1", "--json"]
    code, out, err = output(capsys, *words)
    assert code == 0
    assert err == ""
    result = json.loads(out)
    assert list(result) == ["gamma", "eps_m", "eps_pi", "r_max", "trivial", "rows"]
    assert (result["gamma"], result["eps_m"], result["eps_pi"], result["r_max"]) == (0.95, 0.1, 0.1, 1.0)
    assert result["trivial"] == pytest.approx(40, rel=1e-13)
    assert [(row["bound"], row["k"]) for row in result["rows"]] == [
        (name, k) for name in (*(b.name for b in bounds.ALL_BOUNDS), "certificate-full", "certificate") for k in (1, 5)
    ]
    *rows, full, _, short, long = result["rows"]
    config = CompareConfig(discount=0.95)
    assert (full["scheme"], full["value"]) == ("full", certificate_of_constant_errors(config, None))
    assert [(row["scheme"], row["value"]) for row in (short, long)] == [
        ("branched", certificate_of_constant_errors(config, k)) for k in (1, 5)
    ]
    assert not any(row["vacuous"] for row in (full, short, long))
    for row in rows:
        assert list(row) == ["bound", "scheme", "k", "value", "vacuous"]
        bound = bounds.get(row["bound"])
        value = bound.evaluate(discount=0.95, model_error=0.1, policy_divergence=0.1, rollout_length=row["k"])
        assert row["value"] == value
        assert row["scheme"] == bound.scheme
        assert row["vacuous"] == (not row["bound"].startswith("optimal"))


def test_the_values_everybody_quotes(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--gamma", "0.95", "--eps-m", "0.1", "--eps-pi", "0.1", "--k", "1", "5"]
    code, out, _ = output(capsys, *words)
    assert code == 0
    lines = {
        tuple(line.split()[:1]) + tuple(w for w in line.split() if w in ("1", "5", "any")): line
        for line in out.splitlines()
        if line
    }
    assert " 236 " in lines["m3po-th1", "any"]
    assert " 590.0% " in lines["m3po-th1", "any"]
    assert " 159.8 " in lines["m3po-th2", "1"]
    assert " 173.19264875 " in lines["m3po-th2", "5"]
    assert " 29.1522195042 " in lines["optimal-branched", "1"]
    assert lines["optimal-branched", "1"].endswith("keeps 27.1% of the range")
    assert lines["m3po-th2", "5"].endswith("vacuous")
    assert "the paper's guarantee is vacuous" in out
    assert "The optimal guarantee (optimal-branched at k = 1) keeps 27.1% of the range" in out


def test_defaults_are_those_of_the_documentation(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--gamma", "0.95", "--eps-m", "0.1", "--eps-pi", "0.1", "--k", "1", "5", "--r-max", "1"]
    assert output(capsys, "--gamma", "0.95") == output(capsys, *words)


def test_the_trivial_value_itself_is_vacuous() -> None:
    """mbpo-4.3 at k = 1 and both errors 1 - gamma equals R/(1-gamma), and in floats falls an ulp short."""
    comparison = compare(CompareConfig(discount=0.95, model_error=0.05, policy_divergence=0.05))
    rows = {(row.bound, row.k): row for row in comparison.rows}
    assert rows["mbpo-4.3", 1].value < comparison.trivial
    assert rows["mbpo-4.3", 1].value == pytest.approx(40, rel=1e-13)
    assert rows["mbpo-4.3", 1].vacuous
    assert not rows["optimal-branched", 1].vacuous


@pytest.mark.parametrize(
    ("change", "sentences"),
    [
        ({"discount": 0.95}, ["paper's guarantee is vacuous: its smallest discrepancy (m3po-th2 at k = 1) is 399.5%"]),
        ({"discount": 0.9, "policy_divergence": 0.3}, ["up to k = 11 (crossover k* = 11.9697)", "is vacuous"]),
        (
            {"discount": 0.9, "model_error": 0.01, "policy_divergence": 0.001},
            ["paper's best guarantee (m3po-th2 at k = 1) keeps 97.2%", "branched rollouts of every length"],
        ),
        (
            {"discount": 0.85, "model_error": 0.3, "policy_divergence": 0.7, "rollout_lengths": (50,)},
            ["No guarantee from these two errors alone can help", "optimal bounds are indifferent", "up to k = 14"],
        ),
        (
            {"discount": 0.9, "model_error": 1.0, "policy_divergence": 0.0, "rollout_lengths": (1,)},
            ["(m3po-th2 at k = 1) says nothing about the model"],
        ),
        ({"discount": 0.9, "model_error": 0.0, "policy_divergence": 0.0}, ["every bound is 0"]),
        ({"discount": 0.0}, ["The optimal guarantee (optimal-full) keeps 100.0% of the range"]),
    ],
)
def test_the_conclusion_says_what_the_numbers_say(change: dict[str, Any], sentences: list[str]) -> None:
    said = "\n".join(conclusion(compare(CompareConfig(**change))))
    for sentence in sentences:
        assert sentence in said


def test_the_certificate_lines_are_theorem_4_at_constant_errors() -> None:
    """sum_t gamma^t min(1, t (eps_m + eps_pi)) and its branched mean, summed term by term."""
    config = CompareConfig(discount=0.95, model_error=0.02, policy_divergence=0.01, reward_max=3.0)
    t = np.arange(1, 2000)
    full = 6 * np.sum(0.95**t * np.minimum(1, t * 0.03))
    branched = 6 * math.fsum(
        0.95**time * np.mean(np.minimum(1, time * 0.01 + np.arange(1, min(int(time), 5) + 1) * 0.02)) for time in t
    )
    assert certificate_of_constant_errors(config, None) == pytest.approx(full, rel=1e-12)
    assert certificate_of_constant_errors(config, 5) == pytest.approx(branched, rel=1e-12)
    long = CompareConfig(discount=1 - 1e-9, model_error=1e-9, policy_divergence=1e-12)
    assert certificate_of_constant_errors(long, None) is None
    assert "certificate *" not in text(compare(long))
    assert "is left out" in text(compare(long))


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ("--gamma 1.5", "--gamma must be in [0, 1), got 1.5"),
        ("--gamma 1", "got 1.0"),
        ("--gamma nan", "got nan"),
        ("--gamma high", "high"),
        ("", "--gamma"),
        ("--gamma 0.9 --k 0", "--k must be >= 1, got 0"),
        ("--gamma 0.9 --k 1 -2", "got -2"),
        ("--gamma 0.9 --k 1.5", "1.5"),
        ("--gamma 0.9 --k", "--k"),
        ("--gamma 0.9 --eps-m -0.1", "--eps-m must be in [0, 1], got -0.1"),
        ("--gamma 0.9 --eps-pi 1.1", "--eps-pi must be in [0, 1], got 1.1"),
        ("--gamma 0.9 --r-max 0", "--r-max must be a finite number > 0, got 0.0"),
        ("--gamma 0.9 --r-max 1e306", "got 1e+306"),
        ("--gamma 0.9 --r-max -1", "--r-max must be a finite number > 0, got -1.0"),
        ("--gamma 0.9 --r-max nan", "--r-max must be a finite number, got nan"),
        ("--gamma 0.9 --r-min 1", "--r-min must be below --r-max, got 1.0 and 1.0"),
        ("--gamma 0.9 --r-min -inf", "--r-min must be a finite number, got -inf"),
        ("--gamma 0.9 --r-min -1e306", "--r-min is too large for these bounds to be computed, got -1e+306"),
        ("--gamma 0.9 --figure /no-such-folder/out.png", "/no-such-folder/out.png"),
        ("--gamma 0.9 --figure out.xyz", "out.xyz"),
        ("--gamma 0.9 --colour red", "--colour"),
    ],
)
def test_a_bad_input_exits_2_with_one_line_that_names_it(
    words: str, named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = output(capsys, *words.split())
    assert code == 2
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("error: ")
    assert named in err


def test_a_reward_range_is_used_where_the_constants_are_ranges(capsys: pytest.CaptureFixture[str]) -> None:
    """The demo's rewards in [-0.1, 1]: R = 1.1 against 2 r_max = 2."""
    words = ["--gamma", "0.95", "--eps-m", "0.02", "--eps-pi", "0.01", "--k", "1", "5", "--json"]
    code, out, _ = output(capsys, *words, "--r-min", "-0.1", "--r-max", "1")
    assert code == 0
    result, plain = json.loads(out), json.loads(output(capsys, *words)[1])
    assert list(result) == ["gamma", "eps_m", "eps_pi", "r_max", "r_min", "trivial", "rows"]
    assert "r_min" not in plain
    assert (result["r_min"], result["r_max"]) == (-0.1, 1.0)
    assert result["trivial"] == pytest.approx(1.1 / 0.05, rel=1e-13)
    for row, other in zip(result["rows"], plain["rows"], strict=True):
        papers = row["bound"].startswith(("m3po", "mbpo"))
        assert row["value"] == pytest.approx(other["value"] * (1.0 if papers else 0.55), rel=1e-12), row["bound"]
        assert row["vacuous"] == (row["value"] >= result["trivial"] * (1 - 1e-12))


def test_a_symmetric_range_is_the_largest_absolute_reward() -> None:
    given: dict[str, Any] = {"discount": 0.9, "model_error": 0.1, "reward_max": 3.0}
    ranged, plain = compare(CompareConfig(**given, reward_min=-3.0)), compare(CompareConfig(**given))
    assert (ranged.rows, ranged.certificates, ranged.trivial) == (plain.rows, plain.certificates, plain.trivial)
    negative = compare(CompareConfig(discount=0.9, reward_min=-3.0, reward_max=-1.0))
    assert negative.trivial == pytest.approx(20)
    papers = next(row for row in negative.rows if row.bound == "m3po-th1")
    assert papers.value == bounds.get("m3po-th1").evaluate(
        discount=0.9, model_error=0.1, policy_divergence=0.1, reward_max=3.0
    )


@pytest.mark.parametrize(("low", "high"), [(-0.1, 1.0), (0.5, 2.0), (-2.0, 0.0)])
def test_every_bound_holds_at_the_reward_range(low: float, high: float) -> None:
    """The exact gap of the attaining instance, whose rewards are the two ends, against every bound; the optimal ones
    are equal to it, so a constant taken too small shows."""
    config = CompareConfig(
        discount=0.8, model_error=0.05, policy_divergence=0.1, rollout_lengths=(2,), reward_min=low, reward_max=high
    )
    comparison = compare(config)
    instance = attaining_instance(0.05, 0.1, 60, reward_low=low, reward_high=high)
    truth = true_return(instance.process, instance.policy, 0.8)
    schemes: dict[str, Any] = {"full": "full", "branched": "averaged", "branched-exact": "exact"}
    for row in (*comparison.rows, *comparison.certificates):
        gap = abs(instance.model_return(0.8, schemes[row.scheme], 2) - truth)
        assert gap <= row.value * (1 + 1e-9), row.bound
        if row.bound.startswith("optimal"):
            assert gap == pytest.approx(row.value, rel=1e-4)


def test_the_text_and_the_figure_name_the_range(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = output(capsys, "--gamma", "0.95", "--r-min", "-0.1", "--r-max", "1")
    assert code == 0
    assert "rewards in [-0.1, 1]; trivial discrepancy R/(1-gamma) = 22" in out
    assert "stated with r_max = 1, the others with the range R = 1.1" in out
    with figure_style():
        from matplotlib.figure import Figure

        axes = Figure().subplots()
        config = CompareConfig(discount=0.95, reward_min=-0.1)
        draw(axes, config)
    assert "rewards in [-0.1, 1]" in axes.get_title(loc="left")
    line = next(line for line in axes.get_lines() if line.get_label() == BOUND_LABELS["optimal-branched"])
    assert float(np.asarray(line.get_ydata())[0]) == next(
        row.value for row in compare(config).rows if row.bound == "optimal-branched" and row.k == 1
    )


def test_the_figure_is_written_and_holds_every_bound(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "out.png"
    code, out, err = output(capsys, "--gamma", "0.95", "--json", "--figure", str(path))
    assert code == 0
    json.loads(out)
    assert str(path) in err
    assert path.read_bytes().startswith(b"\x89PNG")
    with figure_style():
        from matplotlib.figure import Figure

        axes = Figure().subplots()
        draw(axes, CompareConfig(discount=0.95))
    drawn = {line.get_label(): line for line in axes.get_lines()}
    for name, label in BOUND_LABELS.items():
        if name == "mbpo-4.1":
            continue
        line = drawn[label + (" (= MBPO 4.1)" if name == "m3po-th1" else "")]
        k, values = (np.asarray(data, dtype=float) for data in line.get_data())
        expected = bounds.get(name).evaluate(
            discount=0.95, model_error=0.1, policy_divergence=0.1, rollout_length=k, reward_max=1.0
        )
        np.testing.assert_array_equal(values, expected)
    assert set(BOUND_COLOURS) == set(BOUND_LABELS) == {bound.name for bound in bounds.ALL_BOUNDS}


def test_it_starts_without_torch_and_matplotlib() -> None:
    probe = (
        "import sys, analysis.compare_bounds as c; c.text(c.compare(c.CompareConfig(discount=0.9)));"
        "print(sorted({'torch', 'gymnasium', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
