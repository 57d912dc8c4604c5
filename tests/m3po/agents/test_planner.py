"""Path integral control against loops, Riccati's recursion and brute force; runaway predictions; randomness."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from m3po.agents.planner import PlannerSettings, Step, candidate_weights, improved, plan, returns_of

ACTION_COST = 0.1
# Sure enough of its answer to be compared with exact ones: its last candidates are spread by 0.7^14 = 0.0068.
PRECISE = PlannerSettings(candidates=500, horizon=6, iterations=15)
LAST_NOISE = PRECISE.noise * PRECISE.noise_decay ** (PRECISE.iterations - 1)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def linear_quadratic(f: Tensor, g: Tensor) -> Step:
    """o' = F o + G a, r = -|o'|^2 - 0.1 |a|^2."""

    def step(observation: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        following = observation @ f.T + action @ g.T
        return following, -(following**2).sum(dim=-1) - ACTION_COST * (action**2).sum(dim=-1)

    return step


def riccati_actions(f: Tensor, g: Tensor, start: Tensor, horizon: int) -> np.ndarray:
    """The best actions without bounds [H, A], by the backward recursion, in float64."""
    a, b, x = f.double().numpy(), g.double().numpy(), start.double().numpy()
    value, gains = np.zeros_like(a), []
    for _ in range(horizon):
        curvature = np.eye(len(a)) + value
        gains.append(np.linalg.solve(b.T @ curvature @ b + ACTION_COST * np.eye(b.shape[1]), b.T @ curvature @ a))
        value = a.T @ curvature @ (a - b @ gains[-1])
    actions = []
    for gain in reversed(gains):
        actions.append(-gain @ x)
        x = a @ x + b @ actions[-1]
    return np.array(actions)


def assert_converged(actions: Tensor, expected: np.ndarray, slack: float = 0.0) -> None:
    """N independent plans [N, A] of one problem: each is within one standard deviation of the last candidates' noise,
    and their mean within four standard errors of itself, both plus what ``expected`` is uncertain by."""
    errors = actions.double().numpy() - expected
    assert np.abs(errors).max() < LAST_NOISE + slack
    standard_error = errors.std(axis=0) / math.sqrt(len(errors))
    assert (np.abs(errors.mean(axis=0)) < 4 * standard_error + slack).all()


FREE = torch.tensor([[1.0, 0.3], [-0.2, 0.9]]), torch.tensor([[0.2, 0.5], [0.6, -0.3]])


@pytest.mark.parametrize("start", [(0.5, -0.4), (-0.3, 0.6), (0.0, 0.0)])
def test_the_first_action_converges_to_that_of_the_linear_quadratic_regulator(start: tuple[float, float]) -> None:
    o = torch.tensor(start)
    expected = riccati_actions(*FREE, o, PRECISE.horizon)
    assert np.abs(expected).max() < 0.95
    actions = plan(linear_quadratic(*FREE), o.expand(40, 2), 2, PRECISE, generator())
    assert_converged(actions, expected[0])


@pytest.mark.parametrize("horizon", [1, 2, 3])
def test_the_planned_action_looks_as_far_ahead_as_the_regulators(horizon: int) -> None:
    """A mass at rest beside its goal: one step ahead there is nothing to do, and two more steps each ask for more."""
    matrices = torch.tensor([[1.0, 1.0], [0.0, 1.0]]), torch.tensor([[0.0], [0.5]])
    o = torch.tensor([0.3, 0.0])
    expected = [riccati_actions(*matrices, o, each) for each in (1, 2, 3)]
    first = [each[0, 0] for each in expected]
    assert all(before - after > 9 * LAST_NOISE for before, after in pairwise(first))
    assert max(np.abs(each).max() for each in expected) < 0.95
    actions = plan(linear_quadratic(*matrices), o.expand(40, 2), 1, replace(PRECISE, horizon=horizon), generator())
    assert_converged(actions, riccati_actions(*matrices, o, horizon)[0])


def best_of_grid(f: Tensor, g: Tensor, start: Tensor) -> np.ndarray:
    """The best three actions in [-1, 1]^3 by trying all of a grid, and then all of a finer one around the best."""
    a, b, o = f.double().numpy(), g.double().numpy(), start.double().numpy()
    best, width = np.zeros(3), 1.0
    for _ in range(2):
        axes = [np.clip(np.linspace(middle - width, middle + width, 81), -1, 1) for middle in best]
        tried = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
        x, total = np.broadcast_to(o, (len(tried), 2)), np.zeros(len(tried))
        for t in range(3):
            x = x @ a.T + tried[:, t, None] * b[:, 0]
            total -= (x**2).sum(axis=1) + ACTION_COST * tried[:, t] ** 2
        best, width = tried[total.argmax()], 1.5 * width / 40
    return best


@pytest.mark.parametrize(
    ("f", "g", "start"),
    [
        ([[1.0, 0.5], [-0.8, 1.9]], [-0.2, -0.5], [1.3, 0.7]),
        ([[1.8, 0.4], [-1.0, 1.5]], [0.6, -1.2], [-0.6, -0.9]),
        ([[0.6, -0.8], [-0.8, -0.3]], [-0.2, 0.9], [-0.4, 3.6]),
    ],
)
def test_where_later_actions_hit_their_bounds_the_first_is_that_of_brute_force(
    f: list[list[float]], g: list[float], start: list[float]
) -> None:
    """Three steps whose best first action is inside, while the regulator's clipped one is elsewhere."""
    matrices, o = (torch.tensor(f), torch.tensor(g)[:, None]), torch.tensor(start)
    best = best_of_grid(*matrices, o)
    assert abs(best[0]) < 0.9
    assert np.abs(best[1:]).max() == 1
    assert abs(np.clip(riccati_actions(*matrices, o, 3)[0, 0], -1, 1) - best[0]) > 0.3
    actions = plan(linear_quadratic(*matrices), o.expand(40, 2), 1, replace(PRECISE, horizon=3), generator())
    assert_converged(actions, best[:1], slack=0.001)


