"""A machine-checked proof: claims decided by sympy, and decided again by an independent solver (z3).

Both deciders see the claims with integer powers abstracted: gamma^(k+1) becomes gamma * x with one unknown x = gamma^k
in (0, 1], and (1-eps_pi)^t an unknown in [0, 1]. A claim that holds for all such unknowns holds for every integer k.
sympy decides an equality by cancelling a rational function to 0, and an inequality by a certificate: after substituting
gamma = 1/(1+s), x = 1/(1+y), k = 1 + n, every coefficient of the numerator and the denominator is nonnegative.
z3 is told only the ranges, and finds that the negated claim has no solution.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import sympy

from bounds.symbols import eps_m, eps_pi, gamma, k

Relation = Literal["=", ">=", ">"]
Z3_TIMEOUT_MS = 10_000

_LATEX_RELATION = {"=": "=", ">=": r"\ge", ">": r"\gt"}
_PLAIN = [
    (r"\\lbrace(?![A-Za-z])", "["),
    (r"\\rbrace(?![A-Za-z])", "]"),
    (r"\\ast(?![A-Za-z])", "*"),
    (r"\\epsilon_\\pi", "eps_pi"),
    (r"\\epsilon_m", "eps_m"),
    (r"\\le\b", "<="),
    (r"\\ge\b", ">="),
    (r"\\lt\b", "<"),
    (r"\\gt\b", ">"),
    (r"\\text\{([^{}]*)\}", r"\1"),
    (r"\^\{([^{}]*)\}", r"^(\1)"),
    (r"_\{(\w+)\}", r"_\1"),
    (r"_\{([^{}]*)\}", r"_(\1)"),
    (r"[{}$]", ""),
    (r"(?<=[0-9A-Za-z])\\([A-Za-z]+)", r" \1"),
    (r"\\([A-Za-z]+)", r"\1"),
]


def plain(latex: str) -> str:
    """Words with inline $LaTeX$ as plain text."""
    for pattern, replacement in _PLAIN:
        latex = re.sub(pattern, replacement, latex)
    return latex


def _power_symbols(expression: sympy.Expr) -> tuple[sympy.Expr, dict[sympy.Symbol, sympy.Expr]]:
    """The expression with every base^(a n + b), n an integer symbol, as base^b x_n^a; and what each x_n stands for."""
    meaning: dict[sympy.Symbol, sympy.Expr] = {}

    def rewrite(base: sympy.Expr, exponent: sympy.Expr) -> sympy.Expr:
        terms = sympy.expand(exponent).as_coefficients_dict()
        if base not in (gamma, 1 - eps_pi) or not all(
            coefficient.is_Integer and (term == 1 or (term.is_Symbol and term.is_integer))
            for term, coefficient in terms.items()
        ):
            return base**exponent
        result = sympy.Integer(1)
        for term, coefficient in terms.items():
            if term == 1:
                result *= base**coefficient
            else:
                stand_in = sympy.Symbol(f"({base})^{term}", positive=base == gamma, nonnegative=True)
                meaning[stand_in] = base**term
                result *= stand_in**coefficient
        return result

    abstracted = expression.replace(lambda e: e.is_Pow and not e.exp.is_number, lambda e: rewrite(e.base, e.exp))
    return abstracted, meaning


def _is_zero(expression: sympy.Expr) -> bool:
    if expression == 0:
        return True
    if expression.has(sympy.Min, sympy.oo):
        return False
    abstracted, _ = _power_symbols(expression.doit())
    return bool(sympy.cancel(sympy.together(abstracted)) == 0)


def _signed_coefficients(polynomial: sympy.Expr) -> tuple[bool, bool]:
    """(every coefficient is nonnegative, and some monomial has only strictly positive variables)."""
    variables = sorted(polynomial.free_symbols, key=str)
    if not variables:
        return bool(polynomial >= 0), bool(polynomial > 0)
    terms = sympy.Poly(polynomial, *variables).terms()
    nonnegative = all(coefficient.is_nonnegative for _, coefficient in terms)
    definite = any(
        coefficient.is_positive
        and all(variable.is_positive for variable, power in zip(variables, powers, strict=True) if power)
        for powers, coefficient in terms
    )
    return nonnegative, definite


def _is_nonnegative(expression: sympy.Expr, *, strict: bool) -> bool:
    """The certificate described at the top; False means "no certificate", which a false claim never has."""
    if expression.has(sympy.Min, sympy.oo):
        return False
    abstracted, powers = _power_symbols(expression.doit())
    substitution: dict[sympy.Symbol, sympy.Expr] = {}
    for symbol in abstracted.free_symbols:
        if symbol == gamma:
            substitution[symbol] = 1 / (1 + sympy.Symbol("s", positive=True))
        elif symbol in powers:
            if strict and not symbol.is_positive:
                # 1/(1+y) leaves out 0; a closed inequality extends to it by continuity, a strict one does not
                return False
            substitution[symbol] = 1 / (1 + sympy.Symbol(f"y_{symbol}", nonnegative=True))
        elif symbol == k:
            substitution[symbol] = 1 + sympy.Symbol("n", nonnegative=True)
        elif not symbol.is_nonnegative:
            return False
    numerator, denominator = sympy.fraction(sympy.cancel(sympy.together(abstracted.subs(substitution))))
    numerator, denominator = sympy.expand(numerator), sympy.expand(denominator)
    for sign in (1, -1):
        top, bottom = _signed_coefficients(sign * numerator), _signed_coefficients(sign * denominator)
        if all(bottom) and top[0] and (top[1] or not strict):
            return True
    return False


@dataclass(frozen=True)
class Claim:
    """``left relation right`` for every gamma in (0, 1), integer k >= 1, errors in [0, 1] and r_max > 0.

    ``shown``: LaTeX printed in place of a left side that is computed and long; the machines decide ``left`` itself.
    """

    left: sympy.Expr
    relation: Relation
    right: sympy.Expr
    shown: str = ""

    @cached_property
    def holds(self) -> bool:
        """Decided by sympy; False also when it finds no proof."""
        if self.left == self.right:
            return self.relation != ">"
        difference = sympy.sympify(self.left - self.right)
        if self.relation == "=":
            return _is_zero(difference)
        return _is_nonnegative(difference, strict=self.relation == ">")

    def text(self) -> str:
        """One line of plain text."""
        left = plain(self.shown) if self.shown else self.left
        return f"{left} {self.relation} {self.right}".replace("epsilon_", "eps_")

    def latex(self) -> str:
        """The formula, without delimiters."""
        return f"{self.shown or sympy.latex(self.left)} {_LATEX_RELATION[self.relation]} {sympy.latex(self.right)}"

    @property
    def recheckable(self) -> bool:
        """Whether z3 can be asked: a claim about rational functions, no sum or minimum in it."""
        return not any(
            side.has(sympy.Min, sympy.Sum, sympy.log) for side in map(sympy.sympify, (self.left, self.right))
        )

    def recheck(self) -> bool:
        """Decided by z3 over the reals: no values in range contradict the claim.

        Raises:
            ModuleNotFoundError: z3 is not installed.
        """
        z3 = _z3()
        difference, powers = _power_symbols(sympy.sympify(self.left - self.right))
        solver = z3.Solver()
        solver.set("timeout", Z3_TIMEOUT_MS)
        unknowns: dict[sympy.Symbol, Any] = {}
        for number, symbol in enumerate(sorted(difference.free_symbols, key=str)):
            value = unknowns[symbol] = z3.Real(f"v{number}")
            solver.add(value > 0 if symbol.is_positive else value >= 0)
            if symbol == gamma:
                solver.add(value < 1)
            if symbol in powers or symbol in (eps_m, eps_pi):
                solver.add(value <= 1)
            if symbol == k:
                solver.add(value >= 1)
        # common denominator first: the solver decides polynomials, and a division by zero would be unconstrained
        numerator, denominator = (_to_z3(part, unknowns) for part in sympy.fraction(sympy.together(difference)))
        solver.push()
        solver.add(denominator == 0)
        defined = solver.check() == z3.unsat
        solver.pop()
        product = numerator * denominator
        negation = {"=": numerator != 0, ">=": product < 0, ">": product <= 0}[self.relation]
        solver.add(negation)
        return bool(defined and solver.check() == z3.unsat)


def _z3() -> Any:
    try:
        import z3
    except ModuleNotFoundError:
        raise ModuleNotFoundError("z3 is not installed: pip install 'm3po-guarantees[verify]'") from None
    return z3


def solver_available() -> bool:
    """Whether z3 can be imported."""
    try:
        _z3()
    except ModuleNotFoundError:
        return False
    return True


def _to_z3(expression: sympy.Expr, unknowns: dict[sympy.Symbol, Any]) -> Any:
    z3 = _z3()
    if expression.is_Rational:
        return z3.Q(int(expression.p), int(expression.q))
    if expression.is_Symbol:
        return unknowns[expression]
    if expression.is_Pow and expression.exp.is_Integer and expression.exp > 0:
        base, result = _to_z3(expression.base, unknowns), z3.RealVal(1)
        for _ in range(int(expression.exp)):
            result = result * base
        return result
    if expression.is_Add or expression.is_Mul:
        parts = [_to_z3(argument, unknowns) for argument in expression.args]
        result = parts[0]
        for part in parts[1:]:
            result = result + part if expression.is_Add else result * part
        return result
    raise ValueError(f"not a polynomial: {expression}")


@dataclass(frozen=True)
class Step:
    """One step: ``reason`` in words with inline $LaTeX$, and the claim a machine decides.

    A step without a claim is an argument in words (a sum taken term by term, a limit); no machine checks it.
    """

    reason: str
    claim: Claim | None = None

    @property
    def holds(self) -> bool:
        """The claim is proved, or there is none."""
        return self.claim is None or self.claim.holds


@dataclass(frozen=True)
class Proof:
    """A statement with its steps; ``holds`` is computed from the claims, never asserted.

    Attributes:
        name: a short key.
        statement: words with inline $LaTeX$, for gamma in (0, 1), integer k >= 1, eps_m and eps_pi in [0, 1].
        steps: in order; at least one of them has a claim.
    """

    name: str
    statement: str
    steps: tuple[Step, ...]

    @property
    def claims(self) -> tuple[Claim, ...]:
        """What the machines decide."""
        return tuple(step.claim for step in self.steps if step.claim is not None)

    @property
    def holds(self) -> bool:
        """Every claim is proved by sympy, and there is one."""
        return bool(self.claims) and all(claim.holds for claim in self.claims)

    def recheck(self) -> bool:
        """z3 confirms every claim it can be asked (see ``Claim.recheckable``), and there is one.

        Raises:
            ModuleNotFoundError: z3 is not installed.
        """
        asked = [claim for claim in self.claims if claim.recheckable]
        return bool(asked) and all(claim.recheck() for claim in asked)

    def text(self, *, recheck: bool = False) -> str:
        """The statement and its numbered steps as plain text; with ``recheck``, z3's word on each claim too.

        Raises:
            ModuleNotFoundError: ``recheck`` is asked for and z3 is not installed.
        """
        lines = [f"{self.name}: {plain(self.statement)}"]
        for number, step in enumerate(self.steps, start=1):
            lines.append(f"  {number}. {plain(step.reason)}")
            if step.claim is None:
                lines[-1] += "   [an argument in words]"
                continue
            verdict = f"sympy: {'proved' if step.claim.holds else 'NOT PROVED'}"
            if recheck:
                asked = step.claim.recheckable
                verdict += (
                    f"; z3: {('confirmed' if step.claim.recheck() else 'NOT CONFIRMED') if asked else 'not asked'}"
                )
            lines.append(f"     {step.claim.text()}   [{verdict}]")
        return "\n".join(lines)

    def latex(self) -> str:
        """The statement and its steps as Markdown with LaTeX, each claim displayed."""
        lines = [f"**{self.name}.** {self.statement}", ""]
        for number, step in enumerate(self.steps, start=1):
            lines.append(f"{number}. {step.reason}")
            if step.claim is not None:
                lines += ["", f"$${step.claim.latex()}$$", ""]
        return "\n".join(lines)
