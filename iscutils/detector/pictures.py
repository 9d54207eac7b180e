"""Pictures that teach and test an overlay detector, made from photographs with known boxes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch.utils.data import DataLoader, Dataset

from iscutils.descriptors.boxes import BOX, CLASSES
from iscutils.detector.networks import DetectorConfig
from iscutils.detector.scaled import scale_picture
from iscutils.edits import load_recipe, read_manifest, synthesise
from iscutils.edits.making import VERSION as EDITS_VERSION
from iscutils.files.artifacts import KitError, content_key
from iscutils.files.executor import Executor
from iscutils.files.images import FileImages, ImageSet
from iscutils.training.pixels import EpochSampler

HELD_OUT = 0.1  # share of the photographs that training never sees
ROOM = 1.25  # photographs are edited at so many times the detector's size: crops stay sharp
MEMORY = 2**28  # bytes; smaller sets are decoded once and kept
LEAST_PHOTOGRAPHS = 4  # on both sides a photograph, and another one to paste on it


class Pictures(NamedTuple):
    """Made pictures with their boxes: the files, the true boxes and the sizes in px."""

    images: FileImages
    truth: pd.DataFrame  # image_id, class, x0, y0, x1, y1
    sizes: dict[str, tuple[int, int]]


def split_photographs(images: ImageSet, seed: int) -> tuple[ImageSet, ImageSet]:
    """Nine tenths of the photographs for training, one for measuring; none on both sides."""
    if len(images) < LEAST_PHOTOGRAPHS:
        raise KitError(
            f"{len(images)} photographs are too few to train a detector and to measure it: give "
            f"{LEAST_PHOTOGRAPHS} or more"
        )
    order = np.random.default_rng(seed).permutation(len(images))
    held_out = max(2, round(HELD_OUT * len(images)))
    return images.subset(sorted(order[held_out:])), images.subset(sorted(order[:held_out]))


def make_pictures(
    images: ImageSet, config: DetectorConfig, out: str | Path, executor: Executor
) -> tuple[Pictures, Pictures]:
    """Pictures with known overlays and stickers for training, and others for measuring.

    Photographs, not pictures, are split; what is pasted comes from the same side of the split.
    They lie in `out/detector-pictures-<key>`; finished ones are used again, a killed call resumes.
    """
    recipe = load_recipe(config.recipe)
    recipe = replace(recipe, source=min(recipe.source, round(ROOM * config.size)))
    shared = (images.key(), recipe.key(), config.seed, EDITS_VERSION)
    key = content_key(*shared, config.pictures, config.held_out)
    folder = Path(out) / f"detector-pictures-{key}"
    sides = zip(
        ("train", "held_out"),
        split_photographs(images, config.seed),
        (config.pictures, config.held_out),
        strict=True,
    )
    made = []
    for side, photographs, number in sides:
        copies = -(-number // len(photographs))
        made.append(
            synthesise(
                photographs, recipe, copies, folder / side, seed=config.seed, executor=executor,
                donors=photographs, limit=-(-number // copies),
            )
        )  # fmt: skip
    return open_pictures(made[0], config.pictures), open_pictures(made[1], config.held_out)


def open_pictures(folder: str | Path, limit: int = 0) -> Pictures:
    """A set of `synthesise` with the boxes that it noted; the first `limit` pictures, 0 = all."""
    rows = read_manifest(folder, columns=["image", "file", "width", "height"])
    rows = rows.iloc[: limit or None]
    files = FileImages(rows["image"], [str(Path(folder) / file) for file in rows["file"]])
    boxes = pd.read_csv(Path(folder) / "boxes.csv", dtype={"image": str, "class": str})
    truth = boxes.dropna().rename(columns={"image": "image_id"})
    truth = truth[truth["image_id"].isin(set(files.ids))].reset_index(drop=True)
    sizes = zip(rows["width"].tolist(), rows["height"].tolist(), strict=True)
    return Pictures(files, truth, dict(zip(files.ids, sizes, strict=True)))


class Examples(Dataset):
    """(pixels uint8, {boxes, labels}) of a picture; every second time mirrored."""

    def __init__(self, pictures: Pictures, config: DetectorConfig):
        self.images, self.sizes, self.config = pictures.images, pictures.sizes, config
        self.memory: dict[int, np.ndarray] | None = None
        if len(self.images) * config.size**2 * 3 <= MEMORY:
            self.memory = {}
        rows = {name: part for name, part in pictures.truth.groupby("image_id")}
        none = pictures.truth.iloc[:0]
        self.boxes, self.labels = [], []
        for name in self.images.ids:
            part = rows.get(name, none)
            self.boxes.append(part[BOX].to_numpy(np.float32).reshape(-1, 4))
            self.labels.append([CLASSES.index(kind) + 1 for kind in part["class"]])

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, place: tuple[int, int]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        epoch, i = place
        pixels = self._scaled(i)
        width, height = self.sizes[self.images.ids[i]]
        factors = np.array([pixels.shape[1] / width, pixels.shape[0] / height], np.float32)
        boxes = self.boxes[i] * np.tile(factors, 2)
        if np.random.default_rng([self.config.seed, epoch, i]).random() < 0.5:
            pixels = pixels[:, ::-1]
            boxes = boxes * (-1, 1, -1, 1) + (pixels.shape[1], 0, pixels.shape[1], 0)
            boxes = boxes[:, [2, 1, 0, 3]]
        target = {
            "boxes": torch.as_tensor(boxes.astype(np.float32)),
            "labels": torch.tensor(self.labels[i], dtype=torch.int64),
        }
        return torch.from_numpy(pixels.copy()), target

    def _scaled(self, i: int) -> np.ndarray:
        if self.memory is None:
            return scale_picture(self.images.load(i), self.config.size)
        if i not in self.memory:
            self.memory[i] = scale_picture(self.images.load(i), self.config.size)
        return self.memory[i]


def open_loader(pictures: Pictures, config: DetectorConfig, workers: int) -> DataLoader:
    """Batches for training, in a new order each epoch; workers: processes, 0 = this one."""
    sampler = EpochSampler(len(pictures.images), config.seed, mark=True)
    several = {"persistent_workers": True, "multiprocessing_context": "spawn"} if workers else {}
    return DataLoader(
        Examples(pictures, config), config.batch_size, sampler=sampler, drop_last=True,
        collate_fn=_as_lists, num_workers=workers, **several,
    )  # fmt: skip


def _as_lists(batch: Iterable[tuple]) -> tuple[list, list]:
    """Pictures of a batch differ in shape: torchvision's detectors take lists."""
    pixels, targets = zip(*batch, strict=True)
    return list(pixels), list(targets)
