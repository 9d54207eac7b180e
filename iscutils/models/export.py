"""Descriptors for use elsewhere: folded linear layers, TorchScript files, and reading those."""

from __future__ import annotations

import copy
import json
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from timm.models.mobilevit import MobileVitBlock
from torch import nn
from torch.nn import functional as F

from iscutils.artifacts import KitError, atomic_path, write_json
from iscutils.models.descriptor import MEAN, STD, Descriptor, DescriptorConfig

_NOTE = "iscutils.json"  # inside the kit's own TorchScript files: they take images in [0, 1]
_DEPRECATED = r".*torch\.jit\..* is deprecated.*"


@torch.no_grad()
def folded(model: Descriptor) -> Descriptor:
    """A copy in eval mode whose two linear layers are one: W = W2 W1, b = W2 b1 + b2.

    The same descriptors with fewer weights (RDCD's form for inference). The loss on the wide
    features needs the unfolded one.
    """
    result = copy.deepcopy(model).eval()
    if not model.config.hidden:
        return result
    first, last = (layer.double() for layer in result.head)
    head = nn.Linear(first.in_features, last.out_features)
    head.weight.copy_(last.weight @ first.weight)
    head.bias.copy_(last.weight @ first.bias + last.bias)
    result.head = head.to(model.mean.device)
    result.config = replace(model.config, hidden=0)
    return result


@torch.no_grad()
def export_torchscript(
    model: Descriptor, path: str | Path, notes: Mapping[str, Any] | None = None
) -> Path:
    """Write a folded descriptor as one TorchScript file, and what it is as a JSON beside it.

    The file takes images (B, 3, H, W) in [0, 1] of any number and size and returns unit rows
    (B, D), also where this package is not installed; `load` reads it back.

    Args:
        path: usually `<name>.torchscript.pt`.
        notes: further facts for the JSON, e.g. the teacher and the training settings.

    Raises:
        KitError: the network cannot be written without being bound to one image size.
    """
    path = Path(path)
    model = folded(model).cpu()
    side, patch = model.size, model.backbone.patch
    step = 32 if 32 % patch == 0 else patch
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=_DEPRECATED)
        warnings.filterwarnings("ignore", category=torch.jit.TracerWarning)
        scriptable = _script_blocks(copy.deepcopy(model))
        # Not square: at its native size a transformer would record no resampling of its positions.
        example = torch.rand(2, 3, side + step, side)
        traced = torch.jit.trace(scriptable, example, check_trace=False)
    for shape in ((3, 3, side, side), (1, 3, side, side + step)):
        if not _same(model, traced, torch.rand(shape)):
            raise KitError(
                f"'{model.config.backbone}' cannot be exported for every image size: use the model "
                "folder instead (Descriptor.save)"
            )
    note = json.dumps({"dim": model.dim, "config": asdict(model.config)})
    with atomic_path(path) as temporary, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=_DEPRECATED)
        torch.jit.save(traced, str(temporary), _extra_files={_NOTE: note})
    write_json(
        path.with_suffix(".json"), {**asdict(model.config), "dim": model.dim, **(notes or {})}
    )
    return path


def _script_blocks(network: nn.Module) -> nn.Module:
    """Replace the blocks whose reshapes a trace would fix to one image size, in place."""
    for name, child in network.named_children():
        if isinstance(child, MobileVitBlock):
            setattr(network, name, torch.jit.script(child))
        else:
            _script_blocks(child)
    return network


def _same(model: Descriptor, traced: nn.Module, images: torch.Tensor) -> bool:
    try:
        return torch.allclose(traced(images), model(images), atol=1e-5)
    except RuntimeError:  # shapes that were written down as numbers
        return False


def is_torchscript(path: str | Path) -> bool:
    """Whether a file is a TorchScript archive, by its content."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any("/code/" in name for name in archive.namelist())


class TorchScriptDescriptor(nn.Module):
    """A TorchScript file as a descriptor, for inference alone: images in [0, 1] -> unit rows.

    Files of SSCD take normalised images: the ImageNet normalisation is done here. Those of
    `export_torchscript` do it themselves.

    Args:
        script: the loaded file.
        config: dim, size and resize of the file.
        normalise: whether the file expects normalised images.
    """

    def __init__(self, script: nn.Module, config: DescriptorConfig, normalise: bool):
        super().__init__()
        self.script, self.config, self.normalise = script, config, normalise
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(1, 3, 1, 1), persistent=False)
        self.requires_grad_(False)
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

    def train(self, mode: bool = True) -> TorchScriptDescriptor:
        """Stays in eval mode."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Unit descriptors (B, D) of images (B, 3, H, W) in [0, 1]."""
        if images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(f"expected images (B, 3, H, W), got {tuple(images.shape)}")
        if self.normalise:
            images = (images - self.mean) / self.std
        return F.normalize(self.script(images).float(), dim=1)

    def pooled(self, images: torch.Tensor) -> torch.Tensor:
        """Not to be had from such a file."""
        raise KitError(
            "a TorchScript file is for inference alone: to train or to start from it, load the "
            "same weights in torchvision or classy layout"
        )

    def parameter_count(self) -> int:
        """Number of weights."""
        return sum(parameter.numel() for parameter in self.parameters())


def open_torchscript(path: str | Path) -> TorchScriptDescriptor:
    """Load a TorchScript file of SSCD, or of `export_torchscript`, on the CPU.

    Raises:
        KitError: the file cannot be read, or gives no rows (B, D).
    """
    extra = {_NOTE: ""}
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=_DEPRECATED)
            script = torch.jit.load(str(path), map_location="cpu", _extra_files=extra)
        note = json.loads(extra[_NOTE]) if extra[_NOTE] else None
        if note:
            config = DescriptorConfig(**{**note["config"], "dim": note["dim"]})
            return TorchScriptDescriptor(script, config, normalise=False)
        # As SSCD's files are measured: short side at 288 pixels, the aspect kept.
        config = DescriptorConfig(backbone="torchscript", dim=1, size=288, resize="short")
        model = TorchScriptDescriptor(script, config, normalise=True)
        rows = model(torch.zeros(1, 3, 224, 224))
    except (RuntimeError, ValueError, TypeError, KeyError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:120]
        raise KitError(
            f"{path} is no TorchScript descriptor ({reason}): expected one of SSCD or of "
            "export_torchscript"
        ) from error
    if rows.ndim != 2:
        raise KitError(
            f"{path} gives {tuple(rows.shape)} for one image, not one row: no descriptor"
        )
    model.config = replace(config, dim=rows.shape[1])
    return model
