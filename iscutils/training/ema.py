"""Average of a network's weights over the training, which is what gets saved."""

from __future__ import annotations

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel


def average_of(model: nn.Module, decay: float) -> AveragedModel:
    """Average that follows a network: call `update_parameters(model)` after each step.

    After n + 1 updates: average = d x average + (1 - d) x weights, d = min(decay, (1+n) / (10+n)).
    Early averages forget fast, so short trainings need no other decay. Buffers, such as statistics
    of batch norms, are those of the network itself.
    """

    def update(average: list[torch.Tensor], now: list[torch.Tensor], done: torch.Tensor) -> None:
        share = 1 - decay_at(int(done) - 1, decay)
        torch._foreach_lerp_(average, now, share)

    return AveragedModel(model, multi_avg_fn=update, use_buffers=False).requires_grad_(False)


def decay_at(n: int, highest: float) -> float:
    """Share of itself that the average keeps in its n-th change, n = 0, 1, ..."""
    return min(highest, (1 + n) / (10 + n))
