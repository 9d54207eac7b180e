"""First-in first-out memory of unit vectors: the queues of RDCD and the bank of kd_icd."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from iscutils.files.artifacts import KitError
from iscutils.losses.gather import gather


class MemoryQueue(nn.Module):
    """The last K vectors seen by all processes, with the id of the image behind each.

    Starts with random unit vectors of id -1 from the seed. Its content is a buffer: it moves with
    the module, is stored in checkpoints and gets no gradient. Every process writes the same
    gathered rows, so the content is the same everywhere without a broadcast.

    Args:
        size: entries K.
        width: values of an entry.
        seed: of the start.
    """

    def __init__(self, size: int, width: int, seed: int = 0):
        super().__init__()
        if size < 1 or width < 1:
            raise KitError(f"a queue of {size} vectors of {width} values: give at least 1 of both")
        generator = torch.Generator().manual_seed(seed)
        start = F.normalize(torch.randn(size, width, generator=generator), dim=1)
        self.register_buffer("vectors", start)  # (K, D)
        self.register_buffer("ids", torch.full((size,), -1, dtype=torch.long))
        self.register_buffer("pointer", torch.zeros((), dtype=torch.long))
        self.register_buffer("filled", torch.zeros((), dtype=torch.long))

    def __len__(self) -> int:
        return len(self.vectors)

    @property
    def share_filled(self) -> torch.Tensor:
        """Share of the entries that hold real vectors, 0 to 1."""
        return self.filled / len(self)

    def content(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Copies of the vectors (K, D) and ids (K,) as they are now.

        Copies, because a loss needs them once more in its backward pass, after the next `write`.
        """
        return self.vectors.clone(), self.ids.clone()

    @torch.no_grad()
    def write(self, rows: torch.Tensor, ids: torch.Tensor) -> None:
        """Replace the oldest entries by the rows (M, D) and ids (M,) of all processes.

        Raises:
            KitError: more rows than the queue has entries.
        """
        rows, ids = gather(rows.detach().to(self.vectors.dtype)), gather(ids)
        if len(rows) > len(self):
            raise KitError(
                f"{len(rows)} rows of one step do not fit a queue of {len(self)}: "
                "enlarge the queue or lower batch_size"
            )
        places = (torch.arange(len(rows), device=rows.device) + self.pointer) % len(self)
        self.vectors[places] = rows
        self.ids[places] = ids
        self.pointer.copy_((self.pointer + len(rows)) % len(self))
        self.filled.copy_((self.filled + len(rows)).clamp(max=len(self)))
