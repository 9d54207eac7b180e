"""Where half the bits are the faster ones."""

from __future__ import annotations

import torch
from torch import nn


def fast_in_bf16(network: nn.Module, device: torch.device) -> bool:
    """Whether a network runs faster in bf16 than in fp32 on a device.

    True on GPUs since Ampere and on CPUs with AVX512-BF16; others emulate it, several times slower.
    Depth-wise convolutions, as MobileNets have, are two to three times slower in bf16 on any CPU.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    fast = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)()
    convolutions = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d)]
    return fast and not any(layer.groups == layer.in_channels > 1 for layer in convolutions)
