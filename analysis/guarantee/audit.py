"""A trained run audited: fresh episodes of its policies, estimates, verdicts, and the guarantee that they make."""

from __future__ import annotations

import dataclasses
import sys
from typing import Any

from tqdm import tqdm

from analysis.flags.check import CheckConfig
from analysis.guarantee.estimates import STATEMENTS, measure, return_interval
from analysis.guarantee.guarantee import Audit, Guarantee, Uncertifiable
from analysis.guarantee.returns_alone import ReturnsAlone
from analysis.guarantee.subject import Subject
from analysis.guarantee.surrogates import surrogates
from analysis.guarantee.verdicts import Verdicts, verdicts_of
from m3po.episodes import Trajectories
from m3po.runs.run_directory import RunDirectory
from m3po.runs.terminal import shown
from m3po.seeds import Purpose, environment_seeds, torch_generator


def audit(config: CheckConfig) -> Guarantee | Uncertifiable:
    """Fresh episodes of a run's policies, what they say about its model, and what that guarantees.

    Raises:
        ValueError: when the run directory or its checkpoint cannot be read.
    """
    subject = Subject.restored(config.run_dir, trust_env=config.trust_env)
    subject = dataclasses.replace(subject, rollout_length=config.rollout_length)
    shared = 1 - (1 - config.confidence) / config.candidates
    seeds = environment_seeds(Purpose.GUARANTEE, config.seed, count=2)
    generator = torch_generator(Purpose.GUARANTEE, config.seed)
    own, certifiable = subject.on_own_data(), subject.dynamics is not None
    judged = (own, subject) if certifiable else (own,)  # surrogates speak of the policy on its own data
    quiet = config.as_json and not sys.stderr.isatty()
    with tqdm(total=2 * len(judged), desc="measuring", file=sys.stderr, disable=quiet) as progress:
        episodes: list[Trajectories] = []
        for each, seed in zip(judged, seeds, strict=False):
            episodes.append(each.episodes(config.episodes, seed=seed, generator=generator))
            progress.update()
        looked_at = Audit(
            run_dir=str(shown(config.run_dir)),
            env_id=subject.env_id,
            steps=subject.steps,
            complete=RunDirectory.read(config.run_dir).complete,
            rollout_length=subject.rollout_length,
            episodes=config.episodes,
            confidence=config.confidence,
            candidates=config.candidates,
            seed=config.seed,
            returns=subject.returns,
            alone=ReturnsAlone.of(own, episodes[0], shared),
        )
        if not certifiable:
            found = surrogates(own, episodes[0], generator, shared)
            progress.update()
            return Uncertifiable(**vars(looked_at), reason=subject.why_no_density, surrogates=found)
        returns = episodes[0].returns(subject.discount)
        true_return = return_interval(returns, subject.returns, 1 - (1 - shared) / STATEMENTS)
        verdicts: list[Verdicts] = []
        for each, trajectories in zip(judged, episodes, strict=True):
            verdicts.append(verdicts_of(each, measure(each, trajectories, shared, generator), true_return))
            progress.update()
    return Guarantee(**vars(looked_at), true_return=true_return, own=verdicts[0], previous=verdicts[1])


def check(config: CheckConfig) -> dict[str, Any]:
    """Everything that ``audit`` finds, JSON-ready.

    Raises:
        ValueError: as ``audit``.
    """
    return audit(config).record()
