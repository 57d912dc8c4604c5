"""Which settings each algorithm reads, what presets stand for, and what --help shows of them."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest

from analysis.demo import DemoConfig
from m3po.agents.training import training_of
from m3po.command_line import parse
from m3po.config import ALGORITHMS, READ_BY, Config, blocks_of, fields_of
from m3po.flag_checks import flag
from m3po.flag_names import names_of
from m3po.presets import PRESETS
from m3po.runs.run_directory import RunDirectory
from m3po.settings import Algorithm
from m3po.train import cli
from m3po.training_flags import expanded

SMALL: dict[str, Any] = {
    "total_steps": 120, "initial_random_steps": 100, "epoch_steps": 20, "updates_per_step": 1, "measure_episodes": 2,
    "evaluation_episodes": 2, "rollouts_per_step": 2, "model_updates": 1, "width": 4, "layers": 1, "context_size": 4,
    "history_length": 2, "ensemble_size": 2, "batch_size": 8, "model_batch_size": 8, "planner_candidates": 2,
    "planner_horizon": 1, "planner_iterations": 1, "final_rollout_length": 2, "device": "cpu",
}  # fmt: skip
# What the command reads, not the training that it runs.
OF_THE_COMMAND = {"run_dir", "seeds", "resume", "from_previous", "threads", "checkpoint_minutes"}
NAMES = {field.name for field in dataclasses.fields(Config)}


class Recording(Config):
    """A config that notes which of its settings are read."""

    def __getattribute__(self, name: str) -> Any:
        if name in NAMES:
            object.__getattribute__(self, "read").add(name)
        return object.__getattribute__(self, name)

    read: Any = set()  # noqa: RUF012 (of all instances)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_an_algorithm_reads_the_settings_of_its_blocks_and_no_others(algorithm: Algorithm) -> None:
    config = Recording(run_dir=Path("unused"), algorithm=algorithm, **SMALL)
    config.read.clear()
    training = training_of(config)
    while not training.finished:
        training.advance()
    assert config.read - OF_THE_COMMAND == set(fields_of(*blocks_of(algorithm))) - OF_THE_COMMAND


def test_every_setting_is_in_one_block() -> None:
    names = fields_of(*READ_BY)
    assert sorted(names) == sorted(NAMES)


def shown_by(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as stopped:
        cli(arguments)
    assert stopped.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_help_shows_the_blocks_of_the_algorithm(
    algorithm: Algorithm, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    text = shown_by(["--help", "--algorithm", algorithm], capsys)
    found = set(re.findall(r"^[^\w\n-]{1,2}(--[a-z][a-z-]*)", text, re.M))
    names = {names_of(flag(name), ()) for name in fields_of(*blocks_of(algorithm))}
    assert found == {first for first, *_ in names} | {"--preset"}
    assert all(name in text for others in names for name in others)
    assert len(re.findall(r"^[^\w\n]+\w+ options ", text, re.M)) == len(blocks_of(algorithm))
    assert max(map(len, text.splitlines())) <= 80


def test_help_without_an_algorithm_is_that_of_m3po_and_names_the_others(capsys: pytest.CaptureFixture[str]) -> None:
    text = shown_by(["-h"], capsys)
    assert text == shown_by(["--algorithm=m3po", "--help"], capsys)
    assert "--algorithm NAME --help" in text
    assert all(name in text for name in ALGORITHMS)


def parsed(*arguments: str) -> Config:
    return parse(Config, expanded(["--run-dir", "r", *arguments], "train"))


def test_the_presets_are_the_runs_that_they_are_named_after() -> None:
    """The demo's and, number by number, those of section 7 and of MBPO."""
    demo = Config.preset("demo", run_dir=Path("demo/run"))
    of_the_demo = DemoConfig().training(resume=False)
    assert demo == dataclasses.replace(of_the_demo, seeds=None)
    assert demo == Config(run_dir=Path("demo/run"), device="cpu", rollout_length=5)
    paper = dataclasses.asdict(Config.preset("paper", run_dir=Path("r")))
    expected = {
        "total_steps": 200_000, "epoch_steps": 1000, "evaluation_episodes": 50, "rollout_length": 1,
        "initial_random_steps": 5000, "discount": 0.99, "learning_rate": 3e-4, "target_rate": 0.005, "batch_size": 256,
        "width": 256, "layers": 2, "model_units": "swish", "model_width": 200, "model_layers": 4,
        "ensemble_size": 7, "elites": 5, "model_learning_rate": 1e-3, "holdout": 0.2,
        "model_batch_size": 256, "rollouts_per_step": 400, "updates_per_step": 20,
    }  # fmt: skip
    assert {name: paper[name] for name in expected} == expected
    l2a = Config.preset("paper", run_dir=Path("r"), algorithm="grbal")
    assert (l2a.planner_candidates, l2a.planner_horizon, l2a.meta_batch_size, l2a.history_length) == (500, 10, 10, 16)
    cheetah = {name: Config.preset("cheetah", run_dir=Path("r"), algorithm=name) for name in ALGORITHMS}
    assert {name: each.epoch_steps for name, each in cheetah.items()} == {
        "m3po": 250, "m3po-h": 250, "m3po-full": 250, "pearl": 500, "grbal": 9500,
    }  # fmt: skip
    assert [each.total_steps for each in cheetah.values()] == [20000, 40000, 20000, 20000, 20000]
    assert cheetah["m3po"].env_id == "m3po/HalfCheetahFwdBwd-v0"


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_preset_is_the_same_as_flags_and_in_python(name: str, algorithm: Algorithm) -> None:
    assert parsed("--preset", name, "--algorithm", algorithm) == Config.preset(
        name, run_dir=Path("r"), algorithm=algorithm
    )


@pytest.mark.parametrize(
    "words",
    [["--preset", "paper", "--width", "8"], ["--preset=paper", "--width=8"], ["--width", "8", "--preset", "paper"]],
)
def test_what_is_given_overrules_the_preset_wherever_it_stands(words: list[str]) -> None:
    config = parsed(*words)
    assert (config.width, config.batch_size) == (8, 256)
    assert config == Config.preset("paper", run_dir=Path("r"), width=8)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--preset", "big"], "--preset must be one of demo, cheetah, paper, got big"),
        (["--preset"], "--preset must be one of demo, cheetah, paper, got"),
        (["--preset", "demo", "--preset", "paper"], "--preset can be given once, got demo and paper"),
        (
            ["--preset", "paper", "--total-steps", "3000"],
            "--initial-random-steps must be <= --total-steps, got 5000 > 3000",
        ),
    ],
)
def test_a_wrong_preset_is_one_line_and_code_2(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli(["--run-dir", str(tmp_path / "run"), *words])
    assert stopped.value.code == 2
    assert capsys.readouterr().err.strip() == f"error: {message}".strip()
    assert not (tmp_path / "run").exists()


def test_a_run_holds_the_settings_and_not_the_preset(tmp_path: Path) -> None:
    config = Config.preset("cheetah", run_dir=tmp_path / "run", width=32)
    RunDirectory.create(config).release()
    stored = json.loads((tmp_path / "run" / "config.json").read_text())
    assert "preset" not in stored
    assert (stored["width"], stored["model_share"]) == (32, 0.8)
    assert RunDirectory.read(tmp_path / "run").config == config
