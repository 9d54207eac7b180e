"""The descriptor network every system of the kit shares, and how it is written to disc."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

from iscutils.files.artifacts import KitError, Run, atomic_path, write_json
from iscutils.models.backbones import Backbone
from iscutils.models.d2lv import PROJECTORS, Projector
from iscutils.models.pooling import GeM, TokenGeM

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, as all five systems use
NECK_WIDTH = 1280  # of MobileNetV3-Large's published classifier


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
    neck: str = ""  # "hardswish": linear layer to 1280 values and Hardswish, before the head
    dropout: float = 0.0  # share of the values before the head that training sets to 0
    last_stride: int = 2  # 1: the last layer of a ResNet keeps the size of its input (D2LV)
    wave: bool = False  # rows of a ResNet's maps are amplified in training (D2LV's WaveBlock)
    # Head of D2LV instead of linear layers, for C pooled values: "d2lv" gives 4 C whatever `dim`
    # says, "bot" has a compact layer of `dim` values behind it.
    projector: str = ""


# Students of kd_icd and RDCD: what they need besides sizes. MobileNetV3 keeps the wide layer of its
# classifier; the others have their head on the pooled features.
STUDENTS: dict[str, dict[str, str]] = {
    "resnet18": {"backbone": "torchvision:resnet18"},
    "efficientnet_b0": {"backbone": "torchvision:efficientnet_b0"},
    "mobilenet_v3_large": {"backbone": "torchvision:mobilenet_v3_large", "neck": "hardswish"},
    "mobilevit_s": {"backbone": "mobilevit_s"},
    "regnet_y_800mf": {"backbone": "torchvision:regnet_y_800mf"},
    "fastvit_t12": {"backbone": "fastvit_t12"},
}


def student_config(name: str, dim: int, hidden: int = 0, **others: Any) -> DescriptorConfig:
    """Configuration of a student by its published name (see `STUDENTS`) or any backbone's name."""
    return DescriptorConfig(
        **{"backbone": name, **STUDENTS.get(name, {}), "dim": dim, "hidden": hidden, **others}
    )


class Descriptor(nn.Module):
    """Backbone -> GeM -> linear layer(s) or projector -> L2: one unit vector an image.

    Normalisation belongs to the model: `forward` takes (B, 3, H, W) in [0, 1] and returns
    (B, D) float32 unit rows, higher inner product = more alike.
    """

    def __init__(
        self, config: DescriptorConfig | None = None, pretrained: bool = False, seed: int = 0
    ):
        super().__init__()
        self.config = config or DescriptorConfig()
        _check(self.config)
        with torch.random.fork_rng(devices=[]):  # the caller's random state stays as it was
            torch.manual_seed(seed)
            self.backbone = Backbone(
                self.config.backbone,
                pretrained=pretrained,
                zero_gamma=self.config.zero_gamma,
                last_stride=self.config.last_stride,
                wave=self.config.wave,
            )
            pool = TokenGeM if self.backbone.tokens else GeM
            self.pool = nn.Identity() if self.backbone.pools else pool(self.config.gem)
            width = self.backbone.channels
            self.neck: nn.Module = nn.Identity()
            if self.config.neck:
                self.neck = nn.Sequential(*_linear(width, NECK_WIDTH), nn.Hardswish())
                width = NECK_WIDTH
            self.dropout = nn.Dropout(self.config.dropout)
            if self.config.projector == "d2lv":
                self.config = replace(self.config, dim=4 * width)
                self.head = Projector(width)
            elif self.config.projector:
                self.head = Projector(width, self.config.dim)
            else:
                self.head = _head(width, self.config.hidden, self.config.dim)
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
        # It becomes part of file names, where a colon is not welcome everywhere.
        return f"{self.config.backbone.replace(':', '-')}-{self.dim}d"

    def pooled(self, images: torch.Tensor) -> torch.Tensor:
        """Pooled backbone features (B, C) of images (B, 3, H, W) in [0, 1]."""
        if images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(f"expected images (B, 3, H, W), got {tuple(images.shape)}")
        patch = self.backbone.patch
        if images.shape[2] % patch or images.shape[3] % patch:
            raise KitError(
                f"images of {images.shape[2]} x {images.shape[3]} pixels do not divide into the "
                f"patches of '{self.config.backbone}': choose sides that are multiples of {patch} "
                "(resize='squash')"
            )
        return self.pool(self.backbone((images - self.mean) / self.std))

    def expand(self, pooled: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Wide features h (B, hidden) and descriptor z (B, D) of pooled features, not normalised.

        z is linear in h; without `hidden`, h is z itself. With a projector h is its wide part
        (B, 4 C), and so is z unless there is a compact part ("bot").
        """
        features = self.dropout(self.neck(pooled))
        if self.config.projector:
            return self.head(features)
        if not self.config.hidden:
            compact = self.head(features)
            return compact, compact
        wide = self.head[0](features)
        return wide, self.head[1](wide)

    def raw(self, images: torch.Tensor) -> torch.Tensor:
        """Descriptors (B, D) float32 of images (B, 3, H, W) in [0, 1], before normalisation."""
        return self.expand(self.pooled(images))[1].float()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Unit descriptors (B, D) of images (B, 3, H, W) in [0, 1]."""
        return F.normalize(self.raw(images), dim=1)

    def start_from(self, model: str | Path | None, run: Run | None = None) -> Descriptor:
        """Copy the weights of whatever `find_model` finds ("" or None: keep the own); gives itself.

        Those of the backbone, and those behind it where that model has the same layers there. The
        one layer of a teacher becomes the first of a student's two, if it is as wide.

        Raises:
            KitError: that model has another backbone.
        """
        if model:
            from iscutils.models.loading import find_model, load  # it builds Descriptors

            other = load(find_model(model, run))
            if not isinstance(other, Descriptor):
                raise KitError(
                    f"{model} is {other.kind}, for inference alone: start from the same weights in "
                    "torchvision or classy layout, or from a model folder"
                )
            if other.config.backbone != self.config.backbone:
                raise KitError(
                    f"{model} has backbone '{other.config.backbone}', not "
                    f"'{self.config.backbone}': pretrain this one, or start from noise"
                )
            self.backbone.load_state_dict(other.backbone.state_dict())
            if _behind(other.config) == _behind(self.config):
                self.neck.load_state_dict(other.neck.state_dict())
                self.head.load_state_dict(other.head.state_dict())
            elif first_of_two(other.config, self.config):
                self.head[0].load_state_dict(other.head.state_dict())
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


def state_key(model: nn.Module) -> str:
    """Ten hexadecimal digits that change with any weight or buffer of a network."""
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().float().contiguous().numpy().tobytes())
    return digest.hexdigest()[:10]


