"""What is proved about the discrepancies, from the catalogue's own expressions: change a constant there, a proof fails.

Every statement is for gamma in (0, 1), every integer k >= 1 and errors in [0, 1]; at gamma = 0 it holds by continuity.
An induction is a base case and an increment, each a machine-checked claim; taking a sum of termwise inequalities and a
limit are said in words. C is short for the discrepancy (what a bound subtracts), R = 2 r_max for the reward range.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import sympy

from bounds import catalogue, paper
from bounds.data_proofs import DATA_PROOFS
from bounds.proof import Claim, Proof, Step
from bounds.symbols import eps_m, eps_pi, gamma, i, k, r_max, t


@dataclass(frozen=True)
class Expressions:
    """The expressions the proofs are about: the catalogue's by default, altered ones in the tests."""

    theorem_1: sympy.Expr = catalogue.get("m3po-th1").expression
    theorem_2: sympy.Expr = catalogue.get("m3po-th2").expression
    theorem_2_as_printed: sympy.Expr = paper.THEOREM_2_AS_PRINTED
    mbpo_4_1: sympy.Expr = catalogue.get("mbpo-4.1").expression
    mbpo_4_2: sympy.Expr = catalogue.get("mbpo-4.2").expression
    mbpo_4_3: sympy.Expr = catalogue.get("mbpo-4.3").expression
    linear_full: sympy.Expr = catalogue.get("linear-full").expression
    linear_branched: sympy.Expr = catalogue.get("linear-branched").expression
    optimal_full: sympy.Expr = catalogue.get("optimal-full").expression
    optimal_branched: sympy.Expr = catalogue.get("optimal-branched").expression


CATALOGUE = Expressions()

ZERO = sympy.Integer(0)
# f(k) of docs/theory.md, and the two sums over time that recur
BRACKET = (2 * gamma - gamma**2 - gamma ** (k + 1)) / (1 - gamma) ** 2
TIME_SUM = gamma / (1 - gamma) ** 2
TAIL_OF_BRACKET = gamma ** (k + 1) / (1 - gamma)
CLIPPED_TIME_SUM = gamma * (1 - gamma**k) / (1 - gamma) ** 2
KEEP = 1 - eps_pi
N = (gamma**2 + 2 * gamma - 2) * eps_pi - gamma**2 * eps_m


def coefficient(expression: sympy.Expr, error: sympy.Symbol) -> sympy.Expr:
    """What multiplies ``error`` in a discrepancy linear in the errors, divided by r_max."""
    return sympy.simplify(sympy.diff(expression, error) / r_max)


def increment(expression: sympy.Expr, index: sympy.Symbol) -> sympy.Expr:
    """expression(index + 1) - expression(index); a sum that grows by one term contributes that term.

    Raises:
        ValueError: a sum whose terms depend on the index, or whose end does not move by 0 or 1.
    """
    names: dict[sympy.Expr, sympy.Symbol] = {}
    grown: dict[sympy.Symbol, sympy.Expr] = {}
    for number, total in enumerate(sorted(expression.atoms(sympy.Sum), key=str)):
        ((variable, first, last),) = total.limits
        moves = sympy.expand(last.subs(index, index + 1) - last)
        if index in (total.function.free_symbols - {variable}) | first.free_symbols or moves not in (0, 1):
            raise ValueError(f"cannot telescope {total} in {index}")
        names[total] = sympy.Symbol(f"S_{number}")
        new_term = total.function.subs(variable, last + 1) if moves == 1 else ZERO
        grown[names[total]] = names[total] + new_term
    before = expression.xreplace(names)
    return sympy.expand(before.subs(index, index + 1).xreplace(grown) - before)


def _start(expression: sympy.Expr, **values: int) -> sympy.Expr:
    """The expression at the given t and i, sums carried out."""
    indices = {"t": t, "i": i}
    return expression.subs({indices[name]: value for name, value in values.items()}).doit()


@dataclass(frozen=True)
class Series:
    """An optimal discrepancy as prefactor * sum over t of gamma^t times the mean over i of min(1, mass)."""

    prefactor: sympy.Expr
    mass: sympy.Expr
    form: Claim


