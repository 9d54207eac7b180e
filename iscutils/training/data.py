"""What `fit` trains on: cached pixels, views of files, or the pictures of a labelled set."""

from __future__ import annotations

from typing import Protocol

from torch.utils.data import DataLoader

from iscutils.edits.views import EditedViews, one_thread
from iscutils.files.artifacts import KitError
from iscutils.files.images import ImageSet
from iscutils.training.method import TrainConfig, strength_at
from iscutils.training.pixels import EpochSampler, OneClassEach, Pixels


class Examples(Protocol):
    """Training data of any kind; see `Pixels`, `FileViews`, `StoredViews`, `labelled.Labelled`.

    Attributes:
        path: the `TrainConfig.path` that reads such data.
        classes: number of ids; those of a batch lie below it.
    """

    path: str

    @property
    def classes(self) -> int: ...

    def key(self) -> str:
        """Ten hexadecimal digits that change with whatever changes the batches."""
        ...

    def steps(self, config: TrainConfig) -> int:
        """Optimiser steps of an epoch; 0 when a batch cannot be filled."""
        ...

    def loader(self, config: TrainConfig) -> DataLoader:
        """Batches of this process: bytes as `to_views` takes them, ids (n,), and what else the
        data know of each image, as `Method.loss` takes it. Its sampler has `set_epoch`.
        """
        ...


class FileViews(OneClassEach, EditedViews):
    """Views of photographs, made one by one from the files: training data for path "images"."""

    path = "images"

    def loader(self, config: TrainConfig) -> DataLoader:
        """Batches of views (n, V, 3, S, S) and indices (n,), made by `config.workers` processes."""
        options = {}
        if config.workers:
            options = {
                "num_workers": config.workers,
                "persistent_workers": True,
                "multiprocessing_context": "spawn",  # a fork of a process with threads may hang
                "worker_init_fn": one_thread,
            }
        sampler = EpochSampler(len(self), config.seed, mark=True)
        return DataLoader(
            self, batch_size=config.batch_size, sampler=sampler, drop_last=True, **options
        )


def steps_of(data: Examples, config: TrainConfig) -> int:
    """Number of optimiser steps of a whole training run."""
    per_epoch = data.steps(config)
    if per_epoch == 0:
        raise KitError(
            f"batch_size {config.batch_size} is larger than the {data.classes} training images "
            f"on {config.devices} device(s): lower it"
        )
    return per_epoch * config.epochs


def training_data(images: ImageSet, pixels: Pixels, config: TrainConfig) -> Pixels | FileViews:
    """What `fit` trains on: the cached pixels, or for path "images" views of the same photographs.

    Those are made one by one from the files, with all edits there are, their strength rising by
    epochs; `pixels` then only says which photographs are trained on.
    """
    if config.path == "tensor":
        return pixels
    if config.path == "stored":
        raise KitError("path 'stored' trains on views that a teacher has seen: use store_views")
    if config.path == "labelled":
        raise KitError(
            "path 'labelled' trains on a synthesised set: give read_labelled(folders, ...) of the "
            "sets of notebook 02, or choose path tensor or images"
        )
    kept = set(pixels.ids)
    return open_views(
        images.subset([i for i, name in enumerate(images.ids) if name in kept]), config
    )


def open_views(images: ImageSet, config: TrainConfig) -> FileViews:
    """Training data for path "images", see `training_data`."""
    strengths = [strength_at(epoch / config.epochs, config) for epoch in range(config.epochs)]
    return FileViews(
        images,
        config.recipe,
        config.size,
        views=config.views,
        seed=config.seed,
        mild_first=config.mild_first,
        strengths=strengths,
    )
