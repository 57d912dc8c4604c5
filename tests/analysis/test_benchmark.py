"""benchmark: what it counts, how it times, and its report; not how fast this machine is."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
import torch
from stable_baselines3 import SAC
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from analysis import benchmark
from analysis.benchmark import cli, text
from analysis.speed import memory, peers, reference, side_by_side, timing
from analysis.speed.contenders import BenchmarkConfig, Parts, build, update_operations
from analysis.speed.peers import Shapes
from analysis.speed.rates import ROUNDS, rates
from m3po.agents import group, model_training, rollout

CPU = torch.device("cpu")
TINY = [
    "--seconds", "0.01", "--batch-size", "8", "--width", "8", "--context-size", "4", "--history-length", "2",
    "--rollouts", "20", "--loop-steps", "5", "--env-id", "Reacher-v5", "--runs", "1", "3", "--vector-envs", "2",
]  # fmt: skip


def tiny(**changes: Any) -> BenchmarkConfig:
    values = {
        "seconds": 0.01, "batch_size": 7, "width": 6, "context_size": 3, "history_length": 4, "observation_size": 5,
        "action_size": 2, "rollouts": 20,
    }  # fmt: skip
    return BenchmarkConfig(**(values | changes))


def bar() -> tqdm[Any]:
    return tqdm(disable=True)


def counted(config: BenchmarkConfig, name: str) -> int:
    """Operations of the matrix products in one real update, as torch counts them, operator by operator."""
    parts = build(config, CPU)
    with FlopCounterMode(display=False) as counter:
        if name == "own encoder":
            parts.own.update(parts.segments, parts.generator)
        else:
            parts.stored.update(parts.transitions, parts.generator)
    return counter.get_total_flops()


@pytest.mark.parametrize(
    "changes", [{}, {"layers": 1, "history_length": 1}, {"layers": 3, "width": 9, "batch_size": 4}]
)
def test_operations_of_an_update_are_those_that_torch_counts(changes: dict[str, int]) -> None:
    """Equal, but for what goes back through the critics' outputs: one number each, so that there is nothing to sum, and
    torch does not count it; and with an encoder of its own, for the gradient in the observation, which it comes with.
    """
    config = tiny(**changes)
    outputs = 2 * 2 * 2 * config.width * config.batch_size  # of both critics in both losses
    assert counted(config, "model's encoder") == update_operations(config, own_encoder=False) - outputs
    observation = 2 * 2 * 2 * config.width * config.observation_size * config.batch_size
    assert counted(config, "own encoder") == update_operations(config, own_encoder=True) - outputs + observation


class Clock:
    """A clock that only the contenders turn."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        self.calls: list[str] = []
        monkeypatch.setattr(time, "perf_counter", lambda: self.now)

    def contender(self, name: str, durations: Callable[[float], float]) -> Callable[[], None]:
        def call() -> None:
            self.calls.append(name)
            self.now += durations(self.now)

        return call


