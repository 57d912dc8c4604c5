"""The symbols every bound's expression is written in, with the assumptions its proofs may use."""

from __future__ import annotations

import sympy

gamma = sympy.Symbol("gamma", positive=True)
"""The discount. Every statement here is for gamma < 1, which sympy cannot hold as an assumption."""

k = sympy.Symbol("k", integer=True, positive=True)
"""The rollout length: model steps in a branched rollout."""

eps_m = sympy.Symbol("epsilon_m", nonnegative=True)
"""The model error: the largest over t of the mean total variation between true and model kernel at time t."""

eps_pi = sympy.Symbol("epsilon_pi", nonnegative=True)
"""The policy divergence: the largest over histories of the total variation between data policy and policy."""

r_max = sympy.Symbol("r_max", positive=True)
"""The largest absolute expected reward; rewards lie in [-r_max, r_max], so the reward range R is 2 r_max."""

t = sympy.Symbol("t", integer=True, positive=True)
"""Summation index: time."""

i = sympy.Symbol("i", integer=True, positive=True)
"""Summation index: model steps before time t."""

j = sympy.Symbol("j", integer=True, nonnegative=True)
"""Summation index of geometric sums."""
