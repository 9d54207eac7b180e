"""Momentum batch norm: the teacher's statistics fade from those of the batch into fixed ones.

Source: Li, Liu and Sun, "Momentum^2 Teacher: Momentum Teacher with Momentum Statistics for
Self-Supervised Learning", 2021 (arXiv 2101.07525). Departures: the unbiased variance is taken once
(the released code scales it twice), and the statistics are those of all processes.
"""

from __future__ import annotations

import math

import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from iscutils.losses import world_size


def half_cosine(done: float | torch.Tensor) -> float | torch.Tensor:
    """(cos(pi done) + 1) / 2 for a share 0..1 of all steps: from 1 down to 0."""
    cosine = torch.cos if isinstance(done, torch.Tensor) else math.cos
    return (cosine(math.pi * done) + 1) / 2


class MomentumNorm(nn.Module):
    """A batch norm of one or two dimensions for a network without gradient that sees two views.

    In step i of T, with a = (cos(pi i / T) + 1) / 2, training mode normalises with

        a x (mean, unbiased variance of the batch) + (1 - a) x (running mean, running variance)

    and after every second forward pass, when both views were seen,

        running := a x (mean of the two batches' statistics) + (1 - a) x running,    i := i + 1.

    Eval mode normalises with the running statistics alone. No gradient goes through any of them.
    Weights and buffers have the names and meaning of the norm that is replaced, so the state fits
    an ordinary network; `num_batches_tracked` counts i.

    Args:
        norm: the batch norm to replace; its weights are shared. What it does behind the
            normalisation (activations of timm's norms) stays.
        total_steps: T.
    """

    def __init__(self, norm: _BatchNorm, total_steps: int):
        super().__init__()
        self.weight, self.bias, self.eps = norm.weight, norm.bias, norm.eps
        self.register_buffer("running_mean", norm.running_mean)  # (C,)
        self.register_buffer("running_var", norm.running_var)  # (C,)
        self.register_buffer("num_batches_tracked", torch.zeros_like(norm.num_batches_tracked))
        self.total_steps = max(1, total_steps)
        self.after = nn.Sequential(*norm.children())
        self._first: torch.Tensor | None = None  # statistics of this step's first view
        self.train(norm.training)

    def share(self) -> torch.Tensor:
        """Share a of the batch's own statistics at this step, from 1 down to 0."""
        return half_cosine((self.num_batches_tracked / self.total_steps).clamp(max=1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalised values of x, (B, C) or (B, C, H, W)."""
        mean, variance = self.running_mean, self.running_var
        if self.training:
            mean, variance = self._blend(x.detach())
        x = F.batch_norm(x, mean, variance, self.weight, self.bias, False, 0.0, self.eps)
        return self.after(x)

    @torch.no_grad()
    def _blend(self, x: torch.Tensor) -> torch.Tensor:
        """Statistics (2, C) to normalise a batch with; the running ones move after the second."""
        batch, running = _statistics(x), torch.stack([self.running_mean, self.running_var])
        share = self.share().to(running.dtype)
        if self._first is None:
            self._first = batch
        else:
            moved = torch.lerp(running, (self._first + batch) / 2, share)
            self.running_mean.copy_(moved[0])
            self.running_var.copy_(moved[1])
            self.num_batches_tracked += 1
            self._first = None
        return torch.lerp(running, batch, share)


def _statistics(x: torch.Tensor) -> torch.Tensor:
    """Mean and unbiased variance (2, C) of the values (B, C, ...) of all processes."""
    kind = torch.float64 if x.dtype == torch.float64 else torch.float32
    own = torch.zeros(2, x.shape[1], dtype=kind, device=x.device)
    # With momentum 1 batch norm's own kernel hands over the batch's statistics: up to twelve times
    # as fast as `var_mean` over the axes.
    F.batch_norm(x, own[0], own[1], training=True, momentum=1.0)
    if world_size() == 1:
        return own
    parts = [torch.empty_like(own) for _ in range(world_size())]
    dist.all_gather(parts, own)
    means, variances = torch.stack(parts).unbind(1)  # (W, C) each
    count = x.numel() // x.shape[1]  # in each process
    between = means.var(0, correction=0)
    total = variances.mean(0) * (count - 1) + between * count
    return torch.stack([means.mean(0), total * len(parts) / (count * len(parts) - 1)])


def momentum_norms(network: nn.Module, total_steps: int) -> nn.Module:
    """Replace every batch norm of a network, in place, by a `MomentumNorm`; returns the network."""
    if isinstance(network, _BatchNorm):
        return MomentumNorm(network, total_steps)
    for name, child in network.named_children():
        setattr(network, name, momentum_norms(child, total_steps))
    return network
