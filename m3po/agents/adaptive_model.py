"""The dynamics model of L2A (GrBAL, Nagabandi et al. 2019): one gradient step on the recent past adapts it.

In front of the shapes given here may stand the run axis; a scalar is then one of every run.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn

from m3po.networks.context_encoder import Normaliser
from m3po.networks.run_axis import aligned
from m3po.networks.stacked import StackedLinear

# W_1 [N, inputs, width], c_1 [N, 1, width], W_2, c_2, ...: the weights of N networks of one shape; of several runs
# those of all in a row, [R * N, inputs, width].
Weights = tuple[Tensor, ...]


class AdaptiveModel(nn.Module):
    """f_w(o, a) = (o' - o, r), normalised on both sides: a deterministic relu network whose weights are an argument.

    The parameters theta are where adaptation starts from. ``meta_loss`` trains them for what they become after
    ``adapt``, which is one step of gradient descent on the transitions just seen:

        w = theta - rate * grad_theta (1/M) sum_{s past} (1/O) |f_theta(o_s, a_s) - (o_{s+1} - o_s)|^2

    The reward's output takes no part in that loss, neither when acting nor in meta-training: histories hold rewards
    only where the environment shows them, and then they are a coordinate of o' and adapt the model as such. This is
    ours; in the source the reward is a known function of (o, a, o').

    Everything works on N sets of weights at once, as batched matrix products.

    Args:
        observation_size, action_size: O and A.
        width, layers: of the hidden layers, each >= 1.

    Raises:
        ValueError: when a size is < 1.
    """

    def __init__(self, observation_size: int, action_size: int, width: int, layers: int) -> None:
        super().__init__()
        sizes = {"observation_size": observation_size, "action_size": action_size, "width": width, "layers": layers}
        for name, size in sizes.items():
            if size < 1:
                raise ValueError(f"{name} must be >= 1, got {size}")
        self.observation_size = observation_size
        self.action_size = action_size
        self.input_normaliser = Normaliser(observation_size + action_size)
        self.target_normaliser = Normaliser(observation_size + 1)
        widths = [observation_size + action_size, *[width] * layers, observation_size + 1]
        self.layers = nn.ModuleList(StackedLinear(1, size, following) for size, following in pairwise(widths))

    def fit(self, tokens: Tensor, rewards: Tensor) -> None:
        """Fit both normalisers to transitions: tokens (o, a, o' - o) [N, 2 O + A], rewards [N]."""
        self.input_normaliser.fit(tokens[:, : -self.observation_size])
        self.target_normaliser.fit(torch.cat([tokens[:, -self.observation_size :], rewards[:, None]], dim=1))

    def weights(self, count: int) -> Weights:
        """theta, ``count`` times; of one run without a copy."""
        return tuple(
            parameter.expand(*parameter.shape[:-3], count, -1, -1).flatten(0, -3)
            for parameter in self.layers.parameters()
        )

    def predict(self, weights: Weights, observation: Tensor, action: Tensor) -> Tensor:
        """(o', r) in the environment's units. N weights, [N, S, O], [N, S, A] -> [N, S, O + 1]."""
        outputs = self._outputs(weights, torch.cat([observation, action], dim=-1))
        normaliser = self.target_normaliser
        outcome = torch.addcmul(aligned(normaliser.mean, outputs), outputs, aligned(normaliser.std, outputs))
        outcome[..., :-1] += observation
        return outcome

    def losses(self, weights: Weights, tokens: Tensor, rewards: Tensor, used: Tensor) -> Tensor:
        """Mean squared error of (o' - o, r) in normalised units, over the O + 1 coordinates and the used steps.

        Args:
            weights: of N networks.
            tokens: [N, S, 2 O + A], steps (o, a, o' - o).
            rewards: [N, S].
            used: [N, S] booleans; what stands at the other steps does not matter.

        Returns:
            [N]; 0 where no step is used.
        """
        return self._losses(weights, tokens, rewards, used)

    def change_losses(self, weights: Weights, tokens: Tensor, used: Tensor) -> Tensor:
        """``losses`` of o' - o alone, over its O coordinates: what ``adapt`` descends. Shape [N]."""
        return self._losses(weights, tokens, None, used)

    def adapt(
        self, weights: Weights, tokens: Tensor, used: Tensor, adaptation_rate: float, *, create_graph: bool = False
    ) -> Weights:
        """w_n - rate * grad change_losses(w_n), each network on its own past; no used step leaves w_n as it is.

        Args:
            weights: of N networks.
            tokens: [N, M, 2 O + A], past steps (o, a, o' - o), as in ``Windows``.
            used: [N, M] booleans, as from ``newest``.
            adaptation_rate: >= 0.
            create_graph: whether the result carries gradients, through the inner gradient too (second order).

        Raises:
            ValueError: when ``adaptation_rate`` is negative or not finite.
        """
        if not 0 <= adaptation_rate < math.inf:
            raise ValueError(f"adaptation_rate must be a finite number >= 0, got {adaptation_rate}")
        with torch.enable_grad():
            if not create_graph:
                weights = tuple(weight.detach().requires_grad_() for weight in weights)
            gradients = torch.autograd.grad(
                self.change_losses(weights, tokens, used).sum(), weights, create_graph=create_graph
            )
        with torch.set_grad_enabled(create_graph):
            return tuple(
                torch.add(weight, gradient, alpha=-adaptation_rate)
                for weight, gradient in zip(weights, gradients, strict=True)
            )

    def meta_loss(
        self,
        past: Tensor,
        past_used: Tensor,
        following: Tensor,
        following_rewards: Tensor,
        following_used: Tensor,
        adaptation_rate: float,
    ) -> Tensor:
        """(1/N) sum_n losses(adapt(theta, past_n), following_n), with its full second-order gradient in theta.

        Under ``torch.no_grad()`` the value alone, at less cost.

        Args:
            past, past_used: [N, M, 2 O + A] and [N, M], steps to adapt to.
            following, following_rewards, following_used: [N, K, 2 O + A], [N, K] and [N, K], the steps after them.
            adaptation_rate: >= 0.

        Returns:
            A scalar.

        Raises:
            ValueError: when a segment has no following step.
        """
        without = (~following_used.any(dim=-1)).nonzero().squeeze(-1)
        if len(without):
            raise ValueError(f"segments {without.tolist()} have no step after the past to be judged on")
        adapted = self.adapt(
            self.weights(past.shape[-3]), past, past_used, adaptation_rate, create_graph=torch.is_grad_enabled()
        )
        return self.losses(adapted, following, following_rewards, following_used).mean(dim=-1)

    def _outputs(self, weights: Weights, inputs: Tensor) -> Tensor:
        """[N, S, O + A] in the environment's units -> [N, S, O + 1], normalised."""
        hidden = self.input_normaliser(inputs).flatten(0, -3)
        *before, last = zip(weights[::2], weights[1::2], strict=True)
        for weight, bias in before:
            hidden = torch.baddbmm(bias, hidden, weight).relu_()
        weight, bias = last
        return torch.baddbmm(bias, hidden, weight).unflatten(0, inputs.shape[:-2])

    def _losses(self, weights: Weights, tokens: Tensor, rewards: Tensor | None, used: Tensor) -> Tensor:
        size = self.observation_size
        # Zeros before the network, not after: 0 times the derivative at an infinite input would not be 0.
        tokens = torch.where(used[..., None], tokens, 0.0)
        outputs, targets = self._outputs(weights, tokens[..., :-size]), tokens[..., -size:]
        normaliser = self.target_normaliser
        if rewards is None:
            mean, std = (aligned(each[..., :-1], targets) for each in (normaliser.mean, normaliser.std))
            residuals = outputs[..., :-1] - (targets - mean) / std
        else:
            rewards = torch.where(used, rewards, 0.0)
            residuals = outputs - normaliser(torch.cat([targets, rewards[..., None]], dim=-1))
        squares = (residuals**2).mean(dim=-1) * used
        return squares.sum(dim=-1) / used.sum(dim=-1).clamp(min=1)
