"""The proofs hold, and stop holding when a constant of the catalogue changes; false claims are not proved."""

import builtins
import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import sympy

from bounds import catalogue, paper
from bounds.proof import Claim, Proof, Step, plain
from bounds.proofs import BRACKET, CATALOGUE, PROOFS, Expressions, increment, prove_all, series
from bounds.symbols import eps_m, eps_pi, gamma, i, k, r_max, t

ALL = {proof.name: proof for proof in prove_all()}


@pytest.mark.parametrize("name", list(ALL))
def test_every_statement_is_proved(name):
    proof = ALL[name]
    assert proof.holds, proof.text()
    assert [step.holds for step in proof.steps] == [True] * len(proof.steps)


@pytest.mark.parametrize("name", list(ALL))
def test_an_independent_solver_agrees(name):
    pytest.importorskip("z3")
    proof = ALL[name]
    assert proof.recheck(), proof.text(recheck=True)


def test_names_are_unique_and_the_promised_statements_are_there():
    assert len(ALL) == len(PROOFS)
    assert set(ALL) >= {
        "closed-form",
        "bracket-sum",
        "monotone-in-k",
        "corollary-1",
        "corollary-1-every-k",
        "branched-beats-full-at-1",
        "crossover",
        "linear-closed-sums",
        "linear-below-paper",
        "optimal-below-linear",
        "optimal-branched-below-full",
        "optimal-monotone-in-k",
    }


def shifted(expression: sympy.Expr) -> sympy.Expr:
    return expression.subs(k, k + 1) if k in expression.free_symbols else expression.subs(eps_m, 2 * eps_m)


MUTATIONS: dict[str, Callable[[sympy.Expr], sympy.Expr]] = {
    "half": lambda e: e / 2,
    "three quarters": lambda e: sympy.Rational(3, 4) * e,
    "one per cent more": lambda e: sympy.Rational(101, 100) * e,
    "a power of 1 - gamma": lambda e: e * (1 - gamma),
    "k off by one": shifted,
    "model error squared": lambda e: e.subs(eps_m, eps_m**2),
    "policy divergence halved": lambda e: e.subs(eps_pi, eps_pi / 2),
}
# Only inequalities are claimed about these two, so a smaller number is what has to be caught.
ONLY_LOWER = {"mbpo_4_2", "mbpo_4_3"}
CATCHABLE = [
    (field.name, mutation)
    for field in dataclasses.fields(Expressions)
    for mutation in MUTATIONS
    if field.name not in ONLY_LOWER or mutation in ("half", "a power of 1 - gamma", "policy divergence halved")
]


@pytest.mark.parametrize(("field", "mutation"), CATCHABLE)
def test_a_changed_expression_is_not_proved(field, mutation):
    mutant: Any = {field: MUTATIONS[mutation](getattr(CATALOGUE, field))}
    expressions = dataclasses.replace(CATALOGUE, **mutant)
    assert any(not prove(expressions).holds for prove in PROOFS)


x = gamma**k
FALSE_CLAIMS = [
    Claim(eps_m, ">", sympy.Integer(0)),
    Claim(eps_m - eps_pi, ">=", sympy.Integer(0)),
    Claim(gamma**k, ">=", gamma),
    Claim(1 - gamma - gamma**k, ">=", sympy.Integer(0)),
    Claim((gamma**2 + x * gamma) * eps_m + (2 - 2 * gamma - gamma**2 + x * gamma) * eps_pi, ">=", sympy.Integer(0)),
    Claim(gamma ** (k + 1), "=", gamma**k),
    Claim(BRACKET, ">=", 2 * gamma / (1 - gamma) ** 2),
    Claim((1 - eps_pi) ** t, ">", sympy.Integer(0)),
    Claim(k * gamma, ">=", 1 + 0 * k),
    Claim(1 / (gamma - sympy.Rational(1, 2)), ">=", sympy.Integer(0)),
    Claim(eps_m, "=", eps_m + sympy.Rational(1, 10**12)),
    Claim(r_max, ">", r_max),
    Claim(k, ">=", sympy.Integer(2)),
    Claim(gamma ** (2 * k), "=", gamma**k),
    Claim(gamma ** (2 * k), ">=", gamma**k),
]


@pytest.mark.parametrize("claim", FALSE_CLAIMS, ids=lambda claim: claim.text())
def test_false_claims_are_proved_by_neither(claim):
    assert not claim.holds
    pytest.importorskip("z3")
    assert not claim.recheck()


