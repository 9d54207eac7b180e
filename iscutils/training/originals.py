"""A teacher's vectors of unedited photographs, described once at the teacher's own size."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import torch

from iscutils.files.artifacts import KitError, atomic_path, content_key, wait_if_following
from iscutils.files.executor import Executor
from iscutils.files.images import ImageSet
from iscutils.files.prepare import SHARD, load_prepared
from iscutils.models import Teacher, state_key
from iscutils.models.precision import pick_device
from iscutils.training.pixels import Pixels, to_views

BATCH = 32  # photographs that the teacher sees at once
VIEWS = ("same", "original")


def store_originals(
    view: str,
    images: ImageSet,
    pixels: Pixels,
    teacher: Teacher,
    folder: str | Path,
    executor: Executor,
    device: str = "auto",
) -> np.ndarray | None:
    """The teacher's vectors (N, W) float16 of the unedited photographs of `pixels`, in their order.

    Every shard of photographs is a file that appears whole: a killed call goes on where it was.

    Args:
        view: what the teacher sees: "same", the student's view, for which nothing is stored and
            None is returned; "original", the photograph.
        images: the photographs, among them those of `pixels`.
        folder: where sets of pixels live.

    Raises:
        KitError: an unknown view, or a photograph that cannot be read any more.
    """
    if view not in VIEWS:
        raise KitError(f"teacher_view '{view}' is unknown: choose {' or '.join(VIEWS)}")
    if view == "same":
        return None
    place = {name: i for i, name in enumerate(images.ids)}
    photographs = images.subset(place[name] for name in pixels.ids)
    key = content_key(photographs.key(), state_key(teacher), teacher.size)
    out = Path(folder) / f"originals-{teacher.size}-{key}"
    starts = range(0, len(photographs), SHARD)
    files = [out / f"{number:05d}.npy" for number in range(len(starts))]
    wait_if_following(files[-1])
    chosen = pick_device(device)
    load = partial(load_prepared, photographs, [teacher.size], "squash")
    for start, file in zip(starts, files, strict=True):
        if file.exists():
            continue
        indices = range(start, min(start + SHARD, len(photographs)))
        loaded = executor.map(load, indices, desc="ask the teacher", chunk=BATCH)
        rows, waiting = [], []
        for index, picture in zip(indices, loaded, strict=True):
            if isinstance(picture, str):
                raise KitError(f"{photographs.path(index)} cannot be read any more: {picture}")
            waiting.append(torch.tensor(picture[0]))
            if len(waiting) == BATCH or index == indices[-1]:
                views = to_views(torch.stack(waiting)).to(chosen)
                rows.append(teacher.to(chosen)(views).half().cpu().numpy())
                waiting = []
        with atomic_path(file) as temporary, open(temporary, "wb") as handle:
            np.save(handle, np.concatenate(rows))
    return np.concatenate([np.load(file, allow_pickle=False) for file in files])
