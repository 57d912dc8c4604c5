"""``m3po``: the words that choose a command, the pages of help, and what a mistyped word or flag is told."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import m3po
from m3po import launcher
from m3po.commands import GROUPS, Command
from tests.tutorial_page import ROOT

EVERY = [(group, command) for group in GROUPS for command in group.commands]
NAMES = [f"{group.name} {command.name}" for group, command in EVERY]


def ended(words: str, capsys: pytest.CaptureFixture[str]) -> tuple[object, str, str]:
    """Exit code, stdout and stderr of ``m3po`` with these words."""
    with pytest.raises(SystemExit) as stop:
        launcher.main(shlex.split(words))
    out, err = capsys.readouterr()
    return stop.value.code or 0, out, err


def settings_of_runs(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What every command's work will have been given; none of it is done."""
    seen: list[Any] = []

    def main(self: Command, settings: object) -> int:
        seen.append(settings)
        return 0

    monkeypatch.setattr(Command, "main", main)
    return seen


@pytest.mark.parametrize(
    ("words", "module", "prog", "rest"),
    [
        ("bounds compare --gamma 0.9", "analysis.compare_bounds", "m3po bounds compare", ["--gamma", "0.9"]),
        ("compare --gamma 0.9", "analysis.compare_bounds", "m3po compare", ["--gamma", "0.9"]),
        ("results compare runs", "analysis.comparison", "m3po results compare", ["runs"]),
        ("certify x.npz", "analysis.certify", "m3po certify", ["x.npz"]),
        ("check-guarantee runs/a", "analysis.check_guarantee", "m3po check", ["runs/a"]),
        ("train train --resume", "m3po.train", "m3po train train", ["--resume"]),
        ("train run --resume", "m3po.train", "m3po train train", ["--resume"]),
        ("train --run-dir sweep", "m3po.train", "m3po train", ["--run-dir", "sweep"]),
        ("train sweep g.toml", "m3po.sweep", "m3po train sweep", ["g.toml"]),
        ("maintain figures", "paper_figures.__main__", "m3po maintain figures", []),
    ],
)
def test_words_choose_a_command(words: str, module: str, prog: str, rest: list[str]) -> None:
    command, called, left = launcher.chosen(words.split())
    assert (command.module, called, left) == (module, prog, rest)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("comprae", "m3po has no command comprae; did you mean compare?"),
        ("check_guarantee x", "m3po has no command check_guarantee; did you mean check-guarantee?"),
        ("bound compare", "m3po has no command bound; did you mean bounds?"),
        ("figures", "m3po has no command figures; did you mean maintain figures?"),
        ("zzz", "m3po has no command zzz; m3po --help lists what there is"),
        ("--versoin", "m3po has no flag --versoin; did you mean --version?"),
        ("train swep", "m3po train has no command swep; did you mean sweep?"),
        ("guarantee attack x", "m3po guarantee has no command attack; did you mean bounds attack?"),
        ("guarantee zzz", "m3po guarantee has no command zzz; m3po guarantee --help lists what there is"),
        ("completion csh", "m3po completion takes bash, zsh, fish, got csh"),
        ("completion", "m3po completion takes bash, zsh, fish, got nothing"),
        ("compare --gama 0.9", "unknown flag --gama 0.9; did you mean --gamma?"),
        ("bounds compare --gamma=0.9 --ep-m=0.1", "unknown flag --ep-m=0.1; did you mean --eps-m?"),
        ("train --run-dir x --prest demo", "unknown flag --prest demo; did you mean --preset?"),
        ("sweep x.toml --jsno", "unknown flag --jsno; did you mean --json?"),
        ("compare --zzzzz", "unknown flag --zzzzz; --help lists the flags"),
        ("compare --discount 7", "--gamma must be in [0, 1), got 7.0"),
    ],
)
def test_a_mistyped_word_is_told_what_was_meant(words: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert ended(words, capsys) == (2, "", f"error: {said}\n")


@pytest.mark.parametrize("words", ["", "--help", "-h"])
def test_the_overview_names_every_command(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = ended(words, capsys)
    assert (code, err) == (0, "")
    assert max(map(len, out.splitlines())) <= 80
    for group, command in EVERY:
        assert f"\n{group.name}: {group.text}" in out
        assert f"\n  {command.name} " in out


def test_a_group_lists_its_commands_and_train_the_flags_of_training_too(capsys: pytest.CaptureFixture[str]) -> None:
    for group in GROUPS:
        code, out, err = ended(f"{group.name} --help", capsys)
        assert (code, err) == (0, "")
        assert all(f"\n  {each.name} " in out for each in group.commands)
        assert ("--run-dir" in out) == (group.name == "train")
        assert ended(group.name, capsys)[:1] == (0,)


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert ended("--version", capsys) == (0, f"m3po {m3po.__version__}\n", "")


def test_names_are_one_commands_within_a_group() -> None:
    for group in GROUPS:
        words = [word for each in group.commands for word in (each.name, *each.also)]
        assert len(set(words)) == len(words)


@pytest.mark.parametrize(("group", "command"), EVERY, ids=NAMES)
def test_every_help_names_its_command_and_an_example_that_is_accepted(
    group, command: Command, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = ended(f"{group.name} {command.name} --help", capsys)
    assert (code, err) == (0, "")
    assert f"m3po {group.name} {command.name} [-h]" in out
    example = " ".join(out.rpartition("example: ")[2].split())
    assert example == f"m3po {group.name} {command.name} {command.example}"
    seen = settings_of_runs(monkeypatch)
    assert ended(example.removeprefix("m3po "), capsys) == (0, "", "")
    assert [type(each) for each in seen] == [command.settings_type()]


def test_every_spelling_of_a_flag_is_understood_everywhere(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = settings_of_runs(monkeypatch)
    for words in (
        "compare --gamma 0.9 --k 3 --eps-m 0.2",
        "compare --discount=0.9 --rollout-length 3 --model_error 0.2",
        "attack --bound m3po-th2 --discount 0.9 --rollout-length 3",
        "attack --bound m3po-th2 --gamma 0.9 --k=3",
        "train --run-dir x --gamma 0.9 --k 3",
        "train --run_dir x --discount 0.9 --rollout_length=3",
        "check x --k 3",
        "check x --rollout-length 3",
    ):
        assert ended(words, capsys) == (0, "", "")
    pairs = list(zip(seen[::2], seen[1::2], strict=True))
    assert all(one == other for one, other in pairs)
    assert [one.rollout_length for one, _ in pairs[1:]] == [3, 3, 3]
    assert pairs[2][0].discount == 0.9


def test_a_short_and_a_long_name_that_both_are_flags_of_a_command_stay_apart() -> None:
    from analysis.statistics.summary import StatisticsConfig
    from m3po.flag_names import as_declared, names_of

    assert as_declared(StatisticsConfig, ["t.csv", "--env-id", "a"]) == ["t.csv", "--environment", "a"]
    assert names_of("--out", ["--out", "--out-dir"]) == ("--out",)


def test_the_work_is_the_modules(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = ended("compare --gamma 0.9 --k 1", capsys)
    assert (code, err) == (0, "")
    assert out.startswith("gamma = 0.9")
    assert ended("certify /missing.npz", capsys)[0] == 2


@pytest.mark.parametrize("shell", launcher.SHELLS)
def test_completion_knows_commands_and_flags(shell: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, out, _ = ended(f"completion {shell}", capsys)
    assert code == 0
    assert all(word in out for word in ("check", "--gamma", "--discount", "--preset", "m3po-full"))
    if shell != "bash":
        return
    (tmp_path / "m3po.bash").write_text(out)
    for typed, expected in (
        ("m3po cer", ["certify"]),
        ("m3po guarantee ch", ["check"]),
        ("m3po bounds compare --eps-", ["--eps-m", "--eps-pi"]),
        ("m3po train train --algorithm pe", ["pearl"]),
    ):
        words = shlex.split(typed)
        script = (
            f"source {tmp_path}/m3po.bash; COMP_WORDS=({typed}); COMP_CWORD={len(words) - 1}; "
            f'_tyro_m3po; printf "%s\\n" "${{COMPREPLY[@]}}"'
        )
        done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False)
        assert sorted(line.split("\t")[0] for line in done.stdout.split()) == expected, done


QUICK = """
import contextlib, io, sys
from m3po import launcher
from m3po.commands import GROUPS
words = [[], ["--version"], *([g.name, c.name, "--help"] for g in GROUPS if g.short for c in g.commands)]
for each in words:
    with contextlib.redirect_stdout(io.StringIO()):
        try: launcher.main(each)
        except SystemExit as stop: assert not stop.code, each
    heavy = {"torch", "sympy", "scipy", "matplotlib", "mujoco", "ray", "tensorboard", "bounds"} & set(sys.modules)
    assert not heavy, (each, heavy)
"""


def test_no_help_of_a_users_command_imports_what_takes_long() -> None:
    done = subprocess.run([sys.executable, "-c", QUICK], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


WITHOUT_TORCH = """
import sys
class WithoutTorch:
    def find_spec(self, name, path=None, target=None):
        if name in ("torch", "mujoco", "tensorboard"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, WithoutTorch())
sys.modules["gymnasium"] = None
"""


def run_without_torch(words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """``python -m`` with these words, where neither torch nor gymnasium can be imported."""
    (folder / "sitecustomize.py").write_text(WITHOUT_TORCH)
    environment = {**os.environ, "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"}
    command = [sys.executable, "-m", *shlex.split(words)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder, env=environment)


@pytest.mark.parametrize("words", ["m3po check runs/x", "m3po.train --run-dir x", "m3po train --run-dir x"])
def test_without_its_library_a_command_names_the_extra(words: str, tmp_path: Path) -> None:
    done = run_without_torch(words, tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr in [
        f"error: this needs {library}: pip install 'm3po-guarantees[train]'\n" for library in ("torch", "gymnasium")
    ]