def series(expression: sympy.Expr, *, branched: bool) -> Series:
    """The parts of an optimal discrepancy, with the claim that they make it up exactly."""
    outer = next((s for s in expression.atoms(sympy.Sum) if s.limits[0][2] == sympy.oo), sympy.Sum(0, (t, 1, sympy.oo)))
    prefactor = sympy.cancel(expression / outer) if outer.function != 0 else ZERO
    minima = [m for m in outer.atoms(sympy.Min) if 1 in m.args and m.has(eps_pi)]
    mass = sympy.Add(*(argument for argument in minima[0].args if argument != 1)) if len(minima) == 1 else ZERO
    steps = sympy.Min(t, k)
    per_time = sympy.Sum(sympy.Min(1, mass), (i, 1, steps)) / steps if branched else sympy.Min(1, mass)
    rebuilt = prefactor * sympy.Sum(gamma**t * per_time, (t, 1, sympy.oo))
    return Series(
        prefactor, mass, Claim(expression, "=", rebuilt, r"C^\ast_{branch}(k)" if branched else r"C^\ast_{full}")
    )


def closed_form(e: Expressions) -> Proof:
    """The printed Theorem 2 in closed form."""
    closed = r_max * (2 * (1 + gamma**2) / (1 - gamma) ** 2 * eps_pi + BRACKET * (eps_pi + eps_m))
    return Proof(
        "closed-form",
        r"The bracket that multiplies $\epsilon_\pi + \epsilon_m$ in Table 1 is $f(k) = (2\gamma - \gamma^2 - "
        r"\gamma^{k+1})/(1-\gamma)^2$, and $C_{Th2}$ is what the catalogue evaluates.",
        (
            Step(
                r"The coefficient of $\epsilon_m$ as printed is $f(k)$.",
                Claim(
                    coefficient(e.theorem_2_as_printed, eps_m),
                    "=",
                    BRACKET,
                    r"\partial C_{Th2}/\partial \epsilon_m / r_{max}",
                ),
            ),
            Step(
                r"The printed discrepancy is $r_{max} \lbrace 2(1+\gamma^2)/(1-\gamma)^2 \epsilon_\pi + f(k) "
                r"(\epsilon_\pi + \epsilon_m) \rbrace$.",
                Claim(e.theorem_2_as_printed, "=", closed, r"C_{Th2}"),
            ),
            Step(
                "The catalogue's expression is the same function.", Claim(e.theorem_2, "=", closed, r"\text{m3po-th2}")
            ),
        ),
    )


def bracket_is_a_sum(e: Expressions) -> Proof:
    """f(k) as the discounted sum it comes from."""
    bracket = coefficient(e.theorem_2, eps_m)
    early = sympy.Sum((t + 1) * gamma**t, (t, 1, k - 1))
    total = early + (k + 1) * gamma**k / (1 - gamma)
    return Proof(
        "bracket-sum",
        r"$f(k) = \sum_{t=1}^{k-1} (t+1) \gamma^t + (k+1) \sum_{t \ge k} \gamma^t$: at each time twice the mean number "
        r"$(n+1)/2$ of model steps, $n = \min(t,k)$.",
        (
            Step(
                r"The mean of $2i$ over $i = 1..n$ is $n + 1$ (here $n = k$).",
                Claim(sympy.Sum(2 * i, (i, 1, k)) / k, "=", k + 1),
            ),
            Step(
                r"With $\sum_{t \ge n} \gamma^t = \gamma^n/(1-\gamma)$, the sum at $k = 1$ is $2\gamma/(1-\gamma)$.",
                Claim(total.subs(k, 1).doit(), "=", 2 * gamma / (1 - gamma), r"\text{sum}(1)"),
            ),
            Step(r"So is $f(1)$.", Claim(bracket.subs(k, 1), "=", 2 * gamma / (1 - gamma), r"f(1)")),
            Step(
                r"From $k$ to $k+1$ the sum grows by $\gamma^{k+1}/(1-\gamma)$.",
                Claim(increment(total, k), "=", TAIL_OF_BRACKET, r"\text{sum}(k+1) - \text{sum}(k)"),
            ),
            Step(
                r"So does $f$; by induction they are equal.",
                Claim(increment(bracket, k), "=", TAIL_OF_BRACKET, r"f(k+1) - f(k)"),
            ),
        ),
    )


