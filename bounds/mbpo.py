"""The three bounds of MBPO (Janner et al. 2019), with their known slips named in the assumptions."""

from __future__ import annotations

from typing import Any

from bounds.bound import Arguments, Bound, closed_form

SOURCE = "Janner, Fu, Zhang & Levine 2019, When to Trust Your Model"
REWARDS = "expected rewards lie in [-r_max, r_max]; the source writes r_max without saying so"
TOTAL_VARIATION = "errors are total variations, as in the source's proofs; its lemmas state KL divergences"
MODEL_ERROR_ON_DATA = "eps_m >= max over t of the mean total variation of the model on data states and actions"
POLICY_DIVERGENCE = "eps_pi >= sup over states of the total variation between data policy and policy"


def _theorem_4_1(x: Arguments) -> Any:
    horizon = 1 / (1 - x.gamma)
    return 2 * x.gamma * x.r_max * (x.eps_m + 2 * x.eps_pi) * horizon**2 + 4 * x.r_max * x.eps_pi * horizon


def _theorem_4_2(x: Arguments) -> Any:
    horizon = 1 / (1 - x.gamma)
    power = x.gamma**x.k
    return (
        2
        * x.r_max
        * (
            x.gamma * power * x.eps_pi * horizon**2
            + (power + 2) * x.eps_pi * horizon
            + x.k * (x.eps_m + 2 * x.eps_pi) * horizon
        )
    )


def _theorem_4_3(x: Arguments) -> Any:
    horizon = 1 / (1 - x.gamma)
    power = x.gamma**x.k
    return (
        2 * x.r_max * (x.gamma * power * x.eps_pi * horizon**2 + power * x.eps_pi * horizon + x.k * x.eps_m * horizon)
    )


THEOREM_4_1 = closed_form(
    name="mbpo-4.1",
    source=f"{SOURCE}, Theorem 4.1",
    assumptions=(REWARDS, TOTAL_VARIATION, MODEL_ERROR_ON_DATA, POLICY_DIVERGENCE),
    scheme="full",
    formula=_theorem_4_1,
)

THEOREM_4_2 = closed_form(
    name="mbpo-4.2",
    source=f"{SOURCE}, Theorem 4.2",
    assumptions=(REWARDS, TOTAL_VARIATION, MODEL_ERROR_ON_DATA, POLICY_DIVERGENCE),
    scheme="branched-exact",
    formula=_theorem_4_2,
)

THEOREM_4_3 = closed_form(
    name="mbpo-4.3",
    source=f"{SOURCE}, Theorem 4.3",
    assumptions=(
        REWARDS,
        TOTAL_VARIATION,
        "model_error means the error under the current policy, eps_m': at least the mean total variation between true "
        "kernel and model where the current policy acts, on states reached from data states by the current policy",
        POLICY_DIVERGENCE,
    ),
    scheme="branched-exact",
    formula=_theorem_4_3,
)

BOUNDS: tuple[Bound, ...] = (THEOREM_4_1, THEOREM_4_2, THEOREM_4_3)
