"""Theorem 5 and the control variate by their definitions: slow, in plain numbers, episode by episode."""

from __future__ import annotations

from typing import Any

import numpy as np


def slow_losses(rho: Any, x: Any, g: float, k: int | None, scheme: str, form: str, error: Any) -> list[float]:
    """The statement, branch by branch, in plain numbers; ``error``: |r - r_theta|/R, or None."""
    result = []
    for n in range(len(rho)):
        horizon, total = len(rho[n]), 0.0
        for t in range(0 if error is not None else 1, horizon):
            steps = [t] if k is None or t == 0 else [min(t, k)] if scheme == "exact" else range(1, min(t, k) + 1)
            terms = []
            for i in steps:
                last = t + (error is not None)
                a, b = float(np.prod(rho[n][: t - i])), float(np.prod(rho[n][t - i : last]))
                ratios = x[n][t - i : t]
                v = {
                    "uncapped": b * min(a, float(np.prod(ratios))),
                    "overlap": min(1.0, b * min(a, float(np.prod(ratios)))),
                    "product": min(1.0, a) * min(1.0, b) * float(np.prod(np.minimum(1, ratios))),
                    "sum": 1 - min(1.0, sum(1 - min(1, r) for r in rho[n][:last]) + sum(1 - min(1, r) for r in ratios)),
                }[form]
                terms.append(1 - v if error is None else 1 - v * (1 - error[n][t]))
            total += g**t * sum(terms) / len(terms)
        result.append(total)
    return result


def slow_control_variate(
    rho: np.ndarray,
    r: np.ndarray,
    q: np.ndarray,
    u: np.ndarray,
    largest: np.ndarray,
    g: float,
    c: float,
    budget: float,
    *,
    beta_knows_the_draw: bool = False,
) -> np.ndarray:
    """Z_t of rewards r >= 0, [N, H], by the definition. The planted fault affords more where U~ is large."""
    path = np.zeros_like(r)
    for n in range(len(r)):
        z, weight = 0.0, 1.0
        for t in range(r.shape[1]):
            price = g**t * weight * (c * largest[t] - (u[n, t] if beta_knows_the_draw else 0.0))
            beta = min(1.0, (budget + z) / price) if price > 0 else 1.0
            z += g**t * weight * (rho[n, t] * r[n, t] - beta * (min(rho[n, t], c) * q[n, t] - u[n, t]))
            weight *= rho[n, t]
            path[n, t] = z
    return path
