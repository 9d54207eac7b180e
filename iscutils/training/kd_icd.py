"""kd_icd: SSCD of a small student, taught how a large teacher sees a bank of its vectors.

Source: Kim, "Self-supervised Knowledge Distillation using Dynamic Memory Bank for Image Copy
Detection", 2023, and its released code. Departures: the teacher's vectors have length 1, it always
runs in eval mode, KoLeo is on, and the relational loss is a KL divergence of weight 1.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from iscutils.losses import (
    DirectCLR,
    MemoryQueue,
    RelationalDistillation,
    direct_width,
    gather,
    unit,
)
from iscutils.models import Descriptor
from iscutils.training.method import TrainConfig
from iscutils.training.sscd import Contrastive
from iscutils.training.teaching import queue_size


class KdIcd(Contrastive):
    """SSCD's loss + relation x KL of two distributions over the same teacher vectors.

    Those are the current batch's, then the bank's as it was before this step. The same views,
    mixed ones included, go to teacher and student. What imitates the teacher is the descriptor z
    if it has the teacher's width, else the wide features h if they have, else a linear map of the
    pooled features that only training needs.

    Args:
        model: the student.
        teacher: frozen, unit vectors of `.dim` values; None: the same student learns alone.
        queue: entries of the bank; 0: 65,536, but at most a quarter of the training images.
        relation_temperature: of the relational loss, both sides.
        temperature: of InfoNCE.
        relation: weight of the relational loss.
        entropy, entropy_from: see `SSCD`.
        relation_only: leave the current batch out of the teacher vectors. With it, a row's own
            teacher vector outweighs the whole bank: the student is aligned to the vector itself.
        direct: InfoNCE on the first pooled values instead of the descriptor (DirectCLR).
        direct_values: how many; 0: the paper's share, see `losses.direct_width`.
        direct_temperature: of that InfoNCE.
        published: relational loss as released: cross-entropy of weight .1.
        originals: see `Taught`; recipes that mix photographs have no one vector for a view.
    """

    def __init__(
        self,
        model: Descriptor,
        config: TrainConfig,
        total_steps: int,
        teacher: nn.Module | None = None,
        queue: int = 0,
        relation_temperature: float = 0.05,
        temperature: float = 0.05,
        relation: float = 1.0,
        entropy: float = 3.0,
        entropy_from: float = 0.2,
        relation_only: bool = False,
        direct: bool = False,
        direct_values: int = 0,
        direct_temperature: float = 0.1,
        published: bool = False,
        originals: np.ndarray | None = None,
    ):
        relation, form = (0.1, "cross_entropy") if published else (relation, "kl")
        values = (direct_values or direct_width(model.backbone.channels)) if direct else 0
        taught = teacher is not None
        size = queue_size(queue, config, total_steps, share=4, views=2) if taught else 0
        super().__init__(
            model,
            config,
            total_steps,
            temperature,
            entropy,
            entropy_from,
            teacher,
            queue=size,
            originals=originals if taught else None,
            relation=[form, relation_temperature, relation, relation_only],
            direct=[values, direct_temperature],
        )
        self.relation, self.relation_only = relation, relation_only
        self.relational = RelationalDistillation(relation_temperature, form)
        self.direct = DirectCLR(values, direct_temperature) if direct else None
        self.bank = MemoryQueue(size, teacher.dim, config.seed) if taught else None
        self.bridge = _bridge(model, teacher.dim, config.seed) if taught else None

    def answer(
        self, pooled: torch.Tensor, wide: torch.Tensor, compact: torch.Tensor
    ) -> torch.Tensor:
        """What imitates the teacher: unit rows (M, teacher width)."""
        if self.bridge is not None:
            return unit(self.bridge(pooled))
        return unit(compact if compact.shape[1] == self.teacher.dim else wide)

    def loss(
        self, images: torch.Tensor, ids: torch.Tensor, *known: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        views, sources = self.mixed_views(images, ids)
        pooled = self.model.pooled(views)  # (2n, C)
        wide, compact = self.model.expand(pooled)
        direct = None if self.direct is None else self.direct(pooled, sources)
        total, parts = self.contrast(unit(compact), sources, direct)
        if self.teacher is not None:
            vectors = known[0].unbind(1) if known else ()
            target = self.target(views, ids, vectors)  # (2n, teacher width)
            keys, _ = self.bank.content()
            if not self.relation_only:
                keys = torch.cat([gather(target).to(keys.dtype), keys])
            relation = self.relational(target, self.answer(pooled, wide, compact), keys)
            total = total + self.relation * relation
            parts["relation"] = relation
            if self.training:
                kept = len(ids) if self.originals else len(target)  # its two views have one vector
                self.bank.write(target[:kept], sources[:kept, 0])
            parts["queue_filled"] = self.bank.share_filled
        return {"loss": total, **parts}


def _bridge(model: Descriptor, width: int, seed: int) -> nn.Module | None:
    """Linear map of the pooled features to the teacher's width, where nothing else has it."""
    if width in (model.dim, model.config.hidden):
        return None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layer = nn.Linear(model.backbone.channels, width)
        nn.init.xavier_uniform_(layer.weight)
        nn.init.zeros_(layer.bias)
    return layer
