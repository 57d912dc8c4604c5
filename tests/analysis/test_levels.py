"""The error probabilities that are handed to the intervals add up to the one that is promised.

A deleted union bound leaves every certificate plausible, so the levels themselves are asserted; and copies of the code
with one deleted are seen by these assertions.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analysis.guarantee import audit, candidates, certification, estimates, lower_bounds
from analysis.guarantee.audit import CheckConfig
from analysis.guarantee.evidence import Evidence
from analysis.guarantee.lacking import Lacking
from bounds import confidence, nonnegative_lower, off_policy, return_bounds

CONFIDENCE = 0.9


def mutant(module: types.ModuleType, before: str, after: str) -> types.ModuleType:
    """The module, made anew from its source with one piece changed."""
    assert module.__file__ is not None
    source = Path(module.__file__).read_text()
    assert source.count(before) >= 1, f"{module.__name__} has no {before!r}"
    changed = types.ModuleType(module.__name__ + " (changed)")
    changed.__dict__["__file__"] = module.__file__
    sys.modules[changed.__name__] = changed
    exec(compile(source.replace(before, after), module.__file__, "exec"), changed.__dict__)
    return changed


def spied(module: Any, monkeypatch: pytest.MonkeyPatch, *names: str) -> list[float]:
    """Records 1 - confidence of every call of an interval; ``simultaneous`` shares one among its entries."""
    risks: list[float] = []
    for name in names:
        true = getattr(module, name)

        def noted(*arguments: Any, true: Any = true, name: str = name, **keywords: Any) -> Any:
            place = {"betting": 1, "simultaneous": 2, "profile": 1}[name]
            risks.append(1 - arguments[place])
            if name == "simultaneous":  # which would otherwise call what is spied on
                arguments = (confidence.betting, *arguments[1:])
            return true(*arguments, **keywords)

        monkeypatch.setattr(module, name, noted)
    return risks


def evidence(paired: bool, critic: bool = False, own: bool = False) -> Evidence:
    rng = np.random.default_rng(0)
    shape = (60, 5)
    log_p = rng.normal(size=shape)
    critics: dict[str, Any] = {"critic": np.full(shape, 0.5), "critic_mean": np.full(shape, 0.4)} if critic else {}
    policies: dict[str, Any] = {} if own else {"log_data_policy": log_p, "log_policy": log_p - 0.1}
    return Evidence(
        log_density=log_p, log_model_density=log_p - 0.2, rewards=np.full(shape, 0.5),
        predicted_rewards=np.full(shape, 0.6), model_returns=rng.uniform(1, 2, 60 if paired else 59), reward_low=0.0,
        reward_high=1.0, discount=0.9, rollout_length=2, **policies, **critics,
    )  # fmt: skip


def certify_shares_its_risk(
    monkeypatch: pytest.MonkeyPatch, *, lower_bounds: Any = lower_bounds, certification: Any = certification,
    candidates: Any = candidates, return_bounds: Any = return_bounds,
) -> None:  # fmt: skip
    """Of rewards one bound, with a critic two; Theorem 5 one interval, or two where returns and episodes do not pair;
    Theorem 4 four, or three of the policy's own data."""
    for given, among, intervals in (
        (evidence(True), 1, 6), (evidence(False), 1, 7), (evidence(True, critic=True), 5, 7),
        (evidence(True, own=True), 1, 5), (evidence(False, critic=True, own=True), 3, 7),
    ):  # fmt: skip
        with monkeypatch.context() as patch:
            for module, names in (
                (candidates, ("losses_of", "lower_bound_by_overlap", "lower_bound_by_profiles")),
                (candidates, ("return_lower_bounds",)), (lower_bounds, ("model_lower_bound",)),
            ):  # fmt: skip
                for name in names:
                    source = return_bounds if hasattr(return_bounds, name) else lower_bounds
                    patch.setattr(module, name, getattr(source, name))
            patch.setattr(candidates, "Samples", lower_bounds.Samples)
            patch.setattr(certification, "candidates_of", candidates.candidates_of)
            patch.setattr(certification, "_lacking", lambda *_: Lacking("nothing"))
            risks = spied(lower_bounds, patch, "betting", "simultaneous")
            weighted = spied(return_bounds, patch, "betting")
            returns = off_policy_risks(patch)
            certification.certify(given, CONFIDENCE, among)
        spent = [*risks, *weighted, *returns]
        assert len(spent) == intervals
        assert sum(spent) == pytest.approx((1 - CONFIDENCE) / among)


def off_policy_risks(patch: pytest.MonkeyPatch) -> list[float]:
    """Records 1 - confidence of every bound of weighted returns."""
    risks: list[float] = []

    def noted(samples: Any, confidence: float) -> Any:
        risks.append(1 - confidence)
        return nonnegative_lower(samples, confidence)

    patch.setattr(off_policy, "nonnegative_lower", noted)
    return risks


def check_shares_its_risk(
    monkeypatch: pytest.MonkeyPatch, run: Path, *, estimates: Any = estimates, audit: Any = audit
) -> None:
    """All intervals of one data policy, with the true return, risk no more than 1 - confidence together."""
    for among in (1, 4):
        with monkeypatch.context() as patch:
            risks = spied(estimates, patch, "betting", "profile")
            for name in ("measure", "return_interval", "STATEMENTS"):
                patch.setattr(audit, name, getattr(estimates, name))
            audit.check(CheckConfig(run_dir=run, episodes=4, confidence=CONFIDENCE, candidates=among))
        # The true return, and of two data policies the returns, the summed errors and the profiles.
        true, rest = risks[0], risks[1:]
        assert len(rest) >= 2 * 7
        assert true + sum(rest) / 2 <= (1 - CONFIDENCE) / among * (1 + 1e-9)


def test_certify_shares_its_risk(monkeypatch: pytest.MonkeyPatch) -> None:
    certify_shares_its_risk(monkeypatch)


def test_check_guarantee_shares_its_risk(monkeypatch: pytest.MonkeyPatch, tiny_run: Path) -> None:
    check_shares_its_risk(monkeypatch, tiny_run)


MUTATIONS: list[tuple[types.ModuleType, str, str]] = [
    (return_bounds, "half = 1 - (1 - confidence) / 2", "half = confidence"),
    (return_bounds, "(1 if critic is None else 2)", "1"),
    (candidates, "risk = (1 - confidence) / len(tried)", "risk = 1 - confidence"),
    (candidates, "confidence=1 - risk * len(paid)", "confidence=1 - risk * len(tried)"),
    (lower_bounds, "each = 1 - (1 - confidence) / measured", "each = confidence"),
    (certification, "shared = 1 - (1 - confidence) / candidates", "shared = confidence"),
    (estimates, "STATEMENTS = 6 + 2 * len(SCHEMES)", "STATEMENTS = 2"),
    (audit, "shared = 1 - (1 - config.confidence) / config.candidates", "shared = config.confidence"),
]


@pytest.mark.parametrize(("module", "before", "after"), MUTATIONS, ids=lambda each: str(each)[-50:])
def test_a_deleted_union_bound_is_seen(
    module: types.ModuleType, before: str, after: str, monkeypatch: pytest.MonkeyPatch, tiny_run: Path
) -> None:
    changed = {module.__name__.rpartition(".")[2]: mutant(module, before, after)}
    of_run = module in (estimates, audit)
    check: Callable[..., None] = partial(check_shares_its_risk, run=tiny_run) if of_run else certify_shares_its_risk
    with pytest.raises(AssertionError):
        check(monkeypatch, **changed)
