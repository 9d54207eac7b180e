"""InfoNCE over the global batch, for rows that may share source images.

Source: Pizzi et al., "A Self-Supervised Descriptor for Image Copy Detection", CVPR 2022,
equations 1 and 5 to 7.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from iscutils.losses.gather import gather, rank


def global_pairs(
    rows: torch.Tensor, sources: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Similarities of the own rows to the rows of all processes, and which pairs match.

    With M rows here and G = W*M rows on all W processes:

    Args:
        rows: unit descriptors, (M, D).
        sources: ids of the images in each row, (M, S); S = 1, or 2 when rows are mixed from two
            images (equal ids when a row is unmixed).

    Returns:
        Similarities (M, G) in float32; positives (M, G), true where two different rows share a
        source; negatives (M, G), true where they share none.
    """
    everyone, all_sources = gather(rows), gather(sources)
    with torch.autocast(rows.device.type, enabled=False):
        similarity = _at_least_float32(rows) @ _at_least_float32(everyone).T  # (M, G)
    match = (sources[:, None, :, None] == all_sources[None, :, None, :]).flatten(2).any(2)
    own = torch.arange(len(rows), device=rows.device) + rank() * len(rows)
    positives = match.clone()
    positives[torch.arange(len(rows), device=rows.device), own] = False
    return similarity, positives, ~match


def _at_least_float32(x: torch.Tensor) -> torch.Tensor:
    return x if x.dtype == torch.float64 else x.float()


class InfoNCE(nn.Module):
    """Mean over rows i of the mean over their positives j of

        l_ij = -log( e^(s_ij/t) / ( e^(s_ij/t) + sum over negatives k of e^(s_ik/t) ) )
             = softplus( logsumexp over k of s_ik/t  -  s_ij/t )

    Other positives of i are not in the denominator (SSCD equation 6). The softplus form stays
    finite in any precision. Rows without a positive or without a negative do not count.
    """

    def __init__(self, temperature: float = 0.05):
        super().__init__()
        self.temperature = temperature

    def forward(
        self, similarity: torch.Tensor, positives: torch.Tensor, negatives: torch.Tensor
    ) -> torch.Tensor:
        """Loss of similarities (M, G) with their masks as `global_pairs` gives them."""
        logits = similarity / self.temperature
        against = logits.masked_fill(~negatives, -torch.inf).logsumexp(1)  # (M,)
        usable = positives.any(1) & negatives.any(1)
        against = against.masked_fill(~usable, 0.0)  # -inf would spoil the gradient
        terms = F.softplus(against[:, None] - logits) * positives  # (M, G)
        per_row = terms.sum(1) / positives.sum(1).clamp(min=1)
        return (per_row * usable).sum() / usable.sum().clamp(min=1)
