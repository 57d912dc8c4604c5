"""The training of the algorithm that a configuration names, new or as a run left it."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TypeVar, overload

from m3po.agents.grbal import Grbal
from m3po.agents.loop import TrainingLoop
from m3po.agents.m3po import M3PO
from m3po.agents.pearl import Pearl
from m3po.config import Config
from m3po.foreign.origin import check_environment, nothing_from_here
from m3po.runs.run_directory import RunDirectory


def training_of(config: Config) -> TrainingLoop:
    """The training of the algorithm that ``config`` names."""
    kinds: tuple[type[TrainingLoop], ...] = (M3PO, Pearl, Grbal)
    return next(kind for kind in kinds if config.algorithm in kind.algorithms)(config)


Kind = TypeVar("Kind", bound=TrainingLoop)


@overload
def restored(directory: RunDirectory, *, trust_env: bool = False) -> TrainingLoop: ...


@overload
def restored(directory: RunDirectory, kind: type[Kind], *, trust_env: bool = False) -> Kind: ...


def restored(
    directory: RunDirectory, kind: type[TrainingLoop] | None = None, *, trust_env: bool = False
) -> TrainingLoop:
    """The training of a run as its last checkpoint has it, on the CPU, to look at.

    Args:
        directory: of the run, wherever it comes from.
        kind: the class that the run must be of; the one that its algorithm is of when None.
        trust_env: build its environment even if that imports a module or reads files that the run names.

    Raises:
        ValueError: when the run is of another kind, its environment asks for trust, or its checkpoint cannot be read.
    """
    config = directory.config.on_cpu()
    if trust_env:
        guard: AbstractContextManager[None] = nullcontext()
    else:
        check_environment(config.env_id, config.environment_options())
        guard = nothing_from_here()
    state = directory.load_checkpoint()
    with guard:
        training = training_of(config) if kind is None else kind(config)
    try:
        training.load_state(state)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(f"the checkpoint in {directory.path} does not fit its config.json: {reason}") from error
    return training
