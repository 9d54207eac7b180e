"""Losses of asymmetrical-similarity learning: norms that order images by content, hard negatives.

Source: Wang et al., "A Benchmark and Asymmetrical-Similarity Learning for Practical Image Copy
Detection", AAAI 2023 (arXiv 2205.12358), and its released fragments. How content is measured, the
mean over all pairs, and the loss of negative pairs are this kit's own.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from iscutils.files.artifacts import KitError
from iscutils.losses.contrastive import at_least_float32, unit

SMALLEST = 1e-6  # of a norm
DRAWS = 6  # of option "one": the first, and five again where scales are equal
DRAW = ("pairs", "one")


class NormRatio(nn.Module):
    """Mean over ids of the mean over pairs of their images of exp(1 - |f_big| / |f_small|).

    Big is the image that shows more of the photograph. 1 for equal norms, towards 0 as the norm of
    the larger image grows, at most e.

    Args:
        draw: "pairs": all pairs of an id whose scales differ by `least_gap` or more; ids without
            such a pair add 0. "one": a single pair an id, drawn again up to five times while
            scales are equal, as published; scales that stay equal add 1, without a gradient.
        least_gap: of two scales that are compared.
    """

    def __init__(self, draw: str = "pairs", least_gap: float = 0.05):
        super().__init__()
        if draw not in DRAW:
            raise KitError(f"norm loss over '{draw}' is unknown: choose {' or '.join(DRAW)}")
        self.draw, self.least_gap = draw, least_gap

    def forward(
        self,
        features: torch.Tensor,
        scales: torch.Tensor,
        ids: torch.Tensor,
        generator: torch.Generator | None = None,
    ) -> torch.Tensor:
        """Loss of features (M, D), not normalised, of images that show shares `scales` (M,) 0..1.

        Rows of one id (M,) are views of one photograph; `generator` draws for option "one".
        """
        norms = at_least_float32(features).norm(dim=1).clamp(min=SMALLEST)  # (M,)
        _, place, counts = ids.unique(return_inverse=True, return_counts=True)
        if self.draw == "one":
            return self._one(norms, scales, place, counts, generator)
        gaps = scales[:, None] - scales[None, :]  # (M, M), row bigger than column
        bigger = (ids[:, None] == ids[None, :]) & (gaps >= self.least_gap - 1e-6)
        rows, columns = bigger.nonzero(as_tuple=True)
        terms = (1 - norms[rows] / norms[columns]).exp()
        pairs = counts.new_zeros(len(counts)).index_add(0, place[rows], torch.ones_like(rows))
        return (terms / pairs[place[rows]]).sum() / len(counts)

    def _one(
        self,
        norms: torch.Tensor,
        scales: torch.Tensor,
        place: torch.Tensor,
        counts: torch.Tensor,
        generator: torch.Generator | None,
    ) -> torch.Tensor:
        order = place.argsort(stable=True)  # images of the first id, of the second one, ...
        starts = counts.cumsum(0) - counts
        drawn = torch.rand(2, len(counts), DRAWS, generator=generator, device=norms.device)
        size = counts[:, None]
        first = (drawn[0] * size).long().minimum(size - 1)  # (ids, DRAWS)
        second = (drawn[1] * (size - 1)).long().minimum((size - 2).clamp(min=0))
        second = (second + (second >= first)).minimum(size - 1)  # never the first one again
        first, second = (order[starts[:, None] + drawn] for drawn in (first, second))
        differ = scales[first] != scales[second]
        chosen = differ.int().argmax(1, keepdim=True)  # the first draw of two different ones
        a, b = (rows.gather(1, chosen)[:, 0] for rows in (first, second))
        big, small = (
            torch.where(scales[a] > scales[b], a, b),
            torch.where(scales[a] > scales[b], b, a),
        )
        terms = (1 - norms[big] / norms[small]).exp()
        return torch.where(differ.any(1), terms, torch.ones_like(terms)).mean()


class NegativePairs(nn.Module):
    """Mean over hard negative pairs of the mean of max(0, c - margin) over their cross cosines c.

    Two ids of a pair look alike and are no copies: their images may be alike up to `margin`.
    """

    def __init__(self, margin: float = 0.3):
        super().__init__()
        self.margin = margin

    def forward(
        self, features: torch.Tensor, ids: torch.Tensor, pairs: torch.Tensor
    ) -> torch.Tensor:
        """Loss of features (M, D) of images of `ids` (M,); 0 where there is no pair.

        pairs: (M,) number of the pair that an image's id belongs to, -1 for none.
        """
        chosen = (pairs >= 0).nonzero()[:, 0]
        rows, ids, pairs = unit(features[chosen]), ids[chosen], pairs[chosen]
        together = (pairs[:, None] == pairs[None, :]) & (ids[:, None] < ids[None, :])
        a, b = together.nonzero(as_tuple=True)
        excess = F.relu((rows[a] * rows[b]).sum(1) - self.margin)
        _, place, counts = pairs[a].unique(return_inverse=True, return_counts=True)
        return (excess / counts[place]).sum() / max(1, len(counts))