def monotone_in_rollout_length(e: Expressions) -> Proof:
    """Theorem 2's discrepancy increases with k."""
    growth = r_max * TAIL_OF_BRACKET * (eps_pi + eps_m)
    return Proof(
        "monotone-in-k",
        r"$C_{Th2}(k+1) - C_{Th2}(k) = r_{max} \gamma^{k+1}/(1-\gamma) (\epsilon_\pi + \epsilon_m) \ge 0$, strictly "
        r"unless both errors vanish: the paper's 'tends to increase' is a theorem, and $k = 1$ is best for its bound.",
        (
            Step("The difference.", Claim(increment(e.theorem_2, k), "=", growth, r"C_{Th2}(k+1) - C_{Th2}(k)")),
            Step("It is nonnegative.", Claim(growth, ">=", ZERO)),
            Step("Its factor before the errors is positive.", Claim(r_max * TAIL_OF_BRACKET, ">", ZERO)),
        ),
    )


def corollary_1(e: Expressions) -> Proof:
    """The paper's Corollary 1."""
    full, branched = coefficient(e.theorem_1, eps_m), coefficient(e.theorem_2, eps_m).subs(k, 1)
    return Proof(
        "corollary-1",
        r"The terms relying on $\epsilon_m$ at $k = 1$ in $C_{Th2}$ are at most those in $C_{Th1}$ (the paper's "
        r"Corollary 1).",
        (
            Step(
                r"In $C_{Th2}(1)$ they are $2\gamma/(1-\gamma)$.",
                Claim(branched, "=", 2 * gamma / (1 - gamma), r"\partial C_{Th2}(1)/\partial \epsilon_m / r_{max}"),
            ),
            Step(
                r"In $C_{Th1}$ they are $2\gamma/(1-\gamma)^2$.",
                Claim(full, "=", 2 * TIME_SUM, r"\partial C_{Th1}/\partial \epsilon_m / r_{max}"),
            ),
            Step("The second is larger.", Claim(full, ">", branched)),
        ),
    )


def corollary_1_for_every_k(e: Expressions) -> Proof:
    """Corollary 1 without its restriction to k = 1."""
    full, branched = coefficient(e.theorem_1, eps_m), coefficient(e.theorem_2, eps_m)
    margin = (gamma**2 + gamma ** (k + 1)) / (1 - gamma) ** 2
    return Proof(
        "corollary-1-every-k",
        r"$f(k) \lt 2\gamma/(1-\gamma)^2$ for every $k$: Corollary 1 needs no short rollouts.",
        (
            Step("The margin.", Claim(full - branched, "=", margin, r"2\gamma/(1-\gamma)^2 - f(k)")),
            Step("It is positive.", Claim(margin, ">", ZERO)),
        ),
    )


def branched_beats_full_at_one(e: Expressions) -> Proof:
    """What the paper reads off its Figure 4."""
    margin = r_max * (2 * gamma**2 * eps_m + 2 * (1 - gamma) * eps_pi) / (1 - gamma) ** 2
    return Proof(
        "branched-beats-full-at-1",
        r"$C_{Th1} - C_{Th2}(1) = r_{max} \lbrace 2\gamma^2 \epsilon_m + 2(1-\gamma) \epsilon_\pi "
        r"\rbrace/(1-\gamma)^2 \ge 0$: what the paper reads off its Figure 4 holds for all errors and discounts.",
        (
            Step("The difference.", Claim(e.theorem_1 - e.theorem_2.subs(k, 1), "=", margin, r"C_{Th1} - C_{Th2}(1)")),
            Step("It is nonnegative.", Claim(margin, ">=", ZERO)),
        ),
    )


