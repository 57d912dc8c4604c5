"""``python -m analysis.compare_bounds --gamma 0.95``: what every bound guarantees at given errors."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import tyro

import bounds
from analysis.outputs import Output, check_figure, mark_of
from bounds.paper import crossover_rollout_length
from m3po.command_line import json_of, run
from m3po.flag_checks import Discount, Items, Positive, Share, Within, check_fields

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SCHEME_LABELS = {"full": "full model", "branched": "branched", "branched-exact": "branched, exactly k"}
# Two numbers this close are equal: the bounds are computed to 1e-12.
EQUAL = 1e-12
# Profiles are not built for longer horizons than this.
LONGEST_PROFILE = 20_000


@dataclass(frozen=True)
class Config:
    """Compare the discrepancies: true return >= model return - discrepancy, for every process within these errors."""

    discount: Annotated[Discount, tyro.conf.arg(name="gamma")]
    """Discount, in [0, 1)."""

    model_error: Annotated[Share, tyro.conf.arg(name="eps-m")] = 0.1
    """Model error eps_m: mean total variation of the one-step model on real data, in [0, 1]."""

    policy_divergence: Annotated[Share, tyro.conf.arg(name="eps-pi")] = 0.1
    """Policy divergence eps_pi: total variation between the data-collection policy and the policy, in [0, 1]."""

    rollout_lengths: Annotated[tuple[Annotated[int, Within(1, 2**53)], ...], Items(), tyro.conf.arg(name="k")] = (1, 5)
    """Rollout lengths k, in model steps, each at least 1."""

    reward_max: Annotated[Positive, tyro.conf.arg(name="r-max")] = 1.0
    """Largest absolute expected reward, positive."""

    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False
    """Print one JSON object instead of the table."""

    figure: Path | None = None
    """Also draw discrepancy against k into this file (.png, .pdf, .svg)."""

    overwrite: bool = False
    """Replace the file of --figure even if this command did not write it; one that it wrote is replaced anyway."""

    def __post_init__(self) -> None:
        check_fields(self)
        if not math.isfinite(self.reward_max / (1 - self.discount) ** 2 * max(self.rollout_lengths) * 12):
            raise ValueError(f"--r-max is too large for these bounds to be computed, got {self.reward_max}")
        check_figure("figure", self.figure)


@dataclass(frozen=True)
class Row:
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
    """Every bound at the errors of a ``Config``.

    Attributes:
        trivial: R/(1-gamma) with R = 2 r_max, the largest difference two returns can have.
        rows: every bound at every k, in the order of the catalogue.
        certificates: Theorem 4's certificate of the full model and of branched rollouts at every k, when these are the
            errors at every time step; none where this gamma needs profiles of over ``LONGEST_PROFILE`` steps.
        crossover: k*; the paper's bounds prefer branched rollouts exactly for k <= k*. Infinity: for every k.
    """

    config: Config
    trivial: float
    rows: tuple[Row, ...]
    certificates: tuple[Row, ...]
    crossover: float

    def best(self, *names: str) -> Row:
        """The row of smallest value among these bounds, the shorter rollout on a tie."""
        return min((row for row in self.rows if row.bound in names), key=lambda row: row.value)

    def as_dict(self) -> dict[str, object]:
        """The ``--json`` object."""
        return {
            "gamma": self.config.discount,
            "eps_m": self.config.model_error,
            "eps_pi": self.config.policy_divergence,
            "r_max": self.config.reward_max,
            "trivial": self.trivial,
            "rows": [
                {"bound": row.bound, "scheme": row.scheme, "k": row.k, "value": row.value, "vacuous": row.vacuous}
                for row in (*self.rows, *self.certificates)
            ],
        }


def compare(config: Config) -> Comparison:
    """Evaluate the whole catalogue at the config's errors and rollout lengths."""
    lengths = sorted(set(config.rollout_lengths))
    trivial = 2 * config.reward_max / (1 - config.discount)
    rows = []
    for bound in bounds.ALL_BOUNDS:
        values = bound.evaluate(
            discount=config.discount,
            model_error=config.model_error,
            policy_divergence=config.policy_divergence,
            rollout_length=np.array(lengths),
            reward_max=config.reward_max,
        )
        rows += [
            Row(bound.name, bound.scheme, length, float(value), bool(value >= trivial * (1 - EQUAL)))
            for length, value in zip(lengths, values, strict=True)
        ]
    crossover = crossover_rollout_length(
        discount=config.discount, model_error=config.model_error, policy_divergence=config.policy_divergence
    )
    return Comparison(config, trivial, tuple(rows), tuple(_certificates(config, lengths, trivial)), float(crossover))


