"""The pages of the environments are held to the environments: every table and every block of code."""

from __future__ import annotations

import csv
import inspect
import re
from pathlib import Path
from typing import Any

import gymnasium as gym
import mujoco
import numpy as np
import pytest
from gymnasium.envs.mujoco import MujocoEnv

import m3po.envs  # noqa: F401 (registers the environments)
from m3po.envs.half_cheetah import CHEETAH_SIZE
from m3po.envs.hidden_task import BodyOptions, TaskOptions
from tests.tutorial_page import ROOT

PAGES = sorted((ROOT / "docs" / "environments").glob("*.md"))
BODIES = [page for page in PAGES if page.stem != "switching_point_mass"]
POINT_MASS = ROOT / "docs" / "environments" / "switching_point_mass.md"
# Joint types of MuJoCo, and the units of their positions and velocities; a free joint has three, and then others.
UNITS = {"slide": ("m", "m/s"), "hinge": ("rad", "rad/s")}
TYPES = {mujoco.mjtJoint.mjJNT_FREE: "free", mujoco.mjtJoint.mjJNT_SLIDE: "slide", mujoco.mjtJoint.mjJNT_HINGE: "hinge"}

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
every_body = pytest.mark.parametrize("page", BODIES, ids=lambda page: page.stem)


def make(page: Path, **options: Any) -> Any:
    """The environment that a page is about, which its title names."""
    return gym.make(f"m3po/{page.read_text().splitlines()[0].removeprefix('# ')}-v0", **options).unwrapped


def section(page: Path, title: str) -> str:
    """What stands under a heading; under the page's own where ``title`` is empty."""
    parts = re.split(r"^#+ (.+)$", page.read_text(), flags=re.M)
    found = dict(zip(parts[1::2], parts[2::2], strict=True))
    return found[title or parts[1]]


def tables(text: str) -> list[list[list[str]]]:
    """Every table of a text: rows of cells, the head first and without the line under it."""
    found = []
    for block in re.findall(r"(?:^\|.*\|\n)+", text + "\n", re.M):
        rows = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in block.splitlines()]
        found.append([rows[0], *rows[2:]])
    return found