def crossover(e: Expressions) -> Proof:
    """The rollout length up to which Theorem 2 is the better bound."""
    advantage = e.theorem_1 - e.theorem_2
    closed = r_max * ((eps_m + eps_pi) * gamma ** (k + 1) - N) / (1 - gamma) ** 2
    # positive stand-ins: the last step is for N > 0, which forces eps_m + eps_pi > 0
    positive_n, positive_sum = sympy.symbols("N E", positive=True)
    last = sympy.log(positive_n / positive_sum) / sympy.log(gamma) - 1
    decrease = r_max * TAIL_OF_BRACKET * (eps_pi + eps_m)
    missing = (1 - gamma) * (3 + gamma) * eps_pi + (1 + gamma**2) * eps_m
    return Proof(
        "crossover",
        r"With $N = (\gamma^2 + 2\gamma - 2) \epsilon_\pi - \gamma^2 \epsilon_m$: if $N \le 0$, $C_{Th2}(k) \le "
        r"C_{Th1}$ for every $k$; otherwise exactly for $k \le k^\ast = \log(N/(\epsilon_m + "
        r"\epsilon_\pi))/\log\gamma - 1$, and $k^\ast \ge 1$.",
        (
            Step(
                r"$C_{Th1} - C_{Th2}(k)$ has the sign of $(\epsilon_m + \epsilon_\pi) \gamma^{k+1} - N$, which is "
                r"nonnegative for every $k$ if $N \le 0$.",
                Claim(advantage, "=", closed, r"C_{Th1} - C_{Th2}(k)"),
            ),
            Step(
                r"It decreases in $k$, by this much per step, so it changes sign at most once.",
                Claim(increment(advantage, k), "=", -decrease, r"C_{Th2}(k) - C_{Th2}(k+1)"),
            ),
            Step("That decrease is nonnegative.", Claim(decrease, ">=", ZERO)),
            Step(
                r"Its real zero is $k^\ast$: $\gamma^{k^\ast + 1} = N/E$ with $E = \epsilon_m + \epsilon_\pi$ and "
                r"$N \gt 0$.",
                Claim(
                    positive_sum * sympy.Pow(gamma, last + 1, evaluate=False), "=", positive_n, r"E \gamma^{k^\ast+1}"
                ),
            ),
            Step(
                r"At $k = 1$ it is nonnegative, so $k^\ast \ge 1$.",
                Claim(advantage.subs(k, 1), ">=", ZERO, r"C_{Th1} - C_{Th2}(1)"),
            ),
            Step(
                r"The form that is evaluated, $N = E - \lbrace (1-\gamma)(3+\gamma) \epsilon_\pi + (1+\gamma^2) "
                r"\epsilon_m \rbrace$, is the same.",
                Claim(eps_m + eps_pi - missing, "=", N),
            ),
        ),
    )


def linear_sums(e: Expressions) -> Proof:
    """The uncapped bounds as the sums they come from."""
    tail = gamma**k * (k * (1 - gamma) + gamma) / (1 - gamma) ** 2
    mean = sympy.Sum(t * eps_pi + i * eps_m, (i, 1, k)) / k
    return Proof(
        "linear-closed-sums",
        r"linear-branched, $r_{max} \lbrace f(k) \epsilon_m + 2\gamma/(1-\gamma)^2 \epsilon_\pi \rbrace$, is $2 "
        r"r_{max} \sum_t \gamma^t$ times the mean of $t \epsilon_\pi + i \epsilon_m$ over $i = 1..\min(t,k)$, and "
        r"linear-full, $2 r_{max} \gamma/(1-\gamma)^2 (\epsilon_\pi + \epsilon_m)$, is $2 r_{max} \sum_t \gamma^t t "
        r"(\epsilon_\pi + \epsilon_m)$.",
        (
            Step(
                r"The mean over $i = 1..n$ (here $n = k$) is $t \epsilon_\pi + (n+1)/2 \epsilon_m$, so the "
                r"coefficient of $\epsilon_m$ is $f(k)$ by 'bracket-sum'.",
                Claim(mean, "=", t * eps_pi + (k + 1) * eps_m / 2),
            ),
            Step(
                r"$T(n) = \gamma^n (n(1-\gamma) + \gamma)/(1-\gamma)^2$ is $\sum_{t \ge n} t \gamma^t$: it tends to "
                r"0, and loses one term per step.",
                Claim(increment(tail, k), "=", -k * gamma**k, r"T(k+1) - T(k)"),
            ),
            Step(r"So $\sum_{t \ge 1} t \gamma^t = T(1)$.", Claim(tail.subs(k, 1), "=", TIME_SUM, r"T(1)")),
            Step(
                "The catalogue's linear-branched.",
                Claim(
                    e.linear_branched, "=", r_max * (BRACKET * eps_m + 2 * TIME_SUM * eps_pi), r"\text{linear-branched}"
                ),
            ),
            Step(
                "The catalogue's linear-full.",
                Claim(e.linear_full, "=", 2 * r_max * TIME_SUM * (eps_m + eps_pi), r"\text{linear-full}"),
            ),
        ),
    )


