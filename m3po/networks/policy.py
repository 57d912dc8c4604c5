"""The meta-policy pi_phi(a_t | h_{L:t}): a tanh-squashed diagonal Gaussian on the encoded history."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, Self, TypeVar

import torch
from torch import Tensor, nn

from m3po.data.draws import Generators, normal
from m3po.data.types import Windows
from m3po.networks.context_encoder import ContextEncoder
from m3po.networks.run_axis import own_copy, stacked
from m3po.networks.squashed_sample import LOG_STD_CENTRE, LOG_STD_RADIUS, SquashedSample
from m3po.networks.stacked import StackedMLP
from m3po.networks.units import HiddenUnits


class GaussianPolicy(nn.Module):
    """features -> mean and log standard deviation of the Gaussian before tanh."""

    def __init__(
        self, feature_size: int, action_size: int, width: int, layers: int, *, units: HiddenUnits = "gated"
    ) -> None:
        super().__init__()
        self.network = StackedMLP(1, feature_size, width, layers, 2 * action_size, units=units)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """[N, F] -> mean [N, A], log_std [N, A] in [-5, 1]."""
        mean, raw = self.network(features).squeeze(-3).chunk(2, dim=-1)
        return mean, LOG_STD_CENTRE + LOG_STD_RADIUS * torch.tanh(raw)

    def sample(self, features: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Reparametrised actions and their log densities, ``SquashedSample``. [N, F], [N, A] -> [N, A], [N]."""
        return SquashedSample.apply(self.network(features).squeeze(-3), noise)


def gaussian_log_density(value: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """log N(u; mean, diag std^2), summed over the last axis, in nats. Shapes [..., A] -> [...]."""
    standardised = (value - mean) * torch.exp(-log_std)
    return (-0.5 * standardised**2 - log_std - 0.5 * math.log(2 * math.pi)).sum(dim=-1)


def draw_action(
    mean: Tensor, log_std: Tensor, generator: Generators, *, deterministic: bool = False
) -> tuple[Tensor, Tensor]:
    """a = tanh(u), u ~ N(mean, diag std^2), or u = mean: a in (-1, 1) and u, both [N, A]."""
    noise = normal(mean.shape, generator, mean.device)
    raw = mean if deterministic else mean + torch.exp(log_std) * noise
    return torch.tanh(raw), raw


class Policy(Protocol):
    """What acts on truncated histories."""

    @property
    def history_length(self) -> int:
        """L of the windows that it reads."""
        ...

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        ...

    def act(
        self, windows: Windows, generator: torch.Generator, *, deterministic: bool = False
    ) -> tuple[Tensor, Tensor]:
        """N windows -> action [N, A] in [-1, 1] and the same before its squashing [N, A]."""
        ...


class PoliciesOfRuns(Protocol):
    """Policies of R runs, acting as one."""

    def act(
        self, windows: Windows, generators: Sequence[torch.Generator], /, *, deterministic: bool = False
    ) -> tuple[Tensor, Tensor]:
        """[R, N] windows -> actions [R, N, A] in [-1, 1] and the same before their squashing."""
        ...


class HistoryEncoder(Protocol):
    """What turns histories into the features that a policy's network reads."""

    history_length: int


Encoder = TypeVar("Encoder", bound=HistoryEncoder)


@dataclass(frozen=True)
class EncodedPolicy(ABC, Generic[Encoder]):
    """pi(a | features of h_{L:t}): an encoder of histories, and a network on its features."""

    encoder: Encoder
    network: GaussianPolicy

    @property
    def history_length(self) -> int:
        return self.encoder.history_length

    @property
    def device(self) -> torch.device:
        return next(self.network.parameters()).device

    @classmethod
    def of_runs(cls, policies: Sequence[Self]) -> Self:
        """Copies of the policies of several runs as one, which acts on [R, N] windows."""
        encoders: Any = stacked([own_copy(each.encoder) for each in policies])  # type: ignore[type-var]
        return cls(encoders, stacked([own_copy(each.network) for each in policies]))

    @abstractmethod
    def features(self, windows: Windows, generator: Generators, *, deterministic: bool) -> Tensor:
        """N windows -> [N, F]; those that are random are drawn, unless ``deterministic``."""

    @torch.no_grad()
    def act(self, windows: Windows, generator: Generators, *, deterministic: bool = False) -> tuple[Tensor, Tensor]:
        """N windows -> action [N, A] in (-1, 1) and the same before tanh [N, A]; ``deterministic`` takes the mean."""
        mean, log_std = self.network(self.features(windows, generator, deterministic=deterministic))
        return draw_action(mean, log_std, generator, deterministic=deterministic)


@dataclass(frozen=True)
class HistoryPolicy(EncodedPolicy[ContextEncoder]):
    """M3PO's policy: its features are a function of the history, so that it has a density given the history."""

    def snapshot(self) -> HistoryPolicy:
        """A copy that later training leaves alone."""
        return HistoryPolicy(own_copy(self.encoder), own_copy(self.network))

    def state_dict(self) -> dict[str, dict[str, Tensor]]:
        """What a checkpoint stores."""
        return {"encoder": self.encoder.state_dict(), "network": self.network.state_dict()}

    def load_state_dict(self, state: dict[str, dict[str, Tensor]]) -> None:
        """Inverse of ``state_dict``."""
        self.encoder.load_state_dict(state["encoder"])
        self.network.load_state_dict(state["network"])

    @torch.no_grad()
    def distribution(self, windows: Windows) -> tuple[Tensor, Tensor]:
        """N windows -> mean [N, A] and log_std [N, A] of the Gaussian before tanh."""
        return self.network(self.encoder(windows))

    def features(self, windows: Windows, generator: Generators, *, deterministic: bool) -> Tensor:
        return self.encoder(windows)
