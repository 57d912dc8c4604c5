"""Run directories and evidence from elsewhere are data: nothing in them runs, nothing outside them is written, and each
is refused in one line or shown as text."""

from __future__ import annotations

import contextlib
import hashlib
import html
import io
import json
import os
import pickle
import re
import shutil
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from analysis import certify, check_guarantee, comparison, evaluation, learning_curves, render, variants
from analysis.report import __main__
from m3po import train as training
from m3po.foreign.origin import check_environment, nothing_from_here
from m3po.runs import records
from m3po.runs.run_directory import RunDirectory
from tests.analysis.browser import browser, executable
from tests.analysis.recorded_runs import recorded

SCRIPT = "<script>window.ran = 1</script><img src=x onerror='window.ran = 1'>\"'"
READERS: dict[str, Callable[[list[str]], None]] = {
    "report": __main__.cli,
    "check_guarantee": check_guarantee.cli,
    "learning_curves": learning_curves.cli,
    "variants": variants.cli,
    "comparison": comparison.cli,
    "evaluation": evaluation.cli,
    "render": render.cli,
}
MEASURING = ("report", "check_guarantee", "evaluation", "render")


@pytest.fixture
def run(tiny_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_run, tmp_path / "run"))


def refusal(reader: str, *words: object, capsys: pytest.CaptureFixture[str]) -> str:
    """The one line with which the command refuses."""
    with pytest.raises(SystemExit) as stop:
        READERS[reader]([str(word) for word in words])
    captured = capsys.readouterr()
    last = captured.err.splitlines()[-1]
    assert (stop.value.code, captured.out) == (2, ""), last
    assert last.startswith("error: ")
    assert len(last) < 300
    return last


def edited(file: Path, change: Callable[[Any], Any]) -> None:
    record = json.loads(file.read_text())
    file.write_text(json.dumps(change(record) or record))


def with_rows(run: Path, *lines: str) -> None:
    """Metrics of an unfinished run."""
    (run / "COMPLETE").unlink(missing_ok=True)
    (run / "metrics.jsonl").write_text("".join(line + "\n" for line in lines))


def row(**changes: object) -> str:
    return json.dumps({"step": 0, "return": 1.0, "return_standard_error": 0.1, "nll": 0.0} | changes)


DEEP = "[" * 100_000 + "]" * 100_000


@pytest.mark.parametrize(
    "lines",
    [
        (row(step=SCRIPT),),
        (row(step=1.5),),
        (row(step=True),),
        (row(step=-1),),
        (row(step=10**400),),
        (row(step=None),),
        (row(**{"return": SCRIPT}),),
        (row(**{"return": [1.0, 2.0]}),),
        (row(**{"return": 10**400}),),
        (row(**{"return": None}),),
        (row(**{"return": {"a": 1}}),),
        (row(eps_m_profile=SCRIPT),),
        (row(eps_m_profile=[SCRIPT]),),
        (row(eps_m_profile=[[0.1]]),),
        (row(warnings=SCRIPT),),
        (row(warnings=[1]),),
        (row(**{SCRIPT: SCRIPT}),),
        (row().replace("1.0", "NaN"),),
        (row().replace("1.0", "-Infinity"),),
        (f'{{"step": {DEEP}}}',),
        (DEEP,),
        ("[]",),
        (row(step=5), row(step=5)),
        (row(step=5), row(step=4)),
    ],
    ids=lambda lines: lines[-1][:60],
)
def test_metrics_of_wrong_types_are_refused(run: Path, lines, capsys):
    with_rows(run, *lines)
    for reader in ("report", "learning_curves", "comparison"):
        words = ("--unfinished",) if reader == "comparison" else ()
        assert "metrics.jsonl line" in refusal(reader, run, *words, capsys=capsys)
    assert not (run / "report.html").exists()


