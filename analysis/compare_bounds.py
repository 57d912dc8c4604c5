"""``python -m analysis.compare_bounds --gamma 0.95``: what every bound guarantees at given errors."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from analysis.runs.outputs import Output, mark_of
from analysis.theory.comparison import CompareConfig, Comparison, compare, conclusion, footnotes, lines
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
    """The comparison as text."""
    config, rows = comparison.config, lines(comparison)
    given = (
        f"gamma = {config.discount:.12g}, eps_m = {config.model_error:g}, eps_pi = {config.policy_divergence:g}, "
        f"{config.rewards}; trivial discrepancy R/(1-gamma) = {comparison.trivial:.12g}"
    )
    values = _aligned([each.value for each in rows])
    cells = [
        (each.bound, each.rollouts, each.k, value, each.share, each.verdict)
        for each, value in zip(rows, values, strict=True)
    ]
    head = ("bound", "model return", "k", "discrepancy", "of trivial", "verdict")
    return "\n".join([given, "", *_columns(head, cells), "", *footnotes(comparison), "", *conclusion(comparison)])


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
