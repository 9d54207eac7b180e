"""SSCD: contrastive copy detection descriptor with differential entropy.

Source: Pizzi et al., CVPR 2022 (arXiv 2202.10261).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from iscutils.edits.mixing import mix_rows
from iscutils.losses import InfoNCE, KoLeo, global_pairs, nearest_similarity, unit
from iscutils.models import Descriptor
from iscutils.training.method import TrainConfig
from iscutils.training.teaching import Taught


class Contrastive(Taught):
    """What SSCD and kd_icd share: mixed views and SSCD's loss on them; see there for `Args`."""

    def __init__(
        self,
        model: Descriptor,
        config: TrainConfig,
        total_steps: int,
        temperature: float,
        entropy: float,
        entropy_from: float,
        teacher: nn.Module | None = None,
        **settings: Any,
    ):
        own = {"temperature": temperature, "entropy": entropy, "entropy_from": entropy_from}
        super().__init__(config, total_steps, teacher, **own, **settings)
        self.model = model
        self.info_nce, self.koleo = InfoNCE(temperature), KoLeo()
        self.entropy, self.entropy_from = entropy, entropy_from

    def entropy_weight(self) -> float:
        """Weight of KoLeo at this step."""
        if not self.entropy_from:
            return self.entropy
        risen = (self.progress() - self.entropy_from) / self.entropy_from
        return self.entropy * min(1.0, max(0.0, risen))

    def mixed_views(
        self, images: torch.Tensor, ids: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """First views, then second views, (2n, 3, S, S), and the ids of the images in each.

        The ids are (2n, 1), or (2n, 2) where the recipe mixes views.
        """
        views, sources = torch.cat(self.two_views(images)), torch.cat([ids, ids])[:, None]
        if self.recipe.mix:
            generator = self.generator(views.device, 1)
            views, sources, _ = mix_rows(views, sources[:, 0], generator, **self.recipe.mix)
        return views.contiguous(memory_format=torch.channels_last), sources

    def contrast(
        self, rows: torch.Tensor, sources: torch.Tensor, info_nce: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """SSCD's loss of unit descriptors (2n, D) with their sources, and its parts to log.

        `info_nce` is a value to take in the place of InfoNCE on the descriptors.
        """
        self.recent.add(rows)
        similarity, positives, negatives = global_pairs(rows, sources)
        if info_nce is None:
            info_nce = self.info_nce(similarity, positives, negatives)
        koleo = self.koleo(similarity, negatives)
        with torch.no_grad():
            nearest, _ = nearest_similarity(similarity, negatives)
            matched = (similarity * positives).sum() / positives.sum().clamp(min=1)
        return info_nce + self.entropy_weight() * koleo, {
            "info_nce": info_nce,
            "koleo": koleo,
            "positive": matched,
            "nearest_negative": nearest.mean(),
        }


class SSCD(Contrastive):
    """Two views of an image attract, all other images repel, nearest ones most of all.

    Where the recipe says `mix`, some views are mixed with others (mixup and cutmix); views that
    share an image match.

    Args:
        model: the descriptor to train.
        temperature: of InfoNCE; .05 in the paper, .1 learns faster on small budgets.
        entropy: weight of KoLeo (lambda).
        entropy_from: share of the training after which KoLeo sets in (rising over the same share
            again); small networks learn nothing when it is on from the first step.
    """

    def __init__(
        self,
        model: Descriptor,
        config: TrainConfig,
        total_steps: int,
        temperature: float = 0.1,
        entropy: float = 1.0,
        entropy_from: float = 0.2,
    ):
        super().__init__(model, config, total_steps, temperature, entropy, entropy_from)

    def loss(
        self, images: torch.Tensor, ids: torch.Tensor, *_: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        views, sources = self.mixed_views(images, ids)
        _, compact = self.model.expand(self.model.pooled(views))  # (2n, D)
        total, parts = self.contrast(unit(compact), sources)
        return {"loss": total, **parts}
