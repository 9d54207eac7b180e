"""JPEG's loss for whole batches: colour subsampling and 8 x 8 cosine transforms as tensor maths.

Steps and constants are those of the baseline process of ITU-T T.81 (1992) with the quantisation
tables of its annex K, scaled by quality as the Independent JPEG Group's library does. Coding
itself loses nothing and is left out.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch.nn import functional as F

LUMINANCE = (
    16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55, 14, 13, 16, 24, 40, 57, 69, 56,
    14, 17, 22, 29, 51, 87, 80, 62, 18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113,
    92, 49, 64, 78, 87, 103, 121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99,
)  # fmt: skip
CHROMINANCE = (
    17, 18, 24, 47, 99, 99, 99, 99, 18, 21, 26, 66, 99, 99, 99, 99, 24, 26, 56, 99, 99, 99, 99, 99,
    47, 66, 99, 99, 99, 99, 99, 99, *[99] * 32,
)  # fmt: skip
TO_YCC = ((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))


def jpeg(views: torch.Tensor, quality: torch.Tensor) -> torch.Tensor:
    """Views (n, 3, H, W) in [0, 1] as they look after JPEG of qualities (n,) 1 to 100, 4:2:0."""
    height, width = views.shape[-2:]
    # Whole blocks of 16 x 16 px, the last row and column repeated
    padded = F.pad(views, (0, -width % 16, 0, -height % 16), mode="replicate")
    matrix = torch.tensor(TO_YCC, device=views.device)
    ycc = matrix @ (padded * 255).round().flatten(2)  # (n, 3, P), chroma about 0
    ycc = ycc.view_as(padded).round()
    chroma = F.avg_pool2d(ycc[:, 1:], 2).round()
    luma_table, chroma_table = quantisation(quality)
    luma = _quantised(ycc[:, :1] - 128, luma_table) + 128
    chroma = _quantised(chroma, chroma_table).clamp(-128, 127)
    chroma = F.interpolate(chroma, scale_factor=2, mode="bilinear", align_corners=False)
    ycc = torch.cat([luma.clamp(0, 255), chroma], 1)
    rgb = torch.linalg.inv(matrix.double()).float() @ ycc.flatten(2)
    rgb = rgb.view_as(padded)[..., :height, :width]
    return rgb.round().clamp(0, 255) / 255


def quantisation(quality: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Quantisation tables of luminance and chrominance, both (n, 64), for qualities (n,)."""
    quality = quality.float().clamp(1, 100)
    scale = torch.where(quality < 50, (5000 / quality).floor(), 200 - 2 * quality)
    tables = torch.tensor([LUMINANCE, CHROMINANCE], device=quality.device, dtype=torch.float32)
    scaled = ((tables[:, None] * scale[:, None] + 50) / 100).floor().clamp(1, 255)
    return scaled[0], scaled[1]


def _quantised(planes: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    """Planes (n, C, H, W), sides multiples of 8, with their coefficients rounded to a table."""
    n, channels, height, width = planes.shape
    transform = _transform().to(planes)
    blocks = planes.reshape(n, channels * height // 8, 8, width // 8, 8).transpose(2, 3)
    table = table.reshape(n, 1, 1, 64)
    coefficients = blocks.reshape(n, channels * height // 8, width // 8, 64) @ transform.T
    coefficients = (coefficients / table).round() * table
    blocks = (coefficients @ transform).view(n, channels * height // 8, width // 8, 8, 8)
    return blocks.transpose(2, 3).reshape(planes.shape).round()


@lru_cache(maxsize=1)
def _transform() -> torch.Tensor:
    """The orthonormal cosine transform of 8 x 8 blocks as one matrix (64, 64)."""
    frequency, place = torch.arange(8)[:, None], torch.arange(8)[None]
    matrix = torch.cos((2 * place + 1) * frequency * math.pi / 16) / 2
    matrix[0] /= math.sqrt(2)
    return torch.kron(matrix, matrix)
