"""Videos and strips of trained policies, pictures of environments, and what is said where nothing can be drawn."""

from __future__ import annotations

import ctypes
import dataclasses
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from analysis import render
from analysis.drawing import photographer, portraits
from analysis.drawing.photographer import TASK_COLOURS, TaskColours
from m3po.train import train
from tests.analysis.conftest import tiny_config

ROOT = Path(__file__).parents[2]


def has_egl() -> bool:
    """Whether MuJoCo can draw here; asked in another process, for this one may have imported MuJoCo already."""
    program = (
        "import gymnasium as gym, m3po.envs\n"
        "from analysis.drawing.photographer import Photographer, choose_backend\n"
        "choose_backend()\n"
        "environment = gym.make('m3po/HalfCheetahFwdBwd-v0').unwrapped\n"
        "environment.reset(seed=0)\n"
        "with Photographer(environment, 32, 32) as photographer:\n"
        "    assert photographer.picture((1, 0, 0)).std() > 0\n"
    )
    environment = {**os.environ, "MUJOCO_GL": ""}
    return (
        subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True).returncode == 0
    )


@pytest.fixture(scope="session")
def egl() -> None:
    if not has_egl():
        pytest.skip(f"no EGL here (on Debian: apt-get install {photographer.PACKAGES})")


needs_egl = pytest.mark.usefixtures("egl")


def run_module(module: str, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", module, *words],
        cwd=ROOT,
        env={**os.environ, "MUJOCO_GL": "", **variables},
        capture_output=True,
        text=True,
        check=False,
    )


def hardly_trained(run_dir: Path, env_id: str) -> Path:
    config = dataclasses.replace(
        tiny_config(run_dir),
        env_id=env_id,
        total_steps=40,
        initial_random_steps=20,
        epoch_steps=20,
        model_updates=2,
        measure_episodes=2,
        evaluation_episodes=2,
    )
    train(config)
    return run_dir


