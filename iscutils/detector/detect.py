"""Find pictures that were pasted on pictures: an image set -> a CSV of boxes.

`train_detector` makes a detector from photographs; `detect` runs it. Its table goes to
`boxes.choose_crops`, whose crops are described and compared like pictures of their own.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path

import pandas as pd
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from iscutils.descriptors.boxes import COLUMNS, write_detections, write_images
from iscutils.detector.networks import (
    DetectorConfig,
    build_network,
    detector_config,
    find_boxes,
    to_original,
)
from iscutils.detector.scaled import Prepared, read_scaled
from iscutils.detector.training import train_detector
from iscutils.files.artifacts import KitError, atomic_path, content_key, file_hash, log, write_json
from iscutils.files.executor import Executor
from iscutils.files.images import ImageSet
from iscutils.models.precision import pick_device

__all__ = [
    "DetectorConfig",
    "detect",
    "detector_config",
    "detector_key",
    "load_detector",
    "train_detector",
]

SHARD = 2048  # pictures between two points where a killed detection continues
BATCH = 16


def load_detector(folder: str | Path) -> tuple[nn.Module, DetectorConfig]:
    """The network of a detector folder, in eval mode on the CPU, and its settings.

    Raises `KitError` for another folder, and for weights that do not fit their settings.
    """
    config = _read_config(folder)
    network = build_network(config, start=False)
    try:
        network.load_state_dict(load_file(Path(folder) / "model.safetensors"))
    except (SafetensorError, RuntimeError) as error:
        raise KitError(
            f"{folder}: weights and config.json do not fit ({str(error).splitlines()[0]}): train "
            "the detector again"
        ) from error
    return network.eval(), config


def _read_config(folder: str | Path) -> DetectorConfig:
    folder = Path(folder)
    for name in ("config.json", "model.safetensors"):
        if not (folder / name).is_file():
            raise KitError(
                f"{folder} is no detector folder, {name} is missing: give one made by "
                "train_detector"
            )
    try:
        return DetectorConfig(**json.loads((folder / "config.json").read_text(encoding="utf-8")))
    except (TypeError, json.JSONDecodeError) as error:
        raise KitError(f"{folder / 'config.json'} is not of a detector ({error})") from error


def detector_key(folder: str | Path) -> str:
    """Ten hexadecimal digits that change with a detector's weights or settings."""
    _read_config(folder)
    folder = Path(folder)
    return content_key(
        (folder / "config.json").read_text(encoding="utf-8"),
        file_hash(folder / "model.safetensors"),
    )


def detect(
    images: ImageSet,
    detector: str | Path,
    out: str | Path,
    executor: Executor,
    device: str = "auto",
    name: str = "queries",
) -> Path:
    """Find overlays and stickers in every picture of a set; return the CSV of them.

    Pictures are decoded in the executor's processes, the network runs here. A killed call
    continues at its last shard of 2,048 pictures.

    Args:
        images: the pictures.
        detector: folder made by `train_detector`.
        out: folder of the CSV; its name carries a key of pictures and detector.
        device: auto, cpu or cuda.
        name: first part of the file name.

    Returns:
        Path of a CSV of `boxes.COLUMNS`: every detection of a confidence of at least 0.05, bounds
        in px of the upright original, in the order of the pictures and by falling confidence; a
        picture without any has one row with an empty class. Beside it lies the list of the
        pictures with their sizes (`boxes.read_sizes`); pictures that cannot be read have no row,
        their reasons are in that list (`boxes.read_unreadable`).
    """
    key = content_key(images.key(), detector_key(detector))
    path = Path(out) / f"{name}-detections-{key}.csv"
    if path.exists():
        log.info("%s is made already", path.name)
        return path
    network, config = load_detector(detector)
    chosen = pick_device(device)
    network.to(chosen)
    parts = path.with_name(f".{path.stem}.parts")
    shards = [parts / f"{start:09d}.csv" for start in range(0, len(images), SHARD)]
    for number, shard in enumerate(shards):
        if not shard.exists():
            indices = range(len(images))[number * SHARD : (number + 1) * SHARD]
            read = partial(read_scaled, images, config.size)
            loaded = executor.map(read, indices, desc=f"detect in {name}", chunk=8)
            _write_shard(shard, images, indices, _run(network, chosen, loaded))
    sizes, reasons = {}, {}
    for shard in shards:
        noted = json.loads(shard.with_suffix(".json").read_text(encoding="utf-8"))
        sizes |= {name: tuple(size) for name, size in noted["sizes"].items()}
        reasons |= noted["reasons"]
    if reasons:
        log.warning("%d of %d pictures cannot be read", len(reasons), len(images))
    tables = [pd.read_csv(shard, dtype={"image_id": str}, keep_default_na=False,
                          na_values={column: [""] for column in COLUMNS[2:]})
              for shard in shards]  # fmt: skip
    write_images(images, sizes, path, reasons)
    write_detections(pd.concat(tables, ignore_index=True), path)
    shutil.rmtree(parts, ignore_errors=True)
    return path


def _run(
    network: nn.Module, device: torch.device, loaded: Iterator[Prepared | str]
) -> Iterator[tuple[pd.DataFrame, tuple[int, ...], tuple[int, int]] | str]:
    """Detections, shape and whole size of each prepared picture, in order; or its reason."""
    while batch := list(islice(loaded, BATCH)):
        good = [item[0] for item in batch if not isinstance(item, str)]
        tables = iter(find_boxes(network, good, device) if good else [])
        for item in batch:
            yield item if isinstance(item, str) else (next(tables), item[0].shape, item[1])


def _write_shard(path: Path, images: ImageSet, indices: range, results: Iterator) -> None:
    """The shard's detections, and before them the sizes and reasons of its pictures."""
    tables, sizes, reasons = [pd.DataFrame(columns=COLUMNS)], {}, {}
    for i, result in zip(indices, results, strict=True):
        name = images.ids[i]
        if isinstance(result, str):
            reasons[name] = result
            continue
        table, shape, sizes[name] = result
        found = to_original(table, shape, sizes[name], name)
        none = pd.DataFrame([{**dict.fromkeys(COLUMNS), "image_id": name}])
        tables.append(found if len(found) else none)
    write_json(path.with_suffix(".json"), {"sizes": sizes, "reasons": reasons})
    with atomic_path(path) as temporary:
        rows = [table.astype(object) for table in tables]
        pd.concat(rows, ignore_index=True).to_csv(temporary, index=False)