def linear_below_paper(e: Expressions) -> Proof:
    """The linear bounds improve on the paper's."""
    branched = r_max * (2 + gamma**2 - gamma ** (k + 1)) / (1 - gamma) ** 2 * eps_pi
    full = r_max * (4 - 2 * gamma) / (1 - gamma) ** 2 * eps_pi
    return Proof(
        "linear-below-paper",
        r"linear-branched $\le C_{Th2}$ for every $k$ and linear-full $\le C_{Th1}$; what the paper's bounds give away "
        r"is only in $\epsilon_\pi$.",
        (
            Step(
                "Branched: the difference.",
                Claim(e.theorem_2 - e.linear_branched, "=", branched, r"C_{Th2} - \text{linear-branched}"),
            ),
            Step("It is nonnegative.", Claim(branched, ">=", ZERO)),
            Step(
                "Full model: the difference.",
                Claim(e.theorem_1 - e.linear_full, "=", full, r"C_{Th1} - \text{linear-full}"),
            ),
            Step("It is nonnegative.", Claim(full, ">=", ZERO)),
        ),
    )


def _below_linear(parts: Series, *, branched: bool) -> tuple[Step, ...]:
    """prefactor * mass <= 2 r_max (t eps_pi + i eps_m), by induction in t and i (i = t for the full model)."""
    steps = i if branched else t
    slack = 2 * r_max * (t * eps_pi + steps * eps_m) - parts.prefactor * parts.mass
    form = Step(r"The discrepancy is $R$ times a discounted sum of $\min(1, v)$ with this prefactor.", parts.form)
    if not branched:
        growth = 2 * r_max * (eps_pi + eps_m) * (1 - KEEP**t)
        return (
            form,
            Step(
                r"$D(t) = R t (\epsilon_\pi + \epsilon_m) - R v(t,t)$ is 0 at $t = 0$.",
                Claim(_start(slack, t=0), "=", ZERO, "D(0)"),
            ),
            Step(r"Per step of $t$ it grows by this,", Claim(increment(slack, t), "=", growth, r"D(t+1) - D(t)")),
            Step("which is nonnegative.", Claim(growth, ">=", ZERO)),
        )
    in_time, in_steps = 2 * r_max * eps_pi * (1 - KEEP**t), 2 * r_max * eps_m * (1 - KEEP**i)
    return (
        form,
        Step(
            r"$D(t,i) = R (t \epsilon_\pi + i \epsilon_m) - R v(t,i)$ is 0 at $t = i = 0$.",
            Claim(_start(slack, t=0, i=0), "=", ZERO, r"D(0,0)"),
        ),
        Step(r"Per step of $t$ it grows by this,", Claim(increment(slack, t), "=", in_time, r"D(t+1,i) - D(t,i)")),
        Step("which is nonnegative;", Claim(in_time, ">=", ZERO)),
        Step(r"per step of $i$ by this,", Claim(increment(slack, i), "=", in_steps, r"D(t,i+1) - D(t,i)")),
        Step("which is nonnegative.", Claim(in_steps, ">=", ZERO)),
    )


