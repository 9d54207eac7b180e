"""Barlow Twins: two views agree value by value, different values say different things.

Source: Zbontar et al., "Barlow Twins: Self-Supervised Learning via Redundancy Reduction",
ICML 2021, equations 1 and 2.
"""

from __future__ import annotations

import torch
from torch import nn

from iscutils.losses.contrastive import at_least_float32
from iscutils.losses.gather import gather


class BarlowTwins(nn.Module):
    """Push the cross-correlation of two views' embeddings to the identity matrix.

    C_ab = mean over rows of za_a zb_b  (columns standardised over the global batch)
    loss = sum_a (1 - C_aa)^2 + off_diagonal * sum_(a != b) C_ab^2
    """

    def __init__(self, off_diagonal: float = 5e-3):
        super().__init__()
        self.off_diagonal = off_diagonal

    def forward(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        """Loss of the embeddings of the first and second views, both (M, D)."""
        correlation = self.correlation(first, second)  # (D, D)
        diagonal = correlation.diagonal()
        invariance = (1 - diagonal).square().sum()
        redundancy = correlation.square().sum() - diagonal.square().sum()
        return invariance + self.off_diagonal * redundancy

    @staticmethod
    def correlation(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        """Cross-correlation matrix (D, D) over the rows of all processes, in float32."""
        with torch.autocast(first.device.type, enabled=False):
            first, second = _standardise(gather(first)), _standardise(gather(second))
            return first.T @ second / len(first)


def _standardise(rows: torch.Tensor) -> torch.Tensor:
    rows = at_least_float32(rows)
    centred = rows - rows.mean(0)
    return centred / (centred.square().mean(0) + 1e-5).sqrt()
