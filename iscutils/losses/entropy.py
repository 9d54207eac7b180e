"""Nearest-negative terms: KoLeo (SSCD) and the hard-negative loss (RDCD) from one function.

Sources: Pizzi et al., CVPR 2022, equation 3 (after Sablayrolles et al., "Spreading Vectors for
Similarity Search", ICLR 2019); Kim, Woo and Nang, WACV 2025.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from iscutils.losses.gather import mean_over


def nearest_similarity(
    similarity: torch.Tensor, negatives: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Largest similarity of each row among its negatives.

    Args:
        similarity: (M, G) inner products of unit vectors, of a batch or of a queue.
        negatives: (M, G) mask.

    Returns:
        Nearest similarity (M,), 0 where a row has no negative; mask (M,) of the rows that have one.
    """
    usable = negatives.any(1)
    nearest = similarity.masked_fill(~negatives, -torch.inf).amax(1)
    return nearest.masked_fill(~usable, 0.0), usable


def _log_gap(
    similarity: torch.Tensor, negatives: torch.Tensor, floor: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """log max(1 - s, floor) of every row's nearest similarity s, (M,), and the usable rows.

    Below the floor the gradient is zero.
    """
    nearest, usable = nearest_similarity(similarity, negatives)
    return (1 - nearest).clamp(min=floor).log(), usable


class KoLeo(nn.Module):
    """Differential entropy of the descriptors, to be minimised: they spread over the sphere.

        - mean over rows of log d,   d = max(2 - 2 s, floor)^(1/2),   s = nearest similarity

    d is the distance of unit vectors (SSCD equation 3, floor 1e-6 on d^2). Rows without a negative
    do not count.
    """

    def __init__(self, floor: float = 1e-6):
        super().__init__()
        self.floor = floor

    def forward(self, similarity: torch.Tensor, negatives: torch.Tensor) -> torch.Tensor:
        """Loss of similarities (M, G) with their mask of negatives."""
        log_gap, usable = _log_gap(similarity, negatives, self.floor / 2)
        return mean_over(-(log_gap + math.log(2)) / 2, usable)


class HardNegative(nn.Module):
    """Push away the nearest entry of a queue, against collapse onto few dimensions (RDCD).

        - mean over rows of log max(1 - s, floor) = 2 KoLeo + log 2

    over the same neighbours, while none is at the floor (1e-3 on 1 - s). Rows without a negative
    do not count.
    """

    def __init__(self, floor: float = 1e-3):
        super().__init__()
        self.floor = floor

    def forward(self, similarity: torch.Tensor, negatives: torch.Tensor) -> torch.Tensor:
        """Loss of similarities (M, K) with their mask of negatives."""
        log_gap, usable = _log_gap(similarity, negatives, self.floor)
        return mean_over(-log_gap, usable)
