"""InfoNCE over the global batch or a queue, for rows that may share source images.

Sources: Pizzi et al., "A Self-Supervised Descriptor for Image Copy Detection", CVPR 2022,
equations 1 and 5 to 7; He et al., "Momentum Contrast for Unsupervised Visual Representation
Learning", CVPR 2020, equation 1; Jing et al., "Understanding Dimensional Collapse in Contrastive
Self-supervised Learning", ICLR 2022 (arXiv 2110.09348), section 6.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from iscutils.files.artifacts import KitError
from iscutils.losses.gather import gather, mean_over, rank


def unit(rows: torch.Tensor) -> torch.Tensor:
    """Rows (M, D) at length 1, in float32 (float64 stays), whatever precision they come in."""
    return F.normalize(at_least_float32(rows), dim=1)


def at_least_float32(x: torch.Tensor) -> torch.Tensor:
    """The tensor in float32; float64 stays as it is."""
    return x if x.dtype == torch.float64 else x.float()


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
        similarity = at_least_float32(rows) @ at_least_float32(everyone).T  # (M, G)
    match = (sources[:, None, :, None] == all_sources[None, :, None, :]).flatten(2).any(2)
    own = torch.arange(len(rows), device=rows.device) + rank() * len(rows)
    positives = match.clone()
    positives[torch.arange(len(rows), device=rows.device), own] = False
    return similarity, positives, ~match


def queue_pairs(
    rows: torch.Tensor,
    ids: torch.Tensor,
    keys: torch.Tensor,
    vectors: torch.Tensor,
    vector_ids: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Similarities of rows to their keys and to a queue, as `global_pairs` gives them.

    Entries of the queue that show the row's own image are neither positive nor negative: on small
    sets the queue holds older views of the same image. No gradient reaches keys and queue.

    Args:
        rows: unit descriptors (M, D) of images `ids` (M,).
        keys: unit descriptor of another view of each row's image, (M, D).
        vectors: entries of the queue (K, D), of images `vector_ids` (K,).

    Returns:
        Similarities (M, 1 + K) in float32, own key first; positives and negatives (M, 1 + K).
    """
    with torch.autocast(rows.device.type, enabled=False):
        rows = at_least_float32(rows)
        keys, vectors = keys.detach().to(rows.dtype), vectors.detach().to(rows.dtype)
        similarity = torch.cat([(rows * keys).sum(1, keepdim=True), rows @ vectors.T], 1)
    positives = torch.zeros_like(similarity, dtype=torch.bool)
    positives[:, 0] = True
    return similarity, positives, F.pad(ids[:, None] != vector_ids[None, :], (1, 0))


class InfoNCE(nn.Module):
    """Mean over rows i of the mean over their positives j of

        l_ij = -log( e^(s_ij/t) / ( e^(s_ij/t) + sum over negatives k of e^(s_ik/t) ) )
             = softplus( logsumexp over k of s_ik/t  -  s_ij/t )

    Other positives of i are not in the denominator (SSCD equation 6). The softplus form stays
    finite in any precision. Rows without a positive or without a negative do not count. With
    `queue_pairs` this is the loss of MoCo.
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
        return mean_over(terms.sum(1) / positives.sum(1).clamp(min=1), usable)


class DirectCLR(nn.Module):
    """InfoNCE on the first values of the pooled features, without a trainable projector.

    The other values learn through the trunk alone, which keeps their rank (Jing et al.). Matches
    and denominator are those of `InfoNCE`.

    Args:
        width: number of values used, d0; `direct_width` gives the paper's share.
        temperature: .1 in the paper.
    """

    def __init__(self, width: int, temperature: float = 0.1):
        super().__init__()
        if width < 1:
            raise KitError(f"DirectCLR on {width} values: give at least 1")
        self.width, self.info_nce = width, InfoNCE(temperature)

    def forward(self, pooled: torch.Tensor, sources: torch.Tensor) -> torch.Tensor:
        """Loss of pooled features (M, C) with sources (M, S) as for `global_pairs`."""
        if self.width > pooled.shape[1]:
            raise KitError(
                f"DirectCLR on {self.width} values, but the trunk gives {pooled.shape[1]}: "
                "lower direct_values"
            )
        return self.info_nce(*global_pairs(unit(pooled[:, : self.width]), sources))


def direct_width(channels: int) -> int:
    """Values that DirectCLR uses of C channels: 360 of 2048, down to a multiple of 8, at least 8.

    ResNet-18 (512): 88, MobileViT-S (640): 112, EfficientNet-B0 (1280): 224.
    """
    return max(8, channels * 360 // 2048 // 8 * 8)
