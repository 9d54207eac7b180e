"""Hard negative pairs from the model that is to be trained further."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from iscutils.artifacts import KitError
from iscutils.edits.nearest import nearest_pairs
from iscutils.executor import Executor
from iscutils.images import ImageSet
from iscutils.models import Descriptor, load
from iscutils.training.fit import pick_device
from iscutils.training.labelled import Labelled
from iscutils.training.pixels import Pixels, whole_views

BATCH = 256  # pictures described at once


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
    vectors = _describe_first(load(model), data, classes, pick_device(device))
    return nearest_pairs(photographs, vectors, count, out, executor=executor)


@torch.inference_mode()
def _describe_first(
    model: Descriptor, data: Pixels | Labelled, classes: np.ndarray, device: torch.device
) -> np.ndarray:
    """Descriptors (N, D) of the first pictures of classes, unit rows."""
    model, rows = model.eval().to(device), []
    for start in range(0, len(classes), BATCH):
        pictures = data.first_pictures(classes[start : start + BATCH])
        rows.append(model(whole_views(data, pictures, model.config.size).to(device)).cpu())
    return torch.cat(rows).numpy()
