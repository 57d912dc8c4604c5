"""What is proved about Theorem 5 and the off-policy lower bounds: steps of inductions, case by case.

A number y in [0, 1] is written 1/(1+u) with u >= 0 (and y = 0 holds by continuity), a number that is at least another
one as their sum with a nonnegative number: then every claim is about nonnegative unknowns.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import sympy

from bounds.proof import Claim, Proof, Step
from bounds.symbols import gamma

if TYPE_CHECKING:
    from bounds.proofs import Expressions

ZERO = sympy.Integer(0)


def _unknown(name: str) -> sympy.Symbol:
    return sympy.Symbol(name, nonnegative=True)


def _positive(name: str) -> sympy.Symbol:
    return sympy.Symbol(name, positive=True)


A, B, U, V, W, E, F, R_ = (_unknown(name) for name in ("a", "b", "u", "v", "w", "e", "f", "d"))


def overlap_chain(_: Expressions) -> Proof:
    """Every form of Theorem 5 subtracts at least as much as the one before it, and Theorem 4 the most."""
    product, factor = 1 / (1 + U), 1 / (1 + V)
    total = 1 - product + R_
    return Proof(
        "overlap-chain",
        r"$b \min(a, X) \ge \min(1, b \min(a, X)) \ge \min(1,a) \min(1,b) \prod_s \min(1, x_s)$ for nonnegative "
        r"numbers with $X = \prod_s x_s$, and $1 - \prod y \le \sum (1 - y)$ for $y$ in $[0, 1]$.",
        (
            Step(
                r"Let $a \le X$, else exchange the two. Then $\min(a,X) = a$, and $\min(1,X) \le 1$ drops out: it "
                r"remains that $a b \ge \min(1,a) \min(1,b)$. If $a \le 1$ and $b \le 1$ the two are equal. If $a = 1 "
                r"+ u$ and $b \le 1$:",
                Claim((1 + U) * B, ">=", B, "(1+u) b"),
            ),
            Step(r"If $a \le 1$ and $b = 1 + v$:", Claim(A * (1 + V), ">=", A, "a (1+v)")),
            Step(r"If $a = 1 + u$ and $b = 1 + v$:", Claim((1 + U) * (1 + V), ">=", sympy.Integer(1), "(1+u)(1+v)")),
            Step(
                r"So $y z \ge \min(1,y) \min(1,z)$, the right side is at most 1, and by induction $\min(1, \prod x_s) "
                r"\ge \prod \min(1, x_s)$; likewise for $a$ and $b$, products of $\rho_s$."
            ),
            Step(
                r"Let $P = 1/(1+u)$ be a product of numbers $y$ in $[0,1]$ and $S = 1 - P + d$ at least $1 - P$. With "
                r"one more factor $y = 1/(1+v)$ the sum is still at least 1 minus the product.",
                Claim(total + 1 - factor, ">=", 1 - product * factor, "S + (1 - y)"),
            ),
            Step(
                r"In the mean over the data, $E(1 - \min(1, \rho_s)) = d_s$ and $E(1 - \min(1, x_s)) = m_s$: the sum "
                r"is Theorem 4's, and a mean of minima with 1 is at most the minimum of the mean with 1."
            ),
        ),
    )


def overlap_learned_reward(_: Expressions) -> Proof:
    """A learned reward's term inside the overlap, against adding its error."""
    span = E + F
    smaller, larger = V, V + W
    share = 1 / (1 + U)

    def term(v: sympy.Expr) -> sympy.Expr:
        return v * E + span * (1 - v)

    return Proof(
        "overlap-learned-reward",
        r"With a reward error $e \le R = e + f$, the term $v e + R (1 - v)$ does not increase in the overlap $v$, and "
        r"is at most $e + R (1 - v)$, which Theorem 4 adds.",
        (
            Step(
                r"From $v$ to $v + w$ it falls by $w f \ge 0$: so the order of the forms is kept.",
                Claim(term(smaller) - term(larger), "=", W * F, r"\text{term}(v) - \text{term}(v + w)"),
            ),
            Step(
                r"For $v = 1/(1+u)$ in $[0, 1]$:",
                Claim(E + span * (1 - share), ">=", term(share), "e + R (1 - v)"),
            ),
        ),
    )


