"""Relational distillation of a teacher into a small student with a compact descriptor.

Source: Kim, Woo and Nang, "Relational Self-Supervised Distillation with Compact Descriptors for
Image Copy Detection", WACV 2025 (arXiv 2405.17928): its relational loss on the teacher's space,
with SSCD's contrastive loss on the compact descriptor.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from iscutils.losses import InfoNCE, KoLeo, MemoryQueue, RelationalDistillation, global_pairs
from iscutils.models import Descriptor, state_key
from iscutils.training.method import Method, TrainConfig


class Distillation(Method):
    """The student's wide feature h sees the teacher's queue as the teacher does; z is contrasted.

    Args:
        model: student whose head is linear to the teacher's width (h), then linear to d values (z).
        teacher: frozen descriptor; always in eval mode, not stored in checkpoints.
        queue: entries of the memory of teacher vectors.
        relation_temperature: softmax temperature on both sides (.04 published).
        relation, contrast, entropy: weights of the relational loss, InfoNCE and KoLeo.
    """

    def __init__(
        self,
        model: Descriptor,
        config: TrainConfig,
        total_steps: int,
        teacher: Descriptor | None = None,
        queue: int = 512,
        relation_temperature: float = 0.04,
        temperature: float = 0.1,
        relation: float = 1.0,
        contrast: float = 1.0,
        entropy: float = 0.5,
    ):
        weights = {"relation": relation, "contrast": contrast, "entropy": entropy}
        super().__init__(
            config,
            total_steps,
            queue=queue,
            temperatures=[relation_temperature, temperature],
            weights=weights,
            teacher=state_key(teacher) if relation else None,
        )
        if relation and (teacher is None or model.config.hidden != teacher.dim):
            raise ValueError("the student's hidden width must be the teacher's descriptor width")
        self.model = model
        # In a list: no sub-module, so it is neither trained, wrapped nor stored.
        self._teacher = [teacher.eval().requires_grad_(False)] if relation else []
        self.queue = MemoryQueue(queue, teacher.dim, config.seed) if relation else None
        self.relational = RelationalDistillation(relation_temperature)
        self.info_nce, self.koleo = InfoNCE(temperature), KoLeo()
        self.weights = weights

    def on_fit_start(self) -> None:
        for teacher in self._teacher:
            teacher.to(self.device)

    @property
    def wide(self) -> nn.Module:
        """First layer of the student's head, to the teacher's width."""
        return self.model.head[0] if self.model.config.hidden else self.model.head

    def loss(self, images: torch.Tensor, ids: torch.Tensor) -> dict[str, torch.Tensor]:
        views = torch.cat(self.two_views(images))  # (2n, 3, S, S)
        views = views.contiguous(memory_format=torch.channels_last)
        pooled = self.model.pooled(views)
        wide = self.wide(pooled)  # (2n, teacher width)
        compact = self.model.head[1](wide) if self.model.config.hidden else wide
        rows = F.normalize(compact.float(), dim=1)  # (2n, d)

        both = torch.cat([ids, ids])
        similarity, positives, negatives = global_pairs(rows, both[:, None])
        parts = {
            "contrast": self.info_nce(similarity, positives, negatives),
            "entropy": self.koleo(similarity, negatives),
        }
        if self._teacher:
            with torch.no_grad():
                target = self._teacher[0](views)  # (2n, teacher width)
            answer = F.normalize(wide.float(), dim=1)
            parts["relation"] = self.relational(target, answer, self.queue.vectors.clone())
            self.queue.write(target, both)
        total = sum(self.weights[name] * value for name, value in parts.items())
        return {"loss": total, **parts}