def optimal_below_linear(e: Expressions) -> Proof:
    """The optimal bounds improve on the linear ones, hence on the paper's."""
    branched = series(e.optimal_branched, branched=True)
    full = series(e.optimal_full, branched=False)
    return Proof(
        "optimal-below-linear",
        r"$C^\ast_{branch}(k) \le$ linear-branched and $C^\ast_{full} \le$ linear-full, hence by 'linear-below-paper' "
        r"$C^\ast_{branch}(k) \le C_{Th2}(k)$ and $C^\ast_{full} \le C_{Th1}$, for all errors. Here $u(t,i) = \min(1, "
        r"v(t,i))$.",
        (
            *_below_linear(branched, branched=True),
            *_below_linear(full, branched=False),
            Step(
                r"So $R u \le R v \le R (t \epsilon_\pi + i \epsilon_m)$ term by term; take means over $i$ and sum "
                r"with the weights $\gamma^t \ge 0$, by 'linear-closed-sums'."
            ),
        ),
    )


def optimal_solves_the_coupling(e: Expressions) -> Proof:
    """u is the largest disagreement that the per-step losses allow."""
    mass = series(e.optimal_branched, branched=True).mass
    forward = mass.subs({t: t + 1, i: i + 1}, simultaneous=True)
    model_step = forward - (eps_pi + eps_m + KEEP * mass)
    real = mass.subs(i, 0).doit()
    real_step = real.subs(t, t + 1) - (eps_pi + KEEP * real)
    return Proof(
        "optimal-recursion",
        r"$v(t,i)$ solves the coupling's recursion with equality: $v = 0$ at the start, $v' = \epsilon_\pi + (1 - "
        r"\epsilon_\pi) v$ per step on real data and $v' = \epsilon_\pi + \epsilon_m + (1-\epsilon_\pi) v$ per "
        r"model step.",
        (
            Step(r"$v(0,0) = 0$.", Claim(_start(mass, t=0, i=0), "=", ZERO, r"v(0,0)")),
            Step(
                r"Real data: $E(t) = v(t+1,0) - \epsilon_\pi - (1-\epsilon_\pi) v(t,0) = 0$.",
                Claim(real_step, "=", ZERO, r"E(t)"),
            ),
            Step(
                r"Model: $E(t,i) = v(t+1,i+1) - \epsilon_\pi - \epsilon_m - (1-\epsilon_\pi) v(t,i)$ is 0 at $t = i = "
                r"0$,",
                Claim(_start(model_step, t=0, i=0), "=", ZERO, r"E(0,0)"),
            ),
            Step(r"does not change with $t$,", Claim(increment(model_step, t), "=", ZERO, r"E(t+1,i) - E(t,i)")),
            Step(r"nor with $i$.", Claim(increment(model_step, i), "=", ZERO, r"E(t,i+1) - E(t,i)")),
        ),
    )


def _grows_with_model_steps(mass: sympy.Expr) -> tuple[Step, Step]:
    growth = eps_m * KEEP**i
    return (
        Step(r"Per model step $v(t,i)$ grows by this,", Claim(increment(mass, i), "=", growth, r"v(t,i+1) - v(t,i)")),
        Step(
            "which is nonnegative; so $u(t,i) = \\min(1, v(t,i))$ does not decrease in $i$.", Claim(growth, ">=", ZERO)
        ),
    )


def branched_below_full(e: Expressions) -> Proof:
    """The best possible branched discrepancy never exceeds the full model's."""
    branched, full = series(e.optimal_branched, branched=True), series(e.optimal_full, branched=False)
    return Proof(
        "optimal-branched-below-full",
        r"$C^\ast_{branch}(k) \le C^\ast_{full}$ for every $k$ and all errors: branching is never worse, for the "
        r"best possible bound.",
        (
            Step("The branched series.", branched.form),
            Step("The full series.", full.form),
            Step("They have the same prefactor.", Claim(branched.prefactor, "=", full.prefactor)),
            Step(
                r"The full model's term is $u(t,t)$: the same function at $i = t$.",
                Claim(branched.mass.subs(i, t), "=", full.mass),
            ),
            *_grows_with_model_steps(branched.mass),
            Step(r"So the mean of $u(t,i)$ over $i \le \min(t,k) \le t$ is at most $u(t,t)$, for every $t$; sum."),
        ),
    )


