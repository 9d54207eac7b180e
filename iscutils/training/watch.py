"""Collapse watch: in how many directions do the descriptors differ?"""

from __future__ import annotations

import torch

ROWS = 4096  # latest descriptors of an epoch that are kept for `spread`


def spread(rows: torch.Tensor, share: float = 0.99) -> dict[str, float]:
    """How evenly unit rows (N, D) use their space.

    Returns:
        `directions`: number of principal directions that hold `share` of the variance, at most
        D and N - 1, few after a collapse; `mean_norm`: length of the mean descriptor, 0 for a
        balanced set and 1 when all are equal.
    """
    rows = rows.detach().double().cpu()
    mean = rows.mean(0)
    variances = torch.linalg.svdvals(rows - mean).square()  # falling
    total = variances.sum()
    held = (variances.cumsum(0) < share * total).sum() + 1 if total > 1e-12 else torch.tensor(0)
    return {"directions": float(held), "mean_norm": float(mean.norm())}


class Recent:
    """The latest descriptors of an epoch, about `ROWS`, where they were made."""

    def __init__(self) -> None:
        self.parts: list[torch.Tensor] = []

    def add(self, rows: torch.Tensor) -> None:
        """Keep a step's descriptors (M, D), drop the oldest that are too many."""
        self.parts.append(rows.detach().float())
        while len(self.parts) > 1 and sum(map(len, self.parts[1:])) >= ROWS:
            del self.parts[0]

    def take(self) -> torch.Tensor | None:
        """All that is kept, (N, D), and forget it; None when there is nothing."""
        rows = torch.cat(self.parts) if self.parts else None
        self.parts = []
        return rows
