"""Nearest-negative terms: KoLeo (SSCD) and the hard-negative loss (RDCD) from one function."""

from __future__ import annotations

import torch
from torch import nn


def nearest_similarity(
    similarity: torch.Tensor, negatives: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Largest similarity of each row among its negatives.

    Args:
        similarity: (M, G) inner products of unit vectors.
        negatives: (M, G) mask.

    Returns:
        Nearest similarity (M,), 0 where a row has no negative; mask (M,) of the rows that have one.
    """
    usable = negatives.any(1)
    nearest = similarity.masked_fill(~negatives, -torch.inf).amax(1)
    return nearest.masked_fill(~usable, 0.0), usable


class KoLeo(nn.Module):
    """Differential entropy of the descriptors, to be minimised: they spread over the sphere.

        - mean over rows of log d,   d = max(2 - 2 s, floor)^(1/2),   s = nearest similarity

    d is the distance of unit vectors (SSCD equation 3, floor 1e-6 on d^2). The hard-negative loss
    of RDCD, -mean log(1 - s), is 2 KoLeo + log 2 over the same neighbours.
    """

    def __init__(self, floor: float = 1e-6):
        super().__init__()
        self.floor = floor

    def forward(self, similarity: torch.Tensor, negatives: torch.Tensor) -> torch.Tensor:
        """Loss of similarities (M, G); rows without a negative do not count."""
        nearest, usable = nearest_similarity(similarity, negatives)
        distance = (2 - 2 * nearest).clamp(min=self.floor).sqrt()
        return -(distance.log() * usable).sum() / usable.sum().clamp(min=1)