def _certificates(config: Config, lengths: Sequence[int], trivial: float) -> Iterator[Row]:
    full = certificate_of_constant_errors(config, None)
    for scheme in ("full", "branched"):
        for length in lengths:
            value = full if scheme == "full" else certificate_of_constant_errors(config, length)
            if value is not None:
                name = "certificate-full" if scheme == "full" else "certificate"
                yield Row(name, scheme, length, value, value >= trivial * (1 - EQUAL))


def certificate_of_constant_errors(config: Config, rollout_length: int | None) -> float | None:
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
        reward_range=2 * config.reward_max,
        rollout_length=rollout_length,
        tail="worst",
    ).value


def _percent(share: float) -> str:
    if share == 0:
        return "0%"
    if share < 0.0005:
        return f"{100 * share:.1e}%"
    return f"{100 * share:,.1f}%" if share < 10 else f"{100 * share:,.0f}%"


def _of_bound(row: Row) -> str:
    return row.bound if row.scheme == "full" else f"{row.bound} at k = {row.k}"


def _keeps(value: float, trivial: float) -> str:
    return f"keeps {_percent(1 - value / trivial)} of the range"


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


def _aligned(values: Sequence[float]) -> list[str]:
    """Up to 12 significant digits, decimal points under each other."""
    texts = [f"{value:.12g}" for value in values]
    wholes = [text.partition(".")[0] for text in texts]
    fractions = ["".join(text.partition(".")[1:]) for text in texts]
    left, right = max(map(len, wholes)), max(map(len, fractions))
    return [f"{whole:>{left}}{fraction:<{right}}" for whole, fraction in zip(wholes, fractions, strict=True)]


def table(comparison: Comparison) -> str:
    """The comparison as text; a full-model bound has one line, because k does not matter to it."""
    config, trivial = comparison.config, comparison.trivial
    lengths = sorted(set(config.rollout_lengths))
    lines: list[tuple[str, str, str, float]] = []
    for row in (*comparison.rows, *comparison.certificates):
        name = "certificate *" if row in comparison.certificates else row.bound
        if row.scheme != "full":
            lines.append((name, SCHEME_LABELS[row.scheme], str(row.k), row.value))
        elif row.k == lengths[0]:
            lines.append((name, SCHEME_LABELS[row.scheme], "any", row.value))
    footnote = (
        "* Theorem 4 if these are the errors at every time step; errors measured step by step never make it larger."
    )
    if not comparison.certificates:
        footnote = f"Theorem 4's certificate is left out: this gamma needs profiles of over {LONGEST_PROFILE} steps."
    given = (
        f"gamma = {config.discount:.12g}, eps_m = {config.model_error:g}, eps_pi = {config.policy_divergence:g}, "
        f"r_max = {config.reward_max:g}; trivial discrepancy R/(1-gamma) = {trivial:.12g}"
    )
    values = [value for *_, value in lines]
    cells = [
        (name, scheme, length, text, _percent(value / trivial), _verdict(value, trivial, config.discount))
        for (name, scheme, length, value), text in zip(lines, _aligned(values), strict=True)
    ]
    head = ("bound", "model return", "k", "discrepancy", "of trivial", "verdict")
    return "\n".join([given, "", *_columns(head, cells), "", footnote, "", *conclusion(comparison)])


