"""RDCD: a small student with a compact descriptor, taught by a teacher's relations.

Source: Kim, Woo and Nang, "Relational Self-Supervised Distillation with Compact Descriptors for
Image Copy Detection", WACV 2025 (arXiv 2405.17928), and its released code. Departures: the teacher
always runs in eval mode, entries of the row's own image do not repel, batch norms are synchronised
instead of shuffling keys.
"""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import nn

from iscutils.files.artifacts import KitError
from iscutils.losses import (
    HardNegative,
    InfoNCE,
    MemoryQueue,
    RelationalDistillation,
    nearest_similarity,
    queue_pairs,
    unit,
)
from iscutils.models import Descriptor
from iscutils.training.method import TrainConfig
from iscutils.training.teaching import Taught, queue_size


class RDCD(Taught):
    """relation x L_rel(h) + contrast x ( L_con(z) + hard_negative x L_HN(z) ).

    The second view goes to teacher and student, the first to the momentum student, an average of
    the student's earlier weights. L_rel: the wide features h see a queue of teacher vectors as the
    teacher does. L_con: the descriptor z finds the momentum student's vector of the same image
    among a queue of others. L_HN: z keeps away from the nearest entry of that queue.

    Args:
        model: student whose wide features h (`hidden`, or else the descriptor) have the teacher's
            width.
        teacher: frozen, unit vectors of `.dim` values; None: the same student learns alone.
        queue: entries of both queues; 0: 65,536, but at most an eighth of the training images.
        relation_temperature: of L_rel, both sides.
        temperature: of L_con.
        relation, contrast, hard_negative: weights, see above.
        momentum: share of its own weights that the momentum student keeps in a step.
        symmetric: both views play both roles, in one batch: twice the signal of a decoded image
            (not in the paper).
        originals: see `Taught`.
    """

    def __init__(
        self,
        model: Descriptor,
        config: TrainConfig,
        total_steps: int,
        teacher: nn.Module | None = None,
        queue: int = 0,
        relation_temperature: float = 0.04,
        temperature: float = 0.07,
        hard_negative: float = 5.0,
        relation: float = 1.0,
        contrast: float = 1.0,
        momentum: float = 0.99,
        symmetric: bool = False,
        originals: np.ndarray | None = None,
    ):
        if teacher is not None:
            _check_width(model, teacher.dim)
        size = queue_size(queue, config, total_steps, share=8, views=2 if symmetric else 1)
        super().__init__(
            config,
            total_steps,
            teacher,
            originals=None if teacher is None else originals,
            queue=size,
            temperatures=[relation_temperature, temperature],
            weights=[relation, contrast, hard_negative],
            momentum=momentum,
            symmetric=symmetric,
        )
        self.model = model
        self.momentum_student = copy.deepcopy(model).requires_grad_(False)
        self.student_queue = MemoryQueue(size, model.dim, config.seed)
        self.teacher_queue = None
        if teacher is not None:
            self.teacher_queue = MemoryQueue(size, teacher.dim, config.seed + 1)
        self.relational = RelationalDistillation(relation_temperature)
        self.info_nce, self.push = InfoNCE(temperature), HardNegative()
        self.relation, self.contrast, self.hard_negative = relation, contrast, hard_negative
        self.momentum, self.symmetric = momentum, symmetric

    @torch.no_grad()
    def follow(self) -> None:
        """Momentum student := momentum x itself + (1 - momentum) x student, weights only.

        Its batch norms keep the statistics of its own forward passes.
        """
        own, other = self.momentum_student.parameters(), self.model.parameters()
        for slow, fast in zip(own, other, strict=True):
            slow.lerp_(fast, 1 - self.momentum)

    @torch.no_grad()
    def keys(self, views: torch.Tensor) -> torch.Tensor:
        """Unit descriptors (M, D) of views by the momentum student."""
        student = self.momentum_student
        return unit(student.expand(student.pooled(views))[1])

    def loss(
        self, images: torch.Tensor, ids: torch.Tensor, *known: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        # The student, which alone has a gradient, sees the view that is edited more.
        others, asked = self.two_views(images)  # (n, 3, S, S) each
        if self.symmetric:
            asked, others = torch.cat([asked, others]), torch.cat([others, asked])
            ids = torch.cat([ids, ids])
        asked, others = (
            views.contiguous(memory_format=torch.channels_last) for views in (asked, others)
        )
        if self.training:
            self.follow()
        keys = self.keys(others)  # (M, d)
        wide, compact = self.model.expand(self.model.pooled(asked))
        rows = unit(compact)  # (M, d)
        self.recent.add(rows)
        similarity, positives, negatives = queue_pairs(
            rows, ids, keys, *self.student_queue.content()
        )
        contrast = self.info_nce(similarity, positives, negatives)
        push = self.push(similarity, negatives)
        total = self.contrast * (contrast + self.hard_negative * push)
        parts = {"contrast": contrast, "hard_negative": push}
        if self.teacher is not None:
            taught = known[0].flip(1).unbind(1)[: 1 + self.symmetric] if known else ()
            target = self.target(asked, ids, taught)  # (M, teacher width)
            vectors, _ = self.teacher_queue.content()
            parts["relation"] = self.relational(target, unit(wide), vectors)
            total = total + self.relation * parts["relation"]
        if self.training:
            self.student_queue.write(keys, ids)
            if self.teacher is not None:
                self.teacher_queue.write(target, ids)
        with torch.no_grad():
            parts["positive"] = similarity[:, 0].mean()
            parts["nearest_negative"] = nearest_similarity(similarity, negatives)[0].mean()
            parts["queue_filled"] = self.student_queue.share_filled
        return {"loss": total, **parts}


def _check_width(model: Descriptor, width: int) -> None:
    own = model.config.hidden or model.dim
    if own != width:
        raise KitError(
            f"the student's wide features have {own} values, the teacher's vectors {width}: "
            f"set the student's hidden={width}"
        )
