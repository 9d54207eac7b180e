"""Relational distillation: the student sees a memory of teacher vectors as the teacher does.

Sources: Kim, Woo and Nang, "Relational Self-Supervised Distillation with Compact Descriptors for
Image Copy Detection", WACV 2025; the single-queue form of CompRess (Koohpayegani et al., NeurIPS
2020); with current teacher vectors among the keys, SEED (Fang et al., ICLR 2021) and kd_icd.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from iscutils.files.artifacts import KitError
from iscutils.losses.contrastive import at_least_float32


class RelationalDistillation(nn.Module):
    """Divergence of two distributions over the same teacher vectors a_k, mean over rows.

        p_T = softmax over k of <t, a_k> / temperature,   p_S likewise of the student's vector
        "kl":             KL(p_T || p_S),   0 when the student agrees
        "cross_entropy":  - sum p_T log p_S = KL + the teacher's entropy, of the same gradient

    Args:
        temperature: on both sides; .04 in RDCD, .05 in kd_icd.
        form: "kl" or "cross_entropy" (as kd_icd was published).
    """

    def __init__(self, temperature: float = 0.04, form: str = "kl"):
        super().__init__()
        if form not in ("kl", "cross_entropy"):
            raise KitError(f"relational loss '{form}' is unknown: choose kl or cross_entropy")
        self.temperature, self.form = temperature, form

    def forward(
        self, teacher: torch.Tensor, student: torch.Tensor, keys: torch.Tensor
    ) -> torch.Tensor:
        """Loss of unit rows, in float32 also under autocast.

        Args:
            teacher: teacher vectors (M, D).
            student: student vectors in the teacher's space (M, D); they alone get a gradient.
            keys: teacher vectors (K, D), those of earlier batches as they were before this step.
        """
        with torch.autocast(student.device.type, enabled=False):
            student = at_least_float32(student)
            teacher, keys = teacher.detach().to(student.dtype), keys.detach().to(student.dtype)
            target = F.log_softmax(teacher @ keys.T / self.temperature, dim=1)  # (M, K)
            answer = F.log_softmax(student @ keys.T / self.temperature, dim=1)  # (M, K)
            if self.form == "kl":
                return F.kl_div(answer, target, reduction="batchmean", log_target=True)
            return -(target.exp() * answer).sum(1).mean()