def _columns(head: tuple[str, ...], cells: Sequence[tuple[str, ...]]) -> list[str]:
    """Lines of a table; k and shares to the right, the rest to the left."""
    widths = [max(len(row[column]) for row in (head, *cells)) for column in range(len(head))]
    to_the_right = {2, 4}

    def line(row: tuple[str, ...]) -> str:
        padded = (
            cell.rjust(width) if column in to_the_right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        return "  ".join(padded).rstrip()

    return [line(head), line(tuple("-" * width for width in widths)), *map(line, cells)]


def _verdict(value: float, trivial: float, discount: float) -> str:
    if value >= trivial * (1 - EQUAL):
        return "vacuous"
    if value == 0:
        return "exact"
    if discount > 0 and value >= trivial * discount * (1 - EQUAL):
        return "holds for any model, the first reward being shared"
    return _keeps(value, trivial)


def draw(axes: Axes, config: Config) -> None:
    """Discrepancy against k for every bound of the catalogue; at or above the trivial one, a guarantee is vacuous."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    from analysis.figure_style import BOUND_COLOURS, BOUND_LABELS, INK, TRIVIAL_COLOUR

    last = max(50, *config.rollout_lengths)
    lengths = np.unique(np.round(np.geomspace(1, last, 200)).astype(np.int64))
    trivial = 2 * config.reward_max / (1 - config.discount)
    drawn = {
        bound.name: bound.evaluate(
            discount=config.discount,
            model_error=config.model_error,
            policy_divergence=config.policy_divergence,
            rollout_length=lengths,
            reward_max=config.reward_max,
        )
        for bound in bounds.ALL_BOUNDS
        # the same values as m3po-th1
        if bound.name != "mbpo-4.1"
    }
    for name, values in drawn.items():
        full = bounds.get(name).scheme == "full"
        label = BOUND_LABELS[name] + (" (= MBPO 4.1)" if name == "m3po-th1" else "")
        axes.plot(lengths, values, color=BOUND_COLOURS[name], linestyle=(0, (4, 2)) if full else "-", label=label)
    axes.axhline(trivial, color=TRIVIAL_COLOUR, linewidth=1.2)
    axes.annotate(
        "vacuous: at or above the trivial $R/(1-\\gamma)$",
        xy=(1, trivial),
        xycoords=("axes fraction", "data"),
        xytext=(-5, 4),
        textcoords="offset points",
        color=INK,
        ha="right",
        va="bottom",
        fontsize=8,
    )
    axes.set_xscale("log")
    positive = [value for values in drawn.values() for value in values if value > 0]
    if positive:
        axes.set_yscale("log")
        axes.set_ylim(min(min(positive), trivial) / 1.5, max(max(positive), trivial) * 1.5)
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda tick, _: f"{tick:g}"))
        axes.yaxis.set_minor_locator(NullLocator())
    axes.axhspan(trivial, axes.get_ylim()[1], color=TRIVIAL_COLOUR, alpha=0.12, linewidth=0)
    ticks = [tick for tick in (1, 2, 5, 10, 20, 50, 100, 1000, 10**4, 10**5, 10**6) if tick <= last]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_xticks([], minor=True)
    axes.set_xlim(1, last)
    axes.set_xlabel("rollout length $k$ (model steps)")
    axes.set_ylabel("discrepancy (units of return)")
    axes.set_title(
        f"$\\gamma={config.discount:.12g}$,  $\\epsilon_m={config.model_error:g}$,  "
        f"$\\epsilon_\\pi={config.policy_divergence:g}$,  $r_{{\\max}}={config.reward_max:g}$",
        loc="left",
    )
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))


def write_figure(config: Config, output: Output) -> None:
    """Draw discrepancy against k; ValueError when the file cannot be written."""
    from analysis.figure_style import figure_style

    with figure_style():
        from matplotlib.figure import Figure

        figure = Figure(figsize=(8.0, 4.2), layout="constrained")
        draw(figure.subplots(), config)
        output.write_figure(figure)


def main(config: Config) -> int:
    """Print the table or the JSON object on stdout; exit code 0."""
    output = None
    if config.figure is not None:
        output = Output("figure", config.figure, mark_of("analysis.compare_bounds"), config.overwrite).check()
    comparison = compare(config)
    print(json_of(comparison.as_dict()) if config.as_json else table(comparison))
    if output is not None:
        write_figure(config, output)
        print(f"figure written to {output.path}", file=sys.stderr)
    return 0


def command_line(arguments: Sequence[str] | None = None) -> None:
    """The command; ``arguments`` are the words after its name, ``sys.argv`` when None."""
    run(main, Config, arguments, prog="python -m analysis.compare_bounds")


if __name__ == "__main__":
    command_line()