def test_powers_of_powers_are_told_apart():
    assert Claim(gamma**k, ">=", gamma ** (2 * k)).holds
    assert Claim((1 - gamma**k) * (1 + gamma**k), "=", 1 - gamma ** (2 * k)).holds
    assert not Claim(gamma ** (k**2), "=", gamma**k).holds


def test_a_proof_needs_a_claim_and_all_of_them():
    true, false = Claim(eps_m, ">=", sympy.Integer(0)), Claim(eps_m, ">", eps_pi)
    assert Proof("p", "", (Step("", true),)).holds
    assert not Proof("p", "", (Step("", true), Step("", false))).holds
    assert not Proof("p", "", (Step("only words"),)).holds
    assert "NOT PROVED" in Proof("p", "", (Step("", false),)).text()


def test_sums_and_minima_are_not_decided_by_accident():
    endless = sympy.Sum(gamma**t, (t, 1, sympy.oo))
    assert not Claim(endless, "=", 2 * endless).holds
    assert not Claim(sympy.Min(1, eps_m), "=", eps_m).holds
    assert not Claim(sympy.Min(1, eps_m), ">=", sympy.Integer(0)).recheckable


def test_increment_telescopes_sums():
    total = sympy.Sum(gamma**i, (i, 0, k - 1))
    assert sympy.simplify(increment(3 * total + k, k) - (3 * gamma**k + 1)) == 0
    with pytest.raises(ValueError, match="telescope"):
        increment(sympy.Sum(gamma**k, (i, 1, k)), k)
    with pytest.raises(ValueError, match="telescope"):
        increment(sympy.Sum(gamma**i, (i, 1, 2 * k)), k)


@pytest.mark.parametrize("branched", [False, True])
def test_series_parts_evaluate_to_the_bound(branched):
    """What the proofs call v, summed by brute force, is the number the catalogue evaluates."""
    bound = catalogue.get("optimal-branched" if branched else "optimal-full")
    parts = series(bound.expression, branched=branched)
    discount, model, policy, length = 0.7, 0.05, 0.1, 3
    mass = sympy.lambdify((t, i), parts.mass.subs({eps_m: model, eps_pi: policy}).doit())
    total = 0.0
    for time in range(1, 110):
        steps = range(1, min(time, length) + 1) if branched else [time]
        total += discount**time * sum(min(1.0, float(mass(time, n))) for n in steps) / len(steps)
    value = bound.evaluate(discount=discount, model_error=model, policy_divergence=policy, rollout_length=length)
    assert float(parts.prefactor.subs(r_max, 1)) * total == pytest.approx(float(value), rel=1e-12)


def test_the_crossover_statement_is_what_the_code_evaluates():
    """k* = 11.9697 at gamma 0.9, eps_m 0.1, eps_pi 0.3: k = 11 is the last preferred length, by both bounds."""
    star = paper.crossover_rollout_length(discount=0.9, model_error=0.1, policy_divergence=0.3)
    assert float(star) == pytest.approx(11.9697, abs=5e-5)
    exact = {gamma: sympy.Rational(9, 10), eps_m: sympy.Rational(1, 10), eps_pi: sympy.Rational(3, 10), r_max: 1}
    advantage = (CATALOGUE.theorem_1 - CATALOGUE.theorem_2).subs(exact)
    assert advantage.subs(k, 11) > 0 > advantage.subs(k, 12)


def test_texts_name_every_step_and_latex_is_balanced():
    for proof in ALL.values():
        text, latex = proof.text(), proof.latex()
        assert text.startswith(f"{proof.name}: ")
        assert "\\" not in text
        assert text.count("sympy: proved") == len(proof.claims)
        assert latex.count("$$") == 2 * len(proof.claims)
        assert latex.replace("$$", "").count("$") % 2 == 0
        assert latex.count("{") == latex.count("}")
    assert plain(r"$2\gamma^{k+1} \le \epsilon_\pi$") == "2 gamma^(k+1) <= eps_pi"


def test_without_the_solver_the_message_is_clear(monkeypatch):
    real = builtins.__import__

    def no_z3(name: str, *rest: Any, **more: Any) -> Any:
        if name == "z3":
            raise ModuleNotFoundError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", no_z3)
    with pytest.raises(ModuleNotFoundError, match=r"m3po-guarantees\[verify\]"):
        ALL["corollary-1"].recheck()
    assert ALL["corollary-1"].holds
