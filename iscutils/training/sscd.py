"""SSCD: contrastive copy detection descriptor with differential entropy.

Source: Pizzi et al., CVPR 2022 (arXiv 2202.10261).
"""

from __future__ import annotations

import torch

from iscutils.edits.mixing import mix_rows
from iscutils.losses import InfoNCE, KoLeo, global_pairs, nearest_similarity
from iscutils.models import Descriptor
from iscutils.training.method import Method, TrainConfig


class SSCD(Method):
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
        super().__init__(
            config, total_steps, temperature=temperature, entropy=entropy, entropy_from=entropy_from
        )
        self.model = model
        self.info_nce, self.koleo = InfoNCE(temperature), KoLeo()
        self.entropy, self.entropy_from = entropy, entropy_from

    def entropy_weight(self) -> float:
        """Weight of KoLeo at this step."""
        if not self.entropy_from:
            return self.entropy
        risen = (self.progress() - self.entropy_from) / self.entropy_from
        return self.entropy * min(1.0, max(0.0, risen))

    def loss(self, images: torch.Tensor, ids: torch.Tensor) -> dict[str, torch.Tensor]:
        views = torch.cat(self.two_views(images))  # (2n, 3, S, S)
        sources = torch.cat([ids, ids])[:, None]  # (2n, 1)
        if self.recipe.mix:
            generator = self.generator(views.device, 1)
            views, sources, _ = mix_rows(views, sources[:, 0], generator, **self.recipe.mix)
        rows = self.model(views.contiguous(memory_format=torch.channels_last))  # (2n, D)
        similarity, positives, negatives = global_pairs(rows, sources)
        info_nce = self.info_nce(similarity, positives, negatives)
        koleo = self.koleo(similarity, negatives)
        with torch.no_grad():
            nearest, _ = nearest_similarity(similarity, negatives)
            matched = (similarity * positives).sum() / positives.sum().clamp(min=1)
        return {
            "loss": info_nce + self.entropy_weight() * koleo,
            "info_nce": info_nce,
            "koleo": koleo,
            "positive": matched,
            "nearest_negative": nearest.mean(),
        }
