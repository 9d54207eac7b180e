"""ResNets of the IBN-a kind: half of the first norms keep no trace of an image's contrast."""

from __future__ import annotations

import re

import torch
import torchvision
from torch import nn

DEPTHS = (18, 34, 50, 101, 152)
NAMES = tuple(f"resnet{depth}_ibn_a" for depth in DEPTHS)
SPLIT_LAYERS = ("layer1", "layer2", "layer3")


class IBN(nn.Module):
    """First half of the channels: instance norm with weights; second half: batch norm.

    Source: Pan et al., "Two at Once: Enhancing Learning and Generalization Capacities via IBN-Net",
    ECCV 2018, figure 3(a). The parts are called `IN` and `BN`, as in published weights.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.half = channels // 2
        self.IN = nn.InstanceNorm2d(self.half, affine=True)
        self.BN = nn.BatchNorm2d(channels - self.half)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalised map (B, C, H, W)."""
        return torch.cat([self.IN(x[:, : self.half]), self.BN(x[:, self.half :])], dim=1)


def ibn_resnet(name: str) -> nn.Module:
    """torchvision's ResNet with the first norm of every block of layers 1-3 split; random weights.

    Args:
        name: one of `NAMES`, e.g. `resnet50_ibn_a`.
    """
    network = torchvision.models.get_model(re.sub("_ibn_a$", "", name), weights=None)
    for layer in SPLIT_LAYERS:
        for block in getattr(network, layer):
            block.bn1 = IBN(block.bn1.num_features)
    return network
