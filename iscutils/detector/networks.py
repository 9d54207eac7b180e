"""Networks of the overlay detector, put together from torchvision's parts."""

from __future__ import annotations

import difflib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn
from torchvision.models.detection import (
    FCOS,
    fasterrcnn_mobilenet_v3_large_fpn,
    ssdlite320_mobilenet_v3_large,
)
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.fcos import FCOSHead
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from iscutils.descriptors.boxes import BOX, CLASSES
from iscutils.files.artifacts import KitError
from iscutils.models import Descriptor, load
from iscutils.models.backbones import Backbone

LEAST = 0.05  # confidence of the detections that are listed
OVERLAP = 0.45  # intersection over union above which the less confident of two boxes goes (imgFp)
MOST = 50  # detections a picture
OUTPUTS = len(CLASSES) + 1  # torchvision counts the background as class 0
IMAGENET = "imagenet"


@dataclass(frozen=True)
class DetectorConfig:
    """What an overlay detector is made of and how it is trained; the defaults are full scale."""

    network: str = "fcos"  # fcos, fcos_small, faster_rcnn or ssdlite
    size: int = 640  # long side of a picture in px; ssdlite squashes to a square of it
    pictures: int = 20_000  # made for training
    held_out: int = 2_000  # made of other photographs, for measuring
    epochs: int = 30
    batch_size: int = 16
    optimiser: str = "sgd"  # sgd or adamw
    rate: float = 0.01  # learning rate at its highest
    weight_decay: float = 5e-4
    warmup: int = 500  # steps, at most a tenth of all
    trunk: str = ""  # start weights: "" random, "imagenet" (a download), or a model folder
    backbone: str = ""  # of fcos: "" that of the trunk's model folder, else the network's own
    precision: str = "auto"  # auto, 32-true or bf16-mixed
    recipe: str = "overlay_boxes"  # of the pictures
    seed: int = 0


# Minutes to seconds on a CPU: a narrow network, small pictures, few of them.
SMALL = {
    "network": "fcos_small",
    "size": 128,
    "pictures": 800,
    "held_out": 80,
    "epochs": 2,  # pictures that are seen a few times teach more than few that are repeated
    "batch_size": 8,
    "optimiser": "adamw",
    "rate": 2e-3,
    "weight_decay": 1e-2,
}


def detector_config(preset: str = "full", **changes: Any) -> DetectorConfig:
    """Settings of a preset, "full" (as specified for a GPU) or "small" (a CPU), with changes.

    Raises `KitError` for a preset, a setting or a network that does not exist.
    """
    if preset not in ("full", "small"):
        raise KitError(f"preset '{preset}' is unknown: choose full or small")
    known = [field.name for field in fields(DetectorConfig)]
    for name in changes:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean '{close[0]}'? " if close else ""
            raise KitError(f"a detector has no setting '{name}'; {hint}known: {', '.join(known)}")
    config = replace(DetectorConfig(), **{**(SMALL if preset == "small" else {}), **changes})
    check_config(config)
    return config


def check_config(config: DetectorConfig) -> None:
    """Raise `KitError` for settings that cannot work."""
    if config.network not in NETWORKS:
        known = ", ".join(NETWORKS)
        raise KitError(f"network '{config.network}' is unknown: choose one of {known}")
    lowest = {"size": 64, "pictures": 1, "held_out": 1, "epochs": 1, "batch_size": 1, "seed": 0}
    for name, least in lowest.items():
        if getattr(config, name) < least:
            raise KitError(f"{name}={getattr(config, name)}: give {least} or more")
    if config.trunk not in ("", IMAGENET) and not config.network.startswith("fcos"):
        raise KitError(
            f"network '{config.network}' starts from trunk '' or '{IMAGENET}', not from "
            f"'{config.trunk}': choose fcos or fcos_small for a trunk of your own"
        )


