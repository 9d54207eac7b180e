"""Which device computes, and in which precision: half the bits where they are the faster ones."""

from __future__ import annotations

import torch
from torch import nn

from iscutils.files.artifacts import KitError


def pick_device(device: str = "auto") -> torch.device:
    """`auto` is the first GPU when there is one, else the CPU; other names as torch knows them."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise KitError(f"device '{device}' is unknown: choose auto, cpu or cuda") from error
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise KitError("device 'cuda' was asked for, but torch sees no GPU: choose auto or cpu")
    return chosen


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


def pick_precision(precision: str, device: torch.device, network: nn.Module) -> str:
    """Lightning's name of a precision; `auto` is bf16 where that is fast, see `fast_in_bf16`."""
    if precision != "auto":
        return precision
    return "bf16-mixed" if fast_in_bf16(network, device) else "32-true"
