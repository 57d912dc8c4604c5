"""verify_theory: its JSON, its text, its exit code when a proof, a bound, the solver or the attainment fails."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
import sympy

from analysis.theory import dossier as dossier_module
from analysis.theory.dossier import VerifyConfig, verify
from analysis.verify_theory import command_line
from bounds import proofs
from bounds.catalogue import ALL_BOUNDS
from bounds.finite import trajectory_checks
from bounds.finite.checks import TheoremReport
from bounds.proof import Proof

QUICK = ("--instances", "9", "--attaining", "3", "--enumerated", "3")


def output(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stopped:
        command_line(arguments)
    captured = capsys.readouterr()
    return int(stopped.value.code or 0), captured.out, captured.err


@pytest.fixture
def one_proof(monkeypatch: pytest.MonkeyPatch) -> None:
    """One proof is enough where a test is about something else."""
    monkeypatch.setattr(dossier_module, "prove_all", lambda: (proofs.corollary_1(proofs.CATALOGUE),))


def test_json_is_the_documented_object(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = output(capsys, *QUICK, "--json")
    assert (code, err) == (0, "")
    result = json.loads(out)
    assert list(result) == ["proofs", "instances", "ok"]
    assert result["ok"] is True
    assert [proof["name"] for proof in result["proofs"]] == [proof.name for proof in proofs.prove_all()]
    assert all(proof["holds"] is True for proof in result["proofs"])
    theorems = {theorem["name"]: theorem for theorem in result["instances"]["theorems"]}
    certificates = {f"certificate-{kind}{scheme}" for kind in ("", "reward-") for scheme in ("full", "branched")}
    assert set(theorems) == {bound.name for bound in ALL_BOUNDS} | certificates
    assert all(0 < theorem["largest_ratio"] <= 1 + 1e-9 for theorem in theorems.values())
    assert result["instances"]["count"] == 9
    assert result["instances"]["attaining"]["count"] == 3
    assert 0 <= result["instances"]["attaining"]["largest_error"] < 1e-10
    enumerated = result["instances"]["enumerated"]
    assert enumerated["count"] == 3
    assert {f"overlap-{kind}{rollout}" for kind in ("", "reward-") for rollout in ("full", "branched", "exact")} < {
        theorem["name"] for theorem in enumerated["theorems"]
    }
    assert all(0 < theorem["largest_ratio"] <= 1 + 1e-9 for theorem in enumerated["theorems"])
    assert enumerated["holds"] is True


def test_text_has_every_part(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = output(capsys, *QUICK)
    assert (code, err) == (0, "")
    for proof in proofs.prove_all():
        assert f"\n{proof.name}: " in out
    for bound in ALL_BOUNDS:
        assert f"\n{bound.name} " in out
    assert out.rstrip().endswith("Everything holds.")
    assert "NOT" not in out.replace("NOT PROVED, NOT CONFIRMED", "")


def test_latex_prints_the_same_proofs(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = output(capsys, *QUICK, "--latex")
    assert code == 0
    assert "**corollary-1.**" in out
    assert out.count("$$") == 2 * sum(len(proof.claims) for proof in proofs.prove_all())


def test_the_seed_decides_the_instances() -> None:
    ratios = [[report.largest_ratio for report in verify(VerifyConfig(6, 1, 1, seed)).reports] for seed in (0, 0, 1)]
    assert ratios[0] == ratios[1] != ratios[2]


def test_a_failed_proof_exits_1(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = dataclasses.replace(proofs.CATALOGUE, theorem_2=proofs.CATALOGUE.theorem_2 * sympy.Rational(3, 4))
    monkeypatch.setattr(dossier_module, "prove_all", lambda: (proofs.closed_form(wrong), proofs.corollary_1(wrong)))
    code, out, _ = output(capsys, *QUICK)
    assert code == 1
    assert "NOT PROVED" in out
    assert "SOMETHING FAILS" in out
    code, out, _ = output(capsys, *QUICK, "--json")
    result = json.loads(out)
    assert (code, result["ok"]) == (1, False)
    assert [proof["holds"] for proof in result["proofs"]] == [False, False]


def test_a_solver_that_disagrees_exits_1(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("z3")
    monkeypatch.setattr(Proof, "recheck", lambda proof: False)
    code, out, _ = output(capsys, *QUICK, "--json")
    assert (code, json.loads(out)["ok"]) == (1, False)


def test_without_the_solver_the_dossier_says_so(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dossier_module, "solver_available", lambda: False)
    code, out, _ = output(capsys, *QUICK)
    assert code == 0
    assert "z3 is not installed" in out
    assert "z3: " not in out
    code, out, _ = output(capsys, *QUICK, "--json")
    assert code == 0
    assert {proof["rechecked"] for proof in json.loads(out)["proofs"]} == {None}


class Scaled:
    """A bound whose value is too small by a factor."""

    def __init__(self, bound: Any, factor: float) -> None:
        self.name, self.scheme, self._bound, self._factor = bound.name, bound.scheme, bound, factor

    def evaluate(self, **arguments: Any) -> Any:
        return self._factor * self._bound.evaluate(**arguments)


@pytest.mark.usefixtures("one_proof")
@pytest.mark.parametrize("name", ["m3po-th1", "m3po-th2", "linear-branched", "optimal-full", "optimal-branched"])
def test_a_violated_bound_exits_1(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    faulty = [Scaled(bound, 0.75 if bound.name == name else 1.0) for bound in ALL_BOUNDS]
    monkeypatch.setattr(dossier_module, "ALL_BOUNDS", faulty)
    code, out, _ = output(capsys, "--instances", "90", "--attaining", "1", "--enumerated", "1")
    assert code == 1
    line = next(line for line in out.splitlines() if line.startswith(f"{name} "))
    assert line.endswith("VIOLATED")
    assert out.count("VIOLATED") == 2


def test_a_dossier_without_proofs_is_not_ok() -> None:
    dossier = verify(VerifyConfig(3, 1, 1))
    assert dossier.ok
    assert not dataclasses.replace(dossier, proofs=()).ok
    assert not dataclasses.replace(dossier, reports=()).ok


@pytest.mark.usefixtures("one_proof")
def test_a_missed_attainment_exits_1(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dossier_module, "check_attaining", lambda count, seed: 1e-9)
    code, out, _ = output(capsys, *QUICK)
    assert code == 1
    assert "   NOT ATTAINED" in out


@pytest.mark.usefixtures("one_proof")
@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"weighted_error": 1e-11}, "BIASED"),
        ({"variate_error": 1e-11}, "BIASED"),
        ({"least_left": -1e-9}, "NEGATIVE"),
        ({"reports": (TheoremReport("overlap-full", 1.01, "mdp", 3),)}, "VIOLATED"),
    ],
)
def test_what_the_enumerated_instances_show_decides(
    change: dict[str, Any], named: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    true = trajectory_checks.check_trajectories
    monkeypatch.setattr(
        dossier_module, "check_trajectories", lambda *args, **keys: dataclasses.replace(true(*args, **keys), **change)
    )
    code, out, _ = output(capsys, *QUICK)
    assert code == 1
    assert f"   {named}\n" in out or f" {named}\n" in out
    assert "SOMETHING FAILS" in out


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("--enumerated", "0"), "--enumerated must be >= 1, got 0"),
        (("--instances", "0"), "--instances must be >= 1, got 0"),
        (("--attaining", "-3"), "--attaining must be >= 1, got -3"),
        (("--seed", "-1"), "--seed must be >= 0, got -1"),
        (("--json", "--latex"), "--json and --latex exclude each other"),
        (("--instances", "many"), "'many'"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(
    arguments: tuple[str, ...], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = output(capsys, *arguments)
    assert (code, out) == (2, "")
    assert named in err
    assert err.count("\n") == 1
