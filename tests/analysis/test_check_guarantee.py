"""The verdicts, the numbers behind them, a planted violation, and the command's manners."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest

import analysis.report.__main__
import bounds
from analysis import check_guarantee
from analysis.diagnostics.intervals import Ends
from analysis.guarantee import estimates
from analysis.guarantee.audit import CheckConfig, audit, check
from analysis.guarantee.guarantee import Guarantee
from analysis.guarantee.subject import Subject
from analysis.guarantee.verdicts import gap_of, verdict_on
from bounds.confidence import Interval
from m3po.agents.m3po import M3PO
from m3po.agents.training import training_of
from m3po.networks.model import EnsembleModel
from m3po.runs.run_directory import RunDirectory
from m3po.train import start, train
from tests.analysis.conftest import tiny_config
from tests.command_errors import refusal

GAP = Ends(estimate=-1.0, lower=-1.5, upper=-0.5)


@pytest.mark.parametrize(
    ("discrepancy", "verdict"),
    [(1.6, "holds"), (1.0, "surrogate"), (0.4, "violated"), (1.5, "holds"), (0.5, "surrogate")],
)
def test_a_verdict_needs_the_whole_interval_on_one_side(discrepancy, verdict):
    assert verdict_on(GAP, discrepancy, two_sided=False, certified=None)[0] == verdict


def test_only_two_sided_theorems_are_violated_from_above():
    above = Ends(estimate=3.0, lower=2.0, upper=4.0)
    assert verdict_on(above, 1.0, two_sided=False, certified=None)[0] == "holds"
    assert verdict_on(above, 1.0, two_sided=True, certified=None)[0] == "violated"
    assert verdict_on(above, 3.0, two_sided=True, certified=None)[0] == "surrogate"


def test_an_input_that_is_not_certified_never_holds_and_never_violates():
    for discrepancy in (0.1, 100.0):
        assert verdict_on(GAP, discrepancy, two_sided=True, certified="because") == ("surrogate", "because")


def test_the_gap_is_signed_and_its_ends_are_the_safe_ones():
    gap = gap_of(Interval(5.0, 4.0, 6.5, 0.95, 10), Interval(3.0, 2.0, 3.25, 0.95, 10))
    assert gap == Ends(estimate=2.0, lower=0.75, upper=4.5)


@pytest.fixture(scope="module")
def report(tiny_run: Path):
    return check(CheckConfig(run_dir=tiny_run, episodes=60))


def row(report, policy, name, scheme):
    rows = report["data_policies"][policy]["checks"]
    return next(each for each in rows if each["name"] == name and each["scheme"] == scheme)


def test_the_discrepancies_are_the_catalogue_at_the_measured_errors(report):
    part = report["data_policies"]["current"]
    found = row(report, "current", "m3po-th2", "branched")["discrepancy"]
    expected = bounds.get("m3po-th2").evaluate(
        discount=report["gamma"], model_error=part["eps_m"]["upper"], rollout_length=report["k"], reward_max=1.0
    )
    assert found == pytest.approx(float(expected), rel=1e-12)
    # R = 1.1 and gamma = .95, eps_pi = 0, k = 1: R sum_t gamma^t eps_m
    assert row(report, "current", "optimal-branched", "branched")["discrepancy"] == pytest.approx(
        1.1 * 19 * part["eps_m"]["upper"], rel=1e-9
    )


def test_the_certificate_is_theorem_4_at_the_upper_profiles(report):
    for policy, part in report["data_policies"].items():
        upper = {name: np.array(values["upper"]) for name, values in part["profiles"].items()}
        discount, value = report["gamma"], 0.0
        for t in range(report["horizon"]):
            lost = sum(upper["policy_divergence"][: t + 1]) + (upper["model_error"][t - 1] if t else 0.0)
            value += discount**t * (upper["reward_error"][t] + 1.1 * min(1.0, lost))
        summed = report["data_policies"][policy]["summed_errors"]["branched"]
        assert row(report, policy, "certificate", "branched")["discrepancy"] == pytest.approx(
            min(value, summed), rel=1e-10
        )


def test_profiles_are_upper_ends_and_the_own_data_has_no_divergence(report):
    for part in report["data_policies"].values():
        for values in part["profiles"].values():
            assert (np.array(values["upper"]) >= np.array(values["estimate"])).all()
    current = report["data_policies"]["current"]
    assert max(current["profiles"]["policy_divergence"]["upper"]) == 0.0
    assert current["eps_pi_sample_max"] == 0.0
    assert report["data_policies"]["previous"]["eps_pi_sample_max"] > 0.0


def test_bounds_on_the_supremum_get_no_verdict_from_stale_data(report):
    for each in report["data_policies"]["previous"]["checks"]:
        if each["name"] != "certificate":
            assert each["verdict"] == "surrogate"
    assert {each["verdict"] for each in report["data_policies"]["current"]["checks"]} == {"holds"}


def test_k_1_averaged_and_exact_are_one_return(report):
    part = report["data_policies"]["current"]["model_returns"]
    for end in ("estimate", "lower", "upper"):
        assert part["branched"][end] == pytest.approx(part["branched-exact"][end], abs=0.5)


@pytest.mark.usefixtures("boasting_model")
def test_a_broken_model_return_is_flagged(tiny_run: Path):
    report = check(CheckConfig(run_dir=tiny_run, episodes=300))
    assert report["verdict"] == "violated"
    assert row(report, "current", "m3po-th2", "branched")["verdict"] == "violated"
    assert check_guarantee.main(CheckConfig(run_dir=tiny_run, episodes=300, figure=tiny_run.parent / "x.png")) == 1


def test_a_run_with_a_time_limit_of_its_own_is_checked_over_that_many_steps(tmp_path: Path):
    config = dataclasses.replace(
        tiny_config(tmp_path / "run"), env_options='{"max_episode_steps": 20}', total_steps=60, initial_random_steps=40,
        epoch_steps=20, model_updates=20,
    )  # fmt: skip
    train(config)
    report = check(CheckConfig(run_dir=tmp_path / "run", episodes=20))
    assert report["horizon"] == 20
    assert len(report["data_policies"]["current"]["profiles"]["model_error"]["estimate"]) == 20


def test_a_model_with_a_wrong_density_has_error_one_and_guarantees_nothing(tiny_run: Path, monkeypatch):
    shifted = EnsembleModel.observation_log_density

    def far_off(self, features, observation, action, next_observation):
        return shifted(self, features, observation, action, next_observation + 100.0)

    monkeypatch.setattr(EnsembleModel, "observation_log_density", far_off)
    found = audit(CheckConfig(run_dir=tiny_run, episodes=30))
    assert isinstance(found, Guarantee)
    assert found.own.estimates.largest_model_error.estimate == pytest.approx(1.0)
    assert next(each for each in found.own.bounds if each.name == "m3po-th2").vacuous
    assert "holds, vacuously" in check_guarantee.text(found)
    assert found.at_least is None
    assert "nothing is guaranteed" in found.conclusion()


def test_what_any_model_satisfies_is_called_vacuous(tiny_run: Path, monkeypatch):
    """At model error 1 the optimal full-model bound is gamma R/(1-gamma): true of every model, so vacuous."""
    monkeypatch.setattr(estimates, "model_error_samples", lambda p, q, valid: np.ones(valid.shape))
    report = check(CheckConfig(run_dir=tiny_run, episodes=20))
    assert report["trivial"] == pytest.approx(1.1 * sum(0.95**t for t in range(100)))
    for name, scheme in (("optimal-full", "full"), ("optimal-branched", "branched"), ("certificate", "branched")):
        assert row(report, "current", name, scheme)["vacuous"]


def test_same_seed_same_report(tiny_run: Path):
    one, two = (check(CheckConfig(run_dir=tiny_run, episodes=5, seed=3)) for _ in range(2))
    assert one == two


def test_json_on_stdout_and_figure_beside_the_run(tiny_run: Path, tmp_path: Path, capsys):
    figure = tmp_path / "guarantee.png"
    with pytest.raises(SystemExit) as stop:
        check_guarantee.cli([str(tiny_run), "--episodes", "20", "--json", "--figure", str(figure)])
    assert stop.value.code == 0
    report = json.loads(capsys.readouterr().out)
    assert report["verdict"] in ("holds", "violated", "surrogate")
    assert math.isfinite(report["true_return"]["estimate"])
    assert figure.read_bytes().startswith(b"\x89PNG")


def test_bad_input_exits_2_and_names_it(tiny_run: Path, tmp_path: Path, capsys):
    assert "nowhere" in refusal(check_guarantee.cli, [str(tmp_path / "nowhere")], capsys)
    assert "config.json" in refusal(check_guarantee.cli, [str(tmp_path)], capsys)
    assert "--episodes" in refusal(check_guarantee.cli, [str(tiny_run), "--episodes", "1"], capsys)
    refused = refusal(check_guarantee.cli, [tiny_run, "--rollout-length", "0"], capsys)
    assert "--rollout-length must be >= 1, got 0" in refused
    assert "1.5" in refusal(check_guarantee.cli, [str(tiny_run), "--confidence", "1.5"], capsys)
    assert "no/such" in refusal(check_guarantee.cli, [str(tiny_run), "--figure", "no/such/x.png"], capsys)
    broken = tmp_path / "broken"
    shutil.copytree(tiny_run, broken)
    data = bytearray((broken / "checkpoint.pt").read_bytes())
    data[len(data) // 2] ^= 0xFF
    (broken / "checkpoint.pt").write_bytes(data)
    assert "checkpoint.pt" in refusal(check_guarantee.cli, [str(broken)], capsys)
    (broken / "checkpoint.pt").unlink()
    assert "checkpoint.pt" in refusal(check_guarantee.cli, [str(broken)], capsys)


@pytest.mark.parametrize("total_steps", [0, 120])
def test_a_run_whose_model_was_never_fitted_is_refused(total_steps: int, tiny_run: Path, tmp_path: Path, capsys):
    """Right after the untrained evaluation, and among the random steps, as a stop leaves them."""
    path = tmp_path / "run"
    untrained = start(training_of(tiny_config(path)), run := RunDirectory.create(tiny_config(path)))
    while untrained.steps < total_steps:
        untrained.advance()
    run.save_checkpoint(untrained.state())
    run.release()
    expected = f"{path} has no model yet: at step {total_steps}, and the model is first fitted after"
    assert expected in refusal(check_guarantee.cli, [str(path)], capsys)
    with pytest.raises(SystemExit) as stop:
        analysis.report.__main__.cli([str(path)])
    assert stop.value.code == 2
    assert expected in capsys.readouterr().err
    assert not (path / "report.html").exists()


def test_the_model_is_fitted_when_the_first_epoch_begins(tmp_path: Path):
    training = M3PO(dataclasses.replace(tiny_config(tmp_path / "run"), initial_random_steps=20))
    for _ in range(20):
        training.advance()
        assert not training.fitted
    training.advance()
    assert training.fitted


def test_another_rollout_length_may_be_certified_than_the_run_was_trained_with(tiny_run, report):
    """Same episodes, so the same errors and the same true return; longer branches lose more and are other returns."""
    longer = check(CheckConfig(run_dir=tiny_run, episodes=report["episodes"], rollout_length=3, figure=None))
    assert (report["k"], longer["k"]) == (1, 3)
    subject = Subject.restored(tiny_run)
    of_long_rollouts = dataclasses.replace(subject, rollout_length=5)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Subject, "restored", lambda *args, **kwargs: of_long_rollouts)
        assert check(CheckConfig(run_dir=tiny_run, episodes=5))["k"] == 1
    assert longer["true_return"] == report["true_return"]
    part, other = longer["data_policies"]["current"], report["data_policies"]["current"]
    assert part["eps_m"] == other["eps_m"]
    assert part["model_returns"]["branched"] != other["model_returns"]["branched"]
    assert (
        row(longer, "current", "certificate", "branched")["discrepancy"]
        > (row(report, "current", "certificate", "branched")["discrepancy"])
    )
    expected = bounds.get("m3po-th2").evaluate(
        discount=longer["gamma"], model_error=part["eps_m"]["upper"], rollout_length=3, reward_max=1.0
    )
    assert row(longer, "current", "m3po-th2", "branched")["discrepancy"] == pytest.approx(float(expected), rel=1e-12)
