"""What files of networks in other formats share: they describe, and nothing else."""

from __future__ import annotations

import torch
from torch import nn

from iscutils.files.artifacts import KitError
from iscutils.models.descriptor import MEAN, STD, DescriptorConfig


class InferenceOnly(nn.Module):
    """A descriptor that cannot be trained: images (B, 3, H, W) in [0, 1] -> unit rows (B, D).

    Always in eval mode. Sub-classes say what `forward` does.

    Args:
        config: name (as `backbone`), dim, size and resize of the file.
    """

    kind = "a file of this kind"

    def __init__(self, config: DescriptorConfig):
        super().__init__()
        self.config = config
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(1, 3, 1, 1), persistent=False)
        self.eval()

    @property
    def dim(self) -> int:
        return self.config.dim

    @property
    def size(self) -> int:
        return self.config.size

    @property
    def name(self) -> str:
        return f"{self.config.backbone.replace(':', '-')}-{self.dim}d"

    def train(self, mode: bool = True) -> InferenceOnly:
        """Stays in eval mode."""
        return super().train(False)

    def pooled(self, images: torch.Tensor) -> torch.Tensor:
        """Not to be had from such a file."""
        raise KitError(
            f"{self.kind} is for inference alone: to train or to start from it, load the same "
            "weights in torchvision or classy layout, or a model folder"
        )

    def parameter_count(self) -> int:
        """Number of weights."""
        return sum(parameter.numel() for parameter in self.parameters())


def check_images(images: torch.Tensor) -> None:
    """`ValueError` unless the images are (B, 3, H, W)."""
    if images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"expected images (B, 3, H, W), got {tuple(images.shape)}")
