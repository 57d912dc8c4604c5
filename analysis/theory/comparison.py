"""What every bound guarantees at given errors, side by side."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

import bounds
from analysis.flags.compare import CompareConfig
from bounds.paper import crossover_rollout_length

SCHEME_LABELS = {"full": "full model", "branched": "branched", "branched-exact": "branched, exactly k"}

# Two numbers this close are equal: the bounds are computed to 1e-12.
EQUAL = 1e-12

# Profiles are not built for longer horizons than this.
LONGEST_PROFILE = 20_000


@dataclass(frozen=True)
class BoundRow:
    """One bound at one rollout length.

    Attributes:
        bound: the name in the catalogue.
        scheme: the model return it speaks about.
        k: the rollout length it was asked for; a full-model bound has the same value at each.
        value: the discrepancy, in units of return.
        vacuous: value >= trivial up to rounding, so that the bound excludes no pair of returns.
    """

    bound: str
    scheme: str
    k: int
    value: float
    vacuous: bool


@dataclass(frozen=True)
class Comparison:
    """Every bound at the errors of a ``CompareConfig``.

    Attributes:
        trivial: R/(1-gamma), the largest difference two returns can have.
        rows: every bound at every k, in the order of the catalogue.
        certificates: Theorem 4's certificate of the full model and of branched rollouts at every k, when these are the
            errors at every time step; none where this gamma needs profiles of over ``LONGEST_PROFILE`` steps.
        crossover: k*; the paper's bounds prefer branched rollouts exactly for k <= k*. Infinity: for every k.
    """

    config: CompareConfig
    trivial: float
    rows: tuple[BoundRow, ...]
    certificates: tuple[BoundRow, ...]
    crossover: float

    def best(self, *names: str) -> BoundRow:
        """The row of smallest value among these bounds, the shorter rollout on a tie."""
        return min((row for row in self.rows if row.bound in names), key=lambda row: row.value)

    def as_dict(self) -> dict[str, object]:
        """The ``--json`` object."""
        return {
            "gamma": self.config.discount,
            "eps_m": self.config.model_error,
            "eps_pi": self.config.policy_divergence,
            "r_max": self.config.reward_max,
            **({} if self.config.reward_min is None else {"r_min": self.config.reward_min}),
            "trivial": self.trivial,
            "rows": [
                {"bound": row.bound, "scheme": row.scheme, "k": row.k, "value": row.value, "vacuous": row.vacuous}
                for row in (*self.rows, *self.certificates)
            ],
        }


def compare(config: CompareConfig) -> Comparison:
    """Evaluate the whole catalogue at the config's errors and rollout lengths."""
    lengths = sorted(set(config.rollout_lengths))
    trivial = config.reward_range / (1 - config.discount)
    rows = []
    for bound in bounds.ALL_BOUNDS:
        values = bound.evaluate(
            discount=config.discount,
            model_error=config.model_error,
            policy_divergence=config.policy_divergence,
            rollout_length=np.array(lengths),
            reward_max=config.reward_max_of(bound.name),
        )
        rows += [
            BoundRow(bound.name, bound.scheme, length, float(value), bool(value >= trivial * (1 - EQUAL)))
            for length, value in zip(lengths, values, strict=True)
        ]
    crossover = crossover_rollout_length(
        discount=config.discount, model_error=config.model_error, policy_divergence=config.policy_divergence
    )
    return Comparison(config, trivial, tuple(rows), tuple(_certificates(config, lengths, trivial)), float(crossover))


def _certificates(config: CompareConfig, lengths: Sequence[int], trivial: float) -> Iterator[BoundRow]:
    full = certificate_of_constant_errors(config, None)
    for scheme in ("full", "branched"):
        for length in lengths:
            value = full if scheme == "full" else certificate_of_constant_errors(config, length)
            if value is not None:
                name = "certificate-full" if scheme == "full" else "certificate"
                yield BoundRow(name, scheme, length, value, value >= trivial * (1 - EQUAL))


def certificate_of_constant_errors(config: CompareConfig, rollout_length: int | None) -> float | None:
    """Theorem 4's certificate when all that is known is that the errors are these at every time step.

    The profile ends where gamma^H <= 1e-16, or where the law of the history is capped by the policy divergence, so
    that the worst-case tail is what the sum would be; None when that takes more than ``LONGEST_PROFILE`` steps.
    """
    g, m, p = config.discount, config.model_error, config.policy_divergence
    if g == 0 or m + p == 0:
        return 0.0
    horizon = math.log(1e-16) / math.log(g)
    if p > 0:
        horizon = min(horizon, 1 / p)
    if horizon > LONGEST_PROFILE:
        return None
    length = math.ceil(horizon) + 2
    return bounds.certificate(
        np.full(length - 1, m),
        np.full(length, p),
        discount=g,
        reward_range=config.reward_range,
        rollout_length=rollout_length,
        tail="worst",
    ).value


