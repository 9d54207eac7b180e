"""Training on synthesised sets: several pictures of every id, their content, negative pairs."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch.utils.data import DataLoader, Dataset

from iscutils.edits.decoded import cache_labelled
from iscutils.files.artifacts import KitError, content_key, log
from iscutils.files.executor import Executor
from iscutils.training.method import TrainConfig
from iscutils.training.pixels import whole_batches
from iscutils.training.pk_sampler import PKSampler


def read_labelled(
    sets: Sequence[str | Path],
    size: int,
    folder: str | Path,
    executor: Executor,
    *,
    pairs: str | Path | None = None,
    pairs_a_batch: int = 4,
    without: Collection[str] = (),
    steps: int = 0,
    edited: float = 1.0,
) -> Labelled:
    """Training data for path "labelled" from folders that `synthesise` made; see `Labelled`.

    Args:
        sets: the folders. Ids that several of them hold are one class.
        size: side of the training pictures in pixels.
        folder: where sets of pixels live; decoded pixels are kept there, and found again.
        executor: decodes.
        pairs: `pairs.csv` of `hard_negative_pairs` (columns image_a, image_b), one of the sets
            being made of its images; None for none.
        pairs_a_batch, without, steps, edited: see `Labelled`.

    Raises:
        KitError: a folder holds no finished training set.
    """
    cached = [cache_labelled(part, size, folder, executor) for part in sets]
    table = None if pairs is None else pd.read_csv(pairs, dtype=str)
    return Labelled(cached, table, pairs_a_batch, without, steps, edited)


class Labelled(Dataset):
    """Pictures of a synthesised set as uint8 (S, S, 3), memory-mapped, grouped by their ids.

    A batch has `config.views` different pictures of each of `batch_size / views` ids; ids come in
    random order. Items of a batch: pixels (n, S, S, 3), class of the id (n,), scale = visible share
    of the photograph (n,), number of the hard negative pair that the id belongs to, or -1, (n,).

    Args:
        caches: folders that `cache_labelled` wrote.
        pairs: table of hard negative pairs with columns image_a, image_b (ids). Their ids are
            classes as all others, but come in pairs: both of a pair are in one batch. With columns
            source_a, source_b (ids of the photographs they were made of) these photographs are no
            classes of their own: a photograph in two classes would be pushed away from itself.
        pairs_a_batch: complete pairs in a batch of a process, beside its ordinary ids.
        without: ids to leave out, those of held-out photographs, and with them pairs made of such.
        steps: of an epoch; 0: as many as show every ordinary id once.
        edited: factor on the scales of all copies but number 0, see `ASL`.
    """

    path = "labelled"

    def __init__(
        self,
        caches: Sequence[str | Path],
        pairs: pd.DataFrame | None = None,
        pairs_a_batch: int = 4,
        without: Collection[str] = (),
        steps: int = 0,
        edited: float = 1.0,
    ):
        self.caches = [Path(cache) for cache in caches]
        files = [file for cache in self.caches for file in sorted(cache.glob("[0-9]*.npy"))]
        self.shards = [np.load(file, mmap_mode="r", allow_pickle=False) for file in files]
        self.ends = np.cumsum([len(shard) for shard in self.shards])
        tables = [pd.read_parquet(cache / "pictures.parquet") for cache in self.caches]
        table = pd.concat(tables, ignore_index=True)
        pairs, others = _of_training(pairs, set(without))
        used = table[table.readable & ~table.id.isin(others)]
        if used.empty:
            raise KitError("the labelled sets hold no picture to train on: make larger ones")
        codes, ids = pd.factorize(used.id)
        self.ids: list[str] = ids.tolist()
        self.side = self.shards[0].shape[1]
        self.groups = _by_class(used.index.to_numpy(), codes, len(self.ids))  # (classes, K)
        factor = np.where(table["copy"] > 0, edited, 1.0)
        self.scales = (table.scale * factor).to_numpy(np.float32)  # of every picture
        self.labels = np.full(len(table), -1)
        self.labels[used.index] = codes
        self.pairs = _pair_classes(pairs, self.ids)  # (pairs, 2)
        self.pair_of = np.full(len(self.ids), -1)
        self.pair_of[self.pairs] = np.arange(len(self.pairs))[:, None]
        self.pairs_a_batch = pairs_a_batch if len(self.pairs) else 0
        self.epoch_steps, self.edited = steps, edited

    @property
    def classes(self) -> int:
        """Number of ids."""
        return len(self.ids)

    def key(self) -> str:
        """Ten hexadecimal digits that change with pictures, ids, pairs and length of an epoch."""
        names = [cache.name for cache in self.caches]
        settings = (self.pairs.tolist(), self.pairs_a_batch, self.epoch_steps, self.edited)
        return content_key(names, self.ids, *settings)

    def first_pictures(self, classes: np.ndarray) -> list[int]:
        """Index of the first picture of each class, its original where the sets have one."""
        return self.groups[classes, 0].tolist()

    def __len__(self) -> int:
        return len(self.labels)

    def sampler(self, config: TrainConfig) -> PKSampler:
        """Order of the pictures, see `PKSampler`; `KitError` for batches that cannot be filled."""
        return PKSampler(
            self.groups, self.pairs, config.views, config.batch_size // config.views,
            self.pairs_a_batch, config.seed, config.devices, self.epoch_steps,
        )  # fmt: skip

    def steps(self, config: TrainConfig) -> int:
        """Optimiser steps of an epoch."""
        return self.sampler(config).steps

    def loader(self, config: TrainConfig) -> DataLoader:
        """Batches (pixels, classes, scales, pairs) of this process."""
        if self.side != config.size:
            raise KitError(
                f"the labelled pixels have {self.side} px a side, the training wants "
                f"{config.size}: read_labelled(sets, size={config.size}, ..)"
            )
        sampler = self.sampler(config)
        return whole_batches(self, sampler, sampler.ids * sampler.views)

    def __getitem__(self, index: int) -> np.ndarray:
        shard = int(np.searchsorted(self.ends, index, side="right"))
        start = self.ends[shard - 1] if shard else 0
        return self.shards[shard][index - start]  # (S, S, 3)

    def __getitems__(self, indices: list[int]) -> tuple[torch.Tensor, ...]:
        """Batch of pictures (n, S, S, 3) uint8, their classes, scales and pairs, (n,) each."""
        labels = self.labels[indices]
        known = labels, self.scales[indices], self.pair_of[labels]
        pixels = torch.from_numpy(np.stack([self[index] for index in indices]))
        return pixels, *map(torch.from_numpy, known)


def _by_class(pictures: np.ndarray, codes: np.ndarray, classes: int) -> np.ndarray:
    """Pictures (classes, K) of each class, filled up with -1 where it has fewer."""
    counts = np.bincount(codes, minlength=classes)
    order = np.argsort(codes, kind="stable")
    column = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
    groups = np.full((classes, counts.max()), -1)
    groups[codes[order], column] = pictures[order]
    return groups


def _of_training(
    pairs: pd.DataFrame | None, without: set[str]
) -> tuple[pd.DataFrame | None, set[str]]:
    """Pairs without held-out photographs, and the ids that are no ordinary classes."""
    if pairs is None or "source_a" not in pairs:
        return pairs, without
    sources = pairs[["source_a", "source_b"]]
    kept = pairs[~sources.isin(without).any(axis=1)]
    pieces = set(pairs.image_a) | set(pairs.image_b)
    left_out = pieces - set(kept.image_a) - set(kept.image_b)
    return kept, without | left_out | (set(sources.to_numpy().ravel()) - pieces)


def _pair_classes(pairs: pd.DataFrame | None, ids: list[str]) -> np.ndarray:
    """Classes (P, 2) of the pairs; those of which an id is missing are left out."""
    if pairs is None:
        return np.zeros((0, 2), int)
    place = {name: number for number, name in enumerate(ids)}
    columns = [pairs[name].map(place) for name in ("image_a", "image_b")]
    found = pd.concat(columns, axis=1).dropna().to_numpy().astype(int)
    if len(found) < len(pairs):
        log.warning("%d of %d pairs have pictures to train on", len(found), len(pairs))
    if not len(found):
        raise KitError(
            "no id of the pairs is among the labelled sets: add the set that synthesise made of "
            "the pairs' images"
        )
    if len(np.unique(found)) < found.size:
        raise KitError("an id is in several hard negative pairs: keep one pair of each id")
    return found