@pytest.mark.parametrize("name", ["config.json", "provenance.json", "metrics.jsonl", "checkpoint.pt", "COMPLETE"])
@pytest.mark.parametrize("kind", ["pipe", "endless device", "folder", "too deep", "too large", "binary"])
def test_files_that_are_no_such_files_are_refused_at_once(run: Path, name: str, kind: str, capsys, monkeypatch):
    monkeypatch.setattr("m3po.runs.run_directory._LARGEST_RECORD", 1 << 16)
    monkeypatch.setattr("m3po.runs.metrics._LARGEST", 1 << 16)
    file = run / name
    if name == "checkpoint.pt":
        (run / "checkpoint.previous.pt").unlink()
    file.unlink()
    if kind == "pipe":
        os.mkfifo(file)
    elif kind == "endless device":
        file.symlink_to("/dev/zero")
    elif kind == "folder":
        file.mkdir()
    elif kind == "too deep":
        file.write_text(DEEP[:1000] + "\n" if name == "checkpoint.pt" else "{" + '"a":' + DEEP + "}\n")
    elif kind == "too large":
        file.write_bytes(b"\n" * (1 << 17))
    else:
        file.write_bytes(b"\x00\xff\xfe\n")
    words = (run, "--episodes", 2)
    shown = refusal("report", *words, capsys=capsys)
    assert name in shown or "is not" in shown
    assert kind != "too large" or name == "checkpoint.pt" or "has more than" in shown
    assert not (run / "report.html").exists()


@pytest.mark.parametrize(
    "sessions",
    [
        {}, [SCRIPT], [{"commit": [SCRIPT]}], [{"commit": None, "dirty": SCRIPT}], [{"argv": SCRIPT}],
        [{"argv": [1]}], [{"versions": SCRIPT}], [{"versions": {"a": [SCRIPT]}}], [{"start_utc": 5}], [{"hardware": 1}],
    ],
)  # fmt: skip
def test_a_provenance_of_wrong_types_is_refused(tmp_path: Path, sessions, capsys):
    run = recorded(tmp_path / "run", [1.0, 2.0])
    if isinstance(sessions, list) and isinstance(sessions[0], dict):
        sessions = [{"commit": "a", "dirty": False, **sessions[0]}]
    (run / "provenance.json").write_text(json.dumps(sessions))
    for reader in ("report", "learning_curves"):
        assert "provenance.json" in refusal(reader, run, capsys=capsys)


@pytest.fixture
def evil_module(tmp_path: Path, monkeypatch) -> Path:
    """A module in the working directory; the file that it would leave behind if it were imported."""
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", str(tmp_path), *sys.path])
    monkeypatch.delitem(sys.modules, "evil", raising=False)
    return tmp_path / "ran"


@pytest.mark.parametrize("reader", MEASURING)
@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"env_id": "evil:Evil-v0"}, "evil"),
        ({"env_id": "os.path:Evil-v0"}, "os.path"),
        ({"env_id": "m3po.envsevil:Evil-v0"}, "m3po.envsevil"),
        ({"env_id": "Hopper-v5", "env_options": '{"xml_file": "/etc/passwd"}'}, "xml_file"),
        (
            {"env_id": "Hopper-v5", "env_options": '{"default_camera_config": {"a": ["human"]}}'},
            "default_camera_config",
        ),
        ({"env_id": "GymV26Environment-v0", "env_options": '{"env_id": "evil:Evil-v0"}'}, "env_id"),
    ],
)
def test_reading_imports_and_opens_nothing_that_a_run_names(
    run: Path, evil_module: Path, reader, changes, named, capsys
):
    edited(run / "config.json", lambda record: record | changes)
    before = set(run.parent.rglob("*"))
    shown = refusal(reader, run, capsys=capsys)
    assert named in shown
    assert "--trust-env" in shown
    assert not evil_module.exists()
    assert "evil" not in sys.modules
    assert set(run.parent.rglob("*")) == before


