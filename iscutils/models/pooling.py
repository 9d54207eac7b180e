"""Pooling of feature maps and tokens into one vector an image."""

from __future__ import annotations

import torch
from torch import nn


class GeM(nn.Module):
    """Generalised mean over positions: ( mean of max(x, 1e-6)^p )^(1/p), p fixed.

    p = 1 is the clamped mean, large p tends to the maximum. Source: Radenovic et al., "Fine-tuning
    CNN Image Retrieval with No Human Annotation", 2018; p = 3 fixed as in SSCD 4.1 (a learnt p
    diverges under the contrastive loss). Trunks that end in SiLU or Hardswish give slightly
    negative values, which count as 1e-6 too.
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


class TokenGeM(GeM):
    """Class token, followed by the generalised mean of the patch tokens: twice the channels.

    Any number of patch tokens. Source: the DINO baseline of SSCD (Pizzi et al., CVPR 2022,
    appendix D), p = 4.
    """

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Pool tokens (B, 1 + T, C), the class token first, to (B, 2 C) in float32."""
        patches = tokens[:, 1:].transpose(1, 2)[..., None]  # (B, C, T, 1)
        pooled = super().forward(patches)
        return torch.cat([tokens[:, 0].to(pooled.dtype), pooled], dim=1)
