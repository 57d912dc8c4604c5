"""Certify a model that was trained outside m3po: ridge regression in numpy, on the point mass with one task.

    python -m analysis.certify_example --out evidence.npz && python -m analysis.certify evidence.npz

A worked example for docs/certify.md: everything a user has to provide is computed here with numpy alone.
"""

from __future__ import annotations

from collections.abc import Sequence

from analysis.runs.outputs import Output, mark_of
from analysis.studies.certify_example import ExampleConfig, evidence
from m3po.command_line import run


def main(config: ExampleConfig) -> int:
    out = Output("out", config.out, mark_of("analysis.certify_example"), config.overwrite).check()
    out.write_arrays(**evidence(config))
    print(out.shown)
    return 0


def cli(arguments: Sequence[str] | None = None) -> None:
    run(main, ExampleConfig, arguments, prog="python -m analysis.certify_example")


if __name__ == "__main__":
    cli()