def test_who_trusts_a_run_gets_its_environment(run: Path, evil_module: Path, capsys):
    edited(run / "config.json", lambda record: record | {"env_id": "evil:Evil-v0"})
    refusal("evaluation", run, "--trust-env", capsys=capsys)  # its checkpoint is of other settings
    directory = RunDirectory.read(run)
    directory.save_checkpoint({})
    assert "evil" in refusal("evaluation", run, "--trust-env", capsys=capsys)
    assert evil_module.exists()


def test_what_the_user_asks_for_is_imported(evil_module: Path, tmp_path: Path, capsys):
    with pytest.raises(SystemExit):
        training.cli(["--env-id", "evil:Evil-v0", "--run-dir", str(tmp_path / "new")])
    assert evil_module.exists()
    assert not (tmp_path / "new").exists()


def test_environments_of_this_project_of_gymnasium_and_of_plugins_need_no_trust(monkeypatch):
    for env_id in ("m3po/SwitchingPointMass-v0", "m3po.envs:m3po/AntFwdBwd-v0", "Hopper-v5", "gymnasium:Hopper-v5"):
        check_environment(env_id, {"process_noise": [0.1], "observe_reward": True, "tasks": None})

    class Plugin:
        module = "robotics.registration"

    monkeypatch.setattr("m3po.foreign.origin.metadata.entry_points", lambda group: [Plugin])
    check_environment("robotics:Fetch-v1", {})
    with pytest.raises(ValueError, match="robotics_evil"):
        check_environment("robotics_evil:Fetch-v1", {})


def test_nothing_is_imported_from_here_while_a_foreign_environment_is_built(evil_module: Path):
    with nothing_from_here(), pytest.raises(ImportError):
        __import__("evil")
    __import__("evil")
    assert evil_module.exists()


class Payload:
    """Runs when it is unpickled without care."""

    def __init__(self, ran: Path) -> None:
        self.ran = ran

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.ran), "w")


def signed(run: Path, data: bytes) -> None:
    """Make ``data`` the run's checkpoint, with the right checksums."""
    settings = RunDirectory.read(run)._checkpoints._settings
    (run / "checkpoint.pt").write_bytes(data + hashlib.sha256(data).digest() + settings)
    (run / "checkpoint.previous.pt").unlink(missing_ok=True)


def torch_archive(record: object) -> bytes:
    archive = io.BytesIO()
    torch.save(record, archive)
    return archive.getvalue()


def repacked(data: bytes, compression: int) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(packed, "w", compression) as new:
        for entry in old.infolist():
            new.writestr(entry.filename, old.read(entry))
    return packed.getvalue()


@pytest.mark.parametrize(
    "kind", ["code", "bare pickle", "bomb", "no archive", "empty", "list", "no state", "other state"]
)
def test_checkpoints_that_are_no_checkpoints_are_refused(run: Path, tmp_path: Path, kind: str, capsys):
    ran = tmp_path / "ran"
    whole = (run / "checkpoint.pt").read_bytes()[:-64]
    state = torch.load(io.BytesIO(whole), weights_only=True)["state"]
    signed(
        run,
        {
            "code": lambda: torch_archive({"format": 2, "state": Payload(ran)}),
            "bare pickle": lambda: pickle.dumps(Payload(ran)),
            "bomb": lambda: repacked(whole, zipfile.ZIP_DEFLATED),
            "no archive": lambda: b"PK\x03\x04nothing",
            "empty": lambda: b"",
            "list": lambda: torch_archive([1]),
            "no state": lambda: torch_archive({"format": 2}),
            "other state": lambda: torch_archive({"format": 2, "state": state | {"model": {"a": torch.zeros(3)}}}),
        }[kind](),
    )
    for reader in MEASURING:
        assert "checkpoint" in refusal(reader, run, capsys=capsys)
    assert not ran.exists()


