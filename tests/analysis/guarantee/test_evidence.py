"""Evidence that cannot be what it claims to be is never certified above the truth; honest evidence is."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analysis.certify import cli
from analysis.guarantee.certification import certify
from analysis.guarantee.evidence import HONESTY_LEVEL, Evidence
from analysis.guarantee.evidence_file import load, save
from tests.command_errors import refusal

HORIZON, DISCOUNT, EPISODES = 15, 0.9, 250
WEIGHTS = DISCOUNT ** np.arange(HORIZON)


def normal(x: np.ndarray, mean: Any, std: float) -> np.ndarray:
    return -0.5 * ((x - mean) / std) ** 2 - np.log(std) - 0.5 * np.log(2 * np.pi)


def cart(seed: int, *, episodes: int = EPISODES, drift: float = 0.6, **changes: Any) -> dict[str, Any]:
    """Entries of honest evidence about a model that is too hopeful by ``drift`` a step, of data of a policy nearby.

    x' = 0.8 x + 0.1 a + noise of 0.3, paid 1 where x > 0.5 and 0 elsewhere; it begins at -1.
    """
    rng = np.random.default_rng(seed)
    x, a = np.full((episodes, HORIZON + 1), -1.0), rng.normal(0.0, 1.0, (episodes, HORIZON))
    mean = np.zeros((episodes, HORIZON))
    for t in range(HORIZON):
        mean[:, t] = 0.8 * x[:, t] + 0.1 * a[:, t]
        x[:, t + 1] = mean[:, t] + 0.3 * rng.normal(size=episodes)
    imagined = x.copy()  # branches of one step, from every real position
    imagined[:, 1:] = 0.8 * x[:, :-1] + 0.1 * rng.normal(0.05, 1.0, a.shape) + drift + 0.3 * rng.normal(size=a.shape)
    return {
        "log_density": normal(x[:, 1:], mean, 0.3),
        "log_model_density": normal(x[:, 1:], mean + drift, 0.3),
        "log_data_policy": normal(a, 0.0, 1.0),
        "log_policy": normal(a, 0.05, 1.0),
        "model_returns": (imagined[:, :-1] > 0.5) @ WEIGHTS,
        "reward_low": 0.0, "reward_high": 1.0, "discount": DISCOUNT, "rollout_length": 1, "absorbing": True,
        **changes,
    }  # fmt: skip


def truth() -> float:
    """What the policy really earns, to three digits."""
    rng = np.random.default_rng(99)
    x, earned = np.full(200_000, -1.0), 0.0
    for t in range(HORIZON):
        earned += DISCOUNT**t * float((x > 0.5).mean())
        x = 0.8 * x + 0.1 * rng.normal(0.05, 1.0, x.shape) + 0.3 * rng.normal(size=x.shape)
    return earned


def shifted(name: str, by: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda made: {name: made[name] + by}


def replaced(name: str, value: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda made: {name: value}


def swapped(one: str, other: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda made: {one: made[other], other: made[one]}


def leaked(made: dict[str, Any]) -> dict[str, Any]:
    """A model that learned these very episodes: narrow around what happened."""
    return {
        "log_model_density": made["log_density"].max() + np.random.default_rng(0).uniform(0, 1, (EPISODES, HORIZON))
    }


def holes(made: dict[str, Any]) -> dict[str, Any]:
    valid = np.ones((EPISODES, HORIZON), dtype=bool)
    valid[:, 1::2] = False
    return {"valid": valid, "termination_modelled": True}


def masks(value: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda made: {"valid": np.full((EPISODES, HORIZON), value), "termination_modelled": True}


def without_bad_steps(made: dict[str, Any]) -> dict[str, Any]:
    """Episodes cut where the model begins to be wrong, and nothing said about who predicts their end."""
    return {"valid": np.arange(HORIZON) < np.full((EPISODES, 1), 2)}


def twice(made: dict[str, Any]) -> dict[str, Any]:
    return {name: np.concatenate([value] * 8) for name, value in made.items() if isinstance(value, np.ndarray)}


def capped(made: dict[str, Any]) -> dict[str, Any]:
    return {"log_density": np.minimum(made["log_density"], -3.0)}


DISHONEST: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "a Jacobian of 30 nats is missing in the environment's density": shifted("log_density", -30.0),
    "one of 3 nats": shifted("log_density", -3.0),
    "one of 0.5 nats": shifted("log_density", -0.5),
    "the model's density in other units": shifted("log_model_density", np.log(100.0)),
    "the members of a mixture of 7 summed without weights": shifted("log_model_density", np.log(7.0)),
    "of 20": shifted("log_model_density", np.log(20.0)),
    "a normalisation of the observation forgotten": shifted("log_model_density", 2.5),
    "log10 of the environment's density, shifted": lambda made: {"log_density": made["log_density"] / 2.3 - 2},
    "environment and model exchanged": swapped("log_density", "log_model_density"),
    "policy and data policy exchanged, far apart": lambda made: {
        "log_data_policy": made["log_policy"] - 1.0, "log_policy": made["log_data_policy"]
    },
    "tanh's Jacobian in the data policy only": shifted("log_data_policy", -0.9),
    "densities of the mean action instead of the one taken": replaced("log_policy", np.full((EPISODES, HORIZON), 0.0)),
    "a model tested on the episodes that trained it": leaked,
    "a model's density that is constant and large": replaced("log_model_density", np.full((EPISODES, HORIZON), 5.0)),
    "the environment's density capped": capped,
    "the noise of the environment thought ten times larger": lambda made: {
        "log_density": np.full((EPISODES, HORIZON), normal(np.zeros(1), 0.0, 30.0)[0])
    },
    "densities summed over two steps in one only": lambda made: {"log_density": 4 * made["log_density"] - 6},
    "holes in valid": holes,
    "valid empty": masks(False),
    "valid as floats": masks(1.0),
    "valid as NaN": masks(np.nan),
    "valid as integers": masks(1),
    "episodes end and nobody predicts it": without_bad_steps,
    "every episode eight times": twice,
    "returns not discounted": lambda made: {"model_returns": made["model_returns"] * 10},
    "returns as NaN": replaced("model_returns", np.full(EPISODES, np.nan)),
    "returns as text": replaced("model_returns", np.full(EPISODES, "5.0")),
    "a reward range that the rewards leave": lambda made: {
        "rewards": np.full((EPISODES, HORIZON), -1.0), "predicted_rewards": np.zeros((EPISODES, HORIZON))
    },
    "absorbing as a word": replaced("absorbing", "no"),
    "nobody says how the returns were made": replaced("rollout_length", "not said"),
    "complex densities": lambda made: {"log_model_density": made["log_model_density"] + 0j},
    "model's densities infinite": replaced("log_model_density", np.full((EPISODES, HORIZON), np.inf)),
    "a data policy that could not act": replaced("log_data_policy", np.full((EPISODES, HORIZON), -np.inf)),
    "densities masked out": lambda made: {"log_model_density": np.ma.masked_less(made["log_model_density"], -2)},
}  # fmt: skip


@pytest.mark.parametrize("mistake", DISHONEST)
def test_dishonest_evidence_is_never_certified_above_the_truth(mistake: str) -> None:
    made = cart(1)
    entries = made | DISHONEST[mistake](made)
    if not any("policy" in name for name in DISHONEST[mistake](made)):
        # A changed policy would cost so much that no mistake about the model mattered.
        entries |= {"log_policy": None, "log_data_policy": None}
    try:
        report = certify(Evidence(**entries))
    except ValueError:
        return
    assert report.verdict == "not certifiable" or (report.lower_bound is not None and report.lower_bound <= truth())


@pytest.mark.parametrize("mistake", list(DISHONEST)[:8])
def test_impossible_densities_are_refused_for_what_they_are(mistake: str) -> None:
    made = cart(1, log_policy=None, log_data_policy=None)
    with pytest.raises(ValueError, match="this evidence cannot be honest"):
        certify(Evidence(**made | DISHONEST[mistake](made)))


def test_episodes_that_end_need_prefixes_and_a_model_that_predicts_the_end() -> None:
    made = cart(1, log_policy=None, log_data_policy=None, drift=0.0)
    with pytest.raises(ValueError, match="must not turn True again after an episode's end, got that in episode 0"):
        Evidence(**made | holes(made))
    with pytest.raises(ValueError, match="must begin with True in every episode, got False at time 0 of episode 0"):
        Evidence(**made | masks(False)(made))
    for said in (None, False):
        report = certify(Evidence(**made | without_bad_steps(made) | {"termination_modelled": said}))
        assert report.lower_bound is None
        assert "termination_modelled must be True" in report.reason
    assert certify(Evidence(**made | without_bad_steps(made) | {"termination_modelled": True})).lower_bound is not None


def test_there_are_enough_of_them_and_most_matter() -> None:
    """The promise is far above the truth, so the densities are all that stands between it and a false certificate."""
    assert len(DISHONEST) >= 25
    made = cart(1)
    assert made["model_returns"].mean() > truth() + 1
    blind = certify(
        Evidence(**made | {"log_model_density": made["log_density"], "log_policy": made["log_data_policy"]})
    )
    assert blind.verdict == "certified"
    assert blind.lower_bound is not None
    assert blind.lower_bound > truth() + 0.1
    honest = certify(Evidence(**made))
    assert honest.verdict == "not certifiable"


@pytest.mark.parametrize("data_sets", [60, pytest.param(400, marks=pytest.mark.slow)])
def test_honest_evidence_is_refused_no_more_often_than_the_level_says(data_sets: int) -> None:
    """The expected number among 400 is 0.4 at most, and certificates stay below the truth."""
    refused = false = 0
    for seed in range(data_sets):
        try:
            report = certify(Evidence(**cart(1000 + seed, episodes=60, drift=(0.01, 0.1, 0.4)[seed % 3])))
        except ValueError:
            refused += 1
            continue
        false += report.verdict == "certified" and report.lower_bound > truth()  # type: ignore[operator]
    assert refused <= max(1, 3 * HONESTY_LEVEL * data_sets)
    assert false <= 0.05 * data_sets


def test_models_tested_on_their_own_training_data_are_refused() -> None:
    """Kernel regression on the 20 episodes themselves: it remembers them."""
    refused = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        x = rng.normal(size=(20, HORIZON))
        y = 0.5 * x + 0.3 * rng.normal(size=x.shape)
        kernel = np.exp(-0.5 * ((x.ravel()[:, None] - x.ravel()) / 0.002) ** 2)
        fitted = (kernel @ y.ravel() / kernel.sum(axis=1)).reshape(x.shape)
        made = {
            "log_density": normal(y, 0.5 * x, 0.3), "log_model_density": normal(y, fitted, float(np.std(y - fitted))),
            "model_returns": rng.uniform(0, 1, 20), "reward_low": 0.0, "reward_high": 1.0, "discount": DISCOUNT,
            "rollout_length": 1,
        }  # fmt: skip
        try:
            certify(Evidence(**made))  # type: ignore[arg-type]
        except ValueError as error:
            refused += "trained on these episodes" in str(error)
    assert refused == 20


def promising(seed: int, episodes: int, low: float, high: float, own_data: bool, loss: float) -> Evidence:
    """A model that is right, or nearly, and promises something between ``low`` and ``high``."""
    rng = np.random.default_rng(seed)
    log_p = rng.normal(size=(episodes, 20))
    return Evidence(
        log_density=log_p, log_model_density=log_p - loss, log_data_policy=None if own_data else log_p,
        log_policy=None if own_data else log_p, model_returns=rng.uniform(low, high, episodes), reward_low=0.0,
        reward_high=1.0, discount=0.9, rollout_length=1, absorbing=True,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("episodes", "low", "high", "own_data", "loss"),
    [(50, 0.5, 1.5, True, 0.0), (50, 0.0, 2.0, False, 0.0), (50, 0.7, 1.3, False, 0.0), (60, 0.8, 1.6, False, 0.03)],
)
def test_the_number_of_episodes_that_is_lacking_would_do(
    episodes: int, low: float, high: float, own_data: bool, loss: float
) -> None:
    """Named from a few, then given; half as many would not do."""
    report = certify(promising(0, episodes, low, high, own_data, loss))
    assert report.verdict == "not certifiable"
    assert f"{episodes} episodes are too few; about {report.episodes_needed}" in report.reason
    assert report.episodes_needed is not None
    for seed in range(1, 5):
        assert certify(promising(seed, report.episodes_needed, low, high, own_data, loss)).verdict == "certified"
        fewer = certify(promising(seed, report.episodes_needed // 2, low, high, own_data, loss))
        assert fewer.verdict == "not certifiable"


def test_what_no_number_of_episodes_would_mend_is_said() -> None:
    report = certify(Evidence(**cart(3, drift=1.5)))
    assert report.episodes_needed is None
    assert re.search(r"the model part alone is about .* more like them would not help", report.reason)
    poor = certify(Evidence(**cart(3, model_returns=np.zeros(EPISODES))))
    assert "the model itself promises no more than 0" in poor.reason


def test_the_tail_counts_unless_it_is_excluded() -> None:
    made = cart(5, drift=0.0, reward_low=-1.0, log_policy=None, log_data_policy=None)
    del made["absorbing"]
    tail = DISCOUNT**HORIZON / (1 - DISCOUNT)
    going_on, over = certify(Evidence(**made)), certify(Evidence(**made, absorbing=True))
    assert (going_on.tail, over.tail) == ("worst", "absorbing")
    assert going_on.lower_bound == pytest.approx(over.lower_bound - tail)  # type: ignore[operator]


BAD_FORMS: dict[str, dict[str, Any]] = {
    "discount must be one number, got an array of shape (1,)": {"discount": np.array([0.9])},
    "discount must be one number, got '0.9'": {"discount": "0.9"},
    "reward_low must be one number, got False": {"reward_low": False},
    "reward_high must be one number, got (1+0j)": {"reward_high": 1 + 0j},
    "absorbing must be True or False, got 'no'": {"absorbing": "no"},
    "absorbing must be True or False, got 1": {"absorbing": 1},
    "termination_modelled must be True or False, got 1.0": {"termination_modelled": 1.0},
    "rollout_length must be a whole number >= 1, or 'full', got 2.0": {"rollout_length": 2.0},
    "rollout_length must be a whole number >= 1, or 'full', got True": {"rollout_length": True},
    "rollout_length must be a whole number >= 1, or 'full', got 'all'": {"rollout_length": "all"},
    "model_returns must have one axis": {"model_returns": np.ones((EPISODES, 1))},
    "model_returns must lie in": {"model_returns": np.full(EPISODES, np.nan)},
    "log_model_density must have two axes": {"log_model_density": np.zeros(EPISODES)},
    "log_model_density must be a number, got nan": {"log_model_density": np.full((EPISODES, HORIZON), np.nan)},
    "valid must hold booleans": {"valid": np.ones((EPISODES, HORIZON), dtype=int)},
}


@pytest.mark.parametrize("named", BAD_FORMS)
def test_every_field_has_its_form(named: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = cart(6) | BAD_FORMS[named]
    with pytest.raises(ValueError) as caught:
        Evidence(**made)
    assert named in str(caught.value)
    np.savez(tmp_path / "e.npz", **made)
    printed = refusal(cli, [tmp_path / "e.npz"], capsys)
    # Of a type that holds no numbers the reader of the file says so first.
    assert ("reward_high.npy holds complex128, no numbers" if "(1+0j)" in named else named) in printed


def test_files_that_are_no_evidence_are_one_line(tmp_path: Path) -> None:
    whole = tmp_path / "whole.npz"
    np.savez(whole, **cart(6))
    data = whole.read_bytes()
    bad: dict[str, bytes] = {"empty": b"", "half": data[: len(data) // 2], "text": b"PK\x03\x04 no archive"}
    flipped = bytearray(data)
    flipped[2000] ^= 0xFF
    bad["flipped"] = bytes(flipped)
    for name, content in bad.items():
        (tmp_path / name).write_bytes(content)
    np.save(tmp_path / "array.npy", np.zeros(3))
    np.savez(tmp_path / "objects.npz", **cart(6), valid=np.array([{}], dtype=object))
    np.savez(tmp_path / "unsaid.npz", **{k: v for k, v in cart(6).items() if k != "rollout_length"})
    for name in (*bad, "array.npy", "objects.npz", "unsaid.npz"):
        with pytest.raises(
            ValueError, match=r"cannot be read as \.npz|has no entry 'rollout_length'|holds one array without a name"
        ):
            load(tmp_path / name)
    assert load(whole).model_steps == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"rollout_length": 3},
        {"rollout_length": "full"},
        {"rollout_length": None},
        {"policy_dependence": "independent", "true_returns": np.arange(5.0), "termination_modelled": True},
        {"valid": np.arange(HORIZON) < 1 + np.arange(EPISODES)[:, None] % HORIZON, "termination_modelled": True},
    ],
)
def test_saved_evidence_is_read_back(tmp_path: Path, changes: dict[str, Any]) -> None:
    evidence = Evidence(**cart(0) | changes)
    save(evidence, tmp_path / "evidence.npz")
    read = load(tmp_path / "evidence.npz")
    for name, value in vars(evidence).items():
        np.testing.assert_array_equal(getattr(read, name), value, err_msg=name)
        assert type(getattr(read, name)) is type(value)


def test_evidence_without_a_model_is_read_back(tmp_path: Path) -> None:
    rewards = Evidence(rewards=np.ones((3, 4)), reward_low=0.0, reward_high=1.0, discount=0.5)
    save(rewards, str(tmp_path / "evidence.npz"))
    assert load(tmp_path / "evidence.npz").rollout_length == rewards.rollout_length
    with pytest.raises(ValueError, match=r"path must end in \.npz, got evidence"):
        save(rewards, "evidence")