@pytest.fixture(scope="module")
def cheetah_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Read only."""
    return hardly_trained(tmp_path_factory.mktemp("runs") / "cheetah", "m3po/HalfCheetahFwdBwd-v0")


# SwitchingPointMass needs no OpenGL


def test_a_run_on_the_point_mass_gets_a_video_and_a_strip(tiny_run, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        render.cli([str(tiny_run), "--steps", "30", "--every", "5", "--out-dir", str(tmp_path), "--seed", "1"])
    assert stop.value.code == 0
    assert capsys.readouterr().out.split() == [str(tmp_path / "episode.gif"), str(tmp_path / "strip.png")]
    video = Image.open(tmp_path / "episode.gif")
    assert (video.n_frames, video.size) == (7, (240, 240))  # type: ignore[attr-defined]
    assert video.info["duration"] == 500  # five steps of 0.1 s
    assert (tmp_path / "strip.png").read_bytes().startswith(b"\x89PNG")


def test_without_out_dir_they_go_into_the_run_directory(tiny_run, tmp_path):
    run_dir = tmp_path / "run"
    shutil.copytree(tiny_run, run_dir)
    with pytest.raises(SystemExit) as stop:
        render.cli([str(run_dir), "--steps", "2"])
    assert stop.value.code == 0
    assert (run_dir / "episode.gif").exists()
    assert (run_dir / "strip.png").exists()


def test_the_episode_is_the_seeds_and_pictures_know_their_step(tiny_run, tmp_path, monkeypatch):
    episodes = []
    monkeypatch.setattr(render, "write_video", lambda path, episode, *_: episodes.append(episode))
    for seed in (1, 1, 2):
        with pytest.raises(SystemExit):
            render.cli(
                [str(tiny_run), "--steps", "31", "--every", "10", "--out-dir", str(tmp_path), "--seed", str(seed)]
            )
    first, again, other = episodes
    assert first.steps == [0, 10, 20, 30, 31]
    assert (len(first.pictures), len(first.tasks), len(first.rewards)) == (5, 32, 31)
    assert first.observations.shape == (32, 4)
    np.testing.assert_array_equal(first.observations, again.observations)
    assert np.any(first.observations != other.observations)


def test_tasks_have_one_colour_each():
    few = TaskColours(TASK_COLOURS, by_number=True)
    assert [few(task) for task in (1, 0, 1)] == [TASK_COLOURS[1], TASK_COLOURS[0], TASK_COLOURS[1]]
    many = TaskColours(TASK_COLOURS, by_number=False)
    assert [many(task) for task in (10**9, 7, 10**9)] == [TASK_COLOURS[0], TASK_COLOURS[1], TASK_COLOURS[0]]


# MuJoCo


@needs_egl
def test_a_run_on_mujoco_gets_a_video_and_a_strip(cheetah_run, tmp_path):
    result = run_module(
        "analysis.render", str(cheetah_run), "--steps", "20", "--every", "4", "--out-dir", str(tmp_path)
    )
    assert (result.returncode, result.stderr) == (0, "")
    video = Image.open(tmp_path / "episode.gif")
    assert (video.n_frames, video.size) == (6, (320, 240))  # type: ignore[attr-defined]
    assert video.info["duration"] == 200  # four steps of 0.05 s
    # the band at the foot and the body have the task's colour
    pixels = np.asarray(video.convert("RGB"), dtype=float) / 255
    band = pixels[-3].mean(axis=0)
    colour = min(TASK_COLOURS[:2], key=lambda each: float(np.abs(np.array(each) - band).max()))
    assert np.abs(np.array(colour) - band).max() < 0.05
    hue = np.array(colour) - np.mean(colour)
    tinted = (pixels[:-6] - pixels[:-6].mean(axis=2, keepdims=True)) @ hue > 0.02
    assert 200 < tinted.sum() < 0.2 * tinted.size


@needs_egl
def test_every_environment_has_a_portrait(tmp_path):
    strips = tmp_path / "strips.png"
    size = ("--width", "80", "--height", "60")
    result = run_module("analysis.portraits", "--out-dir", str(tmp_path), *size, "--strips", str(strips))
    assert (result.returncode, result.stderr) == (0, "")
    written = result.stdout.split()
    assert len(written) == 7
    assert strips.read_bytes().startswith(b"\x89PNG")
    for path in written[:-1]:
        picture = np.asarray(Image.open(path).convert("RGB"), dtype=float)
        assert picture.shape == (60, 80, 3)
        assert picture.std() > 10
        assert (picture[..., 2] - picture[..., 0]).max() > 60  # something blue


@needs_egl
@pytest.mark.parametrize("name", portraits.NAMES)
def test_gymnasiums_own_way_of_drawing_works(name):
    program = (
        "import gymnasium as gym\n"
        f"environment = gym.make('m3po.envs:m3po/{name}-v0', render_mode='rgb_array', width=64, height=48)\n"
        "environment.reset(seed=0)\n"
        "environment.step(environment.action_space.sample())\n"
        "picture = environment.render()\n"
        "print(picture.shape, picture.std() > 1)\n"
        "environment.close()\n"
    )
    variables = {**os.environ, "MUJOCO_GL": "egl"}
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=variables, capture_output=True, text=True)
    assert result.stdout == "(48, 64, 3) True\n"


# Nothing to draw with, nothing to draw


def test_without_egl_one_line_says_what_is_missing(cheetah_run, tmp_path, monkeypatch, capsys):
    def no_library(name: str) -> None:
        raise OSError(name)

    monkeypatch.delenv("MUJOCO_GL", raising=False)
    monkeypatch.setattr(ctypes, "CDLL", no_library)
    with pytest.raises(SystemExit) as stop:
        render.cli([str(cheetah_run), "--out-dir", str(tmp_path)])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: drawing needs EGL")
    assert "libegl1" in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("backend", ["nonsense", "disable"])
def test_a_backend_that_does_not_draw_is_named(cheetah_run, tmp_path, backend):
    result = run_module("analysis.render", str(cheetah_run), "--out-dir", str(tmp_path), MUJOCO_GL=backend)
    assert result.returncode == 2
    assert result.stderr.startswith(f"error: MuJoCo cannot draw here with MUJOCO_GL={backend}")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["/nowhere"], "error: no run directory at /nowhere"),
        (["RUN", "--steps", "0"], "error: --steps must be >= 1, got 0"),
        (["RUN", "--strip-pictures", "0"], "error: --strip-pictures must be >= 1, got 0"),
        (["RUN", "--width", "5"], "error: --width must be >= 16, got 5"),
        (["RUN", "--seed", "-1"], "error: --seed must be >= 0, got -1"),
        (["RUN", "--out-dir", "/nowhere"], "error: --out-dir: no directory /nowhere"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(tiny_run, capsys, words, message):
    with pytest.raises(SystemExit) as stop:
        render.cli([str(tiny_run) if word == "RUN" else word for word in words])
    assert stop.value.code == 2
    assert capsys.readouterr().err == message + "\n"


@needs_egl
def test_an_environment_of_somebody_else_is_refused(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    path = hardly_trained(tmp_path / "pendulum", "Pendulum-v1")
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        render.cli([str(path)])
    assert stop.value.code == 2
    assert capsys.readouterr().err == "error: only the environments of this project can be drawn, not Pendulum-v1\n"
