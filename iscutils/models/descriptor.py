"""The descriptor network every system of the kit shares, and its folder on disc."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F

from iscutils.artifacts import KitError, atomic_path, content_key, file_hash, write_json
from iscutils.models.backbones import Backbone
from iscutils.models.pooling import GeM

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, as all five systems use


@dataclass(frozen=True)
class DescriptorConfig:
    """What a Descriptor is made of."""

    backbone: str = "resnet10t"
    dim: int = 128  # values of the descriptor; 0 = the pooled features themselves
    size: int = 80  # side of the input in pixels
    resize: str = "squash"  # "squash" to size x size, or "short" side to size keeping the aspect
    gem: float = 3.0  # power of the generalised mean
    hidden: int = 0  # width of a linear layer before the last one (distilled students); 0 = none
    zero_gamma: bool = False


class Descriptor(nn.Module):
    """Backbone -> GeM -> linear layer(s) -> L2: one unit vector an image.

    Normalisation belongs to the model: `forward` takes (B, 3, H, W) in [0, 1] and returns
    (B, D) float32 unit rows, higher inner product = more alike.
    """

    def __init__(
        self, config: DescriptorConfig | None = None, pretrained: bool = False, seed: int = 0
    ):
        super().__init__()
        self.config = config or DescriptorConfig()
        with torch.random.fork_rng(devices=[]):  # the caller's random state stays as it was
            torch.manual_seed(seed)
            self.backbone = Backbone(
                self.config.backbone, pretrained=pretrained, zero_gamma=self.config.zero_gamma
            )
            self.head = _head(self.backbone.channels, self.config.hidden, self.config.dim)
        self.pool = GeM(self.config.gem)
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(1, 3, 1, 1), persistent=False)

    @property
    def dim(self) -> int:
        return self.config.dim or self.backbone.channels

    @property
    def size(self) -> int:
        return self.config.size

    @property
    def name(self) -> str:
        return f"{self.config.backbone}-{self.dim}d"

    def pooled(self, images: torch.Tensor) -> torch.Tensor:
        """Pooled backbone features (B, C) of images (B, 3, H, W) in [0, 1]."""
        if images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(f"expected images (B, 3, H, W), got {tuple(images.shape)}")
        return self.pool(self.backbone((images - self.mean) / self.std))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Unit descriptors (B, D) of images (B, 3, H, W) in [0, 1]."""
        return F.normalize(self.head(self.pooled(images)).float(), dim=1)

    def start_from(self, folder: str | Path | None) -> Descriptor:
        """Copy the backbone weights of a model folder (None: keep the own); returns itself."""
        if folder is not None:
            other = load(folder)
            if other.config.backbone != self.config.backbone:
                raise KitError(
                    f"{folder} has backbone '{other.config.backbone}', not "
                    f"'{self.config.backbone}': pretrain this one, or set from_pretrained=False"
                )
            self.backbone.load_state_dict(other.backbone.state_dict())
        return self

    def parameter_count(self) -> int:
        """Number of weights."""
        return sum(parameter.numel() for parameter in self.parameters())

    def save(
        self,
        folder: str | Path,
        metrics: Mapping[str, Any] | None = None,
        texts: Mapping[str, str] | None = None,
        extra: Mapping[str, torch.Tensor] | None = None,
    ) -> Path:
        """Write a model folder atomically: config.json, model.safetensors, metrics.json.

        `texts` are further small files, {file name: content}; `extra` are tensors that only
        training needs, kept in `training.safetensors`.
        """
        with atomic_path(folder) as temporary:
            temporary.mkdir()
            write_json(temporary / "config.json", asdict(self.config))
            write_json(temporary / "metrics.json", metrics or {})
            for name, text in (texts or {}).items():
                (temporary / name).write_text(text, encoding="utf-8")
            _save_tensors(self.state_dict(), temporary / "model.safetensors")
            if extra:
                _save_tensors(extra, temporary / "training.safetensors")
        return Path(folder)


def _save_tensors(state: Mapping[str, torch.Tensor], path: Path) -> None:
    save_file({name: value.detach().cpu().contiguous() for name, value in state.items()}, path)


def _head(channels: int, hidden: int, dim: int) -> nn.Module:
    if dim == 0:
        return nn.Identity()
    widths = [channels, *([hidden] if hidden else []), dim]
    layers = [nn.Linear(a, b) for a, b in itertools.pairwise(widths)]
    for layer in layers:
        nn.init.xavier_uniform_(layer.weight)
        nn.init.zeros_(layer.bias)
    return layers[0] if len(layers) == 1 else nn.Sequential(*layers)


def load(folder: str | Path) -> Descriptor:
    """Load a model folder (`config.json` + `model.safetensors`) in eval mode.

    Raises:
        KitError: the folder or one of its files is missing or does not fit.
    """
    folder = Path(folder)
    config_file, weights_file = folder / "config.json", folder / "model.safetensors"
    for file in (config_file, weights_file):
        if not file.is_file():
            raise KitError(f"{folder} is no model folder: {file.name} is missing")
    try:
        model = Descriptor(DescriptorConfig(**json.loads(config_file.read_text())))
        model.load_state_dict(load_file(weights_file))
    except (TypeError, RuntimeError, SafetensorError, json.JSONDecodeError) as error:
        reason = str(error).splitlines()[0]
        raise KitError(f"{folder}: weights and config.json do not fit ({reason})") from error
    return model.eval()


def state_key(model: nn.Module) -> str:
    """Ten hexadecimal digits that change with any weight or buffer of a network."""
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().float().contiguous().numpy().tobytes())
    return digest.hexdigest()[:10]


def model_key(folder: str | Path) -> str:
    """Ten hexadecimal digits that change with a model folder's weights or configuration."""
    folder = Path(folder)
    return content_key(
        (folder / "config.json").read_text(), file_hash(folder / "model.safetensors")
    )
