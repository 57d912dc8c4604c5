"""The adversary: it finds planted faults, leaves true bounds standing, and reports what the exact engine says."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import bounds
from analysis.search_counterexample import cli
from analysis.theory.adversary import ProcessFamily, ascend, effective_horizon, search
from analysis.theory.attack import SearchConfig
from analysis.theory.overlap_adversary import log_discrepancy
from analysis.theory.targets import BoundTarget, CertificateTarget, OverlapTarget
from bounds.bound import Bound
from bounds.finite import load_instance
from bounds.finite.checks import bound_ratio, measure

SMALL: dict[str, Any] = {"restarts": 3, "steps": 60, "seed": 0}


def halved(name: str) -> Bound:
    bound = bounds.get(name)
    return replace(bound, formula=lambda x: 0.5 * bound.formula(x))


@pytest.mark.parametrize("k", [1, 2])
def test_without_its_factor_2_mbpo_4_2_is_refuted(k):
    broken, whole = BoundTarget(halved("mbpo-4.2"), 0.8, k), BoundTarget(bounds.get("mbpo-4.2"), 0.8, k)
    best = search(broken, **SMALL)[0]
    assert best.ratio > 1.4
    assert whole.ratio(best.instance) == pytest.approx(0.5 * best.ratio)


def test_the_ascent_alone_refutes_it_too():
    found = search(BoundTarget(halved("mbpo-4.2"), 0.8, 1), handmade=False, **SMALL)
    assert {candidate.origin for candidate in found} == {"gradient ascent"}
    assert found[0].ratio > 1.2


def test_the_ascent_alone_refutes_a_certificate_that_forgets_the_policy():
    def forgetful(m: Any, d: Any, **keywords: Any) -> bounds.Certificate:
        return bounds.certificate(m, 0.0 * np.asarray(d), **keywords)

    found = search(CertificateTarget(0.8, 2, evaluate=forgetful), handmade=False, horizon=5, **SMALL)
    assert found[0].ratio > 1.2


@pytest.mark.parametrize("name", [bound.name for bound in bounds.ALL_BOUNDS])
def test_true_bounds_stand_and_the_tight_ones_are_nearly_reached(name):
    ratio = search(BoundTarget(bounds.get(name), 0.6, 2), restarts=2, steps=20, seed=1)[0].ratio
    assert ratio <= 1.0 + 1e-9
    # At k = 2 these round sum_t discount^t min(t, 2) = discount (1 + discount)/(1 - discount) up to 2/(1 - discount).
    assert ratio >= {"mbpo-4.2": 0.4799, "mbpo-4.3": 0.4799}.get(name, 0.99)


@pytest.mark.parametrize("rollout", ["averaged", "full"])
def test_the_certificate_stands_and_is_reached(rollout):
    candidates = search(CertificateTarget(0.9, 3, rollout), restarts=2, steps=100, horizon=6, seed=0)
    assert candidates[0].ratio == pytest.approx(1.0, abs=1e-9)
    ascended = max(c.ratio for c in candidates if c.origin == "gradient ascent")
    assert 0.97 <= ascended <= 1.0 + 1e-9


@pytest.mark.parametrize("rollout", ["averaged", "full", "exact"])
def test_theorem_5_stands_and_is_reached(rollout):
    candidates = search(OverlapTarget(0.9, 2, rollout), restarts=2, steps=60, states=3, actions=2, seed=0)
    assert candidates[0].ratio == pytest.approx(1.0, abs=1e-9)
    ascended = max(c.ratio for c in candidates if c.origin == "gradient ascent")
    assert 0.97 <= ascended <= 1.0 + 1e-9


def test_the_ascent_alone_refutes_an_overlap_too_small_by_a_fifth():
    def scaled(*arguments: Any, **keywords: Any) -> bounds.OverlapLosses:
        true = bounds.overlap_losses(*arguments, **keywords)
        return replace(true, values=0.8 * true.values)

    target = OverlapTarget(0.9, 2, evaluate=scaled)
    found = search(target, handmade=False, restarts=2, steps=60, states=3, actions=2, seed=0)
    assert found[0].ratio > 1.2


@pytest.mark.parametrize("form", ["uncapped", "overlap"])
@pytest.mark.parametrize("rollout", ["averaged", "full", "exact"])
def test_torch_and_the_exact_engine_see_the_same_overlap(rollout, form):
    target = OverlapTarget(0.9, 2, rollout, form)
    family = ProcessFamily(2, 3, 3, 2, torch.Generator().manual_seed(4))
    values = log_discrepancy(target, family.distributions()).exp().detach()
    for index in range(2):
        instance = family.instance(index, target)
        exact = target.value(instance, measure(instance, 0.9, 2))
        assert float(values[index]) == pytest.approx(exact / instance.reward_range, rel=1e-10)


@pytest.mark.parametrize("name", ["m3po-th1", "m3po-th2", "mbpo-4.2", "mbpo-4.3"])
def test_torch_and_the_exact_engine_see_the_same_gap_and_errors(name):
    target = BoundTarget(bounds.get(name), 0.9, 3)
    family = ProcessFamily(2, 6, 3, 2, torch.Generator().manual_seed(4))
    laws = family.laws(target)
    for index in range(2):
        instance = family.instance(index, target)
        measured = measure(instance, 0.9, 3)
        profiles = measured.current_policy_profiles if name == "mbpo-4.3" else measured.profiles
        assert abs(measured.gaps[target.rollout]) / 2.0 == pytest.approx(float(laws.gap[index].detach()), rel=1e-10)
        np.testing.assert_allclose(laws.model_errors[index].detach(), profiles.model_error, rtol=1e-10)
        np.testing.assert_allclose(
            laws.divergences[index].detach(), measured.profiles.policy_divergence, rtol=1e-10, atol=1e-15
        )
        largest = float(laws.row_divergences[index].detach().max())
        assert largest == pytest.approx(measured.profiles.policy_divergence_sup, rel=1e-10)


def test_the_ascent_climbs_and_is_reproducible():
    target = BoundTarget(bounds.get("optimal-branched"), 0.8, 2)
    sizes: dict[str, Any] = {"restarts": 2, "horizon": 8, "states": 3, "actions": 2, "seed": 3}
    ratios = [ascend(target, steps=steps, **sizes)[0].ratio for steps in (1, 80, 80)]
    assert ratios[1] > ratios[0] + 0.2
    assert ratios[1] == ratios[2]


def test_long_discounts_get_long_episodes():
    def horizon(discount: float) -> int:
        return effective_horizon(BoundTarget(bounds.get("m3po-th1"), discount, 1), 60)

    assert horizon(0.0) == 1
    assert horizon(0.5) == 7
    assert horizon(0.9) == 44
    assert horizon(0.999) == 60


def run_cli(capsys, *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stop:
        cli(list(arguments))
    captured = capsys.readouterr()
    assert isinstance(stop.value.code, int)
    return stop.value.code, captured.out, captured.err


FAST = ("--restarts", "2", "--steps", "5", "--gamma", "0.5")


def test_json_and_the_saved_instance_agree(capsys, tmp_path):
    path = tmp_path / "hard.npz"
    code, out, err = run_cli(capsys, "--bound", "m3po-th2", "--k", "2", "--json", "--out", str(path), *FAST)
    facts = json.loads(out)
    assert code == 0
    assert facts["refuted"] is False
    assert facts["saved"] == str(path)
    assert facts["return_gap"] < 0.0
    assert facts["best_ratio"] == pytest.approx(abs(facts["return_gap"]) / facts["discrepancy"])
    assert facts["visible_share"] == pytest.approx(1.0 - 0.5 ** facts["horizon"])
    assert "attacking m3po-th2" in err
    loaded = measure(load_instance(path), 0.5, 2)
    assert bound_ratio(bounds.get("m3po-th2"), loaded) == pytest.approx(facts["best_ratio"], rel=1e-12)


def test_without_a_future_there_is_nothing_to_find(capsys):
    code, out, _ = run_cli(
        capsys, "--bound", "linear-full", "--gamma", "0", "--restarts", "1", "--steps", "2", "--json"
    )
    facts = json.loads(out)
    assert code == 0
    assert (facts["best_ratio"], facts["discrepancy"], facts["return_gap"]) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize(
    "name", ["certificate", "certificate-full", "overlap", "overlap-full", "overlap-exact", "optimal-full"]
)
def test_the_text_report_names_the_verdict(capsys, name):
    code, out, _ = run_cli(capsys, "--bound", name, *FAST)
    assert code == 0
    assert "Not refuted" in out
    assert f"{name} at gamma 0.5, k 1" in out


def test_a_refuted_bound_exits_1_and_saves_its_counterexample(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("analysis.theory.attack.get", halved)
    code, out, _ = run_cli(capsys, "--bound", "m3po-th2", *FAST)
    assert code == 1
    assert "REFUTED" in out
    loaded = measure(load_instance(tmp_path / "counterexample-m3po-th2.npz"), 0.5, 1)
    assert bound_ratio(halved("m3po-th2"), loaded) > 1.9


@pytest.mark.parametrize(
    ("arguments", "value"),
    [
        (("--bound", "foo", "--gamma", "0.9"), "'foo'"),
        (("--bound", "m3po-th2", "--gamma", "1.5"), "1.5"),
        (("--bound", "m3po-th2", "--gamma", "0.9", "--k", "0"), "0"),
        (("--bound", "m3po-th2", "--gamma", "0.9", "--k", "one"), "one"),
        (("--bound", "m3po-th2", "--gamma", "0.9", "--restarts", "0"), "--restarts must be >= 1, got 0"),
        (
            ("--bound", "overlap", "--gamma", "0.9", "--horizon", "6"),
            "--states 4, --actions 3 and --horizon 6 must leave at most 1000000 trajectories to enumerate for --bound "
            "overlap, got 12^7",
        ),
        (("--bound", "m3po-th2", "--gamma", "0.9", "--horizon", "-3"), "-3"),
        (("--bound", "m3po-th2", "--gamma", "0.9", "--out", "missing_folder/x.npz"), "missing_folder"),
    ],
)
def test_bad_flags_exit_2_with_one_line(capsys, arguments, value):
    code, out, err = run_cli(capsys, *arguments)
    assert code == 2
    assert out == ""
    assert err.count("\n") == 1
    assert value in err


def test_the_configuration_is_checked_without_a_command_line():
    with pytest.raises(ValueError, match=r"--gamma must be in \[0, 1\), got 1.0"):
        SearchConfig(bound="m3po-th1", discount=1.0)


def test_who_names_an_unknown_bound_is_told_the_known_ones_and_where_to_attack_an_own(capsys):
    code, _, err = run_cli(capsys, "--bound", "mine", "--gamma", "0.9")
    assert code == 2
    assert "optimal-branched" in err
    assert "got 'mine'" in err
    page = err.split()[-1]
    assert "BoundTarget(" in (Path(__file__).parents[2] / page).read_text()
