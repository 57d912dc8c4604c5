"""``python -m paper_figures``: draw every figure again."""

from __future__ import annotations

import sys

from paper_figures import (
    certificate_through_training,
    figure4,
    figure4_optimal,
    figure6,
    figure7,
    figure9_point_mass,
    noise_level,
)

FIGURES = (
    figure4,
    figure4_optimal,
    figure6,
    figure7,
    figure9_point_mass,
    certificate_through_training,
    noise_level,
)


def main() -> int:
    """Run each figure's own ``main`` and print the files written; exit code 0."""
    for figure in FIGURES:
        written = figure.main()
        for path in written if isinstance(written, tuple) else (written,):
            print(path)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
