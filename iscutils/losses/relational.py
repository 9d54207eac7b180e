"""Relational distillation: the student sees a memory of teacher vectors as the teacher does.

Source: Kim, Woo and Nang, "Relational Self-Supervised Distillation with Compact Descriptors for
Image Copy Detection", WACV 2025; the single-queue form of CompRess (NeurIPS 2020).
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F


class RelationalDistillation(nn.Module):
    """KL( softmax(teacher keys^T / t) || softmax(student keys^T / t) ), mean over rows."""

    def __init__(self, temperature: float = 0.04):
        super().__init__()
        self.temperature = temperature

    def forward(
        self, teacher: torch.Tensor, student: torch.Tensor, keys: torch.Tensor
    ) -> torch.Tensor:
        """Loss of unit rows.

        Args:
            teacher: teacher vectors (M, D); no gradient flows into them.
            student: student vectors in the teacher's space (M, D).
            keys: teacher vectors of earlier batches (K, D), as they were before this step.
        """
        with torch.autocast(student.device.type, enabled=False):
            kind = student.dtype if student.dtype == torch.float64 else torch.float32
            teacher, student, keys = teacher.detach().to(kind), student.to(kind), keys.to(kind)
            target = F.log_softmax(teacher @ keys.T / self.temperature, dim=1)  # (M, K)
            answer = F.log_softmax(student @ keys.T / self.temperature, dim=1)  # (M, K)
            return F.kl_div(answer, target, reduction="batchmean", log_target=True)