def _tree() -> tuple[sympy.Expr, sympy.Expr, sympy.Expr]:
    """(E X, E Z, the discounted return) of two steps with two actions and two observations, everything symbolic.

    Data policy d, policy p = d * rho, observations o of probability q, rewards r >= 0. The control variate has any
    function Q, any m in place of min(rho, c), U = sum_a d m Q, and any beta that depends on what came before.
    """
    both = (0, 1)

    def chances(name: str, *index: int) -> tuple[sympy.Expr, sympy.Expr]:
        first = _positive("_".join([name, *map(str, index)]))
        return first, 1 - first

    weighted = variate = target = ZERO
    d_0 = chances("d")
    rho_0, m_0, q_0 = ([_unknown(f"{name}_{a}") for a in both] for name in ("rho", "m", "Q"))
    mean_0 = sum(d_0[a] * m_0[a] * q_0[a] for a in both)
    beta_0 = _unknown("beta")
    for a, o in itertools.product(both, both):
        d_1 = chances("d", a, o)
        rho_1, m_1, q_1, r_1 = ([_unknown(f"{name}_{a}_{o}_{c}") for c in both] for name in ("rho", "m", "Q", "r"))
        mean_1 = sum(d_1[c] * m_1[c] * q_1[c] for c in both)
        r_0, beta_1 = _unknown(f"r_{a}"), _unknown(f"beta_{a}_{o}")
        for c in both:
            path = d_0[a] * chances("q", a)[o] * d_1[c]
            earned = rho_0[a] * r_0 + gamma * rho_0[a] * rho_1[c] * r_1[c]
            first = beta_0 * (m_0[a] * q_0[a] - mean_0)
            second = beta_1 * gamma * rho_0[a] * (m_1[c] * q_1[c] - mean_1)
            weighted += path * earned
            variate += path * (earned - first - second)
            target += path * rho_0[a] * rho_1[c] * gamma * r_1[c]
        target += d_0[a] * chances("q", a)[o] * rho_0[a] * r_0
    return weighted, variate, target


def importance_weighting_unbiased(_: Expressions) -> Proof:
    """Per-decision importance weights."""
    data, policy, reward, value = _positive("d"), _unknown("p"), _unknown("r"), _unknown("V")
    weighted, _variate, target = _tree()
    return Proof(
        "importance-weighting-unbiased",
        r"$E \sum_t \gamma^t w_{0:t} (r_t - r_{lo}) = J - r_{lo} \sum_t \gamma^t$ where the data policy takes every "
        r"action that the policy takes, and is at most that elsewhere.",
        (
            Step(
                r"Backwards in time: if $V$ is the policy's expected reward above $r_{lo}$ from $t+1$ on, an action of "
                r"probability $d \gt 0$ under the data policy and $p$ under the policy adds",
                Claim(
                    data * (policy / data) * (reward + gamma * value),
                    "=",
                    policy * (reward + gamma * value),
                    r"d (p/d) (r + \gamma V)",
                ),
            ),
            Step(
                r"An action with $d = 0$ is left out, and what it would add is nonnegative, since $r - r_{lo} \ge 0$."
            ),
            Step(
                r"Two steps with two actions and two observations each, in all unknowns at once ($\rho = p/d$):",
                Claim(weighted, "=", target, r"E X"),
            ),
        ),
    )


