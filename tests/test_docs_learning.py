"""The returns that docs/learning.md prints are those of the committed trainings."""

from __future__ import annotations

import csv
from collections import defaultdict
from pathlib import Path
from statistics import mean, stdev

import pytest
from scipy.stats import fisher_exact

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "learning.md").read_text()
YARDSTICK = "real data only, 256 units, beta_1 = .5"


def data(name: str) -> list[dict[str, str]]:
    """The rows of a committed table, in the order of the seeds."""
    with (ROOT / "paper_figures" / "data" / name).open() as file:
        assert file.readline().startswith("#")
        return sorted(csv.DictReader(file), key=lambda row: int(row["seed"]))


def returns() -> dict[tuple[str, int], list[float]]:
    """By setting and samples, in the order of the seeds."""
    found = defaultdict(list)
    for row in data("learning_half_cheetah.csv"):
        found[row["setting"], int(row["step"])].append(float(row["return"]))
    return found


def test_every_setting_stands_in_a_table_with_its_returns() -> None:
    found = returns()
    rows = [line for line in PAGE.splitlines() if line.startswith("| ")]
    settings = {setting for setting, _ in found}
    assert len(settings) == 9
    for setting in settings:
        steps = [step for step in (3000, 5000, 10000, 20000) if (setting, step) in found]
        cells = [", ".join(f"{value:.0f}" for value in found[setting, step]) for step in steps]
        assert any(" | ".join(cells) in row for row in rows), (setting, cells)


def test_the_means_on_the_page() -> None:
    found = returns()
    final = found[YARDSTICK, 20000]
    assert (
        f"mean at 20,000 samples is {mean(final):,.0f}, standard error {stdev(final) / len(final) ** 0.5:.0f}" in PAGE
    )
    without = mean(found["real data only, 256 units", 5000])
    half = mean(found["half model, swish 3e-3, 256 units", 5000])
    assert f"{without:,.0f} in the mean of three seeds without, {half:,.0f} in that of five with them" in PAGE


def directions() -> dict[str, dict[int, list[tuple[float, float]]]]:
    """By setting and samples, the rewards per step in both tasks, in the order of the seeds."""
    found: dict[str, dict[int, list[tuple[float, float]]]] = defaultdict(lambda: defaultdict(list))
    for row in data("learning_directions.csv"):
        rewards = float(row["reward_in_task_0"]), float(row["reward_in_task_1"])
        found[row["setting"]][int(row["step"])].append(rewards)
    return found


def test_the_rewards_in_both_directions_stand_in_the_table_and_in_the_conclusion() -> None:
    found = directions()
    assert len(found) == 8
    for setting, by_step in found.items():
        cells = [
            "; ".join(f"{forward:.2f} and {backward:.2f}" for forward, backward in by_step[step]) or "stopped"
            for step in (5000, 11000, 20000)
        ]
        assert f"| {setting} | {' | '.join(cells)} |" in PAGE
        if "hidden" in setting:
            assert max(min(pair) for rewards in by_step.values() for pair in rewards) < 0.5
    reached = {
        kind: [
            max(min(rewards[seed]) for rewards in by_step.values()) >= 0.5
            for setting, by_step in found.items()
            if ("hidden" in setting) == (kind == "hidden") and by_step[20000]
            for seed in range(len(by_step[20000]))
        ]
        for kind in ("told", "hidden")
    }
    counts = [(sum(each), len(each)) for each in reached.values()]
    assert counts == [(5, 6), (0, 5)]
    assert fisher_exact([[few, all_ - few] for few, all_ in counts]).pvalue == pytest.approx(0.015, abs=5e-4)
    assert "5 of 6 that were told the task have had .5 in both, and 0 of 5" in " ".join(PAGE.split())
    by_filter = found["task told by a filter, no history"]
    at_best = [max(min(rewards[seed]) for rewards in by_filter.values()) for seed in range(3)]
    assert sorted(each > 0.6 for each in at_best) == [False, True, True]
    assert sorted(min(pair) > 0.5 for pair in by_filter[20000]) == [False, False, True]
    others = found["task shown, no history, three other seeds"]
    assert sorted(min(pair) > 0.7 for pair in others[11000]) == [False, False, True]
    shown = found["task shown, no history"]
    assert sorted(min(pair) > 2.85 for pair in shown[20000]) == [False, True, True]
    lasting = [max(step for step in shown if min(shown[step][seed]) < 1) + 1000 for seed in (0, 2)]
    assert "from {:,} and {:,} samples on".format(*lasting) in PAGE


def test_how_often_a_line_names_the_task() -> None:
    found: dict[str, list[dict[str, str]]] = defaultdict(list)
    for row in data("task_in_encodings.csv"):
        found[row["trained_by"]].append(row)
    assert len(found) == 3
    for trained_by, rows in found.items():
        cells = [", ".join(f"{float(row[name]):.2f}" for row in rows) for name in ("observation", "encoding")]
        assert f"| {trained_by} | {' | '.join(cells)} |" in PAGE
    errors = [
        float(row[f"{name}_error"]) for rows in found.values() for row in rows for name in ("observation", "encoding")
    ]
    assert f"standard errors {min(errors):.3f} to {max(errors):.3f}".replace("0.", ".") in PAGE.replace("\n", " ")
