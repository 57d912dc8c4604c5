"""Updates of R runs at once: what one run costs where others train beside it."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import torch
from tqdm import tqdm

from analysis.speed.contenders import BenchmarkConfig, Parts, model_settings
from analysis.speed.rates import rates, synchronised
from m3po.agents.model_training import Fit, gradient_step
from m3po.agents.sac import SoftActorCritic
from m3po.data.replay_buffer import EnvironmentBuffers
from m3po.data.types import side_by_side
from m3po.networks.run_axis import stacked


def measure_runs(config: BenchmarkConfig, parts: Parts, device: torch.device, progress: tqdm[Any]) -> dict[str, Any]:
    """Run-updates per second against R: of the agent on stored encodings, and gradient steps of the model."""
    agents, models = {}, {}
    settings = model_settings(config)
    for runs in config.runs:
        generators = [torch.Generator(device).manual_seed(run) for run in range(runs)]
        agent = SoftActorCritic.of_runs([copy.deepcopy(parts.stored.agent) for _ in range(runs)])
        batch = side_by_side([parts.transitions] * runs)
        agents[str(runs)] = synchronised(partial(agent.update, batch, generators), device)

        each = [copy.deepcopy(parts.model) for _ in range(runs)]
        buffers = [copy.copy(parts.buffer) for _ in range(runs)]
        fits = [
            Fit.begun(model, torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True), buffer, generator)
            for model, buffer, generator in zip(each, buffers, generators, strict=True)
        ]
        step = partial(
            gradient_step, stacked(each), EnvironmentBuffers(buffers), fits, range(runs), settings, generators
        )
        models[str(runs)] = synchronised(step, device)
    found = {}
    for name, contenders in (("agent", agents), ("model", models)):
        calls = rates(contenders, config.seconds / 5, progress)
        found[name] = {runs: int(runs) * rate for runs, rate in calls.items()}
    return {"run_updates_per_second": found}
