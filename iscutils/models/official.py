"""Published weight files as descriptors: SSCD (torchvision and classy layout) and DINO.

Layouts: https://github.com/facebookresearch/sscd-copy-detection and
https://github.com/facebookresearch/dino. Whatever does not fit, to the last key, is an error.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import torch
from torch import nn

from iscutils.artifacts import KitError
from iscutils.models.descriptor import Descriptor, DescriptorConfig

State = Mapping[str, torch.Tensor]

# SSCD is measured with the short side at 288 pixels, DINO at 224 x 224 (SSCD 5.1, appendix D).
SSCD_SIZE, DINO_SIZE = 288, 224

# Classy Vision's names of a ResNet -> torchvision's, in order.
_CLASSY = (
    (r"^initial_block\._module\.0\.", "conv1."),
    (r"^initial_block\._module\.1\.", "bn1."),
    (r"^blocks\.(\d+)\.block\1-(\d+)\.", lambda m: f"layer{int(m[1]) + 1}.{m[2]}."),
    (r"^(layer\d\.\d+)\.bn\.", r"\1.bn3."),
    (r"^(layer\d\.\d+)\.convolutional_block\.0\.", r"\1.conv1."),
    (r"^(layer\d\.\d+)\.convolutional_block\.1\.", r"\1.bn1."),
    (r"^(layer\d\.\d+)\.convolutional_block\.3\.", r"\1.conv2."),
    (r"^(layer\d\.\d+)\.convolutional_block\.4\.", r"\1.bn2."),
    (r"^(layer\d\.\d+)\.convolutional_block\.6\.", r"\1.conv3."),
)
# Blocks in the third stage -> trunk.
_TRUNKS = {6: "torchvision:resnet50", 23: "torchvision:resnext101_32x4d"}


def from_classy(state: State) -> dict[str, torch.Tensor]:
    """Names of the classy layout as those of the torchvision layout, tensors untouched.

    `backbone.blocks.0.block0-2.bn.weight` becomes `backbone.layer1.2.bn3.weight`, and
    `embeddings.1.weight` becomes `backbone.fc.weight`.
    """
    renamed = {}
    for name, value in state.items():
        trunk = name.removeprefix("backbone.")
        if trunk == name:
            name = re.sub(r"^embeddings\.1\.", "backbone.fc.", name)
        else:
            for pattern, replacement in _CLASSY:
                trunk = re.sub(pattern, replacement, trunk)
            name = f"backbone.{trunk}"
        renamed[name] = value
    return renamed


def read_state(path: str | Path) -> dict[str, torch.Tensor]:
    """Flat dictionary of tensors of a `.pt` or `.pth` file, on the CPU; no code is executed.

    Raises:
        KitError: the file holds something else.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch gives many kinds for files that are no weights
        reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        raise KitError(f"{path} is no file of weights ({reason}): download it again") from error
    if not isinstance(state, Mapping) or not all(
        isinstance(value, torch.Tensor) for value in state.values()
    ):
        raise KitError(
            f"{path} is no flat dictionary of tensors: choose a file of weights alone, not a "
            "training checkpoint"
        )
    return dict(state)


def layout_of(state: State) -> str:
    """`torchvision`, `classy` or `dino`; empty when the names are of none of them."""
    if any(name.startswith(("backbone.initial_block.", "backbone.blocks.")) for name in state):
        return "classy"
    if any(name.startswith(("backbone.conv1.", "backbone.layer")) for name in state):
        return "torchvision"
    if any(name.startswith(("cls_token", "patch_embed.")) for name in state):
        return "dino"
    return ""


def load_official(path: str | Path) -> Descriptor:
    """SSCD or DINO weights of a local file as a descriptor in eval mode.

    SSCD: ResNet-50 or ResNeXt-101 32x4d, GeM 3, linear layer. DINO: ViT-B, class token followed
    by the GeM 4 of the patch tokens.

    Raises:
        KitError: the layout is unknown, or names or shapes do not fit to the last one.
    """
    state = read_state(path)
    layout = layout_of(state)
    if not layout:
        first = ", ".join(list(state)[:3]) or "none"
        raise KitError(
            f"{path} has weights of no known layout (first names: {first}): expected SSCD in "
            "torchvision or classy layout, or DINO ViT-B"
        )
    if layout == "classy":
        state = from_classy(state)
    model = Descriptor(_dino(state, path) if layout == "dino" else _sscd(state, path))
    copy_weights(model, state, path, partial(_file_name, layout=layout))
    return model.eval()


def copy_weights(
    model: nn.Module, state: State, path: str | Path, file_name: Callable[[str], str] = str
) -> None:
    """Copy weights into a network; every name and shape must fit.

    Args:
        path: where the weights come from, for the message.
        file_name: how that file calls a weight of the network.

    Raises:
        KitError: names are missing, unexpected, or of another shape; the first ones are listed.
    """
    weights = {file_name(name): (name, value) for name, value in model.state_dict().items()}
    faults = {
        "missing": [name for name in weights if name not in state],
        "unexpected": [name for name in state if name not in weights],
        "of another shape": [
            f"{name} {tuple(value.shape)} instead of {tuple(weights[name][1].shape)}"
            for name, value in state.items()
            if name in weights and value.shape != weights[name][1].shape
        ],
    }
    reports = [
        f"{len(names)} {fault} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
        for fault, names in faults.items()
        if names
    ]
    if reports:
        raise KitError(
            f"{path}: weights do not fit the network, {'; '.join(reports)}: choose the file that "
            "belongs to it"
        )
    model.load_state_dict({weights[name][0]: value for name, value in state.items()})


def _file_name(name: str, layout: str) -> str:
    """How the torchvision or DINO layout calls a Descriptor's weight."""
    if layout == "dino":
        return name.removeprefix("backbone.net.")
    return re.sub(r"^head\.", "backbone.fc.", name.replace("backbone.net.", "backbone.", 1))


def _sscd(state: State, path: str | Path) -> DescriptorConfig:
    blocks = {name.split(".")[2] for name in state if name.startswith("backbone.layer3.")}
    head = state.get("backbone.fc.weight")
    if len(blocks) not in _TRUNKS or head is None or head.ndim != 2:
        raise KitError(
            f"{path} has a trunk with {len(blocks)} blocks in its third stage and "
            f"{'a' if head is not None else 'no'} head: expected ResNet-50 (6) or ResNeXt-101 (23) "
            "with the linear layer of SSCD"
        )
    return DescriptorConfig(
        backbone=_TRUNKS[len(blocks)], dim=len(head), size=SSCD_SIZE, resize="short"
    )


def _dino(state: State, path: str | Path) -> DescriptorConfig:
    patches = state.get("patch_embed.proj.weight")
    side = patches.shape[-1] if patches is not None else 0
    if side not in (8, 16) or len(patches) != 768:
        raise KitError(f"{path} is no DINO ViT-B with patches of 16 or 8 pixels: no other is known")
    return DescriptorConfig(
        backbone=f"vit_base_patch{side}_224.dino", dim=0, size=DINO_SIZE, gem=4.0
    )
