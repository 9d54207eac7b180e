"""Hard negatives by the model that is to be trained further: pairs, and batches of look-alikes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from iscutils.artifacts import KitError
from iscutils.edits.nearest import nearest_pairs
from iscutils.executor import Executor
from iscutils.images import ImageSet
from iscutils.models import Descriptor, load
from iscutils.models.precision import pick_device
from iscutils.retrieval.search import nearest
from iscutils.training.labelled import Labelled
from iscutils.training.pixels import Pixels, many_whole_views

BATCH = 256  # pictures described at once
LOOKED_AT = 8  # neighbours of a photograph that are known, for each place in its group


def mine_pairs(
    model: str | Path | None,
    data: Pixels | Labelled,
    images: ImageSet,
    count: int,
    out: str | Path,
    executor: Executor,
    device: str = "auto",
) -> Path:
    """Pairs of training photographs that a model takes for each other, see `nearest_pairs`.

    Args:
        model: where the trained descriptor lies that the training starts from.
        data: what it will be trained on; the first picture of every class is looked at.
        images: the photographs themselves. Classes that are none of them are not paired.
        count, out, executor: as for `nearest_pairs`.

    Returns:
        CSV for `read_labelled(pairs=...)`.

    Raises:
        KitError: no model: noise takes nothing for anything.
    """
    if not model:
        raise KitError("pairs are mined with a trained descriptor: set start, or mined_pairs=0")
    place = {name: number for number, name in enumerate(images.ids)}
    classes = np.array([i for i, name in enumerate(data.ids) if name in place], int)
    photographs = images.subset([place[data.ids[i]] for i in classes])
    vectors = _describe_first(load(model), data, classes, device)
    return nearest_pairs(photographs, vectors, count, out, executor=executor)


def group_alike(model: Descriptor, data: Pixels, size: int, device: str = "auto") -> None:
    """Let photographs that a model takes for each other come in one batch, in groups of `size`.

    Raises:
        KitError: data of another kind, or a size below 1.
    """
    if not isinstance(data, Pixels) or size < 1:
        raise KitError(
            f"alike={size}: give 1 or more, and views='tensor', whose batches are put together here"
        )
    vectors = _describe_first(model, data, np.arange(len(data)), device)
    data.group = size
    data.neighbours = nearest(vectors, vectors, min(len(data), LOOKED_AT * size))[1]


@torch.inference_mode()
def _describe_first(
    model: Descriptor, data: Pixels | Labelled, classes: np.ndarray, device: str
) -> np.ndarray:
    """Descriptors (N, D) of the first pictures of classes, unit rows."""
    device = pick_device(device)
    model = model.eval().to(device)
    views = many_whole_views(data, data.first_pictures(classes), model.config.size, BATCH)
    return torch.cat([model(pictures.to(device)).cpu() for pictures in views]).numpy()
