"""``python -m analysis.compare_bounds --gamma 0.95``: what every bound guarantees at given errors."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from analysis.runs.outputs import Output, mark_of
from analysis.theory.comparison import (
    LONGEST_PROFILE,
    SCHEME_LABELS,
    CompareConfig,
    Comparison,
    _percent,
    _verdict,
    compare,
    conclusion,
)
from analysis.theory.figures import write_figure
from m3po.command_line import json_of, run


def _aligned(values: Sequence[float]) -> list[str]:
    """Up to 12 significant digits, decimal points under each other."""
    texts = [f"{value:.12g}" for value in values]
    wholes = [text.partition(".")[0] for text in texts]
    fractions = ["".join(text.partition(".")[1:]) for text in texts]
    left, right = max(map(len, wholes)), max(map(len, fractions))
    return [f"{whole:>{left}}{fraction:<{right}}" for whole, fraction in zip(wholes, fractions, strict=True)]


def text(comparison: Comparison) -> str:
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
        f"{config.rewards}; trivial discrepancy R/(1-gamma) = {trivial:.12g}"
    )
    if config.reward_min is not None:
        footnote += (
            f"\nThe papers' bounds (m3po, mbpo) are stated with r_max = {config.largest_reward:g}, the others with the "
            f"range R = {config.reward_range:g}; with centred rewards theirs hold at R/2 too, "
            f"{config.reward_range / 2 / config.largest_reward:.3g} times as large."
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


def main(config: CompareConfig) -> int:
    """Print the table or the JSON object on stdout; exit code 0."""
    output = None
    if config.figure is not None:
        output = Output("figure", config.figure, mark_of("analysis.compare_bounds"), config.overwrite).check()
    comparison = compare(config)
    print(json_of(comparison.as_dict()) if config.as_json else text(comparison))
    if output is not None:
        write_figure(config, output)
        print(f"figure written to {output.shown}", file=sys.stderr)
    return 0


def command_line(arguments: Sequence[str] | None = None) -> None:
    """The command; ``arguments`` are the words after its name, ``sys.argv`` when None."""
    run(main, CompareConfig, arguments, prog="python -m analysis.compare_bounds")


if __name__ == "__main__":
    command_line()
