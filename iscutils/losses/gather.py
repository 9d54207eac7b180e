"""Collectives with gradients: every process sees the rows of all processes."""

from __future__ import annotations

import torch
import torch.distributed as dist


def world_size() -> int:
    """Number of processes of the running group; 1 without a group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Number of this process in its group; 0 without a group."""
    return dist.get_rank() if world_size() > 1 else 0


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(context, rows: torch.Tensor) -> torch.Tensor:
        context.rows = len(rows)
        return _gather_plain(rows)  # (W*M, D)

    @staticmethod
    def backward(context, gradient: torch.Tensor) -> torch.Tensor:
        # Every process's loss depends on these rows: sum their gradients, keep the own slice.
        gradient = gradient.contiguous()
        dist.all_reduce(gradient)
        start = dist.get_rank() * context.rows
        return gradient[start : start + context.rows]


def gather(rows: torch.Tensor) -> torch.Tensor:
    """Rows of all W processes in rank order, (M, ...) -> (W*M, ...); identity when W is 1.

    With a loss that is the mean over a process's own rows and gradients averaged over processes,
    the result is the gradient of one process that holds all rows.

    Raises:
        RuntimeError: the processes hold different numbers of rows.
    """
    if world_size() == 1:
        return rows
    counts = [torch.zeros(1, dtype=torch.long, device=rows.device) for _ in range(world_size())]
    dist.all_gather(counts, torch.tensor([len(rows)], device=rows.device))
    if len({int(count) for count in counts}) > 1:
        raise RuntimeError(f"processes hold different numbers of rows: {[int(c) for c in counts]}")
    return _Gather.apply(rows) if rows.is_floating_point() else _gather_plain(rows)


def _gather_plain(rows: torch.Tensor) -> torch.Tensor:
    parts = [torch.empty_like(rows) for _ in range(world_size())]
    dist.all_gather(parts, rows.contiguous())
    return torch.cat(parts)


def mean_over(terms: torch.Tensor, usable: torch.Tensor) -> torch.Tensor:
    """Mean of the terms (M,) of those rows that `usable` (M,) marks; 0 where there are none.

    With several processes the sum is divided by the mean number of usable rows of a process: the
    average over processes is the mean over all usable rows, however they are spread.
    """
    count = usable.sum().to(terms.dtype)
    if world_size() > 1:
        dist.all_reduce(count)
        count = count / world_size()
    # One division for every count: clamping at 1 would be wrong for a mean number below 1.
    return (terms * usable).sum() / torch.where(count > 0, count, torch.ones_like(count))
