"""Momentum2-Teacher pretraining of a backbone: a student predicts its own slow average.

Source: Li, Liu and Sun, "Momentum^2 Teacher", 2021 (arXiv 2101.07525); its form is that of BYOL
(Grill et al., NeurIPS 2020). D2LV pretrained two of its three backbones this way. Departures: see
`momentum_norm`; on several GPUs the student's batch norms see the whole batch, as in all methods.
"""

from __future__ import annotations

import copy

import torch
from torch import nn

from iscutils.files.artifacts import KitError
from iscutils.losses import unit
from iscutils.models import Descriptor
from iscutils.training.method import Method, TrainConfig
from iscutils.training.momentum_norm import half_cosine, momentum_norms


class Momentum2(Method):
    """mean over images of 4 - 2 ( q(x1).k(x2) + q(x2).k(x1) ) for two views x1, x2.

    q: unit vectors of the student (backbone, projector, predictor). k: unit vectors of the teacher
    (backbone, projector), which gets no gradient: before each step its weights become m x itself +
    (1 - m) x student, m rising to 1, and its batch norms are `MomentumNorm`s. Nothing repels; that
    the teacher lags behind keeps the two from agreeing on a constant.

    Args:
        model: descriptor whose pooled features are trained (its head is not used). It becomes the
            teacher, which is what `fit` writes; the student is a copy of it.
        width: values of q and k; 0: an eighth of the trunk's (256 of a ResNet-50's, as published).
        hidden: width of the inner layer of projector and predictor; 0: twice the trunk's (4096).
        momentum: m in the first step. .99 as published; short trainings need less, or the teacher
            stays what it was.
    """

    def __init__(
        self,
        model: Descriptor,
        config: TrainConfig,
        total_steps: int,
        width: int = 0,
        hidden: int = 0,
        momentum: float = 0.99,
    ):
        if not 0 <= momentum <= 1:
            raise KitError(f"momentum {momentum} is no share of the teacher's weights: choose 0..1")
        channels = model.backbone.channels
        width, hidden = width or max(8, channels // 8), hidden or 2 * channels
        super().__init__(config, total_steps, width=width, hidden=hidden, momentum=momentum)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.student_projector = _two_layers(channels, hidden, width)
            self.predictor = _two_layers(width, hidden, width)
        self.student = copy.deepcopy(model)
        self.model = momentum_norms(model.requires_grad_(False), self.total_steps)
        projector = copy.deepcopy(self.student_projector).requires_grad_(False)
        self.teacher_projector = momentum_norms(projector, self.total_steps)
        self.momentum = momentum

    def momentum_now(self) -> float:
        """Share m of its own weights that the teacher keeps in this step: `momentum` up to 1."""
        return 1 - (1 - self.momentum) * half_cosine(self.progress())

    @torch.no_grad()
    def follow(self) -> None:
        """Teacher := m x teacher + (1 - m) x student, weights of backbone and projector."""
        pairs = ((self.model, self.student), (self.teacher_projector, self.student_projector))
        share = 1 - self.momentum_now()
        for teacher, student in pairs:
            own, other = teacher.parameters(), student.parameters()
            for slow, fast in zip(own, other, strict=True):
                slow.lerp_(fast, share)

    @torch.no_grad()
    def embed(self, views: torch.Tensor) -> torch.Tensor:
        """The teacher's unit vectors k (B, width) of views (B, 3, H, W)."""
        return unit(self.teacher_projector(self.model.pooled(views)))

    def predict(self, views: torch.Tensor) -> torch.Tensor:
        """The student's unit vectors q (B, width) of views (B, 3, H, W)."""
        return unit(self.predictor(self.student_projector(self.student.pooled(views))))

    def loss(self, images: torch.Tensor, ids: torch.Tensor) -> dict[str, torch.Tensor]:
        first, second = (
            views.contiguous(memory_format=torch.channels_last) for views in self.two_views(images)
        )
        if self.training:
            self.follow()
        asked = self.predict(first), self.predict(second)  # (n, width) each
        targets = self.embed(first), self.embed(second)
        self.recent.add(targets[0])
        agreement = ((asked[0] * targets[1]).sum(1) + (asked[1] * targets[0]).sum(1)).mean() / 2
        return {"loss": 4 - 4 * agreement, "agreement": agreement}


def _two_layers(width: int, hidden: int, out: int) -> nn.Module:
    return nn.Sequential(
        nn.Linear(width, hidden),
        nn.BatchNorm1d(hidden),
        nn.ReLU(inplace=True),
        nn.Linear(hidden, out),
    )