class Pyramid(nn.Module):
    """A trunk with a feature pyramid: images (B, 3, H, W) -> maps at stride 8, 16, 32, ..

    Args:
        trunk: convolutional network of the kit.
        width: channels of every map.
        more: adds the strides 64 and 128.
    """

    def __init__(self, trunk: Backbone, width: int, more: bool):
        super().__init__()
        self.trunk = trunk
        with torch.no_grad():
            channels = [part.shape[1] for part in self._maps(torch.zeros(2, 3, 64, 64))]
        extra = LastLevelP6P7(width, width) if more else None
        self.fpn = FeaturePyramidNetwork(channels, width, extra)
        self.out_channels = width
        self.levels = 5 if more else 3

    def forward(self, images: torch.Tensor) -> OrderedDict[str, torch.Tensor]:
        return self.fpn(OrderedDict(zip("345", self._maps(images), strict=True)))

    def _maps(self, images: torch.Tensor) -> list[torch.Tensor]:
        """The trunk's maps at stride 8, 16 and 32."""
        net = self.trunk.net
        if hasattr(net, "forward_intermediates"):  # timm
            return net.forward_intermediates(images, indices=3, intermediates_only=True)
        maps = []
        for name, layer in net.named_children():  # torchvision's ResNets
            images = layer(images)
            if name in ("layer2", "layer3", "layer4"):
                maps.append(images)
        return maps


def resolve_config(config: DetectorConfig) -> DetectorConfig:
    """The settings with the name of the backbone filled in, so that they say all of the network."""
    check_config(config)
    if config.backbone or config.network not in OWN_BACKBONES:
        return config
    if config.trunk in ("", IMAGENET):
        return replace(config, backbone=OWN_BACKBONES[config.network])
    return replace(config, backbone=_open_trunk(config.trunk).name)


def build_network(config: DetectorConfig, start: bool = True) -> nn.Module:
    """The torchvision detector of a configuration; random weights follow its seed.

    It takes a list of pictures (3, H, W) in [0, 1], their long side `config.size`. With `start`
    the trunk gets the weights that `config.trunk` names.
    """
    config = resolve_config(config)
    with torch.random.fork_rng(devices=[]):  # the caller's random state stays as it was
        torch.manual_seed(config.seed)
        try:
            return NETWORKS[config.network](config, config.trunk if start else "")
        except OSError as error:
            raise KitError(
                f"the ImageNet weights of '{config.network}' cannot be downloaded ({error}): "
                "connect, or start from random weights with trunk=''"
            ) from error


def _fcos(config: DetectorConfig, trunk: str) -> nn.Module:
    """FCOS (Tian et al. 2019): pyramid P3 to P7 of 256 channels, a head of four layers."""
    return _build_fcos(config, trunk, width=256, depth=4, more=True)


def _fcos_small(config: DetectorConfig, trunk: str) -> nn.Module:
    """FCOS with a pyramid P3 to P5 of 64 channels and a head of two layers."""
    return _build_fcos(config, trunk, width=64, depth=2, more=False)


def _build_fcos(
    config: DetectorConfig, trunk: str, width: int, depth: int, more: bool
) -> nn.Module:
    pyramid = Pyramid(Backbone(config.backbone, pretrained=trunk == IMAGENET), width, more)
    if trunk not in ("", IMAGENET):
        pyramid.trunk.load_state_dict(_open_trunk(trunk, config.backbone).state_dict())
    strides = tuple((8 * 2**level,) for level in range(pyramid.levels))
    return FCOS(
        pyramid,
        OUTPUTS,
        anchor_generator=AnchorGenerator(strides, ((1.0,),) * pyramid.levels),
        head=FCOSHead(width, 1, OUTPUTS, num_convs=depth),
        min_size=config.size,  # pictures come with this long side: nothing is resized again
        max_size=config.size,
        score_thresh=LEAST,
        nms_thresh=OVERLAP,
        detections_per_img=MOST,
    )