def optimal_monotone_in_rollout_length(e: Expressions) -> Proof:
    """The best possible branched discrepancy does not decrease in k."""
    branched = series(e.optimal_branched, branched=True)
    # M the mean over i <= k, M + a the last of those terms (the largest), M + a + b the next one
    mean, a, b = sympy.symbols("M a b", nonnegative=True)
    change = (k * mean + (mean + a + b)) / (k + 1) - mean
    return Proof(
        "optimal-monotone-in-k",
        r"$C^\ast_{branch}(k+1) \ge C^\ast_{branch}(k)$: shorter branches are never worse, for the best possible "
        r"bound.",
        (
            Step("The branched series.", branched.form),
            *_grows_with_model_steps(branched.mass),
            Step(r"Times $t \le k$ are the same for $k$ and $k + 1$."),
            Step(
                r"At $t \gt k$ the mean $M$ of $u(t,1..k)$ is at most its last term $M + a$, and the next one is $M "
                r"+ a + b$; including it changes the mean by",
                Claim(change, "=", (a + b) / (k + 1), r"\text{change of the mean}"),
            ),
            Step("which is nonnegative; sum over $t$.", Claim((a + b) / (k + 1), ">=", ZERO)),
        ),
    )


def optimal_below_trivial(e: Expressions) -> Proof:
    """No optimal discrepancy is worse than knowing nothing after the first reward."""
    branched, full = series(e.optimal_branched, branched=True), series(e.optimal_full, branched=False)
    tail = gamma**k / (1 - gamma)
    return Proof(
        "optimal-below-trivial",
        r"$C^\ast_{branch}(k), C^\ast_{full} \le R \gamma/(1-\gamma)$, with $R = 2 r_{max}$.",
        (
            Step("The branched series.", branched.form),
            Step("The full series.", full.form),
            Step(r"Its prefactor is at most $R$,", Claim(2 * r_max, ">=", branched.prefactor)),
            Step("and so is the full one's.", Claim(2 * r_max, ">=", full.prefactor)),
            Step(
                r"Every term is at most $\gamma^t$, and $\sum_{t \ge n} \gamma^t = \gamma^n/(1-\gamma)$, which tends "
                r"to 0 and loses one term per step.",
                Claim(increment(tail, k), "=", -(gamma**k), r"\gamma^{k+1}/(1-\gamma) - \gamma^k/(1-\gamma)"),
            ),
        ),
    )


def mbpo_4_1_is_theorem_1(e: Expressions) -> Proof:
    """Theorem 1 carries MBPO's Theorem 4.1 over to histories unchanged."""
    return Proof(
        "mbpo-4.1-is-theorem-1",
        r"MBPO's Theorem 4.1 and the paper's Theorem 1 subtract the same number.",
        (Step("The two expressions.", Claim(e.mbpo_4_1, "=", e.theorem_1, r"\text{mbpo-4.1}")),),
    )


def _clipped_time_sum_is_small() -> tuple[Step, ...]:
    """sum_t gamma^t min(t, k) = gamma (1 - gamma^k)/(1-gamma)^2 <= k gamma/(1-gamma)."""
    looseness = k * gamma / (1 - gamma) - CLIPPED_TIME_SUM
    growth = gamma * (1 - gamma**k) / (1 - gamma)
    return (
        Step(
            r"$\sum_t \gamma^t \min(t,k) = \gamma(1-\gamma^k)/(1-\gamma)^2$: at $k = 1$ it is $\gamma/(1-\gamma)$,",
            Claim(CLIPPED_TIME_SUM.subs(k, 1), "=", gamma / (1 - gamma), r"\text{sum}(1)"),
        ),
        Step(
            r"and from $k$ to $k + 1$ it grows by $\sum_{t \gt k} \gamma^t$.",
            Claim(increment(CLIPPED_TIME_SUM, k), "=", TAIL_OF_BRACKET, r"\text{sum}(k+1) - \text{sum}(k)"),
        ),
        Step(
            r"It is at most $k \gamma/(1-\gamma)$: the slack is 0 at $k = 1$,",
            Claim(looseness.subs(k, 1), "=", ZERO, r"\text{slack}(1)"),
        ),
        Step(
            r"and grows by this,", Claim(increment(looseness, k), "=", growth, r"\text{slack}(k+1) - \text{slack}(k)")
        ),
        Step("which is nonnegative.", Claim(growth, ">=", ZERO)),
    )


