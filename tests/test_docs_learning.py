"""The returns that docs/learning.md prints are those of the committed trainings."""

from __future__ import annotations

import csv
from collections import defaultdict
from pathlib import Path
from statistics import mean, stdev

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "learning.md").read_text()
YARDSTICK = "real data only, 256 units, beta_1 = .5"


def returns() -> dict[tuple[str, int], list[float]]:
    """By setting and samples, in the order of the seeds."""
    found = defaultdict(list)
    with (ROOT / "paper_figures" / "data" / "learning_half_cheetah.csv").open() as file:
        assert file.readline().startswith("#")
        for row in sorted(csv.DictReader(file), key=lambda row: int(row["seed"])):
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
    with (ROOT / "paper_figures" / "data" / "learning_directions.csv").open() as file:
        assert file.readline().startswith("#")
        for row in sorted(csv.DictReader(file), key=lambda row: int(row["seed"])):
            rewards = float(row["reward_in_task_0"]), float(row["reward_in_task_1"])
            found[row["setting"]][int(row["step"])].append(rewards)
    return found


def test_the_rewards_in_both_directions_stand_in_the_table_and_in_the_conclusion() -> None:
    found = directions()
    assert len(found) == 3
    for setting, by_step in found.items():
        cells = [
            "; ".join(f"{forward:.2f} and {backward:.2f}" for forward, backward in by_step[step]) or "stopped"
            for step in (5000, 11000, 20000)
        ]
        assert f"| {setting} | {' | '.join(cells)} |" in PAGE
        if "hidden" in setting:
            assert max(min(pair) for rewards in by_step.values() for pair in rewards) < 0.5
    shown = found["task shown, no history"]
    assert sorted(min(pair) > 2.85 for pair in shown[20000]) == [False, True, True]
    lasting = [max(step for step in shown if min(shown[step][seed]) < 1) + 1000 for seed in (0, 2)]
    assert "from {:,} and {:,} samples on".format(*lasting) in PAGE
