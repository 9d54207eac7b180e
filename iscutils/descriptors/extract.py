"""Extraction: image set + model folder -> one .h5 of unit descriptors, several scales at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import h5py
import numpy as np
import torch
from torch.nn import functional as F

from iscutils.artifacts import KitError, atomic_path, content_key, log
from iscutils.descriptors.store import read_descriptors, write_descriptors
from iscutils.executor import Executor
from iscutils.images import ImageSet
from iscutils.models import Descriptor, load, model_key
from iscutils.preprocess import load_prepared
from iscutils.training.fit import pick_device

SHARD = 2048  # images between two points where a killed extraction continues


def extract(
    images: ImageSet,
    model: str | Path,
    sizes: Sequence[int],
    out: str | Path,
    executor: Executor,
    *,
    name: str = "images",
    device: str = "auto",
    batch_size: int = 64,
) -> Path:
    """Describe every image at every size and store the normalised mean over the sizes.

    Each image is decoded once whatever the number of sizes, in the executor's processes; the
    network runs here. Finished work is skipped; a killed extraction continues at its last shard
    of 2,048 images. Unreadable images are left out and noted in the file (`read_skipped`).

    Args:
        images: N images.
        model: model folder.
        sizes: input sides in pixels, e.g. [96, 128].
        out: folder of the .h5; its name carries a key of images, model and sizes.
        name: first part of the file name.

    Returns:
        Path of an .h5 with `vectors` float32 (N, D), unit rows, and `image_names`.
    """
    sizes = sorted(set(sizes))
    if not sizes or min(sizes) < 16:
        raise KitError(f"sizes {sizes}: give one or more sides of at least 16 pixels")
    network = load(model)
    key = content_key(images.key(), model_key(model), sizes)
    path = Path(out) / f"{name}-{network.name}-{key}.h5"
    if path.exists():
        log.info("%s is extracted already", path.name)
        return path
    parts = path.with_name(f".{path.stem}.parts")
    describe = _Describer(network, pick_device(device), batch_size)
    for start in range(0, len(images), SHARD):
        shard = parts / f"{start:09d}.h5"
        if not shard.exists():
            indices = range(start, min(start + SHARD, len(images)))
            read = partial(load_prepared, images, sizes, network.config.resize)
            loaded = executor.map(read, indices, desc=f"extract {name}", chunk=8)
            _write_shard(shard, images, indices, describe(loaded))
    shards = [_read_shard(shard) for shard in sorted(parts.glob("*.h5"))]
    vectors = np.concatenate([shard[0] for shard in shards])
    ids = [image_id for shard in shards for image_id in shard[1]]
    skipped = [row for shard in shards for row in shard[2]]
    if not ids:
        raise KitError(f"none of the {len(images)} images of '{name}' can be read")
    write_descriptors(path, vectors, ids, model=network.name, sizes=sizes, skipped=skipped)
    for shard in parts.glob("*.h5"):
        shard.unlink()
    parts.rmdir()
    return path


def describe(
    images: ImageSet, index: int, model: Descriptor, sizes: Sequence[int], device: str = "cpu"
) -> np.ndarray:
    """Unit descriptor (D,) of one image of a set: the normalised mean over the sizes.

    Raises:
        KitError: the image cannot be read.
    """
    item = load_prepared(images, sorted(set(sizes)), model.config.resize, index)
    if isinstance(item, str):
        raise KitError(f"image '{images.ids[index]}' cannot be read: {item}")
    return _Describer(model, pick_device(device), 1)(iter([item]))[0]


def read_skipped(path: str | Path) -> list[tuple[str, str, str]]:
    """Images that an extraction left out: (id, file, reason)."""
    return [tuple(row) for row in read_descriptors(path).attrs.get("skipped", [])]


class _Describer:
    """Turns a stream of prepared images into descriptors, in batches of equal shape."""

    def __init__(self, network: Descriptor, device: torch.device, batch_size: int):
        self.network = network.eval().to(device, memory_format=torch.channels_last)
        self.device, self.batch_size = device, batch_size

    def __call__(self, loaded: Iterator[list[np.ndarray] | str]) -> list[np.ndarray | str]:
        results: list[np.ndarray | str] = []
        waiting: dict[tuple, list[tuple[int, list[np.ndarray]]]] = {}
        for place, item in enumerate(loaded):
            results.append(item if isinstance(item, str) else "")
            if isinstance(item, str):
                continue
            group = waiting.setdefault(tuple(image.shape for image in item), [])
            group.append((place, item))
            if len(group) == self.batch_size:
                self._run(group, results)
                group.clear()
        for group in waiting.values():
            if group:
                self._run(group, results)
        return results

    @torch.inference_mode()
    def _run(self, group: list[tuple[int, list[np.ndarray]]], results: list) -> None:
        scales = zip(*(item for _, item in group), strict=True)  # one tuple of images a size
        total = sum(self._forward(np.stack(scale)) for scale in scales)  # (B, D)
        rows = F.normalize(total, dim=1).cpu().numpy()
        for (place, _), row in zip(group, rows, strict=True):
            results[place] = row

    def _forward(self, pixels: np.ndarray) -> torch.Tensor:
        images = torch.from_numpy(pixels).to(self.device).permute(0, 3, 1, 2).float() / 255
        return self.network(images.contiguous(memory_format=torch.channels_last))


def _write_shard(
    path: Path, images: ImageSet, indices: range, results: list[np.ndarray | str]
) -> None:
    good = [(images.ids[i], row) for i, row in zip(indices, results, strict=True)
            if not isinstance(row, str)]  # fmt: skip
    bad = [(images.ids[i], str(images.path(i) or ""), row)
           for i, row in zip(indices, results, strict=True) if isinstance(row, str)]  # fmt: skip
    text = h5py.string_dtype()
    with atomic_path(path) as temporary:
        with h5py.File(temporary, "w") as file:
            file["vectors"] = np.array([row for _, row in good], dtype=np.float32)
            file.create_dataset("ids", data=[image_id for image_id, _ in good], dtype=text)
            file.create_dataset("skipped", data=np.array(bad, dtype=object).reshape(-1, 3),
                                dtype=text)  # fmt: skip


def _read_shard(path: Path) -> tuple[np.ndarray, list[str], list[tuple[str, ...]]]:
    with h5py.File(path, "r") as file:
        vectors = file["vectors"][:]
        ids = [name.decode() for name in file["ids"][:]]
        skipped = [tuple(value.decode() for value in row) for row in file["skipped"][:]]
    return vectors.reshape(len(ids), -1), ids, skipped