def mbpo_4_2_follows(e: Expressions) -> Proof:
    """MBPO 4.2 is what the three-chains lemma gives, with slack."""
    lemma = 2 * r_max * (TIME_SUM * eps_pi + CLIPPED_TIME_SUM * eps_m)
    at_most = (
        2
        * r_max
        * ((gamma ** (k + 1) / (1 - gamma) ** 2 + k * gamma / (1 - gamma)) * eps_pi + k * gamma / (1 - gamma) * eps_m)
    )
    slack = 2 * r_max * (k * gamma / (1 - gamma) - CLIPPED_TIME_SUM) * (eps_pi + eps_m)
    return Proof(
        "mbpo-4.2-follows",
        r"MBPO's Theorem 4.2 is implied by the three-chains lemma: its discrepancy is at least $R \sum_t \gamma^t (t "
        r"\epsilon_\pi + \min(t,k) \epsilon_m)$.",
        (
            *_clipped_time_sum_is_small(),
            Step(
                r"The lemma's sum is $R \lbrace \gamma/(1-\gamma)^2 \epsilon_\pi + \gamma(1-\gamma^k)/(1-\gamma)^2 "
                r"\epsilon_m \rbrace$. Adding $R (\epsilon_\pi + \epsilon_m)$ times that slack makes it",
                Claim(lemma + slack, "=", at_most, r"\text{sum} + \text{slack}"),
            ),
            Step("which MBPO's number exceeds.", Claim(e.mbpo_4_2, ">=", at_most, r"\text{mbpo-4.2}")),
        ),
    )


def mbpo_4_3_follows(e: Expressions) -> Proof:
    """MBPO 4.3 is what a coupling with the model error under the current policy gives, with slack."""
    late = gamma ** (k + 1) / (1 - gamma) ** 2
    at_most = 2 * r_max * (late * eps_pi + k * gamma / (1 - gamma) * eps_m)
    return Proof(
        "mbpo-4.3-follows",
        r"MBPO's Theorem 4.3 is at least $R \sum_t \gamma^t \lbrace \max(t-k,0) \epsilon_\pi + \min(t,k) "
        r"\epsilon_m' \rbrace$, $\epsilon_m'$ the model error under the current policy (written $\epsilon_m$ below).",
        (
            *_clipped_time_sum_is_small(),
            Step(
                r"$\sum_{t \gt k} \gamma^t (t - k) = \gamma^{k+1}/(1-\gamma)^2$, the rest of $\sum_t t \gamma^t$.",
                Claim(TIME_SUM - CLIPPED_TIME_SUM, "=", late),
            ),
            Step("MBPO's number exceeds both terms together.", Claim(e.mbpo_4_3, ">=", at_most, r"\text{mbpo-4.3}")),
        ),
    )


PROOFS: tuple[Callable[[Expressions], Proof], ...] = (
    closed_form,
    bracket_is_a_sum,
    monotone_in_rollout_length,
    corollary_1,
    corollary_1_for_every_k,
    branched_beats_full_at_one,
    crossover,
    linear_sums,
    linear_below_paper,
    optimal_solves_the_coupling,
    optimal_below_linear,
    branched_below_full,
    optimal_monotone_in_rollout_length,
    optimal_below_trivial,
    mbpo_4_1_is_theorem_1,
    mbpo_4_2_follows,
    mbpo_4_3_follows,
    *DATA_PROOFS,
)


def prove_all(expressions: Expressions = CATALOGUE) -> tuple[Proof, ...]:
    """Every proof, about these expressions; read ``holds`` of each."""
    return tuple(prove(expressions) for prove in PROOFS)