@pytest.mark.parametrize("name", ["report.html", "guarantee.png", "episode.gif", "strip.png"])
@pytest.mark.parametrize("exists", [True, False])
def test_a_link_in_a_run_directory_leads_nothing_out(run: Path, tmp_path: Path, name: str, exists: bool, capsys):
    theirs = tmp_path / "theirs"
    if exists:
        theirs.write_text("theirs")
    (run / name).symlink_to(theirs)
    command = {"report.html": "report", "guarantee.png": "check_guarantee"}.get(name, "render")
    assert "is a link" in refusal(command, run, capsys=capsys)
    assert theirs.exists() == exists
    assert not exists or theirs.read_text() == "theirs"


@pytest.mark.parametrize(
    "name", ["lock", "metrics.jsonl", "provenance.json", "checkpoint.pt", "checkpoint.previous.pt"]
)
def test_a_training_goes_on_in_no_directory_that_leads_out(tmp_path: Path, name: str):
    run = recorded(tmp_path / "run", [1.0], complete=False)
    inside, theirs = run / name, tmp_path / "theirs"
    if inside.exists():
        inside.rename(theirs)
    inside.symlink_to(theirs)
    before = theirs.read_bytes() if theirs.exists() else None
    directory = RunDirectory.read(run)

    def write() -> None:
        resumed = RunDirectory.resume(directory.config)
        resumed.append_metrics({"step": 700, "return": 1.0})
        resumed.save_checkpoint({"steps": 1})
        resumed.save_checkpoint({"steps": 2})

    with contextlib.suppress(ValueError, OSError):
        write()
    assert (theirs.read_bytes() if theirs.exists() else None) == before


def evidence(path: Path, **changes: object) -> Path:
    arrays: dict[str, Any] = {
        "log_density": np.zeros((3, 2)), "log_model_density": np.zeros((3, 2)), "model_returns": np.zeros(3),
        "reward_low": 0.0, "reward_high": 1.0, "discount": 0.9, "rollout_length": 1,
    }  # fmt: skip
    np.savez_compressed(path, **(arrays | changes))
    return path


def lying(path: Path) -> None:
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": "<f8", "fortran_order": False, "shape": (10**12,)})
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("true_returns.npy", head.getvalue() + bytes(80))


def twice(path: Path) -> None:
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("discount.npy", b"")


HOSTILE_EVIDENCE: dict[str, Callable[[Path, Path], object]] = {
    "code": lambda path, ran: evidence(path, true_returns=np.array([Payload(ran)], dtype=object)),
    "bomb": lambda path, ran: evidence(path, true_returns=np.zeros(1 << 20)),
    "larger than it is": lambda path, ran: lying(evidence(path)),
    "two of one name": lambda path, ran: twice(evidence(path)),
    "script for a name": lambda path, ran: evidence(path, **{SCRIPT: 1.0}),
    "a text for a number": lambda path, ran: evidence(path, discount=SCRIPT),
    "texts": lambda path, ran: evidence(path, true_returns=np.array([SCRIPT, "b"])),
    "dates": lambda path, ran: evidence(path, true_returns=np.zeros(2, dtype="M8[s]")),
    "complex": lambda path, ran: evidence(path, true_returns=np.zeros(2, dtype=complex)),
    "records": lambda path, ran: evidence(path, true_returns=np.zeros(2, dtype=[("a", "f8")])),
    "no array": lambda path, ran: zipfile.ZipFile(path, "w").writestr("discount.npy", "x"),
    "pickle": lambda path, ran: path.write_bytes(pickle.dumps(Payload(ran))),
    "pipe": lambda path, ran: os.mkfifo(path),
    "folder": lambda path, ran: path.mkdir(),
    "device": lambda path, ran: path.symlink_to("/dev/zero"),
    "empty": lambda path, ran: path.write_bytes(b""),
}


