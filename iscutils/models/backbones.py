"""Trunks by name: maps (convolutional networks), tokens or their averages (transformers)."""

from __future__ import annotations

import difflib
from collections import OrderedDict

import timm
import torch
import torchvision
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from torchvision.models.regnet import ResBottleneckBlock
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from iscutils.files.artifacts import KitError
from iscutils.models import ibn
from iscutils.models.d2lv import add_waves, remove_last_stride
from iscutils.models.swin import SWINS, EsViT

TORCHVISION = "torchvision:"
# Families whose classifiers run their children one after the other: all but the last layers is
# the trunk.
_FAMILIES = ("resnet", "resnext", "wide_resnet", "regnet", "efficientnet", "mobilenet")
_CLASSIFIER = ("avgpool", "fc", "classifier")
# The trunk of SSCD "large"; torchvision has ready-made ones of 32x8d and 64x4d alone.
_RESNEXT = "resnext101_32x4d"
_RESIDUAL = ("resnet", "resnext", "regnet")  # families whose last gammas can start at 0


class Backbone(nn.Module):
    """A network without classifier and pooling: (B, 3, H, W) -> map (B, C, h, w) or tokens.

    Vision transformers give tokens (B, 1 + h w, C) after the last norm, the class token first;
    they take every image size that their patch divides. EsViT's Swin transformers (`SWINS`) give
    token averages (B, C), which are not pooled again.

    Args:
        name: timm model name, e.g. `resnet10t`, `mobilevit_s`, `vit_base_patch16_224.dino`;
            `torchvision:` and torchvision's name, e.g. `torchvision:resnet50`; a ResNet with split
            norms, e.g. `resnet50_ibn_a`; `esvit_swin_base_w14` or `esvit_swin_nano`.
        pretrained: download timm's or torchvision's weights (network access, only when asked for);
            see `weights_licence`.
        zero_gamma: start the last batch norm of every residual block at 0, so that blocks begin
            as identities (needed by SSCD with a strong entropy term).
        last_stride: 1 lets the last layer of a ResNet keep the size of its input (D2LV).
        wave: a `WaveBlock` behind layers 2 and 3 of a ResNet (D2LV), at work in training alone.
    """

    def __init__(
        self,
        name: str,
        pretrained: bool = False,
        zero_gamma: bool = False,
        last_stride: int = 2,
        wave: bool = False,
    ):
        super().__init__()
        self.name = name
        self.frozen: list[nn.Module] = []
        if zero_gamma and not any(family in name for family in _RESIDUAL):
            raise KitError(
                f"'{name}' has no last gammas of residual blocks that could start at 0: set "
                "zero_gamma=False"
            )
        build = _torchvision if name.startswith(TORCHVISION) else _timm
        if name in SWINS or name in ibn.NAMES:
            build = _own
        try:
            self.net = build(name.removeprefix(TORCHVISION), pretrained, zero_gamma)
        except OSError as error:
            raise KitError(
                f"the weights of '{name}' cannot be downloaded ({error}): connect, or start from "
                "random weights with pretrained=False"
            ) from error
        if last_stride == 1:
            remove_last_stride(self.net, name)
        if wave:
            add_waves(self.net, name)
        self.tokens = isinstance(self.net, VisionTransformer)
        self.pools = isinstance(self.net, EsViT)  # gives one vector an image by itself
        # Side of a patch in pixels, which divides the image size; 1 = any size.
        patches = self.tokens or self.pools
        self.patch = self.net.patch_embed.patch_size[0] if patches else 1
        self.prefix = self.net.num_prefix_tokens if self.tokens else 0
        # Values of an image once pooled: those of the class token and of the patches, or the map's.
        if self.pools:
            self.channels = self.net.features
        else:
            self.channels = 2 * self.net.embed_dim if self.tokens else self._channels(last_stride)

    def freeze(self, stages: int) -> None:
        """Keep the first stages as they are: no gradients, batch norms as in use.

        Stages are those that timm knows of a network: of a ResNet the stem, then its layers.

        Raises:
            KitError: the network has fewer stages, or timm does not know them.
        """
        places = getattr(self.net, "feature_info", None) or []
        if not 0 <= stages <= len(places):
            raise KitError(
                f"freeze={stages}: '{self.name}' has {len(places)} stages that can be frozen; "
                "choose fewer, or 0 for none"
            )
        self.frozen = _up_to(self.net, places[stages - 1]["module"]) if stages else []
        for module in self.frozen:
            module.requires_grad_(False)

    def train(self, mode: bool = True) -> Backbone:
        super().train(mode)
        for module in self.frozen:
            module.eval()
        return self

    @torch.no_grad()
    def _channels(self, last_stride: int) -> int:
        training = self.net.training
        try:
            features = self.net.eval()(torch.zeros(1, 3, 64, 64))
        except (AssertionError, RuntimeError):  # networks for one image size
            features = torch.empty(0)
        self.net.train(training)
        if last_stride == 1 and features.shape[2:] != (4, 4):  # of 64 pixels
            raise KitError(
                f"the last stride of '{self.name}' cannot be removed, it is built in another way "
                "than usual ResNets: choose another, e.g. torchvision:resnet50, or last_stride=2"
            )
        if features.ndim != 4:
            raise KitError(
                f"'{self.name}' gives no feature map: choose a convolutional network or a plain "
                "vision transformer (vit_*, deit_*)"
            )
        return features.shape[1]

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Map (B, C, h, w), tokens (B, 1 + h w, C) or averages (B, C) of images (B, 3, H, W).

        The images are normalised already.
        """
        features = self.net(images)
        if self.prefix > 1:  # registers and distillation tokens describe no place
            features = torch.cat([features[:, :1], features[:, self.prefix :]], dim=1)
        return features


def _up_to(net: nn.Module, path: str) -> list[nn.Module]:
    """Children of a network in their order, up to the one at a dotted path."""
    name, _, rest = path.partition(".")
    found: list[nn.Module] = []
    for own, child in net.named_children():
        if own == name:
            return found + (_up_to(child, rest) if rest else [child])
        found.append(child)
    return found


def weights_licence(name: str) -> str:
    """Licence of the weights that `Backbone(name, pretrained=True)` downloads, as published."""
    if name.startswith(TORCHVISION):
        return "bsd-3-clause (torchvision), trained on ImageNet"
    if name in SWINS or name in ibn.NAMES:
        return "none to download"
    pretrained = timm.get_pretrained_cfg(name)
    return (pretrained.license if pretrained else None) or "not stated"


def _timm(name: str, pretrained: bool, zero_gamma: bool) -> nn.Module:
    if name.split(".")[0] not in timm.list_models():
        known = [*timm.list_models(), *SWINS, *ibn.NAMES]
        raise KitError(f"timm knows no model '{name}'{_hint(name, known)}")
    options = {}
    if any(family in name for family in _RESIDUAL):
        # timm starts the last gammas at 0 unless told otherwise.
        options["zero_init_last"] = zero_gamma
    if name.startswith(("vit_", "deit")):
        options["dynamic_img_size"] = True
    try:
        return timm.create_model(
            name, pretrained=pretrained, num_classes=0, global_pool="", **options
        )
    except (TypeError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise KitError(f"'{name}' is no trunk for the kit ({reason}): choose another") from error


def _torchvision(name: str, pretrained: bool, zero_gamma: bool) -> nn.Module:
    known = [n for n in torchvision.models.list_models() if n.startswith(_FAMILIES)] + [_RESNEXT]
    if name not in known:
        raise KitError(f"torchvision has no trunk '{name}'{_hint(name, known)}")
    if name == _RESNEXT:
        if pretrained:
            raise KitError(
                f"torchvision has no weights of {_RESNEXT}: set pretrained=False, or load those of "
                "SSCD by the name sscd_disc_large"
            )
        network = ResNet(Bottleneck, [3, 4, 23, 3], groups=32, width_per_group=4)
    else:
        weights = "DEFAULT" if pretrained else None
        network = torchvision.models.get_model(name, weights=weights)
    return _without_classifier(network, zero_gamma)


def _own(name: str, pretrained: bool, zero_gamma: bool) -> nn.Module:
    if pretrained:
        raise KitError(
            f"nothing can be downloaded for '{name}': set pretrained=False, and start from a local "
            "file of weights (Descriptor.start_from) or from own pretraining"
        )
    return EsViT(name) if name in SWINS else _without_classifier(ibn.ibn_resnet(name), zero_gamma)


def _without_classifier(network: nn.Module, zero_gamma: bool) -> nn.Sequential:
    if zero_gamma:
        for block in network.modules():
            _zero_last_gamma(block)
    layers = [item for item in network.named_children() if item[0] not in _CLASSIFIER]
    return nn.Sequential(OrderedDict(layers))


def _zero_last_gamma(block: nn.Module) -> None:
    if isinstance(block, Bottleneck):
        nn.init.zeros_(block.bn3.weight)
    elif isinstance(block, BasicBlock):
        nn.init.zeros_(block.bn2.weight)
    elif isinstance(block, ResBottleneckBlock):
        nn.init.zeros_(block.f.c[1].weight)  # convolution, then its batch norm


def _hint(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=3)
    return f"; did you mean {' or '.join(close)}?" if close else ""
