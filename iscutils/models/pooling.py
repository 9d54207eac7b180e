"""Pooling of feature maps into one vector an image."""

from __future__ import annotations

import torch
from torch import nn


class GeM(nn.Module):
    """Generalised mean over positions: ( mean of max(x, 1e-6)^p )^(1/p), p fixed.

    p = 1 is the clamped mean, large p tends to the maximum. Source: Radenovic et al., "Fine-tuning
    CNN Image Retrieval with No Human Annotation", 2018; p = 3 fixed as in SSCD 4.1 (a learnt p
    diverges under the contrastive loss).
    """

    def __init__(self, p: float = 3.0):
        super().__init__()
        self.p = p

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Pool a map (B, C, H, W) to (B, C) in float32."""
        with torch.autocast(features.device.type, enabled=False):
            features = features if features.dtype == torch.float64 else features.float()
            powers = features.clamp(min=1e-6).pow(self.p)
            return powers.mean(dim=(2, 3)).pow(1 / self.p)

    def extra_repr(self) -> str:
        return f"p={self.p}"
