"""Released checkpoints of kd_icd's and RDCD's students, and EfficientNet-Lite0 from ImageNet.

Layouts: https://github.com/juntae9926/kd_icd and https://github.com/juntae9926/RDCD (Lightning
checkpoints; queues, teacher and momentum student, which only training needs, are left out), and
the PyTorch port of EfficientNet-Lite, whose tensors stand in timm's order.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import timm
import torch

from iscutils.files.artifacts import KitError
from iscutils.models.descriptor import (
    MEAN,
    STD,
    Descriptor,
    DescriptorConfig,
    student_config,
)
from iscutils.models.pretrained import Match, copy_weights

State = Mapping[str, torch.Tensor]

SIZE = 288  # px, squashed, as both are measured
LITE, LITE_SIZE = "tf_efficientnet_lite0", 224
LITE_CENTRE = 0.5  # mean and deviation of the pixels it was trained on
# What stands before the names of a student: RDCD's, kd_icd's, and nothing once it was cut off.
_PREFIXES = ("model.encoder_q.", "model.", "")
# Student -> a weight that no other has, and its last layer.
_STUDENTS = {
    "resnet18": ("backbone.layer4.1.bn2.weight", "backbone.fc"),
    "efficientnet_b0": ("backbone.features.8.0.weight", "backbone.classifier.1"),
    "mobilenet_v3_large": ("backbone.features.16.0.weight", "backbone.classifier.3"),
    "regnet_y_800mf": ("backbone.trunk_output.block1.block1-0.f.a.0.weight", "backbone.fc"),
    "fastvit_t12": ("backbone.stem.0.conv_kxk.0.conv.weight", "backbone.head.fc"),
    "mobilevit_s": ("backbone.stem.conv.weight", "backbone.head.fc"),
}
_NEVER_REACHED = "embeddings.0."  # of kd_icd's RegNet


def prefix_of(state: State) -> str | None:
    """What stands before the names of a student; None where there is none."""
    return next((prefix for prefix in _PREFIXES if _student(state, prefix)), None)


def read_student(state: State, path: str | Path) -> tuple[Descriptor, Match]:
    """A released student in eval mode: strict in what is its own; the rest is counted.

    The descriptor is what the authors measure: 512 values (kd_icd), or the projector's output
    (RDCD), behind the 512 wide ones that the teacher taught.

    Raises:
        KitError: names or shapes do not fit the student.
    """
    prefix = prefix_of(state)
    name = _student(state, prefix)
    own = {n.removeprefix(prefix): v for n, v in state.items() if n.startswith(prefix)}
    if prefix == "model.":  # queue and queue_ptr of kd_icd may stand below it
        own = {n: v for n, v in own.items() if not n.startswith("queue")}
    unused = [n for n in own if n.startswith(_NEVER_REACHED)]
    own = {n: v for n, v in own.items() if n not in unused}
    last = _STUDENTS[name][1]
    projector = next((p for p in ("projector", "projector.0") if f"{p}.weight" in own), "")
    wide = len(own[f"{last}.weight"])
    dim, hidden = (len(own[f"{projector}.weight"]), wide) if projector else (wide, 0)
    model = Descriptor(student_config(name, dim, hidden, size=SIZE))
    copy_weights(model, own, path, partial(_file_name, last=last, projector=projector))
    others = (n for n in state if not n.startswith(prefix))
    return model.eval(), Match(len(own), unused=(*unused, *others))


def _student(state: State, prefix: str) -> str:
    for name, (sign, last) in _STUDENTS.items():
        # A bottleneck ResNet, which has a third convolution, is SSCD's.
        others = {f"{prefix}backbone.layer1.0.conv3.weight"} & state.keys()
        if {prefix + sign, f"{prefix}{last}.weight"} <= state.keys() and not others:
            return name
    return ""


def _file_name(name: str, last: str, projector: str) -> str:
    """How a checkpoint calls a Descriptor's weight."""
    place, _, kind = name.rpartition(".")
    head = {"head.0": last, "head.1": projector, "head": last, "neck.0": "backbone.classifier.0"}
    if place in head:
        return f"{head[place]}.{kind}"
    return name.replace("backbone.net.", "backbone.", 1)


def is_lite(state: State) -> bool:
    """Whether these are the names of an EfficientNet-Lite."""
    return "_conv_stem.weight" in state and "_blocks.0._depthwise_conv.weight" in state


def read_lite(state: State, path: str | Path) -> tuple[Descriptor, Match]:
    """EfficientNet-Lite0's trunk, GeM 3 behind it: to start from.

    It was trained on pixels of mean and deviation .5; the kit's have ImageNet's. The difference is
    moved into the first layer (its weights and the mean of its batch norm), so that maps are the
    same but for the outermost pixels, where the first layer sees zeros of another meaning.

    Raises:
        KitError: it is another network, such as Lite1.
    """
    names = timm.create_model(LITE).state_dict()
    if len(names) != len(state):
        raise KitError(
            f"{path} has {len(state)} tensors, not the {len(names)} of EfficientNet-Lite0: no "
            "other is known"
        )
    trunk = dict(zip(names, state.values(), strict=True))
    head = [f"_fc.{kind}" for kind in ("weight", "bias")]
    trunk = {name: value for name, value in trunk.items() if not name.startswith("classifier")}
    mean, std = torch.tensor(MEAN), torch.tensor(STD)
    first = trunk["conv_stem.weight"]
    if first.shape[1:2] == (3,):
        offset = (first.sum((2, 3)) * (mean - LITE_CENTRE) / LITE_CENTRE).sum(1)
        trunk["conv_stem.weight"] = first * (std / LITE_CENTRE).view(1, 3, 1, 1)
        trunk["bn1.running_mean"] = trunk["bn1.running_mean"] - offset
    model = Descriptor(DescriptorConfig(LITE, dim=0, size=LITE_SIZE))
    copy_weights(model.backbone.net, trunk, path)
    return model.eval(), Match(len(trunk), unused=tuple(head))
