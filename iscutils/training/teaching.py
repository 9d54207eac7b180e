"""What methods with a teacher or a queue share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from iscutils.files.artifacts import KitError, Run, content_key
from iscutils.losses import unit
from iscutils.models import Descriptor, DescriptorConfig, find_model, load, state_key
from iscutils.models.descriptor import first_of_two
from iscutils.training.method import Method, TrainConfig
from iscutils.training.pixels import Pixels, many_whole_views

ENTRIES = 65_536  # of a queue in the papers
LOOKED_AT = 2048  # photographs whose wide vectors decide how a compact layer starts


def start_student(
    config: DescriptorConfig,
    start: str | Path | None,
    pixels: Pixels,
    seed: int = 0,
    run: Run | None = None,
) -> Descriptor:
    """A student as its training begins: noise, or the weights that `start_from` copies.

    Where those weights give its wide features, its compact layer is no noise either: it keeps the
    main directions of the wide vectors of the first 2,048 photographs (PCA without centring, which
    changes inner products least). So it begins where a cut teacher ends.
    """
    student = Descriptor(config, seed=seed).start_from(start, run)
    if start and first_of_two(load(find_model(start, run)).config, config):
        wide = _wide_vectors(student.eval(), pixels)
        main = torch.linalg.eigh(wide.T @ wide)[1].flip(1)[:, : config.dim]  # (hidden, dim)
        with torch.no_grad():
            student.head[1].weight.copy_(main.T)
            student.head[1].bias.zero_()
    return student


@torch.inference_mode()
def _wide_vectors(student: Descriptor, pixels: Pixels) -> torch.Tensor:
    """Unit wide features (N, hidden) of the first photographs, unedited."""
    first = range(min(LOOKED_AT, len(pixels)))
    views = many_whole_views(pixels, first, student.size)
    return torch.cat([unit(student.expand(student.pooled(images))[0]) for images in views])


class Taught(Method):
    """A method whose student may learn from a frozen teacher, and that may keep queues.

    The teacher sits in a list: it is no sub-module, so nothing trains it, switches its mode, wraps
    it for several processes, converts its batch norms or stores it; its weights are part of the
    key. Where the data know the teacher's vectors (path "stored"), it is not asked again.
    """

    paths = ("tensor", "images", "stored")

    def __init__(
        self,
        config: TrainConfig,
        total_steps: int,
        teacher: nn.Module | None,
        originals: np.ndarray | None = None,
        **settings: Any,
    ):
        known = None if teacher is None else state_key(teacher)
        if originals is not None:
            settings["originals"] = content_key(originals.shape)  # teacher and data decide the rest
        super().__init__(config, total_steps, teacher=known, **settings)
        self._originals = originals
        self._teacher = [] if teacher is None else [teacher.eval().requires_grad_(False)]

    @property
    def originals(self) -> bool:
        """Whether views learn the teacher's vectors of their unedited photographs."""
        return self._originals is not None

    @property
    def teacher(self) -> nn.Module | None:
        """The frozen teacher, if there is one."""
        return self._teacher[0] if self._teacher else None

    def on_fit_start(self) -> None:
        for teacher in self._teacher:
            teacher.to(self.device)

    @torch.no_grad()
    def target(
        self, views: torch.Tensor, ids: torch.Tensor, known: Sequence[torch.Tensor] = ()
    ) -> torch.Tensor:
        """The teacher's unit vectors (M, width) for views (M, 3, S, S), in float32.

        ids: photographs (n,) of the first n views, of the next n, and so on. known: the vectors
        (m, width) of parts of the views, in their order, where the data have them.
        """
        if not self.originals:
            return unit(torch.cat(list(known)) if known else self._teacher[0](views))
        rows = torch.from_numpy(self._originals[ids.cpu().numpy()]).to(views.device).float()
        return unit(rows).repeat(len(views) // len(rows), 1)


def queue_size(asked: int, config: TrainConfig, total_steps: int, share: int, views: int) -> int:
    """Entries of a queue; 0 asks for 65,536, but at most a share of the training images.

    Args:
        asked: entries the user wants, 0 for the default.
        share: the queue holds at most one `share`-th of the images: else it is full of older
            views of the images of the batch.
        views: rows each image of a step writes.

    Raises:
        KitError: one step writes more rows than there are entries.
    """
    step = config.batch_size * config.devices
    images = total_steps // config.epochs * step  # of an epoch
    size = asked or min(ENTRIES, max(1, images // share))
    if views * step > size:
        whose = "asked for" if asked else f"one {share}th of about {images} training images"
        raise KitError(
            f"a step writes {views * step} rows into a queue of {size} ({whose}): set queue to "
            f"{views * step} or more, or lower batch_size"
        )
    return size