def _percent(share: float) -> str:
    if share == 0:
        return "0%"
    if share < 0.0005:
        return f"{100 * share:.1e}%"
    return f"{100 * share:,.1f}%" if share < 10 else f"{100 * share:,.0f}%"


def _of_bound(row: BoundRow) -> str:
    return row.bound if row.scheme == "full" else f"{row.bound} at k = {row.k}"


def _keeps(value: float, trivial: float) -> str:
    return f"keeps {_percent(1 - value / trivial)} of the range"


@dataclass(frozen=True)
class Line:
    """A row as people read it.

    Attributes:
        bound: its name; the certificates are marked, for the footnote.
        rollouts: the model return it speaks about.
        k: the rollout length, "any" for a full-model bound.
        value: the discrepancy.
        share: of the trivial one.
        verdict: what that leaves of the range of returns.
    """

    bound: str
    rollouts: str
    k: str
    value: float
    share: str
    verdict: str


def lines(comparison: Comparison) -> list[Line]:
    """Every row; a full-model bound has one line, because k does not matter to it."""
    trivial, discount = comparison.trivial, comparison.config.discount
    shortest = min(comparison.config.rollout_lengths)
    return [
        Line(
            "certificate *" if row in comparison.certificates else row.bound,
            SCHEME_LABELS[row.scheme],
            "any" if row.scheme == "full" else str(row.k),
            row.value,
            _percent(row.value / trivial),
            _verdict(row.value, trivial, discount),
        )
        for row in (*comparison.rows, *comparison.certificates)
        if row.scheme != "full" or row.k == shortest
    ]


def footnotes(comparison: Comparison) -> list[str]:
    """What the mark of the certificates means, and how rewards in a range are read."""
    config = comparison.config
    notes = [
        "* Theorem 4 if these are the errors at every time step; errors measured step by step never make it larger."
    ]
    if not comparison.certificates:
        notes = [f"Theorem 4's certificate is left out: this gamma needs profiles of over {LONGEST_PROFILE} steps."]
    if config.reward_min is not None:
        notes.append(
            f"The papers' bounds (m3po, mbpo) are stated with r_max = {config.largest_reward:g}, the others with the "
            f"range R = {config.reward_range:g}; with centred rewards theirs hold at R/2 too, "
            f"{config.reward_range / 2 / config.largest_reward:.3g} times as large."
        )
    return notes


def conclusion(comparison: Comparison) -> list[str]:
    """What the table means, one sentence or two per entry: the paper, the optimum, the preferred rollout scheme."""
    config, trivial = comparison.config, comparison.trivial
    paper = comparison.best("m3po-th1", "m3po-th2")
    optimal = comparison.best("optimal-full", "optimal-branched")
    saturation = trivial * config.discount
    if config.model_error == 0 and config.policy_divergence == 0:
        return ["Without model error and policy divergence every bound is 0: the model return is the true return."]
    sentences = []
    if paper.vacuous:
        sentences.append(
            f"At these errors the paper's guarantee is vacuous: its smallest discrepancy ({_of_bound(paper)}) is "
            f"{_percent(paper.value / trivial)} of the trivial one."
        )
    elif paper.value >= saturation * (1 - EQUAL) > 0:
        sentences.append(
            f"At these errors the paper's guarantee ({_of_bound(paper)}) says nothing about the model: its discrepancy "
            "is at least gamma R/(1-gamma), within which any two returns that share their first reward lie."
        )
    else:
        sentences.append(f"The paper's best guarantee ({_of_bound(paper)}) {_keeps(paper.value, trivial)}.")
    if 0 < saturation * (1 - EQUAL) <= optimal.value:
        sentences.append(
            f"No guarantee from these two errors alone can help: the optimal one ({_of_bound(optimal)}) equals "
            "gamma R/(1-gamma), within which any two returns that share their first reward lie."
        )
    else:
        sentences.append(
            f"The optimal guarantee ({_of_bound(optimal)}) {_keeps(optimal.value, trivial)}; no smaller discrepancy is "
            "valid from these two errors alone."
        )
    if math.isinf(comparison.crossover):
        preferred = "branched rollouts of every length to the full model, and the shorter the better"
    else:
        last = math.floor(comparison.crossover)
        preferred = (
            f"branched rollouts up to k = {last} (crossover k* = {comparison.crossover:.4f}), the shorter the better, "
            f"and the full model to longer ones"
        )
    sentences.append(f"Preferred scheme: the paper's bounds prefer {preferred}.")
    full, short = comparison.best("optimal-full"), comparison.best("optimal-branched")
    if short.value < full.value * (1 - EQUAL):
        sentences.append("The optimal bounds prefer branched rollouts at every k, the shorter the better.")
    else:
        sentences.append("The optimal bounds are indifferent here: branched is never worse, and here not better.")
    return sentences


def _verdict(value: float, trivial: float, discount: float) -> str:
    if value >= trivial * (1 - EQUAL):
        return "vacuous"
    if value == 0:
        return "exact"
    if discount > 0 and value >= trivial * discount * (1 - EQUAL):
        return "holds for any model, the first reward being shared"
    return _keeps(value, trivial)
