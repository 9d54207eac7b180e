"""Networks over a stream of prepared parts: full batches, whatever image the parts belong to."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from iscutils.descriptors.parts import Pieces
from iscutils.files.artifacts import KitError
from iscutils.models.onnx_file import OnnxDescriptor
from iscutils.models.precision import fast_in_bf16

PRECISIONS = ("32", "bf16", "auto")
AHEAD = 4  # batches on a GPU whose results are not fetched yet


class Job(NamedTuple):
    """A network and the stream of a plan (its place) that it describes."""

    network: nn.Module
    stream: int


def raw(network: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Descriptors (B, D) float32 of images (B, 3, H, W) in [0, 1], not normalised where possible.

    Files for inference alone give unit rows only.
    """
    return network.raw(images) if has_norms(network) else network(images)


def has_norms(network: nn.Module) -> bool:
    """Whether `raw` gives rows whose length means something."""
    return hasattr(network, "raw")


class Forward:
    """Describes the parts of many images: call it with `Pieces`, get rows.

    Parts of different images fill a batch together. On a GPU the next batch is copied there and
    started before the rows of the former are fetched. With `precision` "bf16" layers that can
    compute in 16 bits do, mostly in half the time; descriptors then differ by about half a percent.
    "auto" means bf16 where that is faster, see `fast_in_bf16`. ONNX files compute as they were
    written, on the CPU.
    """

    def __init__(
        self, jobs: Sequence[Job], device: torch.device, batch_size: int, precision: str = "32"
    ):
        self.jobs, self.device, self.batch_size = list(jobs), device, batch_size
        self.half = [uses_bf16(precision, job.network, device) for job in self.jobs]
        for job in self.jobs:
            job.network.eval().to(device, memory_format=torch.channels_last)

    def __call__(
        self, loaded: Iterable[Pieces | str]
    ) -> tuple[list[Pieces | str], list[np.ndarray]]:
        """Rows of every job, and what is known of every image, in order.

        Returns:
            The items without their pixels (texts are images that cannot be read); for each job
            float32 (R, D), R being the number of all parts together, in order.
        """
        items: list[Pieces | str] = []
        waiting: dict[tuple, list[tuple[int, np.ndarray]]] = {}
        self._running: deque[tuple] = deque()
        self._rows: list[list[tuple[list[int], np.ndarray]]] = [[] for _ in self.jobs]
        wanted, total = {job.stream for job in self.jobs}, 0
        for item in loaded:
            if isinstance(item, str):
                items.append(item)
                continue
            items.append(item._replace(pixels=[]))
            for stream, pictures in enumerate(item.pixels):
                if stream not in wanted:
                    continue
                for place, picture in enumerate(pictures, total):
                    group = waiting.setdefault((stream, picture.shape), [])
                    group.append((place, picture))
                    if len(group) == self.batch_size:
                        self._start(stream, group)
                        group.clear()
            total += len(item.numbers)
        for (stream, _), group in waiting.items():
            if group:
                self._start(stream, group)
        while self._running:
            self._finish()
        return items, [_in_order(rows, total) for rows in self._rows]

    @torch.inference_mode()
    def _start(self, stream: int, group: list[tuple[int, np.ndarray]]) -> None:
        places, pictures = ([item[i] for item in group] for i in (0, 1))
        images = None  # floats on the device, for those networks that want them
        for number, job in enumerate(self.jobs):
            if job.stream != stream:
                continue
            if isinstance(job.network, OnnxDescriptor):
                rows = torch.from_numpy(job.network.describe(np.stack(pictures)))
                self._running.append((number, places, rows, None))
                continue
            images = self._to_device(pictures) if images is None else images
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.half[number]):
                rows = raw(job.network, images)
            self._running.append((number, places, *self._to_host(rows.float())))
        while len(self._running) > AHEAD * len(self.jobs) or (self._running and not self._is_gpu):
            self._finish()

    @property
    def _is_gpu(self) -> bool:
        return self.device.type == "cuda"

    def _to_device(self, pictures: list[np.ndarray]) -> torch.Tensor:
        shape = (len(pictures), *pictures[0].shape)
        # Pinned memory is copied while the GPU computes.
        pixels = torch.empty(shape, dtype=torch.uint8, pin_memory=self._is_gpu)
        np.stack(pictures, out=pixels.numpy())
        pixels = pixels.to(self.device, non_blocking=True).permute(0, 3, 1, 2)  # (B, 3 or 1, H, W)
        images = pixels.expand(-1, 3, -1, -1).float() / 255
        return images.contiguous(memory_format=torch.channels_last)

    def _to_host(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.cuda.Event | None]:
        if not self._is_gpu:
            return rows, None
        host = torch.empty(rows.shape, dtype=rows.dtype, pin_memory=True)
        host.copy_(rows, non_blocking=True)
        done = torch.cuda.Event()
        done.record()
        return host, done

    def _finish(self) -> None:
        number, places, rows, done = self._running.popleft()
        if done is not None:
            done.synchronize()
        self._rows[number].append((places, np.array(rows.numpy(), np.float32)))


def uses_bf16(precision: str, network: nn.Module, device: torch.device) -> bool:
    """What a precision means for a network on a device; `KitError` for one that is not known."""
    if precision not in PRECISIONS:
        raise KitError(f"precision '{precision}' is unknown: choose {', '.join(PRECISIONS)}")
    if isinstance(network, OnnxDescriptor):
        return False
    return precision == "bf16" or (precision == "auto" and fast_in_bf16(network, device))


def _in_order(rows: list[tuple[list[int], np.ndarray]], total: int) -> np.ndarray:
    """Rows of batches, put where they belong: float32 (total, D)."""
    dim = rows[0][1].shape[1] if rows else 0
    result = np.empty((total, dim), np.float32)
    for places, batch in rows:
        result[places] = batch
    return result
