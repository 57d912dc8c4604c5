"""How figures look here: one width and set of matplotlib settings, one colour and one label per bound."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

# Importing matplotlib fails where the variable names a backend that is not installed here, as in a notebook's shell;
# figures that are drawn into files need none.
_backend = os.environ.pop("MPLBACKEND", None)
import matplotlib as mpl  # noqa: E402

if _backend is not None:
    os.environ["MPLBACKEND"] = _backend
    with suppress(ValueError):
        mpl.rcParams["backend"] = _backend

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

# Inches, of a printed page's text; on a telephone of 390 pixels the letters then still have six to seven.
PAGE_WIDTH = 6.5

TRIVIAL_COLOUR = "#8a8a8a"

INK = "#262626"

# Okabe-Ito colours: told apart with every common colour vision. One colour per family, dashes for the full model.
BOUND_COLOURS = {
    "m3po-th1": "#d55e00",
    "m3po-th2": "#d55e00",
    "mbpo-4.1": "#e69f00",
    "mbpo-4.2": "#e69f00",
    "mbpo-4.3": "#cc79a7",
    "linear-full": "#56b4e9",
    "linear-branched": "#56b4e9",
    "optimal-full": "#0072b2",
    "optimal-branched": "#0072b2",
}

BOUND_LABELS = {
    "m3po-th1": "M3PO Theorem 1, full model",
    "m3po-th2": "M3PO Theorem 2, branched",
    "mbpo-4.1": "MBPO 4.1, full model",
    "mbpo-4.2": "MBPO 4.2, branched",
    "mbpo-4.3": "MBPO 4.3, branched ($\\epsilon_m$ under the policy)",
    "linear-full": "linear, full model",
    "linear-branched": "linear, branched",
    "optimal-full": "optimal, full model",
    "optimal-branched": "optimal, branched",
}

# The variants of the algorithm, named as analysis.variants names them.
VARIANT_COLOURS = {
    "k=1": "#0072b2",
    "k=3": "#56b4e9",
    "k=5": "#009e73",
    "k=10": "#e69f00",
    "Full": "#d55e00",
    "M3PO-h": "#cc79a7",
    "memoryless": "#8a8a8a",
}

# The algorithms, named as analysis.variants.algorithm_of names them.
ALGORITHM_COLOURS = {
    "M3PO k=1": "#0072b2",
    "M3PO k=10": "#e69f00",
    "M3PO-h": "#cc79a7",
    "PEARL": "#009e73",
    "L2A": "#d55e00",
    "memoryless": "#8a8a8a",
}

SETTINGS: dict[Any, Any] = {
    "figure.dpi": 180,
    "savefig.dpi": 180,
    "figure.constrained_layout.use": True,
    "figure.facecolor": "white",
    "font.size": 10,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.labelsize": 10,
    "axes.edgecolor": "#5a5a5a",
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": False,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 1.8,
    "mathtext.fontset": "cm",
}


@contextmanager
def figure_style() -> Iterator[None]:
    """These settings and no others, whatever the user's own are, for the figures made inside the ``with`` block."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(SETTINGS)
        yield


def page(height: float, dpi: float | None = None) -> Figure:
    """A figure as wide as the page; ``height`` in inches, ``dpi`` other than the style's if given."""
    from matplotlib.figure import Figure

    return Figure(figsize=(PAGE_WIDTH, height), dpi=dpi)


def stacked(*heights: float) -> tuple[Figure, list[SubFigure]]:
    """A figure as wide as the page, in parts one below the other, each with margins of its own."""
    figure = page(sum(heights))
    return figure, list(figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False).flat)


def legend_below(axes: Axes, columns: int = 1) -> None:
    """The legend under the axes and their label, off the data."""
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, 0.0), borderaxespad=4.2, ncols=columns, columnspacing=1.2)


def legend_of_all(panels: Sequence[Axes], columns: int = 3) -> None:
    """One legend of all that several panels show, each name once: in the cell they leave free, or under the figure."""
    found = {name: handle for each in panels for handle, name in zip(*each.get_legend_handles_labels(), strict=True)}
    # What lies behind the rest is what the rest is compared with, and comes last.
    entries = dict(sorted(found.items(), key=lambda entry: -entry[1].get_zorder()))
    figure: Any = panels[0].get_figure(root=False)
    spare = [each for each in figure.axes if each not in panels]
    for each in spare:
        each.set_axis_off()
    if spare:
        spare[0].legend(entries.values(), entries.keys(), loc="center left")
    else:
        figure.legend(entries.values(), entries.keys(), loc="outside lower center", ncols=columns)