def test_rates_are_calls_per_second(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    found = rates(
        {
            "quarter": clock.contender("quarter", lambda now: 0.25),
            "uneven": clock.contender("uneven", lambda now: 0.375),  # three calls take 1.125 seconds
            "long": clock.contender("long", lambda now: 4.0),  # longer than a round
        },
        1.0,
        bar(),
    )
    assert found == {"quarter": 4.0, "uneven": 3 / 1.125, "long": 0.25}


def test_contenders_warm_up_once_and_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    contenders = {name: clock.contender(name, lambda now: 0.5) for name in ("a", "b")}
    rates(contenders, 1.0, bar())
    assert clock.calls == ["a", "b"] + ["a", "a", "b", "b"] * ROUNDS


def test_the_fastest_round_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other work on the machine slows some rounds; the first call, which is slowest, belongs to none."""
    clock = Clock(monkeypatch)
    calls = iter([100.0, 1.0, 1.0, 0.5, 0.5, 0.5, 0.5, 2.0, 2.0, 2.0])
    assert rates({"a": clock.contender("a", lambda now: next(calls))}, 2.0, bar()) == {"a": 2.0}
    assert next(calls, None) is None


@pytest.fixture(scope="module")
def parts() -> Parts:
    return build(tiny(), CPU)


@pytest.fixture
def once(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every contender runs once, which takes a second."""
    ran: list[str] = []

    def one_call_a_second(contenders: Mapping[str, Callable[[], object]], *rest: object) -> dict[str, float]:
        for name, function in contenders.items():
            ran.append(name)
            function()
        return dict.fromkeys(contenders, 1.0)

    for module in (timing, side_by_side, peers):
        monkeypatch.setattr(module, "rates", one_call_a_second)
    return ran


def test_runs_side_by_side_are_counted_in_updates_of_one_run(
    parts: Parts, once: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every call updates all R runs once; the parts' own model stays."""
    taken: dict[str, int] = {}
    step = model_training.take_step

    def counting(optimiser: Any, gradients: Any) -> None:
        taken[once[-1]] = taken.get(once[-1], 0) + 1
        step(optimiser, gradients)

    before = [parameter.detach().clone() for parameter in parts.model.parameters()]
    monkeypatch.setattr(model_training, "take_step", counting)
    found = side_by_side.measure_runs(tiny(runs=(1, 2, 5)), parts, CPU, bar())["run_updates_per_second"]
    assert once == ["1", "2", "5"] * 2
    assert found == {"agent": {"1": 1, "2": 2, "5": 5}, "model": {"1": 1, "2": 2, "5": 5}}
    assert taken == {"1": 1, "2": 2, "5": 5}
    assert all(torch.equal(*pair) for pair in zip(before, parts.model.parameters(), strict=True))


SMALL = Shapes(observation=3, action=2, batch=16, width=8, layers=2, members=2, model_width=6, model_layers=3)


def test_peers_and_ours_do_as_many_updates_on_the_same_shapes(once: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not installed is named."""
    updates = {"ours": 0, "theirs": 0}
    learn, train = peers.SoftActorCritic.update, SAC.train

    def ours(self: Any, batch: Any, *rest: Any) -> Any:
        updates["ours"] += 1
        assert batch.features.shape == (1, SMALL.batch, SMALL.observation)
        sizes = [tuple(each.shape[-2:]) for each in self.critics.parameters()]
        assert sizes == [(5, 8), (1, 8), (8, 8), (1, 8), (8, 1), (1, 1)]
        return learn(self, batch, *rest)

    def theirs(self: Any, count: int, size: int) -> None:
        before = self._n_updates
        train(self, count, size)
        updates["theirs"] += self._n_updates - before
        assert size == SMALL.batch
        sizes = [tuple(each.shape) for each in self.critic.parameters()]
        assert sizes == [(8, 5), (8,), (8, 8), (8,), (1, 8), (1,)] * 2

    monkeypatch.setattr(peers.SoftActorCritic, "update", ours)
    monkeypatch.setattr(SAC, "train", theirs)
    monkeypatch.setitem(sys.modules, "mbrl", None)
    found = peers.measure_peers(tiny(), bar(), SMALL)
    assert updates == {"ours": peers.UPDATES, "theirs": peers.UPDATES}
    assert found["agent"] == {"ours": peers.UPDATES, "Stable-Baselines3": peers.UPDATES}
    assert found["ensemble"] == {"ours": peers.UPDATES}
    assert set(found["missing"]) == {"mbrl-lib"}
    assert found["shapes"] == dataclasses.asdict(SMALL)


@pytest.mark.parametrize("kind", ["agent", "ensemble"])
def test_operations_beside_peers_are_those_that_torch_counts(kind: str) -> None:
    """But for what goes back through the critics' outputs, where there is nothing to sum."""
    contender = {"agent": peers.our_agent, "ensemble": peers.our_model}[kind](SMALL)
    with FlopCounterMode(display=False) as counter:
        contender()
    if kind == "agent":
        expected = SMALL.agent_operations - 2 * 2 * 2 * SMALL.width * SMALL.batch
    else:
        expected = SMALL.ensemble_operations
    assert counter.get_total_flops() == peers.UPDATES * expected


def test_copying_is_counted_in_bytes_read_and_bytes_written(once: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "COPIED_BYTES", 1000)
    assert timing.measure_copying(tiny(), CPU, bar()) == 2000


def test_a_sample_takes_the_bytes_of_the_buffers_own_tensors() -> None:
    """Numbers of 4 bytes, but for the start of the episode with 8 and two flags with 1."""
    for observation, action, members in ((45, 17, 7), (3, 1, 1)):
        floats = observation + (2 * observation + action) + 1 + members
        assert memory.bytes_per_sample(observation, action, members) == 4 * floats + 8 + 2
    assert memory.bytes_per_sample(*memory.LARGEST, 7) == 650


def test_rollouts_are_counted_in_transitions(parts: Parts, once: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, int] = {}
    steps = rollout.model_steps

    def counting(*arguments: Any) -> Iterator[Any]:
        for step in steps(*arguments):
            seen[once[-1]] = seen.get(once[-1], 0) + len(step.transitions.reward)
            yield step

    monkeypatch.setattr(timing, "model_steps", counting)
    found = timing.measure_rollouts(tiny(rollout_length=3), parts, CPU, bar())
    assert found["per_second"] == seen == {"ours": 60, "reference": 3}
    assert found["times_reference"] == 20


def test_model_training_is_counted_in_samples_of_gradient_steps(
    parts: Parts, once: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = {"ours": 0, "reference": 0}
    train, learn = model_training.train_model, reference.PlainEnsemble.update

    def counting_train(model: Any, optimiser: Any, buffer: Any, settings: Any, generator: Any) -> dict[str, float]:
        result = train(model, optimiser, buffer, settings, generator)
        seen["ours"] += round(result["model_updates"]) * settings.model_batch_size
        return result

    def counting_learn(self: Any, batch: Any, target: Any, weights: Any) -> None:
        assert len(weights[0]) == len(self.members)
        seen["reference"] += len(target)
        learn(self, batch, target, weights)

    monkeypatch.setattr(timing, "train_model", counting_train)
    monkeypatch.setattr(reference.PlainEnsemble, "update", counting_learn)
    found = timing.measure_model_training(tiny(), parts, CPU, bar())
    assert found["per_second"] == seen == {"ours": 140, "reference": 7}
    assert found["times_reference"] == 20


def test_updates_are_timed_on_the_same_batch_for_all(parts: Parts, once: list[str]) -> None:
    config = tiny()
    found = timing.measure_updates(config, parts, CPU, bar())
    assert once == ["own encoder", "model's encoder", "reference"]
    assert found["per_second"] == found["times_reference"] == dict.fromkeys(once, 1.0)
    assert found["gflop_per_update"] == {
        "own encoder": update_operations(config, own_encoder=True) / 1e9,
        "model's encoder": update_operations(config, own_encoder=False) / 1e9,
    }


def test_the_matrix_rate_is_that_of_the_largest_product_here(once: list[str]) -> None:
    """One product a second each: 2 * 1024^3 operations."""
    assert timing.measure_matrix_rate(tiny(), CPU, bar()) == 2 * 1024**3
    assert len(once) == 3


def test_the_measuring_after_an_epoch_is_no_part_of_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    measured = group.measured

    def slow(runs: Any) -> Any:
        time.sleep(1.0)
        return measured(runs)

    monkeypatch.setattr(group, "measured", slow)
    began = time.perf_counter()
    loop = timing.measure_loop(tiny(env_id="Reacher-v5", loop_steps=5), bar())
    assert sum(loop["seconds"].values()) <= time.perf_counter() - began - 1.0
    assert "measure" not in loop["seconds"]


def output(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stopped:
        cli(words)
    captured = capsys.readouterr()
    return int(stopped.value.code or 0), captured.out, captured.err


def numbers(report: object, path: str = "") -> dict[str, float]:
    """Every number of a nested report by its path."""
    if isinstance(report, dict):
        return {name: value for key, inner in report.items() for name, value in numbers(inner, f"{path}/{key}").items()}
    return {path: report} if isinstance(report, (int, float)) and not isinstance(report, bool) else {}


class CountingBar(tqdm):
    """Counts its updates even where it is not shown."""

    updates: list[float]
    totals: list[float]

    def __init__(self, *arguments: Any, **options: Any) -> None:
        type(self).totals.append(options["total"])
        super().__init__(*arguments, **options)

    def update(self, n: float | None = 1) -> bool | None:
        type(self).updates.append(n or 0)
        return super().update(n)


def test_the_whole_command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    CountingBar.updates, CountingBar.totals = [], []
    monkeypatch.setattr(timing, "tqdm", CountingBar)
    monkeypatch.setattr(timing, "COPIED_BYTES", 1 << 20)
    monkeypatch.setattr(timing, "measure_peers", functools.partial(peers.measure_peers, shapes=SMALL))
    code, out, err = output(capsys, *TINY, "--json")
    assert code == 0
    assert err == ""
    assert CountingBar.totals == [sum(CountingBar.updates)]
    report = json.loads(out)
    assert list(report) == [
        "settings", "machine", "updates", "rollouts", "model_training", "stepping", "vector", "runs", "peers", "memory",
        "loop",
    ]  # fmt: skip
    measured = {path: value for path, value in numbers(report).items() if not path.startswith("/settings")}
    assert all(math.isfinite(value) and value > 0 for value in measured.values()), measured
    settings = report["settings"] | {"runs": tuple(report["settings"]["runs"])}
    assert BenchmarkConfig(**settings) == BenchmarkConfig(
        seconds=0.01, batch_size=8, width=8, context_size=4, history_length=2, rollouts=20, loop_steps=5,
        env_id="Reacher-v5", runs=(1, 3), vector_envs=2, as_json=True,
    )  # fmt: skip

    updates, machine, loop = report["updates"], report["machine"], report["loop"]
    assert set(updates["per_second"]) == {"own encoder", "model's encoder", "reference"}
    for name, value in updates["per_second"].items():
        assert updates["times_reference"][name] == pytest.approx(value / updates["per_second"]["reference"])
    for name, work in updates["gflop_per_update"].items():
        share = updates["per_second"][name] * work / machine["sgemm_gflops"]
        assert updates["share_of_sgemm"][name] == pytest.approx(share)
    for part in ("rollouts", "model_training"):
        ratio = report[part]["per_second"]["ours"] / report[part]["per_second"]["reference"]
        assert report[part]["times_reference"] == pytest.approx(ratio)
    assert set(report["stepping"]["per_second"]) == {"mujoco", "gymnasium", "collected"}
    assert set(loop["seconds"]) == set(loop["share"])
    assert sum(loop["share"].values()) == pytest.approx(1)
    whole = sum(loop["seconds"].values())
    assert loop["steps_per_second"] == pytest.approx(5 / whole)
    named = sum(loop["share"][name] for name in ("update", "model", "environment"))
    assert loop["overhead_share"] == pytest.approx(1 - named)


REPORT: dict[str, Any] = {
    "settings": dataclasses.asdict(BenchmarkConfig()),
    "machine": {"device": "cpu", "torch": "2", "sgemm_gflops": 123.4, "copied_gigabytes_per_second": 9.8},
    "updates": {
        "per_second": {"own encoder": 50.06, "model's encoder": 1234.5, "reference": 25.0},
        "times_reference": {"own encoder": 2.0024, "model's encoder": 49.38, "reference": 1.0},
        "share_of_sgemm": {"own encoder": 0.514, "model's encoder": 0.706},
    },
    "rollouts": {"per_second": {"ours": 250000.4, "reference": 1000.0}, "times_reference": 250.0004},
    "model_training": {"per_second": {"ours": 7001.0, "reference": 999.94}, "times_reference": 7.00142},
    "stepping": {"per_second": {"mujoco": 30000.0, "gymnasium": 20000.0, "collected": 900.0}},
    "vector": {"mj_step alone, 1 thread": {"per_second": 16000.4, "share": 1.0, "processor_us": 62.5}},
    "runs": {
        "run_updates_per_second": {"agent": {"1": 55.04, "36": 60.06}, "model": {"1": 20.0, "36": 1999.96}},
    },
    "peers": {
        "shapes": dataclasses.asdict(Shapes()),
        "missing": {"mbrl-lib": "No module named 'mbrl'"},
        "agent": {"ours": 150.04, "Stable-Baselines3": 100.0},
        "ensemble": {"ours": 52.0},
    },
    "memory": {"bytes_per_sample": 650.0},
    "loop": {
        "settings": {"updates_per_step": 4, "model_updates": 240},
        "seconds": {"update": 6.0, "model": 2.5, "everything else": 1.5},
        "share": {"update": 0.6, "model": 0.25, "everything else": 0.15},
        "overhead_share": 0.1234,
        "steps_per_second": 9.876,
    },
}


def test_the_report_for_people(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "benchmark", lambda config: REPORT)
    assert output(capsys) == (0, text(REPORT) + "\n", "")
    lines = text(REPORT).splitlines()
    assert lines[0] == (
        "batch 256, history 10, observation 18, action 6, GRU 64, 2 x 256 units, 5 members, 1 thread(s); "
        "best matrix product 123 GFLOP/s, copying 10 GB/s"
    )
    table = [re.split(r"\s{2,}", line.strip()) for line in lines[2:12]]
    assert table == [
        ["per second", "x reference", "of sgemm"],
        ["gradient updates, encoder trained by the critics", "50.1", "2.00", "51%"],
        ["gradient updates, encodings stored", "1,234", "49.38", "71%"],
        ["reference: five encoders, Adam per network", "25.0", "1.00"],
        ["model rollouts, transitions", "250,000", "250.00"],
        ["reference: one rollout at a time", "1,000", "1.00"],
        ["model training, samples", "7,001", "7.00"],
        ["reference: a loop over members", "999.9", "1.00"],
        ["steps of HalfCheetah-v5: raw mujoco", "30,000"],
        ["gymnasium", "20,000"],
    ]
    assert lines[12].split() == ["collected", "by", "the", "policy", "into", "D_env", "900.0"]
    assert lines[13:29] == [
        "",
        "runs side by side: run-updates per second           R = 1   R = 36",
        "  agent, encodings stored                            55.0     60.1",
        "  model, a gradient step of all members              20.0   2000.0",
        "",
        "memoryless, observation 17, action 6, batch 256: per second      x peer  of sgemm",
        "soft actor-critic 2 x 256: ours                              150.0                   70%",
        "soft actor-critic 2 x 256: Stable-Baselines3                 100.0        1.50          ",
        "ensemble 7 x (4 x 200), swish: ours                           52.0                   59%",
        "mbrl-lib is not measured: No module named 'mbrl'",
        "",
        "64 x m3po/HalfCheetahFwdBwd-v0: steps per second               of mj_step x threads",
        "  mj_step alone, 1 thread                             16,000                   1.00",
        "",
        "D_env: 650 bytes a sample of 45 observed coordinates; 12 runs of 200,000 samples: 1.45 GiB",
        "",
    ]
    assert lines[29:] == [
        "one epoch of 200 steps, 4 updates per step:",
        "  update                6.00 s  60.0%",
        "  model                 2.50 s  25.0%",
        "  everything else       1.50 s  15.0%",
        "  other than updates, model training and environment: 12.3%",
        "  end to end: 9.88 steps a second",
    ]


def test_the_columns_of_the_report_line_up() -> None:
    header, *rows = text(REPORT).splitlines()[2:13]
    for row in rows:
        assert len(row) == len(header), row


POSITIVE = [
    field.name
    for field in dataclasses.fields(BenchmarkConfig)
    if isinstance(field.default, int) and not isinstance(field.default, bool)
]


@pytest.mark.parametrize("name", POSITIVE)
def test_sizes_below_one_are_refused(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    flag = "--" + name.replace("_", "-")
    assert output(capsys, flag, "0") == (2, "", f"error: {flag} must be >= 1, got 0\n")


@pytest.mark.parametrize("seconds", [0.0, -1.0, 3600.0, math.inf, math.nan])
def test_times_out_of_range_are_refused(seconds: float, capsys: pytest.CaptureFixture[str]) -> None:
    expected = f"error: --seconds must be in (0, 3600), got {seconds}\n"
    assert output(capsys, f"--seconds={seconds}") == (2, "", expected)


@pytest.mark.parametrize("words", [["--device", "tpu"], ["--batch-size", "many"], ["--colour", "red"]])
def test_words_that_mean_nothing_are_refused_in_one_line(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = output(capsys, *words)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert words[-1] in err or words[0] in err


@pytest.mark.parametrize("env_id", ["Nowhere-v0", "Pendulum-v1"])
def test_environments_that_cannot_be_measured_are_refused_in_one_line(
    env_id: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Unknown, and not MuJoCo's."""
    code, out, err = output(capsys, *TINY, "--json", "--env-id", env_id)
    assert (code, out) == (2, "")
    assert env_id in err
    assert err.count("\n") == 1
