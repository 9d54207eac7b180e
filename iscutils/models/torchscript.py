"""TorchScript files as descriptors: those of SSCD, and those that earlier versions exported."""

from __future__ import annotations

import json
import warnings
import zipfile
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from iscutils.files.artifacts import KitError
from iscutils.models.descriptor import DescriptorConfig
from iscutils.models.inference import InferenceOnly, check_images

_NOTE = "iscutils.json"  # inside files of the kit: they take images in [0, 1]
_DEPRECATED = r".*torch\.jit\..* is deprecated.*"


def is_torchscript(path: str | Path) -> bool:
    """Whether a file is a TorchScript archive, by its content."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any("/code/" in name for name in archive.namelist())


class TorchScriptDescriptor(InferenceOnly):
    """A TorchScript file as a descriptor, for inference alone: images in [0, 1] -> unit rows.

    Files of SSCD take normalised images: the ImageNet normalisation is done here. Those of the
    kit do it themselves.

    Args:
        script: the loaded file.
        config: dim, size and resize of the file.
        normalise: whether the file expects normalised images.
    """

    kind = "a TorchScript file"

    def __init__(self, script: nn.Module, config: DescriptorConfig, normalise: bool):
        super().__init__(config)
        self.script, self.normalise = script, normalise
        self.requires_grad_(False)
        self.eval()

    @torch.no_grad()
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Unit descriptors (B, D) of images (B, 3, H, W) in [0, 1]."""
        check_images(images)
        if self.normalise:
            images = (images - self.mean) / self.std
        return F.normalize(self.script(images).float(), dim=1)


def open_torchscript(path: str | Path) -> TorchScriptDescriptor:
    """Load a TorchScript file of SSCD or of the kit, on the CPU.

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
            f"{path} is no TorchScript descriptor ({reason}): expected one of SSCD"
        ) from error
    if rows.ndim != 2:
        raise KitError(
            f"{path} gives {tuple(rows.shape)} for one image, not one row: no descriptor"
        )
    model.config = replace(config, dim=rows.shape[1])
    return model