def control_variate_unbiased(_: Expressions) -> Proof:
    """The control variate leaves the mean alone, unless beta knows the draw."""
    data, ratio, cap, extra, value = _positive("d"), _positive("rho"), _positive("c"), _unknown("e"), _unknown("Q")
    above = cap + extra
    weighted, variate, _target = _tree()
    low, more, first, step = _unknown("u"), _unknown("w"), _unknown("beta"), _unknown("e")
    mean_of_product = (first * low + (first + step) * (low + more)) / 2
    product_of_means = (2 * first + step) / 2 * (2 * low + more) / 2
    return Proof(
        "control-variate-unbiased",
        r"$E(\min(\rho_t, c) Q_t - \tilde U_t) = 0$ given the past, so that $E Z = E X$ for every $Q$, if $\beta_t$ "
        r"does not depend on $a_t$ or $\tilde U_t$.",
        (
            Step(
                r"An action with $p = \rho d$ and $\rho \le c = \rho + e$ adds the same to the mean of $\min(\rho, c) "
                r"Q$ under the data policy and of $\min(1, c d/p) Q$ under the policy:",
                Claim(data * ratio * value, "=", (ratio * data) * value, r"d \min(\rho, c) Q"),
            ),
            Step(
                r"So does one with $\rho = c + e$.",
                Claim(
                    data * cap * value,
                    "=",
                    (above * data) * (cap * data / (above * data)) * value,
                    r"d \min(\rho, c) Q",
                ),
            ),
            Step(
                r"Two steps with two actions and two observations each, any $Q$, any $m$ in place of $\min(\rho, c)$, "
                r"any $\beta$ that depends on what came before:",
                Claim(variate, "=", weighted, r"E Z"),
            ),
            Step(
                r"If $\beta$ grows with the draw, it does not: for $\tilde U$ equal to $u$ or $u + w$ with probability "
                r"$1/2$ each, and $\beta$ equal to $\beta$ or $\beta + e$ with it, the mean of $\beta \tilde U$ "
                r"exceeds the product of the means, and the bound is biased upwards by the difference.",
                Claim(mean_of_product - product_of_means, "=", step * more / 4, r"\text{excess}"),
            ),
        ),
    )


def control_variate_budget(_: Expressions) -> Proof:
    """Z + L stays nonnegative."""
    weight = _positive("g")
    ratio, critic = _positive("m"), _positive("Q")
    cap, largest = ratio + E, critic + F
    mean, earned, spare = _unknown("U"), _unknown("r"), R_
    cost = ratio * critic - mean
    left = weight * cap * largest + spare
    held = _unknown("B")
    return Proof(
        "control-variate-budget",
        r"$Z_t + L \ge 0$ on every path. With $B = L + Z_{t-1} \ge 0$, $g = \gamma^t w_{0:t-1}$, $\min(\rho_t, c) = m "
        r"\le c = m + e$, $Q_t \le q_t = Q + f$, $\tilde U_t = U \ge 0$ and $r \ge 0$ earned:",
        (
            Step(
                r"Where $B = g c q + d$ affords everything, $\beta = 1$:",
                Claim(left - weight * cost + earned, ">=", ZERO, r"B - g (m Q - U) + r"),
            ),
            Step(
                r"Elsewhere $\beta = B/(g c q)$:",
                Claim(
                    held - held / (weight * cap * largest) * weight * cost + earned,
                    ">=",
                    ZERO,
                    r"B - \beta g (m Q - U) + r",
                ),
            ),
        ),
    )


def nonnegative_bets(_: Expressions) -> Proof:
    """The capital of a fixed bet on nonnegative samples."""
    share, value, mean, more = 1 / (1 + U), _unknown("X"), _positive("m"), W

    def factor(at: sympy.Expr) -> sympy.Expr:
        return 1 - share + share * value / at

    return Proof(
        "nonnegative-bets",
        r"$\prod_n (1 - f + f X_n/m)$ is a nonnegative martingale at $m = E X$ for every fixed $f$ in $(0, 1)$, "
        r"whatever the largest $X$, and does not increase in $m$.",
        (
            Step(r"Each factor is nonnegative, with $f = 1/(1+u)$.", Claim(factor(mean), ">=", ZERO, "1 - f + f X/m")),
            Step(
                r"It is linear in $X$, so that its mean is its value at $X = m$.",
                Claim(factor(mean).subs(value, mean), "=", sympy.Integer(1), "1 - f + f m/m"),
            ),
            Step(
                r"A larger $m + w$ makes it no larger, so that the means not rejected are all those above one number.",
                Claim(factor(mean), ">=", factor(mean + more), "1 - f + f X/m"),
            ),
            Step(
                r"By Ville's inequality the average of such martingales over fixed $f$, which starts at 1, ever "
                r"reaches $1/\delta$ with probability at most $\delta$."
            ),
        ),
    )


DATA_PROOFS = (
    overlap_chain,
    overlap_learned_reward,
    importance_weighting_unbiased,
    control_variate_unbiased,
    control_variate_budget,
    nonnegative_bets,
)
