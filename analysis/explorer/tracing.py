"""The bounds' formulas, traced into JavaScript."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import bounds
from bounds.bound import Arguments, Bound

# Series over time have no closed form to trace: their functions in mathematics.js.
SERIES = {"optimal-full": "optimalFull", "optimal-branched": "optimalBranched"}


@dataclass(frozen=True)
class Script:
    """A JavaScript expression. Arithmetic on it returns the expression of the result."""

    text: str

    def __add__(self, other: Any) -> Script:
        return _operation(self, "+", other)

    def __radd__(self, other: Any) -> Script:
        return _operation(other, "+", self)

    def __sub__(self, other: Any) -> Script:
        return _operation(self, "-", other)

    def __rsub__(self, other: Any) -> Script:
        return _operation(other, "-", self)

    def __mul__(self, other: Any) -> Script:
        return _operation(self, "*", other)

    def __rmul__(self, other: Any) -> Script:
        return _operation(other, "*", self)

    def __truediv__(self, other: Any) -> Script:
        return _operation(self, "/", other)

    def __rtruediv__(self, other: Any) -> Script:
        return _operation(other, "/", self)

    def __pow__(self, other: Any) -> Script:
        return _operation(self, "**", other)

    def __rpow__(self, other: Any) -> Script:
        return _operation(other, "**", self)


def _text(operand: Any) -> str:
    if isinstance(operand, Script):
        return operand.text
    if isinstance(operand, int | float):
        return repr(operand)
    raise ValueError(f"only numbers and expressions have a JavaScript, got {operand!r}")


def _operation(left: Any, operator: str, right: Any) -> Script:
    return Script(f"({_text(left)} {operator} {_text(right)})")


TRACED = Arguments(
    gamma=Script("x.gamma"),
    k=Script("x.k"),
    eps_m=Script("x.eps_m"),
    eps_pi=Script("x.eps_pi"),
    r_max=Script("x.r_max"),
    one_minus_power=lambda base, exponent: Script(f"oneMinusPower({_text(base)}, {_text(exponent)})"),
)


def javascript(bound: Bound) -> str:
    """The JavaScript function ``(x) => discrepancy`` of that bound; x has gamma, k, eps_m, eps_pi and r_max.

    Raises:
        ValueError: the bound is neither a closed form nor one of ``SERIES``.
    """
    if bound.name in SERIES:
        return SERIES[bound.name]
    try:
        return f"(x) => {_text(bound.formula(TRACED))}"
    except (TypeError, AttributeError, ValueError):
        raise ValueError(f"{bound.name} is not a closed form; give it a function in mathematics.js") from None


def formulas() -> str:
    """The JavaScript table of every bound's function, by name."""
    entries = (f"  {json.dumps(bound.name)}: {javascript(bound)},\n" for bound in bounds.ALL_BOUNDS)
    return f"const FORMULAS = {{\n{''.join(entries)}}};\n"