@pytest.mark.parametrize(
    "reward",
    [
        lambda a: -((a - 1.7) ** 2),
        lambda a: torch.cos(4 * a) + a,
        lambda a: torch.sin(6 * a) - a.abs(),
        lambda a: -a.abs().sqrt(),
    ],
    ids=["at the bound", "two hills", "three hills", "a cusp"],
)
def test_one_action_is_that_of_brute_force(reward: object) -> None:
    assert callable(reward)
    grid = torch.linspace(-1, 1, 20001, dtype=torch.float64)
    best = grid[reward(grid).argmax()].item()

    def step(observation: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        return observation, reward(action[..., 0])

    actions = plan(step, torch.zeros(40, 1), 1, replace(PRECISE, horizon=1), generator())
    assert (actions - best).abs().max() < LAST_NOISE


def test_more_iterations_come_closer() -> None:
    o = torch.tensor([0.5, -0.4])
    expected = torch.as_tensor(riccati_actions(*FREE, o, PRECISE.horizon)[0])
    errors = []
    for iterations in (1, 4, 8, 12):
        settings = replace(PRECISE, iterations=iterations)
        actions = plan(linear_quadratic(*FREE), o.expand(40, 2), 2, settings, generator())
        errors.append((actions - expected).abs().mean().item())
    for before, after in pairwise(errors):
        assert after < 0.6 * before


def wandering(observation: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
    """Something smooth that is not linear."""
    following = torch.tanh(1.5 * observation + action.sum(dim=-1, keepdim=True))
    return following, following[..., 0] * action[..., 0] - following[..., 1] ** 2


def by_loops(start: list[float], settings: PlannerSettings, noise: Tensor) -> list[float]:
    """The planner for one problem with this noise [I, C, H, A], in python's floats."""
    horizon, size = noise.shape[2:]
    mean = [[0.0] * size for _ in range(horizon)]
    for iteration in range(settings.iterations):
        candidates, returns = [], []
        for c in range(settings.candidates):
            sequence, o, total = [], list(start), 0.0
            for t in range(horizon):
                scale = settings.noise * settings.noise_decay**iteration
                raw = [mean[t][i] + scale * noise[iteration, c, t, i].item() for i in range(size)]
                a = [min(max(value, -1.0), 1.0) for value in raw]
                o = [math.tanh(1.5 * each + sum(a)) for each in o]
                total += o[0] * a[0] - o[1] ** 2
                sequence.append(a)
            candidates.append(sequence)
            returns.append(total)
        best, middle = max(returns), sorted(returns)[(len(returns) - 1) // 2]
        raw_weights = [math.exp((each - best) / (settings.temperature * (best - middle))) for each in returns]
        weights = [each / sum(raw_weights) for each in raw_weights]
        mean = [
            [sum(w * sequence[t][i] for w, sequence in zip(weights, candidates, strict=True)) for i in range(size)]
            for t in range(horizon)
        ]
    return mean[0]


@pytest.mark.parametrize("candidates", [8, 9])
def test_the_plan_is_that_of_loops_over_the_same_noise(candidates: int) -> None:
    settings = PlannerSettings(
        candidates=candidates, horizon=3, iterations=3, temperature=0.7, noise=0.8, noise_decay=0.6
    )
    start = torch.tensor([[0.3, -0.5]], dtype=torch.float64)
    action = plan(wandering, start, 2, settings, generator(5))
    source = generator(5)
    noise = torch.stack(
        [torch.randn(1, candidates, 3, 2, generator=source, dtype=torch.float64)[0] for _ in range(settings.iterations)]
    )
    assert action[0].tolist() == pytest.approx(by_loops([0.3, -0.5], settings, noise), rel=1e-10)


def test_problems_side_by_side_are_solved_as_each_alone() -> None:
    observation = torch.randn(4, 2, generator=generator(1), dtype=torch.float64)
    mean = 0.5 * torch.randn(4, 3, 2, generator=generator(2), dtype=torch.float64)
    noise = torch.randn(4, 20, 3, 2, generator=generator(3), dtype=torch.float64)
    together = improved(wandering, observation, mean, noise, 0.3)
    for row in range(4):
        one = slice(row, row + 1)
        alone = improved(wandering, observation[one], mean[one], noise[one], 0.3)
        torch.testing.assert_close(together[one], alone, rtol=1e-12, atol=1e-14)


def test_a_problem_does_not_feel_its_neighbours() -> None:
    settings = PlannerSettings(candidates=30, horizon=3, iterations=3)
    observation = torch.randn(3, 2, generator=generator(1))
    other = observation.clone()
    other[0], other[2] = torch.tensor([9.0, -9.0]), torch.nan
    one = plan(wandering, observation, 2, settings, generator(4))
    two = plan(wandering, other, 2, settings, generator(4))
    assert torch.equal(one[1], two[1])
    assert not torch.equal(one[0], two[0])


def test_the_generator_decides_and_nothing_is_carried_over() -> None:
    settings = PlannerSettings(candidates=20, horizon=3, iterations=2)
    observation = torch.tensor([[0.2, 0.1]]).expand(3, 2)
    first = plan(wandering, observation, 2, settings, generator(1))
    second = plan(wandering, observation, 2, settings, generator(2))
    again = plan(wandering, observation, 2, settings, generator(1))
    assert torch.equal(first, again)
    assert not torch.equal(first, second)
    # Equal problems get noise of their own.
    assert not torch.equal(first[0], first[1])


@given(st.lists(st.integers(-500, 500).map(lambda n: n / 10), min_size=2, max_size=9), st.floats(0.05, 3))
def test_candidate_weights_are_exponential_in_units_of_best_minus_median(
    returns: list[float], temperature: float
) -> None:
    best, median = max(returns), sorted(returns)[(len(returns) - 1) // 2]
    weights = candidate_weights(torch.tensor([returns], dtype=torch.float64), temperature)[0].tolist()
    if best == median:
        expected = [float(value == best) for value in returns]
    else:
        expected = [math.exp((value - best) / (temperature * (best - median))) for value in returns]
    assert weights == pytest.approx([each / sum(expected) for each in expected], rel=1e-9, abs=1e-300)


def test_candidate_weights_know_neither_unit_nor_zero_of_the_reward() -> None:
    returns = torch.randn(5, 40, generator=generator(), dtype=torch.float64)
    weights = candidate_weights(returns, 0.2)
    torch.testing.assert_close(candidate_weights(1000 * returns - 7, 0.2), weights, rtol=1e-9, atol=0)
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(5, dtype=torch.float64))


def test_how_low_the_worst_fall_does_not_matter_to_the_best() -> None:
    returns = torch.randn(1, 41, generator=generator(), dtype=torch.float64)
    worst = returns < returns.median()
    weights = candidate_weights(returns, 0.1)
    sunk = candidate_weights(torch.where(worst, -1e30, returns), 0.1)
    torch.testing.assert_close(sunk[~worst], weights[~worst], rtol=1e-3, atol=0)


def test_huge_finite_returns_do_not_overflow() -> None:
    weights = candidate_weights(torch.tensor([[3e38, -3e38, -3e38]]), 0.5)
    expected = torch.tensor([[1.0, math.exp(-2), math.exp(-2)]], dtype=torch.float64)
    torch.testing.assert_close(weights, expected / expected.sum())


def test_lost_candidates_weigh_nothing_and_the_others_as_without_them() -> None:
    returns = torch.tensor([[1.0, -torch.inf, 3.0, 2.0, -torch.inf, -torch.inf, -torch.inf]])
    weights = candidate_weights(returns, 0.5)
    kept = returns.isfinite()
    assert (weights[~kept] == 0).all()
    torch.testing.assert_close(weights[kept], candidate_weights(returns[kept][None], 0.5)[0])
    assert not candidate_weights(torch.full((2, 4), -torch.inf), 0.5).any()


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", ["observation", "reward"])
@pytest.mark.parametrize("when", [0, 1, 2])
def test_a_future_that_runs_away_is_lost(bad: float, where: str, when: int) -> None:
    """At any step, even when the model comes back from it; its neighbours keep their returns."""
    steps_taken = 0

    def step(observation: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        nonlocal steps_taken
        following, reward = action.clone(), action[..., 0].clone()
        if steps_taken == when:
            if where == "reward":
                reward[0, 1] = bad
            else:
                following[0, 1, 1] = bad
        steps_taken += 1
        return following, reward

    actions = torch.rand(2, 4, 3, 2, generator=generator())
    returns = returns_of(step, torch.zeros(2, 2), actions)
    expected = actions[..., 0].sum(dim=-1)
    expected[0, 1] = -torch.inf
    torch.testing.assert_close(returns, expected)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_plans_keep_away_from_where_the_model_runs_away(bad: float) -> None:
    """Rewards grow with the action, up to 0.4 where predictions blow up: most candidates are lost."""

    def step(observation: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        broken = (action[..., 0] > 0.4) | (action[..., 0] < -0.1)
        return torch.where(broken[..., None], bad, observation), torch.where(broken, bad, action[..., 0])

    settings = PlannerSettings(candidates=500, horizon=2, iterations=8)
    actions = plan(step, torch.zeros(10, 1), 1, settings, generator())
    assert (actions <= 0.4).all()
    assert (actions > 0.35).all()


def test_where_every_future_runs_away_the_mean_stays() -> None:
    def step(observation: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        return observation * torch.nan, action[..., 0]

    mean = torch.full((2, 3, 1), 0.3)
    assert torch.equal(
        improved(step, torch.zeros(2, 1), mean, torch.randn(2, 5, 3, 1, generator=generator()), 1.0), mean
    )
    assert torch.equal(plan(step, torch.zeros(2, 1), 1, PlannerSettings(), generator()), torch.zeros(2, 1))


def test_actions_stay_in_the_box_and_candidates_reach_its_bounds() -> None:
    seen: list[Tensor] = []

    def step(observation: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        seen.append(action)
        return observation, 100 * action.sum(dim=-1)

    actions = plan(step, torch.zeros(5, 1), 3, PlannerSettings(candidates=50, horizon=2, noise=5.0), generator())
    tried = torch.cat([each.flatten() for each in seen])
    assert tried.min() == -1
    assert tried.max() == 1
    assert (actions.abs() <= 1).all()
    assert actions.shape == (5, 3)


def test_equal_futures_share_their_weight() -> None:
    """A reward that does not depend on actions: the plain average of the candidates, not a division by zero."""

    def step(observation: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        return observation, torch.ones(action.shape[:-1])

    noise = torch.randn(2, 6, 3, 1, generator=generator())
    mean = improved(step, torch.zeros(2, 1), torch.zeros(2, 3, 1), noise, 0.1)
    torch.testing.assert_close(mean, noise.clamp(-1, 1).mean(dim=1))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"candidates": 1}, "candidates must be >= 2, got 1"),
        ({"horizon": 0}, "horizon must be >= 1, got 0"),
        ({"iterations": 0}, "iterations must be >= 1, got 0"),
        ({"temperature": 0.0}, "temperature must be a finite number > 0, got 0.0"),
        ({"temperature": math.nan}, "temperature must be a finite number > 0, got nan"),
        ({"noise": math.inf}, "noise must be a finite number > 0, got inf"),
        ({"noise_decay": 0.0}, r"noise_decay must be in \(0, 1\], got 0.0"),
        ({"noise_decay": 1.1}, r"noise_decay must be in \(0, 1\], got 1.1"),
    ],
)
def test_settings_out_of_range_are_named(changes: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PlannerSettings(**changes)  # type: ignore[arg-type]


def test_wrong_shapes_are_named() -> None:
    def step(observation: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        return observation, action

    settings = PlannerSettings(candidates=4, horizon=2)
    with pytest.raises(ValueError, match=r"\[3, 4, 1\] and \[3, 4\], got \[3, 4, 1\] and \[3, 4, 1\]"):
        plan(step, torch.zeros(3, 1), 1, settings, generator())
    with pytest.raises(ValueError, match="action_size must be >= 1, got 0"):
        plan(step, torch.zeros(3, 1), 0, settings, generator())
