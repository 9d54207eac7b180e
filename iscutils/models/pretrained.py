"""Trunks of pretraining files, of which heads and other things are left out, and counted."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from iscutils.files.artifacts import KitError
from iscutils.models.d2lv import resnet_name
from iscutils.models.descriptor import Descriptor, DescriptorConfig
from iscutils.models.swin import SWINS, TABLE, swin_name, to_timm

State = Mapping[str, torch.Tensor]

RESNET_SIZE = 224  # of ImageNet pretraining
# A name that only one place of a trunk has; what stands before it is the wrappers' doing.
SIGNS = {"resnet": "layer1.0.conv1.weight", "esvit": f"layers.0.blocks.0.{TABLE}"}
# Marks of the better network where one dictionary holds two.
_BETTER = ("teacher", "encoder_k", "momentum")


@dataclass(frozen=True)
class Match:
    """How the names of a file and of a network fit; each name as the file has it."""

    matched: int
    missing: tuple[str, ...] = ()  # of the network, kept as they were
    unused: tuple[str, ...] = ()  # of the file
    resized: tuple[str, ...] = ()  # tables of relative positions

    def __str__(self) -> str:
        parts = [f"{self.matched} weights matched"]
        for what in ("missing", "unused", "resized"):
            names = getattr(self, what)
            shown = f" ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})" if names else ""
            parts.append(f"{len(names)} {what}{shown}")
        return ", ".join(parts)


def prefixes(state: State, layout: str) -> list[str]:
    """What stands before the names of each trunk of a layout (`SIGNS`) in a dictionary."""
    sign = SIGNS[layout]
    return [n[: -len(sign)] for n in state if n == sign or n.endswith(f".{sign}")]


def read_trunk(state: State, layout: str, path: str | Path) -> tuple[Descriptor, Match]:
    """Descriptor of a pretraining file, and what of the file fitted.

    A Swin transformer gets the linear layer behind all its features that imgFp's finetuning adds,
    if the file has one. How published files call that layer is unverified: it is known by its
    shape.

    Args:
        layout: "resnet" or "esvit".
        path: where the weights come from, for messages.

    Raises:
        KitError: the trunk is of no known kind, or lacks weights.
    """
    trunk, rest = _unwrap(state, layout, path)
    return (_resnet if layout == "resnet" else _esvit)(trunk, rest, path)


def _resnet(trunk: State, rest: State, path: str | Path) -> tuple[Descriptor, Match]:
    backbone = resnet_name(trunk)
    if not backbone:
        raise KitError(
            f"{path} has a ResNet of no known depth: expected 18, 34, 50, 101 or 152 layers, with "
            "or without IBN-a"
        )
    model = Descriptor(DescriptorConfig(backbone=backbone, dim=0, size=RESNET_SIZE))
    return model, _copy_trunk(model, trunk, rest, path)


def _esvit(trunk: State, rest: State, path: str | Path) -> tuple[Descriptor, Match]:
    backbone = swin_name(trunk)
    if not backbone:
        raise KitError(f"{path} has a Swin transformer of another form than {', '.join(SWINS)}")
    config = {"backbone": backbone, "size": SWINS[backbone]["img_size"]}
    model = Descriptor(DescriptorConfig(**config, dim=0))
    known = set(model.backbone.net.state_dict())
    # A head may stand beside the trunk, or below the same wrapper.
    others = {n: v for n, v in trunk.items() if n not in known and not n.startswith("layers.")}
    head = _linear_head({**others, **rest}, model.backbone.channels, path)
    if head:
        dim = len(head["weight"][1])
        model = Descriptor(DescriptorConfig(**config, dim=dim))
        model.head.load_state_dict({name: value for name, (_, value) in head.items()})
        used = {name for name, _ in head.values()}
        trunk = {n: v for n, v in trunk.items() if n not in used}
        rest = {n: v for n, v in rest.items() if n not in used}
    trunk, resized = to_timm(trunk, model.backbone.net)
    match = _copy_trunk(model, trunk, rest, path)
    return model, replace(match, matched=match.matched + len(head), resized=tuple(resized))


def _linear_head(
    state: State, features: int, path: str | Path
) -> dict[str, tuple[str, torch.Tensor]]:
    """{"weight", "bias"}: name and value of the one linear layer with so many inputs, if any."""
    names = [n for n, v in state.items() if n.endswith("weight") and v.shape[1:] == (features,)]
    if len(names) > 1:
        raise KitError(f"{path} has several heads ({', '.join(names)}): leave one of them")
    if not names:
        return {}
    weight, bias = names[0], re.sub("weight$", "bias", names[0])
    if bias not in state or state[bias].shape != state[weight].shape[:1]:
        raise KitError(f"{path} has a head without a fitting bias ({weight}): expected both")
    return {"weight": (weight, state[weight]), "bias": (bias, state[bias])}


def _unwrap(
    state: State, layout: str, path: str | Path
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Weights of the trunk without the names of its wrappers, and all others."""
    wrappers = prefixes(state, layout)
    if len(wrappers) > 1:
        better = [p for p in wrappers if any(mark in p for mark in _BETTER)]
        if len(better) != 1:
            raise KitError(
                f"{path} has several trunks (below {', '.join(wrappers)}), and which one is meant "
                "is not plain: leave one of them"
            )
        wrappers = better
    (prefix,) = wrappers
    trunk = {n.removeprefix(prefix): v for n, v in state.items() if n.startswith(prefix)}
    return trunk, {n: v for n, v in state.items() if not n.startswith(prefix)}


def _copy_trunk(model: Descriptor, trunk: State, rest: State, path: str | Path) -> Match:
    """Copy the weights of the backbone; what the file has besides is left out."""
    network = model.backbone.net
    known = network.state_dict()
    used = {name: value for name, value in trunk.items() if name in known}
    # Counters of batch norms, which older files lack, decide nothing.
    missing = tuple(n for n in known if n not in used and n.endswith("num_batches_tracked"))
    copy_weights(network, {**used, **{name: known[name] for name in missing}}, path)
    unused = (*(name for name in trunk if name not in known), *rest)
    return Match(len(used), missing, unused)


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
