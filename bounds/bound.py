"""A bound on the return gap: its statement, its sympy expression and its numerical value, from one formula."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, overload

import numpy as np
import numpy.typing as npt
import sympy

from bounds import symbols

FloatArray = npt.NDArray[np.float64]
Scheme = Literal["full", "branched", "branched-exact"]

LARGEST_ROLLOUT_LENGTH = 2**53


@dataclass(frozen=True)
class Arguments:
    """What a formula is written in: sympy symbols for the expression, float64 arrays for the value.

    Every field supports + - * / and **. ``one_minus_power(base, n)`` is 1 - base^n; a formula has to use it where
    that difference occurs, because it is the one operation whose stable numerical form differs from the written one.
    """

    gamma: Any
    k: Any
    eps_m: Any
    eps_pi: Any
    r_max: Any
    one_minus_power: Callable[[Any, Any], Any]


def one_minus_power(base: FloatArray, exponent: FloatArray) -> FloatArray:
    """1 - base^n in full relative precision, also for base near 1.

    Args:
        base: numbers in [0, 1].
        exponent: numbers > 0, broadcast against base.
    """
    with np.errstate(divide="ignore"):
        return np.asarray(-np.expm1(exponent * np.log(base)))


SYMBOLIC = Arguments(
    gamma=symbols.gamma,
    k=symbols.k,
    eps_m=symbols.eps_m,
    eps_pi=symbols.eps_pi,
    r_max=symbols.r_max,
    one_minus_power=lambda base, exponent: 1 - base**exponent,
)


@dataclass(frozen=True)
class Bound:
    """A number C with ``true return >= model return - C`` for every process within the given errors.

    Attributes:
        name: its key in the catalogue.
        source: where it is stated.
        assumptions: what has to hold for it to be valid, one sentence each.
        scheme: the model return it speaks about. ``full``: the model from the start. ``branched``: the average over
            i = 1..min(t, k) of i model steps after real data. ``branched-exact``: exactly min(t, k) model steps.
        expression: C in the symbols of ``bounds.symbols``.
        formula: C of numerical ``Arguments``; for a closed form the same function that made ``expression``.
    """

    name: str
    source: str
    assumptions: tuple[str, ...]
    scheme: Scheme
    expression: sympy.Expr
    formula: Callable[[Arguments], FloatArray]

    def __repr__(self) -> str:
        return f"<Bound {self.name}: {self.expression} ({self.scheme}; {self.source})>"

    @property
    def uses_rollout_length(self) -> bool:
        """Whether the value depends on the rollout length k."""
        return symbols.k in self.expression.free_symbols

    @overload
    def evaluate(
        self,
        *,
        discount: float,
        model_error: float = 0.0,
        policy_divergence: float = 0.0,
        rollout_length: int = 1,
        reward_max: float = 1.0,
    ) -> np.float64: ...

    @overload
    def evaluate(
        self,
        *,
        discount: npt.ArrayLike,
        model_error: npt.ArrayLike = 0.0,
        policy_divergence: npt.ArrayLike = 0.0,
        rollout_length: npt.ArrayLike = 1,
        reward_max: npt.ArrayLike = 1.0,
    ) -> FloatArray: ...

    def evaluate(
        self,
        *,
        discount: npt.ArrayLike,
        model_error: npt.ArrayLike = 0.0,
        policy_divergence: npt.ArrayLike = 0.0,
        rollout_length: npt.ArrayLike = 1,
        reward_max: npt.ArrayLike = 1.0,
    ) -> FloatArray | np.float64:
        """The discrepancy C, in units of return, for every combination of the broadcast arguments.

        A bound that does not depend on the rollout length accepts and ignores it.

        Args:
            discount: gamma, in [0, 1).
            model_error: eps_m, in [0, 1].
            policy_divergence: eps_pi, in [0, 1].
            rollout_length: k, whole numbers from 1 to 2^53.
            reward_max: r_max > 0, in units of reward.

        Returns:
            float64, of the arguments' broadcast shape; a numpy scalar when all of them are scalars.

        Raises:
            ValueError: an argument is out of its range (the message names the value), or the shapes do not broadcast.
        """
        arguments = Arguments(
            gamma=_checked("discount", discount, "in [0, 1)", lambda x: (x >= 0) & (x < 1)),
            k=_checked_rollout_length(rollout_length),
            eps_m=_checked("model_error", model_error, "in [0, 1]", lambda x: (x >= 0) & (x <= 1)),
            eps_pi=_checked("policy_divergence", policy_divergence, "in [0, 1]", lambda x: (x >= 0) & (x <= 1)),
            r_max=_checked("reward_max", reward_max, "positive and finite", lambda x: (x > 0) & (x < np.inf)),
            one_minus_power=one_minus_power,
        )
        shape = np.broadcast_shapes(
            arguments.gamma.shape,
            arguments.k.shape,
            arguments.eps_m.shape,
            arguments.eps_pi.shape,
            arguments.r_max.shape,
        )
        value = np.asarray(self.formula(arguments), dtype=np.float64)
        if not shape:
            return np.float64(value)
        return value if value.shape == shape else np.broadcast_to(value, shape).copy()


def closed_form(
    *, name: str, source: str, assumptions: tuple[str, ...], scheme: Scheme, formula: Callable[[Arguments], Any]
) -> Bound:
    """The bound whose expression and value are both ``formula``, of symbols and of arrays."""
    return Bound(name, source, assumptions, scheme, formula(SYMBOLIC), formula)


def _checked(name: str, value: npt.ArrayLike, wanted: str, within: Callable[[FloatArray], Any]) -> FloatArray:
    try:
        array = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"{name} must be {wanted}, got {value!r}") from None
    valid = within(array)
    if not np.all(valid):
        raise ValueError(f"{name} must be {wanted}, got {array[~np.asarray(valid)].flat[0]!s}")
    return array


def _checked_rollout_length(value: npt.ArrayLike) -> FloatArray:
    wanted = "a whole number from 1 to 2^53"
    if np.asarray(value).dtype == np.bool_:
        raise ValueError(f"rollout_length must be {wanted}, got {value!r}")
    return _checked(
        "rollout_length",
        value,
        wanted,
        lambda x: (x >= 1) & (x <= LARGEST_ROLLOUT_LENGTH) & (x == np.floor(x)),
    )
