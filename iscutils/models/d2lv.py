"""Parts of D2LV's and BoT's networks, and how their published files call them.

Sources: Wang et al., "D^2LV: A Data-Driven and Local-Verification Approach for Image Copy
Detection" (arXiv 2111.07090) and "Bag of Tricks and A Strong Baseline for Image Copy Detection"
(arXiv 2111.08004), both 2021, and the public test code of both.
"""

from __future__ import annotations

import re
from collections.abc import Collection

import torch
from torch import nn

from iscutils.files.artifacts import KitError

PROJECTORS = ("d2lv", "bot")
WAVE_KEPT, WAVE_FACTOR = 0.3, 1.5  # share of the rows that stay, and what the others are times
SLOPE = 0.2  # of the leaky ReLUs
SIZE = 256  # side in pixels of the inputs of published files

# Published names -> the kit's, as beginnings. `base.10.p` is the power of the pooling.
_OFFICIAL = {
    "base.0.": "backbone.net.conv1.",
    "base.1.": "backbone.net.bn1.",
    "base.4.": "backbone.net.layer1.",
    "base.5.": "backbone.net.layer2.",
    "base.7.": "backbone.net.layer3.",
    "base.9.": "backbone.net.layer4.",
    "projector_feat_bn.0.": "head.wide.",
    "projector_feat_bn.1.": "head.wide_neck.",
    "matrix_feat_bn.0.": "head.compact.",
    "matrix_feat_bn.1.": "head.compact_neck.",
}
GEM_POWER = "base.10.p"
# Blocks in the third layer, and whether they have three convolutions -> torchvision's name.
_RESNETS = {
    (2, False): "resnet18",
    (6, False): "resnet34",
    (6, True): "resnet50",
    (23, True): "resnet101",
    (36, True): "resnet152",
}


class WaveBlock(nn.Module):
    """In training, all rows of a map but one stripe are multiplied by 1.5; otherwise nothing.

    One stripe for the whole batch and all channels, round(.3 H) rows high, its start uniform. It
    comes from torch's generator on the CPU, which costs a GPU no waiting. Source: Wang et al.,
    "Attentive WaveBlock", IEEE TIP 2022; D2LV sets it behind layers 2 and 3.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (B, C, H, W) of the same shape."""
        if not self.training:
            return x
        rows = x.shape[2]
        kept = round(WAVE_KEPT * rows)
        start = int(torch.randint(rows - kept + 1, (), device="cpu"))
        factors = x.new_full((rows, 1), WAVE_FACTOR)
        factors[start : start + kept] = 1
        return x * factors


def add_waves(network: nn.Module, name: str) -> None:
    """Put a WaveBlock behind layers 2 and 3 of a ResNet, in place; weights keep their names."""
    for layer in _layers(network, name, "wave", "layer2", "layer3"):
        layer.add_module("wave", WaveBlock())


def remove_last_stride(network: nn.Module, name: str) -> None:
    """Let the last layer of a ResNet keep the size of its input, in place.

    Its first block, convolution and shortcut alike, moves by one position. No dilation.
    """
    (layer,) = _layers(network, name, "last_stride=1", "layer4")
    for part in layer[0].modules():
        if isinstance(part, nn.Conv2d) and part.stride == (2, 2):
            part.stride = (1, 1)
        elif isinstance(part, nn.AvgPool2d) and part.stride in (2, (2, 2)):  # timm's shortcuts
            part.stride = part.kernel_size = 1


class Projector(nn.Module):
    """Head of D2LV and BoT: pooled features (B, C) -> wide features (B, 4C) -> compact (B, dim).

    Wide: linear layer to 2C, batch norm, leaky ReLU .2, linear layer to 4C, batch norm. Compact
    ("bot"): batch norm, leaky ReLU .2, linear layer to dim, batch norm. The last norm of either has
    no bias to train: it stays 0, so that classes are divided by planes through the origin (the
    BN-neck of Luo et al., "Bag of Tricks and A Strong Baseline for Deep Person Re-identification",
    2019). ResNet-50: 2048 -> 8192 -> 256.

    Args:
        channels: C.
        dim: values of the compact features; 0 ("d2lv"): there are none.
    """

    def __init__(self, channels: int, dim: int = 0):
        super().__init__()
        inner, wide = 2 * channels, 4 * channels
        self.wide = nn.Sequential(
            nn.Linear(channels, inner),
            nn.BatchNorm1d(inner),
            nn.LeakyReLU(SLOPE),
            nn.Linear(inner, wide),
        )
        self.wide_neck = _neck(wide)
        self.compact: nn.Module | None = None
        if dim:
            layers = (nn.BatchNorm1d(wide), nn.LeakyReLU(SLOPE), nn.Linear(wide, dim))
            self.compact, self.compact_neck = nn.Sequential(*layers), _neck(dim)

    def forward(self, pooled: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Wide features and descriptors, (B, 4C) and (B, dim); twice the same without compact."""
        wide = self.wide_neck(self.wide(pooled))
        if self.compact is None:
            return wide, wide
        return wide, self.compact_neck(self.compact(wide))


def official_name(name: str) -> str:
    """How published files of D2LV and BoT call a weight of the kit's Descriptor."""
    for theirs, ours in _OFFICIAL.items():
        if name.startswith(ours):
            return theirs + name.removeprefix(ours)
    return name


def resnet_name(names: Collection[str], first: str = "layer1.", third: str = "layer3.") -> str:
    """Backbone to which weights of a ResNet belong, by their names; "" for none that is known.

    Args:
        first, third: what the names of the first and third layer begin with.
    """
    blocks = {re.split(r"\.", name[len(third) :])[0] for name in names if name.startswith(third)}
    resnet = _RESNETS.get((len(blocks), f"{first}0.conv3.weight" in names))
    if resnet is None:
        return ""
    return f"{resnet}_ibn_a" if f"{first}0.bn1.IN.weight" in names else f"torchvision:{resnet}"


def _neck(width: int) -> nn.BatchNorm1d:
    neck = nn.BatchNorm1d(width)
    neck.bias.requires_grad_(False)
    return neck


def _layers(network: nn.Module, name: str, setting: str, *layers: str) -> list[nn.Sequential]:
    found = [getattr(network, layer, None) for layer in layers]
    if not all(isinstance(layer, nn.Sequential) for layer in found):
        raise KitError(
            f"{setting} is made for ResNets, whose layers '{name}' does not have: choose a ResNet, "
            "e.g. torchvision:resnet50 or resnet50_ibn_a, or leave it out"
        )
    return found
