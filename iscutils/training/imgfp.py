"""imgFp's global branch: a triplet loss whose negatives come from a memory.

Source: the team's arXiv 2112.02373 and its released code, first finetune; margin 1 and rate 1e-4
are theirs, the size of the memory and the squared distance are our choice (both are not public).
Their second finetune, on labelled pairs of the challenge, is not part of the kit.
"""

from __future__ import annotations

import torch

from iscutils.files.artifacts import KitError
from iscutils.losses import MemoryQueue, MemoryTriplet, memory_hard, unit
from iscutils.models import Descriptor
from iscutils.training.method import Method, TrainConfig
from iscutils.training.teaching import queue_size

ENTRIES = 16_384  # of the memory, at most


class ImgFp(Method):
    """max( 0, d(copy, original) - d(copy, nearest other) + margin ), d squared, unit vectors.

    The second view of each image is the anchor, the first one its positive. The nearest other is
    looked for in the batch and in a memory of the latest first views, of other images only. The
    nearest one alone soon draws a network without good features to describe all images nearly
    alike (the loss stays at the margin, `mean_norm` near 1); more of them, a smaller margin and a
    pretrained backbone help.

    Args:
        model: the descriptor to train, of any backbone; start from a pretrained one.
        margin: 1 as published.
        queue: entries of the memory; 0: 16,384, but at most half of the training images.
        nearest: number of negatives of an anchor; 1 as published.
    """

    def __init__(
        self,
        model: Descriptor,
        config: TrainConfig,
        total_steps: int,
        margin: float = 1.0,
        queue: int = 0,
        nearest: int = 1,
    ):
        if nearest < 1:
            raise KitError(f"nearest {nearest}: a triplet needs a negative, give 1 or more")
        size = queue_size(queue, config, total_steps, share=2, views=1)
        size = size if queue else min(size, ENTRIES)
        super().__init__(config, total_steps, margin=margin, queue=size, nearest=nearest)
        self.model = model
        self.memory = MemoryQueue(size, model.dim, config.seed)
        self.triplet, self.nearest = MemoryTriplet(margin), nearest

    def loss(self, images: torch.Tensor, ids: torch.Tensor) -> dict[str, torch.Tensor]:
        views = torch.cat(self.two_views(images)).contiguous(memory_format=torch.channels_last)
        rows = unit(self.model.expand(self.model.pooled(views))[1])  # (2n, D)
        self.recent.add(rows)
        originals, copies = rows.chunk(2)  # (n, D) each
        memory = self.memory.content()
        distances = memory_hard(copies, originals, ids, *memory, nearest=self.nearest)
        total = self.triplet(*distances)
        if self.training:
            self.memory.write(originals, ids)
        positive, negative = distances[0].detach(), distances[1][:, :1].detach()  # (n, 1) each
        return {
            "loss": total,
            "positive_distance": positive.mean(),
            "negative_distance": negative.mean(),
            "active": (positive - negative + self.triplet.margin > 0).float().mean(),
            "queue_filled": self.memory.share_filled,
        }
