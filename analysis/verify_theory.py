"""``python -m analysis.verify_theory``: every proof, every theorem on exact instances, and the attaining instance."""

from __future__ import annotations

from collections.abc import Sequence

from analysis.theory.dossier import VerifyConfig, verify
from m3po.command_line import json_of, run


def main(config: VerifyConfig) -> int:
    """Print the dossier; 0 when everything holds, 1 otherwise."""
    dossier = verify(config)
    print(json_of(dossier.as_dict()) if config.as_json else dossier.text())
    return 0 if dossier.ok else 1


def command_line(arguments: Sequence[str] | None = None) -> None:
    """The entry point; never returns."""
    run(main, VerifyConfig, arguments, prog="python -m analysis.verify_theory")


if __name__ == "__main__":
    command_line()
