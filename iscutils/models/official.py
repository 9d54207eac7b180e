"""Published weight files as descriptors: SSCD, students, DINO, D2LV, BoT, EsViT and pretraining.

Layouts: https://github.com/facebookresearch/sscd-copy-detection (torchvision and classy),
https://github.com/facebookresearch/dino, https://github.com/microsoft/esvit, the public test code
of D2LV and BoT, and ResNets under torchvision's names (Barlow Twins, Momentum2-Teacher). Of
descriptors, whatever does not fit, to the last key, is an error; of pretraining files, which also
hold heads that nobody needs, whatever the trunk lacks is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import torch

from iscutils.files.artifacts import KitError, log
from iscutils.models import d2lv, students
from iscutils.models.descriptor import Descriptor, DescriptorConfig
from iscutils.models.pretrained import SIGNS, Match, State, copy_weights, prefixes, read_trunk
from iscutils.models.unpickle import read_checkpoint

# SSCD is measured with the short side at 288 pixels, DINO at 224 x 224 (SSCD 5.1, appendix D).
SSCD_SIZE, DINO_SIZE = 288, 224
# Entries of a training checkpoint that may be the weights, the best one first.
_ENTRIES = ("teacher", "state_dict", "model", "student")

# Layouts that hold more than the descriptor: what is left out is counted.
_COUNTED = {"student": students.read_student, "lite": students.read_lite}

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
    """Flat dictionary of tensors of a weight file, on the CPU; no code is executed.

    Of a training checkpoint: its entry `teacher`, `state_dict`, `model` or `student`, if that has a
    known layout. Formats: see `read_checkpoint`.

    Raises:
        KitError: the file holds something else.
    """
    content = read_checkpoint(path)
    candidates = [content]
    if isinstance(content, Mapping):
        candidates += [content[entry] for entry in _ENTRIES if entry in content]
    for state in candidates:
        if _is_flat(state) and (state is content or layout_of(state)):
            return dict(state)
    raise KitError(
        f"{path} is no flat dictionary of tensors, and has none of a known layout as its entry "
        f"{', '.join(_ENTRIES)}: choose a file of weights alone"
    )


def _is_flat(state: object) -> bool:
    return isinstance(state, Mapping) and all(
        isinstance(value, torch.Tensor) for value in state.values()
    )


def layout_of(state: State) -> str:
    """`torchvision`, `classy`, `student`, `lite`, `dino`, `d2lv`, `esvit`, `resnet`, or "".

    BoT's files are `d2lv` with more names. The names may stand behind those of wrappers, such as
    `module.`, in the last three.
    """
    if any(name.startswith(("backbone.initial_block.", "backbone.blocks.")) for name in state):
        return "classy"
    if any(name.removeprefix("module.").startswith(("base.0.", "base.4.")) for name in state):
        return "d2lv"
    if students.prefix_of(state) is not None:
        return "student"
    if students.is_lite(state):
        return "lite"
    for layout in SIGNS:
        wrappers = prefixes(state, layout)
        if wrappers and (layout == "esvit" or wrappers != ["backbone."]):
            return layout
    if any(name.startswith(("backbone.conv1.", "backbone.layer")) for name in state):
        return "torchvision"
    if any(name.startswith(("cls_token", "patch_embed.")) for name in state):
        return "dino"
    return ""


def load_official(path: str | Path) -> Descriptor:
    """Published weights of a local file as a descriptor in eval mode, see `load_matched`."""
    return load_matched(path)[0]


def load_matched(path: str | Path) -> tuple[Descriptor, Match]:
    """Published weights of a local file as a descriptor in eval mode, and what of them fitted.

    SSCD: ResNet-50 or ResNeXt-101 32x4d, GeM 3, linear layer. DINO: ViT-B, class token followed
    by the GeM 4 of the patch tokens. D2LV and BoT: ResNet (also IBN-a) with their projector, GeM 3
    whatever power was trained. Students of kd_icd and RDCD: see `students`. EsViT Swin-B: token
    averages, with imgFp's linear layer if there is one. Pretrained ResNets (Barlow Twins,
    Momentum2-Teacher) and EfficientNet-Lite0: the trunk alone, GeM 3.

    Raises:
        KitError: the layout is unknown, or names or shapes do not fit.
    """
    state = read_state(path)
    layout = layout_of(state)
    if not layout:
        first = ", ".join(list(state)[:3]) or "none"
        raise KitError(
            f"{path} has weights of no known layout (first names: {first}): expected SSCD in "
            "torchvision or classy layout, a student of kd_icd or RDCD, DINO ViT-B, D2LV, BoT, "
            "EsViT Swin-B, a pretrained ResNet, or EfficientNet-Lite0"
        )
    if layout in (*SIGNS, *_COUNTED):
        read = _COUNTED.get(layout) or partial(read_trunk, layout=layout)
        model, match = read(state, path=path)
        log.info("%s, %s: %s", Path(path).name, model.config.backbone, match)
        return model.eval(), match
    if layout == "d2lv":
        return _d2lv(state, path)
    if layout == "classy":
        state = from_classy(state)
    model = Descriptor(_dino(state, path) if layout == "dino" else _sscd(state, path))
    copy_weights(model, state, path, partial(_file_name, layout=layout))
    return model.eval(), Match(len(state))


def _d2lv(state: State, path: str | Path) -> tuple[Descriptor, Match]:
    state = {name.removeprefix("module."): value for name, value in state.items()}
    power = state.pop(d2lv.GEM_POWER, None)  # learnt, and 3 when the released code tests
    backbone = d2lv.resnet_name(state, "base.4.", "base.7.")
    compact = state.get("matrix_feat_bn.0.2.weight")
    if not backbone or "projector_feat_bn.0.0.weight" not in state:
        raise KitError(
            f"{path} has names of D2LV ({next(iter(state), '')}, ...) but not those of a ResNet "
            "with its projector (base.4., base.7., projector_feat_bn.0.0): download it again"
        )
    config = DescriptorConfig(
        backbone=backbone,
        dim=0 if compact is None else len(compact),
        size=d2lv.SIZE,
        last_stride=1,
        wave=True,
        projector="d2lv" if compact is None else "bot",
    )
    model = Descriptor(config)
    copy_weights(model, state, path, d2lv.official_name)
    unused = () if power is None else (d2lv.GEM_POWER,)
    return model.eval(), Match(len(state), unused=unused)


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
