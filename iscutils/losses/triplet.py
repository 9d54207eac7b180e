"""Triplet losses on the hardest pairs: of a batch (D2LV), or of a batch and a memory (imgFp).

Sources: Hermans, Beyer and Leibe, "In Defense of the Triplet Loss for Person Re-Identification",
2017 (batch-hard, soft margin); Schroff et al., "FaceNet", CVPR 2015 (squared distances of unit
vectors, margin); Wang et al., "Cross-Batch Memory for Embedding Learning", CVPR 2020.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from iscutils.files.artifacts import KitError
from iscutils.losses.contrastive import at_least_float32
from iscutils.losses.gather import gather, mean_over, rank


def batch_hard(
    rows: torch.Tensor, ids: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Euclidean distance of every row to its farthest positive and to its nearest negative.

    Positives are other rows with the same id, negatives rows with another id, of all processes.

    Args:
        rows: features (M, C), not normalised.
        ids: of the image (or class) of each row, (M,).

    Returns:
        Distances to the farthest positive (M,) and the nearest negative (M,); mask (M,) of the rows
        that have both.
    """
    with torch.autocast(rows.device.type, enabled=False):
        rows = at_least_float32(rows)
        everyone, all_ids = gather(rows), gather(ids)
        same = ids[:, None] == all_ids[None]  # (M, G)
        places = torch.arange(len(rows), device=rows.device)
        positives = same.clone()
        positives[places, places + rank() * len(rows)] = False
        with torch.no_grad():  # the choice; only the chosen pairs need a gradient
            # Without the matrix product: it loses the digits of small distances of long rows.
            distance = torch.cdist(rows, everyone, compute_mode="donot_use_mm_for_euclid_dist")
            farthest = distance.masked_fill(~positives, -torch.inf).argmax(1)
            nearest = distance.masked_fill(same, torch.inf).argmin(1)
        usable = positives.any(1) & ~same.all(1)
        # The root has no gradient at 0: equal rows pull on nothing.
        return (
            torch.linalg.vector_norm(rows - everyone[farthest], dim=1),
            torch.linalg.vector_norm(rows - everyone[nearest], dim=1),
            usable,
        )


class SoftTriplet(nn.Module):
    """Mean over rows of softplus( d_ap - d_an ), see `batch_hard`.

    This is -log of the second share of softmax(d_ap, d_an). Rows without a positive or without a
    negative do not count.
    """

    def forward(self, rows: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        """Loss of features (M, C), not normalised, with ids (M,)."""
        positive, negative, usable = batch_hard(rows, ids)
        return mean_over(F.softplus(positive - negative), usable)


def memory_hard(
    anchors: torch.Tensor,
    positives: torch.Tensor,
    ids: torch.Tensor,
    vectors: torch.Tensor | None = None,
    vector_ids: torch.Tensor | None = None,
    nearest: int = 1,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Squared distances of each anchor to its positive and to the nearest vectors of other images.

    The latter are looked for among the anchors and positives of all processes and in a memory,
    without the entries of the anchor's own image and those never written (id -1).

    Args:
        anchors: unit vectors (M, D) of views of the images `ids` (M,).
        positives: unit vectors (M, D) of other views of the same images.
        vectors: unit vectors (K, D) of the images `vector_ids` (K,), see `MemoryQueue`; they get no
            gradient. None: no memory.
        nearest: number k of negatives of an anchor.

    Returns:
        Squared distances, 0 to 4, to the positive (M, 1) and to the nearest negatives (M, k), the
        nearest first; mask (M, k) of those that there are.
    """
    with torch.autocast(anchors.device.type, enabled=False):
        anchors, positives = at_least_float32(anchors), at_least_float32(positives)
        others, other_ids = gather(torch.cat([anchors, positives])), gather(torch.cat([ids, ids]))
        if vectors is not None:
            others = torch.cat([others, vectors.detach().to(others.dtype)])  # (G + K, D)
            other_ids = torch.cat([other_ids, vector_ids])
        negatives = (ids[:, None] != other_ids[None]) & (other_ids >= 0)  # (M, G + K)
        similarity = (anchors @ others.T).masked_fill(~negatives, -torch.inf)  # (M, G + K)
        similarity = similarity.topk(min(nearest, len(others)), dim=1).values  # (M, k)
        usable = similarity.isfinite()
        own = (anchors * positives).sum(1, keepdim=True)  # (M, 1)
        return 2 - 2 * own, 2 - 2 * similarity.masked_fill(~usable, 0.0), usable


class MemoryTriplet(nn.Module):
    """Mean over anchors and their negatives of max( 0, d_ap - d_an + margin ), see `memory_hard`.

    Negatives that are not there do not count.
    """

    def __init__(self, margin: float = 1.0):
        super().__init__()
        if not 0 < margin <= 4:
            raise KitError(f"margin {margin}: squared distances of unit vectors lie in 0..4")
        self.margin = margin

    def forward(
        self, positive: torch.Tensor, negative: torch.Tensor, usable: torch.Tensor
    ) -> torch.Tensor:
        """Loss of squared distances (M, 1) to the positive and (M, k) to negatives, their mask."""
        terms = F.relu(positive - negative + self.margin)  # (M, k)
        return mean_over(terms.flatten(), usable.flatten())
