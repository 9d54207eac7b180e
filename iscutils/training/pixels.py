"""Training pixels: every photograph decoded once, squashed to one size, kept as bytes on disc."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, Sampler

from iscutils.files.artifacts import (
    KitError,
    atomic_path,
    content_key,
    wait_if_following,
    write_json,
)
from iscutils.files.executor import Executor
from iscutils.files.images import ImageSet
from iscutils.files.prepare import SHARD, load_prepared
from iscutils.losses import rank, world_size

if TYPE_CHECKING:
    from iscutils.training.method import TrainConfig  # it needs `to_views`


class OneClassEach:
    """Training data in which every image is a class of its own, `batch_size` of them a step."""

    @property
    def classes(self) -> int:
        """Number of images."""
        return len(self)

    def steps(self, config: TrainConfig) -> int:
        """Optimiser steps of an epoch."""
        return len(self) // (config.batch_size * config.devices)


class Pixels(OneClassEach, Dataset):
    """All images of a training set as uint8 (S, S, 3), memory-mapped from shards.

    Batches are read whole (`__getitems__`): no loader process, no copy an image.
    """

    path = "tensor"

    def __init__(self, folder: str | Path, indices: Sequence[int] | None = None):
        self.folder = Path(folder)
        self.name = self.folder.name
        shards = sorted(self.folder.glob("*.npy"))
        if not shards:
            raise KitError(f"{folder} holds no training pixels: run the cell that caches them")
        self.shards = [np.load(shard, mmap_mode="r", allow_pickle=False) for shard in shards]
        self.ends = np.cumsum([len(shard) for shard in self.shards])
        self.indices = np.arange(self.ends[-1]) if indices is None else np.asarray(indices)
        names = (self.folder / "ids.txt").read_text(encoding="utf-8").splitlines()
        self.ids = [names[index] for index in self.indices]
        self.side = self.shards[0].shape[1]

    def key(self) -> str:
        """Ten hexadecimal digits that change with the images or their number."""
        return content_key(self.name, self.ids)

    def loader(self, config: TrainConfig) -> DataLoader:
        """Batches of images (n, S, S, 3) uint8 and indices (n,)."""
        return whole_batches(self, EpochSampler(len(self), config.seed), config.batch_size)

    def first_pictures(self, classes: np.ndarray) -> list[int]:
        """Index of a picture of each class: an image is the only one of its class."""
        return classes.tolist()

    def split(self, share: float, seed: int = 0) -> tuple[Pixels, Pixels]:
        """Two disjoint parts: a random `share` of the images is held out, as the second."""
        order = np.random.default_rng([seed, len(self)]).permutation(self.indices)
        held_out = round(share * len(self))
        kept, rest = np.sort(order[held_out:]), np.sort(order[:held_out])
        return Pixels(self.folder, kept), Pixels(self.folder, rest)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> np.ndarray:
        index = int(self.indices[index])
        shard = int(np.searchsorted(self.ends, index, side="right"))
        start = self.ends[shard - 1] if shard else 0
        return self.shards[shard][index - start]  # (S, S, 3)

    def __getitems__(self, indices: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Batch of images (B, S, S, 3) uint8 and their indices (B,)."""
        images = np.stack([self[index] for index in indices])
        return torch.from_numpy(images), torch.as_tensor(indices)


def to_views(pixels: torch.Tensor) -> torch.Tensor:
    """Bytes (B, S, S, 3), or of finished views (B, V, 3, S, S), to float in [0, 1], channels first.

    Returns (B, 3, S, S) or (B, V, 3, S, S).
    """
    return (pixels if pixels.ndim == 5 else pixels.permute(0, 3, 1, 2)).float() / 255


def shrink(images: torch.Tensor, side: int) -> torch.Tensor:
    """Images (N, 3, H, W) in [0, 1] squashed to (N, 3, side, side), anti-aliased."""
    if images.shape[-2:] == (side, side):
        return images
    shrunk = F.interpolate(images, (side, side), mode="bilinear", antialias=True)
    return shrunk.clamp(0, 1)


