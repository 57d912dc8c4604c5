"""What is shown of a bound, a certificate or a process fits on a line or two, however long its arrays are."""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil

import numpy as np
import pytest

import bounds
from bounds.finite import SparseProcess, attaining_instance, error_profiles
from bounds.readable import readable

CARRIERS = [
    kind
    for module in pkgutil.walk_packages(bounds.__path__, "bounds.")
    for kind in vars(importlib.import_module(module.name)).values()
    if isinstance(kind, type) and dataclasses.is_dataclass(kind) and kind.__module__ == module.name
]


@pytest.mark.parametrize("kind", CARRIERS, ids=lambda kind: kind.__name__)
def test_what_holds_arrays_shows_their_shapes(kind: type) -> None:
    types = [str(each.type) for each in dataclasses.fields(kind)]
    holds = any(("Array" in each or "Layers" in each) and "Callable" not in each for each in types)
    assert (kind.__repr__ is readable) == holds


def test_long_arrays_are_shown_by_shape_and_range() -> None:
    errors = np.full(500, 0.1)
    certificate = bounds.certificate(
        errors, np.full(501, 0.01), discount=0.9, reward_range=1.0, rollout_length=1, tail="worst"
    )
    shown = repr(certificate)
    assert shown.startswith(f"Certificate(value={certificate.value:.6g}, policy_part=")
    assert "per_step=array[501] in [0, " in shown
    assert len(shown) < 300
    instance = attaining_instance(0.1, 0.1, 30)
    process = instance.process
    assert isinstance(process, SparseProcess)
    assert f"successors=30 arrays, first array{list(process.successors[0].shape)} in [0, " in repr(process)
    profiles = error_profiles(process, instance.model, instance.data_policy, instance.policy)
    assert "model_error=array[30] in [" in repr(profiles)
    assert max(len(repr(each)) for each in (instance, process, profiles)) < 800


@pytest.mark.parametrize("bound", bounds.ALL_BOUNDS, ids=lambda bound: bound.name)
def test_a_bound_shows_its_name_formula_and_source(bound: bounds.Bound) -> None:
    shown = repr(bound)
    assert shown.startswith(f"<Bound {bound.name}: {bound.expression} ")
    assert bound.source in shown
    assert len(shown) < 420
