"""Barlow Twins pretraining of a backbone, no labels and no negatives.

Source: Zbontar et al., ICML 2021 (arXiv 2103.03230).
"""

from __future__ import annotations

import torch
from torch import nn

from iscutils.losses import BarlowTwins
from iscutils.models import Descriptor
from iscutils.training.method import Method, TrainConfig


class Barlow(Method):
    """Two views agree in every value of a wide projection whose values are decorrelated.

    Args:
        model: descriptor whose pooled features are trained (its head is not used).
        width: width of the projector's three layers (8192 in the paper).
        off_diagonal: weight of the decorrelation (5e-3 in the paper).
    """

    def __init__(
        self,
        model: Descriptor,
        config: TrainConfig,
        total_steps: int,
        width: int = 512,
        off_diagonal: float = 5e-3,
    ):
        super().__init__(config, total_steps, width=width, off_diagonal=off_diagonal)
        self.model = model
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.projector = _projector(model.backbone.channels, width)
        self.barlow = BarlowTwins(off_diagonal)

    def embed(self, views: torch.Tensor) -> torch.Tensor:
        """Projection (B, width) of views (B, 3, H, W)."""
        return self.projector(self.model.pooled(views))

    def loss(self, images: torch.Tensor, ids: torch.Tensor) -> dict[str, torch.Tensor]:
        views = torch.cat(self.two_views(images))
        embedded = self.embed(views.contiguous(memory_format=torch.channels_last))
        first, second = embedded.chunk(2)  # (n, width) each
        correlation = self.barlow.correlation(first, second).detach()
        return {
            "loss": self.barlow(first, second),
            "agreement": correlation.diagonal().mean(),
        }


def _projector(channels: int, width: int) -> nn.Module:
    return nn.Sequential(
        nn.Linear(channels, width, bias=False),
        nn.BatchNorm1d(width),
        nn.ReLU(inplace=True),
        nn.Linear(width, width, bias=False),
        nn.BatchNorm1d(width),
        nn.ReLU(inplace=True),
        nn.Linear(width, width, bias=False),
    )
