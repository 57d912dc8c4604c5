"""Hypothesis strategies for exact instances and for the parameters of the attaining ones.

The random numbers come from a drawn seed, so that an instance shrinks in its sizes and stays reproducible.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from hypothesis import strategies as st

from bounds.finite.instance import Instance
from bounds.finite.random_instances import (
    adversarial_instance,
    random_history_instance,
    random_mdp,
)

SEEDS = st.integers(0, 2**32 - 1)


@st.composite
def mdp_instances(draw: st.DrawFn, max_horizon: int = 8, max_states: int = 5, max_actions: int = 3) -> Instance:
    """Dense layered processes with a model and two policies."""
    sizes = {
        "horizon": draw(st.integers(1, max_horizon)),
        "states": draw(st.integers(2, max_states)),
        "actions": draw(st.integers(1, max_actions)),
    }
    return random_mdp(np.random.default_rng(draw(SEEDS)), **sizes)


@st.composite
def history_instances(draw: st.DrawFn, max_horizon: int = 3) -> Instance:
    """Histories of a task-POMDP whose task switches."""
    sizes = {
        "horizon": draw(st.integers(1, max_horizon)),
        "tasks": draw(st.integers(1, 3)),
        "observations": draw(st.integers(2, 3)),
        "actions": draw(st.integers(1, 2)),
    }
    return random_history_instance(np.random.default_rng(draw(SEEDS)), **sizes)


@st.composite
def adversarial_instances(draw: st.DrawFn, max_horizon: int = 20) -> Instance:
    """Attaining instances, disturbed or not."""
    return adversarial_instance(np.random.default_rng(draw(SEEDS)), horizon=draw(st.integers(1, max_horizon)))


def instances() -> st.SearchStrategy[Instance]:
    """Any family."""
    return st.one_of(mdp_instances(), history_instances(), adversarial_instances())


def discounts(largest: float = 0.99) -> st.SearchStrategy[float]:
    """Discounts in [0, largest]."""
    return st.one_of(st.just(0.0), st.floats(0.01, largest))


def errors(smallest: float = 1e-6) -> st.SearchStrategy[float]:
    """Errors in [0, 1]: the corners, and anything between on a logarithmic scale."""
    return st.one_of(st.sampled_from([0.0, 1.0]), st.floats(np.log10(smallest), 0.0).map(lambda x: float(10.0**x)))


def random_generator() -> st.SearchStrategy[np.random.Generator]:
    """A seeded numpy Generator."""
    make: Callable[[int], np.random.Generator] = np.random.default_rng
    return SEEDS.map(make)