def _save_tensors(state: Mapping[str, torch.Tensor], path: Path) -> None:
    save_file({name: value.detach().cpu().contiguous() for name, value in state.items()}, path)


def _check(config: DescriptorConfig) -> None:
    if config.neck not in ("", "hardswish"):
        raise KitError(f"neck '{config.neck}' is unknown: choose 'hardswish', or '' for none")
    if not 0 <= config.dropout < 1:
        raise KitError(f"dropout {config.dropout} is no share of the values: choose 0 up to .9")
    if not config.dim and (config.hidden or config.neck):
        raise KitError(
            "dim 0 means the pooled features themselves: with a hidden layer or a neck, give the "
            "descriptor's number of values as dim"
        )
    if config.last_stride not in (1, 2):
        raise KitError(f"last_stride {config.last_stride}: choose 2 (as usual) or 1 (D2LV)")
    if not config.projector:
        return
    if config.projector not in PROJECTORS:
        known = " or ".join(f"'{name}'" for name in PROJECTORS)
        raise KitError(f"projector '{config.projector}' is unknown: choose {known}, or '' for none")
    if config.hidden or config.neck:
        raise KitError(
            f"projector '{config.projector}' is a head of its own: leave out hidden and neck"
        )
    if config.projector == "bot" and not config.dim:
        raise KitError("projector 'bot' needs the number of its compact values as dim, e.g. 256")


def _behind(config: DescriptorConfig) -> tuple:
    """What decides the layers behind the pooling of one backbone."""
    return config.dim, config.hidden, config.neck, config.projector


def first_of_two(teacher: DescriptorConfig, student: DescriptorConfig) -> bool:
    """Whether a student's first layer could be all that a teacher has behind the pooling."""
    wide = student.hidden, 0, "", ""
    return bool(student.hidden) and not student.neck and _behind(teacher) == wide


def _head(channels: int, hidden: int, dim: int) -> nn.Module:
    if dim == 0:
        return nn.Identity()
    layers = _linear(channels, *([hidden] if hidden else []), dim)
    return layers[0] if len(layers) == 1 else nn.Sequential(*layers)


def _linear(*widths: int) -> list[nn.Linear]:
    """Linear layers from each width to the next one, Xavier-uniform with zero biases."""
    layers = [nn.Linear(a, b) for a, b in itertools.pairwise(widths)]
    for layer in layers:
        nn.init.xavier_uniform_(layer.weight)
        nn.init.zeros_(layer.bias)
    return layers