def blocks(text: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", text, re.S)


def value_of(cell: str) -> Any:
    """What the code in a cell stands for."""
    assert cell.startswith("`"), cell
    return eval(cell.strip("`"), {"__builtins__": {"range": range, "dict": dict}, "inf": np.inf, "pi": np.pi})


def numbers(pattern: str, text: str) -> list[float]:
    """What the groups of a pattern, which must be there, are."""
    found = re.search(pattern, " ".join(text.split()))
    assert found is not None, pattern
    return [float(each) for each in found.groups()]


def plain(tasks: Any) -> Any:
    return tasks if isinstance(tasks, range) else tuple(tasks)


def test_every_environment_has_its_page():
    titles = {page.read_text().splitlines()[0].removeprefix("# ") for page in PAGES}
    assert {f"m3po/{title}-v0" for title in titles} == {name for name in gym.registry if name.startswith("m3po/")}


@every_page
def test_every_page_has_the_same_sections(page):
    titles = re.findall(r"^## (.+)$", page.read_text(), re.M)
    assert titles[:11] == [
        "Description", "Action space", "Observation space", "Rewards", "Hidden task and switching", "Starting state",
        "Episode end", "Arguments", "Reset options", "Density to certify against", "Version history",
    ]  # fmt: skip


@every_page
def test_the_summary_is_the_environments(page):
    environment = make(page)
    shown = make(page, observe_task=True)
    steps = gym.spec(environment.spec.id).max_episode_steps
    is_body = page in BODIES
    right = {
        "action space": f"`{environment.action_space}`",
        "observation space": f"`{environment.observation_space}`",
        "tasks": environment.task_count if is_body else len(environment.dynamics.tasks),
        "coordinates of a shown task": shown.observation_space.shape[0] - environment.observation_space.shape[0],
        "steps of an episode, at most": steps,
        "seconds a step (`frame_skip` simulator steps)": f"`{environment.dt}` (`{environment.frame_skip}`)"
        if is_body
        else "",
        "seconds a step": "" if is_body else environment.dynamics.time_step,
    }
    rows = tables(section(page, ""))[0][1:]
    assert {name for name, _ in rows} == {name for name, value in right.items() if value != ""}
    for name, cell in rows:
        expected = right[name]
        assert (cell if isinstance(expected, str) else value_of(cell)) == expected, name


@every_body
def test_the_actions_are_the_models(page):
    environment = make(page)
    model, box = environment.model, environment.action_space
    head, *rows = tables(section(page, "Action space"))[0]
    assert head == ["index", "action", "min", "max", "joint", "gear"]
    assert len(rows) == model.nu
    for i, (index, _, low, high, joint, gear) in enumerate(rows):
        assert int(index) == i
        assert (np.float32(low), np.float32(high)) == (box.low[i], box.high[i])
        assert joint == f"`{model.joint(model.actuator_trnid[i, 0]).name}`"
        assert float(gear) == model.actuator_gear[i, 0]


def place(model: Any, address: int, velocity: bool) -> tuple[str, str, str]:
    """Joint, its type and unit of a position or velocity."""
    starts = model.jnt_dofadr if velocity else model.jnt_qposadr
    joint = int(np.searchsorted(starts, address, side="right") - 1)
    kind = TYPES[mujoco.mjtJoint(model.jnt_type[joint])]
    if kind == "free":
        units = ("m", "1") if not velocity else ("m/s", "rad/s")
        unit = units[int(address - starts[joint] >= 3)]
    else:
        unit = UNITS[kind][velocity]
    return f"`{model.joint(joint).name}`", kind, unit


@every_body
def test_the_observations_are_the_models(page):
    environment = make(page)
    model = environment.model
    head, *rows = tables(section(page, "Observation space"))[0]
    assert head == ["index", "observation", "min", "max", "joint", "type", "unit"]
    right = [place(model, each, False) for each in range(*environment.observed_positions.indices(model.nq))]
    right += [place(model, each, True) for each in range(*environment.observed_velocities.indices(model.nv))]
    if environment.observe_reward:
        right.append(("", "", ""))
        assert rows[-1][1].startswith("previous reward")
    assert [tuple(row[4:]) for row in rows] == right
    assert [int(row[0]) for row in rows] == list(range(environment.observation_space.shape[0]))
    box = environment.observation_space
    assert [[float(row[2]), float(row[3])] for row in rows] == np.stack([box.low, box.high], axis=1).tolist()


@every_page
@pytest.mark.parametrize("task", [0, 1])
def test_the_reward_is_what_is_paid(page, task):
    (code,) = blocks(section(page, "Rewards"))
    environment = make(page, switch_probability=0.0)
    direction = environment.task_parameters(task).get("direction") if page in BODIES else None
    generator = np.random.default_rng(0)
    observation, _ = environment.reset(seed=0, options={"task": task})
    ended = 0
    for _ in range(80):
        action = environment.action_space.high * generator.uniform(-1, 1, environment.action_space.shape)
        action = action.astype(np.float32)
        following, reward, terminated, _, info = environment.step(action)
        names = {"np": np, "env": environment, "action": action, "info": info, "direction": direction,
                 "observation": observation, "terminated": terminated}  # fmt: skip
        exec(code, names)
        assert names["reward"] == pytest.approx(reward, rel=1e-5, abs=1e-6)
        observation, ended = following, ended + terminated
    assert (ended > 0) == (page.stem in ("ant_fwd_bwd", "walker2d_random_params", "humanoid_direc"))


@every_page
def test_an_episode_ends_as_the_page_says(page):
    (code,) = blocks(section(page, "Episode end"))
    options = {"fall_ends_episode": True} if page.stem == "half_cheetah_pier" else {}
    environment = make(page, **options)
    if page not in BODIES:
        assert code == "terminated = False\n"
        return
    generator = np.random.default_rng(0)
    size = environment.observation_space.shape[0]
    observations = generator.uniform(-2, 3, (4000, size))
    observations[::2, 0] = np.array([0.2, 0.8, 1.0, 2.0, -1.5])[generator.integers(5, size=2000)]
    observations[::2, 1] = generator.choice([-1.0, 0.0, 1.0], 2000)
    observations[::2, 0] += generator.choice([-1e-9, 0.0, 1e-9], 2000)
    observations[:50, 5] = np.inf
    for observation, ends in zip(observations, environment.terminated(observations), strict=True):
        names = {"np": np, "observation": observation}
        exec(code, names)
        assert names["terminated"] == ends, observation


@every_body
def test_the_tasks_are_the_environments(page):
    environment = make(page)
    splits, parameters = tables(section(page, "Hidden task and switching"))
    assert {name.strip("`"): value_of(value) for name, value in splits[1:]} == {
        name: plain(getattr(environment, name)) if name != "task_count" else environment.task_count
        for name in ("task_count", "default_tasks", "train_tasks", "test_tasks")
    }
    if not environment.drawn_numbers:
        assert [(int(row[0]), value_of(row[1])) for row in parameters[1:]] == [
            (task, environment.task_parameters(task)) for task in range(environment.task_count)
        ]
        return
    drawn = [environment.task_parameters(task) for task in range(400)]
    assert [row[0].strip("`") for row in parameters[1:]] == list(drawn[0])
    for name, shape, low, high, _ in parameters[1:]:
        values = np.stack([each[name.strip("`")] for each in drawn])
        assert values.shape[1:] == value_of(shape)
        least, most = value_of(low), value_of(high)
        assert least <= values.min() <= least + 0.02 * (most - least)
        assert most - 0.02 * (most - least) <= values.max() <= most


@pytest.mark.parametrize("task", range(4))
def test_the_crippled_leg_is_the_body_of_that_name(task):
    page = ROOT / "docs" / "environments" / "ant_crippled_leg.md"
    model = make(page).model
    row = tables(section(page, "Hidden task and switching"))[1][1 + task]
    parameters = value_of(row[1])
    joints = [int(model.actuator_trnid[each, 0]) for each in parameters["actuators"]]
    bodies = {int(model.jnt_bodyid[each]) for each in joints} | {
        int(model.geom_bodyid[each]) for each in parameters["geoms"]
    }
    for body in bodies:
        while model.body_parentid[body] != model.body("torso").id:
            body = model.body_parentid[body]
        assert f"`{model.body(body).name}`" == row[2]


def test_the_pier_is_the_models():
    page = ROOT / "docs" / "environments" / "half_cheetah_pier.md"
    environment = make(page)
    model = environment.model
    places, shapes = tables(section(page, "Description"))
    bodies = [model.body(f"block_{i}").id for i in range(8)]
    geoms = [model.geom(f"block_{i}").id for i in range(8)]
    assert [[float(cell) for cell in row] for row in places[1:]] == [
        [i, model.body_pos[body, 0], model.geom_size[geom, 0]]
        for i, (body, geom) in enumerate(zip(bodies, geoms, strict=True))
    ]
    joints = [model.joint(f"block_{i}").id for i in range(8)]
    of = {"geom": geoms, "body": bodies, "jnt": joints, "dof": list(range(CHEETAH_SIZE, CHEETAH_SIZE + 8))}
    for cell, value, _ in shapes[1:]:
        name, _, index = cell.strip("`").partition("[")
        values = getattr(model, name)[of[name.partition("_")[0]]]
        values = values[:, int(index[:-1])] if index else values
        np.testing.assert_allclose(values, value_of(value), rtol=2e-4)
    text = section(page, "Description")
    total, cheetah = numbers(r"scaled to ([\d.]+) kg in all.* leaves the cheetah ([\d.]+) kg", text)
    assert model.body_mass.sum() == pytest.approx(total)
    assert model.body_mass[: bodies[0]].sum() == pytest.approx(cheetah, abs=0.005)
    assert model.geom("floor").pos[2] == pytest.approx(numbers(r"floor is at (-[\d.]+)", text)[0])
    ends = numbers(r"\(x < (-?[\d.]+) or x > ([\d.]+)\)", section(page, "Episode end"))
    centres, halves = model.body_pos[bodies, 0], model.geom_size[geoms, 0]
    assert (centres - halves).min() == pytest.approx(ends[0], abs=0.01)
    assert (centres + halves).max() == pytest.approx(ends[1], abs=0.01)
    environment.reset(seed=0)
    depth = numbers(r"([\d.]+) m below their rest", section(page, "Starting state"))[0]
    np.testing.assert_allclose(environment.data.qpos[CHEETAH_SIZE:], -depth, atol=1e-4)
    assert str(make(page, observe_pier=True).observation_space.shape[0]) in section(page, "Observation space")


@every_body
def test_episodes_start_where_the_page_says(page):
    environment = make(page)
    text = " ".join(section(page, "Starting state").split())
    height = re.search(r"rest, ([\d.]+) m high", text)
    address = 2 if TYPES[mujoco.mjtJoint(environment.model.jnt_type[0])] == "free" else 1
    assert environment.init_qpos[address] == float(height.group(1) if height else 0.0)
    scale = environment._reset_noise_scale
    count = CHEETAH_SIZE if page.stem == "half_cheetah_pier" else environment.model.nq
    positions, velocities = [], []
    for seed in range(60):
        environment.reset(seed=seed)
        positions.append(environment.data.qpos[:count] - environment.init_qpos[:count])
        velocities.append(environment.data.qvel[:CHEETAH_SIZE].copy())
    free = slice(7, None) if address == 2 else slice(None)  # a free joint's quaternion is normalised
    assert 0.9 * scale < np.abs(np.array(positions)[:, free]).max() <= scale
    assert (np.abs(velocities).max() > 1.5 * scale) == ("N(0, 1)" in text)


def describe(environment: Any) -> dict[str, Any]:
    """What the options make of a body."""
    names = ("switching", "tasks", "observe_reward", "observe_task", "reward_range", "frame_skip", "_reset_noise_scale",
             "render_mode", "width", "height", "camera_id", "camera_name", "observed_positions", "observation_is_state",
             "fall_ends_episode", "process_noise")  # fmt: skip
    found = {name: getattr(environment, name, None) for name in names}
    return found | {"process_noise": None if environment.process_noise is None else list(environment.process_noise)}


@every_page
def test_the_arguments_and_their_defaults_are_the_environments(page):
    """Of a body, giving a default explicitly changes nothing; of the point mass they stand in its signature."""
    rows = tables(section(page, "Arguments"))[0][1:]
    defaults = {name: cell for names, cell, _ in rows for name in re.findall(r"`(\w+)`", names)}
    environment = make(page)
    signature = inspect.signature(type(environment).__init__).parameters.values()
    own = {each.name: each.default for each in signature if each.kind is inspect.Parameter.KEYWORD_ONLY}
    if page not in BODIES:
        rule = environment.dynamics.switching
        own["switch_probability"] = rule.probability  # its default depends on the period
        assert {name: value_of(cell) for name, cell in defaults.items() if name != "tasks"} == {
            name: value for name, value in own.items() if name != "tasks"
        }
        assert "tasks" in defaults
        return
    known = {*TaskOptions.__annotations__, *BodyOptions.__annotations__, *own}
    assert set(defaults) == known
    body = inspect.signature(MujocoEnv.__init__).parameters
    for name, cell in defaults.items():
        if cell == "the body's":
            assert name == "default_camera_config"
            continue
        value = value_of(cell)
        assert describe(make(page, **{name: value})) == describe(environment), name
        if name in body:
            assert value == body[name].default or name == "frame_skip", name


@every_body
def test_the_number_of_noisy_coordinates_is_right(page):
    (row,) = (row for row in tables(section(page, "Arguments"))[0] if row[0] == "`process_noise`")
    environment = make(page, process_noise=0.1)
    count = numbers(r"(\d+) observed", row[2])[0] + ("and the reward" in row[2])
    assert len(environment.process_noise) == count


def test_the_point_mass_is_the_environments():
    environment = make(POINT_MASS)
    dynamics = environment.dynamics
    for title, box in (
        ("Action space", environment.action_space),
        ("Observation space", environment.observation_space),
    ):
        rows = tables(section(POINT_MASS, title))[0][1:]
        assert [[int(row[0]), float(row[2]), float(row[3])] for row in rows] == [
            [i, low, high] for i, (low, high) in enumerate(zip(box.low, box.high, strict=True))
        ]
    (code,) = blocks(section(POINT_MASS, "Description"))
    rows = tables(section(POINT_MASS, "Hidden task and switching"))[0][1:]
    assert len(rows) == len(dynamics.tasks)
    generator = np.random.default_rng(0)
    for task, (row, known) in enumerate(zip(rows, dynamics.tasks, strict=True)):
        angle, gain, wind = (value_of(cell) for cell in row[1:])
        assert (int(row[0]), angle, gain, wind) == (task, known.angle, known.gain, known.wind)
        observation, action = generator.normal(size=4), generator.uniform(-1, 1, 2)
        names = {"np": np, "angle": angle, "gain": gain, "wind": np.array(wind), "action": action,
                 "position": observation[:2], "velocity": observation[2:]}  # fmt: skip
        exec(code, names)
        np.testing.assert_allclose(names["mean"], dynamics.mean(observation, action, np.array(task)), atol=1e-12)
    low, high = numbers(r"in \[(-?[\d.]+), ([\d.]+)\]", section(POINT_MASS, "Rewards"))
    assert (low, high) == (dynamics.reward_low, dynamics.reward_high)
    radius = numbers(r"radius ([\d.]+)", section(POINT_MASS, "Starting state"))[0]
    observation, _ = environment.reset(seed=0)
    assert np.hypot(*observation[:2]) == pytest.approx(radius)
    assert not observation[2:].any()


@every_page
def test_there_is_a_density_where_the_page_has_one(page):
    code = blocks(section(page, "Density to certify against"))
    if code:
        names: dict[str, Any] = {"gym": gym}
        exec(code[0], names)
        assert names["env"].unwrapped.spec.id == make(page).spec.id
        assert callable(names["density"])
    else:
        assert section(page, "Density to certify against").strip().startswith("None")
        assert make(page, process_noise=0.05, reward_range=(-10.0, 10.0)).dynamics is None
    if page.stem == "half_cheetah_pier":
        assert make(page, process_noise=0.05, reward_range=(-10.0, 10.0)).dynamics is None


@every_page
def test_the_code_that_makes_it_runs(page):
    (code,) = blocks(section(page, ""))
    names: dict[str, Any] = {}
    exec(code, names)
    assert names["env"].unwrapped.spec.id == make(page).spec.id


def test_the_reference_returns_are_what_their_code_and_the_baselines_say() -> None:
    overview, baselines = (ROOT / "docs" / "environments.md", (ROOT / "docs" / "baselines.md").read_text())
    text = section(overview, "Reference returns")
    (code,) = blocks(text)
    names: dict[str, Any] = {}
    exec(code, names)
    rows = {row[0]: row[1:] for row in tables(text)[0][1:]}
    for name in ("SwitchingPointMass", "Walker2dRandomParams"):  # the quick ones
        mean, error, steps = names["uniform_actions"](f"m3po/{name}-v0")
        assert rows[name][:2] == [f"{mean:.2f} ± {error:.2f}", f"{steps:.0f}"]
    assert len(rows) == len(PAGES)
    with (ROOT / "paper_figures" / "data" / "reference_returns_sb3.csv").open() as file:
        peers = list(csv.DictReader(file))
    assert {row["algorithm"] for row in peers} == {"sac"}
    for name, (_, _, samples, *trained, hidden, shown) in rows.items():
        for task, returns in (("hidden", hidden), ("shown", shown)):
            found = [row for row in peers if (row["env_id"], row["task"]) == (f"m3po/{name}-v0", task)]
            assert {row["total_steps"] for row in found} <= {samples.replace(",", "")}
            cells = [float(row["return"]) for row in sorted(found, key=lambda row: int(row["seed"]))]
            printed = [f"{each:.0f}" if abs(each) >= 100 else f"{each:.1f}" for each in cells]
            assert returns == (", ".join(printed) or "not run")
        for algorithm, returns in zip(("M3PO", "L2A", "PEARL"), trained, strict=True):
            if returns != "not run":
                line = baselines.partition(f"`m3po/{name}-v0`")[2].partition(f"\n| {algorithm} |")[2].partition("\n")[0]
                assert [float(each) for each in returns.split(", ")] == (
                    [float(each) for each in re.findall(r"(-?\d+) ±", line)]
                    or [float(each) for each in line.split("|")[-2].split(", ")]
                ), (name, algorithm)