def whole_views(data: Dataset, indices: Sequence[int], side: int) -> torch.Tensor:
    """Pictures of training data, unedited: (n, 3, side, side) float in [0, 1]."""
    return shrink(to_views(data.__getitems__(list(indices))[0]), side)


def many_whole_views(
    data: Dataset, indices: Sequence[int], side: int, at_once: int = 64
) -> Iterator[torch.Tensor]:
    """`whole_views` of many pictures, `at_once` of them at a time, in their order."""
    for start in range(0, len(indices), at_once):
        yield whole_views(data, indices[start : start + at_once], side)


def whole_batches(data: Dataset, sampler: Sampler[int], batch_size: int) -> DataLoader:
    """Loader of data whose `__getitems__` gives a whole batch: there is nothing to collate."""
    return DataLoader(data, batch_size, sampler=sampler, collate_fn=_itself, drop_last=True)


def _itself(batch):
    return batch


class EpochSampler(Sampler[int]):
    """A new order of the indices each epoch, fixed by (seed, epoch): resuming repeats it.

    Of W processes each takes every W-th index: at a step they hold the images that one process
    with a batch W times as large would. With `mark` it gives (epoch, index): loader processes learn
    the epoch with every item.
    """

    def __init__(self, count: int, seed: int, mark: bool = False):
        self.count, self.seed, self.mark, self.epoch = count, seed, mark, 0

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.count // world_size()

    def order(self) -> np.ndarray:
        """All indices (count,) in the order of this epoch, for all processes together."""
        return np.random.default_rng([self.seed, self.epoch]).permutation(self.count)

    def __iter__(self):
        own = self.order()[rank() :: world_size()][: len(self)]
        return iter([(self.epoch, i) if self.mark else i for i in own.tolist()])


def cache_pixels(
    images: ImageSet, size: int, folder: str | Path, executor: Executor
) -> tuple[Path, list[tuple[str, str, str]]]:
    """Decode a training set once into shards of bytes; finished shards are kept on a re-run.

    Args:
        images: the photographs.
        size: side of the training views; 1.4 times as much is kept, so that crops stay sharp.
        folder: where sets of pixels live; this one is named by its content.

    Returns:
        Folder of the shards; skipped images as (id, file, reason).
    """
    side = round(1.4 * size)
    out = Path(folder) / f"pixels-{side}-{content_key(images.key(), side)}"
    skipped: list[tuple[str, str, str]] = []
    wait_if_following(out / "ids.txt")
    if (out / "ids.txt").exists():
        return out, _read_skipped(out)
    for number, start in enumerate(range(0, len(images), SHARD)):
        shard, notes = out / f"{number:05d}.npy", out / f"{number:05d}.json"
        if not notes.exists():
            indices = range(start, min(start + SHARD, len(images)))
            load = partial(load_prepared, images, [side], "squash")
            results = list(executor.map(load, indices, desc="decode", chunk=16))
            good = [result[0] for result in results if isinstance(result, list)]
            with atomic_path(shard) as temporary:
                with open(temporary, "wb") as file:
                    np.save(file, np.stack(good) if good else np.zeros((0, side, side, 3), "u1"))
            write_json(notes, [None if isinstance(r, list) else r for r in results])
    ids = []
    for number, start in enumerate(range(0, len(images), SHARD)):
        for offset, reason in enumerate(_read_json(out / f"{number:05d}.json")):
            name = images.ids[start + offset]
            if reason is None:
                ids.append(name)
            else:
                skipped.append((name, str(images.path(start + offset) or ""), reason))
    if len(ids) < 2:
        raise KitError(f"only {len(ids)} of {len(images)} training images can be read")
    write_json(out / "skipped.json", skipped)
    with atomic_path(out / "ids.txt") as temporary:
        temporary.write_text("\n".join(ids), encoding="utf-8")
    return out, skipped


def _read_json(path: Path):
    return json.loads(path.read_text(encoding="utf-8"))


def _read_skipped(folder: Path) -> list[tuple[str, str, str]]:
    return [tuple(row) for row in _read_json(folder / "skipped.json")]