@pytest.mark.parametrize("kind", HOSTILE_EVIDENCE)
def test_evidence_that_is_no_evidence_is_refused(tmp_path: Path, kind: str, capsys, monkeypatch):
    monkeypatch.setattr(records, "UNPACKED", 1 << 16)
    monkeypatch.setitem(READERS, "certify", certify.cli)
    path, ran = tmp_path / "evidence.npz", tmp_path / "ran"
    HOSTILE_EVIDENCE[kind](path, ran)
    shown = refusal("certify", path, capsys=capsys)
    assert "evidence.npz" in shown or "discount" in shown
    assert not ran.exists()
    assert len(list(tmp_path.iterdir())) == 1


def test_sound_evidence_is_read(tmp_path: Path):
    path = evidence(tmp_path / "evidence.npz", valid=np.ones((3, 2), dtype=bool))
    arrays = records.read_arrays(path, path.read_bytes())
    assert arrays["log_density"].shape == (3, 2)
    assert arrays["valid"].all()
    assert arrays["discount"] == 0.9


def hostile_page(tmp_path: Path) -> Path:
    """A run with a script in every text there is, and its report."""
    name = SCRIPT.replace("/", "\\")
    run = recorded(tmp_path / name, [1.0, 2.0])
    with_rows(
        run,
        row(warnings=[SCRIPT]).replace('"nll": 0.0, ', ""),
        row(step=9, warnings=[SCRIPT]).replace(', "nll": 0.0', ""),
    )
    edited(run / "config.json", lambda record: record | {"env_id": SCRIPT, "env_options": json.dumps({SCRIPT: SCRIPT})})
    session = {
        "commit": SCRIPT, "dirty": True, "argv": [SCRIPT], "versions": {SCRIPT: SCRIPT}, "hardware": {SCRIPT: SCRIPT},
        "start_utc": SCRIPT,
    }  # fmt: skip
    (run / "provenance.json").write_text(json.dumps([session]))
    with pytest.raises(SystemExit) as stop:
        __main__.cli([str(run)])
    assert stop.value.code == 0
    return run / "report.html"


def test_a_script_in_every_text_is_shown_and_does_not_run(tmp_path: Path):
    page = hostile_page(tmp_path)
    text = page.read_text()
    assert text.count("<script") == 1
    assert not re.search(r"<[^>]*\son\w+\s*=", text)
    assert html.unescape(text).count("window.ran = 1") > 16
    profile = tmp_path / "profile"
    profile.mkdir()
    with browser(executable(), profile) as window:
        window.open(page.as_uri())
        assert window.evaluate("window.ran") is None
        assert window.evaluate("document.querySelectorAll('script, img, iframe, object, link').length") == 1
        assert SCRIPT in window.evaluate("document.body.textContent")
        assert window.problems == []
        # and were one to get in, the page's policy would stop it
        window.evaluate("document.body.insertAdjacentHTML('beforeend', \"<img src=x onerror='window.ran = 1'>\")")
        window.evaluate(
            "document.body.append(Object.assign(document.createElement('script'), {text: 'window.ran = 1'}))"
        )
        window.settle()
        assert window.evaluate("window.ran") is None
        assert any("Content Security Policy" in each for each in window.problems)


def test_a_name_in_a_table_is_no_formula_and_ends_no_line(tmp_path: Path, capsys):
    runs = [recorded(tmp_path / str(seed), [1.0, -2.0], seed=seed) for seed in range(2)]
    for run in runs:
        edited(run / "config.json", lambda record: record | {"env_id": '=HYPERLINK("x")\n# ,@x'})
        edited(run / "provenance.json", lambda sessions: [sessions[0] | {"commit": "a\n=1+1,b"}])
    with pytest.raises(SystemExit) as stop:
        comparison.cli([*map(str, runs), "--out", str(tmp_path / "table.csv")])
    assert stop.value.code == 0
    comment, head, *lines = (tmp_path / "table.csv").read_text().splitlines()
    assert comment.startswith("# trained")
    assert head.startswith("environment,")
    assert len(lines) == 4
    assert all(line.startswith('"\'=HYPERLINK(""x"") # ,@x",M3PO k=1,') for line in lines)
    assert lines[1].split(",")[-2] == "-2"