def _open_trunk(trunk: str, expected: str = "") -> Backbone:
    model = load(trunk)
    if not isinstance(model, Descriptor) or model.backbone.tokens:
        raise KitError(f"trunk '{trunk}' is no convolutional network: give another model folder")
    if expected and model.backbone.name != expected:
        raise KitError(
            f"trunk '{trunk}' is a '{model.backbone.name}', not a '{expected}': leave "
            "backbone empty"
        )
    return model.backbone


def _faster_rcnn(config: DetectorConfig, trunk: str) -> nn.Module:
    """Faster R-CNN (Ren et al. 2015) with MobileNetV3-Large and a feature pyramid."""
    return fasterrcnn_mobilenet_v3_large_fpn(
        weights=None,
        weights_backbone="DEFAULT" if trunk == IMAGENET else None,
        num_classes=OUTPUTS,
        trainable_backbone_layers=6 if trunk == IMAGENET else None,
        min_size=config.size,
        max_size=config.size,
        box_score_thresh=LEAST,
        box_nms_thresh=OVERLAP,
        box_detections_per_img=MOST,
    )


def _ssdlite(config: DetectorConfig, trunk: str) -> nn.Module:
    """SSDLite (Sandler et al. 2018) with MobileNetV3-Large, on pictures squashed to a square."""
    network = ssdlite320_mobilenet_v3_large(
        weights=None,
        weights_backbone="DEFAULT" if trunk == IMAGENET else None,
        num_classes=OUTPUTS,
        trainable_backbone_layers=6 if trunk == IMAGENET else None,
        score_thresh=LEAST,
        nms_thresh=OVERLAP,
        detections_per_img=MOST,
    )
    network.transform.fixed_size = (config.size, config.size)  # its boxes are shares of the side
    return network


OWN_BACKBONES = {"fcos": "torchvision:resnet50", "fcos_small": "resnet10t"}
NETWORKS = {
    "fcos": _fcos,
    "fcos_small": _fcos_small,
    "faster_rcnn": _faster_rcnn,
    "ssdlite": _ssdlite,
}


def to_input(pixels: torch.Tensor) -> torch.Tensor:
    """Network input (3, H, W) float32 in [0, 1] of uint8 pixels (H, W, 3)."""
    return pixels.permute(2, 0, 1).float() / 255


@torch.inference_mode()
def find_boxes(
    network: nn.Module, pictures: Sequence[np.ndarray], device: torch.device
) -> list[pd.DataFrame]:
    """The detections in each picture (H, W, 3) uint8, by falling confidence.

    Tables have the columns class, confidence (5 digits) and x0, y0, x1, y1 in px of the picture.
    """
    inputs = [to_input(torch.from_numpy(pixels).to(device)) for pixels in pictures]
    network.eval()
    return [_to_table(found) for found in network(inputs)]


def _to_table(found: dict[str, torch.Tensor]) -> pd.DataFrame:
    confidence = found["scores"].float().cpu().numpy().astype(float).round(5)
    table = pd.DataFrame(found["boxes"].float().cpu().numpy().astype(float), columns=BOX)
    table.insert(0, "class", [CLASSES[label - 1] for label in found["labels"].tolist()])
    table.insert(1, "confidence", confidence)
    table = table[confidence >= LEAST]
    return table.sort_values("confidence", ascending=False, kind="stable", ignore_index=True)


def to_original(
    table: pd.DataFrame, shape: tuple[int, ...], size: tuple[int, int], name: str
) -> pd.DataFrame:
    """Detections in a scaled picture as those of its original: columns `boxes.COLUMNS`.

    shape: (H, W, ..) of the scaled picture. size: (width, height) px of the original. Both axes
    have their own exact factor, because the scaled sides are whole numbers.
    """
    factors = np.array([size[0] / shape[1], size[1] / shape[0]] * 2)
    bounds = np.clip(table[BOX].to_numpy(float) * factors, 0, np.tile(size, 2))
    found = pd.DataFrame(bounds, columns=BOX)
    found.insert(0, "image_id", name)
    found.insert(1, "class", table["class"].to_numpy(object))
    found.insert(2, "confidence", table["confidence"].to_numpy(float))
    return found
