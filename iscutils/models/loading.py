"""Open whatever is a descriptor: model folders, published weight files, known names."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file

from iscutils.artifacts import KitError, content_key, file_hash, resolve
from iscutils.models.descriptor import Descriptor, DescriptorConfig
from iscutils.models.download import KNOWN, fetch
from iscutils.models.export import TorchScriptDescriptor, is_torchscript, open_torchscript
from iscutils.models.official import load_official
from iscutils.models.pretrained import copy_weights
from iscutils.models.shipped import shipped_folder, shipped_names


def load(model: str | Path) -> Descriptor | TorchScriptDescriptor:
    """Load a descriptor network in eval mode, on the CPU.

    Args:
        model: a model folder of the kit (`config.json` + `model.safetensors`); a file of SSCD
            (torchvision or classy layout), of DINO ViT-B, D2LV, BoT (`.pth.tar`), EsViT Swin-B, a
            pretrained ResNet (Barlow Twins `.pth`, Momentum2-Teacher `.pkl`; also IBN-a), or
            TorchScript (inference only); the name of a model that comes with the kit
            (`shipped_names`); or a name of `KNOWN`, such as `sscd_disc_mixup`, whose file is
            downloaded to the cache. A file's layout is recognised by its names.

    Raises:
        KitError: nothing lies there, or what lies there does not fit.
    """
    path = locate(model)
    if path.is_dir():
        return _load_folder(path)
    return open_torchscript(path) if is_torchscript(path) else load_official(path)


def locate(model: str | Path) -> Path:
    """Folder or file that `load` reads; known names are downloaded when they are not here yet."""
    for path in (Path(model).expanduser(), resolve(model)):
        if path.exists():
            return path
    shipped = shipped_folder(model)
    if shipped is not None:
        return shipped
    if str(model) in KNOWN:
        return fetch(str(model))
    known = [name for name in KNOWN if not name.endswith(".pt")]
    names = ", ".join(shipped_names() + known)
    raise KitError(
        f"'{model}' is no model folder and no file of weights: give the path of one, or one of the "
        f"published {names}"
    )


def model_key(model: str | Path) -> str:
    """Ten hexadecimal digits that change with a model's weights or configuration."""
    path = locate(model)
    if path.is_file():
        return content_key(file_hash(path))
    return content_key((path / "config.json").read_text(), file_hash(path / "model.safetensors"))


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
