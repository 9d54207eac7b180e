"""Convolutional trunks by timm name, as feature maps."""

from __future__ import annotations

import difflib

import timm
import torch
from torch import nn

from iscutils.artifacts import KitError


class Backbone(nn.Module):
    """A timm network without classifier and pooling: (B, 3, H, W) -> map (B, C, h, w).

    Args:
        name: timm model name, e.g. `resnet10t`, `resnet50`, `mobilenetv3_small_100`.
        pretrained: download timm's weights (network access, only when asked for).
        zero_gamma: start the last batch norm of every residual block at 0, so that blocks begin
            as identities (needed by SSCD with a strong entropy term).
    """

    def __init__(self, name: str, pretrained: bool = False, zero_gamma: bool = False):
        super().__init__()
        if name not in timm.list_models():
            close = difflib.get_close_matches(name, timm.list_models(), n=3)
            hint = f"; did you mean {' or '.join(close)}?" if close else ""
            raise KitError(f"timm knows no model '{name}'{hint}")
        self.name = name
        # ResNets of timm start their last gammas at 0 unless told otherwise.
        options = {"zero_init_last": zero_gamma} if "resnet" in name or "resnext" in name else {}
        self.net = timm.create_model(
            name, pretrained=pretrained, num_classes=0, global_pool="", **options
        )
        self.channels = self._channels()

    @torch.no_grad()
    def _channels(self) -> int:
        training = self.net.training
        features = self.net.eval()(torch.zeros(1, 3, 64, 64))
        self.net.train(training)
        if features.ndim != 4:
            raise KitError(f"'{self.name}' gives no feature map: choose a convolutional network")
        return features.shape[1]

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Feature map (B, C, h, w) of normalised images (B, 3, H, W)."""
        return self.net(images)
